"""`python -m fanin bench`: its arguments, a race of two, what a worker sees, and Ctrl-C."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fanin
from fanin.__main__ import main
from fanin.bench import CONTESTANTS, Unavailable, race, report
from fanin.bench.steps import STEPS, network

CRIPPLED = {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_L2_SIZE": "64"}
TINY = ["--slices", "1", "--seconds", "0.02"]
MOST = fanin.build_info()["max_threads"]


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command where the environment slows NumPy down."""
    return subprocess.run(
        [sys.executable, "-m", "fanin", "bench", *arguments], cwd=cwd, env=os.environ | CRIPPLED,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


REFUSED = {
    "rll": "unknown step 'rll'; known: tanh10, mnist, rl, tab, big",
    "rl --contestants caffe": "unknown contestant 'caffe'; known: fanin, numpy, jax, torch, torch-",
    "rl --contestants numpy jax": "contestant 'jax' is not installed: pip install jax",
    "rl --contestants sklearn": "contestant 'sklearn' is not installed: pip install scikit-learn",
    "rl --threads 0": f"--threads: expected 1 to {MOST} (limited by: ",
    "rl --threads 1025": f"--threads: expected 1 to {MOST} (limited by: ",
    "rl --slices 0": "--slices: expected at least 1, got 0",
    "rl --seconds 0": "--seconds: expected a time above 0, got 0",
    "rl --seconds nan": "--seconds: expected a time above 0, got nan",
    "rl --json nowhere/at/all.json": "--json: nowhere/at/all.json cannot be written",
    "rl --json .": "--json: . cannot be written",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refuses(arguments, monkeypatch, capsys):
    """One line that says what is wrong, exit code 2, before anything is started."""
    monkeypatch.setattr(report, "installed", lambda name: name not in ("jax", "sklearn"))
    monkeypatch.setattr(race, "Worker", None)
    assert main(["bench", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"fanin bench: {REFUSED[arguments]}")
    assert said.err.count("\n") == 1


def test_race(tmp_path):
    """fanin and NumPy at the smallest step: the table, the progress, and all of it in a file."""
    done = bench("rl", *TINY, "--contestants", "fanin", "numpy", "--json", "all.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("step 1/1 rl: ")
    assert report.HEADER in done.stdout
    assert "unset for the contestants" in done.stdout
    assert "measured peaks: float32 FMA" in done.stdout

    found = json.loads((tmp_path / "all.json").read_text())
    assert found["threads"] == found["fanin"]["threads"] == MOST
    assert found["fanin"]["version"] == found["versions"]["fanin"] == fanin.__version__
    assert found["unset"] == list(CRIPPLED)
    assert found["peaks"]["memory_gbs"] > 0
    assert "Nehalem" not in {one.get("architecture") for one in found["blas"]}
    (step,) = found["steps"]
    assert (step["step"], step["sizes"], step["batch"]) == ("rl", [16, 64, 64, 4], 32)
    assert step["flops"] == network("rl").step_flops == 2 * 32 * (2 * 1024 + 3 * (4096 + 256))
    assert list(step["contestants"]) == ["fanin", "numpy"]
    for name, one in step["contestants"].items():
        assert one["slices"] == [one["seconds"]]
        assert one["gflops"] == pytest.approx(step["flops"] / one["seconds"] / 1e9)
        share = one["gflops"] / found["peaks"]["fma_float32_gflops"]
        assert one["share_of_fma_peak"] == pytest.approx(share)
        row = next(line for line in done.stdout.splitlines() if f" {name} " in line and "%" in line)
        assert row.split()[:3] == ["rl", str(MOST), name]
    assert step["contestants"]["fanin"]["times_fanin"] == 1


def test_json_on_stdout(tmp_path):
    """With - only JSON goes to stdout; the table is on stderr with the progress."""
    done = bench("rl", *TINY, "--threads", "1", "--contestants", "numpy", "--json", "-",
                 cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)["steps"]
    assert step["contestants"]["numpy"]["times_fanin"] is None
    assert report.HEADER in done.stderr
    assert "step 1/1 rl: " in done.stderr
    assert os.listdir(tmp_path) == []


def test_environment_of_a_worker(monkeypatch):
    """What slows NumPy down is not there when it starts, and one thread means one core."""
    for name, value in CRIPPLED.items():
        monkeypatch.setenv(name, value)
    before = os.sched_getaffinity(0)
    with race.Worker("numpy", "rl", 1) as worker:
        losses = worker.ask("losses", count=2)["losses"]
        pid = worker.process.pid
        seen = Path(f"/proc/{pid}/environ").read_text().split("\0")
        names = {entry.split("=")[0] for entry in seen}
        assert len(os.sched_getaffinity(pid)) == 1
    assert "PATH" in names
    assert not names & set(CRIPPLED)
    assert os.sched_getaffinity(0) == before
    assert len(losses) == 2
    assert not Path(f"/proc/{pid}").exists()


def test_a_wrong_answer_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(race, "true_losses", lambda step: (1.0, 1.0, 1.0, 1.0))
    with pytest.raises(race.Failed, match=r"numpy: loss of step 0 of rl is .* the same work"):
        race.race("rl", ["numpy"], 1, 1, 0.02)
    assert main(["bench", "rl", "--contestants", "numpy", *TINY]) == 1
    assert "does not do the same work" in capsys.readouterr().err


def test_a_worker_that_ends():
    """What it said last is in the message."""
    with race.Worker("nobody", "rl", 1) as worker, pytest.raises(race.Failed, match="nobody_step"):
        worker.ask("losses", count=1)


def test_left_out(monkeypatch):
    """Who does not work on this machine has a note instead of times; the others race."""
    ask = race.Worker.ask

    def broken(self, do, **order):
        if self.contestant == "numpy" and "dtype" not in order:
            raise Unavailable("no compiler")
        return ask(self, do, **order)

    monkeypatch.setattr(race.Worker, "ask", broken)
    results = race.race("rl", ["fanin", "numpy"], 1, 1, 0.02)
    assert [len(result.slices) for result in results] == [1, 0]
    assert results[1].note == "left out: no compiler"
    assert report.table(results, 100)[1].split() == [
        "rl", "1", "numpy", "-", "left", "out:", "no", "compiler",
    ]  # fmt: skip
    assert report.record(results, 100)["contestants"]["numpy"]["slices"] == []


def test_a_disturbed_slice_is_done_again(monkeypatch):
    """Where two threads reach half of what they did, until patience ends."""
    rates = iter([100, 100, 100, 50, 100, 100] + [50] * 1000)
    monkeypatch.setattr(race._core, "fma_peak", lambda *a: next(rates))
    monkeypatch.setattr(race, "best_rate", {})
    monkeypatch.setattr(race, "PAUSE", 0.01)
    monkeypatch.setattr(race, "PATIENCE", 0.1)

    class Counted:
        contestant, threads, asked = "counted", 2, 0

        def ask(self, do, seconds):
            self.asked += 1
            return {"seconds": 1.0}

    one, found = Counted(), []
    race.take_turns([(one, found)], 2, 0.1)
    assert (one.asked, len(found)) == (3, 2)
    race.take_turns([(one, found)], 1, 0.1)
    assert len(found) == 3
    race.take_turns([(one, found)], 1, 0.1, again=False)
    assert len(found) == 4


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch):
    """A bar with tqdm; without it a line per step."""
    pytest.importorskip("tqdm")
    for there in (True, False):
        terminal, out = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stderr", terminal)
        if not there:
            monkeypatch.setitem(sys.modules, "tqdm", None)
        progress = report.Progress(2, 3)
        progress.turn("rl", "numpy")
        progress.finished("rl")
        progress.write(["the table"], out)
        progress.turn("mnist", "numpy")
        progress.close()
        assert "the table" in out.getvalue()
        assert ("3/6" in terminal.getvalue()) == there
        assert ("step 1/2 rl: " in terminal.getvalue()) == (not there)


def children(pid: int) -> list[int]:
    """The processes a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_ctrl_c(tmp_path):
    """Amid a slice: 130, one line, and no worker is left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    command = [sys.executable, "-m", "fanin", "bench", "rl", "--seconds", "60", "--contestants"]
    try:
        running = subprocess.Popen(
            [*command, "fanin", "numpy"], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        for line in running.stdout:
            if line.rstrip() == report.HEADER:
                break
        end = time.monotonic() + 60
        while len(workers := children(running.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(workers) >= 2
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        error = running.communicate(timeout=30)[1]
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert error == "fanin bench: stopped\n"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_steps():
    """Five, each by its name, with batches that fit."""
    assert [on.name for on in STEPS] == ["tanh10", "mnist", "rl", "tab", "big"]
    for on in STEPS:
        assert network(on.name) is on
    x, y = network("tab").data("float64", 3)
    assert x.shape == (1024, 54)
    assert y.min() >= 0 and y.max() < 7
    with pytest.raises(ValueError, match=r"name: unknown step 'x'; known: tanh10, "):
        network("x")


def test_import_fanin_leaves_it_out():
    program = (
        "import sys, fanin; print([name for name in sys.modules if name.startswith('fanin.b')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert "fanin.bench" not in done.stdout
    assert "fanin.batch_norm" in done.stdout


def test_a_network_by_its_spec():
    """What is not one of the five travels as a line of text."""
    on = replace(network("tab"), batch=7)
    assert network(on.spec) == on
    (result,) = race.race(on.spec, ["fanin"], 1, 1, 0.02)
    assert result.flops == on.step_flops
    assert len(result.slices) == 1


def test_a_variable_for_one_contestant():
    program = "import os; from fanin.bench import worker; worker.serve(os.environ)"
    with race.Process("env", ["-c", program], 1, {"FANIN_ISA": "avx2"}) as process:
        assert process.ask("get", key="FANIN_ISA") == "avx2"


# ---- the scripts in bench/ -------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    """Imports one of them by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return importlib.import_module


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("who", ["fanin", "numpy"])
def test_operations_are_right(script, who, dtype):
    """Both contestants pass the checks that come before their times; a wrong answer does not."""
    operations = script("operations")
    for layout in ("plain", "dw", "dx"):
        operations.product(who, 5, 40, 9, layout, dtype)[1]()
    operations.layer(who, dtype)[1]()
    operations.layer_product(who, dtype)[1]()
    operations.forward(who, dtype)[1]()
    assert operations.Operations(who, 1).prepare("forward", dtype=dtype) == {}


def test_a_wrong_product_is_noticed(script, monkeypatch):
    operations = script("operations")
    monkeypatch.setattr(fanin, "matmul", lambda x, w, out: np.multiply(x @ w, 1 + 1e-3, out=out))
    case = {"m": 5, "k": 40, "n": 9, "layout": "plain", "dtype": "float32"}
    assert "wrong answer" in operations.Operations("fanin", 1).prepare("product", **case)["wrong"]


def test_floors_are_right(script):
    """All products of a step are made and checked; `fit` takes as many epochs as are asked for."""
    floors = script("floors")
    pairs, product = [], floors.operations.product
    floors.operations.product = lambda who, m, k, n, *rest: (
        pairs.append((m, k, n)) or product(who, m, k, n, *rest)
    )
    floors.products("fanin", network("rl"), "float64")[1]()
    floors.operations.product = product
    assert 2 * sum(m * k * n for m, k, n in pairs) == network("rl").step_flops
    for on in floors.TABLES:
        for who in ("fanin", "scikit-learn"):
            assert floors.Fit(who, on, "float64", 1).fit(2).t_ == 2 * floors.BATCHES * on.batch


def test_steps_inside_fit(script):
    """So many as were asked for, and the first has the loss of any other contestant's."""
    made = script("overheads").Fit(network("rl"), 0.0, 1)
    assert made.losses(1) == pytest.approx(race.true_losses("rl")[:1], rel=1e-6)
    done = made.made.optimizer.steps
    made.run(131)  # two epochs of 64, and 3
    assert made.made.optimizer.steps == done + 131


def test_time_to_accuracy(script, tmp_path):
    """A fresh process answers with its accuracy; all contestants share the recipe."""
    timed = script("time_to_accuracy")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 600).astype("u1")
    x = rng.integers(0, 60, (600, 784)).astype("u1")
    x[np.arange(600), y] = 255
    path = str(tmp_path / "data.npz")
    np.savez(path, x_train=x, y_train=y, x_test=x[:200], y_test=y[:200])
    got, seconds = timed.fresh("worker", "fanin", path, "0")
    assert 0 <= got["accuracy"] <= 1
    assert seconds > 0
    bytes_of = timed.memory_of_fit(path)
    assert 0 < bytes_of["loaded"] <= bytes_of["peak"]


def test_growth_is_drawn(script, tmp_path):
    pytest.importorskip("matplotlib")
    growth = script("growth")
    points = [
        {"sweep": sweep, "value": value, "floor": 1e-6 * value,
         "seconds": {"fanin": 2e-6 * value, "numpy": 5e-6 * value}}
        for sweep, values in growth.SWEEPS.items() for value in values
    ]  # fmt: skip
    growth.draw(points, str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_limits(script):
    against = script("script").against
    assert against(0.5, 0.6) == "  0.50 of at most 0.60"
    assert against(0.7, 0.6).endswith("*")


def test_every_contestant_has_a_step():
    folder = Path(report.__file__).parent
    for name in CONTESTANTS:
        assert (folder / f"{name.replace('-', '_')}_step.py").is_file()


def test_breakdown():
    """The parts are times, and add up to the step."""
    row = report.breakdown("rl", 1, 0.1)
    parts = [row[name] for name in (*report.WORK, "rest")]
    assert all(part >= 0 for part in parts)
    assert abs(sum(parts) - row["all"]) <= 1e-9 * row["all"]
    assert 0.5 * row["all"] < sum(
        row[name] for name in ("forward", "backward", "weights", "update")
    )
    first, second = report.breakdown_lines(row)
    assert first.startswith("rl") and second.count("%") == len(parts) + 1
