"""Files whose arrays do not go together: each is one message, and nothing of the wrong shape comes in."""

from __future__ import annotations

import os
import pickle
import struct
import zlib

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.replay import columns, datasets
from rlx.replay.datasets import unpickle
from tests.replay import test_readers, test_readers_demos


def changed(path, key, values):
    with h5py.File(path, "a") as file:
        del file[key]
        if values is not None:
            file[key] = values
    return path


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("data/demo_1/rewards", np.float32(1), r"demo_1/rewards is \[\]; it is to have one number per entry"),
        ("data/demo_1/dones", np.int64(1), r"demo_1/dones is \[\]; it is to have one number per entry"),
        ("data/demo_1/actions", np.float32(1), "demo_1: all arrays must have one length, above 0; got {'actions': 0"),
        ("data/demo_1/obs", np.zeros(3), "data/demo_1/obs is no group"),
        (
            "data/demo_1/next_obs/robot0_eef_pos",
            None,
            r"demo_1: an entry of obs is {'state': \(13,\).* next_obs {'state': \(10,\)",
        ),
        ("data/demo_1/next_obs/object", np.zeros((2, 10)), "demo_1/next_obs is to have 3 entries, .*{'object': 2"),
        ("data/demo_1/next_obs/object", np.float32(0), "demo_1/next_obs is to have 3 entries, .*{'object': 0"),
        ("data/demo_10/obs/object", np.full((3, 10), np.nan), "demo_10: obs/state has values that are not finite"),
        ("mask/train", np.zeros(3), r"mask/train is to list names; it holds float64\[3\]"),
        ("mask/train", np.array([b"demo_7"]), "split=train: that mask lists no demonstration that is in the file"),
    ],
)
def test_demonstrations_of_robomimic(key, values, message, tmp_path):
    path = changed(test_readers.robomimic(tmp_path / "x.hdf5"), key, values)
    with pytest.raises(ValueError, match=f"x.hdf5: .*{message}"):
        replay.load(path, dones="truncated", split="train" if "mask" in key else None)


def test_a_mask_that_was_never_filled(tmp_path):
    path = test_readers.robomimic(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        del file["mask/train"]
        file.create_dataset("mask/train", (10**11,), "S8", chunks=(1000,))
    with pytest.raises(ValueError, match="x.hdf5: mask/train claims 800000000000 bytes and stores 0"):
        replay.load(path, dones="truncated", split="train")


def test_observations_of_robomimic_that_are_left_out_are_said(tmp_path):
    path = test_readers.robomimic(tmp_path / "x.hdf5")
    assert "observations that are left out, as keys= does not name them: extra" in replay.load(path, dones="truncated").notes
    assert replay.load(path, dones="truncated", keys="object").notes == ()


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("reward", np.float32(1), r"ep_00000/reward is \[\]; it is to have one number per entry"),
        ("action", np.float32(1), "ep_00000: all arrays must have one length, above 0; got {'action': 0"),
        ("force", np.zeros(2), "ep_00000: all arrays must have one length.*'force': 2"),
        ("success", np.bool_(True), r"ep_00000/success is \[\]; it is to have one number per entry"),
        ("proprio", np.float32(1), "ep_00000 has 4 steps, whose observations are one more; they are .*'proprio': 0"),
        ("rgb_top", np.zeros((5, 6, 6, 3)), r"ep_00000: rgb_top is float32\[5, 6, 6, 3\]; images are uint8"),
    ],
)
def test_own_demonstrations(key, values, message, tmp_path):
    datasets.write_demos(tmp_path / "x.h5", [test_readers_demos.row()])
    with pytest.raises(ValueError, match=f"x.h5: {message}"):
        replay.load(changed(tmp_path / "x.h5", f"ep_00000/{key}", values))


