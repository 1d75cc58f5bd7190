"""fanin: train dense networks straight from NumPy arrays, at the speed of the hardware.

    net = fanin.MLP([784, 512, 256, 10], dropout=0.2, seed=0)
    net.fit(x, y, validation=(x_val, y_val), input_scale=1 / 255)
    net.evaluate(x_test, y_test)

Or one operation at a time on your own arrays: `dense_forward`, `dense_backward`, `matmul`, losses,
optimizers.  `fanin.reference` is the same in plain NumPy and says what everything means.
"""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from ._core import build_info as _build_info
except ModuleNotFoundError as error:
    if error.name != "fanin._core":
        raise
    raise ImportError(
        "fanin's compiled module is missing: install the package (pip install .) and import it "
        "from outside of its source folder"
    ) from error

from . import cuda, init, reference, schedule
from .activation import activation_backward, activation_forward
from .batch_norm import batch_norm_backward, batch_norm_forward
from .dense import DenseCache, dense_backward, dense_forward
from .dropout import dropout_mask
from .gemm import matmul
from .loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from .network import MLP, load
from .optimizer import SGD, Adam, AdamW, RMSprop
from .plot import plot_activations, plot_gradients, plot_history, plot_layers
from .reference import (
    ActivationStats,
    AveragedWeights,
    BatchNormCache,
    BatchNormGradients,
    Callback,
    Checkpoint,
    DenseGradients,
    Diagnosis,
    EarlyStopping,
    Finding,
    History,
    Layer,
    LayerHistory,
    Optimizer,
    Standardizer,
    bias_variance,
    diagnose,
    train_dev_test_split,
)
from .report import report
from .runtime import available_isas, build_info, get_num_threads, isa, set_isa, set_num_threads
from .stats import activation_stats

if TYPE_CHECKING:
    from . import augment
    from .reference import GradientCheck, TensorCheck, check_gradient, check_gradients

__version__: str = _build_info()["version"]

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
    "available_isas",
    "batch_norm_backward",
    "batch_norm_forward",
    "bias_variance",
    "build_info",
    "check_gradient",
    "check_gradients",
    "cuda",
    "dense_backward",
    "dense_forward",
    "diagnose",
    "dropout_mask",
    "get_num_threads",
    "init",
    "isa",
    "load",
    "matmul",
    "mean_squared_error",
    "plot_activations",
    "plot_gradients",
    "plot_history",
    "plot_layers",
    "reference",
    "report",
    "schedule",
    "set_isa",
    "set_num_threads",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "train_dev_test_split",
]


def __getattr__(name: str) -> Any:
    """Load what is loaded on demand, and keep it here."""
    if name not in reference.ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    here = name == "augment"
    found = importlib.import_module(".augment", __name__) if here else getattr(reference, name)
    globals()[name] = found
    return found
