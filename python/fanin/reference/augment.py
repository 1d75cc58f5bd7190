"""Images slightly changed, another way each time they are shown, so none is learned by heart.

After P. Simard, D. Steinkraus, J. Platt, "Best practices for convolutional neural networks applied
to visual document analysis", ICDAR 2003; `Cutout` after T. DeVries, G. Taylor, "Improved
regularization of convolutional neural networks with cutout", 2017.

    augment = Compose([Shift(2), Rotate(15), Noise(8)], shape=(28, 28))
    net.fit(x, y, augment=augment)

Each is a function f(x, rng) -> array like x, of a batch and a `numpy.random.Generator`.  A batch
is (n, h, w), (n, h, w, c), or flat rows (n, h * w) or (n, h * w * c) with shape=(h, w) or
(h, w, c); uint8, float32 or float64.  One draw is made for each image; its channels change alike.

Shifts and flips alone are exact.  Turned, sheared and zoomed images are interpolated linearly by
scipy.ndimage (extra `augment`), once: neighbours in a `Compose` that move pixels are joined into
one map first, so nothing is blurred or cut off twice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .arguments import Array

Maps = NDArray[np.float64]
Generator: TypeAlias = "np.random.Generator"  # NumPy loads it when it is first used
Function: TypeAlias = Callable[[Array, Generator], Array]


class _Augmentation:
    """What all have in common: rows of any kind in, images (n, h, w, c) inside."""

    shape: Any  # of the images in flat rows, or None

    def __call__(self, x: Array, rng: Generator) -> Array:
        """Return the changed batch, a new array of the shape and dtype of x.

        Raises TypeError for another dtype or no generator, ValueError for rows that are not images
        of `shape`.
        """
        check_generator(rng)
        images = as_images(x, self.shape)
        return self._change(images, rng).reshape(x.shape)

    def _change(self, images: Array, rng: Generator) -> Array:
        raise NotImplementedError


class _Moving(_Augmentation):
    """One that moves pixels: output pixel (y, x) shows what the map of it gives in the input."""

    exact: ClassVar[bool] = False  # pixels move by whole steps

    @property
    def fill(self) -> float | None:
        """What moves in from outside; None where nothing does."""
        return None

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        """Return a matrix (n, 3, 3) for each image, of (y, x, 1) about the image's centre."""
        raise NotImplementedError

    def _change(self, images: Array, rng: Generator) -> Array:
        return _move(images, [self], rng)


@dataclass(frozen=True)
class Flip(_Moving):
    """Mirrors images, each with probability `p`: left to right, top to bottom, or both by chance.

    Parameters
    ----------
    horizontal, vertical : which may happen
    p : probability of each
    shape : (height, width) or (height, width, channels) of flat rows
    """

    horizontal: bool = True
    vertical: bool = False
    p: float = 0.5
    _: KW_ONLY
    shape: tuple[int, ...] | None = None
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_bool("horizontal", self.horizontal)
        arguments.check_bool("vertical", self.vertical)
        arguments.check_fraction("p", self.p)
        check_shape(self.shape)

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        maps = _unchanged(n)
        for axis, wanted in ((0, self.vertical), (1, self.horizontal)):
            if wanted:
                maps[rng.random(n) < self.p, axis, axis] = -1
        return maps


@dataclass(frozen=True)
class Shift(_Moving):
    """Moves images by up to so many whole pixels, up or down and left or right.

    Parameters
    ----------
    pixels : the most in both directions, or (rows, columns)
    fill : what moves in
    shape : (height, width) or (height, width, channels) of flat rows
    """

    pixels: int | tuple[int, int] = 2
    _: KW_ONLY
    fill: float = 0.0
    shape: tuple[int, ...] | None = None
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        for most in _pair(self.pixels):
            arguments.check_integer("pixels", most, 0)
        arguments.check_real("fill", self.fill, "a number")
        check_shape(self.shape)

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        maps = _unchanged(n)
        for axis, most in enumerate(_pair(self.pixels)):
            maps[:, axis, 2] = rng.integers(-most, most, n, endpoint=True)
        return maps


@dataclass(frozen=True)
class Rotate(_Moving):
    """Turns images about their centre, by up to so many degrees either way.

    Parameters
    ----------
    degrees : the most
    fill : what comes in at the corners
    shape : (height, width) or (height, width, channels) of flat rows
    """

    degrees: float = 15.0
    _: KW_ONLY
    fill: float = 0.0
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_nonnegative("degrees", self.degrees)
        arguments.check_real("fill", self.fill, "a number")
        check_shape(self.shape)

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        angle = np.radians(rng.uniform(-self.degrees, self.degrees, n))
        maps = _unchanged(n)
        maps[:, 0, 0] = maps[:, 1, 1] = np.cos(angle)
        maps[:, 0, 1] = -np.sin(angle)
        maps[:, 1, 0] = np.sin(angle)
        return maps


