"""fanin on a GPU: the same functions on arrays that live on a CUDA device.

`fanin.matmul`, `fanin.dense_forward`, the losses, the optimizers and all their neighbours take
arrays of any library that speaks DLPack (CuPy, PyTorch, JAX) and compute where these are, on the
caller's current stream and without a copy; results are arrays of the same library.  Here is what
belongs to the device itself, and `MLP`, which `fanin.MLP(..., device="cuda")` makes: docs/cuda.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .runtime import (
    architectures,
    available,
    cublas,
    get_precision,
    properties,
    set_precision,
)

if TYPE_CHECKING:
    from .dropout import dropout_mask
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

_ON_DEMAND = {"MLP": ".network", "dropout_mask": ".dropout"}


def __getattr__(name: str) -> Any:
    """Load what computes when it is asked for: `import fanin` takes no time for it."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_ON_DEMAND[name], __name__), name)
    globals()[name] = found
    return found
