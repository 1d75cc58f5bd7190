"""Trained models carried over to and from scikit-learn: `to_sklearn`, `from_sklearn`."""

import copy
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .classifier import MLPClassifier
from .estimator import Estimator
from .regressor import MLPRegressor

PAIRS = (
    (MLPClassifier, neural_network.MLPClassifier),
    (MLPRegressor, neural_network.MLPRegressor),
)
# What training leaves that both have, where it is there.
ATTRIBUTES = (
    "n_features_in_", "feature_names_in_", "classes_", "_label_binarizer", "n_layers_",
    "n_outputs_", "out_activation_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_",
    "validation_scores_", "best_validation_score_", "_no_improvement_count",
)  # fmt: skip


def from_sklearn(estimator: Any) -> Estimator:
    """Return a fanin estimator with the parameters, weights and attributes of scikit-learn's.

    Parameters
    ----------
    estimator : a fitted sklearn.neural_network.MLPClassifier or MLPRegressor

    Returns
    -------
    MLPClassifier or MLPRegressor that predicts the same, to rounding.  Its next partial_fit begins
    with a new optimizer.

    Raises
    ------
    TypeError
        Something else.
    sklearn.exceptions.NotFittedError
        It has not been fitted.
    """
    kind = next((ours for ours, theirs in PAIRS if isinstance(estimator, theirs)), None)
    if kind is None:
        raise TypeError(
            "estimator: expected sklearn.neural_network.MLPClassifier or MLPRegressor, "
            f"got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    found: Any = kind(**estimator.get_params(deep=False))
    _carry(estimator, found)
    found._random_state = check_random_state(found.random_state)
    coefs = estimator.coefs_
    found._build([coefs[0].shape[0], *(c.shape[1] for c in coefs)], coefs[0].dtype)
    found.coefs_, found.intercepts_ = list(coefs), list(estimator.intercepts_)
    found._read_parameters()
    found._best = found._copy_of_vectors()
    result: Estimator = found
    return result


def to_sklearn(estimator: Estimator) -> Any:
    """Return scikit-learn's estimator with the parameters, weights and attributes of fanin's.

    Parameters
    ----------
    estimator : a fitted fanin.sklearn.MLPClassifier or MLPRegressor

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor that predicts the same, to rounding.
    Batch norm becomes part of the weights; what else scikit-learn does not have (dropout, class
    weights, losses) shapes training alone and is left behind.

    Raises
    ------
    TypeError
        Something else.
    ValueError
        Its activations are not one of scikit-learn's.
    sklearn.exceptions.NotFittedError
        It has not been fitted.
    """
    kind = next((theirs for ours, theirs in PAIRS if isinstance(estimator, ours)), None)
    if kind is None:
        raise TypeError(
            "estimator: expected fanin.sklearn.MLPClassifier or MLPRegressor, "
            f"got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    network = estimator._read_parameters().folded()
    used = {layer.activation for layer in network.layers[:-1]} or {"identity"}
    activation = used.pop().replace("sigmoid", "logistic")
    if used or activation not in ("identity", "logistic", "tanh", "relu"):
        raise ValueError(
            "activation: expected one that scikit-learn has, identity, logistic, tanh or relu, "
            f"for all layers, got {estimator.activation!r}"
        )
    known = kind().get_params()
    parameters = {k: v for k, v in estimator.get_params(deep=False).items() if k in known}
    parameters["activation"] = activation
    if parameters.get("loss") not in (None, "squared_error", "poisson"):
        parameters["loss"] = "squared_error"
    if parameters["verbose"] == "bar":
        parameters["verbose"] = True
    found = kind(**parameters)
    _carry(estimator, found)
    found.coefs_ = [layer.weight.copy() for layer in network.layers]
    found.intercepts_ = [np.array(layer.bias) for layer in network.layers]
    found._best_coefs = [c.copy() for c in found.coefs_]
    found._best_intercepts = [i.copy() for i in found.intercepts_]
    return found


def _carry(source: Any, target: Any) -> None:
    """Copy what training left."""
    for name in ATTRIBUTES:
        if hasattr(source, name):
            setattr(target, name, copy.deepcopy(getattr(source, name)))
