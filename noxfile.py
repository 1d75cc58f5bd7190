"""One command per job: `nox -s tests`, `nox -s bench -- -k gemm`; `nox -l` lists them."""

from __future__ import annotations

import shutil
import subprocess

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"

# An environment that sets these halves NumPy's speed; nothing here may inherit them.
CLEAN = {"OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}


def define(option: str, value: str) -> str:
    """pip's argument for one CMake option."""
    return f"-Ccmake.define.{option}={value}"


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tests."""
    session.install(".[test]")
    session.run("pytest", *session.posargs, env=CLEAN)


@nox.session
def slow(session: nox.Session) -> None:
    """The exhaustive tests: every ulp, every size."""
    session.install(".[test]")
    session.run("pytest", "-m", "slow", *session.posargs, env=CLEAN)


@nox.session
def lowest(session: nox.Session) -> None:
    """The fast tests with the oldest dependencies that pyproject.toml allows."""
    wanted = nox.project.load_toml("pyproject.toml")["project"]
    ranges = wanted["dependencies"] + wanted["optional-dependencies"]["test"]
    session.install(".", *(one.replace(">=", "==") for one in ranges))
    session.run("pytest", *session.posargs, env=CLEAN)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, clang-format, mypy, and the stub against the compiled module."""
    session.install(".[lint,demo,plot]")
    session.run("bash", ".ci/lint", external=True)


@nox.session
def openmp(session: nox.Session) -> None:
    """The fast tests with OpenMP instead of the pool."""
    session.install(".[test]", define("FANIN_OPENMP", "ON"))
    session.run("pytest", *session.posargs, env=CLEAN)


@nox.session
def debug(session: nox.Session) -> None:
    """The fast tests with assertions and the address and undefined-behaviour sanitizers."""
    session.install(
        ".[test]",
        "-Ccmake.build-type=Debug",
        "-Cinstall.strip=false",
        define("FANIN_SANITIZE", "address,undefined"),
    )
    # The interpreter itself is not built with the sanitizer, so its library must be loaded first;
    # an interpreter is not free of leaks at exit, so leaks are not reported.
    compiler = shutil.which("g++") or "c++"
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    env = {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    session.run("pytest", *session.posargs, env=CLEAN | env)


@nox.session
def bench(session: nox.Session) -> None:
    """Every operation and the five training steps against NumPy and the rivals installed."""
    session.install(".[bench]")
    session.run("pytest", "bench/", *session.posargs, env=CLEAN)


@nox.session
def neon(session: nox.Session) -> None:
    """The NEON kernels, cross-compiled and run under qemu; says so where that cannot be."""
    session.run("bash", ".ci/neon", external=True)
