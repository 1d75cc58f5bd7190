"""The deep linear chain: why weights a little too large or too small are a matter of w^L.

Layers without activation, x -> x @ w, of n units each.  With w = c I every layer multiplies the
signal by c, and the gradient on its way back likewise: after l layers both have c^l times their
norm.  With entries of N(0, c^2 / n) the same holds on average, ||x @ w||^2 having the mean
c^2 ||x||^2; the norms then wander about c^l.  The gradient of the weights is the product of the
two, c^(L - 1) in every layer of a chain of L.

(A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
linear neural networks", ICLR 2014.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dense import dense_backward, dense_forward
from ..random import Stream
from ..reference import arguments, plot
from ..reference.arguments import Array

_SHOWN = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # layers in the table, and the last


@dataclass(frozen=True, eq=False)
class Chain:
    """The norms along one chain of L layers, input and incoming gradient having norm 1.

    Attributes
    ----------
    factor : c
    kind : "identity", w = c I, or "random", entries N(0, c^2 / n)
    value_norm : float64 (L + 1,), of the signal after 0, 1, ... L layers
    da_norm : float64 (L + 1,), of the gradient with respect to it; the last one is 1
    gradient_norm : float64 (L,), of the gradient with respect to each layer's weights
    """

    factor: float
    kind: str
    value_norm: NDArray[np.float64]
    da_norm: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]

    @property
    def closed_form(self) -> NDArray[np.float64]:
        """c^0, c^1, ... c^L: what value_norm is, and da_norm from its end."""
        return np.float64(self.factor) ** np.arange(len(self.value_norm), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class LinearChain:
    """Several chains of one depth.

    Attributes
    ----------
    depth, width : L and n
    chains : list of Chain, for each factor "identity" and "random"
    """

    depth: int
    width: int
    chains: list[Chain]

    def table(self) -> str:
        """Return the norms as text: a line per depth, for each factor c^l, c I and random."""
        shown = sorted({layer for layer in (*_SHOWN, self.depth) if layer <= self.depth})
        lines = [f"{self.depth} linear layers of {self.width} units"]
        heads = "".join(
            f"{chain.factor:g}^l".rjust(14) + "c I".rjust(10)
            if chain.kind == "identity" else "random".rjust(10) for chain in self.chains
        )  # fmt: skip
        for title, back in (("norm of the signal after l layers", False),
                            ("norm of the gradient, l layers before the end", True)):  # fmt: skip
            lines += ["", title, "    l" + heads]
            for layer in shown:
                line = f"{layer:5}"
                for chain in self.chains:
                    if chain.kind == "identity":
                        line += f"{chain.closed_form[layer]:14.2e}"
                    line += f"{(chain.da_norm[::-1] if back else chain.value_norm)[layer]:10.2e}"
                lines.append(line)
        lines += ["", "norm of the weights' gradient, smallest and largest of the layers; c^(L-1)"]
        for chain in self.chains:
            low, high = chain.gradient_norm.min(), chain.gradient_norm.max()
            power = chain.factor ** (self.depth - 1)
            lines.append(f"{chain.factor:5g} {chain.kind:9}{low:10.2e}{high:10.2e}{power:14.2e}")
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Array:
        """Draw the norms against the layer: lines c^l, points c I, thin lines random weights.

        Parameters
        ----------
        axes : two, for the signal and for the gradient; a new figure when None

        Returns
        -------
        Array of the two axes.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            Another number of axes.
        """
        if axes is None:
            axes = plot.new_axes(1, 2, size=(10, 4), sharey=True)
        panels = plot.as_axes("axes", axes, 2)
        layers = np.arange(self.depth + 1)
        every = 1 + self.depth // 25
        for ax, back in zip(panels, (False, True), strict=True):
            for i, chain in enumerate(self.chains):
                colour = plot.COLOURS[i // 2 % len(plot.COLOURS)]
                norm = chain.da_norm if back else chain.value_norm
                if chain.kind == "identity":
                    expected = chain.closed_form[:: -1 if back else 1]
                    label = f"c = {chain.factor:g}"
                    ax.plot(layers, expected, color=colour, linewidth=1, label=label)
                    ax.plot(layers[::every], norm[::every], "o", color=colour, markersize=3)
                else:
                    ax.plot(layers, norm, color=colour, linewidth=0.8, linestyle="--")
            ax.set(yscale="log", xlabel="layer")
            ax.set_title("gradient, from right to left" if back else "signal, from left to right")
        panels[0].set_ylabel("norm")
        panels[0].legend(frameon=False, title="line c^l, points c I,\ndashed N(0, c²/n)")
        return np.array(panels, dtype=object)


def linear_chain(
    factors: Sequence[float] = (0.5, 1.0, 1.5),
    *,
    depth: int = 50,
    width: int = 100,
    seed: int = 0,
) -> LinearChain:
    """Send a vector forward and a gradient back through deep linear chains, in float64.

    Parameters
    ----------
    factors : the values of c, numbers > 0
    depth, width : number of layers, units in each
    seed : of random weights, vector and gradient, 0 <= seed < 2**64

    Returns
    -------
    LinearChain

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong type or out of range; a c^depth beyond float64.

    Notes
    -----
    The random weights of layer l are c / sqrt(n) times the `Stream` (seed, l), the same for every
    c; vector and gradient are those of depth and depth + 1, scaled to norm 1.
    """
    factors = [
        arguments.check_positive(f"factors[{i}]", factor) for i, factor in enumerate(factors)
    ]
    if not factors:
        raise ValueError("factors: expected at least one number, got none")
    depth = arguments.check_integer("depth", depth, 1, arguments.LAYER_LIMIT - 2)
    width = arguments.check_integer("width", width, 1)
    seed = arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT)
    for i, factor in enumerate(factors):
        if not 1e-150 < 10 ** (depth * np.log10(factor)) < 1e150:  # squares must fit as well
            raise ValueError(
                f"factors[{i}]: expected a c with c^{depth} between 1e-150 and 1e150, got {factor}"
            )
    x = Stream(seed, depth).normal((1, width))
    da = Stream(seed, depth + 1).normal((1, width))
    x, da = x / np.linalg.norm(x), da / np.linalg.norm(da)
    chains = []
    for factor in factors:
        same = [factor * np.eye(width)] * depth
        drawn = [
            factor / np.sqrt(width) * Stream(seed, layer).normal((width, width))
            for layer in range(depth)
        ]
        for kind, weights in (("identity", same), ("random", drawn)):
            chains.append(Chain(factor, kind, *_norms(weights, x, da)))
    return LinearChain(depth, width, chains)


def _norms(weights: list[Array], x: Array, da: Array) -> tuple[Array, Array, Array]:
    """Return the norms of the signal, of the gradient on its way back, of each weight's."""
    values, backward, gradients, caches = [np.linalg.norm(x)], [np.linalg.norm(da)], [], []
    for w in weights:
        x, cache = dense_forward(x, w)
        caches.append(cache)
        values.append(np.linalg.norm(x))
    for cache in reversed(caches):
        dx, dw, _ = dense_backward(da, cache)
        assert dx is not None
        da = dx
        backward.append(np.linalg.norm(da))
        gradients.append(np.linalg.norm(dw))
    return np.array(values), np.array(backward[::-1]), np.array(gradients[::-1])
