"""What `replay.load` makes of folders and globs, and of what it is told about files: nothing twice, nothing without effect."""

from __future__ import annotations

import os
import pickle

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from rlx.replay.datasets import found
from tests.replay import test_readers, test_readers_demos
from tests.replay.test_readers import N, d4rl

LENGTHS = [4, 2, 3]  # of the episodes in each file


@pytest.fixture
def folder(tmp_path):
    """Two files of D4RL's, compressed."""
    (tmp_path / "fold").mkdir()
    for name in "ab":
        np.savez_compressed(tmp_path / "fold" / f"{name}.npz", **d4rl())
    return tmp_path / "fold"


def written(path, low=-0.5, high=0.5):
    """Two episodes of two steps, whose actions are low, 0.25, 0.25, high; those of last rows, which lead nowhere, are 0.9."""
    action = np.array([low, 0.25, 0.9, 0.25, high, 0.9])[:, None]
    rows = [{"obs": np.zeros((3, 2), "f4"), "reward": np.ones(3), "action": action[i : i + 3]} for i in (0, 3)]
    datasets.write(path, [{**row, "terminated": np.zeros(3, bool)} for row in rows], {"env": "rlx:x"})
    return path


# ------------------------------------------------------------------------------------------------------ what is read, and once


def test_a_glob_that_names_a_folder_and_what_is_in_it_reads_it_once(folder, monkeypatch):
    for source in (folder, folder / "*", folder / "**", [folder, folder / "a.npz"]):
        source = source if isinstance(source, list) else str(source)
        assert replay.load(source).lengths.tolist() == LENGTHS * 2
    monkeypatch.chdir(folder.parent)
    assert len(replay.load("**")) == 6
    shards = written(folder.parent / "shards")
    assert replay.load(str(shards / "**")).lengths.tolist() == [2, 2]


def test_datasets_in_a_folder_are_read_with_it_and_what_is_left_out_is_said(folder):
    datasets.write(folder / "c", list(replay.load(folder / "a.npz", episodes=1)))
    assert replay.load(folder).lengths.tolist() == [*LENGTHS, *LENGTHS, 4]
    (folder / "more").mkdir()
    os.link(folder / "a.npz", folder / "more" / "d.npz")
    (folder / "frames").mkdir()
    (folder / "frames" / "0.png").write_bytes(b"")
    data = replay.load(folder)
    assert len(data) == 7 and any("left out" in note and note.endswith(": more") for note in data.notes)
    data = replay.load([folder, folder / "more"])
    assert len(data) == 10 and not any("left out" in note for note in data.notes)
    assert len(replay.load(str(folder / "mor*"))) == 3
    with pytest.raises(ValueError, match="frames is a folder without data"):
        replay.load(folder / "frames")
    (folder.parent / "outer").mkdir()
    (folder.parent / "outer" / "inner").symlink_to(folder)
    with pytest.raises(ValueError, match="a folder without data.*There are some in folders of it, give these: inner"):
        replay.load(folder.parent / "outer")


def test_sizes_are_those_in_memory_of_what_is_read(folder, tmp_path):
    """Per file 9 entries: 2 + 2 + 1 + 1 float64 and 2 bools."""
    assert datasets.nbytes(folder) == datasets.nbytes(str(folder / "*.npz")) == 2 * N * (6 * 8 + 2)
    (folder / "readme.txt").write_text("x" * 10_000)
    assert datasets.nbytes(folder) == 2 * N * (6 * 8 + 2)
    inner = tmp_path / "minari" / "data"
    inner.mkdir(parents=True)
    with h5py.File(inner / "main_data.hdf5", "w") as file:
        file.create_dataset("episode_0/observations", data=np.zeros((1000, 100), "f4"), compression="gzip")
    assert datasets.nbytes(tmp_path / "minari") == 400_000
    shards = written(tmp_path / "shards")
    assert datasets.nbytes(shards) == sum(p.stat().st_size for p in shards.rglob("*") if p.is_file())


