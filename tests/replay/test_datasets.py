from __future__ import annotations

import io
import os
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.replay import columns, datasets
from rlx.replay.windows import Index, admissible
from tests.replay.coded import World, fill, sample


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


@pytest.fixture
def episodes():
    buffer, state = fill(World([[5, 3, 7], [4], [9, 2]]), 64, [31])
    still = lambda e: np.where(_cut(e) | e.last, 0, e.action.T).T.astype(e.action.dtype)
    return [
        e._replace(reward=np.r_[0, e.reward[1:]], truncated=e.truncated | _cut(e), action=still(e))
        for e in buffer.export(state)
    ]


def _cut(e):
    return (np.arange(len(e.reward)) == len(e.reward) - 1) & ~e.terminated


def test_a_file_gives_the_episodes_back(episodes, tmp_path):
    path = tmp_path / "data.npz"
    datasets.write(path, episodes)
    for a, b in zip(datasets.read(path), episodes, strict=True):
        same(a, b._replace(first=np.arange(len(b.reward)) == 0))
    with np.load(path, allow_pickle=False) as file:
        assert {"obs/code", "obs/frame", "action", "reward", "extras/z", "info/t", "offsets"} <= set(file.files)
        assert file["obs/frame"].dtype == np.uint8
    same(replay.from_episodes(datasets.read(path)), replay.from_episodes(episodes))


