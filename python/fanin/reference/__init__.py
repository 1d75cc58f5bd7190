"""The reference: every operation of fanin in plain NumPy, complete and alone.

It says what each operation means; the compiled ones are tested against it.  It needs NumPy and
nothing else, and trains networks by itself:

    from fanin import reference

    net = reference.MLP([2, 8, 2])
    net.fit(x, y)

Letters, the same everywhere: x (m, k) is a batch, w (k, n) weights (fan_in, fan_out), b (n) a
bias, z = x @ w + b, a (m, n) = f(z); a leading d is the gradient of the loss with respect to
what follows.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import init, schedule
from .activation import activation_backward, activation_forward
from .averaged_weights import AveragedWeights
from .batch_norm import (
    BatchNormCache,
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
)
from .bias_variance import bias_variance
from .callbacks import Callback
from .checkpoint import Checkpoint
from .dense import DenseCache, DenseGradients, Layer, dense_backward, dense_forward
from .diagnosis import diagnose
from .dropout import dropout_mask
from .early_stopping import EarlyStopping
from .finding import Diagnosis, Finding
from .gemm import matmul
from .history import History, LayerHistory
from .loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from .network import MLP, load
from .optimizer import SGD, Adam, AdamW, Optimizer, RMSprop
from .plot import plot_activations, plot_gradients, plot_history, plot_layers
from .report import report
from .split import train_dev_test_split
from .standardizer import Standardizer
from .stats import ActivationStats, activation_stats

if TYPE_CHECKING:
    from . import augment
    from .gradient_check import GradientCheck, TensorCheck, check_gradient, check_gradients

__all__ = [
    "MLP",
    "SGD",
    "ActivationStats",
    "Adam",
    "AdamW",
    "AveragedWeights",
    "BatchNormCache",
    "BatchNormGradients",
    "Callback",
    "Checkpoint",
    "DenseCache",
    "DenseGradients",
    "Diagnosis",
    "EarlyStopping",
    "Finding",
    "GradientCheck",
    "History",
    "Layer",
    "LayerHistory",
    "Optimizer",
    "RMSprop",
    "Standardizer",
    "TensorCheck",
    "activation_backward",
    "activation_forward",
    "activation_stats",
    "augment",
    "batch_norm_backward",
    "batch_norm_forward",
    "bias_variance",
    "check_gradient",
    "check_gradients",
    "dense_backward",
    "dense_forward",
    "diagnose",
    "dropout_mask",
    "init",
    "load",
    "matmul",
    "mean_squared_error",
    "plot_activations",
    "plot_gradients",
    "plot_history",
    "plot_layers",
    "report",
    "schedule",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "train_dev_test_split",
]

# What few programs use is loaded when it is asked for, so that the import stays short.
ON_DEMAND = {
    "augment": "augment",
    "GradientCheck": "gradient_check",
    "TensorCheck": "gradient_check",
    "check_gradient": "gradient_check",
    "check_gradients": "gradient_check",
}


def __getattr__(name: str) -> Any:
    """Load it and keep it here."""
    if name not in ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{ON_DEMAND[name]}", __name__)
    found = module if name == ON_DEMAND[name] else getattr(module, name)
    globals()[name] = found
    return found
