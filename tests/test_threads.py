"""Several Python threads, forks, and the number of threads an operation may use."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fanin
from compare import same_bits

DEADLINE = 60  # seconds after which a hang is called one


def data(rows=2000, width=64, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, width)).astype(np.float32), rng.integers(0, classes, rows)


def trained(seed: int) -> np.ndarray:
    """The parameters of a network trained for some steps."""
    x, y = data(seed=seed)
    net = fanin.MLP([64, 96, 5], dropout=0.3, seed=seed)
    net.fit(x, y, epochs=2, batch_size=256, progress=False)
    return net.parameters.copy()


def in_threads(count: int, work) -> list:
    """What work(i) returns in `count` threads at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count), timeout=DEADLINE))


def test_number(threads):
    """As asked for, also beyond the cores there are; results are tested in test_gemm.py."""
    assert fanin.build_info()["threads"] == threads


def test_fanin_info_about_threads():
    info = fanin.build_info()
    assert info["max_threads"] >= 1
    assert info["thread_limit"] in ("cores", "CPU affinity", "cgroup quota", "OMP_NUM_THREADS")
    assert info["parallel"] in ("pool", "openmp")


def in_child(code: str, **environment) -> str:
    """What a new interpreter prints."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "FANIN_ISA")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_omp_num_threads_bounds():
    code = "import fanin; i = fanin.build_info(); print(fanin.get_num_threads(), i['thread_limit'])"
    assert in_child(code, OMP_NUM_THREADS="1").split()[0] == "1"
    if fanin.build_info()["max_threads"] > 1:
        assert in_child(code, OMP_NUM_THREADS="1") == "1 OMP_NUM_THREADS"
    for nonsense in ("0", "-3", "many", ""):
        assert int(in_child(code, OMP_NUM_THREADS=nonsense).split()[0]) >= 1


def test_affinity_bounds():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import fanin; print(fanin.get_num_threads(), fanin.build_info()['thread_limit'])"
    )
    threads, reason = in_child(code).split(maxsplit=1)
    assert threads == "1"
    if (os.cpu_count() or 1) > 1:
        assert reason == "CPU affinity"


def test_fanin_isa():
    """FANIN_ISA chooses the set at import, and what the machine lacks is an error."""
    for isa in fanin.available_isas():
        assert in_child("import fanin; print(fanin.isa())", FANIN_ISA=isa) == isa
    done = subprocess.run(
        [sys.executable, "-c", "import fanin"], env=os.environ | {"FANIN_ISA": "avx1024"},
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "FANIN_ISA" in done.stderr
    assert "avx1024" in done.stderr


def test_the_forced_path_runs(isa):
    """(1 + e)^2 - (1 + e)^2: 0 where products are rounded, their rounding error where fused."""
    x = np.full((1, 2), 1 + 2.0**-12, np.float32)
    w = np.array([[1 + 2.0**-12], [-1 - 2.0**-12]], np.float32)
    assert fanin.matmul(x, w)[0, 0] == (0 if isa == "baseline" else -(2.0**-24))


def test_networks_in_parallel():
    """Different networks in different threads: what each learns is what it learns alone."""
    expected = [trained(seed) for seed in range(4)]
    for got, wanted in zip(in_threads(4, trained), expected, strict=True):
        same_bits(got, wanted)


def test_operations_in_parallel(rng):
    """Products of several threads at once share one pool."""
    x, w = rng.standard_normal((300, 400)), rng.standard_normal((400, 200))
    expected = fanin.matmul(x, w)
    for results in in_threads(6, lambda i: [fanin.matmul(x, w) for _ in range(20)]):
        for got in results:
            same_bits(got, expected)


def test_one_network_in_two_threads():
    """Steps of two threads on one network come one after the other: as many in all."""
    x, y = data()
    net = fanin.MLP([64, 96, 5], dropout=0.3)
    optimizer = fanin.Adam()
    barrier = threading.Barrier(4)

    def steps(i):
        barrier.wait(DEADLINE)
        for _ in range(25):
            assert np.isfinite(net.train_step(x[:256], y[:256], optimizer))

    in_threads(4, steps)
    assert net.step == optimizer.steps == 100
    alone, other = fanin.MLP([64, 96, 5], dropout=0.3), fanin.Adam()
    for _ in range(100):
        alone.train_step(x[:256], y[:256], other)
    same_bits(net.parameters, alone.parameters)


def test_prediction_during_training():
    """Predictions from another thread see the network between two steps, never a race."""
    x, y = data()
    net = fanin.MLP([64, 96, 5])
    done = threading.Event()
    seen = []

    def watch():
        while not done.is_set():
            seen.append(net.predict_proba(x[:50]))
        return True

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for _ in range(5):
            net.fit(x, y, epochs=1, batch_size=256, progress=False)
            time.sleep(0.01)  # let the other thread in, however unfair the lock is
        done.set()
        assert watching.result(DEADLINE)
    assert seen
    for p in seen:
        assert np.abs(p.sum(axis=1) - 1).max() < 1e-5


def test_backward_of_another_thread():
    """Forward here, backward there: refused, because whose pass it is cannot be known."""
    x, _ = data(10)
    net = fanin.MLP([64, 5])
    net.forward(x, training=True)
    (error,) = in_threads(1, lambda i: _error(net.backward, np.zeros((10, 5), np.float32)))
    assert isinstance(error, RuntimeError)
    assert "thread" in str(error)
    net.backward(np.zeros((10, 5), np.float32))


def _error(f, *arguments):
    try:
        f(*arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("what", ["train_step", "matmul", "fit"])
def test_other_threads_go_on(what, rng):
    """The GIL is released: meanwhile another thread counts, many times within one call."""
    x, y = data(4096, 512)
    net = fanin.MLP([512, 2048, 2048, 5])
    big = rng.standard_normal((1500, 1500))
    calls = {
        "train_step": lambda: net.train_step(x, y, fanin.SGD(0.01)),
        "matmul": lambda: fanin.matmul(big, big),
        "fit": lambda: net.fit(x, y, epochs=1, batch_size=4096, progress=False),
    }
    calls[what]()  # the first call makes its buffers
    stop, times = threading.Event(), []

    def count():
        while not stop.is_set():
            times.append(time.perf_counter())
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    start = time.perf_counter()
    calls[what]()
    end = time.perf_counter()
    stop.set()
    counter.join(DEADLINE)
    during = [t for t in times if start < t < end]
    # a thread that wakes every millisecond, on a machine that may be busy: 1 in 10 is enough, and
    # none would be there if the call held the lock
    assert len(during) > (end - start) * 1000 / 10, (len(during), end - start)


def forked(work, connection):
    try:
        connection.send(work())
    except BaseException as error:
        connection.send(repr(error))
    connection.close()


def in_fork(work):
    """What work() returns in a forked child; a child that hangs fails the test."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=forked, args=(work, there))
    child.start()
    there.close()
    try:
        assert here.poll(DEADLINE), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


