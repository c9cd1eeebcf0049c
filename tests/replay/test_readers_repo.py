"""The replay of RePo's authors: a ring of rows without the picture after an episode's last action."""

from __future__ import annotations

import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets


def ring(path, full, channels=3, **changes):
    """Seven rows in time, t = 10 to 16, of episodes of 3, 3 and 1 rows; in a ring of seven, or the first of nine."""
    t = np.arange(10, 17)
    rows = {
        "observations": (t[:, None, None, None] + 100 * np.arange(channels)[:, None, None] % 200) * np.ones((1, 1, 4, 5)),
        "actions": (t[:, None] / 20).astype("f4"),
        "rewards": t[:, None].astype("f4"),
        "dones": np.isin(t, [12, 15])[:, None].astype("f4"),
    }
    rows["observations"] = rows["observations"].astype(np.uint8)
    turned = (lambda x: np.roll(x, 2, 0)) if full else (lambda x: np.concatenate([x, np.full_like(x[:2], 77)]))
    rows = {k: turned(v) for k, v in rows.items()} | {"capacity": 7 if full else 9, "pos": 2 if full else 7, "full": full}
    np.savez(path, **(rows | changes))
    return path


@pytest.mark.parametrize("full", [True, False])
def test_a_ring_is_read_in_time(full, tmp_path):
    path = ring(tmp_path / "buffer.npz", full)
    with pytest.warns(UserWarning, match="3 of 7 transitions are left out"):
        data = replay.load(path, dones="truncated")
    assert data.format == "RePo" and data.lengths.tolist() == [2, 2]
    a, b = data
    assert a.obs.shape == (3, 4, 5, 3) and a.obs.dtype == np.uint8 and a.obs[:, 0, 0].tolist()[0] == [10, 110, 10]
    assert a.obs[:, 0, 0, 0].tolist() == [10, 11, 12] and b.obs[:, 3, 4, 0].tolist() == [13, 14, 15]
    assert a.reward.tolist() == [0, 10, 11] and a.action[:, 0].tolist() == pytest.approx([0.5, 0.55, 0])
    assert not a.terminated.any() and a.truncated[-1]
    kept = replay.load(path, dones="terminated")  # then the last picture stands for the unknown one
    assert kept.lengths.tolist() == [3, 3] and kept[0].reward.tolist() == [0, 10, 11, 12] and kept[0].terminated[-1]


def test_pairs_are_told_apart(tmp_path):
    data = replay.load(ring(tmp_path / "buffer.npz", True, channels=6), dones="terminated")
    assert data.rows.obs["clean"][0, 0, 0].tolist() == [10, 110, 10]
    assert data.rows.obs["pixels"][0, 0, 0].tolist() == [110, 10, 110]


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_written_is_read_again(pairs, tmp_path):
    before = replay.load(ring(tmp_path / "buffer.npz", False, channels=6 if pairs else 3), dones="terminated")
    datasets.write_repo(tmp_path / "again.npz", before)
    with np.load(tmp_path / "again.npz") as file:
        assert {k: file[k].shape for k in ("actions", "rewards", "dones", "pos")} == {
            "actions": (6, 1),
            "rewards": (6, 1),
            "dones": (6, 1),
            "pos": (),
        }
        assert file["observations"].shape == (6, 6 if pairs else 3, 4, 5) and file["full"] and file["capacity"] == 6
        assert file["dones"][:, 0].tolist() == [0, 0, 1, 0, 0, 1]
    after = replay.load(tmp_path / "again.npz", dones="terminated")
    assert after.offsets.tolist() == before.offsets.tolist()
    pictures = lambda data: data.rows.obs["pixels"] if pairs else data.rows.obs
    np.testing.assert_array_equal(pictures(after), pictures(before))
    for name in ("action", "reward", "terminated"):
        np.testing.assert_array_equal(getattr(after.rows, name), getattr(before.rows, name))


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {}, "dones=truncated"),
        ({"pos": 12}, {"dones": "truncated"}, "pos=12 and full=1 say nothing of which of the 7 rows"),
        ({"pos": np.array([1, 2])}, {"dones": "truncated"}, "pos is .*one whole number"),
        ({"observations": np.zeros((7, 4, 5, 3), np.uint8)}, {"dones": "truncated"}, r"uint8\[N, 3, height, width\]"),
        ({"observations": np.zeros((7, 3, 4, 5))}, {"dones": "truncated"}, r"uint8\[N, 3, height, width\]"),
        ({"rewards": np.zeros((6, 1))}, {"dones": "truncated"}, "all arrays must have one length"),
        ({}, {"split": "train"}, "of no use to the layout RePo"),
    ],
)
def test_what_is_wrong_is_said(changes, options, said, tmp_path):
    path = ring(tmp_path / "buffer.npz", True, **changes)
    with pytest.raises(ValueError, match=f"buffer.npz: .*{said}"):
        replay.load(path, **options)


def test_only_pictures_and_vectors_are_written(tmp_path):
    data = replay.load(ring(tmp_path / "buffer.npz", True), dones="terminated")
    vectors = datasets.Dataset(data.rows._replace(obs=np.zeros((8, 2), np.float32)), data.offsets)
    with pytest.raises(ValueError, match=r"must be uint8\[N, H, W, 3\]"):
        datasets.write_repo(tmp_path / "x.npz", vectors)
    choices = datasets.Dataset(data.rows._replace(action=np.zeros(8, int)), data.offsets)
    with pytest.raises(ValueError, match="no vectors of actions"):
        datasets.write_repo(tmp_path / "x.npz", choices)
    assert not (tmp_path / "x.npz").exists()
