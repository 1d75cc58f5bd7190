"""Files and copies of a network: whole or not at all, and never a pickle."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import zipfile

import cloudpickle
import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin import reference

EVERYTHING = {
    "activation": ["tanh", "relu"],
    "dropout": [0.1, 0.2],
    "batch_norm": True,
    "l1": [0.0, 1e-4, 0.0],
    "l2": 1e-3,
    "seed": 2**64 - 1,
}


def trained(package=fanin, **options):
    """A network whose every saved field differs from a new one's."""
    net = package.MLP([4, 7, 6, 3], **{**EVERYTHING, **options})
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4)).astype(np.uint8), rng.integers(0, 3, 60)
    net.fit(x, y, epochs=2, batch_size=20, input_scale=1 / 255, progress=False)
    return net


def same_network(net, other):
    """Equal settings and vectors, and equal after more training."""
    for name in (
        "sizes",
        "output",
        "seed",
        "step",
        "epoch",
        "input_scale",
        "input_dropout",
        "l1_step",
        "dtype",
        "n_parameters",
    ):
        assert getattr(net, name) == getattr(other, name), name
    for a, b in zip(net.layers, other.layers, strict=True):
        for name in ("fan_in", "fan_out", "activation", "dropout", "batch_norm", "l1", "l2",
                     "l1_step", "max_norm"):  # fmt: skip
            assert getattr(a, name) == getattr(b, name), name
    for name in ("parameters", "running_mean", "running_var"):
        same_bits(getattr(net, name), getattr(other, name))
        assert not np.shares_memory(getattr(net, name), getattr(other, name))
    net, other = copy.deepcopy(net), copy.deepcopy(other)
    x = np.random.default_rng(1).integers(0, 256, (30, 4)).astype(np.uint8)
    for n in (net, other):
        n.fit(x, np.arange(30) % 3, epochs=1, batch_size=10, progress=False)
    same_bits(net.parameters, other.parameters)
    same_bits(net.predict_proba(x), other.predict_proba(x))


LATER = {"batch_norm": ["after", False], "input_dropout": 0.2, "max_norm": [None, 1.5, 2.0],
         "l1_step": "proximal"}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"batch_norm": False, "dropout": 0.0}, LATER],
                         ids=["all", "few", "later"])  # fmt: skip
def test_round_trip(options, package, dtype, tmp_path):
    net = trained(package, dtype=dtype, **options)
    path = tmp_path / "net.fanin"
    net.save(path)
    assert os.listdir(tmp_path) == ["net.fanin"]  # the name as given, nothing left beside it
    loaded = package.load(path)
    assert type(loaded) is package.MLP
    same_network(net, loaded)
    for output in ("sigmoid", "identity"):
        other = package.MLP([2, 1], output=output)
        other.save(str(path))
        assert package.load(str(path)).output == output


def test_between_packages(tmp_path):
    """A file of the compiled network is one of the reference's, and the other way round."""
    path = tmp_path / "net"
    for writer, reader in ((fanin, reference), (reference, fanin)):
        net = trained(writer)
        net.save(path)
        loaded = reader.load(path)
        assert type(loaded) is reader.MLP
        same_bits(loaded.parameters, net.parameters)
        assert repr(loaded) == repr(net)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_files_of_the_first_release(batch_norm, package, tmp_path):
    """They know batch norm as True or False, and no input dropout, max_norm and proximal step."""
    net, path = trained(package, batch_norm=batch_norm), tmp_path / "net"
    net.save(path)
    with np.load(path) as archive:
        config = json.loads(str(archive["config"]))
        assert set(config) - {"format", "format_version"} >= {
            "input_dropout",
            "max_norm",
            "l1_step",
        }
    for name in ("input_dropout", "max_norm", "l1_step"):
        del config[name]
    config["batch_norm"] = batch_norm
    rewritten(path, config=np.array(json.dumps(config)))
    same_network(net, package.load(path))
    state = net.__getstate__()
    state["config"] = {k: v for k, v in config.items() if not k.startswith("format")}
    twin = package.MLP.__new__(package.MLP)
    twin.__setstate__(state)
    same_network(net, twin)


def test_under_another_instruction_set(isa, tmp_path):
    """What was trained elsewhere goes on here: only bits of parameters are in the file."""
    before = fanin.isa()
    fanin.set_isa(fanin.available_isas()[-1])
    net = trained()
    net.save(tmp_path / "net")
    fanin.set_isa(before)
    loaded = fanin.load(tmp_path / "net")
    same_bits(loaded.parameters, net.parameters)
    x = np.zeros((5, 4), np.uint8)
    assert loaded.predict(x).shape == (5,)