# Python warns of forks with threads alive; these are the pool's, which is made anew in the child.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("before", ["idle", "asleep"])
def test_fork(before, rng):
    """After use, also right after it when threads still spin: the child computes the same."""
    x, w = rng.standard_normal((300, 700)), rng.standard_normal((700, 200))
    expected, parameters = fanin.matmul(x, w), trained(1)
    count = fanin.get_num_threads()
    fanin.set_num_threads(3)
    try:
        fanin.matmul(x, w)
        if before == "asleep":
            time.sleep(0.2)

        def work():
            return fanin.matmul(x, w), trained(1), fanin.get_num_threads()

        for _ in range(5):
            product, learned, threads = in_fork(work)
            same_bits(product, expected)
            same_bits(learned, parameters)
            assert threads == 3
        same_bits(fanin.matmul(x, w), expected)
    finally:
        fanin.set_num_threads(count)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_another_thread_computes(rng):
    """A fork in the middle of somebody else's product."""
    x = rng.standard_normal((400, 400))
    expected = fanin.matmul(x, x)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            fanin.matmul(x, x)

    other = threading.Thread(target=busy)
    other.start()
    try:
        for _ in range(10):
            same_bits(in_fork(lambda: fanin.matmul(x, x)), expected)
    finally:
        stop.set()
        other.join(DEADLINE)
