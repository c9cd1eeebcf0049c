"""Files larger than memory: the same episodes in pieces as at once, value by value, and the same words where one is wrong."""

from __future__ import annotations

import functools
import pickle
import warnings

import h5py
import jax
import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from rlx.replay.dataset import join
from rlx.replay.datasets import d4rl as reader
from rlx.replay.datasets import found
from rlx.replay.datasets.pieces import Pieces
from tests.replay.test_readers import d4rl, minari, neorl, robomimic, write
from tests.replay.test_readers_demos import hdf5 as traces
from tests.replay.test_readers_demos import row, trial


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(found, "PIECE", 1500)
    monkeypatch.setattr(reader, "BLOCK", 50)
    with warnings.catch_warnings(action="ignore"):
        yield


def pieces(path, **options):
    return Pieces(path, found.reading(**options), free=10)


def same(a, b):
    assert jax.tree.structure(a.rows) == jax.tree.structure(b.rows)
    for x, y in zip(jax.tree.leaves(a.rows), jax.tree.leaves(b.rows), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert (a.format, dict(a.meta)) == (b.format, dict(b.meta))


def random_file(path, count=80, seed=0, **changes):
    """Episodes of 1 to some 20 entries, some of which terminate, of three float64 and one byte in the infos."""
    rng = np.random.default_rng(seed)
    end = rng.random(count) < 0.1
    terminal = end & (rng.random(count) < 0.5)
    terminal[30:33] = True  # episodes of one entry
    chain = rng.normal(size=(count + 1, 3))
    given = {"observations": chain[:-1], "next_observations": chain[1:].copy(), "actions": rng.uniform(-1, 1, (count, 2))}
    given["next_observations"][end] += 1
    given |= {"rewards": rng.normal(size=count), "terminals": terminal * 1.0, "timeouts": end & ~terminal}
    given |= {"infos/qpos": rng.normal(size=(count, 4)), "infos/qvel": rng.normal(size=(count, 1))}
    return write(path, {k: v for k, v in (given | changes).items() if v is not None})


FLAT = [
    ({}, {}),
    ({"next_observations": None}, {}),
    ({"next_observations": None, "timeouts": None}, {"horizon": 7}),
    ({"timeouts": None}, {}),
    ({"rewards": None}, {"ignore": "rewards"}),
    ({"actions": np.arange(80) % 5}, {}),
    ({"actions": np.linspace(2, 8, 160).reshape(80, 2)}, {"bounds": "data"}),
    ({"actions": np.linspace(2, 8, 160).reshape(80, 2)}, {"bounds": "1,9"}),
    ({}, {"episodes": 7}),
    ({}, {"ignore": "timeouts", "episodes": 9, "bounds": "data"}),
]


@pytest.mark.parametrize(("changes", "options"), FLAT)
def test_flat_columns(changes, options, tmp_path):
    path = random_file(tmp_path / "x.hdf5", **changes)
    read, wanted = pieces(path, **options), replay.load(path, **options)
    assert len(list(read)) > 2
    same(join(read), wanted)
    assert join(read).notes == wanted.notes
    np.testing.assert_array_equal(read.lengths, wanted.lengths)
    np.testing.assert_allclose(read.returns, wanted.returns)
    order = np.random.default_rng(0).permutation(len(wanted))[:4]
    same(join(read.select(order)), wanted.select(order))


def test_pieces_hold_what_they_are_to_hold(tmp_path, monkeypatch):
    path = random_file(tmp_path / "x.hdf5")
    assert 2 < len(list(pieces(path))) < len(replay.load(path))
    monkeypatch.setattr(found, "PIECE", 1)
    assert [len(one) for one in pieces(path)] == [1] * len(replay.load(path))
    assert len(Pieces(path, found.Reading(), free=10**9)) == len(Pieces(path, found.Reading())) == 1


def groups(path):
    datasets.write_demos(path, [row(reward=np.arange(5.0) + i) for i in range(12)])
    return path


GROUPS = {
    "Minari": (minari, {"episodes": 1}),
    "Minari with empty ones": (functools.partial(minari, empty=True), {}),
    "robomimic": (robomimic, {"dones": "terminated"}),
    "robomimic without next_obs": (functools.partial(robomimic, after=False), {"dones": "truncated", "bounds": "data"}),
    "robomimic's mask": (robomimic, {"dones": "truncated", "split": "train"}),
    "demonstrations": (groups, {"bounds": "data"}),
    "RoboHive": (lambda path: traces(path, Trial10=trial(5), Trial2=trial(), Trial0=trial(1)), {"keys": "qp"}),
    "NeoRL": (lambda path: write(path, neorl()), {"episodes": 2}),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_per_episode(name, tmp_path, monkeypatch):
    monkeypatch.setattr(found, "PIECE", 100)
    make, options = GROUPS[name]
    read, wanted = pieces(make(tmp_path / "x.hdf5"), **options), replay.load(tmp_path / "x.hdf5", **options)
    assert len(read) > 1
    same(join(read), wanted)
    assert len([*join(read).notes, *read.notes]) == len(wanted.notes)
    same(join(read.select(range(len(wanted))[::-1])), wanted.select(range(len(wanted))[::-1]))


def test_several_files_and_folders_one_after_another_and_one_scale_for_all(tmp_path):
    wide = np.random.default_rng(1).uniform(-3, 5, (80, 2))
    random_file(tmp_path / "a.hdf5")
    random_file(tmp_path / "b.h5", seed=1, actions=wide)
    np.savez(tmp_path / "c.npz", **{k: v for k, v in d4rl(observations=np.zeros((9, 3))).items() if k != "next_observations"})
    datasets.write(tmp_path / "shards", [replay.load(tmp_path / "a.hdf5")[i] for i in range(4)])
    given = [tmp_path / "shards", tmp_path / "a.hdf5", tmp_path / "b.h5"]
    read, wanted = pieces(given, bounds="data"), replay.load(given, bounds="data")
    order = [10, 1, 12, 2, 2, 0]
    for one, other in ((join(read), wanted), (join(read.select(order)), wanted.select(order))):
        np.testing.assert_array_equal(one.rows.action, other.rows.action)
        np.testing.assert_array_equal(one.rows.obs, other.rows.obs)
    (tmp_path / "c.npz").rename(tmp_path / "0.npz")
    with pytest.raises(ValueError, match=r"0.npz is read as a whole, as the columns of an .npz may be compressed"):
        pieces(tmp_path)


WRONG = [
    {"observations": (70, np.nan)},
    {"next_observations": (70, np.inf)},
    {"infos/qvel": (79, np.nan)},
    {"actions": (65, 3)},
    {"observations": (55, 5)},
    {"terminals": (2, 2)},
    {"rewards": (10, np.nan)},
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("after", [True, False])
def test_what_is_wrong_is_said_in_the_same_words(wrong, after, tmp_path):
    path = random_file(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        for name, (at, value) in wrong.items():
            file[name][at] = value
        if not after:
            del file["next_observations"]
    said = []
    for read in (lambda: list(pieces(path)), lambda: replay.load(path)):
        try:
            read()
        except ValueError as error:
            said.append(str(error))
    assert len(said) in (0, 2) and len(set(said)) < 2
    assert said or "observations" in str(wrong)  # which may be all right without next_observations


@pytest.mark.parametrize("name", ["unknown.hdf5", "trust.pkl", "wide.hdf5"])
def test_what_cannot_be_read_at_all_is_not_said_to_be_too_large(name, tmp_path):
    if name == "trust.pkl":
        (tmp_path / name).write_bytes(pickle.dumps(d4rl()))
    else:
        write(tmp_path / name, {"x": np.zeros(9)} if name == "unknown.hdf5" else d4rl(rewards=np.zeros((9, 2))))
    with pytest.raises(ValueError, match=r"of no layout that is known|--trust-arrays|rewards is \[9, 2\]"):
        list(pieces(tmp_path / name))


def test_nothing_whole_is_said_as_of_a_whole_file(tmp_path):
    path = random_file(tmp_path / "x.hdf5", next_observations=None, terminals=np.zeros(80), timeouts=np.ones(80))
    for read in (lambda: list(pieces(path)), lambda: replay.load(path)):
        with pytest.raises(ValueError, match=r"x.hdf5: there is no whole transition in \d+ entries"):
            read()