def test_writing_is_all_or_nothing(episodes, tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    datasets.write(path, episodes[:2])
    before = path.read_bytes()

    def full(*args, **kwargs):
        args[0].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.native.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        datasets.write(path, episodes)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["data.npz"]


def test_damaged_and_foreign_files_are_refused(episodes, tmp_path):
    path = tmp_path / "data.npz"
    datasets.write(path, episodes)
    (tmp_path / "half.npz").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    columns = dict(np.load(path))
    np.savez(tmp_path / "short.npz", **{**columns, "reward": columns["reward"][:-1]})
    np.savez(tmp_path / "offsets.npz", **{**columns, "offsets": columns["offsets"][:-1]})
    np.savez(tmp_path / "lacking.npz", **{k: v for k, v in columns.items() if k != "action"})
    for name, message in {
        "none": "there is no dataset", "half": "cannot be read", "other": "not a dataset of rlx",
        "pickled": "column 'x' of .*cannot be read: it holds Python objects", "short": "short.npz: .*one length",
        "offsets": "offsets.npz: .*offsets", "lacking": "lacks action",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            datasets.read(tmp_path / f"{name}.npz")


def test_from_episodes_refuses_what_is_wrong():
    good = {"obs": np.zeros((4, 2)), "action": np.zeros((4, 1)), "reward": np.zeros(4), "terminated": np.arange(4) == 3}
    for change, message in [
        ({"action": np.zeros((3, 1))}, r"episode 1: action has \(3,\) rows"),
        ({"obs": np.full((4, 2), np.nan)}, "obs has values that are not finite"),
        ({"reward": np.array([0, 1, np.inf, 0])}, "reward has values"),
        ({"terminated": np.arange(4) == 1}, "ends at row 1 of 4"),
        ({"obs": np.zeros((4, 3))}, "episode 1 has other leaves"),
        ({k: v[:1] for k, v in good.items()}, "a transition needs two"),
    ]:
        with pytest.raises(ValueError, match=message):
            replay.from_episodes([good, {**good, **change}])
    with pytest.raises(ValueError, match="lacks reward"):
        replay.from_episodes([{k: v for k, v in good.items() if k != "reward"}])
    with pytest.raises(ValueError, match="no episodes"):
        replay.from_episodes([])


# D4RL: two episodes, of 3 steps (terminal) and 2 steps (timeout)
OBS = np.array([0, 1, 2, 10, 11], np.float32)[:, None]
NEXT = np.array([1, 2, 3, 11, 12], np.float32)[:, None]
D4RL = {
    "observations": OBS,
    "actions": OBS / 16 + 0.25,
    "rewards": np.arange(1.0, 6.0),
    "terminals": np.array([0, 0, 1, 0, 0]),
    "timeouts": np.array([0, 0, 0, 0, 1]),
}


def test_d4rl_with_next_observations():
    a, b = datasets.from_d4rl({**D4RL, "next_observations": NEXT})
    assert a.obs[:, 0].tolist() == [0, 1, 2, 3] and b.obs[:, 0].tolist() == [10, 11, 12]
    assert a.reward.tolist() == [0, 1, 2, 3] and b.reward.tolist() == [0, 4, 5]
    assert a.action[:, 0].tolist() == [0.25, 0.3125, 0.375, 0] and b.action[:, 0].tolist() == [0.875, 0.9375, 0]
    assert a.terminated.tolist() == [False] * 3 + [True] and not a.truncated.any()
    assert not b.terminated.any() and b.truncated.tolist() == [False, False, True]
    assert a.obs.dtype == a.reward.dtype == np.float32
    without = {k: v for k, v in D4RL.items() if k != "timeouts"}
    inferred = datasets.from_d4rl({**without, "terminals": np.zeros(5), "next_observations": NEXT})
    assert [len(e.reward) for e in inferred] == [4, 3] and all(e.truncated[-1] for e in inferred)


def test_d4rl_without_next_observations():
    with pytest.warns(UserWarning, match="1 of 5 transitions are left out"):
        a, b = datasets.from_d4rl(D4RL)
    assert a.obs[:, 0].tolist() == [0, 1, 2, 2] and a.reward.tolist() == [0, 1, 2, 3] and a.terminated[-1]
    assert (
        b.obs[:, 0].tolist() == [10, 11] and b.reward.tolist() == [0, 4] and b.truncated[-1]
    )  # the outcome of the last is unknown


def test_ogbench(tmp_path):
    obs = np.array([0, 1, 2, 10, 11], np.float32)[:, None]
    arrays = {"observations": obs, "actions": obs / 16, "terminals": np.array([0, 0, 1, 0, 1.0]), "qpos": np.zeros((5, 3))}
    np.savez(tmp_path / "maze.npz", **arrays)
    a, b = datasets.from_ogbench(tmp_path / "maze.npz")
    assert a.obs[:, 0].tolist() == [0, 1, 2] and b.obs[:, 0].tolist() == [10, 11]
    assert a.truncated.tolist() == [False, False, True] and not a.terminated.any() and a.info["qpos"].shape == (3, 3)
    assert int(replay.from_episodes([a, b]).index.size) == 5
    with pytest.raises(ValueError, match="does not mark the last observation"):
        datasets.from_ogbench({**arrays, "terminals": np.array([0, 0, 1, 0, 0])})


def test_trajectories_of_ogbench_give_their_own_transitions_and_none_between():
    """Two of four rows: six, none from the last of one to the first of the next; the action of a last row leads nowhere."""
    place = np.array([0, 1, 2, 3, 10, 11, 12, 13], np.float32)[:, None]
    arrays = {"observations": place, "actions": place / 16, "terminals": place[:, 0] % 10 == 3}
    data = replay.from_episodes(datasets.from_ogbench(arrays))
    index, rows = jax.tree.map(jnp.asarray, data.index), Index(jnp.arange(8), jnp.zeros(8, int))
    assert admissible(index, rows, 2).tolist() == [True, True, True, False, True, True, True, False]
    drawn = sample(replay.transitions(200, source="data"), {"data": data}, hyper={"discount": jnp.float32(0.5)})
    found = np.stack([drawn.obs[:, 0], 16 * drawn.action[:, 0], drawn.next_obs[:, 0], drawn.discount], -1)
    assert sorted(set(map(tuple, found.tolist()))) == [(a, a, a + 1, 0.5) for a in (0, 1, 2, 10, 11, 12)]


def test_ogbench_single_task():
    """Rewards belong to the entry's action; where its mask is 0 the task is over on arrival, and the trajectory goes on."""
    obs = np.arange(6, dtype=np.float32)[:, None]
    arrays = {"observations": obs, "actions": obs / 8, "terminals": np.arange(6) == 5}
    arrays |= {"rewards": np.array([-1, -1, 0, -1, -1, -9.0]), "masks": np.array([1, 1, 0, 1, 1, 1.0]), "qpos": obs + 10}
    a, b = datasets.from_ogbench(arrays)
    assert a.obs[:, 0].tolist() == [0, 1, 2, 3] and b.obs[:, 0].tolist() == [3, 4, 5]
    assert a.reward.tolist() == [0, -1, -1, 0] and b.reward.tolist() == [0, -1, -1]
    assert a.terminated.tolist() == [False, False, False, True] and b.truncated.tolist() == [False, False, True]
    assert a.action[:, 0].tolist() == [0, 1 / 8, 2 / 8, 0] and b.info["qpos"][:, 0].tolist() == [13, 14, 15]
    (plain,) = datasets.from_ogbench({k: v for k, v in arrays.items() if k != "masks"})
    assert plain.reward.tolist() == [0, -1, -1, 0, -1, -1] and not plain.terminated.any()
    with pytest.raises(ValueError, match="masks says where something ends, by 0 and 1; it has 0.5"):
        datasets.from_ogbench({**arrays, "masks": np.full(6, 0.5)})


def test_minari():
    record = {
        "observations": {"x": np.arange(4.0), "goal": np.ones((4, 2))},
        "actions": np.ones((3, 1)),
        "rewards": np.array([1, 2, 3.0]),
        "terminations": np.array([False, False, True]),
        "truncations": np.zeros(3, bool),
    }
    for given in (record, SimpleNamespace(**record)):
        (episode,) = datasets.from_minari([given])
        assert episode.obs["x"].tolist() == [0, 1, 2, 3] and episode.reward.tolist() == [0, 1, 2, 3] and episode.terminated[-1]
        assert episode.action[:, 0].tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="3 rewards need 4 observations"):
        datasets.from_minari([{**record, "observations": np.zeros(3)}])
    with pytest.raises(ValueError, match="lacks truncations"):
        datasets.from_minari([{k: v for k, v in record.items() if k != "truncations"}])


def test_minari_takes_episodes_and_marks_none_inside(tmp_path):
    record = {"observations": np.zeros((4, 1)), "actions": np.zeros((3, 1)), "rewards": np.zeros(3)}
    record |= {"terminations": np.zeros(3), "truncations": np.array([0, 1, 0])}
    with pytest.raises(ValueError, match="episode 0: truncations ends it at step 1 of 3"):
        datasets.from_minari([record])
    with pytest.raises(ValueError, match="there is no dataset"):
        datasets.from_minari(tmp_path / "main_data.hdf5")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no dataset of Minari"):
        datasets.from_minari(tmp_path / "a.npz")


def test_borders_of_episodes_are_known_or_asked_for():
    bare = {k: v for k, v in D4RL.items() if k != "timeouts"}
    with pytest.raises(ValueError, match="nothing says where episodes end.*add timeouts"):
        datasets.from_d4rl(bare)
    late = {**D4RL, "terminals": np.zeros(5), "timeouts": np.array([0, 0, 0, 1, 1]), "next_observations": NEXT}
    with pytest.raises(ValueError, match=r"after entry 2 comes another observation.*\(1 such entries\).*out of step"):
        datasets.from_d4rl(late)
    inferred = datasets.from_d4rl({k: v for k, v in late.items() if k != "timeouts"})
    assert [e.obs[:, 0].tolist() for e in inferred] == [[0, 1, 2, 3], [10, 11, 12]]
    with pytest.raises(ValueError, match="next_observations is .5, 2."):
        datasets.from_d4rl({**late, "next_observations": np.zeros((5, 2))})


def test_actions_are_in_units_or_bounds_are_asked_for():
    """-3 to 1 stands for -1 to 1: -3, -1, 1 become -1, 0, 1."""
    given = np.array([-3, -1, 1, 0, -2.0])[:, None]
    data = {**D4RL, "actions": given, "next_observations": NEXT}
    with pytest.raises(ValueError, match=r"D4RL data: actions goes to 3, in row 0; .*bounds=LOW,HIGH"):
        datasets.from_d4rl(data)
    for bounds in ((-3, 1), ([-3.0], [1.0])):
        a, b = datasets.from_d4rl(data, bounds)
        assert a.action[:, 0].tolist() == [-1, 0, 1, 0] and b.action[:, 0].tolist() == [0.5, -0.5, 0]
    with pytest.raises(ValueError, match="actions goes to 2"):
        datasets.from_d4rl(data, (-2, 0))
    for bad in ((1, -3), (-np.inf, 1), ([-3, -3], [1, 1])):
        with pytest.raises(ValueError, match="do not scale actions"):
            datasets.from_d4rl(data, bad)
    rounded = datasets.from_d4rl({**data, "actions": np.full((5, 1), 1 + 1e-6)})
    assert max(e.action.max() for e in rounded) == 1
    with pytest.raises(ValueError, match="choices are counted from 0"):
        datasets.from_d4rl({**data, "actions": np.array([0, 1, -1, 0, 1])})
    minari = {"observations": np.zeros((4, 1)), "actions": given[:3], "rewards": np.zeros(3), "terminations": np.zeros(3)}
    (episode,) = datasets.from_minari([{**minari, "truncations": np.zeros(3)}], bounds=(-3, 1))
    assert episode.action[:, 0].tolist() == [-1, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": np.array([0, 0, 2, 0, 0])}, "terminals says where something ends, by 0 and 1; it has 2"),
        ({"timeouts": np.array([0, 0, np.nan, 0, 0])}, "timeouts has values that are not finite"),
        ({"timeouts": np.zeros((5, 2))}, "timeouts is .5, 2."),
        ({"rewards": np.array(["x"] * 5)}, "rewards holds text"),
        ({"observations": np.zeros(5, "M8[s]")}, "observations holds dates"),
        ({"observations": np.zeros((5, 1), "c8")}, "complex numbers"),
        ({"observations": np.zeros(5, [("x", "f4")])}, "structures"),
        ({"observations": np.full((5, 1), 2**40)}, "beyond 32 bits"),
        ({"rewards": np.full(5, 1e300)}, "rewards has values that are not finite, first in row 0"),
    ],
)
def test_columns_that_are_not_taken_are_named(change, message):
    with pytest.raises(ValueError, match=f"^D4RL data: {message}|^D4RL data: .*{message}"):
        datasets.from_d4rl({**D4RL, "next_observations": NEXT, **change})


