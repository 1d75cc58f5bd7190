"""The coefficients of cpp/kernels/math.hpp, from the definitions of the functions alone.

    python tests/make_coefficients.py        # needs mpmath; prints `Coefficients` for both types

Each table is a minimax polynomial (Remez exchange in 50 digits): of all polynomials of its degree
the one whose greatest weighted error on the interval is least. Coefficients are then rounded to the
type. The error printed is that of the rounded polynomial, evaluated exactly, in units of 2^-24
(float) or 2^-53 (double) of the function it serves: half of such a unit or more is lost by any
result that is rounded.
"""

import struct

from mpmath import atanh, cos, erf, erfc, exp, expm1, log, lu_solve, matrix, mp, mpf, pi, sqrt

mp.dps = 50
CODE = {"float": "f", "double": "d"}
DIGITS = {"float": 24, "double": 53}


def evaluate(c, x):
    y = mpf(0)
    for k in reversed(c):
        y = y * x + k
    return y


def remez(f, weight, a, b, degree):
    """Coefficients, lowest power first, minimising the maximum of |weight * (f - polynomial)|."""
    size = degree + 2  # unknowns: the coefficients and the error itself
    grid = [(a + b - (b - a) * cos(pi * (i + 0.5) / (40 * size))) / 2 for i in range(40 * size)]
    values = [(x, f(x), weight(x)) for x in grid]
    points = values[20::40]
    for _ in range(30):
        rows = [
            [*(x**j for j in range(size - 1)), (-1) ** i / w] for i, (x, _, w) in enumerate(points)
        ]
        c = list(lu_solve(matrix(rows), matrix([y for _, y, _ in points])))[:-1]
        errors = [w * (y - evaluate(c, x)) for x, y, w in values]
        extrema = []  # one for each run of errors of the same sign
        for i, e in enumerate(errors):
            if not extrema or (e > 0) != (errors[extrema[-1]] > 0):
                extrema.append(i)
            elif abs(e) > abs(errors[extrema[-1]]):
                extrema[-1] = i
        while len(extrema) > size:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        peaks = [abs(errors[i]) for i in extrema]
        if len(extrema) < size or max(peaks) < mpf("1.001") * min(peaks):
            return c
        points = [values[i] for i in extrema]
    return c


def rounded(x, t):
    return mpf(struct.unpack(CODE[t], struct.pack(CODE[t], float(x)))[0])


def literal(x, t):
    mantissa, exponent = float(x).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{int(exponent)}{'f' * (t == 'float')}"


def constant(t, name, x):
    print(f"  static constexpr {t} {name} = {literal(rounded(x, t), t)};")


def table(t, name, f, weight, a, b, degree):
    a, b = mpf(a), mpf(b)
    c = [rounded(x, t) for x in remez(f, weight, a, b, degree)]
    xs = [a + (b - a) * (i + mpf("0.5")) / 2000 for i in range(2000)]
    error = max(abs(weight(x) * (f(x) - evaluate(c, x))) for x in xs) * 2 ** DIGITS[t]
    print(f"  // on [{float(a):.4g}, {float(b):.4g}], error {float(error):.2f}")
    print(f"  static constexpr {t} {name}[] = {{{', '.join(literal(x, t) for x in c)}}};")


def coefficients(t, ln2_bits, expm1_degree, log_degree, erf_degree, tail_degree, tail):
    print(f"template <>\nstruct Coefficients<{t}> {{")
    constant(t, "log2e", 1 / log(2))
    step = mpf(2) ** -ln2_bits
    high = mp.nint(log(2) / step) * step
    constant(t, "ln2_high", high)
    constant(t, "ln2_low", log(2) - high)

    def expm1_tail(r):
        return (expm1(r) - r) / r**2

    def log_tail(z):
        return (2 * atanh(sqrt(z)) / sqrt(z) - 2) / z

    def erf_ratio(z):
        return erf(sqrt(z)) / sqrt(z)

    r = log(2) / 2 * mpf("1.0001")
    table(t, "expm1", expm1_tail, lambda r: r**2 / exp(r), -r, r, expm1_degree)
    table(t, "log", log_tail, lambda z: z / 2, 1e-12, 0.0401, log_degree)
    table(t, "erf", lambda z: erf_ratio(z) - 1, lambda z: 1 / erf_ratio(z), 1e-12, 1, erf_degree)

    end, pole, centre = (mpf(x) for x in tail)

    def normal_tail(y):
        a = (centre + pole * y) / (1 - y)  # y = (a - centre) / (a + pole)
        return exp(a * a / 2) * erfc(a / sqrt(mpf(2))) / 2 * (a + pole)

    constant(t, "tail_end", end)
    constant(t, "tail_pole", pole)
    constant(t, "tail_centre", centre)
    first, last = (1 - centre) / (1 + pole), (end - centre) / (end + pole)
    table(t, "tail", normal_tail, lambda y: 1 / normal_tail(y), first, last, tail_degree)
    print("};")


if __name__ == "__main__":
    # ln2_high has as many bits as leave n * ln2_high exact for every n that occurs. Pole and
    # centre: of those tried, in steps of 1/2 and 1/4, the pair with the least error once rounded.
    coefficients("float", 16, 5, 2, 6, 8, (14.5, 2.5, 3.25))
    coefficients("double", 42, 10, 6, 13, 19, (39, 3.5, 4.75))
