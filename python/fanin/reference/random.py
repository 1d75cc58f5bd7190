"""Random numbers without state: every draw is a function of (seed, step, layer, place).

Philox4x32-10 turns a counter of four 32-bit words and a key of two into four random words:

    J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

The words of the counter, low bit first; the key is the seed's low and high half:

    c0, c1   place (of a dropout block, or of a pair of 64-bit words)
    c2       layer (16 bits), step >> 32 (12 bits), stream (4 bits)
    c3       step & 0xffffffff

Only exactly rounded operations are used, so a seed gives the same bits on every machine.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .arguments import Array, Key

STREAM_DROPOUT = 0
STREAM_INIT = 1
STREAM_SHUFFLE = 2

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLY = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85  # golden ratio, sqrt(3) - 1


def philox4x32(
    counter: NDArray[np.uint32], key: Sequence[int] | NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Return the Philox4x32-10 words of each counter.

    counter (..., 4) uint32, key: two 32-bit numbers; the result is (..., 4) uint32.
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter).astype(np.uint64), -1, 0)
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        p0, p1 = _MULTIPLY[0] * c0, _MULTIPLY[1] * c2  # 32 x 32 -> 64 bits
        c0 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_blocks(low: Array, high: Array, key: Key, stream: int) -> NDArray[np.uint32]:
    """Return the four words (..., 4) of the places (low, high), which broadcast together.

    key = (seed, step, layer).
    """
    seed, step, layer = (int(word) for word in key)
    counter = np.empty((*np.broadcast_shapes(low.shape, high.shape), 4), np.uint32)
    counter[..., 0] = low
    counter[..., 1] = high
    counter[..., 2] = layer | (step >> 32) << 16 | stream << 28
    counter[..., 3] = step & 0xFFFFFFFF
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))


def random_words(count: int, key: Key, stream: int, start: int = 0) -> NDArray[np.uint64]:
    """Return the 64-bit words number start ... start + count - 1 of a stream, (count,) uint64.

    Word e is half of block e // 2: w0 | w1 << 32 when e is even, w2 | w3 << 32 when it is odd.
    """
    first = start // 2
    blocks = np.arange(first, (start + count + 1) // 2, dtype=np.uint64)
    words = random_blocks(blocks & _MASK, blocks >> _HALF, key, stream).astype(np.uint64)
    pairs = words[:, 0::2] | words[:, 1::2] << _HALF
    return pairs.reshape(-1)[start - 2 * first :][:count]


def uniform(count: int, key: Key, stream: int, start: int = 0) -> NDArray[np.float64]:
    """Return `count` numbers, uniform in the open interval (0, 1), float64."""
    return unit_interval(random_words(count, key, stream, start))


def normal(count: int, key: Key, stream: int, start: int = 0) -> NDArray[np.float64]:
    """Return `count` numbers, normal with mean 0 and variance 1, float64."""
    return inverse_normal_cdf(uniform(count, key, stream, start))


def unit_interval(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return (the upper 53 bits of each word + 1/2) / 2**53, at most 1 - 2**-53."""
    bits = (words >> np.uint64(11)).astype(np.float64)
    return np.minimum((bits + 0.5) * 2.0**-53, 1.0 - 2.0**-53)


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of `count` rows in an epoch: that of a random word for each row."""
    return order_of(random_words(count, (seed, epoch, 0), STREAM_SHUFFLE))


def order_of(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rows in the order of their words, whose low bits are replaced by the row's number.

    No two are equal then, and sorting the words themselves is ten times faster than an argsort.
    """
    low = np.uint64((1 << len(words).bit_length()) - 1)
    words = (words & ~low) | np.arange(len(words), dtype=np.uint64)
    words.sort()
    return (words & low).astype(np.int64)


class Stream:
    """The random numbers of one layer's initial weights; each draw goes on where the last ended.

    An initialiser gets one as `rng`; `rng.normal((fan_in, fan_out))` is a matrix.
    """

    _words = staticmethod(random_words)  # a subclass may have faster ones

    def __init__(self, seed: int, layer: int) -> None:
        """Start at the first number of this seed and layer."""
        self._key = arguments.check_key((seed, 0, layer))
        self._drawn = 0

    def uniform(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return uniform numbers in (0, 1), float64, of this shape."""
        start = self._drawn
        self._drawn += math.prod(shape) if isinstance(shape, tuple) else int(shape)
        words = self._words(self._drawn - start, self._key, STREAM_INIT, start)
        return unit_interval(words).reshape(shape)

    def normal(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return normal numbers of mean 0 and variance 1, float64, of this shape."""
        return inverse_normal_cdf(self.uniform(shape))


# ---- the normal distribution -----------------------------------------------------------------

# M. Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
# Applied Statistics 37 (1988), PPND16: numerator and denominator in the middle, in the tails,
# far out; relative error about 1e-16.
_MIDDLE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
     1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
     3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
     5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
     3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
     2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
     1.05075007164441684324e-9),
)  # fmt: skip
_FAR_TAIL = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
     2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
     2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
     2.04426310338993978564e-15),
)  # fmt: skip


def inverse_normal_cdf(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the z with P(Z <= z) = p for a standard normal Z; p float64 in (0, 1)."""
    q = p - 0.5
    middle = np.abs(q) <= 0.425
    r = np.sqrt(-_log(np.where(middle, 0.5, np.minimum(p, 1.0 - p))))
    tail = np.where(r <= 5.0, _ratio(_TAIL, r - 1.6), _ratio(_FAR_TAIL, r - 5.0))
    return np.where(middle, q * _ratio(_MIDDLE, 0.180625 - q * q), np.copysign(tail, q))


def _ratio(fraction: tuple[tuple[float, ...], ...], r: Array) -> Array:
    numerator, denominator = (_polynomial(coefficients, r) for coefficients in fraction)
    return numerator / denominator


def _polynomial(coefficients: Sequence[float], r: Array) -> Array:
    total = np.full_like(r, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * r + coefficient
    return total


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm by sums and products alone: np.log's last bit depends on the processor.

    x = m 2^e with m in [0.7, 1.4], s = (m - 1) / (m + 1), |s| < 0.18:
    log x = e log 2 + 2 (s + s^3 / 3 + s^5 / 5 + ...).
    """
    m, e = np.frexp(x)
    small = m < math.sqrt(0.5)
    m, e = np.where(small, 2.0 * m, m), e - small
    s = (m - 1.0) / (m + 1.0)
    series = _polynomial([2.0 / (2 * k + 1) for k in range(12)], s * s)
    return np.asarray(e * math.log(2.0) + s * series)
