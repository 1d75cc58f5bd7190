"""A network of dense layers: forward, backward, one step, and the methods users call.

All parameters are ONE flat vector; each layer's weight, bias, gamma and beta are views of it.
The gradients are a second such vector, in the same order.

`MLP` is written so that a compiled network can inherit all of it and replace the arithmetic:
`_bind`, `_forward`, `_backward`, `_loss_and_gradients`, `update`, `_train_rows` and `_order`.
"""

import itertools
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import aligned, arguments, saving, training
from .activation import sigmoid
from .arguments import Array
from .batch_norm import EPS
from .callbacks import Callbacks
from .checkpoint import Checkpoint
from .dense import (
    Layer,
    LayerCache,
    Norms,
    drop,
    layer_backward,
    layer_forward,
    limit_norms,
    norm,
    shrink,
    vectors_of,
)
from .early_stopping import EarlyStopping
from .history import History
from .init import Init, draw, resolve
from .loss import PLAIN, ClassWeight, Loss, LossForm, own_loss, softmax
from .optimizer import SGD, Adam, AdamW, Optimizer, RMSprop
from .random import Stream, permutation
from .standardizer import Standardizer, check_standardizer
from .training import Augment, HeldOut, Metric
from .vectors import VECTORS, assign, on_host, vectors_by_name

# What a file holds besides the vectors: the settings that make the layers.
_CONFIG = (
    "sizes", "activation", "output", "dropout", "batch_norm", "l1", "l2", "dtype", "precision",
    "seed", "step", "epoch", "input_scale", "input_dropout", "max_norm", "l1_step",
    "standardizer", "target_standardizer",
)  # fmt: skip
# Settings that files of the first releases lack.
_ADDED = {"input_dropout": 0.0, "max_norm": None, "l1_step": "subgradient",
          "standardizer": None, "target_standardizer": None}  # fmt: skip


