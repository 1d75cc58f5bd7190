"""The compiled module: operations on arrays the caller provides.  Private; `fanin` documents it.

Arrays are float32 or float64, one dtype a call; outputs are written, None leaves one out.  `matmul`
and `dense_forward` make the outputs that are None, and return None for arrays that do not fit.
`Dropout` is (threshold, seed, step, layer), `Stats` (mean, std, min, max, zeros, saturated,
unit_mean, unit_zeros),
`Form` (factor on the loss, factor on dz, clip, least and most that a row of a softmax costs).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Dropout: TypeAlias = tuple[int, int, int, int]
Stats: TypeAlias = tuple[float, float, float, float, int, int, Array, Array]
Form: TypeAlias = tuple[float, float, float, float, float]
Layer: TypeAlias = tuple[int, int, int, int, int, float, float, float]

# ---- the machine
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
def build_info() -> dict[str, Any]: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def thread_limit() -> tuple[int, str]: ...
def fma_peak(isa: str, dtype: str, threads: int, seconds: float) -> float: ...
def memory_peak(threads: int, seconds: float) -> float: ...
def step_breakdown(count: bool) -> dict[str, float]: ...

# ---- the operations
def gemm(x: Array, w: Array, out: Array, /) -> None: ...
def matmul(x: Any, w: Any, out: Any, /) -> Array | None: ...
def dense_forward(
    x: Any, w: Any, b: Any, out: Any, activation: int, dropout: Dropout, with_stats: bool, /
) -> tuple[Array, Array | None, NDArray[np.uint16] | None, Stats | None] | None: ...
def activation_forward(
    z: Array, a: Array, activation: int, dropout: Dropout, mask: NDArray[np.uint16] | None, /
) -> None: ...
def activation_backward(
    da: Array,
    saved: Array,
    dz: Array,
    db: Array | None,
    activation: int,
    dropout: Dropout,
    mask: NDArray[np.uint16] | None,
    /,
) -> None: ...
def batch_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    y: Array,
    x_hat: Array | None,
    inv_std: Array,
    training: bool,
    momentum: float,
    eps: float,
    /,
) -> None: ...
def batch_norm_backward(
    dy: Array,
    x_hat: Array,
    gamma: Array,
    inv_std: Array,
    dx: Array,
    dgamma: Array,
    dbeta: Array,
    training: bool,
    /,
) -> None: ...
def stats(a: Array, lo: float, hi: float, /) -> Stats: ...
def histogram(a: Array, edges: NDArray[np.float64], counts: NDArray[np.int64], /) -> None: ...
def softmax_cross_entropy(
    z: Array,
    labels: NDArray[np.int64] | None,
    targets: Array | None,
    sample_weight: Array | None,
    class_weight: Array | None,
    label_smoothing: float,
    divisor: float,
    form: Form,
    dz: Array | None,
    /,
) -> float: ...
def sigmoid_cross_entropy(
    z: Array,
    labels: None,
    targets: Array | None,
    sample_weight: Array | None,
    class_weight: Array | None,
    label_smoothing: float,
    divisor: float,
    form: Form,
    dz: Array | None,
    /,
) -> float: ...
def mean_squared_error(
    z: Array,
    labels: None,
    targets: Array | None,
    sample_weight: Array | None,
    class_weight: Array | None,
    label_smoothing: float,
    divisor: float,
    form: Form,
    dz: Array | None,
    /,
) -> float: ...
def softmax(z: Array, p: Array, /) -> None: ...
def optimizer_update(
    optimizer: Any,
    lr: float,
    steps_done: int,
    parameters: Array,
    gradients: Array,
    decay_mask: NDArray[np.bool_] | None,
    /,
) -> None: ...
def norm(values: Array, /) -> float: ...
def gather(
    x: Array, rows: NDArray[np.int64], shift: Array, factor: Array, out: Array, /
) -> None: ...
def function(name: str, x: Array, /) -> Array: ...

# ---- random numbers
def philox(counter: Sequence[int], key: Sequence[int], count: int, /) -> NDArray[np.uint32]: ...
def dropout_mask(rows: int, cols: int, dropout: Dropout, /) -> NDArray[np.bool_]: ...
def random_words(
    seed: int, step: int, layer: int, stream: int, count: int, start: int, /
) -> NDArray[np.uint64]: ...

# ---- a network
class _Network:
    def __init__(
        self,
        layers: Sequence[Layer],
        output: int,
        seed: int,
        bfloat16: bool,
        input_threshold: int,
        proximal: bool,
        form: Form,
        parameters: Array,
        gradients: Array,
        running_mean: Array,
        running_var: Array,
    ) -> None: ...
    def forward(self, x: Array, training: bool, bins: int, step: int, out: Array, /) -> None: ...
    def infer(self, x: Any, /) -> Array | None: ...
    def backward(self, dout: Array, dx: Array | None, /) -> None: ...
    def loss_and_gradients(
        self,
        x: Array,
        labels: NDArray[np.int64] | None,
        targets: Array | None,
        sample_weight: Array | None,
        class_weight: Array | None,
        label_smoothing: float,
        bins: int,
        step: int,
        /,
    ) -> float: ...
    def constrain(self, optimizer: Any, lr: float, /) -> None: ...
    def set_penalties(self, l1: float, l2: float, /) -> None: ...
    def train(
        self,
        x: Array,
        scale: float,
        shift: Array | None,
        factor: Array | None,
        rows: NDArray[np.int64],
        batch_size: int,
        labels: NDArray[np.int64] | None,
        targets: Array | None,
        sample_weight: Array | None,
        class_weight: Array | None,
        label_smoothing: float,
        loss: float,
        lr: NDArray[np.float64],
        steps_done: int,
        step: int,
        bins_at_last: int,
        seconds: float,
        on_main_thread: bool,
        optimizer: Any,
        net: Any,
        penalties: NDArray[np.float64] | None,
        /,
    ) -> tuple[int, float]: ...
    def train_step(
        self, x: Any, y: Any, optimizer: Any, net: Any, monitor: bool, /
    ) -> float | None: ...
    @property
    def monitored(self) -> int: ...
    def stats(self, layer: int, /) -> tuple[Stats, int, Any] | None: ...
    def norms(self, layer: int, /) -> tuple[float, float] | None: ...
    def nonfinite_layer(self) -> int: ...

class NetworkFloat32(_Network): ...
class NetworkFloat64(_Network): ...