@dataclass(frozen=True)
class Shear(_Moving):
    """Slants images to the left or right, uprights by up to so many degrees.

    Parameters
    ----------
    degrees : the most, below 90
    fill : what comes in at the corners
    shape : (height, width) or (height, width, channels) of flat rows
    """

    degrees: float = 10.0
    _: KW_ONLY
    fill: float = 0.0
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if arguments.check_nonnegative("degrees", self.degrees) >= 90:
            arguments.refuse("degrees", "a number below 90", self.degrees)
        arguments.check_real("fill", self.fill, "a number")
        check_shape(self.shape)

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        maps = _unchanged(n)
        maps[:, 1, 0] = np.tan(np.radians(rng.uniform(-self.degrees, self.degrees, n)))
        return maps


@dataclass(frozen=True)
class ZoomCrop(_Moving):
    """Enlarges images by a factor between `low` and `high` and cuts a window out, anywhere.

    Below 1 the image shrinks and lies anywhere in its frame.

    Parameters
    ----------
    low, high : of the factor
    fill : what lies around a smaller image
    shape : (height, width) or (height, width, channels) of flat rows
    """

    low: float = 0.9
    high: float = 1.1
    _: KW_ONLY
    fill: float = 0.0
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_positive("low", self.low)
        if arguments.check_positive("high", self.high) < self.low:
            raise ValueError(f"high: expected at least low, {self.low}, got {self.high}")
        arguments.check_real("fill", self.fill, "a number")
        check_shape(self.shape)

    def _maps(self, n: int, h: int, w: int, rng: Generator) -> Maps:
        zoom = rng.uniform(self.low, self.high, n)
        maps = _unchanged(n)
        for axis, size in enumerate((h, w)):
            maps[:, axis, axis] = 1 / zoom
            room = size * (1 - 1 / zoom)  # between the window's place and the frame
            maps[:, axis, 2] = rng.uniform(-0.5, 0.5, n) * room
        return maps


@dataclass(frozen=True)
class Noise(_Augmentation):
    """Adds normal noise to every number; bytes are rounded and stay in 0 ... 255.

    Parameters
    ----------
    std : of the noise, in the units of x (8 is little for bytes, 0.03 for numbers up to 1)
    shape : (height, width) or (height, width, channels) of flat rows
    """

    std: float
    _: KW_ONLY
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_nonnegative("std", self.std)
        check_shape(self.shape)

    def _change(self, images: Array, rng: Generator) -> Array:
        noise = rng.standard_normal(images.shape, np.float32) * np.float32(self.std)
        changed: Array = images + noise
        if images.dtype == np.uint8:
            changed = np.clip(np.rint(changed), 0, 255)
        return changed.astype(images.dtype, copy=False)


@dataclass(frozen=True)
class Cutout(_Augmentation):
    """Blanks a square, its centre anywhere in the image, so that it may stick out.

    Parameters
    ----------
    size : of its sides, in pixels
    fill : what it is filled with
    shape : (height, width) or (height, width, channels) of flat rows
    """

    size: int = 8
    _: KW_ONLY
    fill: float = 0.0
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_integer("size", self.size, 1)
        arguments.check_real("fill", self.fill, "a number")
        check_shape(self.shape)

    def _change(self, images: Array, rng: Generator) -> Array:
        n, h, w, _ = images.shape
        inside = []
        for size in (h, w):
            start = rng.integers(0, size, (n, 1)) - self.size // 2
            place = np.arange(size)
            inside.append((place >= start) & (place < start + self.size))
        changed = images.copy()
        changed[inside[0][:, :, None] & inside[1][:, None, :]] = self.fill
        return changed


@dataclass(frozen=True)
class Compose(_Augmentation):
    """Does some changes one after the other; neighbours that move pixels in one go.

    Parameters
    ----------
    steps : augmentations, or your own functions f(x, rng), which see x in the shape it came in
    shape : (height, width) or (height, width, channels) of flat rows; by default that of the
        first step that has one
    """

    steps: Sequence[Function]
    _: KW_ONLY
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.steps, str) or not isinstance(self.steps, Sequence):
            raise TypeError(f"steps: expected a list of augmentations, got {self.steps!r}")
        for step in self.steps:
            if not callable(step) or isinstance(step, type):
                raise TypeError(f"steps: expected augmentations or functions, got {step!r}")
        check_shape(self.shape)
        parts = [step.steps if isinstance(step, Compose) else [step] for step in self.steps]
        object.__setattr__(self, "steps", [step for part in parts for step in part])
        shapes = [step.shape for step in self.steps if isinstance(step, _Augmentation)]
        first = next((shape for shape in (self.shape, *shapes) if shape is not None), None)
        object.__setattr__(self, "shape", first)

    def __call__(self, x: Array, rng: Generator) -> Array:
        """Return the changed batch, a new array of the shape and dtype of x; raises as a step."""
        check_generator(rng)
        images = as_images(x, self.shape).copy()
        moving: list[_Moving] = []
        for step in (*self.steps, None):
            if moving and not (isinstance(step, _Moving) and _fill([*moving, step]) is not None):
                images, moving = _move(images, moving, rng), []
            if isinstance(step, _Moving):
                moving.append(step)
            elif isinstance(step, _Augmentation):
                images = step._change(images, rng)
            elif step is not None:
                images = as_images(np.asarray(step(images.reshape(x.shape), rng)), self.shape)
        return images.reshape(x.shape)