def test_no_demonstrations_are_written_that_could_not_be_read(tmp_path):
    row, path = test_readers_demos.row, tmp_path / "x.h5"
    other = {k: v for k, v in row()["obs"].items() if k != "depth_top"}
    for episodes, message in (
        ([row(), row(obs=other)], "episode 1 does not go with .*episode 0: obs/depth_top is nothing there"),
        ([row(obs={"rgb_top": np.zeros((5, 6, 6, 3))})], "episode 0: rgb_top is float32"),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.write_demos(path, episodes)
    with pytest.raises(ValueError, match="meta must be what JSON can say"):
        datasets.write_demos(path, [row()], {"x": object()})
    assert not list(tmp_path.iterdir())
    datasets.write_demos(path, [row()], {"cameras": ["top", "left"], "seed": 3})
    assert replay.load(path).meta == {"cameras": ["top", "left"], "seed": 3}


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("env_infos/solved", np.float32(0), r"T/env_infos/solved is \[\]"),
        ("env_infos/rwd_dense", np.float32(0), r"T/env_infos/rwd_dense is \[\]"),
        ("env_infos/visual_dict/d:left_cam:224x224:2d", np.float32(0), r"T/.*d:left_cam.* is float32\[\]; images are to be"),
        ("env_infos/visual_dict/rgb:left_cam:224x224:2d", np.zeros((4, 3)), r"T/.*rgb:left_cam.* is float32\[4, 3\]; images"),
    ],
)
def test_traces_of_robohive(key, values, message, tmp_path):
    arrays = test_readers_demos.trial(**{key: values})
    path = test_readers_demos.hdf5(tmp_path / "x.h5", T=arrays)
    with pytest.raises(ValueError, match=f"x.h5: {message}"):
        replay.load(path)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps({"T": test_readers_demos.nested(arrays)}))
    with pytest.raises(ValueError, match=f"x.pickle: {message}"):
        replay.load(tmp_path / "x.pickle", trust_arrays=True)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("rewards", np.float32(1), r"episode_2: rewards is \[\]"),
        ("terminations", np.bool_(0), r"terminations is \[\]"),
        ("actions", np.float32(0), r"episode_2: 3 rewards need 3 actions, got \[0\]"),
        ("observations/position", np.float32(0), r"episode_2: 3 rewards need 4 observations, got \[0, 4\]"),
    ],
)
def test_minari(key, values, message, tmp_path):
    path = changed(test_readers.minari(tmp_path / "x.hdf5"), f"episode_2/{key}", values)
    with pytest.raises(ValueError, match=f"x.hdf5: {message}"):
        replay.load(path)


def test_minari_of_other_forms_and_with_text(tmp_path):
    """Files that begin with another episode than 0, observations that are text, and what is kept by columns of Arrow."""
    path = test_readers.minari(tmp_path / "x.hdf5")
    assert len(replay.load(path)) == 2
    with h5py.File(path, "a") as file:
        for name in ("episode_2", "episode_10"):
            file[f"{name}/observations/mission"] = ["go"] * 4
    with pytest.raises(ValueError, match="x.hdf5: episode_2/observations/mission holds text; it is to hold numbers"):
        replay.load(path)
    assert set(replay.load(path, keys="position").rows.obs) == {"position"}
    assert set(replay.load(path, keys="pair").rows.obs["pair"]) == {"0", "1"}
    with pytest.raises(ValueError, match="x.hdf5: episode_2: observations lacks goal; it has mission, pair, position"):
        replay.load(path, keys="goal")
    (tmp_path / "arrow" / "data" / "0").mkdir(parents=True)
    (tmp_path / "arrow" / "data" / "metadata.json").write_text('{"data_format": "arrow"}')
    with pytest.raises(ValueError, match="arrow: it has no data/main_data.hdf5.*from_minari"):
        replay.load(tmp_path / "arrow")


def test_attributes_of_odd_kinds(tmp_path):
    path = tmp_path / "x.h5"
    datasets.write_demos(path, [test_readers_demos.row()], {"seed": 3})
    with h5py.File(path, "a") as file:
        h5py.h5a.create(file.id, b"when", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))
        file.attrs["nothing"], file.attrs["complex"] = h5py.Empty("f4"), np.array([1 + 2j])
    assert replay.load(path).meta == {"seed": 3}
    for wrong in ("no", np.zeros(3)):
        with h5py.File(path, "a") as file:
            file["ep_00000"].attrs["terminated"] = wrong
        with pytest.raises(ValueError, match="x.h5: ep_00000 has the attribute terminated=.*; it is to be true or false"):
            replay.load(path)