class MLP:
    """A multilayer perceptron: dense layers, each x @ w + b, then an activation, then dropout.

    Parameters
    ----------
    sizes : numbers of inputs, of units of each hidden layer, of outputs; at most 65535 layers with
        weights
    activation : of the hidden layers; one name, or one per hidden layer
    output : "softmax" (classes), "sigmoid" (yes-or-no outputs) or "identity" (numbers); it
        decides on the loss: cross entropy, binary cross entropy, mean squared error
    dropout : probability of dropping, in [0, 1); one, or one per hidden layer
    input_dropout : probability of dropping an input, in [0, 1), in training
    batch_norm : of the hidden layers: "before" the activation, or True, in place of the bias;
        "after" it and before dropout; or False; one, or one per hidden layer
    init : a name or a callable of `init`; one, or one per layer with weights
    l1, l2 : l1 sum |w| + l2 / 2 sum w^2 is added to the loss; biases, gamma and beta are free;
        one, or one per layer with weights
    l1_step : how l1 is minimised: its "subgradient" l1 sign(w) is part of the gradients, or each
        update is followed by the "proximal" step, which sets weights to 0 exactly; see `update`
    max_norm : after each update the weights into a unit, a column of w, are scaled to a Euclidean
        norm of at most this; None or a number > 0; one, or one per layer with weights
    dtype : "float32" or "float64"
    precision : of the products x @ w, dz @ w.T and x.T @ dz; None for that of dtype, "bfloat16"
        (float32 only) rounds what is multiplied to bfloat16 and adds in float32; on CUDA it also
        keeps activations so, and "tfloat32" (float32 and CUDA only) rounds to 11 bits instead
    seed : of weights, dropout and shuffling, 0 <= seed < 2**64; None draws one
    standardizer : of the rows that `fit`, `predict`, `predict_proba` and `evaluate` are given,
        in place of input_scale; a `Standardizer`, of which a copy is kept.  One without
        statistics gets them from the rows (not the validation rows) of the first `fit`.
    target_standardizer : likewise of the targets, for output="identity".  The loss is then that
        of standardised targets; `predict` and the r2 of `evaluate` are in the units of y.
    device : "cpu", or of `fanin.MLP` also "cuda": vectors are then CuPy arrays on the current GPU

    Attributes
    ----------
    parameters, gradients : flat vectors; layer by layer the weight in C order, then the bias
        (none where batch norm comes before the activation), then gamma and beta of batch norm.
        Setting one copies the values.
    running_mean, running_var : flat vectors of the layers with batch norm
    layers : list of Layer
    sizes, output, dtype, precision, input_dropout, l1_step, seed, device
    batch_norm : whether any layer has it
    step : number of updates so far; layer l's dropout has the key (seed, step, l), that of the
        inputs (seed, step, 65535).  Only an
        update advances it, so forward passes in training repeat their masks until then, which
        is what a gradient check wants.
    epoch : number of epochs begun so far, which sets the order of the rows
    input_scale : what `fit`, `predict`, `predict_proba` and `evaluate` multiply x with, or None
    standardizer, target_standardizer : Standardizer or None; saved with the network

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong type, out of range, or with the wrong number of entries.
    RuntimeError, ImportError, MemoryError
        device="cuda" and there is none, or no CuPy, or not enough memory; says what is missing.

    Notes
    -----
    A lock lets one thread at a time use the network.  Networks can be copied and pickled.
    """

    _default_optimizer: type[Optimizer] = Adam
    _stream: type[Stream] = Stream
    _layer: type[Layer] = Layer
    device: str = "cpu"
    _precisions: tuple[str, ...] = ("bfloat16",)
    # Of the output's own loss, wherever there is one; read by `_bind`, so it stays as it is then.
    _loss_form: LossForm = PLAIN

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        output: str = "softmax",
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        batch_norm: bool | str | Sequence[bool | str] = False,
        init: str | Init | Sequence[str | Init] = "auto",
        l1: float | Sequence[float] = 0.0,
        l2: float | Sequence[float] = 0.0,
        l1_step: Literal["subgradient", "proximal"] = "subgradient",
        max_norm: float | Sequence[float | None] | None = None,
        dtype: DTypeLike = "float32",
        precision: Literal["bfloat16", "tfloat32"] | None = None,
        seed: int | None = 0,
        standardizer: Standardizer | None = None,
        target_standardizer: Standardizer | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        """Check the settings, lay out the vectors, draw the weights."""
        self._build(
            device=device,
            sizes=sizes,
            activation=activation,
            output=output,
            dropout=dropout,
            input_dropout=input_dropout,
            batch_norm=batch_norm,
            l1=l1,
            l2=l2,
            l1_step=l1_step,
            max_norm=max_norm,
            dtype=dtype,
            precision=precision,
            seed=int.from_bytes(os.urandom(8), "little") if seed is None else seed,
            standardizer=standardizer,
            target_standardizer=target_standardizer,
        )
        self._draw_weights(init)

    # ---- making one --------------------------------------------------------------------------

    def _build(
        self,
        *,
        sizes: Any,
        activation: Any,
        output: Any,
        dropout: Any,
        batch_norm: Any,
        l1: Any,
        l2: Any,
        dtype: Any,
        seed: Any,
        precision: Any = None,
        step: Any = 0,
        epoch: Any = 0,
        input_scale: Any = None,
        standardizer: Any = None,
        target_standardizer: Any = None,
        input_dropout: Any = 0.0,
        l1_step: Any = "subgradient",
        max_norm: Any = None,
        device: Any = None,
    ) -> None:
        """Check the settings and lay out vectors and layers; weights stay 0.

        device : None for that of the class
        """
        if device is not None:
            arguments.check_choice("device", device, (self.device,))
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise TypeError(f"sizes: expected two or more integers, got {sizes!r}")
        self.sizes = [arguments.check_integer("sizes", size, 1) for size in sizes]
        if len(self.sizes) < 2:
            raise ValueError(f"sizes: expected two or more integers, got {self.sizes}")
        if len(self.sizes) - 1 > arguments.INPUT_LAYER:  # whose masks are those of the inputs
            raise ValueError(
                f"sizes: expected at most {arguments.INPUT_LAYER} layers with weights, "
                f"got {len(self.sizes) - 1}"
            )
        hidden = len(self.sizes) - 2
        activations = arguments.per_layer(
            "activation", activation, hidden, arguments.check_activation
        )
        dropouts = arguments.per_layer("dropout", dropout, hidden, arguments.check_below_one)
        l1s = arguments.per_layer("l1", l1, hidden + 1, arguments.check_nonnegative)
        l2s = arguments.per_layer("l2", l2, hidden + 1, arguments.check_nonnegative)
        limits = arguments.per_layer("max_norm", max_norm, hidden + 1, arguments.check_limit)
        norms = _batch_norms(self.sizes, batch_norm)
        self.output = arguments.check_choice("output", output, arguments.OUTPUTS)
        self.batch_norm = any(norms)
        self.input_dropout = arguments.check_below_one("input_dropout", input_dropout)
        self.l1_step = arguments.check_choice("l1_step", l1_step, arguments.L1_STEPS)
        self.dtype = arguments.check_float_dtype(dtype)
        self.precision = arguments.check_precision(precision, self.dtype, self._precisions)
        self._seed = arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT)
        self.step = arguments.check_integer("step", step, 0, arguments.STEP_LIMIT)
        self.epoch = arguments.check_integer("epoch", epoch, 0, arguments.STEP_LIMIT)
        self.input_scale = None if input_scale is None else training.check_scale(input_scale)
        self.standardizer = check_standardizer("standardizer", standardizer, self.sizes[0])
        self.target_standardizer = check_standardizer(
            "target_standardizer", target_standardizer, self.sizes[-1]
        )
        if self.target_standardizer is not None and self.output != "identity":
            raise ValueError(
                f"target_standardizer: expected None for output={self.output!r}, whose targets "
                "are no free numbers"
            )

        counts = _parameters_per_layer(self.sizes, norms)
        width = sum(n for n, norm in zip(self.sizes[1:], norms, strict=True) if norm)
        vectors = self._make_vectors(sum(counts), width)
        self._parameters, self._gradients, self._running_mean, self._running_var = vectors
        self._decay_mask = np.zeros(sum(counts), np.bool_)
        self.layers: list[Layer] = []
        place = unit = 0
        for i, (k, n) in enumerate(itertools.pairwise(self.sizes)):
            part, units = slice(place, place + counts[i]), slice(unit, unit + n)
            layer = self._layer(
                k,
                n,
                activation=(*activations, "identity")[i],
                dropout=(*dropouts, 0.0)[i],
                batch_norm=norms[i],
                l1=l1s[i],
                l2=l2s[i],
                l1_step=self.l1_step,
                max_norm=limits[i],
                precision=self.precision,
                parameters=self._parameters[part],
                gradients=self._gradients[part],
                running_mean=self._running_mean[units],
                running_var=self._running_var[units],
            )
            self._decay_mask[place : place + k * n] = True
            self.layers.append(layer)
            place, unit = part.stop, units.stop if norms[i] else unit
        self._lock = threading.RLock()
        self._pending: tuple[int, int] | None = None  # thread and rows of a training forward
        self._caches: list[LayerCache] = []
        self._begun: list[dict[str, Any]] = []  # the run of a checkpoint this network is in
        self._bind()

    def _draw_weights(self, init: Any) -> None:
        inits = arguments.per_layer("init", init, len(self.layers), lambda _, value: value)
        for i, (layer, name) in enumerate(zip(self.layers, inits, strict=True)):
            activation = layer.activation if layer is not self.layers[-1] else "output"
            rule = resolve(name, activation)
            layer.weight = draw(rule, layer.fan_in, layer.fan_out, self._stream(self.seed, i))

    def _config(self) -> dict[str, Any]:
        hidden = self.layers[:-1]
        return {
            "sizes": list(self.sizes),
            "activation": [layer.activation for layer in hidden],
            "output": self.output,
            "dropout": [layer.dropout for layer in hidden],
            "input_dropout": self.input_dropout,
            "batch_norm": [layer.batch_norm for layer in hidden],
            "l1": [layer.l1 for layer in self.layers],
            "l2": [layer.l2 for layer in self.layers],
            "l1_step": self.l1_step,
            "max_norm": [layer.max_norm for layer in self.layers],
            "dtype": str(self.dtype),
            "precision": self.precision,
            "seed": int(self.seed),
            "step": int(self.step),
            "epoch": int(self.epoch),
            "input_scale": None if self.input_scale is None else float(self.input_scale),
            "standardizer": self.standardizer and self.standardizer.to_config(),
            "target_standardizer": self.target_standardizer
            and self.target_standardizer.to_config(),
        }

    @property
    def seed(self) -> int:
        """The seed of weights, masks and order, fixed when the network is made."""
        return self._seed

    @property
    def parameters(self) -> Array:
        """All parameters, flat."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        self._copy_values("parameters", self._parameters, values)
        self._pending = None

    @property
    def gradients(self) -> Array:
        """Their gradients, flat, in the same order, of the last `loss_and_gradients` or `backward`.

        `train_step` and `fit` may use each gradient where it is made: afterwards these have no
        meaning.
        """
        return self._gradients

    @gradients.setter
    def gradients(self, values: Any) -> None:
        self._copy_values("gradients", self._gradients, values)

    @property
    def running_mean(self) -> Array:
        """The running means of all layers with batch norm, flat."""
        return self._running_mean

    @running_mean.setter
    def running_mean(self, values: Any) -> None:
        self._copy_values("running_mean", self._running_mean, values)

    @property
    def running_var(self) -> Array:
        """The running variances of all layers with batch norm, flat."""
        return self._running_var

    @running_var.setter
    def running_var(self, values: Any) -> None:
        self._copy_values("running_var", self._running_var, values)

    @property
    def n_parameters(self) -> int:
        """The number of parameters."""
        return self._parameters.size

    def __repr__(self) -> str:
        """Return a small table of the layers."""
        arrows = [f"{layer.fan_in} -> {layer.fan_out}" for layer in self.layers]
        wide = max(map(len, arrows))
        lines = [
            f"MLP of {self.n_parameters} parameters, {self.dtype}, "
            f"seed {self.seed}, step {self.step}"
        ]
        for i, (layer, arrow) in enumerate(zip(self.layers, arrows, strict=True)):
            parts = [self.output if layer is self.layers[-1] else layer.activation]
            if i == 0 and self.input_dropout:
                parts.insert(0, f"input dropout {self.input_dropout:g}")
            if layer.batch_norm:
                parts.insert(len(parts) - (layer.batch_norm == "before"), "batch norm")
            for name in ("dropout", "l1", "l2", "max_norm"):
                value = getattr(layer, name)
                kind = "proximal " if name == "l1" and self.l1_step == "proximal" else ""
                parts += [f"{kind}{name} {value:g}"] if value else []
            lines.append(f"  {i}  {arrow:{wide}}  {', '.join(parts)}")
        return "\n".join(lines)

    # ---- hooks: the arithmetic a compiled network replaces -------------------------------------

    def _make_vectors(self, parameters: int, units: int) -> tuple[Array, Array, Array, Array]:
        """Hook: return parameters and gradients, 0, and running means and variances, 0 and 1."""
        return (
            aligned.zeros(parameters, self.dtype),
            aligned.zeros(parameters, self.dtype),
            np.zeros(units, self.dtype),
            np.ones(units, self.dtype),
        )

    def _copy_values(self, name: str, vector: Array, values: Any) -> None:
        """Hook: copy values into the vector of this name."""
        if values is not vector:
            values = np.asarray(values)
            arguments.check_shape(name, values, vector.shape, "(the network's)")
            vector[...] = values

    def _exchange(self, vectors: dict[str, Array]) -> None:
        """Hook: exchange the network's vectors and these, all of them or none."""
        own, others = vectors_by_name(self).values(), vectors.values()
        copies = [vector.copy() for vector in own]
        self._pending = None
        assign([*own, *others], [*others, *copies])

    def _prepare(self, optimizer: Any) -> None:
        """Hook: let an optimizer check the vectors and create its moments."""
        if isinstance(optimizer, Optimizer):
            optimizer.prepare(self._parameters, self._gradients)

    def _bind(self) -> None:
        """Hook: vectors and layers have just been made (also by a copy, by loading)."""

    def _forward(self, x: Array, training: bool, stats: bool | int = False) -> Array:
        """Hook: return the output layer's z (m, outputs) for x (m, inputs) of the net's dtype.

        stats : as in `_loss_and_gradients`
        """
        return self._run(x, training, stats)

    def _backward(self, dout: Array, need_dx: bool) -> Array | None:
        """Hook: fill the gradients after a training forward; return dx (m, inputs) if needed."""
        da: Array | None = dout
        for i in reversed(range(len(self.layers))):
            assert da is not None
            key = self.seed, self.step, i
            da = layer_backward(self.layers[i], da, self._caches[i], key, need_dx or i > 0)
        return self._drop_inputs(da) if da is not None and need_dx else da

    def _loss_and_gradients(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        class_weight: Array | None,
        label_smoothing: float,
        stats: bool | int = False,
    ) -> float:
        """Hook: fill the gradients for one checked batch; return the loss with its penalties.

        stats : True leaves each layer's statistics in layer.stats, an integer with a histogram of
            so many bins
        """
        z = self._run(x, True, stats)
        loss, dz = training.output_loss(
            self.output, z, y, sample_weight, class_weight, label_smoothing, self._loss_form
        )
        loss += self._penalty()
        self._backward(dz, need_dx=False)
        return loss

    def _own_loss_and_gradients(
        self, x: Array, y: Array, function: Loss, stats: bool | int = False
    ) -> float:
        """Do the same with a loss of one's own: forward, the function, backward."""
        loss, dz = own_loss(function, self._forward(x, True, stats), y)
        self._backward(dz, need_dx=False)
        return loss + self._penalty()

    def update(self, optimizer: Optimizer) -> None:
        """Let the optimizer change the parameters by the gradients; AdamW decays weights only.

        With l1_step="proximal" each weight then becomes sign(w) max(|w| - l1 s, 0), where s is the
        optimizer's `step_size`.  Last, max_norm is seen to.

        Parameters
        ----------
        optimizer : such as Adam(1e-3), or any object with update(parameters, gradients)

        Raises
        ------
        TypeError, ValueError
            Not an optimizer, or one that belongs to a network of another size or dtype; with
            l1_step="proximal", one that is not SGD, RMSprop, Adam, AdamW or made from them.
        """
        self._check_optimizer(optimizer)
        with self._lock:
            lr = optimizer.learning_rate() if isinstance(optimizer, Optimizer) else math.nan
            if isinstance(optimizer, AdamW):
                optimizer.update(self._parameters, self._gradients, decay_mask=self._decay_mask)
            else:
                optimizer.update(self._parameters, self._gradients)
            if self._constrains():
                self._constrain(optimizer, lr)
            self.step += 1
            self._pending = None

    def _train_rows(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: NDArray[np.int64] | None,
        batch_size: int,
        optimizer: Optimizer,
        *,
        class_weight: Array | None,
        label_smoothing: float,
        scale: training.Scaling,
        stats: bool | int,
        loss: Loss | None = None,
        total: float = 0.0,
        penalties: Array | None = None,
    ) -> tuple[float, int]:
        """Hook: steps over these rows (None: all, in order), in batches of `batch_size`.

        x has any real dtype: a batch is cast to the network's and scaled by `scale`.  May
        return early, after about SLICE_SECONDS or a loss that is not finite, and is then called
        again with the rows that are left.  `stats`: as in `_loss_and_gradients`, of the batch that
        ends `rows`.  `loss`: one's own.  `penalties` (steps, 2): l1 and l2 of all layers in each
        step, for estimators whose penalty is divided by the rows of each batch; those of the last
        step stay.  Not on CUDA.

        Returns `total` with each step's loss times its rows added, and the number of rows done.
        """
        until = time.perf_counter() + training.SLICE_SECONDS
        count = len(x) if rows is None else len(rows)
        done = 0
        while done < count:
            end = min(done + batch_size, count)
            chosen = slice(done, end) if rows is None else rows[done:end]
            monitored = stats is not False and end == count
            if penalties is not None:
                self._set_penalties(*map(float, penalties[done // batch_size]))
            batch, stats_here = training.gather(x, chosen, self.dtype, scale), monitored and stats
            if loss is None:
                value = self._loss_and_gradients(
                    batch,
                    y[chosen],
                    None if sample_weight is None else sample_weight[chosen],
                    class_weight,
                    label_smoothing,
                    stats_here,
                )
            else:
                value = self._own_loss_and_gradients(batch, y[chosen], loss, stats_here)
            before = [layer.weight.copy() for layer in self.layers] if monitored else []
            self.update(optimizer)
            for i, weight in enumerate(before):
                layer = self.layers[i]
                self._keep_norms(i, (norm(layer.dweight), norm(layer.weight - weight)))
            total, done = total + value * (end - done), end
            if not math.isfinite(value) or time.perf_counter() > until:
                break
        return total, done

    def _constrain(self, optimizer: Optimizer, lr: float) -> None:
        """Hook: what follows an update of this learning rate, proximal steps and max_norm."""
        place = 0
        for layer in self.layers:
            if self._shrinks(layer):
                step = optimizer.step_size(lr)
                if isinstance(step, np.ndarray):
                    step = step[place : place + layer.weight.size].reshape(layer.weight.shape)
                shrink(layer.weight, layer.l1 * step)
            if layer.max_norm:
                limit_norms(layer.weight, layer.max_norm)
            place += sum(getattr(layer, n).size for n in ("weight", *vectors_of(layer.batch_norm)))

    def _constrains(self) -> bool:
        return any(layer.max_norm or self._shrinks(layer) for layer in self.layers)

    def _shrinks(self, layer: Layer) -> bool:
        return layer.l1 > 0 and self.l1_step == "proximal"

    def _set_penalties(self, l1: float, l2: float) -> None:
        """Let every layer have these penalties from the next gradients on; floats >= 0."""
        with self._lock:
            for layer in self.layers:
                layer._set_penalties(l1, l2)

    def _check_optimizer(self, optimizer: Any) -> None:
        training.check_optimizer(optimizer)
        if any(map(self._shrinks, self.layers)) and not isinstance(optimizer, SGD | RMSprop | Adam):
            raise TypeError(
                "optimizer: expected SGD, RMSprop, Adam or AdamW with l1_step='proximal', whose "
                f"threshold is theirs; got {optimizer!r}"
            )

    def _keep_norms(self, layer: int, norms: Norms) -> None:
        """Hook: these are a layer's norms in the monitored step just done."""
        self.layers[layer].keep_norms(norms)

    def _nonfinite_layer(self) -> int:
        """Hook: return the first layer whose outputs for the last training batch are not finite.

        The last layer where those of all others are finite.
        """
        outputs = [cache.dense.x for cache in self._caches[1:]]  # what the next layer was given
        found = [i for i, a in enumerate(outputs) if not np.isfinite(a).all()]
        return found[0] if found else len(self.layers) - 1

    def _order(self, count: int) -> NDArray[np.int64]:
        """Hook: return the shuffled order of `count` rows in the present epoch."""
        return permutation(count, self.seed, self.epoch)

    def _run(self, x: Array, training_mode: bool, stats: bool | int) -> Array:
        a, caches = np.ascontiguousarray(x), []  # so that rounding is the same for any strides
        if training_mode:
            a = self._drop_inputs(a)
        for i, layer in enumerate(self.layers):
            a, cache = layer_forward(layer, a, (self.seed, self.step, i), training_mode, stats)
            caches.append(cache)
            if stats:
                assert cache.dense.stats is not None
                layer.keep_stats(cache.dense.stats)
        if training_mode:
            self._caches = caches
        return a

    def _gather(self, x: Array, rows: slice) -> Array:
        """Hook: return these rows of x as the network sees them."""
        return training.gather(x, rows, self.dtype, self.standardizer or self.input_scale)

    def _drop_inputs(self, x: Array) -> Array:
        key = self.seed, self.step, arguments.INPUT_LAYER
        return drop(x, self.input_dropout, key) if self.input_dropout else x

    def _penalty(self) -> float:
        """Return the sum over layers of l1 sum |w| + l2 / 2 sum w^2."""
        return sum(layer.penalty() for layer in self.layers)

    def _output_loss(self, z: Array, y: Array, sample_weight: Array | None) -> float:
        """Hook: return the loss of outputs z, without penalties."""
        return training.output_loss(self.output, z, y, sample_weight, form=self._loss_form)[0]

    def _probabilities(self, z: Array) -> Array:
        """Hook: return the probabilities of the output layer's z."""
        return softmax(z) if self.output == "softmax" else sigmoid(z)

    # ---- steps -------------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False) -> Array:
        """Return the output layer's z = x @ w + b, before softmax or sigmoid.

        Parameters
        ----------
        x : (m, inputs), any real dtype, taken as it is (no input_scale, no standardizer)
        training : dropout on, batch norm with the batch's statistics (which update the running
            ones at each call), and a `backward` may follow

        Returns
        -------
        (m, outputs), the network's dtype.

        Raises
        ------
        TypeError, ValueError
            x is not numbers, has another width; no row (one row with batch norm) in training.
        """
        with self._lock:
            x = self._as_batch(x, training)
            if training:
                self._pending = None
            z = self._forward(x, training)
            if training:
                self._pending = threading.get_ident(), len(x)
            return z

    def backward(self, dout: Any) -> Array:
        """Fill `gradients` for your own loss and return the gradient with respect to x.

        Parameters
        ----------
        dout : (m, outputs); gradient of your loss with respect to what `forward` returned

        Returns
        -------
        dx : (m, inputs), the network's dtype.  `gradients` are overwritten, l1 and l2 included.

        Raises
        ------
        RuntimeError
            No forward(x, training=True) since the last update, or by another thread.
        TypeError, ValueError
            dout is not numbers or has another shape.
        """
        with self._lock:
            if self._pending is None:
                raise RuntimeError(
                    "backward: expected a call of forward(x, training=True) before, since the "
                    "last update"
                )
            thread, rows = self._pending
            if thread != threading.get_ident():
                raise RuntimeError("backward: expected the thread that called forward")
            dout = training.as_array("dout", dout)
            arguments.check_shape("dout", dout, (rows, self.sizes[-1]), "like forward's result")
            dx = self._backward(training.cast(dout, self.dtype), need_dx=True)
            assert dx is not None
            return dx

    def loss_and_gradients(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        loss: Loss | None = None,
    ) -> tuple[float, Array]:
        """Return the loss of a batch in training mode, l1 and l2 included, and the gradients.

        Parameters
        ----------
        x : (m, inputs), any real dtype, taken as it is (no input_scale, no standardizer)
        y : (m,) labels or (m, outputs) probabilities for softmax; values in [0, 1] for sigmoid;
            numbers for identity; (m,) when there is one output
        sample_weight : (m,) numbers >= 0, optional
        class_weight : for softmax: one number >= 0 per class, or a dict, optional
        label_smoothing : in [0, 1], for softmax and sigmoid
        loss : one of your own, a function f(z, y) -> (loss, dz), whatever the output.  z
            (m, outputs), of the network's dtype, is the output layer's x @ w + b, before softmax or
            sigmoid; y is what was given, as an array with m rows of any shape and dtype.  It
            returns a number, the mean over the batch, and its gradient dz (m, outputs); l1 and l2
            are added to both.  It takes neither weights nor label_smoothing.

        Returns
        -------
        loss : float
        gradients : `self.gradients` itself

        Raises
        ------
        TypeError, ValueError
            Shapes that do not match, labels out of range, weights < 0; a loss of your own that
            returns anything else.
        """
        with self._lock:
            x, y, weight, options = self._as_step(
                x, y, sample_weight, class_weight, label_smoothing, loss
            )
            self._pending = None
            x = training.cast(x, self.dtype)
            if loss is None:
                value = self._loss_and_gradients(x, y, weight, *options)
            else:
                value = self._own_loss_and_gradients(x, y, loss)
            return value, self._gradients

    def train_step(
        self,
        x: Any,
        y: Any,
        optimizer: Optimizer,
        *,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        loss: Loss | None = None,
        monitor: bool = False,
    ) -> float:
        """Do one step, `loss_and_gradients` and `update`; return the loss before it.

        Parameters
        ----------
        x, y, sample_weight, class_weight, label_smoothing, loss : see `loss_and_gradients`
        optimizer : such as Adam(1e-3)
        monitor : leave the statistics of this step in each layer's `stats`, without histogram,
            and its norms in `gradient_norm` and `update_norm`

        Returns
        -------
        loss : float

        Raises
        ------
        TypeError, ValueError
            As `loss_and_gradients` and `update`.
        """
        self._check_optimizer(optimizer)
        monitor = arguments.check_bool("monitor", monitor)
        with self._lock:
            x, y, weight, options = self._as_step(
                x, y, sample_weight, class_weight, label_smoothing, loss
            )
            self._pending = None
            total, rows = self._train_rows(
                x, y, weight, None, len(x), optimizer, class_weight=options[0],
                label_smoothing=options[1], scale=None, stats=monitor, loss=loss,
            )  # fmt: skip
            return total / rows

    def _as_batch(self, x: Any, training_mode: bool) -> Array:
        x = training.as_rows("x", x, self.sizes[0])
        if training_mode:
            self._check_rows(x)
        return training.cast(x, self.dtype)

    def _check_rows(self, x: Array) -> None:
        if len(x) < 2 and (len(x) == 0 or self.batch_norm):
            need = "2 rows with batch_norm" if self.batch_norm else "1 row"
            raise ValueError(f"x: expected at least {need} in training, got shape {x.shape}")

    def _as_step(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        class_weight: Any,
        label_smoothing: Any,
        loss: Any,
    ) -> tuple[Array, Array, Array | None, tuple[Array | None, float]]:
        outputs, dtype = self.sizes[-1], self.dtype
        x = training.as_rows("x", x, self.sizes[0])
        self._check_rows(x)
        if loss is not None:
            training.check_own_loss(loss, sample_weight, class_weight, label_smoothing)
            return x, training.as_own_targets(y, len(x)), None, (None, 0.0)
        y = training.as_targets(self.output, y, len(x), outputs, dtype)
        weight = training.as_sample_weight(sample_weight, len(x), dtype)
        if class_weight is None and type(label_smoothing) is float and label_smoothing == 0.0:
            return x, y, weight, (None, 0.0)
        options = training.as_loss_options(
            self.output, class_weight, label_smoothing, outputs, dtype
        )
        return x, y, weight, options

    # ---- training and using --------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        validation: tuple[Any, ...] | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        optimizer: Optimizer | None = None,
        input_scale: float | None = None,
        early_stopping: int | EarlyStopping | None = None,
        callbacks: Callbacks = (),
        progress: Literal["auto"] | bool = "auto",
        monitor: bool = True,
        shuffle: bool = True,
        augment: Augment | None = None,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] = MappingProxyType({}),
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        stop_on_nan: bool = False,
    ) -> History:
        """Train for some epochs; return what happened in each.

        All data are checked before anything changes.  Ctrl-C ends the training, keeps what was
        learned, and returns the history with `interrupted` set.

        Parameters
        ----------
        x : (n, inputs), any real dtype, also a memory map or a SciPy sparse array; never copied
            as a whole.  The rows of a batch are made dense, cast to the network's dtype, then
            multiplied by input_scale.
        y : labels or targets, see `loss_and_gradients`
        validation : (x, y) or (x, y, sample_weight), evaluated after each epoch (without
            class_weight and label_smoothing)
        epochs : how often to go through the rows
        batch_size : rows per step; the last batch may be smaller.  With batch norm a last batch
            of one row is left out.
        optimizer : Adam(1e-3) when None, new for each call; its learning rate may be one of
            `schedule`
        input_scale : such as 1 / 255 for bytes; kept in `input_scale`, which is used when None.
            A network with a standardizer takes none.
        early_stopping : patience in epochs, or an EarlyStopping
        callbacks : Callback objects, or functions called as f(net, history) after each epoch; one
            that returns True ends the training
        progress : "auto" shows a bar when tqdm is installed and stderr is a terminal, False
            nothing; True shows the bar, or a line for each epoch where there is no bar
        monitor : keep the layers' statistics of each epoch's last step in history.stats, and in
            history.monitor those of some steps, with the norms of gradients, weights and updates
        shuffle : a new order of rows for each epoch, set by seed and `epoch`
        augment : f(rows, rng) such as one of `augment`, called with the raw rows of each training
            batch (m, inputs) and a numpy.random.Generator(PCG64([seed, epoch, batch number])),
            before anything is scaled; what it returns is trained on.  Tried on one row first.
        sample_weight, class_weight, label_smoothing, loss : see `loss_and_gradients`; a loss of
            your own is also that of the validation data
        metrics : names and functions f(y, prediction) -> number, as scikit-learn's, of the
            validation data after each epoch: y as given, and what `predict` returns, or
            `predict_proba` for a pair (f, "predict_proba"); (m,) where there is one output.
            They are history.metrics, and EarlyStopping can monitor them.
        checkpoint : a path, or a Checkpoint: write all that matters there, by default after each
            epoch.  Where the file exists already, it is a run with the same network, data and
            arguments that was ended from outside, and goes on, to the same bits as if it had not
            been; more epochs prolong it.  A run that had come to its end is loaded and nothing
            is trained.
        stop_on_nan : end the training after the first step whose loss is not finite, with a
            warning; history.nonfinite_step has its number in any case

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Shapes that do not match, NaN or infinity (with row and column), labels out of range
            (with the row), settings out of range; a checkpoint of another run, or no checkpoint.
        OSError
            The checkpoint cannot be read or written.
        """
        if optimizer is None:
            optimizer = self._default_optimizer(1e-3)
        self._check_optimizer(optimizer)
        with self._lock:
            self._pending = None
            return training.fit(
                self,
                x,
                y,
                validation=validation,
                epochs=epochs,
                batch_size=batch_size,
                optimizer=optimizer,
                input_scale=input_scale,
                early_stopping=early_stopping,
                callbacks=callbacks,
                progress=progress,
                monitor=monitor,
                shuffle=shuffle,
                augment=augment,
                sample_weight=sample_weight,
                class_weight=class_weight,
                label_smoothing=label_smoothing,
                loss=loss,
                metrics=metrics,
                checkpoint=checkpoint,
                stop_on_nan=stop_on_nan,
            )

    def predict(self, x: Any) -> Array:
        """Return what the network says about each row of x.

        softmax: the class (m,), int64.  sigmoid: 0 or 1, int64.  identity: the values, in the
        network's dtype, in the units of y where targets were standardised.  The last two have
        shape (m,) for one output, else (m, outputs).

        x : (m, inputs), any real dtype, dense or sparse; scaled as in `fit`.

        Raises TypeError or ValueError when x is not numbers or has another width, RuntimeError
        when a standardizer has no statistics yet.
        """
        return self._predictions(self._outputs(x))

    def _predictions(self, z: Array) -> Array:
        if self.target_standardizer is not None:
            z = training.cast(self.target_standardizer.undo(z), self.dtype)
        if self.output == "softmax":
            labels: Array = z.argmax(axis=1).astype(np.int64, copy=False)
            return labels
        values = (z > 0).astype(np.int64) if self.output == "sigmoid" else z
        return values[:, 0] if values.shape[1] == 1 else values

    def predict_proba(self, x: Any) -> Array:
        """Return probabilities (m, outputs), of classes for softmax, of yes for sigmoid.

        x : (m, inputs), any real dtype, dense or sparse; scaled as in `fit`.

        Raises ValueError for output="identity", and as `predict`.
        """
        if self.output == "identity":
            raise ValueError(
                "predict_proba: expected output='softmax' or 'sigmoid', got 'identity'; use predict"
            )
        return self._probabilities(self._outputs(x))

    def evaluate(
        self, x: Any, y: Any, *, sample_weight: Any = None, loss: Loss | None = None
    ) -> dict[str, float]:
        """Return the loss and the score of data, without dropout.

        Parameters
        ----------
        x, y, sample_weight, loss : see `fit`

        Returns
        -------
        {"loss", "accuracy"}, or {"loss", "r2"} for output="identity".  The loss includes the l1
        and l2 penalties.  accuracy is the fraction of right rows (softmax) or of right elements
        (sigmoid), r2 the coefficient of determination, averaged over outputs.  With a loss of your
        own the score is left out where y is not what the output's own loss takes.  With
        a target_standardizer the loss is that of standardised targets, as in `fit`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `loss_and_gradients` and `predict`.
        """
        with self._lock:
            x = training.as_rows("x", x, self.sizes[0], sparse=True)
            arguments.check_rows("x", x)
            if loss is None:
                dtype = training.target_dtype(self)
                y = training.as_targets(self.output, y, len(x), self.sizes[-1], dtype)
                weight = training.as_sample_weight(sample_weight, len(x), self.dtype)
                data = HeldOut(x, y, y, weight)
            else:
                training.check_own_loss(loss, sample_weight, None, 0)
                training.check_no_target_standardizer(self)
                y = training.as_own_targets(y, len(x))
                data = HeldOut(x, training.targets_or_none(self, y), y, None)
            return self._scores(self._outputs(x), data, loss)

    def _scores(self, z: Array, data: HeldOut, loss: Loss | None) -> dict[str, float]:
        found = {}
        values, t = z, data.y
        if self.target_standardizer is not None and t is not None:
            values, t = self.target_standardizer.undo(z), self.target_standardizer.apply(t, z.dtype)
        if loss is not None:
            found["loss"] = own_loss(loss, z, data.given)[0] + self._penalty()
        if data.y is not None and t is not None:
            found |= training.score(self.output, values, data.y, data.weight)
            if loss is None:
                value = self._output_loss(z, t, data.weight) + self._penalty()
                found = {"loss": value, **found}
        return found

    def _outputs(self, x: Any) -> Array:
        """Return the output layer's z of all rows, some thousand at a time."""
        with self._lock:
            x = training.as_rows("x", x, self.sizes[0], sparse=True)
            for name in ("standardizer", "target_standardizer"):
                if getattr(self, name) is not None:
                    getattr(self, name).check_fitted(name)
            z = np.empty((len(x), self.sizes[-1]), self.dtype)
            at_once = min(training.ROWS_AT_ONCE, max(64, 10**9 // self.n_parameters))  # for Ctrl-C
            for start in range(0, len(x), at_once):
                rows = slice(start, start + at_once)
                z[rows] = self._forward(self._gather(x, rows), False)
            return z

    def folded(self) -> Self:
        """Return a network without batch norm that predicts the same, to rounding; for inference.

        Each batch norm, with its running statistics, becomes part of the weights and the bias next
        to it.  The rest of the settings that training alone reads are dropped as well: dropout,
        penalties (`evaluate` then returns the loss of the data) and max_norm.

        Notes
        -----
        At inference batch norm is y = c h + d with c = gamma / sqrt(running_var + eps) and
        d = beta - running_mean c.  Before the activation it goes into its own layer, w' = w c (by
        columns) and b' = d.  After it, it goes into the next layer, w' = c w (by rows) and
        b' = b + d @ w; a next layer that has batch norm before its activation, and hence no bias,
        takes d @ w off its running mean.  All this in float64, rounded once.
        """
        with self._lock:
            plain = {"batch_norm": False, "dropout": 0.0, "input_dropout": 0.0, "l1": 0.0,
                     "l2": 0.0, "max_norm": None}  # fmt: skip
            net = type(self).__new__(type(self))
            net._build(**(self._config() | plain))
            scale, shift = np.ones(self.sizes[0]), np.zeros(self.sizes[0])  # of what comes in
            for layer, to in zip(self.layers, net.layers, strict=True):
                wide = on_host(layer.weight).astype(np.float64)
                weight, bias = scale[:, None] * wide, shift @ wide
                bias += 0 if layer.bias is None else on_host(layer.bias)
                scale, shift = np.ones(layer.fan_out), np.zeros(layer.fan_out)
                if layer.batch_norm:
                    scale, shift = _as_line(layer)
                if layer.batch_norm == "before":
                    weight, bias = weight * scale, bias * scale + shift
                    scale, shift = np.ones(layer.fan_out), np.zeros(layer.fan_out)
                to.weight, to.bias = weight, bias
            return net

    # ---- files, copies -------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file, of NumPy's .npz format and without pickle.

        The file is written beside `path` and then moved there, so an old file stays whole until
        the new one is; if anything fails, it stays as it was.  The name is taken as given.

        Raises OSError when the file cannot be written.
        """
        with self._lock:
            saving.write(path, self._config(), vectors_by_name(self))

    @classmethod
    def _load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the network of a file; what `load` does, for this class and its device."""
        return saving.read(path, VECTORS, cls._from_parts)

    @classmethod
    def _from_parts(cls, config: dict[str, Any], vectors: dict[str, Array]) -> Self:
        config = _ADDED | config
        if config.get("precision") == "tfloat32" and "tfloat32" not in cls._precisions:
            config["precision"] = None  # of another device, and no less precise here
        strange = set(config) ^ set(_CONFIG)
        if strange:
            raise ValueError(f"its config misses or adds {', '.join(sorted(strange))}")
        norms = _batch_norms(config["sizes"], config["batch_norm"])
        wanted = sum(_parameters_per_layer(config["sizes"], norms))
        if vectors["parameters"].shape != (wanted,):
            raise ValueError(
                f"its sizes need {wanted} parameters, it has {vectors['parameters'].shape}"
            )
        net = cls.__new__(cls)
        net._build(**config)
        net._set_vectors(vectors)
        return net

    def _set_vectors(self, vectors: dict[str, Array]) -> None:
        """Copy these into the network's, or none of them."""
        own = [getattr(self, name) for name in vectors]
        for target, (name, values) in zip(own, vectors.items(), strict=True):
            if values.dtype != self.dtype:
                raise ValueError(f"{name}: expected {self.dtype}, got {values.dtype}")
            arguments.check_shape(name, values, target.shape, "(the network's)")
        self._pending = None
        assign(own, vectors.values())

    def __getstate__(self) -> dict[str, Any]:
        """Return settings and vectors; what waits for a backward call is left behind."""
        with self._lock:
            names = (*VECTORS, "gradients")
            vectors = {name: on_host(getattr(self, name)).copy() for name in names}
            return {"config": self._config(), "vectors": vectors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network anew."""
        self._build(**state["config"])
        self._set_vectors(state["vectors"])


def load(path: str | os.PathLike[str], *, device: Literal["cpu", "cuda"] = "cpu") -> MLP:
    """Return the network saved in a file by `MLP.save`.

    device : as for `MLP`

    Raises FileNotFoundError (OSError) when it cannot be opened, and ValueError, with the path,
    when it is not such a file, is damaged, or was written by a later release.
    """
    arguments.check_choice("device", device, (MLP.device,))
    return MLP._load(path)


def _as_line(layer: Layer) -> tuple[Array, Array]:
    """Return scale and shift of a layer's batch norm at inference, in float64."""
    vectors = layer.gamma, layer.beta, layer.running_mean, layer.running_var
    gamma, beta, mean, var = (np.asarray(on_host(v), np.float64) for v in vectors)
    scale = gamma / np.sqrt(var + EPS)
    return scale, beta - mean * scale


def _batch_norms(sizes: Sequence[int], batch_norm: Any) -> list[str | Literal[False]]:
    """Return where each layer has batch norm; the last one has none."""
    hidden = len(sizes) - 2
    norms = arguments.per_layer("batch_norm", batch_norm, hidden, arguments.check_batch_norm)
    return [*norms, False]


def _parameters_per_layer(sizes: Sequence[int], norms: Sequence[str | Literal[False]]) -> list[int]:
    """Return how many parameters each layer has: weights, bias, gamma and beta."""
    return [
        k * n + n * len(vectors_of(norm))
        for (k, n), norm in zip(itertools.pairwise(sizes), norms, strict=True)
    ]