def test_no_pickle_inside(tmp_path):
    """Plain arrays and one JSON text; NumPy reads them without pickle."""
    trained().save(tmp_path / "net")
    with np.load(tmp_path / "net", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert set(arrays) == {"config", "parameters", "running_mean", "running_var"}
    config = json.loads(str(arrays["config"]))
    assert config["format"] == "fanin"
    assert config["format_version"] == 1
    assert config["sizes"] == [4, 7, 6, 3]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_keeps_the_old_file(failing, package, tmp_path, monkeypatch):
    path = tmp_path / "net"
    trained(package).save(path)
    old = path.read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        trained(package, seed=3).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["net"]
    package.load(path)


# With NumPy 2.0 the archive that could not be written is closed by its destructor, which fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk(package, tmp_path):
    """A write that fails half-way, made to by a limit on the size of files."""
    path = tmp_path / "net"
    trained(package).save(path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            trained(package, seed=3).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["net"]


def test_no_folder(package, tmp_path):
    with pytest.raises(FileNotFoundError):
        trained(package).save(tmp_path / "nowhere" / "net")
    assert os.listdir(tmp_path) == []


def test_path_that_is_none(package):
    for path in (3, b"net", None):
        with pytest.raises(TypeError):
            trained(package).save(path)


def test_cut_short(package, tmp_path):
    """A file cut anywhere is refused with its path, also right before its last byte."""
    path = tmp_path / "net"
    trained(package).save(path)
    whole = path.read_bytes()
    lengths = {0, 1, 2, 3, 4, 10, 100, *range(0, len(whole), 97), len(whole) - 2, len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="net: expected a network saved"):
            package.load(path)


def load(package, path):
    """The network, or the message of the refusal."""
    try:
        return package.load(path), ""
    except ValueError as error:
        return None, str(error)


def test_a_bit_flipped(package, tmp_path):
    """The archive's checksums: damage is noticed wherever it hits the arrays."""
    path = tmp_path / "net"
    net = trained(package)
    net.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 61):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        loaded, message = load(package, path)
        if loaded is None:
            assert str(path) in message
        else:  # a byte that nothing depends on, such as a time stamp
            same_bits(loaded.parameters, net.parameters)


def rewritten(path, **changes):
    """The archive with some arrays replaced, or left out where None."""
    with np.load(path, allow_pickle=True) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays.update(changes)
    with open(path, "wb") as file:
        np.savez(file, **{name: a for name, a in arrays.items() if a is not None})


def config_with(path, **changes):
    with np.load(path) as archive:
        config = json.loads(str(archive["config"]))
    config.update(changes)
    kept = {k: v for k, v in config.items() if v is not None}
    return np.array(json.dumps(kept))


FOREIGN = {
    "no parameters": lambda path: {"parameters": None},
    "no config": lambda path: {"config": None},
    "config not JSON": lambda path: {"config": np.array("{")},
    "config a list": lambda path: {"config": np.array("[]")},
    "config a number": lambda path: {"config": np.array(3)},
    "another format": lambda path: {"config": config_with(path, format="other")},
    "a later version": lambda path: {"config": config_with(path, format_version=2)},
    "other sizes": lambda path: {"config": config_with(path, sizes=[4, 8, 6, 3])},
    "negative sizes": lambda path: {"config": config_with(path, sizes=[4, -7, 6, 3])},
    "huge sizes": lambda path: {"config": config_with(path, sizes=[2**40, 2**40, 6, 3])},
    "no sizes": lambda path: {"config": config_with(path, sizes=None)},
    "unknown activation": lambda path: {"config": config_with(path, activation="tahn")},
    "unknown setting": lambda path: {"config": config_with(path, extra=1)},
    "short parameters": lambda path: {"parameters": np.zeros(3, np.float32)},
    "two-dimensional parameters": lambda path: {"parameters": np.zeros((2, 52), np.float32)},
    "another dtype": lambda path: {"parameters": np.zeros(104, np.float64)},
    "short running_var": lambda path: {"running_var": np.zeros(2, np.float32)},
    "pickled parameters": lambda path: {"parameters": np.array([{}], dtype=object)},
    "pickled config": lambda path: {"config": np.array([{}], dtype=object)},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign(what, package, tmp_path):
    path = tmp_path / "net"
    trained(package).save(path)
    rewritten(path, **FOREIGN[what](path))
    with pytest.raises(ValueError, match="net: expected a network saved"):
        package.load(path)


@pytest.mark.parametrize("what", ["npy", "pickle", "text", "zip"])
def test_other_files(what, package, tmp_path):
    path = tmp_path / "other"
    with open(path, "wb") as file:
        if what == "npy":
            np.save(file, np.zeros(3))
        elif what == "pickle":
            pickle.dump({"a": 1}, file)
        elif what == "text":
            file.write(b"hello")
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a.txt", "hello")
    reason = "no config" if what == "zip" else "it is no whole archive"
    with pytest.raises(
        ValueError, match=rf"other: expected a network saved by MLP\.save: .*{reason}"
    ):
        package.load(path)


def test_no_file(package, tmp_path):
    with pytest.raises(FileNotFoundError):
        package.load(tmp_path / "nothing")


class Evil:
    """Unpickling this would leave a trace."""

    def __reduce__(self):
        return os.mkdir, (os.environ["FANIN_TEST_TRACE"],)


def test_pickles_are_not_opened(package, tmp_path, monkeypatch):
    monkeypatch.setenv("FANIN_TEST_TRACE", str(tmp_path / "trace"))
    path = tmp_path / "net"
    trained(package).save(path)
    rewritten(path, parameters=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="net"):
        package.load(path)
    assert not (tmp_path / "trace").exists()


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "cloudpickle": lambda net: pickle.loads(cloudpickle.dumps(net)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies(how, package, dtype):
    net = trained(package, dtype=dtype)
    twin = COPIES[how](net)
    assert type(twin) is package.MLP
    same_network(net, twin)
    before = net.parameters.copy()
    twin.layers[0].weight[...] = 0
    same_bits(net.parameters, before)
    x = np.zeros((3, 4), np.uint8)
    assert not np.array_equal(twin.forward(x + 1), net.forward(x + 1))


def test_a_copy_in_the_middle_of_a_step(package):
    """What waits for backward stays with the original."""
    net = trained(package)
    x = np.ones((5, 4), np.float32)
    net.forward(x, training=True)
    twin = copy.deepcopy(net)
    net.backward(np.zeros((5, 3), np.float32))
    with pytest.raises(RuntimeError, match="forward"):
        twin.backward(np.zeros((5, 3), np.float32))
