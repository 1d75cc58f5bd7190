"""Standardizer alone, and in a network: the statistics, the bits, files, memory maps."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin import Standardizer, _core, reference

U = 2.0**-53


def exact(x: np.ndarray, per_feature: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std in two passes of extended precision."""
    x = x.astype(np.longdouble).reshape(len(x), -1)
    x = x if per_feature else x.reshape(-1, 1)
    mean = x.mean(axis=0)
    return mean, np.sqrt(((x - mean) ** 2).mean(axis=0))


def bound(x: np.ndarray, chunks: int) -> np.ndarray:
    """(c + 8 K) u R, as the docstring has it."""
    wide = x.astype(np.float64)
    return (4096 + 8 * chunks) * U * np.abs(wide - wide.reshape(-1)[0]).max()


# ---- alone -----------------------------------------------------------------------------------

DATA = {
    "bytes": lambda rng: rng.integers(0, 256, (9000, 5)).astype(np.uint8),
    "float32": lambda rng: rng.normal(3, 2, (9000, 5)).astype(np.float32),
    "far from zero": lambda rng: 1e9 + rng.normal(0, 1, (9000, 5)),
    "in ascending order": lambda rng: np.sort(rng.normal(0, 1, (9000, 5)), axis=0),
    "wide": lambda rng: rng.normal(0, 1, (30, 9000)),
    "int64": lambda rng: rng.integers(-(10**12), 10**12, (500, 3)),
    "bool": lambda rng: rng.random((500, 3)) < 0.2,
    "targets": lambda rng: rng.normal(200_000, 1e5, 5000),
}


