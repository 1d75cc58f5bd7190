"""What a newcomer runs: the README's code, the examples, `python -m fanin`."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fanin

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(*command: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """The output of a Python command; stderr, too, where it is to fail."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=clean | environment, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    if code == 0:
        assert "Traceback" not in done.stderr
    return done.stdout + (done.stderr if code else "")


def blocks(path: Path) -> list[tuple[str, str, int]]:
    """(language, text, line) of each fenced block."""
    text = path.read_text()
    return [(m[1], m[2], text[: m.start()].count("\n") + 1) for m in BLOCK.finditer(text)]


PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
         if any(language == "python" for language, _, _ in blocks(path))]  # fmt: skip


# The page on CUDA needs what its code computes on and with; the others need fanin's own extras.
ON_CUDA, WHY = fanin.cuda.available()
if ON_CUDA and fanin.build_info()["cuda_architectures"] == ["emulated"]:
    ON_CUDA, WHY = False, "the device is emulated"
for library in ("cupy", "jax", "torch"):
    if ON_CUDA and importlib.util.find_spec(library) is None:
        ON_CUDA, WHY = False, f"{library} is not installed"
MARKS = {"cuda.md": [pytest.mark.skipif(not ON_CUDA, reason=WHY)]}


def same_but_for_times(printed: str, promised: str) -> bool:
    """Equal where the page has no time or speed: `12.3 s`, `0.7 ms`, `3.1 times`."""
    measured = re.compile(r"\d+(\.\d+)? ?(s|ms|us|x|times|GFLOP/s)\b")
    return measured.sub("#", printed).split() == measured.sub("#", promised).split()


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.name, marks=MARKS.get(p.name, [])) for p in PAGES]
)
def test_code_of_the_manual(path, tmp_path, capfd, monkeypatch):
    """The python blocks of a page run in order, as one program.

    What one prints is in the block right behind it, or line by line in its own comments.
    """
    monkeypatch.chdir(tmp_path)
    found = blocks(path)
    names: dict[str, object] = {"__name__": "manual"}
    for (language, text, line), following in itertools.pairwise([*found, ("", "", 0)]):
        if language != "python":
            continue
        capfd.readouterr()
        exec(compile(text, f"{path.name}:{line}", "exec"), names)
        printed = capfd.readouterr().out
        end = line + text.count("\n") + 1
        if following[0] in ("", "text") and 0 < following[2] - end <= 2:
            assert same_but_for_times(printed, following[1]), printed
        else:
            for row in printed.splitlines():
                assert f"# {row}" in text, f"line {line} prints {row!r}, which is not on the page"
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def test_readme():
    """Two sentences, the two commands, a program and its result before line 30; 80 lines."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    assert 'pip install ".[demo]" && python -m fanin demo' in text
    assert 'pip install ".[test]" && pytest' in text
    programs = [line for language, _, line in blocks(ROOT / "README.md") if language == "python"]
    assert programs
    assert programs[0] < 30


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples(path, tmp_path):
    text = run(str(path), cwd=tmp_path)
    parts = {"swap_in.py": ("x @ w", "W @ A", "output", "gradients", "loss", "ms/step")}
    for part in parts.get(path.name, ("\n",)):
        assert part in text, part


def test_info(tmp_path):
    """Version, compiler, sets built, found and in use, threads, OpenMP or pool, the limit."""
    text = run("-m", "fanin", "info", cwd=tmp_path)
    info = fanin.build_info()
    for part in (info["version"], info["compiler"], info["parallel"], info["thread_limit"],
                 *info["isas_built"], np.__version__):  # fmt: skip
        assert part in text, part
    forced = run("-m", "fanin", "info", cwd=tmp_path, FANIN_ISA=fanin.available_isas()[0])
    assert f"in use: {fanin.available_isas()[0]}" in forced


def test_demo(tmp_path):
    """The whole of it, shortened: accuracy, time, the reference's curve, the layers' statistics."""
    text = run("-m", "fanin", "demo", "--epochs", "2", cwd=tmp_path)
    assert re.search(r"train accuracy +\d+\.\d+%", text)
    assert re.search(r"held-out accuracy +\d+\.\d+%", text)
    assert re.search(r"\d+\.\d times fanin's", text)
    curves = float(re.search(r"difference of the loss curves: (\S+)", text)[1])
    # two epochs of float32 steps: test_reference.test_same_loss_curve, times ten
    assert curves < 1e5 * 6e-8
    assert re.search(r"layer +shape +activation +mean +std", text)
    assert os.listdir(tmp_path) == []


def test_demo_reaches_its_accuracy(tmp_path):
    """At least 97.5 % on held-out digits, as the mean of 10 stratified splits."""
    text = run("-m", "fanin", "demo", "--splits", "10", cwd=tmp_path)
    assert text.count("held-out accuracy") == 10
    mean = float(re.search(r"mean of 10: (\d+\.\d+)%", text)[1])
    assert mean >= 97.5, text


def images(path: Path, **changes) -> Path:
    """A file like MNIST's, small: bright squares in one of four corners."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, rows in (("train", 400), ("test", 80), ("val", 40)):
        y = rng.integers(0, 4, rows)
        x = rng.integers(0, 60, (rows, 8, 8)).astype(np.uint8)
        for i, corner in enumerate(y):
            x[i, 4 * (corner // 2) :][:4, 4 * (corner % 2) :][:, :4] += 120
        arrays |= {f"x_{part}": x, f"y_{part}": y.astype(np.uint8)}
    arrays |= changes
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
    return path


def test_demo_on_a_file(tmp_path):
    path = images(tmp_path / "images.npz")
    text = run("-m", "fanin", "demo", "--data", str(path), "--epochs", "3", cwd=tmp_path)
    assert re.search(r"validation +\d+\.\d+%", text)
    assert float(re.search(r"held-out accuracy +(\d+\.\d+)%", text)[1]) > 90
    without = images(tmp_path / "few.npz", x_val=None, y_val=None)
    text = run("-m", "fanin", "demo", "--data", str(without), "--epochs", "1", "--no-reference",
               cwd=tmp_path)  # fmt: skip
    assert "validation" not in text


BAD_FILES = {
    "no such file": (None, "found none"),
    "not a file of arrays": (b"hello", "expected an .npz archive"),
    "no test data": ({"x_test": None}, "x_test missing"),
    "labels too few": ({"y_train": np.zeros(3, int)}, "expected 400 labels"),
    "labels of floats": ({"y_test": np.zeros(80)}, "expected integer labels"),
    "negative labels": ({"y_test": np.full(80, -1)}, "expected labels in"),
    "another width": ({"x_test": np.zeros((80, 8, 9), np.uint8)}, "expected 64 columns"),
    "NaN": ({"x_train": np.full((400, 8, 8), np.nan), "x_test": np.zeros((80, 8, 8)),
             "x_val": np.zeros((40, 8, 8))}, "NaN"),
    "pickles": ({"x_train": np.array([{}] * 400)}, "pickle"),
    "nothing": ({"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)}, "x_train"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_FILES)
def test_demo_refuses(what, tmp_path):
    """One line that says what is wrong with the file, exit code 2, no traceback."""
    content, message = BAD_FILES[what]
    path = tmp_path / "data.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        images(path, **content)
    text = run("-m", "fanin", "demo", "--data", str(path), "--epochs", "1", cwd=tmp_path, code=2)
    error = text.strip().splitlines()[-1]
    assert error.startswith("fanin demo: ")
    assert message in error
    assert "Traceback" not in text


def test_demo_without_scikit_learn(tmp_path):
    """The digits come with it: one line that says what to install."""
    hidden = "import sys; sys.modules['sklearn'] = None\nfrom fanin.__main__ import main\n"
    text = run("-c", hidden + "sys.exit(main(['demo']))", cwd=tmp_path, code=2)
    assert "pip install" in text
    assert "Traceback" not in text


def test_import_from_the_source_folder(tmp_path):
    """The folder without the compiled module: the error says to install."""
    text = run("-c", "import fanin", cwd=tmp_path, code=1, PYTHONPATH=str(ROOT / "python"))
    assert "ImportError: fanin's compiled module is missing: install the package" in text


COMMANDS = ["", "dmo", "demo --epochs 0", "demo --seed x", "demo --splits 2 --data f.npz"]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_command_line(arguments, tmp_path):
    text = run("-m", "fanin", *arguments.split(), cwd=tmp_path, code=2)
    assert "usage: " in text
