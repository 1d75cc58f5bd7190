"""Checkpoints: a run that was killed goes on to the same bits; those of other runs are refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fanin
from compare import same_bits


class Died(Exception):
    """What ends a run from outside, within this process."""


class DieAt:
    """A callback that ends the run after a step of the network."""

    def __new__(cls, package, step):
        class Dying(package.Callback):
            def on_step_end(self, net, history):
                if net.step == step:
                    raise Died

        Dying.__qualname__ = "Dying"
        return Dying()


def data(rows=120):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, rows)
    return (rng.standard_normal((rows, 6)) + y[:, None]).astype(np.float32), y


def run(package, path, die_at=None, epochs=6, every_steps=4, **changes):
    """All that has a state, switched on: the network and its history."""
    x, y = data()
    schedule = package.schedule
    settings = {
        "validation": (x[:40] + 0.1, y[:40]),
        "epochs": epochs,
        "batch_size": 16,
        "optimizer": package.Adam(schedule.WarmUp(schedule.ReduceOnPlateau(0.02, patience=0), 5)),
        "early_stopping": package.EarlyStopping("hits", mode="max", patience=4),
        "metrics": {"hits": lambda y, prediction: np.mean(y == prediction)},
        "callbacks": [
            package.AveragedWeights(0.9, every=2),
            DieAt(package, die_at),
        ],
        "checkpoint": path and package.Checkpoint(path, every_steps=every_steps),
        "progress": False,
    } | changes
    net = package.MLP([6, 16, 3], dropout=0.2, batch_norm=True, l2=1e-3, seed=3)
    return net, net.fit(x, y, **settings)


def content(history) -> dict:
    """All of a history but the times."""
    found = {name: value for name, value in vars(history).items()
             if name not in ("seconds", "stats", "monitor", "step_loss")}  # fmt: skip
    for i, epoch in enumerate(history.stats):
        for j, stats in enumerate(epoch):
            for name in type(stats).__slots__:
                found[f"stats {i} {j} {name}"] = np.asarray(getattr(stats, name)).tolist()
    for name in fanin.reference.history.COLUMNS:
        found[name] = history.monitor[name].tolist()
    return found | {"steps": history.monitor.steps.tolist()}


def same_history(one, other):
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name in a:
        assert json.dumps(a[name]) == json.dumps(b[name]), name


def same_network(one, other):
    for name in ("parameters", "running_mean", "running_var"):
        same_bits(getattr(one, name), getattr(other, name))
    assert (one.step, one.epoch) == (other.step, other.epoch)


# ---- going on --------------------------------------------------------------------------------

STEPS = 6 * 8  # 120 rows in batches of 16, the last one of 8


@pytest.mark.parametrize("step", [1, 4, 7, 8, 9, 16, 23, 30, 47, 48])
def test_cut_anywhere(step, package, tmp_path):
    """Ended after a step, wherever in an epoch: the file and the same call give the whole run."""
    whole, history = run(package, None)
    path = tmp_path / "run.ckpt"
    with pytest.raises(Died):
        run(package, path, die_at=step)
    assert path.exists() == (step > 4)  # written after a step's callbacks
    net, again = run(package, path)
    same_network(net, whole)
    same_history(again, history)
    assert os.listdir(tmp_path) == ["run.ckpt"]


@pytest.mark.parametrize("epoch", [0, 2, 5])
def test_cut_between_steps_and_the_epochs_end(epoch, package, tmp_path):
    """The statistics of the last step were once lost there."""
    values = {"calls": 0, "dies": True}

    def hits(y, prediction):
        values["calls"] += 1
        if values["dies"] and values["calls"] == epoch + 1:
            raise Died
        return np.mean(y == prediction)

    whole, history = run(package, None)
    path = tmp_path / "run.ckpt"
    with pytest.raises(Died):
        run(package, path, every_steps=1, metrics={"hits": hits})
    values["dies"] = False
    net, again = run(package, path, every_steps=1, metrics={"hits": hits})
    same_network(net, whole)
    same_history(again, history)


def augmented(package, path, die_at=None, std=0.1):
    """A regression with everything standardised and noise on the rows: the network."""
    x, _ = data()
    net = package.MLP(
        [6, 16, 1], output="identity", dropout=0.2, seed=3,
        standardizer=package.Standardizer(), target_standardizer=package.Standardizer(),
    )  # fmt: skip
    net.fit(
        x, 3 * x[:, 0] + 5, epochs=3, batch_size=16,
        augment=package.augment.Noise(std, shape=(2, 3)),
        callbacks=DieAt(package, die_at), progress=False,
        checkpoint=path and package.Checkpoint(path, every_steps=4),
    )  # fmt: skip
    return net


@pytest.mark.parametrize("step", [5, 8, 13, 20])
def test_cut_with_standardizers_and_augmentation(step, package, tmp_path):
    whole = augmented(package, None)
    path = tmp_path / "run.ckpt"
    with pytest.raises(Died):
        augmented(package, path, die_at=step)
    with pytest.raises(ValueError, match="augment"):
        augmented(package, path, std=0.2)
    net = augmented(package, path)
    same_network(net, whole)
    x = data()[0]
    same_bits(net.predict(x), whole.predict(x))


def test_a_checkpoint_changes_nothing(package, tmp_path):
    whole, history = run(package, None)
    for every in (1, None):
        net, with_file = run(package, tmp_path / f"{every}.ckpt", every_steps=every)
        same_network(net, whole)
        same_history(with_file, history)


def test_a_finished_run_is_loaded(package, tmp_path):
    """Nothing is trained, and the file stays as it is."""
    path = tmp_path / "run.ckpt"
    whole, history = run(package, path)
    before = path.read_bytes()
    net, again = run(package, path)
    same_network(net, whole)
    same_history(again, history)
    assert again.seconds == history.seconds
    assert path.read_bytes() == before


def test_more_epochs(package, tmp_path):
    """A run that came to its last epoch is prolonged; the best weights were not yet put back."""
    path = tmp_path / "run.ckpt"
    options = {"early_stopping": None, "monitor": False}
    whole, history = run(package, None, epochs=5, **options)
    run(package, path, epochs=2, **options)
    net, longer = run(package, path, epochs=5, **options)
    same_network(net, whole)
    assert longer.loss == history.loss


def test_in_the_same_process(package, tmp_path):
    """After Ctrl-C the same call with the same objects goes on from the file."""
    x, y = data()
    path = tmp_path / "run.ckpt"

    def interrupt(net, history):
        if history.epochs == 2 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    def fit(net, callbacks=()):
        return net.fit(x, y, epochs=4, checkpoint=path, callbacks=callbacks, progress=False)

    interrupted: list[bool] = []
    net = package.MLP([6, 8, 3])
    with pytest.warns(UserWarning, match="interrupted"):
        fit(net, [interrupt])
    history = fit(net, [interrupt])
    twin = package.MLP([6, 8, 3])
    same_history(history, twin.fit(x, y, epochs=4, progress=False))
    same_bits(net.parameters, twin.parameters)


def test_stopped_in_the_middle(package, tmp_path):
    """By NaN or a callback, in the middle of an epoch: that is the end of the run."""

    class Stop(package.Callback):
        def on_step_end(self, net, history):
            return net.step == 11

    path = tmp_path / "run.ckpt"
    net, history = run(package, path, callbacks=[Stop()])
    assert net.step == 11
    assert history.epochs == 1
    again, loaded = run(package, path, callbacks=[Stop()])
    same_network(again, net)
    same_history(loaded, history)


def test_own_optimizer(package, tmp_path):
    """One with state_dict and load_state_dict is kept; one without is refused."""

    class Momentum:
        def __init__(self):
            self.velocity = None

        def update(self, parameters, gradients):
            last = 0 if self.velocity is None else self.velocity
            self.velocity = np.float32(0.9) * last + gradients
            parameters -= np.float32(0.01) * self.velocity

    class Kept(Momentum):
        def state_dict(self):
            return {"velocity": self.velocity}

        def load_state_dict(self, state):
            self.velocity = state["velocity"]

    path = tmp_path / "run.ckpt"
    whole, _ = run(package, None, optimizer=Kept())
    with pytest.raises(Died):
        run(package, path, die_at=20, optimizer=Kept())
    net, _ = run(package, path, optimizer=Kept())
    same_network(net, whole)
    with pytest.raises(TypeError, match=r"^checkpoint: expected an optimizer .*state_dict"):
        run(package, tmp_path / "other.ckpt", optimizer=Momentum())


def test_state_of_a_callback(package, tmp_path):
    """What state_dict returns comes back; what cannot be written is an error that names it."""

    class Count(package.Callback):
        def __init__(self):
            self.seen = np.zeros(3)
            self.steps = 0

        def on_step_end(self, net, history):
            self.steps += 1
            self.seen += net.step

        def state_dict(self):
            return {"seen": self.seen, "steps": self.steps}

        def load_state_dict(self, state):
            self.seen, self.steps = state["seen"], state["steps"]

    path, count = tmp_path / "run.ckpt", Count()
    with pytest.raises(Died):
        run(package, path, callbacks=[Count(), DieAt(package, 20)], early_stopping=None)
    run(package, path, callbacks=[count, DieAt(package, None)], early_stopping=None)
    assert count.steps == STEPS
    assert (count.seen == STEPS * (STEPS + 1) / 2).all()

    class Broken(package.Callback):
        def state_dict(self):
            return {"network": object()}

    with pytest.raises(TypeError, match=r"^state_dict: expected numbers"):
        run(package, tmp_path / "other.ckpt", callbacks=[Broken()])


# ---- refusing --------------------------------------------------------------------------------

X, Y = data()
OTHER = {
    "batch_size": ({"batch_size": 8}, "expected the batch_size of the run"),
    "optimizer": ({"optimizer": "SGD"}, "expected the optimizer"),
    "validation": ({"validation": None, "early_stopping": None, "metrics": {},
                    "optimizer": "Adam"}, "expected the validation x"),
    "validation data": ({"validation": (X[:40], Y[:40])}, "expected the validation x"),
    "early_stopping": ({"early_stopping": 3}, "expected the early_stopping"),
    "shuffle": ({"shuffle": False}, "expected the shuffle"),
    "callbacks": ({"callbacks": []}, "expected the callbacks"),
    "metrics": ({"metrics": {}, "early_stopping": 3}, "of the run in this file"),
    "loss": ({"label_smoothing": 0.1}, "expected the label_smoothing"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_other_settings(what, package, tmp_path):
    """A sentence that names what differs; network, optimizer and file stay as they were."""
    changes, message = OTHER[what]
    path = tmp_path / "run.ckpt"
    run(package, path, epochs=1)
    before = path.read_bytes()
    if "optimizer" in changes:
        changes = changes | {"optimizer": getattr(package, changes["optimizer"])(0.1)}
    with pytest.raises(ValueError, match=rf"^checkpoint: .*run\.ckpt: .*{message}"):
        run(package, path, **changes)
    assert path.read_bytes() == before


def test_other_networks_and_data(package, tmp_path):
    path = tmp_path / "run.ckpt"

    def fit(net, x=X, y=Y, **settings):
        return net.fit(x, y, epochs=1, checkpoint=path, progress=False, **settings)

    fit(package.MLP([6, 8, 3]))
    other = package.MLP([6, 8, 3])
    other.parameters = other.parameters * 2
    trained = package.MLP([6, 8, 3])
    trained.fit(X, Y, epochs=1, progress=False)
    changed = X.copy()
    changed[3, 2] += 1
    for net, settings, message in (
        (package.MLP([6, 9, 3]), {}, "expected the sizes"),
        (package.MLP([6, 8, 3], seed=1), {}, "expected the seed"),
        (package.MLP([6, 8, 3], dropout=0.1), {}, "expected the dropout"),
        (other, {}, "expected the network this run began with"),
        (trained, {}, "expected the network this run began with, at step 0, .* at step 1"),
        (package.MLP([6, 8, 3]), {"x": X[:100], "y": Y[:100]}, "expected the x"),
        (package.MLP([6, 8, 3]), {"x": changed}, "expected the x"),
        (package.MLP([6, 8, 3]), {"y": (Y + 1) % 3}, "expected the y"),
        (package.MLP([6, 8, 3]), {"optimizer": package.Adam(1e-3, eps_hat=True)},
         "expected the optimizer"),
    ):  # fmt: skip
        before, content = net.parameters.copy(), path.read_bytes()
        with pytest.raises(ValueError, match=rf"^checkpoint: .*{message}"):
            fit(net, **settings)
        same_bits(net.parameters, before)
        assert path.read_bytes() == content


@pytest.mark.parametrize("what", ["a network", "nothing", "text", "cut short", "an array"])
def test_no_checkpoint(what, package, tmp_path):
    """A file of something else is not overwritten."""
    path = tmp_path / "run.ckpt"
    if what == "a network":
        package.MLP([6, 3]).save(path)
    elif what == "cut short":
        run(package, path, epochs=1)
        path.write_bytes(path.read_bytes()[:-1000])
    elif what == "an array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(b"" if what == "nothing" else b"hello")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^checkpoint: .*run\.ckpt: expected a checkpoint of fit"):
        run(package, path)
    assert path.read_bytes() == before


def test_load_says_what_it_is(package, tmp_path):
    path = tmp_path / "run.ckpt"
    run(package, path, epochs=1)
    with pytest.raises(
        ValueError, match=r"expected a network saved by MLP\.save: it is a checkpoint"
    ):
        package.load(path)


def test_settings(package, tmp_path):
    for settings, told in (({"path": 3}, "path"), ({"path": "a", "every_epochs": 0}, "every_ep"),
                           ({"path": "a", "every_steps": 0}, "every_steps")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=rf"^{told}"):
            package.Checkpoint(**settings)
    with pytest.raises(TypeError, match=r"^checkpoint: expected str"):
        package.MLP([6, 3]).fit(X, Y, checkpoint=3, progress=False)
    net = package.MLP([6, 3])
    with pytest.raises(FileNotFoundError, match=r"checkpoint: no such folder: .*nowhere'$"):
        net.fit(X, Y, checkpoint=tmp_path / "nowhere" / "a", progress=False)
    assert net.step == 0  # found out before the first epoch


# ---- kill -9 ---------------------------------------------------------------------------------

PROGRAM = """
import json, os, signal, sys, time
import numpy as np
import fanin
import test_checkpoint as this

