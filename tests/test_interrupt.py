"""Ctrl-C: training stops within 50 ms, keeps what it learned, and the network goes on working."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fanin
from compare import same_bits

# The promise is 50 ms. The signal is sent by a thread that has to be woken, Python's main thread
# has to be scheduled, too, and continuous integration machines run other things on their two
# cores: a tenth of a second covers what was seen under load.
# Under a sanitizer the compiled code is ten times slower.
PROMISE, SLACK = 0.05, 0.1 if not fanin.build_info()["sanitizers"] else 2.0


def send_after(seconds: float) -> tuple[threading.Thread, list[float]]:
    """Sends SIGINT to this process after some time; the list gets the moment."""
    sent: list[float] = []

    def send():
        time.sleep(seconds)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread, sent


@pytest.fixture(autouse=True)
def python_handles_sigint():
    """Whoever runs the tests in the background has SIGINT ignored; here it is Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def data(rows, width=1024):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, width)).astype(np.float32), rng.integers(0, 100, rows)


def twin_after(steps: int, make, x, y, batch_size, optimizer):
    """A network trained for so many steps without being disturbed."""
    net = make()
    order = fanin.reference.random.permutation(len(x), net.seed, 0)
    for i in range(steps):
        rows = order[i * batch_size : (i + 1) * batch_size]
        net.train_step(x[rows], y[rows], optimizer)
    return net


@pytest.mark.parametrize("threads_", [1, 2])
@pytest.mark.parametrize("batch_size", [512, 4096])
def test_fit_with_big_layers(batch_size, threads_):
    """Steps of a third of a second and of seconds: the one under way is given up, without trace."""
    x, y = data(8192)

    def make():
        return fanin.MLP([1024, 2048, 2048, 100], dropout=0.5, batch_norm=True, l2=1e-4)

    net, optimizer = make(), fanin.Adam()
    before = fanin.get_num_threads()
    fanin.set_num_threads(threads_)
    try:
        net.train_step(x[:16], y[:16], fanin.SGD(0.0))  # memory is allocated once
        net = make()
        thread, sent = send_after(0.4)
        with pytest.warns(UserWarning, match="interrupted"):
            history = net.fit(
                x, y, epochs=1000, batch_size=batch_size, optimizer=optimizer, progress=False
            )
        late = time.perf_counter() - sent[0]
        thread.join()
    finally:
        fanin.set_num_threads(before)
    assert history.interrupted
    assert history.epochs == 0
    assert history.loss == []
    assert late < PROMISE + SLACK, f"stopped after {late * 1000:.0f} ms"
    assert np.isfinite(net.parameters).all()
    assert net.step == optimizer.steps

    # what is there is what so many undisturbed steps leave: an interrupted one left no trace
    twin = twin_after(net.step, make, x, y, batch_size, fanin.Adam())
    same_bits(net.parameters, twin.parameters)
    same_bits(net.running_mean, twin.running_mean)
    same_bits(net.running_var, twin.running_var)

    # and the network goes on
    assert net.predict(x[:10]).shape == (10,)
    assert np.isfinite(net.train_step(x[:64], y[:64], optimizer))


def test_penalties_of_a_step_given_up():
    """Those of the last step that was done stay, in the compiled network as in Python."""
    x, y = data(8192)
    net, optimizer = fanin.MLP([1024, 2048, 2048, 100], l2=0.25), fanin.Adam()
    penalties = np.column_stack([np.zeros(2), [0.5, 1.0]])
    thread, _ = send_after(0.6)
    begun = 0

    def train():
        nonlocal begun
        while True:
            begun = net.step
            net._train_rows(x, y, None, None, 4096, optimizer, class_weight=None, stats=False,
                            label_smoothing=0.0, scale=None, penalties=penalties)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train()
    thread.join()
    assert net.step == optimizer.steps
    expected = {0: 0.25 if begun == 0 else 1.0, 1: 0.5, 2: 1.0}[net.step - begun]
    assert {(layer.l1, layer.l2) for layer in net.layers} == {(0.0, expected)}
    loss = net.loss_and_gradients(x[:64], y[:64])[0]
    fresh = fanin.MLP([1024, 2048, 2048, 100], l2=expected)
    fresh.parameters = net.parameters
    assert loss == fresh.loss_and_gradients(x[:64], y[:64])[0]
    same_bits(net.gradients, fresh.gradients)


