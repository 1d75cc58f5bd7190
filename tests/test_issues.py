"""One test per bug found, with what it used to do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fanin


def test_empty_arrays_have_zero_strides():
    """NumPy gives an empty array strides of 0; the check for overlapping rows refused it."""
    out = fanin.matmul(np.ones((0, 3)), np.ones((3, 4)))
    assert out.shape == (0, 4)
    assert fanin.matmul(np.ones((3, 4)), np.ones((4, 0))).shape == (3, 0)


def test_out_of_one_row_with_any_stride():
    """(1, n) with a column stride of -9 has contiguous columns, all of one element: refused."""
    out = np.zeros((40, 9))[::-1, 3:4].T
    assert out.strides[1] != out.itemsize
    np.testing.assert_array_equal(
        fanin.matmul(np.ones((1, 5)), np.ones((5, 40)), out=out), np.full((1, 40), 5.0)
    )


def test_daemon_threads_at_exit():
    """A daemon thread inside a call when the interpreter ended: the process was aborted.

    CPython ends such a thread by unwinding its stack, through destructors that must not throw.
    """
    code = (
        "import threading, time, numpy as np, fanin\n"
        "x = np.ones((300, 300))\n"
        "def busy():\n"
        "    while True: fanin.matmul(x, x)\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
        "time.sleep(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_histogram_of_a_saturated_layer():
    """Activations one rounding apart: NumPy has no 50 bins for that, and fit stopped with its
    error after the first epoch."""
    net = fanin.MLP([2, 4, 2], activation="sigmoid", dtype="float64")
    net.layers[0].bias = 36.0
    net.layers[0].weight = 1.0
    x = np.array([[0.0, 0.0], [0.7, 0.7]] * 8)
    history = net.fit(x, np.arange(16) % 2, epochs=1, progress=False)
    (stats,) = history.stats
    assert 0 < stats[0].max - stats[0].min < 1e-15
    assert stats[0].histogram.sum() == 16 * 4


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_one_array_for_two_arguments(name, package):
    """gamma and running_var as one array object passed the check that looked for other arrays."""
    shared, other = np.ones(3), np.zeros(3)
    vectors = {"gamma": np.ones(3), "beta": np.zeros(3), name: shared}
    with pytest.raises(ValueError, match=r"^running_var: .*overlap"):
        package.batch_norm_forward(
            np.arange(6.0).reshape(2, 3), **vectors, running_mean=other, running_var=shared,
            training=True,
        )  # fmt: skip
    np.testing.assert_array_equal(shared, np.ones(3))


def test_state_replaced_during_a_step():
    """The optimizer's arrays were freed under a step when another thread replaced `state`."""
    code = (
        "import threading, numpy as np, fanin\n"
        "net, optimizer = fanin.MLP([64, 256, 10]), fanin.Adam()\n"
        "x, y = np.ones((256, 64), np.float32), np.zeros(256, int)\n"
        "net.train_step(x, y, optimizer)\n"
        "going = True\n"
        "def replace():\n"
        "    while going:\n"
        "        optimizer.state = {k: v.copy() for k, v in optimizer.state.items()}\n"
        "thread = threading.Thread(target=replace)\n"
        "thread.start()\n"
        "for _ in range(300): net.train_step(x, y, optimizer)\n"
        "going = False\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_targets_are_checked_at_every_step():
    """Steps after the first took targets for a sigmoid or a softmax that are none."""
    x = np.ones((4, 3), np.float32)
    for output, y in (("sigmoid", 7.0), ("softmax", -1.0), ("softmax", np.nan)):
        net, optimizer = fanin.MLP([3, 5, 2], output=output), fanin.Adam()
        net.train_step(x, np.full((4, 2), 0.5, np.float32), optimizer)
        with np.testing.assert_raises(ValueError):
            net.train_step(x, np.full((4, 2), y, np.float32), optimizer)


def test_a_refused_step_leaves_the_forward():
    """A step that was refused made the backward pass after it impossible."""
    net, optimizer = fanin.MLP([3, 5, 2]), fanin.Adam()
    x, y = np.ones((4, 3), np.float32), np.zeros(4, int)
    net.train_step(x, y, optimizer)
    net.forward(x, training=True)
    with np.testing.assert_raises(ValueError):
        net.train_step(x[:, :2], y, optimizer)
    assert net.backward(np.ones((4, 2), np.float32)).shape == (4, 3)
