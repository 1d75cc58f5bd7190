"""A training step in PyTorch, eager: `nn.Sequential`, autograd, fused Adam."""

from __future__ import annotations

from typing import Any

import torch

from . import start
from .steps import Network


class Step:
    """See `fanin.bench.Step`."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        layers: list[Any] = []
        for w, b in start.weights(on, dtype):
            linear = torch.nn.Linear(*w.shape, dtype=getattr(torch, dtype))
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            layers.append(linear)
            layers.append(torch.nn.ReLU() if on.activation == "relu" else torch.nn.Tanh())
            if dropout:
                layers.append(torch.nn.Dropout(dropout))
        while not isinstance(layers[-1], torch.nn.Linear):  # nothing after the output layer
            layers.pop()
        net = torch.nn.Sequential(*layers)
        squared = on.output == "identity"
        loss = torch.nn.MSELoss() if squared else torch.nn.CrossEntropyLoss()
        self.loss_of: Any = lambda x, y: loss(net(x), y)
        self.optimizer = torch.optim.Adam(
            net.parameters(), start.LEARNING_RATE, start.BETAS, start.EPS, fused=True
        )
        self.batches, self.next = (
            [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in start.batches(on, dtype)],
            0,
        )

    def step(self) -> Any:
        """The loss of one step, a tensor."""
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        self.optimizer.zero_grad()
        loss = self.loss_of(x, y)
        loss.backward()
        self.optimizer.step()
        return loss

    def losses(self, count: int) -> list[float]:
        """The losses of the next steps."""
        return [float(self.step()) for _ in range(count)]

    def run(self, count: int) -> None:
        """Takes so many steps."""
        for _ in range(count):
            self.step()
