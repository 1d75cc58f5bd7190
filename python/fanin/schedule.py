"""Learning rates that change: `fanin.schedule.Cosine` and the others, which are the reference's."""

from .reference.schedule import (
    Cosine,
    Exponential,
    OneCycle,
    ReduceOnPlateau,
    Step,
    WarmUp,
    steps_per_epoch,
)

__all__ = [
    "Cosine",
    "Exponential",
    "OneCycle",
    "ReduceOnPlateau",
    "Step",
    "WarmUp",
    "steps_per_epoch",
]
