"""Schedules: values worked out by hand, in training, and on a plateau."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin import schedule

# One rounding per operation and a handful of operations: 8 ulp.
CLOSE = 8 * 2.0**-53

VALUES = {
    # lr factor^floor(t / n)
    "Step every 10": (schedule.Step(0.8, 10, 0.5),
                      {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 40: 0.05}),
    "Step at 3 and 8": (schedule.Step(1.0, [3, 8]),
                        {0: 1, 2: 1, 3: 0.1, 7: 0.1, 8: 0.01, 99: 0.01}),
    # 0.5^(t / 4): a quarter of the way is the fourth root of 1/2
    "Exponential": (schedule.Exponential(2.0, 4, 0.5),
                    {0: 2, 1: 2 / math.sqrt(math.sqrt(2)), 2: math.sqrt(2), 4: 1, 8: 0.5}),
    # cos: 1, 1/2 at a third of the way, 0 in the middle, -1/2, -1
    "Cosine": (schedule.Cosine(0.4, 12), {0: 0.4, 4: 0.3, 6: 0.2, 8: 0.1, 12: 0, 13: 0, 999: 0}),
    "Cosine to 0.2": (schedule.Cosine(1.0, 12, 0.2),
                      {0: 1, 4: 0.8, 6: 0.6, 8: 0.4, 12: 0.2, 50: 0.2}),
    # (t + 1) / (n + 1) of the full one, which comes at t = n
    "WarmUp": (schedule.WarmUp(0.5, 4),
               {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5, 5: 0.5, 1000: 0.5}),
    "WarmUp, then Step": (schedule.WarmUp(schedule.Step(1.0, 2, 0.5), 3),
                          {0: 0.25, 2: 0.75, 3: 1, 4: 1, 5: 0.5, 7: 0.25}),
    # up in 30 steps from 1/25, down in 70 to 1/25/1e4; in the middle of each the mean of its ends
    "OneCycle": (schedule.OneCycle(1.0, 100),
                 {0: 0.04, 15: 0.52, 30: 1, 65: (1 + 4e-6) / 2, 100: 4e-6, 200: 4e-6}),
    "OneCycle, half up": (schedule.OneCycle(0.9, 12, 0.5, 3, 2),
                          {0: 0.3, 2: 0.45, 3: 0.6, 4: 0.75, 6: 0.9, 9: 0.525, 12: 0.15}),
}  # fmt: skip


@pytest.mark.parametrize("what", VALUES)
def test_values(what):
    rule, values = VALUES[what]
    for step, value in values.items():
        # a factor's power, or a cosine near 0, is off by some ulp of the largest learning rate
        assert abs(rule(step) - value) <= CLOSE * 2 * max(values.values()), step


@pytest.mark.parametrize("what", VALUES)
def test_kept_and_shown(what):
    """Pickles and copies give the same values; repr is the call that makes it."""
    rule, _ = VALUES[what]
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    assert hash(again) == hash(rule)
    made = eval(repr(rule), vars(schedule))
    assert made == rule
    assert made != schedule.Cosine(0.7, 3)
    assert [again(t) for t in range(0, 120, 7)] == [rule(t) for t in range(0, 120, 7)]


def test_in_training(package):
    """Each step has the schedule's learning rate: with gradients of 1, that is what it moves."""
    rule = package.schedule.WarmUp(package.schedule.Cosine(0.25, 6), 3)
    net = package.MLP([1, 1], output="identity", dtype="float64", init="zeros")
    moved, before = [], 0.0

    class Watch(package.Callback):
        def on_step_end(self, net, history):
            nonlocal before
            moved.append(before - net.layers[0].weight[0, 0])
            before = net.layers[0].weight[0, 0]

    history = net.fit(
        np.ones((24, 1)), np.zeros(24), epochs=2, batch_size=2, optimizer=package.SGD(rule),
        loss=lambda z, y: (0.0, np.full_like(z, 0.5)), callbacks=[Watch()], progress=False,
    )  # fmt: skip
    # sums of 24 numbers below 1/4
    np.testing.assert_allclose(moved, [rule(t) for t in range(24)], rtol=0, atol=24 * 2.0**-54)
    assert history.learning_rate == [rule(11), rule(23)]


def test_steps_per_epoch(package):
    """As fit does them."""
    for rows, batch_size in ((64, 8), (65, 8), (7, 8), (8, 8), (1, 1)):
        net = package.MLP([2, 2])
        net.fit(np.zeros((rows, 2)), np.zeros(rows, int), epochs=1, batch_size=batch_size,
                progress=False)  # fmt: skip
        assert package.schedule.steps_per_epoch(rows, batch_size) == net.step
    with pytest.raises(ValueError, match=r"^batch_size: "):
        package.schedule.steps_per_epoch(3, 0)


# ---- on a plateau ----------------------------------------------------------------------------