def test_what_joined_files_say_alike_is_kept(tmp_path):
    rows = list(datasets.from_d4rl(d4rl()))
    datasets.write(tmp_path / "a.npz", rows, {"env": "gym:Hopper-v4", "seed": 1, "time_limit": 10})
    datasets.write(tmp_path / "b.npz", rows, {"env": "gym:Hopper-v4", "seed": 2})
    assert replay.load([tmp_path / "a.npz", tmp_path / "b.npz"]).meta == {"env": "gym:Hopper-v4"}


# --------------------------------------------------------------------------------------------------------- where episodes end


def test_timeouts_are_never_one_more_column_of_ogbench(tmp_path):
    np.savez(tmp_path / "x.npz", **d4rl(rewards=None))
    with pytest.raises(ValueError, match=r"x.npz: it lacks rewards; it has .*timeouts.* With ignore=rewards they are 0"):
        replay.load(tmp_path / "x.npz")
    data = replay.load(tmp_path / "x.npz", ignore="rewards")
    assert (data.format, data.lengths.tolist(), data.notes) == ("D4RL", LENGTHS, ("no rewards: they are 0",))
    assert not data.rows.reward.any() and not data.rows.info


def test_ogbench_whose_ends_and_next_observations_are_out_of_step(tmp_path):
    one = d4rl(rewards=None, timeouts=None, terminals=np.isin(np.arange(N), [3, 8]))
    np.savez(tmp_path / "x.npz", **one)
    assert replay.load(tmp_path / "x.npz").lengths.tolist() == [4, 5]
    one["observations"][6:] += 5  # another trajectory begins, and nothing says so
    one["next_observations"][6:] += 5
    np.savez(tmp_path / "x.npz", **one)
    with pytest.raises(ValueError, match=r"x.npz: after entry 5 comes another observation.*\(1 such entries\).*call it"):
        replay.load(tmp_path / "x.npz")


@pytest.mark.parametrize("ignore", ["", "timeouts"])
def test_trajectories_of_a_list_end_whatever_their_timeouts_say(ignore, tmp_path):
    """Three of 5, 6 and 7 entries; of one a timeout in the middle is taken too, where it is not ignored."""
    ends = [[], [2], []]
    given = [
        {
            "observations": np.arange(n)[:, None] + 10.0 * n,
            "next_observations": np.arange(1, n + 1)[:, None] + 10.0 * n,
            "actions": np.zeros((n, 1)),
            "rewards": np.ones(n),
            "terminals": np.arange(n) == (n - 1 if n == 7 else -1),
            "timeouts": np.isin(np.arange(n), marks),
        }
        for n, marks in zip((5, 6, 7), ends, strict=True)
    ]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(given))
    data = replay.load(tmp_path / "x.pkl", trust_arrays=True, ignore=ignore)
    assert data.lengths.tolist() == ([5, 6, 7] if ignore else [5, 3, 3, 7])
    assert [bool(e.terminated[-1]) for e in data] == [False] * (len(data) - 1) + [True]
    assert data[1].obs[0, 0] == 60 and data[0].obs[-1, 0] == 55


def test_where_every_entry_is_an_end_there_is_no_jump():
    dones = d4rl(terminals=None, timeouts=None, dones=np.ones(N))
    with pytest.raises(ValueError, match="Every entry is marked as an end") as said:
        datasets.from_d4rl(dones)
    assert "jump" not in str(said.value)