path, result, slow, moment = sys.argv[1:5]

class Slow(fanin.Callback):
    def on_step_end(self, net, history):
        time.sleep(float(slow))

if moment != "never":  # kill -9 within the third write, before or after what is named
    name, when = moment.split()
    saving = fanin.reference.saving
    whole, calls = getattr(saving.os, name), []

    class Os:
        def __getattr__(self, other):
            return getattr(os, other)

    def deadly(*arguments):
        calls.append(1)
        if when == "before" and len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(*arguments)
        if when == "after" and len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    saving.os = Os()
    setattr(saving.os, name, deadly)

net, history = this.run(fanin, path, epochs=12, every_steps=1, callbacks=[
    fanin.AveragedWeights(0.9, every=3), Slow()])
with open(result, "w") as file:
    json.dump([this.hash_of(net), this.content(history)], file)
"""


def hash_of(net) -> str:
    vectors = (net.parameters, net.running_mean, net.running_var)
    return hashlib.sha256(b"".join(v.tobytes() for v in vectors)).hexdigest()


def start(folder: Path, result: str, slow: float, moment: str = "never") -> subprocess.Popen:
    arguments = [str(folder / "run.ckpt"), str(folder / result), str(slow), moment]
    where = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env=os.environ | {"PYTHONPATH": where}
    )


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def finish(folder: Path, result: str, slow: float = 0.0) -> object:
    assert start(folder, result, slow).wait(timeout=120) == 0
    return json.loads((folder / result).read_text())


def killed_and_resumed(folder: Path, kills: int, slow: float) -> int:
    """Kill the same run again and again, at random moments; return how often it was killed."""
    moments = random.Random(kills)
    (folder / "whole").mkdir()
    whole = finish(folder / "whole", "whole.json")
    done = 0
    for i in range(kills):
        before = stamp(folder / "run.ckpt")
        process = start(folder, f"{i}.json", slow)
        while stamp(folder / "run.ckpt") == before and process.poll() is None:
            time.sleep(0.002)  # until it trains
        time.sleep(moments.uniform(0, 8 * slow + 0.02))
        process.send_signal(signal.SIGKILL)
        if process.wait(timeout=120) == 0:  # it was faster
            assert json.loads((folder / f"{i}.json").read_text()) == whole
            (folder / "run.ckpt").unlink()
        else:
            done += 1
    assert finish(folder, "last.json") == whole
    return done


def test_killed(tmp_path):
    """SIGKILL at 4 random moments of one run: the same weights and the same history."""
    assert killed_and_resumed(tmp_path, 4, slow=0.01) >= 3


@pytest.mark.slow
def test_killed_often(tmp_path):
    """The same with 20."""
    assert killed_and_resumed(tmp_path, 20, slow=0.01) >= 15


@pytest.mark.parametrize("moment", ["fsync before", "replace before", "replace after"])
def test_killed_while_writing(moment, tmp_path):
    """The file is the old one or the new one, whole; what was half-written is removed."""
    (tmp_path / "whole").mkdir()
    whole = finish(tmp_path / "whole", "whole.json")
    assert start(tmp_path, "never.json", 0.0, moment).wait(timeout=120) == -signal.SIGKILL
    left = list(tmp_path.glob("run.ckpt.*.tmp"))
    assert len(left) == (0 if moment == "replace after" else 1)
    assert finish(tmp_path, "last.json") == whole
    assert not list(tmp_path.glob("run.ckpt.*.tmp"))