def test_byte_orders_of_other_machines():
    swapped = {k: v.astype(v.dtype.newbyteorder(">")) for k, v in {**D4RL, "next_observations": NEXT}.items()}
    a, b = datasets.from_d4rl(swapped), datasets.from_d4rl({**D4RL, "next_observations": NEXT})
    same(list(a), list(b))
    assert replay.from_episodes(a).data.obs.dtype == np.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(2048), "is HDF5"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(2048), "is HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*git lfs pull"),
        (b"\x1f\x8b" + bytes(100), "gunzip"),
        (b"<!doctype html>", "web page"),
        (b"\x80\x04N.", "serialised Python objects"),
        (b"", "is empty, 0 bytes"),
        (bytes(100), "no .npz archive"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, data, message):
    (tmp_path / "data.npz").write_bytes(data)
    for reader in (datasets.read, datasets.from_d4rl, datasets.from_ogbench, datasets.from_minari):
        with pytest.raises(ValueError, match=f"data.npz.*{message}"):
            reader(tmp_path / "data.npz")


def npy(x) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(x), allow_pickle=False)
    return out.getvalue()


def archive(changes: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytearray:
    rows = 12
    good = {"format": np.array("rlx-episodes-1"), "offsets": np.array([0, 5, rows]), "obs": np.zeros((rows, 3), "f4")}
    good |= {"action": np.zeros((rows, 1), "f4"), "reward": np.zeros(rows, "f4")}
    good |= {"terminated": np.zeros(rows, bool), "truncated": np.zeros(rows, bool)}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in ({f"{k}.npy": npy(v) for k, v in good.items()} | changes).items():
            file.writestr(name, data)
    return bytearray(out.getvalue())


def everywhere(data: bytearray, magic: bytes, offset: int, value: int) -> bytearray:
    at = data.find(magic)
    while at >= 0:
        data[at + offset] = value
        at = data.find(magic, at + 1)
    return data


def claims(size: int) -> bytes:
    return npy(np.zeros(1, "f4")).replace(b"(1,)", f"({size},)".encode())[:128]


NOISE = npy(np.random.default_rng(0).standard_normal((12, 40)).astype("f4"))
DAMAGED = {
    "encrypted": (everywhere(everywhere(archive({}), b"PK\x01\x02", 8, 1), b"PK\x03\x04", 6, 1), "is encrypted"),
    "unknown compression": (everywhere(everywhere(archive({}), b"PK\x01\x02", 10, 99), b"PK\x03\x04", 8, 99), "method 99"),
    "4 TB": (archive({"obs.npy": claims(10**12)}), "'obs' of .*claims float32.1000000000000."),
    "empty entry": (archive({"offsets.npy": b""}), "'offsets' of .*cannot be read"),
    "no offsets": (archive({"offsets.npy": npy(np.zeros(0, int))}), "offsets is int64.0."),
    "one number": (archive({"offsets.npy": npy(np.int64(5))}), "data.npz: .*offsets"),
    "between rows": (archive({"offsets.npy": npy(np.array([0, 5.5, 12]))}), "offsets is float64.3."),
    "huge offsets": (archive({"offsets.npy": npy(np.array([0, 2**64 - 1], "u8"))}), "offsets of the episodes do not fit"),
    "text": (archive({"obs.npy": npy(np.array(["x"] * 12))}), "data.npz: obs holds text"),
    "no array": (archive({"readme.txt": b"hello"}), "'readme.txt' of .*no array"),
    "another column": (archive({"rewards.npy": npy(np.zeros(12))}), "it has 'rewards', which a dataset of rlx has not"),
    "two meanings": (archive({"obs/x.npy": npy(np.zeros(12))}), "it has 'obs', which"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_archives_are_refused_by_file_and_column(tmp_path, name):
    data, message = DAMAGED[name]
    (tmp_path / "data.npz").write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        datasets.read(tmp_path / "data.npz")
    assert type(refused.value) is ValueError and "data.npz" in str(refused.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_bytes_are_a_value_error_or_do_not_matter(tmp_path, method):
    """Every sixteenth byte of an archive is damaged in turn: a ValueError that names the file, or what was written."""
    path, whole = tmp_path / "data.npz", archive({"obs.npy": NOISE}, method)
    path.write_bytes(whole)
    good, refused = datasets.read(path), 0
    for i in range(0, len(whole), 16):
        damaged = bytearray(whole)
        damaged[i] ^= 0x55
        path.write_bytes(damaged)
        try:
            jax.tree.map(same, list(datasets.read(path)), list(good))
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(whole) / 16 * 0.6  # names and times of entries do not matter


def test_nothing_is_inflated_that_the_file_cannot_hold(monkeypatch):
    """4 GB claimed by a few bytes: refused by the size alone."""
    with zipfile.ZipFile(io.BytesIO(archive({"obs.npy": NOISE}, zipfile.ZIP_DEFLATED))) as file:
        entry = file.getinfo("obs.npy")
        entry.file_size = 2**32
        monkeypatch.setattr(file, "open", lambda *args: pytest.fail("it was opened"))
        with pytest.raises(ValueError, match=r"claims 4294967296 bytes, and \d+ in the file cannot hold them"):
            columns._read(file, entry)


@pytest.mark.parametrize("reader", [datasets.from_d4rl, datasets.from_ogbench])
def test_readers_refuse_missing_keys_unequal_lengths_and_nan(reader):
    with pytest.raises(ValueError, match="lacks actions.*it has observations"):
        reader({k: v for k, v in D4RL.items() if k != "actions"})
    with pytest.raises(ValueError, match="one length.*'actions': 4"):
        reader({**D4RL, "actions": D4RL["actions"][:4]})
    with pytest.raises(ValueError, match="not finite"):
        ends = np.array([0, 0, 1, 0, 1])
        reader({**D4RL, "terminals": ends, "observations": np.full((5, 1), np.nan, np.float32)})
    with pytest.raises(ValueError, match="there is no dataset"):
        reader("/nowhere/data.npz")
