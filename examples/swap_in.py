"""Swap fanin into NumPy network code, line by line, and watch the results stay.

    python examples/swap_in.py

Two networks of two hidden layers, written as people write them: samples as rows (x @ w + b), and
features first (W @ A + b). Each `if swapped` holds one line of fanin, its `else` the NumPy lines it
stands for. The script swaps one after the other, and after each prints how far output and
gradients are from plain NumPy's, relative to their largest entry, and the time of a step.
"""

from __future__ import annotations

import itertools
import os
import time

# An environment that sets these halves NumPy's speed; the comparison should be fair.
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

import numpy as np

import fanin

BATCH, INPUTS, HIDDEN, CLASSES = 128, 256, 256, 10
DROPOUT, KEY = 0.25, (7, 0, 1)  # key = (seed, step, layer): names the mask, in NumPy code as well
PARTS = ("hidden layer 1", "hidden layer 2", "output layer", "loss")
TOLERANCE = 1e-5  # float32: sums of 256 products, rounded in another order, through three layers


def rows(x, labels, parameters, swapped=0):
    """Samples as rows: x (m, k), w (k, n), b (n). Returns output, loss and the six gradients."""
    w1, b1, w2, b2, w3, b3 = parameters

    # forward
    if swapped >= 1:
        a1, cache1 = fanin.dense_forward(x, w1, b1, activation="tanh")
    else:
        a1 = np.tanh(x @ w1 + b1)

    if swapped >= 2:
        a2, cache2 = fanin.dense_forward(a1, w2, b2, activation="relu", dropout=DROPOUT, key=KEY)
    else:
        mask = fanin.dropout_mask((len(x), HIDDEN), DROPOUT, KEY) / np.float32(1 - DROPOUT)
        a2 = np.maximum(a1 @ w2 + b2, 0) * mask

    if swapped >= 3:
        z, cache3 = fanin.dense_forward(a2, w3, b3)
    else:
        z = a2 @ w3 + b3

    # loss
    if swapped >= 4:
        loss, dz = fanin.softmax_cross_entropy(z, labels)
    else:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        picked = np.arange(len(x)), labels
        loss = -np.log(p[picked]).mean()
        dz = p
        dz[picked] -= 1
        dz /= len(x)

    # backward
    if swapped >= 3:
        da2, dw3, db3 = fanin.dense_backward(dz, cache3)
    else:
        da2, dw3, db3 = dz @ w3.T, a2.T @ dz, dz.sum(axis=0)

    if swapped >= 2:
        da1, dw2, db2 = fanin.dense_backward(da2, cache2)
    else:
        dz2 = da2 * mask * (a2 > 0)
        da1, dw2, db2 = dz2 @ w2.T, a1.T @ dz2, dz2.sum(axis=0)

    if swapped >= 1:
        _, dw1, db1 = fanin.dense_backward(da1, cache1, need_dx=False)
    else:
        dz1 = da1 * (1 - a1 * a1)
        dw1, db1 = x.T @ dz1, dz1.sum(axis=0)

    return z, float(loss), (dw1, db1, dw2, db2, dw3, db3)


def features_first(X, labels, parameters, swapped=0):
    """Samples as columns: X (k, m), W (n, k), b (n, 1). Transposes are views, no copies."""
    W1, b1, W2, b2, W3, b3 = parameters

    # forward
    if swapped >= 1:
        a1, cache1 = fanin.dense_forward(X.T, W1.T, b1[:, 0], activation="tanh")
        A1 = a1.T
    else:
        A1 = np.tanh(W1 @ X + b1)

    if swapped >= 2:
        a2, cache2 = fanin.dense_forward(
            A1.T, W2.T, b2[:, 0], activation="relu", dropout=DROPOUT, key=KEY
        )
        A2 = a2.T
    else:
        mask = fanin.dropout_mask((X.shape[1], HIDDEN), DROPOUT, KEY).T / np.float32(1 - DROPOUT)
        A2 = np.maximum(W2 @ A1 + b2, 0) * mask

    if swapped >= 3:
        z, cache3 = fanin.dense_forward(A2.T, W3.T, b3[:, 0])
        Z = z.T
    else:
        Z = W3 @ A2 + b3

    # loss
    if swapped >= 4:
        loss, dz = fanin.softmax_cross_entropy(Z.T, labels)
        dZ = dz.T
    else:
        P = np.exp(Z - Z.max(axis=0))
        P /= P.sum(axis=0)
        picked = labels, np.arange(X.shape[1])
        loss = -np.log(P[picked]).mean()
        dZ = P
        dZ[picked] -= 1
        dZ /= X.shape[1]

    # backward
    if swapped >= 3:
        da2, dw3, db3 = fanin.dense_backward(dZ.T, cache3)
        dA2, dW3, db3 = da2.T, dw3.T, db3[:, None]
    else:
        dA2, dW3, db3 = W3.T @ dZ, dZ @ A2.T, dZ.sum(axis=1, keepdims=True)

    if swapped >= 2:
        da1, dw2, db2 = fanin.dense_backward(dA2.T, cache2)
        dA1, dW2, db2 = da1.T, dw2.T, db2[:, None]
    else:
        dZ2 = dA2 * mask * (A2 > 0)
        dA1, dW2, db2 = W2.T @ dZ2, dZ2 @ A1.T, dZ2.sum(axis=1, keepdims=True)

    if swapped >= 1:
        _, dw1, db1 = fanin.dense_backward(dA1.T, cache1, need_dx=False)
        dW1, db1 = dw1.T, db1[:, None]
    else:
        dZ1 = dA1 * (1 - A1 * A1)
        dW1, db1 = dZ1 @ X.T, dZ1.sum(axis=1, keepdims=True)

    return Z, float(loss), (dW1, db1, dW2, db2, dW3, db3)


def milliseconds(call, repeats=15) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def apart(ours, theirs) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def show(name, step, x, labels, parameters) -> None:
    """Swaps one part after the other and prints a line for each."""
    print(name)
    print("  fanin does                     output   gradients   ms/step")
    z, _, gradients = step(x, labels, parameters)
    for swapped in range(len(PARTS) + 1):
        z_now, _, gradients_now = step(x, labels, parameters, swapped)
        off = apart(z_now, z)
        off_gradients = max(map(apart, gradients_now, gradients))
        time_now = milliseconds(lambda swapped=swapped: step(x, labels, parameters, swapped))
        label = "+ " + PARTS[swapped - 1] if swapped else "nothing: plain NumPy"
        print(f"  {label:26}{off:11.1e}{off_gradients:12.1e}{time_now:10.3f}")
        if not max(off, off_gradients) < TOLERANCE:
            raise SystemExit(f"{label}: further than {TOLERANCE:g} from NumPy")
    print()


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, INPUTS)).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH)
    sizes = (INPUTS, HIDDEN, HIDDEN, CLASSES)
    parameters = []
    for k, n in itertools.pairwise(sizes):
        parameters.append((rng.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32))
        parameters.append(rng.standard_normal(n).astype(np.float32))

    show("samples as rows, x @ w + b", rows, x, labels, parameters)
    columns = [
        np.ascontiguousarray(p.T) if p.ndim == 2 else p[:, None] for p in parameters
    ]  # W (n, k), b (n, 1)
    show(
        "features first, W @ A + b",
        features_first,
        np.ascontiguousarray(x.T),
        labels,
        columns,
    )
    print("the same network, both ways, with the same numbers; only the time has changed")


if __name__ == "__main__":
    main()