def test_fit_with_small_steps(package):
    """Thousands of steps a second: the epochs that were finished are in the history."""
    x, y = data(2000, 20)
    net = package.MLP([20, 32, 100])
    thread, sent = send_after(0.5)
    with pytest.warns(UserWarning, match=r"interrupted after [1-9]"):
        history = net.fit(x, y, validation=(x[:100], y[:100]), epochs=10**6, progress=False)
    late = time.perf_counter() - sent[0]
    thread.join()
    assert late < PROMISE + SLACK, f"stopped after {late * 1000:.0f} ms"
    assert history.interrupted
    assert history.epochs >= 1
    assert len(history.val_loss) == history.epochs
    again = net.fit(x, y, epochs=1, progress=False)
    assert not again.interrupted


def test_train_step():
    """Outside of fit it is KeyboardInterrupt, as everywhere in Python; the weights are kept."""
    x, y = data(8192)
    net = fanin.MLP([1024, 2048, 2048, 100])
    optimizer = fanin.Adam()
    thread, sent = send_after(0.4)
    before = 0

    def train():
        nonlocal before
        while True:
            before = net.step
            net.train_step(x, y, optimizer)

    with pytest.raises(KeyboardInterrupt):
        train()
    late = time.perf_counter() - sent[0]
    thread.join()
    assert late < PROMISE + SLACK, f"stopped after {late * 1000:.0f} ms"
    assert net.step - before in (0, 1)
    assert net.step == optimizer.steps
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(net.train_step(x[:64], y[:64], optimizer))


@pytest.mark.parametrize("limits", [{}, {"clip_norm": 0.1}], ids=str)
def test_every_step_is_counted(limits):
    """Wherever in a step the signal comes, the counters tell how many the parameters have taken."""
    x, y = data(256, 64)

    def make():
        return fanin.MLP([64, 1024, 100], dropout=0.5, batch_norm=True)

    net, optimizer = make(), fanin.Adam(**limits)

    def train(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            net.train_step(x, y, optimizer)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for seconds in np.random.default_rng(0).uniform(0.001, 0.02, 100):
        with pytest.raises(KeyboardInterrupt):
            train(seconds)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert net.step == optimizer.steps
    twin = make()
    twin_optimizer = fanin.Adam(**limits)
    for _ in range(net.step):
        twin.train_step(x, y, twin_optimizer)
    same_bits(net.parameters, twin.parameters)
    same_bits(net.running_mean, twin.running_mean)


def test_another_signal_handler():
    """A handler of the user's that does not raise does not stop the training."""
    x, y = data(4096, 256)
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    net = fanin.MLP([256, 1024, 100])
    thread, _ = send_after(0.1)
    history = net.fit(x, y, epochs=3, batch_size=1024, progress=False)
    thread.join()
    assert seen == [signal.SIGINT]
    assert not history.interrupted
    assert history.epochs == 3


def test_a_handler_that_raises_something_else():
    """What the handler raises comes out of fit, and the network stays usable."""

    class Enough(Exception):
        pass

    def handler(number, frame):
        raise Enough

    x, y = data(4096, 256)
    signal.signal(signal.SIGINT, handler)
    net = fanin.MLP([256, 1024, 100])
    thread, _ = send_after(0.1)
    with pytest.raises(Enough):
        net.fit(x, y, epochs=10**6, batch_size=1024, progress=False)
    thread.join()
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(net.train_step(x[:64], y[:64], fanin.Adam()))


class Interrupted:
    """Raises KeyboardInterrupt before the n-th bytecode of some functions, wherever that is."""

    FUNCTIONS = ("run", "_end_epoch", "look", "restore", "swap", "network", "on_step_end",
                 "_set_vectors", "assign", "vectors_by_name")  # fmt: skip

    def __init__(self, number):
        self.left = number

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind, error, traceback):
        sys.settrace(self.before)
        return kind is KeyboardInterrupt

    def trace(self, frame, event, argument):
        code = frame.f_code
        if code.co_name not in self.FUNCTIONS or "reference" not in Path(code.co_filename).parts:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace


def bits(owner):
    """Those of all vectors of a network or an average, for comparisons."""
    vectors = owner.parameters, owner.running_mean, owner.running_var
    return b"".join(vector.tobytes() for vector in vectors)


class Keep(fanin.Callback):
    """Keeps the bits of the network and of its average after each step."""

    def __init__(self, average):
        self.average, self.seen = average, []

    def on_step_end(self, net, history):
        self.seen.append((bits(net), bits(self.average)))


