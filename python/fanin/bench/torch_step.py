"""A training step in PyTorch, eager: `nn.Sequential`, autograd, Adam (fused where it exists)."""

from __future__ import annotations

import torch

from rivals import start


class Step:
    def __init__(self, case, dropout: float, threads: int, dtype: str = "float32"):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for w, b in start.weights(case, dtype):
            linear = torch.nn.Linear(*w.shape, dtype=getattr(torch, dtype))
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            layers.append(linear)
            layers.append(torch.nn.ReLU() if case.activation == "relu" else torch.nn.Tanh())
            if dropout:
                layers.append(torch.nn.Dropout(dropout))
        while not isinstance(layers[-1], torch.nn.Linear):  # nothing after the output layer
            layers.pop()
        self.net = torch.nn.Sequential(*layers)
        squared = case.output == "identity"
        self.loss = torch.nn.MSELoss() if squared else torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), start.LEARNING_RATE, start.BETAS, start.EPS, fused=True
        )
        self.batches, self.next = (
            [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in start.batches(case, dtype)],
            0,
        )

    def step(self):
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        self.optimizer.zero_grad()
        loss = self.loss(self.net(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def losses(self, count: int) -> list[float]:
        return [float(self.step()) for _ in range(count)]

    def run(self, count: int) -> None:
        for _ in range(count):
            self.step()
