"""Benchmarks: check the answer, then time it, then relate the time to what the machine can do.

pytest bench/                         everything, against NumPy and the rivals installed
pytest bench/ -k gemm                 one noun
pytest bench/ --benchmark-disable     the answers only
pytest bench/ --benchmark-autosave    keep the figures; pytest-benchmark compare shows two runs
"""

from __future__ import annotations

import os
import sys

# Before NumPy loads: an environment that sets either of these halves NumPy's speed.
CRIPPLING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
REMOVED = {name: os.environ.pop(name) for name in CRIPPLING if name in os.environ}
TOO_LATE = bool(REMOVED) and "numpy" in sys.modules

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import fanin
import rivals
from fanin.bench import CONTESTANTS, peaks, report, versions, versions_line

MAX_THREADS = fanin.build_info()["max_threads"]
THREADS = tuple(sorted({1, MAX_THREADS}))
ROWS = pytest.StashKey[list]()
NOTES = pytest.StashKey[list]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Starts pytest afresh when NumPy was loaded, by a plugin, with the variables still set."""
    if TOO_LATE:
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()
        os.environ["FANIN_BENCH_RESTARTED"] = " ".join(REMOVED)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if not config.getoption("benchmark_columns", None):  # its default table is 200 columns wide
        config.option.benchmark_columns = ["median", "iqr", "rounds"]
    # a wrong answer is failure enough
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")
    config.stash[ROWS] = []
    config.stash[NOTES] = []


def pytest_report_header(config):
    removed = list(REMOVED) or os.environ.get("FANIN_BENCH_RESTARTED", "").split()
    said = f"unset {', '.join(removed)} before NumPy loaded" if removed else "nothing to unset"
    info = fanin.build_info()
    blas = [
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
        f" {pool['num_threads']} threads"
        for pool in threadpool_info()
    ]
    return [
        f"bench: {said}",
        f"bench: {versions_line()}",
        f"bench: fanin uses {info['isa']} of {', '.join(info['isas_available'])}, "
        f"{info['parallel']}, at most {info['max_threads']} threads ({info['thread_limit']})",
        f"bench: threadpoolctl: {'; '.join(blas) or 'nothing found'}",
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    """What the JSON should say beside the commit: instruction set, threads, rivals."""
    machine_info["fanin"] = fanin.build_info()
    machine_info["rivals"] = versions()


def pytest_collection_modifyitems(items):
    """Short runs: the median of at least nine rounds, in about half a second with warming up."""
    for item in items:
        if item.get_closest_marker("benchmark") is None:
            item.add_marker(pytest.mark.benchmark(min_rounds=9, max_time=0.2, warmup=True))


@contextlib.contextmanager
def limited(threads: int):
    """Both NumPy's BLAS and fanin on this many threads; PyTorch too where it is loaded."""
    before = fanin.get_num_threads()
    fanin.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        fanin.set_num_threads(before)


class Contest:
    """Checks and times one contestant at one operation, and keeps a row for the table."""

    def __init__(self, benchmark, config):
        self.benchmark = benchmark
        self.rows = config.stash[ROWS]

    def time(
        self,
        name: str,
        what: str,
        dtype: str,
        threads: int,
        run: Callable[[], object] | None,
        check: Callable[[object], None],
        *,
        flops: int = 0,
        moved: int = 0,
        isa: str | None = None,
    ) -> None:
        """`flops` or `moved` (bytes read and written at least) say which peak it is measured by."""
        if run is None:
            pytest.skip(f"{name} has no {what} in {dtype}")
        if name == "jax" and threads != MAX_THREADS:
            pytest.skip("jax takes its threads from the machine, not from the call")
        with limited(threads):
            check(run())
            self.benchmark.group = f"{what} {dtype} {threads}T"
            self.benchmark(run)
        if self.benchmark.disabled:
            return
        seconds = self.benchmark.stats.stats.median
        rate = (flops or moved) / seconds / 1e9
        peak = peaks.fma(dtype, threads, isa) if flops else peaks.memory(threads)
        self.benchmark.extra_info.update(
            rate=rate, unit="GFLOP/s" if flops else "GB/s", share_of_peak=rate / peak
        )
        self.rows.append((self.benchmark.group, name, seconds, rate, bool(flops), rate / peak))


@pytest.fixture
def contest(benchmark, request):
    return Contest(benchmark, request.config)


@pytest.fixture
def note(request) -> Callable[[str], None]:
    """Adds a line to print after the tables."""
    return request.config.stash[NOTES].append


@pytest.fixture(params=THREADS, ids=lambda threads: f"{threads}T")
def threads(request) -> int:
    return request.param


@pytest.fixture(params=("float32", "float64"))
def dtype(request) -> str:
    return request.param


@pytest.fixture(params=rivals.OPS)
def contestant(request) -> str:
    pytest.importorskip(CONTESTANTS[request.param][0])
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def agrees():
    """agrees(*expected, bound=...): a check that results are within `bound` of float64 truth.

    The bound is relative to the largest entry of each expected array, which is how a sum's rounding
    scales; None among the expected is not looked at.
    """

    def make(*expected, bound: float):
        def check(got):
            results = got if isinstance(got, tuple) else (got,)
            for i, (want, have) in enumerate(zip(expected, results, strict=True)):
                if want is None:
                    continue
                want, have = np.asarray(want, np.float64), np.asarray(have, np.float64)
                assert have.shape == want.shape
                worst = np.abs(have - want).max(initial=0)
                scale = np.abs(want).max(initial=0)
                assert worst <= bound * scale, f"result {i}: off by {worst:g}, largest {scale:g}"

        return check

    return make


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    notes = config.stash.get(NOTES, [])
    write = terminalreporter.write_line
    if rows:
        terminalreporter.section("time and share of the machine's peak")
        for threads in THREADS:
            fma = ", ".join(f"{t} {peaks.fma(t, threads):.0f}" for t in ("float32", "float64"))
            memory = peaks.memory(threads)
            write(f"{threads} threads: FMA peak {fma} GFLOP/s; memory {memory:.0f} GB/s")
        write("(GB/s counts what must be read and written; over 100 % of memory means in cache)")
    for group in dict.fromkeys(row[0] for row in rows):
        members = [row for row in rows if row[0] == group]
        ours = {row[1]: row[2] for row in members}.get("fanin")
        write(f"{group}")
        for _, name, seconds, rate, is_flops, share in members:
            unit = "GFLOP/s" if is_flops else "GB/s"
            ratio = f"{seconds / ours:8.2f} x fanin" if ours else ""
            write(
                f"    {name:14}{seconds * 1e6:12.2f} us {rate:9.1f} {unit:8}{share:7.1%}"
                f" of {'FMA' if is_flops else 'memory'}{ratio}"
            )
    if notes:
        terminalreporter.section("training steps, medians of alternating slices")
        write(report.HEADER)
        for line in notes:
            write(line)
