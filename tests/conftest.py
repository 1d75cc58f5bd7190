"""Fixtures that the tests share, and the header of a test run."""

from __future__ import annotations

import platform

import numpy as np
import pytest

import fanin
from cases import DTYPES, THREADS
from fanin import reference


def pytest_report_header() -> list[str]:
    """Versions, instruction sets and threads, so that a log says what was tested."""
    info = fanin.build_info()
    isas = ", ".join(fanin.available_isas())
    return [
        f"fanin {fanin.__version__} on Python {platform.python_version()}, NumPy {np.__version__}",
        f"fanin: instruction sets {isas}, in use {fanin.isa()}; "
        f"{fanin.get_num_threads()} threads, {info['parallel']}",
    ]


@pytest.fixture(params=fanin.available_isas())
def isa(request):
    """Every instruction set this machine has, one after the other, in use."""
    before = fanin.isa()
    fanin.set_isa(request.param)
    assert fanin.isa() == request.param
    yield request.param
    fanin.set_isa(before)


@pytest.fixture
def fma_isas():
    """The names of the sets with fma, among which bits are equal; set_isa is undone afterwards."""
    before = fanin.isa()
    yield [isa for isa in fanin.available_isas() if isa != "baseline"]
    fanin.set_isa(before)


@pytest.fixture(params=THREADS, ids="{}t".format)
def threads(request):
    """1, 2, 3 and 8 threads."""
    before = fanin.get_num_threads()
    fanin.set_num_threads(request.param)
    assert fanin.get_num_threads() == request.param
    yield request.param
    fanin.set_num_threads(before)


@pytest.fixture(params=DTYPES)
def dtype(request) -> str:
    """float32 and float64."""
    return request.param


@pytest.fixture(params=["fanin", "reference"])
def package(request):
    """The compiled functions, and their NumPy twins of the same names."""
    return fanin if request.param == "fanin" else reference


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """The functions of oracle.c."""
    from oracle import Oracle

    return Oracle(tmp_path_factory.mktemp("oracle"))
