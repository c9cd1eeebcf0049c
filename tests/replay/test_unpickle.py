"""Pickles are read without running anything in them."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from rlx import replay
from rlx.replay.datasets import unpickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_numbers_text_lists_and_dicts_come_back(protocol):
    given = {
        "x": np.arange(6, dtype="f4").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4)),
        "list": [1, 2.5, "text", None, True, (np.int64(3), b"bytes")],
        "ordered": collections.OrderedDict(a=np.float32(2.5)),
    }
    found = unpickle.loads(pickle.dumps(given, protocol))
    for name in ("x", "columns", "swapped", "flags", "none"):
        np.testing.assert_array_equal(found[name], given[name])
        assert found[name].shape == given[name].shape and found[name].dtype == given[name].dtype
    assert found["list"] == [1, 2.5, "text", None, True, (3, b"bytes")] and found["ordered"] == {"a": 2.5}


def test_attributes_of_dicts_are_left_out():
    """As those of a state_dict of torch."""
    given = collections.OrderedDict(a=1)
    given._metadata = {"version": 1}
    assert unpickle.loads(pickle.dumps(given)) == {"a": 1}


class Calls:
    def __init__(self, fn, *args):
        self.call = fn, args

    def __reduce__(self):
        return self.call


def pickled(fn, *args):
    return pickle.dumps({"x": Calls(fn, *args)})


class Changed:
    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.dtype, ("f4",), self.state


EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FULL = b"cnumpy.core.numeric\n_frombuffer\n(S'x'\ncnumpy\ndtype\n(S'u1'\ntR(I1\ntS'C'\ntR"
LAUGH = b")" + b"q\x00h\x00\x86" * 40  # a tuple of two of a tuple of two of ...
HOSTILE = {
    "a command": (pickled(os.system, "touch hacked"), "names posix.system"),
    "eval": (pickled(eval, "1"), "names builtins.eval"),
    "getattr": (pickled(getattr, "x", "upper"), "names builtins.getattr"),
    "an import": (b"cos\nsystem\n(S'touch hacked'\ntR.", "names os.system"),
    "an instance": (b"(S'touch hacked'\nios\nsystem\n.", "an instance"),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "names numpy.ndarray.tofile"),
    "a nested call": (pickled(np.dtype, Calls(os.system, "touch hacked")), "names posix.system"),
    "objects": (pickle.dumps(np.array([{}, 1], object)), "not of numbers"),
    "structures": (pickle.dumps(np.zeros(2, [("a", "f4")])), "not of numbers"),
    "metadata": (pickle.dumps(Changed((4, "<", None, None, None, -1, -1, 0, {"x": 1}))), "holds a dtype"),
    "names in a dtype": (pickle.dumps(Changed((3, "<", None, ("a",), {"a": 1}, -1, -1, 0))), "structures"),
    "a changed function": (b"cnumpy\ndtype\n}S'fn'\nI1\nsb.", "changes what is no array"),
    "a huge claim": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1000000000000\ntcnumpy\ndtype\n(S'f8'\ntRI00\nS'x'\ntb.",
        "claims an array .1000000000000,. of float64 and holds 1 bytes",
    ),
    "an array without numbers": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
        "without its numbers",
    ),
    "a persistent id": (b"Px\n.", "outside of it"),
    "an array that is there already": (
        FULL + b"(I1\n(I1\ntcnumpy\ndtype\n(S'u1'\ntRI00\nS'x'\ntb.",
        "in a form that numpy does not write",
    ),
    "an item of an array": (FULL + b"I0\nI1\ns.", "changes what is no dict"),
    "a key as deep as it is long": (b"\x80\x02})" + b"\x85" * 3_000_000 + b"K\x01s.", "a key that is a tuple"),
    "a key of 2^40 leaves": (b"\x80\x02}" + LAUGH + b"K\x01s.", "a key that is a tuple"),
    "a key of 2^40 leaves in an ordered dict": (
        b"\x80\x02ccollections\nOrderedDict\n" + LAUGH + b"K\x01\x86\x85\x85R.",
        "a key that is a tuple",
    ),
    "a dtype of 2^40 leaves": (b"\x80\x02cnumpy\ndtype\n" + LAUGH + b"\x85R.", "an array of tuple, not of numbers"),
    "a shape of 2^40 leaves": (
        b"\x80\x02" + EMPTY + b"(I1\n" + LAUGH + b"cnumpy\ndtype\n(S'f8'\ntRI00\nS'x'\ntb.",
        "in a form that numpy does not write",
    ),
    "a set of 2^40 leaves": (b"\x80\x04(" + LAUGH + b"\x91.", "makes a set"),
    "a new instance": (b"\x80\x02cnumpy\nndarray\n)\x81.", "an instance"),
    "one array many times": (
        b"\x80\x02](" + pickle.dumps(np.zeros(1000), 2)[2:-1] + b"r\x00\x01\x00\x00" + b"j\x00\x01\x00\x00" * 1000 + b"e.",
        "the same things over and over",
    ),
    "one text encoded many times": (
        b"\x80\x02(X\x10\x27\x00\x00"
        + b"x" * 10_000
        + b"q\x00"
        + b"c_codecs\nencode\nq\x010"
        + b"h\x01h\x00\x85R" * 100
        + b"t.",
        "the same things over and over",
    ),
    "8 GiB that are not there": (b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b"x.", "damaged"),
    "an old file of torch": (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "torch older than 1.6"),
    "an extension": (b"\x80\x02\x82\x01.", "a set or an instance"),
    "a set": (pickle.dumps({1, 2}), "makes a set"),
    "a memo of billions": (b"\x80\x02Nr\xff\xff\xff\xff0.", "damaged"),
    "bytes that are not there": (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.", "damaged"),
    "half": (pickle.dumps(np.arange(100))[:60], "damaged|outside|array"),
    "nothing": (b"", "damaged"),
    "itself": (b"\x80\x02]q\x00h\x00a.", "contains itself"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=f"x.pkl cannot be read: .*({message})"):
        unpickle.load(tmp_path / "x.pkl")
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_deep_and_laughing_pickles_end():
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="more than 32 deep"):
        unpickle.loads(pickle.dumps(deep))
    laugh: list = ["ha"]
    for _ in range(25):
        laugh = [laugh, laugh]  # 2^25 leaves, of 26 lists
    with pytest.raises(ValueError, match="the same things over and over"):
        unpickle.loads(pickle.dumps(laugh))
    twice = np.arange(100)
    found = unpickle.loads(pickle.dumps([twice, twice]))
    assert found[0] is found[1] and found[0].tolist() == twice.tolist()


def torch_archive(tensors, storages, order="little", method=zipfile.ZIP_STORED, **more):
    """What torch.save writes: a pickle that refers to storages by (\"storage\", type, key, place, numbers)."""

    class Kind:
        def __init__(self, name):
            self.name = name

        def __reduce__(self):
            raise AssertionError

    out = io.BytesIO()

    class Writer(pickle._Pickler):
        def persistent_id(self, obj):
            return obj.pid if isinstance(obj, Storage) else None

        def save_kind(self, obj):
            self.write(b"ctorch\n" + obj.name.encode() + b"\n")

        def save_rebuild(self, obj):
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")

        dispatch = dict(pickle._Pickler.dispatch)
        dispatch[Kind] = save_kind

    class Storage:
        def __init__(self, name, key, count):
            self.pid = ("storage", Kind(name), key, "cpu", count)

    class Rebuild:
        pass

    Writer.dispatch[Rebuild] = Writer.save_rebuild

    class Tensor:
        def __init__(self, kind, key, offset, size, stride):
            self.args = (Storage(kind, key, 0), offset, size, stride, False, collections.OrderedDict())

    def save_tensor(self, obj):
        self.save(Rebuild())
        self.save(obj.args)
        self.write(pickle.REDUCE)

    Writer.dispatch[Tensor] = save_tensor
    Writer(out, 2).dump(more | {k: Tensor(*v) for k, v in tensors.items()})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("archive/data.pkl", out.getvalue())
        file.writestr("archive/byteorder", order)
        for key, values in storages.items():
            file.writestr(f"archive/data/{key}", values.tobytes())
    return archive.getvalue()


def test_archives_of_torch(tmp_path):
    path, numbers = tmp_path / "x.pt", np.arange(12, dtype="f4")
    tensors = {"whole": ("FloatStorage", "0", 0, (3, 4), (4, 1)), "turned": ("FloatStorage", "0", 1, (2, 3), (1, 4))}
    path.write_bytes(torch_archive(tensors, {"0": numbers}))
    found = unpickle.load(path)
    np.testing.assert_array_equal(found["whole"], numbers.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], numbers.reshape(3, 4).T[1:3])
    for wrong in ((3, 5), (5, 1)), ((4, 4), (0, 1)):
        path.write_bytes(torch_archive({"x": ("FloatStorage", "0", 0, *wrong)}, {"0": numbers}))
        with pytest.raises(ValueError, match="claims a tensor"):
            unpickle.load(path)
    views = {str(i): ("FloatStorage", "0", 0, (12,), (1,)) for i in range(3)}
    path.write_bytes(torch_archive(views, {"0": numbers}))
    first, *others = unpickle.load(path).values()
    assert all(np.shares_memory(first, x) for x in others) and not first.flags.writeable
    path.write_bytes(torch_archive({"x": ("DoubleStorage", "0", 3, (0, 2), (2, 1))}, {"0": numbers}))
    assert unpickle.load(path)["x"].shape == (0, 2) and unpickle.load(path)["x"].dtype == np.float64
    path.write_bytes(torch_archive(tensors, {"0": numbers}, method=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="is compressed"):
        unpickle.load(path)
    path.write_bytes(torch_archive({"x": ("FloatStorage", "9", 0, (1,), (1,))}, {"0": numbers}))
    with pytest.raises(ValueError, match="numbers that are not in it"):
        unpickle.load(path)


def test_pickled_trajectories_are_read_when_their_arrays_are_trusted(tmp_path):
    """Decision Transformer's form: a list of dicts of D4RL's columns."""
    n = 3
    one = {"observations": np.arange(n)[:, None] * 1.0, "next_observations": np.arange(1, n + 1)[:, None] * 1.0}
    one |= {"actions": np.zeros((n, 1)), "rewards": np.ones(n), "terminals": np.array([0, 0, 1], bool)}
    other = {**one, "terminals": np.zeros(n, bool)}
    path = tmp_path / "hopper-medium-v2.pkl"
    path.write_bytes(pickle.dumps([one, other]))
    with pytest.raises(ValueError, match="hopper-medium-v2.pkl is a pickle.*--trust-arrays"):
        replay.load(path)
    path.write_bytes(pickle.dumps([one, other], 0))  # as Python 2 wrote them
    with pytest.raises(ValueError, match="hopper-medium-v2.pkl is a pickle.*--trust-arrays"):
        replay.load(path)
    data = replay.load(path, trust_arrays=True)
    assert data.lengths.tolist() == [3, 3] and [bool(e.terminated[-1]) for e in data] == [True, False]
    path.write_bytes(pickle.dumps({"observations": one["observations"]}))
    with pytest.raises(ValueError, match="lacks actions, rewards"):
        replay.load(path, trust_arrays=True)
    path.write_bytes(pickle.dumps([one, {**other, "rewards": np.ones(2)}]))
    with pytest.raises(ValueError, match="trajectory 1: all arrays must have one length"):
        replay.load(path, trust_arrays=True)
    path.write_bytes(pickle.dumps({"x": 3}))
    with pytest.raises(ValueError, match="holds x, which is no layout of pickles: .*SINDy-RL"):
        replay.load(path, trust_arrays=True)


def test_trajectories_of_sindy_rl(tmp_path):
    """Lists over trajectories; x lacks the final state, so that the last action of each leads nowhere, and r may be None."""
    path = tmp_path / "off-pi.pkl"
    x, u = (
        [np.arange(4.0)[:, None] * [1, 2], 10 + np.arange(3.0)[:, None] * [1, 2]],
        [np.full((4, 1), 0.5), np.full((3, 1), -1)],
    )
    path.write_bytes(pickle.dumps({"x": x, "u": u, "r": [np.arange(1.0, 5), None]}))
    assert unpickle.load(path)["r"][1] is None and unpickle.load(path)["x"][1].tolist() == x[1].tolist()
    data = replay.load(path, trust_arrays=True)
    a, b = data
    assert (data.format, data.lengths.tolist()) == ("SINDy-RL", [3, 2]) and "no rewards: they are 0" in data.notes
    assert a.obs[:, 1].tolist() == [0, 2, 4, 6] and a.action[:, 0].tolist() == [0.5, 0.5, 0.5, 0]
    assert a.reward.tolist() == [0, 1, 2, 3] and b.reward.tolist() == [0, 0, 0] and a.truncated[-1]
    path.write_bytes(pickle.dumps({"x": x, "u": [u[0], u[0]], "r": [None, None]}))
    with pytest.raises(ValueError, match="off-pi.pkl: trajectory 1: all arrays must have one length"):
        replay.load(path, trust_arrays=True)