def test_what_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="pipe.npz is neither a file nor a folder"):
        replay.load(tmp_path / "pipe.npz")


@pytest.mark.parametrize(("index", "said"), [(np.zeros(0), "it is empty"), (np.array([np.nan, 9]), "it goes from nan")])
def test_neorl(index, said, tmp_path):
    np.savez(tmp_path / "x.npz", **test_readers.neorl(index=index))
    with pytest.raises(ValueError, match=f"x.npz: index does not say where trajectories end among 9 entries: {said}"):
        replay.load(tmp_path / "x.npz")


def test_exorl_without_rewards_and_with_a_discount_that_is_one_number(tmp_path):
    test_readers.exorl(tmp_path / "x.npz", 0, discount=np.float32(1))
    with pytest.raises(ValueError, match="x.npz: all arrays must have one length, above 0"):
        replay.load(tmp_path / "x.npz", ignore="reward")


def test_trajectories_that_are_unlike(tmp_path):
    path = tmp_path / "x.pkl"
    one = lambda n: {"observations": np.zeros((2, n)), "actions": np.zeros((2, 1)), "rewards": np.zeros(2)}
    path.write_bytes(pickle.dumps([{**one(n), "terminals": np.zeros(2)} for n in (1, 2)]))
    with pytest.raises(ValueError, match=r"x.pkl: trajectory 1: observations is \[2, 2\], of trajectory 0 \[2, 1\]"):
        replay.load(path, trust_arrays=True)
    path.write_bytes(pickle.dumps({"x": [np.zeros((3, 2)), np.zeros((3, 4))], "u": [np.zeros(3)] * 2, "r": [None] * 2}))
    with pytest.raises(ValueError, match=r"x.pkl: trajectory 1: x and u are {'x': \[3, 4\].*, of trajectory 0 {'x': \[3, 2\]"):
        replay.load(path, trust_arrays=True)


def test_a_file_of_one_transition():
    one = {"observations": np.zeros((1, 2)), "next_observations": np.ones((1, 2)), "actions": np.zeros((1, 1))}
    data = datasets.from_d4rl(one | {"rewards": np.ones(1), "terminals": np.zeros(1), "timeouts": np.ones(1)})
    assert data.rows.obs.tolist() == [[0, 0], [1, 1]] and data.rows.reward.tolist() == [0, 1] and data[0].truncated[-1]


@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("shape", [(500,), (500, 3), (500, 2, 2)])
def test_rows_that_differ_are_found_where_they_are_few_and_many(shape, every):
    a = np.random.default_rng(0).normal(size=shape)
    wanted = np.arange(len(a)) % every == 0
    b = np.where(wanted.reshape(-1, *(1 for _ in shape[1:])), a + 1, a)
    assert columns.differ(a, b).tolist() == wanted.tolist() and not columns.differ(a, a).any()
    b = a.copy()
    b.reshape(len(a), -1)[7, -1] = np.nan
    assert np.flatnonzero(columns.differ(a, b)).tolist() == [7]


def test_arrays_that_begin_where_devices_like_it():
    for shape, dtype in (((7, 3), "f4"), ((5, 2, 2), "u1"), ((3,), "?")):
        array = columns.empty(shape, np.dtype(dtype))
        assert (array.shape, array.dtype, array.ctypes.data % 64) == (shape, np.dtype(dtype), 0) and array.flags.c_contiguous
        array[...] = 1
    assert columns.empty((0, 4), np.dtype("f8")).shape == (0, 4)


