"""Figures of a training, which are the reference's: `plot_history` and the others."""

from .reference.plot import plot_activations, plot_gradients, plot_history, plot_layers

__all__ = ["plot_activations", "plot_gradients", "plot_history", "plot_layers"]
