"""MLPClassifier: scikit-learn's, on fanin's kernels."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from ..reference.loss import Loss
from .estimator import Estimator, by_solver

Array = NDArray[Any]


class MLPClassifier(ClassifierMixin, Estimator):
    """A multilayer perceptron for classes, two or more, or for several labels at once.

    In place of `sklearn.neural_network.MLPClassifier`: with the same random_state it draws the same
    weights, shuffles and validation rows, and takes the same steps, to rounding.

    Parameters
    ----------
    hidden_layer_sizes : numbers of units of the hidden layers
    activation : of the hidden layers: "relu", "tanh", "logistic", "identity", or any other of
        `fanin.MLP`; one, or a list of one per hidden layer
    solver : "adam", "sgd" or "lbfgs"
    alpha : the loss of a batch includes alpha / 2 sum w^2 / (rows of the batch)
    batch_size : rows per step; "auto" is min(200, rows)
    learning_rate : for "sgd": "constant", "invscaling" or "adaptive"
    learning_rate_init, power_t : its first value, and the exponent of "invscaling"
    max_iter : the most epochs ("lbfgs": iterations)
    shuffle : a new order of rows for each epoch
    random_state : seed, numpy.random.RandomState, or None
    tol, n_iter_no_change : training stops when so many epochs in a row did not make the loss (the
        validation score with early_stopping) better by tol
    verbose : True prints a line per epoch, "bar" shows a progress bar
    warm_start : fit goes on with the weights there are
    momentum, nesterovs_momentum : of "sgd"
    early_stopping : stop by the score of validation data and restore the best weights
    validation_fraction : of the rows that are set aside for that
    beta_1, beta_2, epsilon : of "adam"
    max_fun : the most evaluations of the loss, for "lbfgs"

    What scikit-learn's does not have:

    dropout : probability of dropping a hidden unit, in [0, 1); one, or a list of one per layer
    batch_norm : False, True or "before", "after" the activation; one, or a list of one per layer
    init : None draws weights as scikit-learn does; or a name or function of `fanin.init`
    class_weight : None, "balanced", or a dict of classes and weights, which multiply sample_weight
    l1 : the loss of a batch includes l1 sum |w| / (rows of the batch)
    loss : "log_loss", or a function f(z, y) -> (loss, dz), see `fanin.MLP.loss_and_gradients`; y
        has a column for each output, and one more with the weights of rows where there are any
    clip_norm, clip_value : limits of the gradient, see `fanin.Optimizer`
    optimizer : a `fanin.Optimizer` in place of solver and learning rates; it is copied
    keep_optimizer : with warm_start, go on with the optimizer's moments as well
    callbacks : of `fanin.MLP.fit`, functions f(network, history) or `fanin.Callback` objects
    monitor : keep statistics of the layers while training, for `diagnose_` and `history_`
    n_threads : the most threads that fit uses; None leaves it to fanin.  It holds for the whole
        process meanwhile.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_ :
        as in scikit-learn
    coefs_, intercepts_ : lists of arrays (inputs, units) and (units,) for each layer, float32 where
        X was, else float64; views of the network's parameters.  With batch norm before the
        activation an intercept is its beta.
    loss_, loss_curve_, best_loss_, n_iter_, t_ : as in scikit-learn
    validation_scores_, best_validation_score_ : accuracy, with early_stopping
    validation_loss_curve_ : the loss of the validation data after each epoch, or None
    network_ : the `fanin.MLP`
    history_ : the `fanin.History` of the last fit
    diagnose_ : what `fanin.diagnose` says of it, with monitor=True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "loss": [StrOptions({"log_loss"}), callable],
    }

    def __init__(
        self,
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
        class_weight: Any = None,
        l1: float = 0.0,
        loss: Any = "log_loss",
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
        y : (n,) classes, or (n, labels) of 0 and 1
        sample_weight : (n,), optional
        validation_set : (X, y) or (X, y, sample_weight): after each epoch its loss becomes
            validation_loss_curve_; early_stopping uses it in place of a part of X

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As scikit-learn's; a validation set of other columns or with classes unknown to y.
        """
        return self._fit(X, y, sample_weight, validation_set, incremental=False)

    @available_if(by_solver)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        validation_set: Any = None,
    ) -> Self:
        """Train for one epoch on X and y, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight, validation_set : as in `fit`; early_stopping needs validation_set, and
            tells with `stopped_early_` that the best weights have been restored
        classes : all classes that any y will have; needed by the first call

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            With solver="lbfgs".
        ValueError, TypeError
            As `fit`; no classes in the first call, or others later.
        """
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
            self.classes_ = self._label_binarizer.classes_
        return self._fit(X, y, sample_weight, validation_set, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the class of each row of X, (n,), or labels of 0 and 1, (n, labels)."""
        z = self._outputs(X)
        if z.shape[1] > 1 and self._target == "softmax":
            found: Array = self.classes_[z.argmax(axis=1)]
            return found
        if z.shape[1] == 1 and len(self.classes_) == 2:
            found = self.classes_[(z[:, 0] > 0).astype(np.intp)]
            return found
        p = self.network_._probabilities(z)
        found = self._label_binarizer.inverse_transform(p.ravel() if p.shape[1] == 1 else p)
        return found

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, classes), or of each label, (n, labels)."""
        z = self._outputs(X)
        p: Array = self.network_._probabilities(z)
        return np.hstack([1 - p, p]) if p.shape[1] == 1 else p

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of what `predict_proba` returns."""
        p = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(p, out=p)

    # ---- what a classifier adds to training ------------------------------------------------------

    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start and not incremental:
                if set(classes) != set(self.classes_):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {self.classes_}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        if self._target == "softmax" and self.loss == "log_loss":
            self.n_outputs_ = len(self.classes_)
            return X, np.searchsorted(self.classes_, y).astype(np.int64)
        targets = self._label_binarizer.transform(y).astype(X.dtype)
        self.n_outputs_ = targets.shape[1]
        return X, targets

    @property
    def _target(self) -> str:  # type: ignore[override]
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "sigmoid"

    def _last_activation(self) -> str:
        return "softmax" if self._target == "softmax" else "logistic"

    def _weighted(self, sample_weight: Array | None, y: Any, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return sample_weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all "
                "rows; give a dict, as compute_class_weight makes it"
            )
        weight: Array = compute_sample_weight(self.class_weight, y)
        return weight if sample_weight is None else weight * sample_weight

    def _own_loss(self) -> Loss | None:
        return self.loss if callable(self.loss) else None

    def _score_of(self, found: Array, y: Array, sample_weight: Array | None) -> float:
        """Return the accuracy; rows with all labels right, where there are several."""
        if self._target == "softmax":
            right = found == (y if y.ndim == 1 else y.argmax(axis=1))
        else:
            right = (found.reshape(y.shape) == (y > 0.5)).all(axis=1)
        return float(np.average(right, weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
