"""MNIST from the start of a process to the test accuracy; `fit` against scikit-learn's; its memory.

    python bench/time_to_accuracy.py mnist.npz [accuracy] [fit] [memory] [--json FILE]

The file has x_train, y_train, x_test, y_test: images as rows of bytes, labels. accuracy: one recipe
for all, below, written down before the test set was looked at; every run is a fresh process,
and its time goes from starting Python to the printed accuracy, imports, loading and compiling
included. fit: `fit` alone, without dropout, which scikit-learn has not. memory: the peak of `fit`
on bytes above Python with NumPy and the data. An asterisk: above the limit.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

Array = Any

# The recipe: Adam, softmax cross-entropy, relu, pixels / 255, every row once an epoch in a new
# order, the learning rate falling linearly from LEARNING_RATE to zero over all steps.
SIZES = (784, 512, 256, 10)
EPOCHS, BATCH, DROPOUT, LEARNING_RATE = 5, 128, 0.2, 1e-3
TARGET = 0.979


def load(path: str) -> tuple[Array, Array, Array, Array]:
    """x_train, y_train, x_test, y_test."""
    with np.load(path) as data:
        x, y = data["x_train"], data["y_train"].astype(np.int64)
        return x, y, data["x_test"], data["y_test"].astype(np.int64)


# One run each: from the data's path to the accuracy on the test rows -----------------------------


def fanin(path: str, seed: int, precision: Any = None) -> float:
    import fanin

    x, y, x_test, y_test = load(path)
    steps = EPOCHS * -(-len(x) // BATCH)
    net = fanin.MLP(list(SIZES), activation="relu", dropout=DROPOUT, precision=precision, seed=seed)
    optimizer = fanin.Adam(lambda step: LEARNING_RATE * (1 - step / steps))
    net.fit(x, y, epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer, input_scale=1 / 255)
    return float(net.evaluate(x_test, y_test)["accuracy"])


def fanin_bfloat16(path: str, seed: int) -> float:
    return fanin(path, seed, "bfloat16")


def torch(path: str, seed: int) -> float:
    """Eager; all rows are floats beforehand, a batch is picked by a slice of a permutation."""
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    x, y, x_test, y_test = (torch.from_numpy(array) for array in load(path))
    x, x_test = x.float().mul_(1 / 255), x_test.float().mul_(1 / 255)
    layers: list[Any] = []
    for k, n in itertools.pairwise(SIZES):
        layers += [nn.Linear(k, n), nn.ReLU(), nn.Dropout(DROPOUT)]
    net = nn.Sequential(*layers[:-2])
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, fused=True)
    steps = EPOCHS * -(-len(x) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
            optimizer.zero_grad()
            loss_of(net(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    net.eval()
    with torch.inference_mode():
        return float((net(x_test).argmax(1) == y_test).float().mean())


def jax(path: str, seed: int) -> float:
    """An epoch is one jitted scan with donated state over data on the device.

    The rows that fill no batch are left out, others each epoch: a second shape would have to be
    compiled.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    x, y, x_test, y_test = load(path)
    count = len(x) // BATCH
    steps = EPOCHS * count
    rng = np.random.default_rng(seed)
    params = [
        (
            (rng.standard_normal((k, n)) * np.sqrt(2 / k)).astype(np.float32),
            np.zeros(n, np.float32),
        )
        for k, n in itertools.pairwise(SIZES)
    ]

    def outputs(params: Any, x: Any, key: Any) -> Any:
        h = x.astype(jnp.float32) * (1 / 255)
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b)
            if key is not None:
                key, now = jax.random.split(key)
                h = jnp.where(jax.random.bernoulli(now, 1 - DROPOUT, h.shape), h, 0) / (1 - DROPOUT)
        w, b = params[-1]
        return h @ w + b

    def loss_of(params: Any, x: Any, y: Any, key: Any) -> Any:
        z = outputs(params, x, key)
        return jnp.mean(jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0])

    def epoch(state: Any, order: Any, x: Any, y: Any) -> Any:
        def step(state: Any, rows: Any) -> tuple[Any, None]:
            params, m, v, t, key = state
            key, now = jax.random.split(key)
            g = jax.grad(loss_of)(params, x[rows], y[rows], now)
            rate = LEARNING_RATE * (1 - t / steps)
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            rate, root = rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
            params = jax.tree.map(
                lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, m, v
            )
            return (params, m, v, t, key), None

        return jax.lax.scan(step, state, order)[0]

    epoch = jax.jit(epoch, donate_argnums=0)
    x, y = jax.device_put((x, y.astype(np.int32)))
    zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
    state = (jax.device_put(params), *zeros, jnp.zeros(()), jax.random.key(seed))
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))[: count * BATCH].reshape(count, BATCH)
        state = epoch(state, order.astype(np.int32), x, y)
    z = jax.jit(lambda params, x: outputs(params, x, None))(state[0], x_test)
    return float((np.asarray(z).argmax(1) == y_test).mean())


