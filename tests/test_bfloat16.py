"""precision="bfloat16": products of rounded inputs, summed in float32."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fanin
from cases import edges, sum_bound
from compare import same_bits
from fanin import reference
from fanin.reference.gemm import round_to_bfloat16

ISAS = fanin.build_info()["isas_available"]
SIZES = edges(8, 16, 48)


@pytest.fixture(params=ISAS)
def isa(request):
    before = fanin.build_info()["isa"]
    fanin.set_isa(request.param)
    yield request.param
    fanin.set_isa(before)


def test_rounding():
    """The nearest of the two neighbours, ties to even; a float32 that is a bfloat16 stays."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    got = round_to_bfloat16(x)
    assert not (got.view(np.uint32)[~np.isnan(got)] & 0xFFFF).any()
    normal = np.isfinite(x) & (np.abs(x) < 3e38) & (np.abs(x) > 1e-37)
    assert (np.abs(got[normal] - x[normal]) <= 2.0**-8 * 2 ** np.floor(np.log2(np.abs(x[normal])))
            * (1 + 1e-6)).all()  # half a unit; the logarithm rounds  # fmt: skip
    same_bits(round_to_bfloat16(got), got)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32)
    assert round_to_bfloat16(ties).tolist() == [1.0, 1 + 2**-6, -1.0]
    special = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)
    same_bits(round_to_bfloat16(special), special)
    assert np.isnan(round_to_bfloat16(np.array([np.nan], np.float32))).all()


def one_layer(package, k, n, **options):
    return package.MLP([k, n], output="identity", precision="bfloat16", seed=5, **options)


def check_one_layer(m, k, n):
    """Without a hidden layer nothing is rounded twice: exact products, sums within their bound."""
    rng = np.random.default_rng(m * 10_000 + k * 100 + n)
    net = one_layer(fanin, k, n)
    x = rng.standard_normal((m, k)).astype(np.float32)
    dout = rng.standard_normal((m, n)).astype(np.float32)
    out = net.forward(x, training=True)
    dx = net.backward(dout)
    weight = net.layers[0].weight
    rounded = [round_to_bfloat16(values).astype(np.float64) for values in (x, weight, dout)]
    rx, rw, rd = rounded

    def within(got, a, b):
        inner = a.shape[1]
        # a word more: two products are added at once, in an order of the instruction's own
        bound = sum_bound(inner + 2, "float32") * (np.abs(a) @ np.abs(b)) + 1e-37 * inner
        assert (np.abs(got - a @ b) <= bound).all()

    within(out - net.layers[0].bias, rx, rw)
    within(dx, rd, rw.T)
    within(net.layers[0].dweight, rx.T, rd)


@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 65, 130, 511, 512, 513])
@pytest.mark.parametrize("order", "CF")
def test_rounded_inputs(k, order, isa):
    """x @ 1 and 1 @ w are the rounded x and w, bit for bit: large and small numbers, ties."""
    rng = np.random.default_rng(k)
    values = rng.standard_normal((23, k)) * 2.0 ** rng.integers(-100, 100, (23, k))
    values[::3] = round_to_bfloat16(values[::3].astype(np.float32)) * (1 + 2.0**-8)  # ties
    values = values.astype(np.float32)
    expected = round_to_bfloat16(values)
    net = one_layer(fanin, k, k)
    net.layers[0].weight = np.eye(k, dtype=np.float32)
    same_bits(net.forward(np.asarray(values, order=order)), expected)
    net = one_layer(fanin, 23, k)
    net.layers[0].weight = values
    same_bits(net.forward(np.asarray(np.eye(23, dtype=np.float32), order=order)), expected)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("k", [1, 31, 32, 50, 513])
def test_special_values(special, k, isa):
    """NaN and infinities of x reach their row's outputs from every place, and no other row's."""
    net = one_layer(fanin, k, 3)
    net.layers[0].weight = np.ones((k, 3), np.float32)
    x = np.zeros((k + 1, k), np.float32)
    x[range(k), range(k)] = special
    out = net.forward(x)
    np.testing.assert_array_equal(out[:k], np.full((k, 3), special, np.float32))
    assert (out[k] == 0).all()


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_products(k, n, isa):
    for m in (1, 7, 8, 9, 33):
        check_one_layer(m, k, n)