PAIRS = {k: np.zeros((2, 3, n)) for k, n in {"obs_1": 4, "obs_2": 4, "action_1": 1, "action_2": 1}.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.zeros(1)}, "it has 1 labels for 2 pairs"),
        ({"label": np.zeros(0)}, "it has 0 labels for 2 pairs"),
        ({"label": np.array([-1.0, 0])}, "label -1 of pair 0 is none of 0, 0.5, 1"),
        ({"action_1": np.zeros((2, 4, 1)), "action_2": np.zeros((2, 4, 1))}, r"obs_1 is \[2, 3, 4\], action_1 \[2, 4, 1\]"),
        ({"action_1": np.zeros((3, 3, 1)), "action_2": np.zeros((3, 3, 1))}, r"obs_1 is \[2, 3, 4\], action_1 \[3, 3, 1\]"),
        ({"action_2": np.full((2, 3, 1), 50.0)}, "action_1, action_2 goes to 50, .*bounds=clip"),
    ],
)
def test_pairs(changes, message, tmp_path):
    np.savez(tmp_path / "x.npz", **PAIRS | {"label": np.zeros(2)} | changes)
    with pytest.raises(ValueError, match=f"x.npz: {message}"):
        datasets.load_pairs(tmp_path / "x.npz")
    if "bounds" in message:
        pairs = datasets.load_pairs(tmp_path / "x.npz", bounds="-50,50")
        assert pairs.action[0].max() == 0 and pairs.action[1].min() == np.float32(1 - 1e-5)


def test_human_labels(tmp_path):
    def labels(first, second, label, data, name="indices_num_q2", **options):
        for file, values in {name: first, name.replace("num", "2_num"): second, "label_human": label}.items():
            (tmp_path / file).write_bytes(pickle.dumps(values))
        return datasets.load_pairs(tmp_path, data, trust_arrays=True, **options)

    with pytest.warns(UserWarning, match="2 of 9"):
        data = datasets.from_d4rl(test_readers.d4rl(), ignore=("next_observations",))
    for length in (-1, 2.5):
        with pytest.raises(ValueError, match="does not say of how many steps segments are"):
            labels([0], [1], [0], data, length=length)
    for given, message in (
        (([], [], []), "0, 0 and 0 entries"),
        (([0, 1], [1], [0]), "2, 1 and 1 entries"),
        (([[1], [1, 2]], [1, 2], [0, 1]), ""),
        ((None, [1], [0]), "indices_num_q2 holds"),
    ):
        with pytest.raises(ValueError, match=f"{tmp_path.name}: .*{message}"):
            labels(*given, data)
    several = test_readers.robomimic(tmp_path / "x.hdf5")
    with pytest.raises(ValueError, match="has several observations or actions: take one by keys=NAME"):
        labels([0], [1], [0], replay.load(several, dones="truncated"))


def test_entries_of_an_archive_of_torch_that_overlap(tmp_path):
    """Each entry holds the next one whole: 200 bytes more of the file are a megabyte more of memory."""
    count, bodies = 50, [bytes(2**20)]
    local = lambda name, body: struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(body), len(body), len(body), len(name), 0
    )
    program = b"\x80\x02]("
    for i in range(count):
        program += b"(X\x07\x00\x00\x00storagectorch\nByteStorage\nX" + struct.pack("<I", len(str(i))) + str(i).encode()
        program += b"X\x03\x00\x00\x00cpuK\x00tQ0"
    names = [f"a/data/{i}".encode() for i in range(count)]
    for name in reversed(names):
        bodies.insert(0, local(name, bodies[0]) + name + bodies[0])
    begun = local(b"a/data.pkl", program + b"e.") + b"a/data.pkl" + program + b"e."
    whole, listed = begun + bodies[0], b""
    for name, body in [(b"a/data.pkl", program + b"e."), *zip(names, bodies[1:], strict=True)]:
        at = 0 if name == b"a/data.pkl" else len(whole) - len(body) - 30 - len(name)
        sizes = (zlib.crc32(body), len(body), len(body), len(name), 0, 0, 0, 0, 0, at)
        listed += struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, *sizes) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count + 1, count + 1, len(listed), len(whole), 0)
    (tmp_path / "x.pt").write_bytes(whole + listed + end)
    with pytest.raises(ValueError, match="x.pt cannot be read: it claims more than it holds"):
        unpickle.load(tmp_path / "x.pt")
