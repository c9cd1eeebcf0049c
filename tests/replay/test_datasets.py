from __future__ import annotations

import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from tests.replay.coded import World, fill


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


@pytest.fixture
def episodes():
    buffer, state = fill(World([[5, 3, 7], [4], [9, 2]]), 64, [31])
    return [e._replace(reward=np.r_[0, e.reward[1:]], truncated=e.truncated | _cut(e)) for e in buffer.export(state)]


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

    monkeypatch.setattr(datasets.np, "savez", full)
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
        "none": "there is no dataset", "half": "cannot be read", "other": "not a dataset of rlx", "pickled": "cannot be read",
        "short": "one length", "offsets": "offsets", "lacking": "lacks action",
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
    "actions": OBS + 0.5,
    "rewards": np.arange(1.0, 6.0),
    "terminals": np.array([0, 0, 1, 0, 0]),
    "timeouts": np.array([0, 0, 0, 0, 1]),
}


def test_d4rl_with_next_observations():
    a, b = datasets.from_d4rl({**D4RL, "next_observations": NEXT})
    assert a.obs[:, 0].tolist() == [0, 1, 2, 3] and b.obs[:, 0].tolist() == [10, 11, 12]
    assert a.reward.tolist() == [0, 1, 2, 3] and b.reward.tolist() == [0, 4, 5]
    assert a.action[:, 0].tolist() == [0.5, 1.5, 2.5, 0] and b.action[:, 0].tolist() == [10.5, 11.5, 0]
    assert a.terminated.tolist() == [False] * 3 + [True] and not a.truncated.any()
    assert not b.terminated.any() and b.truncated.tolist() == [False, False, True]
    assert a.obs.dtype == a.reward.dtype == np.float32
    without = {k: v for k, v in D4RL.items() if k != "timeouts"}
    inferred = datasets.from_d4rl({**without, "terminals": np.zeros(5), "next_observations": NEXT})
    assert [len(e.reward) for e in inferred] == [4, 3] and all(e.truncated[-1] for e in inferred)


def test_d4rl_without_next_observations():
    a, b = datasets.from_d4rl(D4RL)
    assert a.obs[:, 0].tolist() == [0, 1, 2, 2] and a.reward.tolist() == [0, 1, 2, 3] and a.terminated[-1]
    assert (
        b.obs[:, 0].tolist() == [10, 11] and b.reward.tolist() == [0, 4] and b.truncated[-1]
    )  # the outcome of 11.5 is unknown


def test_ogbench(tmp_path):
    obs = np.array([0, 1, 2, 10, 11], np.float32)[:, None]
    arrays = {"observations": obs, "actions": obs + 0.5, "terminals": np.array([0, 0, 1, 0, 1.0]), "qpos": np.zeros((5, 3))}
    np.savez(tmp_path / "maze.npz", **arrays)
    a, b = datasets.from_ogbench(tmp_path / "maze.npz")
    assert a.obs[:, 0].tolist() == [0, 1, 2] and b.obs[:, 0].tolist() == [10, 11]
    assert a.truncated.tolist() == [False, False, True] and not a.terminated.any() and a.info["qpos"].shape == (3, 3)
    assert int(replay.from_episodes([a, b]).index.size) == 5
    with pytest.raises(ValueError, match="loader"):
        datasets.from_ogbench({**arrays, "next_observations": obs})


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
