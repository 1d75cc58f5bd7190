"""The one file to run on an installed wheel: no compiler, no other test file, a second.

python -m pytest tests/test_minimal.py
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fanin

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
Y = np.array([0, 1, 1, 0])


def test_learns_xor():
    net = fanin.MLP([2, 16, 2], activation="tanh", seed=1)
    history = net.fit(X, Y, epochs=300, optimizer=fanin.Adam(0.05), progress=False)
    assert history.epochs == 300
    assert history.loss[-1] < 0.05 < history.loss[0]
    assert net.predict(X).tolist() == Y.tolist()
    assert net.evaluate(X, Y)["accuracy"] == 1


def test_every_instruction_set():
    before = fanin.isa()
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for isa in fanin.available_isas():
        fanin.set_isa(isa)
        assert fanin.isa() == isa
        assert (fanin.matmul(x, x.T) == x @ x.T).all()  # whole numbers, so any order is exact
    fanin.set_isa(before)
    assert before in fanin.available_isas()


def test_one_seed_one_result():
    nets = [fanin.MLP([2, 16, 2], dropout=0.5, seed=3) for _ in range(2)]
    for net in nets:
        net.fit(X, Y, epochs=5, progress=False)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_save_and_load(tmp_path):
    net = fanin.MLP([2, 4, 2])
    net.save(tmp_path / "net.npz")
    assert (fanin.load(tmp_path / "net.npz").parameters == net.parameters).all()


def test_refuses():
    with pytest.raises(ValueError, match=r"^w: expected shape \(2, n\)"):
        fanin.matmul(X, X)


def test_info():
    done = subprocess.run(
        [sys.executable, "-m", "fanin", "info"], capture_output=True, text=True, check=True
    )
    assert fanin.__version__ in done.stdout
    assert fanin.isa() in done.stdout
