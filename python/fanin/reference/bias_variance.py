"""Bias against variance: where the error of a network comes from, and what helps against it.

The errors of a person, of training data and of data held out stand in a row, and each step between
two of them has a name:

    human  -- bias -->  training  -- variance -->  train-dev  -- data mismatch -->  dev  --> test

Train-dev data are held out from the training data; dev and test data may be of another kind, that
of the task.  Without train-dev data the step from training to dev is the variance.

A. Ng, "Machine Learning Yearning", 2018, chapters 20 to 32 and 40 to 43.
"""

from typing import Any

from . import arguments
from .finding import Diagnosis, Finding

# A step of one percent point is taken as the noise and the rest of a good system in Ng's
# examples, one of two as something to work on.
HIGH = 0.015

_ADVICE = {
    "high bias": "a larger network, more epochs or a better optimizer, less regularisation, "
    "features that tell more",
    "high variance": "more data, augmentation, dropout, l2, early stopping, a smaller network",
    "data mismatch": "training data like the dev data: collect, augment or synthesise what "
    "differs; look at the dev rows that go wrong",
    "dev set overfitted": "a larger dev set, and fewer choices made on it",
}


def bias_variance(
    train_error: float,
    dev_error: float,
    *,
    human_error: float = 0.0,
    train_dev_error: float | None = None,
    test_error: float | None = None,
    high: float = HIGH,
) -> Diagnosis:
    """Return whether bias or variance is high, both or neither, with the remedies that fit.

    Parameters
    ----------
    train_error, dev_error : of the network on training and dev data, such as 1 - accuracy, >= 0;
        of errors in another unit (a root mean square, percent) `high` has to be set as well
    human_error : of people, or the least that can be had (Bayes error); the bias counts from there
    train_dev_error : on data held out that are of the kind of the training data, optional; then
        the step to the dev error is no variance but a mismatch of data
    test_error : on test data, optional; a step from the dev error means choices that fit the dev
        data by chance
    high : a step larger than this is a finding, in the unit of the errors, > 0

    Returns
    -------
    Diagnosis with some of "high bias", "high variance", "data mismatch", "dev set overfitted", the
    largest step first; false when the steps are all small.

    Raises
    ------
    TypeError, ValueError
        An error that is no finite number >= 0; high that is not > 0.

    Notes
    -----
    A. Ng, "Machine Learning Yearning", 2018, chapters 20 to 32 and 40 to 43.
    """
    given: dict[str, Any] = {
        "human_error": human_error,
        "train_error": train_error,
        "train_dev_error": train_dev_error,
        "dev_error": dev_error,
        "test_error": test_error,
    }
    errors = {
        name: arguments.check_nonnegative(name, value)
        for name, value in given.items()
        if value is not None
    }
    if not (limit := arguments.check_nonnegative("high", high)) > 0:
        raise ValueError(f"high: expected a number > 0, got {high!r}")
    held_out = "dev_error" if train_dev_error is None else "train_dev_error"
    ways = {
        "high bias": ("human_error", "train_error"),
        "high variance": ("train_error", held_out),
        "data mismatch": ("train_dev_error", "dev_error"),
        "dev set overfitted": ("dev_error", "test_error"),
    }
    steps = {
        name: errors[end] - errors[start]
        for name, (start, end) in ways.items()
        if start in errors and end in errors
    }
    number = _percent if max(errors.values()) <= 1 else "{:.3g}".format
    findings = [
        Finding(
            name,
            f"{_said(ways[name][0])} {number(errors[ways[name][0]])}, {_said(ways[name][1])} "
            f"{number(errors[ways[name][1]])}: a step of {number(step)} "
            f"(at most {number(limit)})",
            _ADVICE[name],
        )
        for name, step in sorted(steps.items(), key=lambda item: -item[1])
        if step > limit * (1 + 1e-9)  # so that 0.165 - 0.15 is no finding for its rounding
    ]
    summary = ", ".join(f"{_said(name)} {number(value)}" for name, value in errors.items())
    return Diagnosis(tuple(findings), summary=f"errors: {summary}")


def _said(name: str) -> str:
    return {"human_error": "human", "train_error": "training", "train_dev_error": "train-dev",
            "dev_error": "dev", "test_error": "test"}[name]  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
