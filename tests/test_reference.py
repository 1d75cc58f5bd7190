"""The reference says the same as the compiled package, and stands alone."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fanin
from compare import apart, unit
from fanin import reference

MACHINE = {"available_isas", "build_info", "get_num_threads", "isa", "set_isa", "set_num_threads"}


def test_public_names():
    """fanin has what the reference has, and what the machine needs besides."""
    assert set(fanin.__all__) == set(reference.__all__) | MACHINE | {"cuda", "reference"}
    for package in (fanin, reference):
        assert sorted(package.__all__, key=str.lower) == sorted(set(package.__all__), key=str.lower)
        for name in package.__all__:
            assert getattr(package, name) is not None


def public(name: str):
    return getattr(fanin, name), getattr(reference, name)


CALLABLE = sorted(n for n in reference.__all__ if callable(getattr(reference, n)))


def plain(function) -> list[tuple]:
    """Names, kinds and defaults of a function's arguments; annotations may differ in classes."""
    signature = inspect.signature(function)
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


@pytest.mark.parametrize("name", CALLABLE)
def test_signatures(name):
    ours, theirs = public(name)
    if name == "DenseCache":  # the compiled one also keeps the mask's bits
        assert plain(ours)[:-1] == plain(theirs)
        return
    assert plain(ours) == plain(theirs)
    if inspect.isclass(ours):
        methods = {m for m in dir(theirs) if not m.startswith("_")}
        assert methods <= {m for m in dir(ours) if not m.startswith("_")}
        for method in methods:
            if inspect.isfunction(getattr(theirs, method)):
                assert plain(getattr(ours, method)) == plain(getattr(theirs, method)), method


def test_init_factories():
    """fanin.init offers those of the reference, and nothing that is not for users."""
    theirs = {name for name, f in vars(reference.init).items()
              if inspect.isfunction(f) and f.__module__ == reference.init.__name__}  # fmt: skip
    ours = {name for name in vars(fanin.init) if not name.startswith("_")}
    assert ours == theirs - {"resolve", "draw"} - {n for n in theirs if n.startswith("_")}
    assert ours == set(fanin.init.__all__)


def curves(dtype: str, steps: int, **options):
    """Losses of the same training by both, and both networks."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 30)), rng.integers(0, 5, 400)
    y = np.where(x[:, 0] > 0, y, (x[:, 1] > 0).astype(int))
    losses, nets = [], []
    for package in (fanin, reference):
        net = package.MLP([30, 40, 20, 5], dtype=dtype, seed=3, **options)
        optimizer = package.Adam(1e-3)
        losses.append(
            [net.train_step(x[i * 40 % 400 :][:40], y[i * 40 % 400 :][:40], optimizer)
             for i in range(steps)]
        )  # fmt: skip
        nets.append(net)
    return np.array(losses), nets


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3, "activation": "tanh"},
        {"dropout": 0.3, "l2": 1e-3, "activation": "gelu"},
        {"batch_norm": True, "activation": "elu", "dropout": [0.1, 0.2], "l1": 1e-4},
        {"batch_norm": "after", "activation": "elu", "input_dropout": 0.1, "max_norm": 1.2},
    ],
    ids=["relu", "tanh", "gelu", "batch norm", "batch norm after"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_loss_curve(dtype, options):
    """Same weights, same masks, other roundings. A step's gradient differs by some hundred u (see
    test_gradients.test_float32), Adam moves by lr whatever the gradient's size, so that near a
    zero gradient two steps can differ by 2 lr in a few weights; in 60 steps the loss curves stay
    within 10^4 u of each other, which another mask, row or formula misses by far.
    """
    (ours, theirs), _ = curves(dtype, 60, **options)
    assert np.abs(ours - theirs).max() <= 1e4 * unit(dtype) * np.abs(theirs).max()
    assert theirs[-1] < theirs[0]


def test_another_mask_is_far_away():
    """The bound above would notice: with the masks of another step the loss is elsewhere."""
    x, y = np.random.default_rng(0).standard_normal((40, 30)), np.arange(40) % 5
    losses = []
    for step in (0, 1):
        net = fanin.MLP([30, 40, 20, 5], dropout=0.3, seed=3)
        net.step = step
        losses.append(net.loss_and_gradients(x, y)[0])
    assert abs(losses[0] - losses[1]) > 1e4 * unit("float32") * losses[0]


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_same_training_by_fit(output):
    """fit, with shuffling, scaled bytes, validation and statistics: the same history."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 12)).astype(np.uint8)
    y = {"softmax": rng.integers(0, 3, 200), "sigmoid": rng.integers(0, 2, (200, 3)),
         "identity": rng.standard_normal((200, 3))}[output]  # fmt: skip
    histories, nets = [], []
    for package in (fanin, reference):
        net = package.MLP([12, 20, 3], output=output, activation="tanh", dropout=0.2,
                          dtype="float64")  # fmt: skip
        histories.append(
            net.fit(x, y, validation=(x[:40], y[:40]), epochs=4, batch_size=32,
                    input_scale=1 / 255, progress=False)
        )  # fmt: skip
        nets.append(net)
    ours, theirs = histories
    rounding = 1e4 * unit("float64")
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        a, b = np.array(getattr(ours, name)), np.array(getattr(theirs, name))
        assert a.shape == b.shape
        assert (np.abs(a - b) <= rounding * np.maximum(np.abs(b), 1)).all(), name
    assert ours.best_epoch == theirs.best_epoch
    assert apart(nets[0].parameters, nets[1].parameters) < 1e5 * unit("float64")
    for a, b in zip(ours.stats[-1], theirs.stats[-1], strict=True):
        assert a.rows == b.rows
        assert abs(a.mean - b.mean) < rounding * 10
        assert abs(a.std - b.std) < rounding * 10
        assert a.histogram.sum() == b.histogram.sum()


def test_alone(tmp_path):
    """The folder, copied under another name, with no fanin to import: it trains."""
    source = Path(reference.__file__).parent
    shutil.copytree(source, tmp_path / "lecture", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        import sys
        sys.modules["fanin"] = None
        import numpy as np
        import lecture

        x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
        net = lecture.MLP([2, 16, 2], activation="tanh", seed=1)
        net.fit(x, np.array([0, 1, 1, 0]), epochs=300, optimizer=lecture.Adam(0.05), progress=False)
        print(net.predict(x).tolist())
        net.save("net")
        print(lecture.load("net").evaluate(x, np.array([0, 1, 1, 0]))["accuracy"])
        print(sorted(m for m in sys.modules if "fanin" in m))
        print(sorted({m.split(".")[0] for m in sys.modules} & {"scipy", "sklearn", "tqdm"}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0, 1, 1, 0]", "1.0", "['fanin']", "[]"]
