"""Training by L-BFGS: SciPy's, on the loss and the gradients of all rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from ..reference.loss import Loss
from .loss import with_weights
from .network import Network

Array = NDArray[Any]

NUMBERS_AT_ONCE = 1 << 22  # in the widest layer: rows are gone through in parts


def lbfgs(
    network: Network,
    X: Any,
    y: Array,
    sample_weight: Array | None,
    loss: Loss | None,
    limits: dict[str, Any],
) -> OptimizeResult:
    """Minimise a network's loss, penalties of all rows included; return what SciPy says.

    It computes in float64 whatever the network's dtype: a line search needs those digits.  What is
    a mean over rows is put together from parts of them; batch norm needs them all at once.

    loss : one of a caller's own, or None; limits : options of SciPy's L-BFGS-B

    Raises ValueError for a network with dropout: the loss must be the same at every call.
    """
    if network.input_dropout or any(layer.dropout for layer in network.layers):
        raise ValueError(
            "dropout: expected 0 with solver='lbfgs', which needs the same loss at every call; "
            "use 'adam' or 'sgd'"
        )
    hidden = network.layers[:-1]
    wide = Network(
        network.sizes,
        activation=[layer.activation for layer in hidden],
        output=network.output,
        batch_norm=[layer.batch_norm for layer in hidden],
        init=None,  # type: ignore[arg-type]
        dtype="float64",
        seed=network.seed,
    )
    rows = X.shape[0]
    at_once = rows if wide.batch_norm else max(NUMBERS_AT_ONCE // max(wide.sizes), 1)
    weight = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    total = float(weight.sum())
    wide.alpha, wide.l1 = network.alpha, network.l1
    wide.penalise(total)
    targets = y if loss is None else with_weights(y, sample_weight)
    targets = targets.astype(np.float64) if targets.ndim == 2 else targets

    def objective(parameters: Array) -> tuple[float, Array]:
        wide.parameters = parameters
        value, gradients = 0.0, np.zeros_like(parameters)
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            share = float(weight[part].sum()) / total
            given = None if sample_weight is None or loss is not None else weight[part]
            found, slope = wide.loss_and_gradients(
                X[part], targets[part], sample_weight=given, loss=loss
            )
            value += share * found
            gradients += share * slope
        return value, gradients

    begin = network.parameters.astype(np.float64)
    found = minimize(objective, begin, method="L-BFGS-B", jac=True, options=limits)
    network.parameters = found.x
    network.running_mean, network.running_var = wide.running_mean, wide.running_var
    return found
