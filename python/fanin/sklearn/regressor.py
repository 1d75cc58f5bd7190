"""MLPRegressor: scikit-learn's, on fanin's kernels."""

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from ..reference.loss import Loss
from .estimator import Estimator, by_solver
from .loss import absolute_error, as_loss, huber, log_cosh, poisson

Array = NDArray[Any]

LOSSES = ("squared_error", "poisson", "absolute_error", "huber", "log_cosh")


class MLPRegressor(RegressorMixin, Estimator):
    """A multilayer perceptron for numbers, one or several per row.

    In place of `sklearn.neural_network.MLPRegressor`: with the same random_state it draws the same
    weights, shuffles and validation rows, and takes the same steps, to rounding.

    Parameters
    ----------
    loss : "squared_error" (half the square) or "poisson" (half the deviance, of exp of the output),
        and, beyond scikit-learn, "absolute_error", "huber", "log_cosh", or a function f(z, y) ->
        (loss, dz), see `fanin.MLP.loss_and_gradients`; y has a column for each output, and one
        more with the weights of rows where there are any
    huber_delta : where "huber" turns from squares to sizes of errors, > 0, in units of y

    All others, and attributes, are those of `MLPClassifier`, but for class_weight and classes_.
    validation_scores_ are R2.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), callable],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
    }
    _target = "identity"

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        batch_norm: Any = False,
        init: Any = None,
        l1: float = 0.0,
        huber_delta: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        optimizer: Any = None,
        keep_optimizer: bool = False,
        callbacks: Any = (),
        monitor: bool = False,
        n_threads: int | None = None,
    ) -> None:
        """Keep the parameters."""
        self._keep(locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_set: Any = None) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : (n, features), dense or sparse; float32 stays float32, all else becomes float64
        y : (n,) or (n, outputs)
        sample_weight : (n,), optional
        validation_set : (X, y) or (X, y, sample_weight): after each epoch its loss becomes
            validation_loss_curve_; early_stopping uses it in place of a part of X

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As scikit-learn's; a validation set of other columns or outputs.
        """
        return self._fit(X, y, sample_weight, validation_set, incremental=False)

    @available_if(by_solver)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_set: Any = None
    ) -> Self:
        """Train for one epoch on X and y, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight, validation_set : as in `fit`; early_stopping needs validation_set, and
            tells with `stopped_early_` that the best weights have been restored

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            With solver="lbfgs".
        ValueError, TypeError
            As `fit`.
        """
        return self._fit(X, y, sample_weight, validation_set, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the value for each row of X, (n,), or (n, outputs) where there are several."""
        values = self._values(self._outputs(X))
        return values.ravel() if values.shape[1] == 1 else values

    # ---- what a regressor adds to training -------------------------------------------------------

    def _last_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _values(self, z: Array) -> Array:
        if self.loss != "poisson":
            return z
        with np.errstate(over="ignore"):
            return np.exp(z)

    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and y.size and y.min() < 0:
            raise ValueError(f"loss='poisson' needs y >= 0, got {y.min()}")
        targets = y.reshape(len(y), -1).astype(X.dtype)
        self.n_outputs_ = targets.shape[1]
        return X, targets

    def _own_loss(self) -> Loss | None:
        if callable(self.loss):
            return self.loss
        if self.loss == "squared_error":
            return None
        others = {"absolute_error": absolute_error, "log_cosh": log_cosh, "poisson": poisson}
        return as_loss(others.get(self.loss) or huber(self.huber_delta))

    def _score_of(self, found: Array, y: Array, sample_weight: Array | None) -> float:
        values = self._values(found).reshape(y.shape)
        if not np.isfinite(values).all():
            return float(np.nan)
        return float(r2_score(y, values, sample_weight=sample_weight))
