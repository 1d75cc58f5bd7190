"""A training step in PyTorch with network and loss compiled by `torch.compile`; fused Adam.

Compiling needs a C++ compiler. It happens once, before anything is timed.
"""

from __future__ import annotations

import os

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes beside this one

import torch

from . import Unavailable, torch_step
from .steps import Network


class Step(torch_step.Step):
    """See `fanin.bench.Step`."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        super().__init__(on, dropout, threads, dtype)
        try:
            self.loss_of = torch.compile(self.loss_of)
            self.loss_of(*self.batches[0]).backward()  # compiles forward and backward
        except Exception as error:  # what is missing differs from machine to machine
            reason = (str(error).strip().splitlines() or [""])[0]
            message = f"torch.compile does not work here ({type(error).__name__}: {reason[:100]})"
            raise Unavailable(message) from error
        self.optimizer.zero_grad()
