"""MNIST from a file of arrays x_train, y_train, x_val, y_val, x_test, y_test (bytes, rows of 784).

    python examples/mnist.py mnist.npz --seeds 0 1 2 3 4 --test          98.57 % of the test part
    python examples/mnist.py mnist.npz --seeds 0 1 2 --augment --test    99.20 %

Settings were chosen by the validation part; the test part is looked at with --test alone.
Without a file: scikit-learn's small digits.
"""

import argparse
import math

import numpy as np
from sklearn.datasets import load_digits

import fanin
from fanin.augment import Compose, Rotate, Shear, Shift, ZoomCrop

PLAIN = {"width": 512, "dropout": 0.4, "batch_size": 128, "rate": 1e-3, "epochs": 25}
AUGMENTED = {"width": 1024, "dropout": 0.1, "batch_size": 256, "rate": 1.5e-3, "epochs": 26}


def load(path):
    if path is None:
        x, y = load_digits(return_X_y=True)
        return fanin.train_dev_test_split(x, y, sizes=(0.6, 0.2, 0.2), stratify=y)
    with np.load(path) as file:
        return [(file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "val", "test")]


def train(parts, seed, width, dropout, batch_size, rate, epochs, augment=None):
    (x, y), validation = parts[:2]
    net = fanin.MLP(
        [x.shape[1], width, width, 10], init="he_normal", batch_norm=True, dropout=dropout,
        standardizer=fanin.Standardizer(per_feature=False), seed=seed,
    )  # fmt: skip
    steps = epochs * math.ceil(len(x) / batch_size)
    net.fit(
        x, y, validation=validation, epochs=epochs, batch_size=batch_size, augment=augment,
        optimizer=fanin.Adam(lambda step: rate * (1 + math.cos(math.pi * step / steps))),
        early_stopping=fanin.EarlyStopping("val_accuracy", patience=15), monitor=False,
    )  # fmt: skip
    return net


parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?")
parser.add_argument("--augment", action="store_true")
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--test", action="store_true")
options = parser.parse_args()
parts = load(options.file)
side = math.isqrt(parts[0][0].shape[1])
changes = Compose([Shift(side // 14), Rotate(12), Shear(8), ZoomCrop()], shape=(side, side))
settings = {**AUGMENTED, "augment": changes} if options.augment else PLAIN
nets = [train(parts, seed, **settings) for seed in options.seeds]
for name, (x, y) in zip(("train", "val", "test")[: 2 + options.test], parts, strict=False):
    found = [100 * net.evaluate(x, y)["accuracy"] for net in nets]
    print(f"{name:5} {np.mean(found):.2f} %  of seeds", *(f"{score:.2f}" for score in found))
