"""fanin on a GPU: the same functions on arrays that live on a CUDA device.

`fanin.matmul`, `fanin.dense_forward`, the losses, the optimizers and all their neighbours take
arrays of any library that speaks DLPack (CuPy, PyTorch, JAX) and compute where these are, on the
caller's current stream and without a copy; results are arrays of the same library.  Here is what
belongs to the device itself: docs/cuda.md.
"""

from typing import TYPE_CHECKING, Any

from .dropout import dropout_mask
from .runtime import (
    architectures,
    available,
    cublas,
    get_precision,
    properties,
    set_precision,
)

if TYPE_CHECKING:
    from .network import MLP

__all__ = [
    "MLP",
    "architectures",
    "available",
    "cublas",
    "dropout_mask",
    "get_precision",
    "properties",
    "set_precision",
]


def __getattr__(name: str) -> Any:
    """Load the network when it is asked for; nobody else pays for it."""
    if name != "MLP":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .network import MLP

    return MLP