def average_and_train(package, restore, number=0):
    """Two epochs, of which the first one is the better: network, average, points left, states."""
    x, y = data(32, 4)
    told = iter((1, 0))
    net, average = package.MLP([4, 3, 100], batch_norm=True), package.AveragedWeights(0.5)
    keep = Keep(average)
    with Interrupted(number) as point:
        net.fit(
            x, y, epochs=2, batch_size=16, validation=(x, y), callbacks=[average, keep],
            metrics={"told": lambda y, prediction: next(told)}, progress=False,
            early_stopping=package.EarlyStopping("told", mode="max", restore_best=restore),
        )  # fmt: skip
    return net, average, point.left, keep.seen


@pytest.mark.filterwarnings("ignore:fit. interrupted:UserWarning")
@pytest.mark.parametrize("restore", [False, True])
def test_weights_and_their_average_are_not_mixed(restore, package):
    """Wherever the signal comes, the network has the weights of its steps or, at the end, those
    it was to be left with; where they were swapped the average has the others.
    """
    net, average, _, seen = average_and_train(package, restore)
    own, means = zip(*seen, strict=True)
    end = bits(net)
    assert end == means[1 if restore else 3]
    assert bits(average) == (means[3] if restore else own[3])
    own = [bits(package.MLP([4, 3, 100], batch_norm=True)), *own]
    found = set()
    number = 1 + restore + 2 * (package is fanin)  # by fours: all points, over four tests
    while True:
        net, average, left, _ = average_and_train(package, restore, number)
        if left > 0:
            break
        ended = bits(net) == end
        assert ended or bits(net) == own[net.step], number
        if not restore and average.samples == 4:
            assert bits(average) == (own[4] if ended else means[3]), number
        found.add(ended)
        number += 4
    assert found == {False, True}
    assert number > 1000


def test_a_swap_happens_or_does_not(package):
    net, average, _, _ = average_and_train(package, restore=False)
    before, number = (bits(net), bits(average)), 0
    ends = []
    while True:
        number += 1
        with Interrupted(number) as point:
            average.swap(net)
        ends.append((bits(net), bits(average)) == before)
        assert ends[-1] or (bits(average), bits(net)) == before, number
        if not ends[-1]:
            average.swap(net)
        if point.left > 0:
            break
    assert number > 50
    assert ends == sorted(ends, reverse=True)
    assert ends[0] and not ends[-1]


HANDLED = """
    import os, signal, sys
    import numpy as np
    import fanin

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2048, 512)).astype(np.float32), rng.integers(0, 10, 2048)
    more = rng.standard_normal((20000, 512)).astype(np.float32)
    nets = [fanin.MLP([512, 1024, 1024, 10], dropout=0.5) for _ in range(2)]
    refused = []

    def handler(number, frame):
        try:
            {action}
        except RuntimeError as error:
            refused.append(str(error))

    signal.signal(signal.SIGALRM, handler)
    for net in nets:
        net.train_step(x[:64], y[:64], fanin.SGD(0.1))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    nets[0].fit(x, y, epochs=4, batch_size=1024, progress=False)
    signal.setitimer(signal.ITIMER_REAL, 0)
    nets[1].fit(x, y, epochs=4, batch_size=1024, progress=False)
    print(np.array_equal(nets[0].parameters, nets[1].parameters), nets[0].step, *refused)
"""
ACTIONS = {
    "a larger batch forward": "nets[0].forward(more, training=True)",
    "a step": "nets[0].train_step(more, np.zeros(20000, int), fanin.SGD(0.1))",
    "a prediction": "nets[0].predict(more)",
    "another network": "fanin.MLP([512, 10]).predict(more)",
    "an operation": "fanin.matmul(more, more[:100].T)",
    "a fork": "os.fork() or os._exit(0)",
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_in_the_middle_of_a_step(action):
    """Python runs signal handlers inside of a training call, between two of its tasks. Whatever
    one does there, the training goes on as if nothing had happened; using the network that is
    being trained is refused.
    """
    program = textwrap.dedent(HANDLED.replace("{action}", ACTIONS[action]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    same, step, *refused = done.stdout.split(maxsplit=2)
    # A signal that comes between two calls of compiled code finds the network free: a step is then
    # one step more.
    stepped = action == "a step" and not refused
    assert (same, step) == (("False", "10") if stepped else ("True", "9"))
    assert not refused or "nets[0]" in ACTIONS[action]
