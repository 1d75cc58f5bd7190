"""Changed images: what each change does, its bits, and fit(augment=...)."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin.augment import Compose, Cutout, Flip, Noise, Rotate, Shear, Shift, ZoomCrop

ndimage = pytest.importorskip("scipy.ndimage")

ALL = {
    "flip": Flip(vertical=True),
    "shift": Shift((1, 3)),
    "rotate": Rotate(30),
    "shear": Shear(20),
    "zoom-crop": ZoomCrop(0.7, 1.5),
    "noise": Noise(5),
    "cutout": Cutout(4),
    "compose": Compose([Shift(2), Rotate(20), Noise(3), Flip(), Cutout(3)]),
}
RNG = np.random.default_rng


def images(kind=np.uint8, shape=(40, 9, 12), seed=5) -> np.ndarray:
    return (RNG(seed).random(shape) * 250 + 5).astype(kind)


def shaped(step, shape):
    """The same step for flat rows."""
    if isinstance(step, Compose):
        return Compose(step.steps, shape=shape)
    made = copy.copy(step)
    object.__setattr__(made, "shape", shape)
    return made


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_rows_of_any_kind(name, kind):
    """Flat, plane and with channels: the same change, shape and dtype kept, x untouched."""
    step, x = ALL[name], images(kind)
    before = x.copy()
    changed = step(x, RNG(1))
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert not np.shares_memory(changed, x) and not np.array_equal(changed, x)
    same_bits(x, before)
    same_bits(step(x, RNG(1)), changed)  # the seed decides
    assert not np.array_equal(step(x, RNG(2)), changed)
    flat = shaped(step, (9, 12))
    same_bits(flat(x.reshape(40, -1), RNG(1)), changed.reshape(40, -1))
    same_bits(flat(x, RNG(1)), changed)
    same_bits(step(np.asfortranarray(x), RNG(1)), changed)
    same_bits(step(x[..., None], RNG(1)), changed[..., None])
    if name not in ("noise", "compose"):  # noise is drawn for each number
        three = np.stack([x, x, x], axis=-1)
        expected = np.stack([changed] * 3, axis=-1)
        same_bits(step(three, RNG(1)), expected)
        same_bits(shaped(step, (9, 12, 3))(three.reshape(40, -1), RNG(1)),
                  expected.reshape(40, -1))  # fmt: skip
    assert step(x[:0], RNG(1)).shape == (0, 9, 12)
    assert pickle.loads(pickle.dumps(step)) == step


def test_flip():
    x = images()
    same_bits(Flip(p=1)(x, RNG(0)), x[:, :, ::-1])
    same_bits(Flip(False, True, 1)(x, RNG(0)), x[:, ::-1])
    changed = Flip()(images(shape=(4000, 2, 3)), RNG(0))
    flipped = (changed != images(shape=(4000, 2, 3))).any(axis=(1, 2)).mean()
    assert abs(flipped - 0.5) < 5 * 0.5 / np.sqrt(4000)  # five standard deviations


def test_shift():
    """Every shift up to the limits comes, exactly, and what moves in is `fill`."""
    x = images(shape=(2000, 9, 12))
    changed = Shift((1, 2), fill=3)(x, RNG(0))
    seen = set()
    for before, after in zip(x, changed, strict=True):
        padded = np.pad(before, ((1, 1), (2, 2)), constant_values=3)
        fits = [(i, j) for i in range(3) for j in range(5)
                if np.array_equal(padded[i : i + 9, j : j + 12], after)]  # fmt: skip
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 15
    # further than the image is wide
    assert (Shift((0, 50), fill=7)(x, RNG(0)) == 7).all(axis=(1, 2)).mean() > 0.6


def test_rotate():
    """Each image as scipy turns it, by angles that spread over the range."""
    x = images(np.float64, (300, 11, 11))
    changed = Rotate(30, fill=1.0)(x, RNG(3))
    angles = RNG(3).uniform(-30, 30, 300)  # the draw it makes
    assert angles.min() < -28 and angles.max() > 28
    for before, after, angle in zip(x, changed, angles, strict=True):
        expected = ndimage.rotate(
            before, -angle, reshape=False, order=1, cval=1.0, mode="grid-constant"
        )
        # coordinates below 16 are rounded a few times, slopes are at most 255 a pixel
        assert np.max(np.abs(after - expected)) <= 255 * 50 * 2.0**-52 * 16


def test_shear_slants_about_the_middle_row():
    x = images(np.float64, (50, 9, 30))
    changed = Shear(45)(x, RNG(0))
    slopes = np.tan(np.radians(RNG(0).uniform(-45, 45, 50)))
    for before, after, slope in zip(x, changed, slopes, strict=True):
        for row in range(9):
            places = np.arange(30) + slope * (row - 4)
            inside = (places >= 0) & (places <= 29)
            expected = np.interp(places, np.arange(30), before[row])
            # places below 64 are rounded a few times, slopes are at most 255 a pixel
            assert np.all(np.abs(after[row] - expected)[inside] <= 255 * 50 * 2.0**-53 * 64)


def test_zoom_crop_shows_a_window_of_the_image():
    """Enlarged twice, a ramp still has all its values inside the frame, at half the slope."""
    rows, columns = np.mgrid[:20, :30].astype(np.float64)
    for ramp, axis in ((rows, 0), (columns, 1)):
        changed = ZoomCrop(2, 2)(np.stack([ramp] * 200), RNG(0))
        inner = changed[:, 1:-1, 1:-1]
        steps = np.diff(inner, axis=axis + 1)
        assert np.abs(steps - 0.5).max() <= 100 * 2.0**-53 * 30
        size = ramp.shape[axis]
        assert inner.min() > -0.5 and inner.max() < size - 0.5
        first = inner.min(axis=(1, 2))
        assert first.min() < 0.2 * size / 2 and first.max() > 0.8 * size / 2  # anywhere
    # smaller ones lie anywhere in the frame, whole
    square = np.zeros((200, 20, 20))
    square[:, 2:18, 2:18] = 1
    changed = ZoomCrop(0.5, 0.5)(square, RNG(0))
    assert np.ptp(changed.sum(axis=(1, 2))) < 8 + 64 * 0.2
    assert len(np.unique(changed.argmax(axis=1).max(axis=1))) > 3


def test_noise():
    x = np.full((50, 20, 20), 100, np.uint8)
    changed = Noise(10)(x, RNG(0)).astype(float)
    # five standard errors of the mean and the std of 20,000 numbers, and 1/12 of rounding
    assert abs(changed.mean() - 100) < 5 * 10 / np.sqrt(20_000)
    assert abs(changed.std() - np.sqrt(100 + 1 / 12)) < 5 * 10 / np.sqrt(40_000)
    ends = np.array([[[0, 255]]] * 500, np.uint8)
    changed = Noise(40)(ends, RNG(0))
    assert changed[..., 0].max() < 200 and changed[..., 1].min() > 55  # no wrapping around
    same_bits(Noise(0)(x, RNG(0)), x)


def test_cutout():
    x = images(shape=(500, 9, 12))
    changed = Cutout(4, fill=2)(x, RNG(0))
    blank = changed == 2
    assert (changed[~blank] == x[~blank]).all()
    assert set(blank.sum(axis=(1, 2))) >= {16, 12, 8, 6}  # whole ones, and ones that stick out
    assert blank.any(axis=0).all()  # anywhere
    for image in blank:
        sides = image.any(axis=1).sum(), image.any(axis=0).sum()
        assert max(sides) <= 4 and image.sum() == sides[0] * sides[1]


def test_compose_joins_maps():
    """Turned in four steps or in one is the same but for rounding: resampled once."""

    class Fixed(Rotate):
        def _maps(self, n, h, w, rng):
            maps = np.tile(np.eye(3), (n, 1, 1))
            a = np.radians(self.degrees)
            maps[:, :2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
            return maps

    there = Fixed(33.0)
    x = images(np.float64, (5, 20, 20))
    once = there(x, RNG(0))
    four = Compose([Fixed(8.25)] * 4)(x, RNG(0))
    assert np.abs(four - once).max() <= 255 * 50 * 2.0**-52 * 32
    # but not across what is no map, or another fill
    assert np.abs(Compose([Fixed(16.5), Noise(0), Fixed(16.5)])(x, RNG(0)) - once).max() > 1
    # a flip fills nothing: turned to the left and mirrored is mirrored and turned to the right
    mirrored = Compose([Fixed(16.5, fill=9), Flip(p=1), Fixed(16.5, fill=9)])(x, RNG(0))
    assert np.abs(mirrored - x[:, :, ::-1]).max() <= 255 * 50 * 2.0**-52 * 32
    apart = Compose([Fixed(16.5), Fixed(16.5, fill=9)])(x, RNG(0))
    assert np.abs(apart - once).max() > 1


def test_compose_in_order():
    """First shifted, then flipped; own functions see the shape that came in."""
    x = images(shape=(200, 9, 12))
    flat = x.reshape(200, -1)
    seen = []

    def own(x, rng):
        seen.append(x.shape)
        return 255 - x

    both = Compose([Shift(2), Flip(p=1), own], shape=(9, 12))(flat, RNG(4))
    same_bits(both, 255 - Shift(2)(x, RNG(4))[:, :, ::-1].reshape(200, -1))
    assert seen == [(200, 108)]
    nested = Compose([Compose([Shift(2), Flip(p=1)]), own], shape=(9, 12))
    same_bits(nested(flat, RNG(4)), both)
    inner = Compose([Shift(2, shape=(9, 12)), Flip(p=1), own])
    same_bits(inner(flat, RNG(4)), both)
    same_bits(Compose([])(x, RNG(0)), x)


BAD = [
    (lambda: Flip(p=2), ValueError, "p: expected a number in"),
    (lambda: Flip(horizontal=1), TypeError, "horizontal"),
    (lambda: Shift(-1), ValueError, "pixels: expected an integer >= 0"),
    (lambda: Shift((1, 2, 3)), TypeError, r"pixels: expected a number or \(rows, columns\)"),
    (lambda: Shift(1.5), TypeError, "pixels"),
    (lambda: Rotate(-3), ValueError, "degrees"),
    (lambda: Shear(90), ValueError, "degrees: expected a number below 90"),
    (lambda: ZoomCrop(1.2, 0.8), ValueError, "high: expected at least low"),
    (lambda: ZoomCrop(0, 1), ValueError, "low"),
    (lambda: Noise(-1), ValueError, "std"),
    (lambda: Cutout(0), ValueError, "size"),
    (lambda: Shift(1, shape=28), TypeError, r"shape: expected \(height, width\)"),
    (lambda: Shift(1, shape=(28, 0)), ValueError, "shape"),
    (lambda: Compose(Shift(1)), TypeError, "steps: expected a list"),
    (lambda: Compose([Shift]), TypeError, "steps: expected augmentations or functions"),
    (lambda: Shift(1)(np.zeros((5, 784)), RNG(0)), ValueError, r"flat rows need shape=\(h, w\)"),
    (lambda: Shift(1, shape=(28, 28))(np.zeros((5, 783)), RNG(0)), ValueError,
     r"x: expected rows of 784 numbers, images of shape \(28, 28\), got \(5, 783\)"),
    (lambda: Shift(1)(np.zeros((5, 4, 4), int), RNG(0)), TypeError, "uint8, float32 or float64"),
    (lambda: Shift(1)([[1]], RNG(0)), TypeError, "uint8, float32 or float64"),
    (lambda: Shift(1)(np.zeros((5, 4, 4)), 0), TypeError, "rng: expected a numpy.random.Generator"),
    (lambda: Compose([])(np.zeros((5, 4, 4)), None), TypeError, "rng: expected a numpy"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message"), BAD)
def test_refuses(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_without_scipy(monkeypatch):
    """Shifts and flips need none; the others say what to install."""
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    x = images()
    assert Compose([Shift(2), Flip(), Cutout(2), Noise(1)])(x, RNG(0)).shape == x.shape
    with pytest.raises(ImportError, match=r"pip install 'fanin\[augment\]'"):
        Rotate(10)(x, RNG(0))


# ---- in fit ----------------------------------------------------------------------------------


def squares(rows=300, seed=0):
    """Bytes of 6 x 6, brighter in one of three columns."""
    rng = RNG(seed)
    y = rng.integers(0, 3, rows)
    x = rng.integers(0, 60, (rows, 6, 6))
    for i in range(3):
        x[y == i, :, 2 * i : 2 * i + 2] += 100
    return x.reshape(rows, 36).astype(np.uint8), y


AUGMENT = Compose([Shift(1), Rotate(10), Noise(4)], shape=(6, 6))
FIT = {"epochs": 2, "batch_size": 64, "progress": False}


def test_fit_trains_on_what_augment_returns(package, dtype):
    """Batch by batch the same as steps by hand; raw rows go in, and validation rows do not."""
    x, y = squares()
    xv, yv = squares(90, 1)
    seen = []

    def watched(rows, rng):
        seen.append((len(rows), rows.dtype))
        return AUGMENT(rows, rng)

    settings = {"dtype": dtype, "dropout": 0.1, "seed": 9, "standardizer": package.Standardizer()}
    net = package.MLP([36, 10, 3], **settings)
    weight = RNG(0).random(300)
    history = net.fit(x, y, validation=(xv, yv), augment=watched, sample_weight=weight, **FIT)
    batches = [64, 64, 64, 64, 44]
    assert seen == [(1, x.dtype)] + 2 * [(rows, x.dtype) for rows in batches]

    hand = package.MLP([36, 10, 3], **settings)
    s, adam = package.Standardizer().fit(x), package.Adam(1e-3)
    for epoch in range(2):
        order = fanin.reference.random.permutation(300, 9, epoch)
        for i in range(5):
            rows = order[64 * i : 64 * i + 64]
            rng = np.random.Generator(np.random.PCG64([9, epoch, i]))
            batch = s.apply(AUGMENT(x[rows], rng), hand.dtype)
            hand.train_step(batch, y[rows], adam, sample_weight=weight[rows])
    same_bits(net.parameters, hand.parameters)
    assert history.val_loss[-1] == net.evaluate(xv, yv)["loss"]
    assert [stats.rows for stats in history.stats[0]] == [44, 44]
    assert history.stats[0][0].histogram is not None


def test_a_run_repeats_and_goes_on(package):
    """Two epochs are one and one more; another seed, another run."""
    x, y = squares()
    nets = [package.MLP([36, 8, 3], seed=seed) for seed in (1, 1, 2)]
    adam = package.Adam(1e-3)
    nets[0].fit(x / 256, y, augment=AUGMENT, optimizer=package.Adam(1e-3), **FIT)
    for _ in range(2):
        nets[1].fit(x / 256, y, augment=AUGMENT, optimizer=adam, **{**FIT, "epochs": 1})
    nets[2].fit(x / 256, y, augment=AUGMENT, **FIT)
    same_bits(nets[0].parameters, nets[1].parameters)
    assert not np.array_equal(nets[0].parameters, nets[2].parameters)


def test_fit_refuses(package):
    """Before training begins, and with nothing changed."""
    x, y = squares()
    net = package.MLP([36, 3], standardizer=package.Standardizer())
    before = net.parameters.copy()
    cases = [
        (Shift(1, shape=(7, 7)), ValueError, "augment: x: expected rows of 49 numbers"),
        (Shift(1), ValueError, "augment: x: expected images"),
        (Shift, TypeError, "augment: expected a function"),
        (0.5, TypeError, "augment: expected a function"),
        (lambda x, rng: x[:, :5], ValueError, r"augment: x: expected shape \(1, 36\)"),
        (lambda x, rng: None, TypeError, "augment: x: expected real numbers"),
    ]
    for augment, kind, message in cases:
        with pytest.raises(kind, match=message):
            net.fit(x, y, augment=augment, **FIT)
        same_bits(net.parameters, before)
        assert net.epoch == 0 and net.standardizer.rows == 0
    with pytest.raises(TypeError, match="uint8, float32 or float64"):
        net.fit(x.astype(np.int32), y, augment=AUGMENT, **FIT)
