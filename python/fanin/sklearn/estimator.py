"""What both estimators share: parameters, training as scikit-learn's MLP does it, prediction.

The estimator draws random numbers where scikit-learn draws them and keeps its books (epochs without
improvement, learning rates, the best weights); a `Network` does the arithmetic.  `coefs_` and
`intercepts_` are views of the network's flat vector.
"""

import copy
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..activation import KINDS
from ..optimizer import SGD, Adam
from ..reference.diagnosis import diagnose
from ..reference.finding import Diagnosis
from ..reference.history import History
from ..reference.loss import Loss
from ..reference.optimizer import Optimizer
from ..reference.vectors import vectors_by_name
from ..runtime import get_num_threads, set_num_threads
from .bookkeeping import Books
from .lbfgs import lbfgs
from .loss import with_weights
from .network import Network

Array = NDArray[Any]

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in KINDS}
STOCHASTIC = ("sgd", "adam")


class Estimator(BaseEstimator):
    """Base of MLPClassifier and MLPRegressor."""

    coefs_: list[Array]
    intercepts_: list[Array]
    network_: Network
    history_: History
    _views: tuple[list[Any], list[Any]]  # what coefs_ and intercepts_ held at first
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None
    validation_scores_: list[float] | None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose", StrOptions({"bar"})],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "batch_norm": ["boolean", StrOptions({"before", "after"}), list, tuple],
        "init": [str, callable, list, tuple, None],
        "l1": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "clip_value": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [Optimizer, None],
        "keep_optimizer": ["boolean"],
        "callbacks": [list, tuple],
        "monitor": ["boolean"],
        "n_threads": [Interval(Integral, 1, 1024, closed="both"), None],
    }

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the arguments of __init__ as attributes, untouched."""
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # ---- what the two differ in ----------------------------------------------------------------

    _target: str  # the network's output: "softmax", "sigmoid" or "identity"

    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """Check X and y; return X, and y as the network wants it."""
        raise NotImplementedError

    def _last_activation(self) -> str:
        """Return scikit-learn's name of what follows the network's outputs."""
        raise NotImplementedError

    def _weighted(self, sample_weight: Array | None, y: Any, incremental: bool) -> Array | None:
        """Return the weights of rows with class weights taken in."""
        return sample_weight

    def _own_loss(self) -> Loss | None:
        """Return the loss where it is not the network's own."""
        raise NotImplementedError

    def _score_of(self, found: Array, y: Array, sample_weight: Array | None) -> float:
        """Return the score of what the network predicts, (n,) or (n, outputs)."""
        raise NotImplementedError

    # ---- fitting ---------------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_set: Any,
        incremental: bool,
    ) -> Self:
        hidden = self._hidden()
        if self.solver == "lbfgs" and self.optimizer is None:
            self._refuse_what_needs_epochs(validation_set)
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        given = y
        X, y = self._check_targets(X, y, incremental, reset=first_pass)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        sample_weight = self._weighted(sample_weight, given, incremental)
        if self.early_stopping and incremental and validation_set is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True without validation_set=(X, y)"
            )
        held_out = self._held_out(validation_set)

        self._random_state = check_random_state(self.random_state)
        self.out_activation_ = self._last_activation()
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        if first_pass:
            self._initialize(sizes, X.dtype)
        else:
            self._continue(sizes, X.dtype)
        with _threads(self.n_threads):
            if self.solver in STOCHASTIC or self.optimizer is not None:
                self._fit_stochastic(X, y, sample_weight, held_out, incremental)
            else:
                self._fit_lbfgs(X, y, sample_weight)
        if not np.isfinite(self.network_.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        return self

    def _refuse_what_needs_epochs(self, validation_set: Any) -> None:
        """Refuse what L-BFGS would leave out; scikit-learn's own settings it does, as there."""
        wanted = {
            "validation_set": validation_set is not None,
            "callbacks": len(self.callbacks) > 0,
            "monitor": self.monitor,
            "clip_norm": self.clip_norm is not None,
            "clip_value": self.clip_value is not None,
        }
        for name, given in wanted.items():
            if given:
                raise ValueError(
                    f"{name}: expected none with solver='lbfgs', which has no epochs and clips no "
                    "gradients; use 'adam' or 'sgd'"
                )

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [operator.index(size) for size in sizes]

    def _held_out(self, given: Any) -> tuple[Any, Array, Array | None] | None:
        """Return the caller's validation data, checked."""
        if given is None:
            return None
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise ValueError("validation_set: expected (X, y) or (X, y, sample_weight)")
        X, y = self._check_targets(given[0], given[1], incremental=True, reset=False)
        weight = _check_sample_weight(given[2], X) if len(given) == 3 else None
        return X, y, weight

    def _initialize(self, sizes: list[int], dtype: Any) -> None:
        """Draw the weights and begin the books."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(sizes)
        self._build(sizes, dtype)
        if self.init is None:
            self._draw_weights()
        self._best = self._copy_of_vectors()
        if self.solver in STOCHASTIC or self.optimizer is not None:
            self._begin_books()

    def _begin_books(self) -> None:
        self.loss_curve_ = []
        self.validation_loss_curve_ = None
        self._no_improvement_count = 0
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        self.best_loss_ = None if self.early_stopping else np.inf

    def _build(self, sizes: list[int], dtype: Any) -> None:
        """Make the network of the present settings."""
        activation = self.activation
        several = not isinstance(activation, str)
        uses_chance = self.init is not None or np.any(np.asarray(self.dropout) > 0)
        self._built = self._settings(sizes)
        self.network_ = Network(
            sizes,
            activation=[ACTIVATIONS.get(a, a) for a in activation]
            if several
            else ACTIVATIONS[activation],
            output=self._target,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            init=self.init,
            dtype=dtype,
            seed=int(self._random_state.randint(1 << 31)) if uses_chance else 0,
        )
        self._show_parameters()

    def _settings(self, sizes: list[int]) -> list[Any]:
        """Return what a network is built of, to see whether it still is what is asked for."""
        return [sizes, self.activation, self.dropout, self.batch_norm, self._target]

    def _draw_weights(self) -> None:
        """Draw weights and biases as scikit-learn does: uniform, by Glorot and Bengio."""
        factor = 2.0 if self.activation == "logistic" else 6.0
        for layer in self.network_.layers:
            bound = np.sqrt(factor / (layer.fan_in + layer.fan_out))
            shape = layer.fan_in, layer.fan_out
            layer.weight = self._random_state.uniform(-bound, bound, shape)
            bias = self._random_state.uniform(-bound, bound, layer.fan_out)
            if layer.bias is not None:
                layer.bias = bias

    def _continue(self, sizes: list[int], dtype: Any) -> None:
        """Go on with the weights there are, in a network of the present settings."""
        if not hasattr(self, "network_"):  # coefs_ were set by hand
            coefs, intercepts = self.coefs_, self.intercepts_
            self._build(sizes, dtype)
            self.coefs_, self.intercepts_ = list(coefs), list(intercepts)
            self._best = self._copy_of_vectors()
        self._read_parameters()
        if self._built == self._settings(sizes):
            return
        old, built = self.network_, self._built
        self._build(sizes, old.dtype)
        if _layout(self.network_) != _layout(old):
            self.network_, self._built = old, built
            self._show_parameters()
            raise ValueError(
                f"cannot go on with other layers: the network has {old.sizes}, the parameters and "
                f"data ask for {sizes}"
            )
        self.network_._set_vectors(vectors_by_name(old))

    def _show_parameters(self) -> None:
        """Let coefs_ and intercepts_ be views of the network's parameters."""
        layers = self.network_.layers
        coefs: list[Any] = [layer.weight for layer in layers]
        intercepts: list[Any] = [
            layer.beta if layer.bias is None else layer.bias for layer in layers
        ]
        self._views = coefs, intercepts
        self.coefs_, self.intercepts_ = list(coefs), list(intercepts)

    def _read_parameters(self) -> Network:
        """Return the network, with what was put in the place of a view copied into it."""
        network = self.network_
        for name, views in zip(("coefs_", "intercepts_"), self._views, strict=True):
            given: Any = getattr(self, name)
            if len(given) == len(views) and all(map(operator.is_, given, views)):
                continue
            if [np.shape(a) for a in given] != [a.shape for a in views]:
                raise ValueError(
                    f"{name}: expected arrays of shapes {[a.shape for a in views]}, "
                    f"got {[np.shape(a) for a in given]}"
                )
            for view, values in zip(views, given, strict=True):
                view[...] = values
            setattr(self, name, list(views))
        return network

    def _copy_of_vectors(self) -> dict[str, Array]:
        return {name: vector.copy() for name, vector in vectors_by_name(self.network_).items()}

    # ---- sgd, adam and optimizers of one's own -------------------------------------------------

    def _fit_stochastic(
        self,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        held_out: tuple[Any, Array, Array | None] | None,
        incremental: bool,
    ) -> None:
        if not hasattr(self, "loss_curve_"):  # what came before was L-BFGS
            self._begin_books()
        elif self.early_stopping != (self.best_loss_ is None):  # or stopped otherwise
            curves = self.loss_curve_, self.validation_loss_curve_
            self._begin_books()
            self.loss_curve_, self.validation_loss_curve_ = curves
        keeps = incremental or (self.keep_optimizer and self.warm_start)
        if not keeps or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer()
        if self.early_stopping and held_out is None:
            X, y, sample_weight, held_out = self._split(X, y, sample_weight)
        rows = X.shape[0]
        if self.batch_size == "auto":
            batch_size = min(200, rows)
        else:
            if self.batch_size > rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                    "clipped",
                    stacklevel=4,
                )
            batch_size = int(np.clip(self.batch_size, 1, rows))

        network, loss = self.network_, self._own_loss()
        network.alpha, network.l1 = float(self.alpha), float(self.l1)
        books = Books(self, held_out, rows)
        data: dict[str, Any] = {"sample_weight": sample_weight}
        if held_out is not None:
            self.validation_loss_curve_ = self.validation_loss_curve_ or []
            data["validation"] = held_out[:2] if held_out[2] is None else held_out
        if loss is not None:
            y = with_weights(y, sample_weight)
            data = {"loss": loss}
            if held_out is not None:
                data["validation"] = held_out[0], with_weights(*held_out[1:])
        self.n_iter_ = 0
        with network.rows_of_a_fit(rows, batch_size, sample_weight, self._random_state):
            self.history_ = network.fit(
                X,
                y,
                epochs=1 if incremental else self.max_iter,
                batch_size=batch_size,
                optimizer=self._optimizer,
                shuffle=self.shuffle,
                callbacks=[books.end_epoch, *self.callbacks],
                metrics={"score": books.score} if held_out is not None else {},
                monitor=self.monitor,
                progress=isinstance(self.verbose, str),  # "bar"
                **data,
            )
        self.stopped_early_ = self.early_stopping and books.stopped
        if self.early_stopping and (books.stopped or not incremental):
            self.network_._set_vectors(self._best)
            self._no_improvement_count = 0 if incremental else self._no_improvement_count
        if self.n_iter_ == self.max_iter and not (books.stopped or incremental):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _new_optimizer(self) -> Optimizer:
        if self.optimizer is not None:
            return copy.deepcopy(self.optimizer)
        limits = {"clip_norm": self.clip_norm, "clip_value": self.clip_value}
        lr = float(self.learning_rate_init)
        if self.solver == "adam":
            betas = self.beta_1, self.beta_2
            return Adam(lr, betas=betas, eps=self.epsilon, eps_hat=True, **limits)
        nesterov = bool(self.nesterovs_momentum and self.momentum > 0)
        optimizer = SGD(lr, momentum=min(self.momentum, 0.5), nesterov=nesterov, **limits)
        optimizer.momentum = float(self.momentum)  # may be 1 here
        return optimizer

    def _split(
        self, X: Any, y: Array, sample_weight: Array | None
    ) -> tuple[Any, Array, Array | None, tuple[Any, Array, Array | None]]:
        """Set aside validation_fraction of the rows, stratified where there are two classes."""
        stratify = y.astype(bool) if self._target == "sigmoid" and y.shape[1] == 1 else None
        train, held_out = train_test_split(
            np.arange(X.shape[0]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=stratify,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        weights = (None, None)
        if sample_weight is not None:
            weights = sample_weight[train], sample_weight[held_out]
        return X[train], y[train], weights[0], (X[held_out], y[held_out], weights[1])

    def _fit_lbfgs(self, X: Any, y: Array, sample_weight: Array | None) -> None:
        network, loss = self.network_, self._own_loss()
        network.alpha, network.l1 = float(self.alpha), float(self.l1)
        limits = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        found = lbfgs(network, X, y, sample_weight, loss, limits)
        self.loss_ = float(found.fun)
        self.n_iter_ = min(found.nit, self.max_iter)
        if found.status != 0:
            more = ""
            if self.n_iter_ == self.max_iter:
                more = (
                    "\nIncrease the number of iterations to improve the convergence "
                    f"(max_iter={self.max_iter})."
                )
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) "
                f"(status={found.status}):\n{found.message}\n{more}\n"
                "You might also want to scale the data as shown in:\n"
                "    https://scikit-learn.org/stable/modules/preprocessing.html",
                ConvergenceWarning,
                stacklevel=4,
            )

    # ---- using -----------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """Return the network's outputs z, before softmax, sigmoid or exp, for checked rows."""
        network = self.__dict__.get("network_")
        if (
            network is not None
            and type(X) is np.ndarray
            and X.dtype == network.dtype
            and X.ndim == 2
            and X.shape[1] == network.sizes[0]
            and X.flags.c_contiguous
            and len(X) > 0
            and "feature_names_in_" not in self.__dict__
            and np.isfinite(X).all()
        ):
            z: Array = self._read_parameters().forward(X)
            return z
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        z = self._read_parameters()._outputs(X)
        return z.astype(np.result_type(z.dtype, X.dtype), copy=False)

    @property
    def diagnose_(self) -> Diagnosis:
        """What `fanin.diagnose` finds in the last training; it needs monitor=True."""
        if not hasattr(self, "history_") or self.history_.monitor is None:
            raise AttributeError(
                "diagnose_: expected an estimator trained with monitor=True; set it and fit again"
            )
        return diagnose(self.history_, self.network_)

    # ---- copies, files ---------------------------------------------------------------------------

    def __copy__(self) -> Self:
        """Return a shallow copy that has a network of its own, so that its coefs_ can be set."""
        twin = type(self).__new__(type(self))
        state = self.__getstate__()
        if "network_" in state:
            state["network_"] = copy.copy(state["network_"])
        twin.__setstate__(state)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return settings and the network, which pickles by its weights."""
        if "network_" in self.__dict__:
            self._read_parameters()
        shown = ("coefs_", "intercepts_", "_views") if "network_" in self.__dict__ else ()
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in shown}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().__setstate__(state)
        if "network_" in state:
            self._show_parameters()

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a network; a fit that was refused may leave other attributes."""
        return "network_" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _layout(network: Network) -> tuple[list[int], list[Any]]:
    """Return what decides where a network's parameters lie in its vectors."""
    return network.sizes, [layer.batch_norm for layer in network.layers]


def by_solver(estimator: Estimator) -> bool:
    """Return whether the estimator can train in parts; else raise AttributeError."""
    if estimator.solver not in STOCHASTIC and estimator.optimizer is None:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


_limits: list[int] = []  # n_threads of the fits under way
_before = 1  # the number of threads while there were none
_limits_change = Lock()


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Let fanin use at most n threads meanwhile, fewer where another fit asks for fewer."""
    global _before
    if n is None:
        yield
        return
    with _limits_change:
        if not _limits:
            _before = get_num_threads()
        _limits.append(n)
        set_num_threads(min(_limits))
    try:
        yield
    finally:
        with _limits_change:
            _limits.remove(n)
            set_num_threads(min(_limits, default=_before))