def sklearn(path: str, seed: int) -> float:
    """`partial_fit` is one epoch; the learning rate is the mean of those of the epoch's steps."""
    from sklearn.neural_network import MLPClassifier

    x, y, x_test, y_test = load(path)
    model = sklearn_model(MLPClassifier, seed)
    x = x.astype(np.float32) * np.float32(1 / 255)
    for epoch in range(EPOCHS):
        rate = LEARNING_RATE * (1 - (epoch + 0.5) / EPOCHS)
        if epoch:
            model._optimizer.learning_rate_init = rate
        else:
            model.learning_rate_init = rate
        model.partial_fit(x, y, classes=np.arange(SIZES[-1]))
    return float((model.predict(x_test.astype(np.float32) / 255) == y_test).mean())


def sklearn_model(kind: Any, seed: int) -> Any:
    return kind(
        SIZES[1:-1], alpha=0.0, batch_size=BATCH, learning_rate_init=LEARNING_RATE, tol=0.0,
        max_iter=EPOCHS, n_iter_no_change=EPOCHS + 1, random_state=seed,
    )  # fmt: skip


RUNS: dict[str, Callable[[str, int], float]] = {
    "fanin": fanin,
    "torch": torch,
    "jax": jax,
    "sklearn": sklearn,
    "fanin-bfloat16": fanin_bfloat16,
}
NEEDS = {"fanin-bfloat16": "fanin"}


class Fit:
    """`fit` of one contestant in its process, without dropout."""

    def __init__(self, who: str, path: str):
        self.who, self.data = who, load(path)

    def fit(self, dtype: str, seed: int) -> dict[str, float]:
        """The seconds of one `fit`, and the accuracy on the test rows."""
        x, y, x_test, y_test = self.data
        x, x_test = (rows.astype(dtype) / np.dtype(dtype).type(255) for rows in (x, x_test))
        if self.who == "fanin":
            import fanin

            net = fanin.MLP(list(SIZES), dtype=dtype, seed=seed)
            options = {"epochs": EPOCHS, "batch_size": BATCH, "progress": False}
            begin = time.perf_counter()
            net.fit(x, y, optimizer=fanin.Adam(LEARNING_RATE), **options)
            seconds = time.perf_counter() - begin
            return {"seconds": seconds, "accuracy": float(net.evaluate(x_test, y_test)["accuracy"])}
        from sklearn.neural_network import MLPClassifier

        model = sklearn_model(MLPClassifier, seed)
        warnings.simplefilter("ignore")  # that the few epochs did not converge
        begin = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "accuracy": float(model.score(x_test, y_test))}


