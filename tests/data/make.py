"""Makes tests/data/hashes.json: python tests/data/make.py

What "one seed, one result" promises is stored here as hashes of bits, the same for every build,
instruction set with fma, number of threads and machine. Run this only when a change of the numbers
is intended, and say so in the changelog.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import fanin
from recipes import RECIPES, result

TARGET = Path(__file__).with_name("hashes.json")


def main() -> None:
    """Write the hashes, after seeing that every set with fma gives the same ones."""
    found = {}
    for isa in fanin.available_isas():
        if isa == "baseline":
            continue
        fanin.set_isa(isa)
        for name in RECIPES:
            digest = result(name)
            if found.setdefault(name, digest) != digest:
                raise SystemExit(f"{name}: {isa} differs from the sets before it")
    if not found:
        raise SystemExit("this machine has no instruction set with fma")
    TARGET.write_text(json.dumps(found, indent=2) + "\n")
    print(TARGET.read_text())


if __name__ == "__main__":
    main()
