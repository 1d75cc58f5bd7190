"""`python -m fanin info`, `demo`, `bench` and `study`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import cuda
from .reference.arguments import ACTIVATIONS
from .runtime import build_info


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


def seed(text: str) -> int:
    """An argument that is a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer in [0, 2**32), got {text}")
    return value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fanin", description="Trains dense networks straight from NumPy arrays."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "info", help="version, compiler, instruction sets, threads and what limits them"
    )
    demo = commands.add_parser(
        "demo",
        help="train a classifier and compare it with the NumPy reference",
        description="Trains on scikit-learn's handwritten digits, or on a file of your own; then "
        "does the same training with the NumPy reference and compares losses and times.",
    )
    demo.add_argument(
        "--data",
        metavar="FILE.npz",
        help="arrays x_train, y_train, x_test, y_test and optionally x_val, y_val; "
        "uint8 images are taken as they are and scaled by 1/255",
    )
    demo.add_argument("--seed", type=seed, default=0, help="of weights, masks and split (0)")
    demo.add_argument(
        "--epochs", type=positive, help="instead of the recipe's (digits 30, data 10)"
    )
    demo.add_argument("--threads", type=positive, help="at most this many")
    repeat = demo.add_mutually_exclusive_group()
    repeat.add_argument(
        "--splits",
        type=positive,
        help="digits: only the accuracy on this many splits, and the mean",
    )
    repeat.add_argument(
        "--seeds", type=positive, help="--data: only the accuracy of this many seeds, and the mean"
    )
    demo.add_argument(
        "--no-reference", action="store_true", help="leave out the comparison with NumPy"
    )
    bench = commands.add_parser(
        "bench",
        help="time training steps against NumPy and the rivals installed",
        description="Checks that every contestant computes the same losses, then times training "
        "steps (forward, loss, backward, Adam; float32), each contestant in a process of its own, "
        "in alternating slices. Steps: tanh10, mnist, rl, tab, big. Contestants: fanin, numpy, "
        "jax, torch, torch-compiled, sklearn.",
    )
    bench.add_argument("steps", nargs="*", metavar="STEP", help="which to time (all)")
    bench.add_argument("--threads", type=int, help="for each contestant (all that are granted)")
    bench.add_argument(
        "--breakdown", action="store_true", help="where the time of fanin's own steps goes, instead"
    )
    bench.add_argument("--slices", type=int, default=9, help="turns of each contestant (9)")
    bench.add_argument("--seconds", type=float, default=0.3, help="length of a slice (0.3)")
    bench.add_argument(
        "--contestants", nargs="+", metavar="NAME", help="who is timed (all that are installed)"
    )
    bench.add_argument("--json", metavar="FILE", help="write every slice there; - is stdout")
    study = commands.add_parser(
        "study",
        help="show what initial weights, scaled inputs and regularisation do",
        description="Each study takes a few seconds, prints a table and writes a figure.",
    )
    studies = study.add_subparsers(dest="study", required=True, metavar="STUDY")
    init = studies.add_parser(
        "init", help="activations and gradients of a deep network under several initial weights"
    )
    init.add_argument("--activation", choices=ACTIVATIONS, help="of the layers (tanh, then relu)")
    init.add_argument("--depth", type=positive, default=10, help="layers (%(default)s)")
    init.add_argument("--width", type=positive, default=500, help="units of a layer (%(default)s)")
    init.add_argument("--rows", type=positive, default=1000, help="of the batch (%(default)s)")
    chain = studies.add_parser("chain", help="linear layers, whose output grows or dies as w^L")
    chain.add_argument("--depth", type=positive, default=50, help="layers (%(default)s)")
    chain.add_argument("--width", type=positive, default=100, help="units of a layer (%(default)s)")
    contours = studies.add_parser(
        "contours", help="the cost of scaled and unscaled inputs, and their learning rates"
    )
    boundaries = studies.add_parser(
        "boundaries", help="decision boundaries without regularisation, with L2, with dropout"
    )
    for one in (init, chain, contours, boundaries):
        one.add_argument("--seed", type=seed, default=0, help="of all that is drawn (0)")
        one.add_argument(
            "--out", metavar="DIR", default=".", help="folder of the figure, made if need be (.)"
        )
    return parser


def info() -> None:
    """Prints what this build is and what it uses on this machine."""
    import numpy as np

    build = build_info()
    forced = os.environ.get("FANIN_ISA")
    rows = (
        ("fanin", build["version"]),
        ("compiler", build["compiler"]),
        ("flags", build["flags"]),
        ("instruction sets", "built: " + " ".join(build["isas_built"])),
        ("", "found: " + " ".join(build["isas_available"])),
        ("", f"in use: {build['isa']}" + (f" (FANIN_ISA={forced})" if forced else "")),
        ("threads", f"{build['threads']} of at most {build['max_threads']}"),
        ("", f"limited by: {build['thread_limit']}"),
        ("parallel by", build["parallel"]),
        ("cuda", "built for: " + (" ".join(build["cuda_architectures"]) or "nothing")),
        ("", cuda.available()[1]),
        ("numpy", np.__version__),
        ("python", sys.version.split()[0]),
    )
    for name, value in rows:
        print(f"{name:18}{value}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is 2 for input that cannot be used."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "info":
        info()
        return 0
    if options.command == "demo":
        if options.splits and options.data:
            parser.error("--splits is for the digits; with --data use --seeds")
        if options.seeds and not options.data:
            parser.error("--seeds needs --data; for the digits use --splits")

    from . import demo

    try:
        if options.command == "demo":
            demo.run(options)
            return 0
        if options.command == "study":
            from .study import command

            command.run(options)
            return 0
        from .bench import report

        return report.run(options)
    except demo.Unusable as error:
        print(f"fanin {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fanin {options.command}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