def memory_of_fit(path: str) -> dict[str, float]:
    """Bytes of this process: with data loaded, with fanin imported, and at most during `fit`."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    x, y, *_ = load(path)
    loaded = resident()
    import fanin

    imported = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    net = fanin.MLP(list(SIZES), activation="relu", dropout=DROPOUT, seed=0)
    net.fit(x, y, epochs=2, batch_size=BATCH, input_scale=1 / 255)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    return {"loaded": loaded, "imported": imported, "peak": peak}


# Reports -----------------------------------------------------------------------------------------


def fresh(*arguments: str) -> tuple[Any, float]:
    """What a fresh process answers, and the seconds from starting it to its answer."""
    from fanin.bench import race

    clean = {name: value for name, value in os.environ.items() if name not in race.CRIPPLING}
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, env=clean, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        seconds = time.perf_counter() - begin
    if not line:
        raise race.Failed(f"{' '.join(arguments[1:2])} ended with exit code {process.returncode}")
    return json.loads(line), seconds


def undisturbed(threads: int, run: Callable[[], Any]) -> Any:
    """What a run gives, the third at the latest, that nothing disturbed as far as can be seen."""
    from fanin.bench import race

    for _ in range(3):
        time.sleep(race.PAUSE)
        quiet = race.undisturbed(threads)
        found = run()
        time.sleep(race.PAUSE)
        if quiet and race.undisturbed(threads):
            break
    return found


def accuracy(figures: Any, given: Any) -> None:
    """Every contestant with every seed, one after the other."""
    import script
    from fanin.bench import installed

    names = [
        name
        for name in RUNS
        if installed(NEEDS.get(name, name)) and name in (given.contestants or RUNS)
    ]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for seed in range(given.seeds):
        for name in names:
            script.progress(f"accuracy: seed {seed + 1}/{given.seeds}, {name}")
            got, seconds = undisturbed(
                given.threads, partial(fresh, "worker", name, given.data, str(seed))
            )
            found[name].append((got["accuracy"], seconds))
    times = {name: median(seconds for _, seconds in runs) for name, runs in found.items()}
    figures.say(
        f"\nprocess start to test accuracy, {EPOCHS} epochs, {given.seeds} seeds, "
        f"{given.threads} threads\n"
        "contestant       median s   fastest..slowest   mean accuracy   lowest..highest"
    )
    for name, runs in found.items():
        right, spent = zip(*runs, strict=True)
        low = "" if mean(right) >= TARGET else f" below {TARGET:.1%} *"
        figures.add(
            f"{name:15}{times[name]:10.2f}   {min(spent):6.2f}..{max(spent):<6.2f}"
            f"{mean(right):17.2%}   {min(right):.2%}..{max(right):.2%}{low}",
            kind="accuracy", contestant=name, accuracies=right, seconds=spent,
        )  # fmt: skip
    rivals = [times[name] for name in names if not name.startswith("fanin")]
    if rivals and "fanin" in times:
        figures.say(
            f"fanin / best rival {script.against(times['fanin'] / min(rivals), 0.5)}; "
            f"fanin's seconds {script.against(times['fanin'], 2.5)}"
        )


def fit(figures: Any, given: Any) -> None:
    """`fit` in turns."""
    import script
    from fanin.bench import installed, race

    names = [name for name in ("fanin", "sklearn") if installed(name)]
    for dtype, limit in (("float32", 0.30), ("float64", 0.35)):
        found: dict[str, list[float]] = {name: [] for name in names}
        with contextlib.ExitStack() as stack:
            workers = [
                stack.enter_context(
                    race.Process(name, [__file__, "fit-worker", name, given.data], given.threads)
                )
                for name in names
            ]
            for turn in range(given.slices):
                for one in workers:
                    script.progress(f"fit: {dtype}, turn {turn + 1}, {one.contestant}")
                    got = undisturbed(
                        given.threads, partial(one.ask, "fit", dtype=dtype, seed=turn)
                    )
                    if got["accuracy"] < 0.96:
                        raise race.Failed(f"{one.contestant}: accuracy {got['accuracy']}")
                    found[one.contestant].append(got["seconds"])
        times = {name: median(spent) for name, spent in found.items()}
        line = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
        if len(times) == 2:
            line += f"; ratio {script.against(times['fanin'] / times['sklearn'], limit)}"
        figures.add(
            f"\nfit of {EPOCHS} epochs, {dtype}: {line}",
            kind="fit of a library",
            dtype=dtype,
            **found,
        )


def memory(figures: Any, given: Any) -> None:
    """One fresh process."""
    import script

    script.progress("memory")
    got, _ = fresh("memory-worker", given.data)
    above = (got["peak"] - got["loaded"]) / 1e6
    own = (got["imported"] - got["loaded"]) / 1e6
    vectors = 4 * 4 * sum((k + 1) * n for k, n in itertools.pairwise(SIZES)) / 1e6
    figures.add(
        f"\npeak of fit on bytes above Python, NumPy and the data: {above:.0f} MB of at most 60"
        f"{' *' if above > 60 else ''} (importing fanin {own:.0f} MB; float32 parameters, "
        f"gradients and moments {vectors:.0f} MB)",
        kind="memory", **{f"{name}_bytes": value for name, value in got.items()},
    )  # fmt: skip


PARTS = {"accuracy": accuracy, "fit": fit, "memory": memory}


def main() -> None:
    """The parts asked for, or all; a worker answers one run."""
    if sys.argv[1:2] == ["worker"]:
        name, path, seed = sys.argv[2:]
        print(json.dumps({"accuracy": RUNS[name](path, int(seed))}), flush=True)
        os._exit(0)  # the clock has stopped; some libraries take their time to leave
    if sys.argv[1:2] == ["memory-worker"]:
        print(json.dumps(memory_of_fit(sys.argv[2])))
        return
    if sys.argv[1:2] == ["fit-worker"]:
        from fanin.bench import worker

        worker.serve(Fit(*sys.argv[2:]))
        return
    import script

    parser = script.options(__doc__ or "", slices=3, seconds=0)
    parser.add_argument("data", metavar="mnist.npz")
    parser.add_argument("--seeds", type=int, default=5, help="for accuracy (5)")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", choices=list(RUNS))
    script.run(parser, PARTS)


if __name__ == "__main__":
    main()