# ------------------------------------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": 2}, "bounds=2 is no pair of LOW and HIGH: give LOW,HIGH, or data, or clip"),
        ({"bounds": True}, "bounds=True is no pair"),
        ({"bounds": 0.5}, "bounds=0.5 is no pair"),
        ({"bounds": [1, 2, 3]}, "bounds are 3 numbers"),
        ({"bounds": "dta"}, "bounds='dta' is none"),
        ({"episodes": -1}, "episodes must be at least 1, got -1"),
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"horizon": -5}, "horizon must be at least 0, got -5"),
    ],
)
def test_values_are_held_to_what_they_may_be(options, message, folder):
    for read in (
        lambda: replay.load(folder, **options),
        lambda: replay.load(folder, found.Reading(), **options),
        lambda: datasets.Reading(**options),
        lambda: datasets.from_d4rl(d4rl(), **options),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_bounds_may_be_pairs_of_numbers_or_of_lists(folder):
    for bounds in ((-2, 2), [-2, 2], "-2,2", ([-2], [2]), np.array([-2.0, 2.0])):
        assert replay.load(folder, bounds=bounds)[0].action[0, 0] == -0.5


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("D4RL", {"keys": "a,b"}, "keys=a,b is of no use to the layout D4RL, which takes bounds, dones, horizon, ignore, epis"),
        ("D4RL", {"split": "train"}, "split=train is of no use to the layout D4RL"),
        ("D4RL", {"ignore": "timeouts2"}, "ignore=timeouts2 names no column of the layout D4RL.* Did you mean 'timeouts'"),
        ("NeoRL", {"dones": "both"}, "dones=both is of no use to the layout NeoRL"),
        ("rlx", {"keys": "zzz"}, "keys=zzz is of no use to the layout rlx, which takes bounds"),
        ("rlx", {"ignore": "obs/b"}, "ignore=obs/b is of no use to the layout rlx"),
        ("rlx shards", {"horizon": 3}, "horizon=3 is of no use to the layout rlx shards"),
        ("OGBench", {"horizon": 3}, "horizon=3 is of no use to the layout OGBench, which takes bounds, ignore, "),
        ("ExoRL", {"split": "x"}, "split=x is of no use to the layout ExoRL"),
        ("ExoRL", {"keys": "pixels"}, "it lacks pixels; it has observation"),
        ("Minari", {"dones": "both"}, "dones=both is of no use to the layout Minari, which takes bounds, keys, "),
        ("robomimic", {"horizon": 3}, "horizon=3 is of no use to the layout robomimic"),
        ("robomimic", {"ignore": "rewards"}, "ignore=rewards names no column.*next_obs"),
        ("demonstrations", {"ignore": "state"}, "ignore=state is of no use to the layout demonstrations"),
        ("RoboHive", {"split": "x"}, "split=x is of no use to the layout RoboHive"),
        ("SINDy-RL", {"keys": "x"}, "keys=x is of no use to the layout SINDy-RL"),
    ],
)
def test_what_a_layout_does_not_use_is_refused(layout, options, message, tmp_path):
    path = tmp_path / {"rlx shards": "x", "SINDy-RL": "x.pkl"}.get(layout, "x.npz")
    if layout in ("rlx", "rlx shards"):
        written(path)
    elif layout in ("D4RL", "NeoRL", "OGBench"):
        columns = {"D4RL": d4rl(), "NeoRL": test_readers.neorl(), "OGBench": d4rl(rewards=None, timeouts=None)}
        np.savez(path, **columns[layout])
    elif layout == "demonstrations":
        datasets.write_demos(path, [test_readers_demos.row()])
    elif layout == "RoboHive":
        test_readers_demos.hdf5(path, T=test_readers_demos.trial())
    elif layout == "SINDy-RL":
        path.write_bytes(pickle.dumps({"x": [np.zeros((3, 2))], "u": [np.zeros(3)], "r": [None]}))
    elif layout == "ExoRL":
        test_readers.exorl(path, 0)
    else:
        {"Minari": test_readers.minari, "robomimic": test_readers.robomimic}[layout](path)
    with pytest.raises(ValueError, match=f"{path.name}: .*{message}"):
        replay.load(path, trust_arrays=True, **options)


