"""What scikit-learn's MLP writes down after each epoch, and when it stops."""

from typing import Any

from numpy.typing import NDArray

from ..optimizer import SGD
from ..reference.history import History

Array = NDArray[Any]


class Books:
    """What scikit-learn's MLP does after each epoch: losses, scores, when to stop."""

    def __init__(
        self, estimator: Any, held_out: tuple[Any, Array, Array | None] | None, rows: int
    ) -> None:
        """Begin them for a training on so many rows."""
        self.estimator, self.held_out, self.rows = estimator, held_out, rows
        self.stopped = False

    def score(self, y: Array, found: Array) -> float:
        """Return the score of what the network predicts for the validation data."""
        assert self.held_out is not None
        score: float = self.estimator._score_of(found, *self.held_out[1:])
        return score

    def end_epoch(self, network: Any, history: History) -> bool:
        """Write down an epoch; return whether to stop."""
        e = self.estimator
        e.n_iter_ += 1
        e.loss_ = history.loss[-1]
        e.t_ += self.rows
        e.loss_curve_.append(e.loss_)
        speaks = bool(e.verbose) and e.verbose != "bar"
        if speaks:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        if self.held_out is not None:
            e.validation_loss_curve_.append(history.val_loss[-1])
        if e.early_stopping:
            self._look_at_score(history.metrics["score"][-1], speaks)
        else:
            self._look_at_loss()
        optimizer = e._optimizer
        if e.optimizer is None and e.solver == "sgd" and e.learning_rate == "invscaling":
            change_rate(optimizer, float(e.learning_rate_init) / (e.t_ + 1) ** e.power_t)
        if e._no_improvement_count > e.n_iter_no_change:
            self.stopped = self._says_stop(speaks)
            if not self.stopped:
                e._no_improvement_count = 0
        return self.stopped

    def _look_at_score(self, score: float, speaks: bool) -> None:
        e = self.estimator
        e.validation_scores_.append(score)
        if speaks:
            print(f"Validation score: {score:f}")
        improves = not score < e.best_validation_score_ + e.tol
        e._no_improvement_count = 0 if improves else e._no_improvement_count + 1
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            e._best = e._copy_of_vectors()

    def _look_at_loss(self) -> None:
        e = self.estimator
        improves = not e.loss_ > e.best_loss_ - e.tol
        e._no_improvement_count = 0 if improves else e._no_improvement_count + 1
        if e.loss_ < e.best_loss_:
            e.best_loss_ = e.loss_

    def _says_stop(self, speaks: bool) -> bool:
        """Stop, or lower an adaptive learning rate."""
        e, optimizer = self.estimator, self.estimator._optimizer
        what = "Validation score" if e.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} "
            "consecutive epochs."
        )
        if e.optimizer is not None or e.solver != "sgd" or e.learning_rate != "adaptive":
            message, stop = f"{message} Stopping.", True
        elif optimizer.lr <= 1e-6:
            message, stop = f"{message} Learning rate too small. Stopping.", True
        else:
            change_rate(optimizer, optimizer.lr / 5.0)
            message, stop = f"{message} Setting learning rate to {optimizer.lr:f}", False
        if speaks:
            print(message)
        return stop


def change_rate(optimizer: SGD, lr: float) -> None:
    """Change SGD's learning rate.  scikit-learn's velocity, -lr times ours, keeps its value."""
    momentum = optimizer.state.get("momentum")
    if momentum is not None:
        momentum *= float(optimizer.lr) / lr  # type: ignore[arg-type]
    optimizer.lr = lr