@pytest.mark.parametrize("shape", [(70, 511, 50), (65, 513, 300), (600, 1025, 17), (5, 1024, 520)])
def test_large_products(shape, isa):
    check_one_layer(*shape)


@pytest.mark.parametrize("batch_norm", [False, True, "after"])
def test_like_the_reference(batch_norm):
    """Whole networks: of 60 * 70 hidden values a few may round the other way, by 2^-8 of their
    size, where the two differ in float32 already; leaving out the rounding makes 20 times as much.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 20)).astype(np.float32)
    y = rng.integers(0, 5, 60)
    sizes = [20, 40, 30, 5]
    options = {"activation": "tanh", "batch_norm": batch_norm, "dropout": 0.2, "l2": 1e-3}
    nets = [package.MLP(sizes, precision="bfloat16", **options) for package in (fanin, reference)]
    (loss, gradients), (wanted_loss, wanted) = (net.loss_and_gradients(x, y) for net in nets)
    few = 3 * 2.0**-8 / np.sqrt(60 * 70)
    assert abs(loss - wanted_loss) <= few * abs(wanted_loss)
    assert np.linalg.norm(gradients - wanted) <= few * np.linalg.norm(wanted)
    plain = reference.MLP(sizes, **options).loss_and_gradients(x, y)[1]
    assert np.linalg.norm(plain - wanted) > 20 * few * np.linalg.norm(wanted)


def test_threads_and_batches():
    """Bits do not depend on threads, nor those of a row on the rows around it."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 50)).astype(np.float32), rng.integers(0, 7, 300)
    before = fanin.get_num_threads()
    nets = []
    for threads in (1, 2, 3, 8):
        fanin.set_num_threads(threads)
        net, optimizer = fanin.MLP([50, 600, 300, 7], precision="bfloat16"), fanin.Adam()
        for _ in range(3):
            net.train_step(x, y, optimizer)
        nets.append(net)
    fanin.set_num_threads(before)
    for net in nets[1:]:
        same_bits(net.parameters, nets[0].parameters)
    same_bits(nets[0].forward(x[17:40]), nets[0].forward(x)[17:40])


def test_step_equals_its_pieces():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((130, 50)).astype(np.float32), rng.integers(0, 7, 130)
    whole, pieces = (fanin.MLP([50, 300, 7], precision="bfloat16", dropout=0.5) for _ in range(2))
    first, second = fanin.Adam(), fanin.Adam()
    for _ in range(3):
        whole.train_step(x, y, first)
        pieces.loss_and_gradients(x, y)
        pieces.update(second)
    same_bits(whole.parameters, pieces.parameters)


def test_learns():
    """The digits as well as with float32, within the noise of a split of 450."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    x, y = load_digits(return_X_y=True)
    test = np.arange(len(x)) % 4 == 0
    scores = []
    for precision in (None, "bfloat16"):
        net = fanin.MLP([64, 128, 64, 10], dropout=0.2, precision=precision)
        net.fit(x[~test], y[~test], input_scale=1 / 16, epochs=30, batch_size=32, progress=False)
        scores.append(net.evaluate(x[test], y[test])["accuracy"])
    # two standard deviations of the difference of two such scores near 0.975
    assert scores[1] > scores[0] - 2 * np.sqrt(2 * 0.975 * 0.025 / 450)


def test_kept(tmp_path):
    """By files, copies and pickles; parameters stay float32."""
    net = one_layer(fanin, 5, 3)
    assert net.parameters.dtype == np.float32
    net.save(tmp_path / "net.npz")
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
    for other in (fanin.load(tmp_path / "net.npz"), copy.deepcopy(net),
                  pickle.loads(pickle.dumps(net))):  # fmt: skip
        assert other.precision == "bfloat16"
        same_bits(other.forward(x), net.forward(x))


def test_refused(package):
    with pytest.raises(ValueError, match="precision: expected None with dtype float64"):
        package.MLP([3, 2], dtype="float64", precision="bfloat16")
    with pytest.raises(ValueError, match="precision: unknown 'bfloat17'; did you mean 'bfloat16'"):
        package.MLP([3, 2], precision="bfloat17")
    with pytest.raises(TypeError, match="precision: expected one of bfloat16"):
        package.MLP([3, 2], precision=16)
