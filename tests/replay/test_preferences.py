"""Pairs of segments and who is preferred, in the two public forms."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from tests.replay.test_readers import robomimic


def test_pairs_in_one_file(tmp_path):
    rng, shape = np.random.default_rng(0), (4, 5)
    given = {f"obs_{i}": rng.normal(size=(*shape, 3)) for i in (1, 2)} | {f"action_{i}": np.ones((*shape, 2)) for i in (1, 2)}
    np.savez(tmp_path / "lift.npz", **given, label=np.array([0, 0.5, 1, 1]))
    pairs = datasets.load_pairs(tmp_path / "lift.npz")
    assert pairs.obs.shape == (2, 4, 5, 3) and pairs.obs.dtype == np.float32 and pairs.label.tolist() == [0, 0.5, 1, 1]
    np.testing.assert_array_equal(pairs.obs[1], given["obs_2"].astype("f4"))
    assert pairs.action.max() == np.float32(1 - 1e-5)
    np.savez(tmp_path / "odd.npz", **given, label=np.array([0, 0.5, 0.7, 1]))
    with pytest.raises(ValueError, match="odd.npz: label 0.7.* of pair 2 is none of 0, 0.5, 1"):
        datasets.load_pairs(tmp_path / "odd.npz")
    np.savez(tmp_path / "short.npz", **{**given, "obs_2": given["obs_2"][:, :4]}, label=np.zeros(4))
    with pytest.raises(ValueError, match=r"obs_1 is \[4, 5, 3\], obs_2 \[4, 4, 3\]"):
        datasets.load_pairs(tmp_path / "short.npz")


def test_human_labels_beside_a_dataset(tmp_path):
    """Entries of D4RL's layout, in which the last before each time limit does not count: 0 1 2 3 | 5 6 7 8."""
    n = 10
    columns = {"observations": np.arange(n)[:, None] * 1.0, "actions": np.zeros((n, 1)), "rewards": np.zeros(n)}
    columns |= {"terminals": np.zeros(n), "timeouts": np.arange(n) % 5 == 4}
    with pytest.warns(UserWarning, match="2 of 10"):
        data = datasets.from_d4rl(columns)
    for name, values in {"indices_num3_q2": [0, 3, 6], "indices_2_num3_q2": [1, 4, 2], "label_human": [0, 1, -1]}.items():
        (tmp_path / name).write_bytes(pickle.dumps(np.array(values)))
    with pytest.raises(ValueError, match="trust-arrays"):
        datasets.load_pairs(tmp_path, data)
    pairs = datasets.load_pairs(tmp_path, data, trust_arrays=True)
    assert pairs.obs[0, :, :, 0].tolist() == [[0, 1], [3, 5], [7, 8]]
    assert pairs.obs[1, :, :, 0].tolist() == [
        [1, 2],
        [5, 6],
        [2, 3],
    ]
    assert pairs.label.tolist() == [0, 1, 0.5]
    with pytest.raises(ValueError, match="begin at 0 to 6, 5 long; .* has 8 transitions"):
        datasets.load_pairs(tmp_path, data, length=5, trust_arrays=True)
    (tmp_path / "indices_num3_q2").write_bytes(pickle.dumps([0, 2.5, 6]))
    with pytest.raises(ValueError, match="which are whole numbers; 2.5 is none"):
        datasets.load_pairs(tmp_path, data, trust_arrays=True)
    (tmp_path / "label_human").write_bytes(pickle.dumps(np.array([0, 1, 2])))
    with pytest.raises(ValueError, match="0, 1 or -1"):
        datasets.load_pairs(tmp_path, data, trust_arrays=True)


def test_human_labels_are_not_shifted(tmp_path):
    """With next_observations the step before a time limit is a transition as well, which these labels do not count."""
    n = 10
    columns = {"observations": np.arange(n)[:, None] * 1.0, "next_observations": np.arange(1, n + 1)[:, None] * 1.0}
    columns |= {
        "actions": np.zeros((n, 1)),
        "rewards": np.zeros(n),
        "terminals": np.zeros(n),
        "timeouts": np.arange(n) % 5 == 4,
    }
    for name, values in {"indices_num1_q2": [5], "indices_2_num1_q2": [0], "label_human": [1]}.items():
        (tmp_path / name).write_bytes(pickle.dumps(np.array(values)))
    with pytest.raises(
        ValueError, match="without the last step before each time limit, which D4RL data has: .*ignore=next_obs"
    ):
        datasets.load_pairs(tmp_path, datasets.from_d4rl(columns), trust_arrays=True)
    with pytest.warns(UserWarning, match="2 of 10"):
        data = datasets.from_d4rl(columns, ignore=("next_observations",))
    assert datasets.load_pairs(tmp_path, data, trust_arrays=True).obs[0, :, :, 0].tolist() == [[6, 7]]
    datasets.write(tmp_path / "copy", data, data.meta)  # which is known of a copy too
    copy = datasets.load_pairs(tmp_path, datasets.read(tmp_path / "copy"), trust_arrays=True)
    assert copy.obs[0, :, :, 0].tolist() == [[6, 7]]
    ended = datasets.from_d4rl(columns | {"terminals": columns["timeouts"], "timeouts": np.zeros(n)})
    assert datasets.load_pairs(tmp_path, ended, trust_arrays=True).obs[0, :, :, 0].tolist() == [[5, 6]]


def test_human_labels_beside_demonstrations(tmp_path):
    """Of each demonstration of 3 steps the last does not count: 0 1 | 3 4 | 6 7, in the order of demo_0, demo_1, demo_10."""
    for name, values in {"indices_num1_q2": [2], "indices_2_num1_q2": [4], "label_human": [-1]}.items():
        (tmp_path / name).write_bytes(pickle.dumps(np.array(values)))
    path = robomimic(tmp_path / "low_dim.hdf5")
    for options in ({"dones": "truncated"}, {"dones": "terminated", "ignore": ("next_obs",)}):
        with pytest.raises(ValueError, match="of robomimic: ignore=next_obs, dones=truncated"):
            datasets.load_pairs(tmp_path, replay.load(path, keys="robot0_eef_pos", **options), trust_arrays=True)
    data = replay.load(path, keys="robot0_eef_pos,object", dones="truncated", ignore="next_obs")
    assert data.lengths.tolist() == [2, 2, 2] and any("the last action of each" in note for note in data.notes)
    pairs = datasets.load_pairs(tmp_path, data, trust_arrays=True)
    assert pairs.obs[:, 0, :, 0].tolist() == [[0, 1], [0, 1]] and pairs.obs[:, 0, :, 3].tolist() == [[1, 1], [10, 10]]
    assert pairs.label.tolist() == [0.5]