@pytest.mark.parametrize("per_feature", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_statistics_in_any_pieces(name, per_feature, rng):
    """Fitted at once or piece by piece: within the stated bound of the exact ones."""
    x = DATA[name](rng)
    mean, std = exact(x, per_feature)
    for cuts in ([], [1], [7, 4000], np.sort(rng.integers(1, len(x), 40))):
        s = Standardizer(per_feature=per_feature)
        pieces = np.split(x, cuts)
        for piece in pieces:
            if len(piece):
                s.partial_fit(piece)
        at_once = max((1 << 17) // s.columns, 1)
        limit = bound(x, len(pieces) + -(-len(x) // min(at_once, 4096)))
        assert np.all(np.abs(s.mean - mean) <= limit + U * np.abs(mean))
        assert np.all(np.abs(s.std - std) <= limit)
        assert s.rows == len(x) and s.mean.dtype == np.float64
        assert np.shape(s.mean) == ((s.columns,) if per_feature else ())
    fitted = Standardizer(per_feature=per_feature).partial_fit(x[:3]).fit(x)  # forgets
    same_bits(np.asarray(fitted.mean),
              np.asarray(Standardizer(per_feature=per_feature).fit(x).mean))  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("settings", [{}, {"center": False}, {"scale": False},
                                      {"per_feature": False}], ids=str)  # fmt: skip
def test_transform_and_back(dtype, settings, rng):
    x = (rng.random((300, 4)) * [4, 10, 100, 255]).astype(dtype)
    s = Standardizer(**settings).fit(x)
    z = s.transform(x)
    assert z.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert z.flags.c_contiguous and z.shape == x.shape
    unit = np.finfo(z.dtype).eps / 2
    mean, std = exact(x, s.per_feature)
    mean, std = mean * s.center, std if s.scale else 1
    # a rounding each of mean, difference, factor (twice) and product, on numbers up to 255
    assert np.all(np.abs(z - (x - mean) / std) <= 5 * unit * 255 / np.min(std))
    assert np.all(np.abs(s.inverse_transform(z) - x) <= 8 * unit * 255)
    if not settings:  # of float64 the mean of 300 is 0 to (300 + 5) roundings of numbers below 4
        assert np.all(np.abs(z.mean(axis=0)) <= 305 * unit * 4)
        assert np.all(np.abs(z.std(axis=0) - 1) <= 305 * unit * 4)


def test_targets_of_one_dimension():
    y = np.array([1.0, 2.0, 6.0])
    s = Standardizer().fit(y)
    assert s.transform(y).shape == (3,) and s.transform(y[:, None]).shape == (3, 1)
    assert s.mean.tolist() == [3.0]


def test_constant_columns_stay_finite(rng):
    """0.1 has no exact mean in floating point; constant is constant all the same."""
    x = np.full((1000, 4), 0.1)
    x[:, 1] = 0
    x[:, 2] = rng.normal(size=1000)
    x[:, 3] = 1e-310 * np.arange(1000)  # 1 / std would be infinite
    s = Standardizer()
    for piece in np.split(x, [10, 700]):
        s.partial_fit(piece)
    assert s.std[0] == s.std[1] == 0
    z = s.transform(x)
    assert np.isfinite(z).all() and not z[:, :2].any()
    same_bits(s.inverse_transform(z)[:, :2], x[:, :2])
    assert np.isfinite(s.transform(x.astype(np.float32) + 5)).all()  # columns that change later


def test_refusals(rng):
    s, x = Standardizer(), rng.normal(size=(10, 3))
    for use in (s.transform, s.inverse_transform):
        with pytest.raises(RuntimeError, match="expected a fitted one; call fit or partial_fit"):
            use(x)
    s.fit(x)
    before = s.to_config()
    x[4, 2] = np.nan
    cases = [
        (s.transform, np.zeros((2, 4)), ValueError, r"expected 3 columns.*got shape \(2, 4\)"),
        (s.inverse_transform, np.zeros(2), ValueError, "expected 3 columns"),
        (s.partial_fit, np.zeros((2, 4)), ValueError, "expected 3 columns"),
        (s.partial_fit, x, ValueError, "x: expected finite numbers, got nan in row 4, column 2"),
        (s.fit, x, ValueError, "row 4, column 2"),
        (s.fit, np.zeros((0, 3)), ValueError, "at least one row"),
        (s.fit, np.zeros((2, 3, 4)), ValueError, r"expected shape \(rows, columns\) or \(rows,\)"),
        (s.fit, np.array(["a"]), TypeError, "x: expected real numbers"),
        (s.fit, np.array([[1e300], [-1e300]]), ValueError, "whose squares float64 can hold"),
    ]
    for method, data, kind, message in cases:
        with pytest.raises(kind, match=message):
            method(data)
        assert s.to_config() == before  # nothing is lost
    with pytest.raises(TypeError, match="per_feature: expected True or False"):
        Standardizer(per_feature=1)


def test_repr_and_copies(rng):
    s = Standardizer(per_feature=False)
    assert repr(s) == "Standardizer(center=True, scale=True, per_feature=False: not fitted)"
    s.fit(rng.normal(size=(10, 3)))
    assert repr(s).endswith("10 rows of 3)")
    for other in (copy.copy(s), copy.deepcopy(s), pickle.loads(pickle.dumps(s)),
                  Standardizer.from_config(s.to_config())):  # fmt: skip
        assert other.to_config() == s.to_config()
        mean = s.mean
        other.partial_fit(np.ones((5, 3)))
        assert s.rows == 10 and s.mean == mean


# ---- the compiled gather ---------------------------------------------------------------------

LAYOUTS = {
    "rows": lambda x: x,
    "columns": np.asfortranarray,
    "steps": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", [np.uint8, np.float32, np.float64])
def test_gather_has_the_bits_of_the_reference(source, layout, dtype, isa, rng):
    """On every instruction set, also the baseline: nothing in it is fused."""
    for rows, columns in ((1, 1), (200, 37), (70, 500)):
        x = (rng.random((rows, columns)) * 255).astype(source)
        s = Standardizer().fit(x.astype(np.float64) + rng.random(columns))
        x, chosen = LAYOUTS[layout](x), rng.integers(0, rows, 99)
        wide = np.result_type(source, dtype)
        out = np.full((99, columns), np.nan, dtype)
        _core.gather(x, chosen, *s.shift_and_factor(wide), out)
        same_bits(out, s.apply(x[chosen], np.dtype(dtype)))


def test_gather_refuses(rng):
    x, rows, out = np.zeros((5, 3)), np.arange(2), np.zeros((2, 3), np.float32)
    v = np.zeros(3)
    for arguments in (
        (x, np.array([5, 0]), v, v, out),
        (x, np.array([-1, 0]), v, v, out),
        (x, rows, v.astype(np.float32), v, out),
        (x, rows, v[:2], v, out),
        (x.astype(np.int32), rows, v, v, out),
        (x, rows, v, v, out[:1]),
        (x, np.arange(2.0), v, v, out),
    ):
        with pytest.raises((ValueError, TypeError)):
            _core.gather(*arguments)


# ---- in a network ----------------------------------------------------------------------------


def data(rng, kind=np.float64, rows=400):
    """Columns of very different scales, far from zero; three classes and a target."""
    x = (rng.random((rows, 4)) * [250, 2, 60, 9] + [0, 100, 3, 0]).astype(kind)
    t = x.astype(np.float64) @ [0.01, 1.0, 0.05, 0.2]
    y = np.digitize(t, np.quantile(t, [1 / 3, 2 / 3]))
    return x, y, 1e6 + 3e5 * t


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, np.int32, np.float16])
def test_as_if_done_by_hand(kind, package, dtype, rng):
    """fit, validation, predict, predict_proba and evaluate see what `apply` gives."""
    x, y, _ = data(rng, kind)
    s = package.Standardizer().fit(x[:300])
    by_hand = s.apply(x, np.dtype(dtype))
    net = package.MLP([4, 8, 3], dtype=dtype, dropout=0.1, standardizer=package.Standardizer())
    other = package.MLP([4, 8, 3], dtype=dtype, dropout=0.1)
    options = {"epochs": 3, "batch_size": 32, "progress": False}
    history = net.fit(x[:300], y[:300], validation=(x[300:], y[300:]), **options)
    plain = other.fit(by_hand[:300], y[:300], validation=(by_hand[300:], y[300:]), **options)
    assert history.loss == plain.loss and history.val_loss == plain.val_loss
    same_bits(net.parameters, other.parameters)
    same_bits(net.predict_proba(x), other.predict_proba(by_hand))
    same_bits(net.predict(x), other.predict(by_hand))
    assert net.evaluate(x, y) == other.evaluate(by_hand, y)
    # the statistics are of the training rows alone, and stay
    same_bits(net.standardizer.mean, s.mean)
    net.fit(x[300:], y[300:], **options)
    same_bits(net.standardizer.mean, s.mean)
    # and these take what they are given
    same_bits(net.forward(by_hand), net.forward(by_hand.copy()))
    assert not np.array_equal(net.forward(x.astype(dtype)), net.forward(by_hand))


def test_the_packages_agree(dtype, rng):
    """The compiled network and the reference keep the same statistics and losses."""
    x, _, t = data(rng)
    histories = []
    for p in (fanin, reference):
        net = p.MLP([4, 6, 1], output="identity", dtype=dtype, standardizer=p.Standardizer(),
                    target_standardizer=p.Standardizer())  # fmt: skip
        histories.append(net.fit(x, t, epochs=3, batch_size=50, progress=False).loss)
    # 24 steps; rounding of products alone differs, far below a hundred units of the loss' size
    unit = np.finfo(dtype).eps / 2
    assert np.max(np.abs(np.subtract(*histories))) <= 1e4 * unit


def test_targets_are_undone(package, dtype, rng):
    """predict and r2 in the units of y, the loss of standardised targets."""
    x, _, t = data(rng)
    t = np.column_stack([t, -t / 1e6])
    net = package.MLP([4, 32, 2], output="identity", activation="tanh", dtype=dtype,
                      standardizer=package.Standardizer(),
                      target_standardizer=package.Standardizer())  # fmt: skip
    optimizer = package.Adam(0.01)
    history = net.fit(x[:300], t[:300], validation=(x[300:], t[300:]), epochs=60, batch_size=32,
                      optimizer=optimizer, progress=False)  # fmt: skip
    found, scores = net.predict(x), net.evaluate(x[300:], t[300:])
    assert found.dtype == net.dtype
    assert scores["r2"] > 0.95
    assert history.loss[0] < 3 and scores["loss"] == history.val_loss[-1]
    s = net.target_standardizer
    z = net.forward(net.standardizer.apply(x, net.dtype))
    same_bits(found, s.undo(z).astype(dtype))
    error = ((found[300:] - t[300:]) ** 2).mean(axis=0)
    # standardised errors times std^2 are errors; predictions near 1e6 were rounded to dtype
    unit = np.finfo(dtype).eps
    rounding = 4 * unit * np.abs(t).max(axis=0) * np.sqrt(error)
    assert np.all(np.abs(error - s.std**2 * ((z[300:] - s.transform(t[300:])) ** 2).mean(axis=0))
                  <= rounding + 1e-5 * error)  # fmt: skip
    r2 = 1 - (error / t[300:].var(axis=0))
    assert abs(scores["r2"] - r2.mean()) <= 1e-4
    one = package.MLP([4, 1], output="identity", target_standardizer=package.Standardizer())
    one.fit(x / 256, t[:, 0], epochs=1, progress=False)
    assert one.predict(x / 256).shape == (400,)


def test_files_and_copies(package, dtype, tmp_path, rng):
    x, _, t = data(rng)
    net = package.MLP([4, 1], output="identity", dtype=dtype,
                      standardizer=package.Standardizer(per_feature=False),
                      target_standardizer=package.Standardizer(center=False))  # fmt: skip
    for fitted in (False, True):
        if fitted:
            net.fit(x, t, epochs=1, progress=False)
        net.save(tmp_path / "net")
        for other in (package.load(tmp_path / "net"), copy.deepcopy(net),
                      pickle.loads(pickle.dumps(net))):  # fmt: skip
            for name in ("standardizer", "target_standardizer"):
                assert getattr(other, name).to_config() == getattr(net, name).to_config()
            if fitted:
                same_bits(other.predict(x), net.predict(x))
                assert other.evaluate(x, t) == net.evaluate(x, t)


def test_a_copy_is_kept(package, rng):
    """Two networks given one standardizer do not change each other's, nor the user's."""
    x, y, _ = data(rng)
    s = package.Standardizer()
    nets = [package.MLP([4, 3], standardizer=s) for _ in range(2)]
    nets[0].fit(x[:50], y[:50], epochs=1, progress=False)
    nets[1].fit(x[50:], y[50:], epochs=1, progress=False)
    assert s.rows == 0 and nets[0].standardizer.rows == 50 and nets[1].standardizer.rows == 350


def test_a_network_refuses(package, rng):
    x, y, t = data(rng)
    s = package.Standardizer()
    new = {"epochs": 1, "progress": False}
    with pytest.raises(
        ValueError, match="standardizer: expected one for 4 columns, got one fitted"
    ):
        package.MLP([4, 3], standardizer=package.Standardizer().fit(x[:, :3]))
    with pytest.raises(ValueError, match="target_standardizer: expected one for 1 columns"):
        package.MLP([4, 1], output="identity", target_standardizer=package.Standardizer().fit(x))
    with pytest.raises(TypeError, match="standardizer: expected a Standardizer or None, got True"):
        package.MLP([4, 3], standardizer=True)
    with pytest.raises(ValueError, match="target_standardizer: expected None for output='softmax'"):
        package.MLP([4, 3], target_standardizer=s)
    net = package.MLP([4, 3], standardizer=s)
    with pytest.raises(ValueError, match="input_scale: expected None, as the network has a stand"):
        net.fit(x, y, input_scale=1 / 255, **new)
    for use in (net.predict, net.predict_proba, lambda x: net.evaluate(x, y)):
        with pytest.raises(RuntimeError, match="standardizer: expected a fitted one"):
            use(x)
    for bad in ({"validation": (x, y[:5])}, {"validation": (np.full((2, 4), np.nan), y[:2])},
                {"early_stopping": 0}):  # fmt: skip
        with pytest.raises(ValueError, match=r"validation|early_stopping"):
            net.fit(x, y, **new, **bad)
        assert net.standardizer.rows == 0  # nothing was written
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match="x: expected finite numbers, got inf in row 3, column 1"):
        net.fit(x, y, **new)
    regression = package.MLP([4, 1], output="identity", target_standardizer=s)
    t[7] = np.nan
    with pytest.raises(ValueError, match="expected finite numbers, got nan in row 7"):
        regression.fit(x[:, ::-1], t, **new)


def test_scaled_numbers_that_overflow(package):
    """Rows that are finite, but not in float32 once standardised."""
    net = package.MLP([2, 3], standardizer=package.Standardizer())
    x = np.zeros((90, 2))
    x[::2, 0] = 1e-29
    net.fit(x, np.arange(90) % 3, epochs=1, progress=False)
    x[5, 0] = 1e12
    with pytest.raises(ValueError, match=r"too large for float32\) in row 5, column 0"):
        net.fit(x, np.arange(90) % 3, epochs=1, progress=False)


def test_train_rows_with_a_standardizer_on_any_threads(threads, rng):
    """The same bits whoever gathers."""
    x, y, _ = data(rng, np.uint8, 3000)
    net = fanin.MLP([4, 64, 64, 3], standardizer=Standardizer(), dropout=0.2)
    net.fit(x, y, epochs=2, batch_size=500, progress=False)
    fanin.set_num_threads(1)
    other = fanin.MLP([4, 64, 64, 3], standardizer=Standardizer(), dropout=0.2)
    other.fit(x, y, epochs=2, batch_size=500, progress=False)
    same_bits(net.parameters, other.parameters)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_a_memory_map_is_an_array(kind, package, tmp_path, rng):
    """Fitted piece by piece on a file's rows, given to a network that reads them: the same bits."""
    x, y, _ = data(rng, kind, 5000)
    np.save(tmp_path / "x.npy", x)
    results = []
    for rows in (x, np.load(tmp_path / "x.npy", mmap_mode="r")):
        assert isinstance(rows, np.memmap) == (rows is not x)
        standardizer = package.Standardizer()
        for start in range(0, 4000, 700):
            standardizer.partial_fit(rows[start : min(start + 700, 4000)])
        net = package.MLP([4, 8, 3], standardizer=standardizer, dropout=0.2)
        history = net.fit(rows[:4000], y[:4000], validation=(rows[4000:], y[4000:]), epochs=2,
                          batch_size=300, progress=False)  # fmt: skip
        assert net.standardizer.rows == 4000
        results.append((standardizer, net, history))
    (standardizer, net, history), (other, mapped, other_history) = results
    same_bits(other.mean, standardizer.mean)
    same_bits(other.std, standardizer.std)
    same_bits(other.transform(rows), standardizer.transform(x))
    same_bits(mapped.parameters, net.parameters)
    same_bits(mapped.predict(rows), net.predict(x))
    assert (other_history.loss, other_history.val_loss) == (history.loss, history.val_loss)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_a_memory_map_is_never_loaded(kind, package, tmp_path, rng):
    """15 million numbers: training needs less than a third of what they are as floats."""
    rows, columns = 60_000, 256
    x = np.memmap(tmp_path / "x", kind, "w+", shape=(rows, columns))
    y = rng.integers(0, 3, rows)
    for start in range(0, rows, 5000):
        part = rng.random((5000, columns))
        part[:, :4] += y[start : start + 5000, None]
        x[start : start + 5000] = part * 80
    x.flush()
    x = np.memmap(tmp_path / "x", kind, "r", shape=(rows, columns))
    standardizer, scale = package.Standardizer(), None
    if kind == "uint8":
        standardizer, scale = None, 1 / 255
    net = package.MLP([columns, 3], standardizer=standardizer)
    tracemalloc.start()
    try:
        history = net.fit(x[:50_000], y[:50_000], validation=(x[50_000:], y[50_000:]), epochs=1,
                          batch_size=256, input_scale=scale, progress=False)  # fmt: skip
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert history.val_accuracy[0] > 0.6  # by the first four columns
    # a chunk of 4096 rows is 4.2 MB, twice that in float64: itself, its difference and its
    # product; else 2 to 6 MB of row numbers and the random words they come from
    assert peak < (40e6 if kind == "float64" else 20e6)