def test_columns_that_a_layout_knows_may_be_ignored_where_they_are_not(tmp_path):
    np.savez(tmp_path / "x.npz", **d4rl(), more=np.zeros(N))
    assert replay.load(tmp_path / "x.npz", ignore="infos/qpos,more").lengths.tolist() == LENGTHS
    assert datasets.from_d4rl(d4rl(timeouts=None), ignore="timeouts").lengths.tolist() == [4, 5]


def test_what_this_file_does_not_leave_open_is_said():
    notes = datasets.from_d4rl(d4rl(), horizon=3, dones="both").notes
    assert notes == ("dones= is not used: there are terminals", "horizon= is not used: timeouts say where episodes were cut")
    assert not any("not used" in note for note in datasets.from_d4rl(d4rl(timeouts=None), horizon=100).notes)


def test_bounds_of_rlx_own_data(tmp_path):
    """The same for a file and for shards, in memory and mapped: last actions are none, so -0.5 to 0.5 become -1 to 1."""
    for path in (written(tmp_path / "x.npz"), written(tmp_path / "shards")):
        there = [datasets.mapped(path, found.reading(bounds="data"))] if path.is_dir() else []
        for data in [replay.load(path, bounds="data"), *there]:
            action = np.asarray(data.rows.action)
            assert action.dtype == np.float32 and action[:, 0].tolist() == [-1, 0.5, 0, 0.5, 1, 0]
        assert replay.load(path, bounds=(-1, 0.5)).rows.action[:, 0].tolist() == pytest.approx([-1 / 3, 2 / 3, 0, 2 / 3, 1, 0])
        assert replay.load(path).rows.action[:, 0].tolist() == [-0.5, 0.25, 0, 0.25, 0.5, 0]
    places = [datasets.replay_of(tmp_path / "shards", where, bounds="data") for where in ("device", "host", "disk")]
    for state in places:
        assert np.asarray(state.data.action[np.arange(6), np.zeros(6, int)])[:, 0].tolist() == [-1, 0.5, 0, 0.5, 1, 0]


def test_bounds_of_positive_actions_are_not_those_of_what_stands_at_last_rows(tmp_path):
    for path in (written(tmp_path / "x.npz", 0.25, 0.75), written(tmp_path / "shards", 0.25, 0.75)):
        assert replay.load(path, bounds="data").rows.action[:, 0].tolist() == [-1, -1, 0, -1, 1, 0]
    with pytest.raises(ValueError, match="shards: bounds=.* do not scale action"):
        replay.load(tmp_path / "shards", bounds=(1, -1))


# ----------------------------------------------------------------------------------------------------------------- the layout


def test_a_layout_by_name_is_that_of_the_files_in_a_folder(folder):
    assert replay.load(folder, format="d4rl").lengths.tolist() == LENGTHS * 2
    assert replay.load(folder / "a.npz", format="D4RL").lengths.tolist() == LENGTHS
    shards = written(folder.parent / "shards")
    assert len(replay.load(shards, format="rlx shards")) == len(datasets.mapped(shards)) == 2
    assert len(replay.load([shards, written(folder.parent / "one.npz")], format="rlx")) == 4
    assert len(replay.load(folder.parent, format="rlx", episodes=3)) == 3
    assert datasets.replay_of(shards, "disk", format="rlx").index.size == 6
    for path, format, message in (
        (folder, "robomimic", "a.npz is an .npz of the layout D4RL; format=robomimic is for HDF5: leave format out"),
        (folder / "a.npz", "pickle", "is an .npz of the layout D4RL; format=pickle is for a pickle or a file of torch.save"),
        (shards, "D4RL", "shards is a folder of the layout rlx shards; format=D4RL is for an .npz or HDF5"),
        (folder / "a.npz", "rlx shards", "is an .npz of the layout D4RL; format=rlx shards is for a folder"),
        (folder, "D4RM", "unknown format 'D4RM'.*D4RL"),
    ):
        with pytest.raises(ValueError, match=message):
            replay.load(path, format=format)
    with pytest.raises(ValueError, match="format=D4RL is for"):
        datasets.replay_of(shards, "disk", format="D4RL")