# ---- images and maps -------------------------------------------------------------------------


def check_generator(rng: Any) -> None:
    """Refuse what is no generator, such as a seed."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng: expected a numpy.random.Generator such as np.random.default_rng(0), "
            f"got {arguments.describe(rng)}"
        )


def check_shape(shape: Any) -> None:
    """Refuse what is no (height, width) or (height, width, channels)."""
    if shape is None:
        return
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise TypeError(
            f"shape: expected (height, width) or (height, width, channels), got {shape!r}"
        )
    for size in shape:
        arguments.check_integer("shape", size, 1)


def as_images(x: Array, shape: tuple[int, ...] | None) -> Array:
    """Return a batch as (n, h, w, c); it shares memory with x where it can."""
    if not isinstance(x, np.ndarray) or x.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(
            f"x: expected images of uint8, float32 or float64, got {arguments.describe(x)}"
        )
    if shape is None:
        if x.ndim not in (3, 4):
            raise ValueError(
                f"x: expected images (n, h, w) or (n, h, w, c), got {x.shape}; "
                "flat rows need shape=(h, w) or (h, w, c)"
            )
        return x.reshape(*x.shape, 1) if x.ndim == 3 else x
    size = math.prod(shape)
    if x.shape[1:] not in ((size,), tuple(shape)):
        raise ValueError(
            f"x: expected rows of {size} numbers, images of shape {tuple(shape)}, got {x.shape}"
        )
    return x.reshape(len(x), *shape, *(() if len(shape) == 3 else (1,)))


def _pair(pixels: Any) -> tuple[Any, Any]:
    if not isinstance(pixels, tuple | list):
        return pixels, pixels
    if len(pixels) != 2:
        raise TypeError(f"pixels: expected a number or (rows, columns), got {pixels!r}")
    return pixels[0], pixels[1]


def _unchanged(n: int) -> Maps:
    return np.tile(np.eye(3), (n, 1, 1))


def _fill(steps: list[_Moving]) -> float | None:
    """Return what moves in from outside, or None where steps differ."""
    fills = {step.fill for step in steps if step.fill is not None} or {0.0}
    return fills.pop() if len(fills) == 1 else None


def _move(images: Array, steps: list[_Moving], rng: Generator) -> Array:
    """Return the images after all steps, whose maps are multiplied: the last one's comes first."""
    n, h, w, _ = images.shape
    fill = _fill(steps)
    assert fill is not None
    maps = _unchanged(n)
    for step in steps:
        maps = maps @ step._maps(n, h, w, rng)
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    linear = maps[:, :2, :2]
    offset = maps[:, :2, 2] + centre - linear @ centre
    if all(step.exact for step in steps):
        return _take(images, linear, offset, fill)
    try:
        from scipy.ndimage import affine_transform
    except ImportError:
        raise ImportError(
            "rotating, shearing and zooming need SciPy: pip install 'fanin[augment]'"
        ) from None
    moved = np.empty_like(images, order="C")
    for i in range(n):
        for c in range(images.shape[3]):
            affine_transform(
                images[i, :, :, c], linear[i], offset[i], output=moved[i, :, :, c], order=1,
                mode="grid-constant", cval=fill, prefilter=False,
            )  # fmt: skip
    return moved


def _take(images: Array, linear: Maps, offset: Maps, fill: float) -> Array:
    """Return images moved by whole pixels: rows and columns go their own ways."""
    n, h, w, _ = images.shape
    places, inside = [], []
    for axis, size in enumerate((h, w)):
        place = linear[:, axis, axis, None] * np.arange(size) + offset[:, axis, None]
        place = place.astype(np.int64)
        places.append(np.clip(place, 0, size - 1))
        inside.append(places[axis] == place)
    moved = images[np.arange(n)[:, None, None], places[0][:, :, None], places[1][:, None, :]]
    moved[~(inside[0][:, :, None] & inside[1][:, None, :])] = fill
    return moved