class Told:
    """A metric that says what it is told, one value per epoch."""

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, y, prediction):
        return next(self.values)


def fit(package, values, lr, **settings):
    x, y = np.eye(4), np.arange(4)
    net = package.MLP([4, 4])
    return net.fit(x, y, validation=(x, y), epochs=len(values), metrics={"told": Told(values)},
                   optimizer=package.SGD(lr), progress=False, **settings)  # fmt: skip


def test_reduce_on_plateau(package):
    """After more than `patience` epochs without improvement, and not below min_lr."""
    rule = package.schedule.ReduceOnPlateau(
        1.0, monitor="told", mode="min", patience=1, factor=0.5, min_lr=0.3
    )
    history = fit(package, [5, 4, 4, 4, 4, 4, 3, 3, 3, 3], rule)
    # not better in epochs 2, 3: lower from 4 on; 4, 5: lower, to min_lr, from 6 on; 6 is better
    assert history.learning_rate == [1, 1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]
    rule.reset()
    assert rule(0) == 1.0
    up = package.schedule.ReduceOnPlateau(1.0, monitor="told", mode="max", patience=0)
    assert fit(package, [1, 2, 2, 3], up).learning_rate == [1, 1, 1, 0.1]


def test_min_delta_and_nan(package):
    rule = package.schedule.ReduceOnPlateau(
        1.0, monitor="told", mode="min", patience=0, min_delta=0.5
    )
    history = fit(package, [2, 1.6, 1.0, math.nan, 0.4, 0.4], rule)
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(history.learning_rate, expected, rtol=4 * 2.0**-53)


def test_within_a_warm_up(package):
    """fit finds it there; given as a callback as well, it is called once."""
    rule = package.schedule.ReduceOnPlateau(1.0, monitor="told", mode="min", patience=0)
    warm = package.schedule.WarmUp(rule, 1)
    for callbacks in ([], [rule]):
        rule.reset()
        history = fit(package, [1, 1, 0.5, 0.4], warm, callbacks=callbacks)
        assert history.learning_rate == [0.5, 1, 0.1, 0.1]


def test_monitors_what_there_is(package):
    rule = package.schedule.ReduceOnPlateau
    for lr, message in ((rule(1.0, monitor="tld", mode="min"), "did you mean 'told'"),
                        (rule(1.0, monitor="told"), "expected mode='min' or 'max'"),
                        (rule(1.0, monitor="val_r2"), "unknown 'val_r2'")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^ReduceOnPlateau: .*{message}"):
            fit(package, [1], lr)


BAD = [
    (schedule.Step, (-1, 3), "lr"), (schedule.Step, (1, 0), "steps"),
    (schedule.Step, (1, [3, 0]), "steps"), (schedule.Step, (1, 3, 0), "factor"),
    (schedule.Exponential, (1, 3, 1.5), "factor"), (schedule.Exponential, (1, 2.5, 1), "steps"),
    (schedule.Cosine, ("1", 3), "lr"), (schedule.Cosine, (1, 3, -1), "end"),
    (schedule.WarmUp, (-1, 3), "after"), (schedule.WarmUp, (1, 0), "steps"),
    (schedule.OneCycle, (1, 3, 0.0), "rise"), (schedule.OneCycle, (1, 3, 0.5, 0.5), "start"),
    (schedule.OneCycle, (1, 3, 0.5, 2, 0), "end"), (schedule.ReduceOnPlateau, (-1,), "lr"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "told"), BAD)
def test_settings(kind, settings, told):
    with pytest.raises((TypeError, ValueError), match=rf"^{told}: expected"):
        kind(*settings)
    for wrong in ({"patience": -1}, {"factor": 2}, {"mode": "up"}, {"monitor": None}):
        with pytest.raises((TypeError, ValueError), match=rf"^{next(iter(wrong))}: "):
            schedule.ReduceOnPlateau(1.0, **wrong)


def test_the_same_names():
    assert schedule.__all__ == sorted(schedule.__all__, key=lambda name: (name.islower(), name))
    for name in schedule.__all__:
        assert getattr(schedule, name) is getattr(fanin.reference.schedule, name)


def test_twins(isa):
    """A schedule gives compiled steps the learning rates of the reference's."""
    x = np.random.default_rng(0).standard_normal((40, 3))
    nets = []
    for package in (fanin, fanin.reference):
        net = package.MLP([3, 2], output="identity", dtype="float64")
        net.fit(x, x[:, :2], epochs=2, batch_size=4, optimizer=package.SGD(
            schedule.OneCycle(0.1, 20)), progress=False)  # fmt: skip
        nets.append(net)
    # 20 steps, each a sum of 4 rows and 3 columns in another order
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=0, atol=20 * 2.0**-50)
    same_bits(nets[0].running_mean, nets[1].running_mean)
