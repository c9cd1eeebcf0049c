"""rlx's own folders of shards: growing, mapped, checked, and never read half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from rlx import replay
from rlx.replay import datasets
from rlx.replay.datasets import native
from rlx.replay.datasets.mapped import Mapped


def episodes(count, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = 3 + i % 4
        obs = {"state": rng.normal(size=(n, 2)).astype("f4"), "image": rng.integers(0, 255, (n, 2, 2, 3), dtype=np.uint8)}
        ends = np.arange(n) == (n - 1 if i % 2 else -1)
        yield {"obs": obs, "action": rng.uniform(-1, 1, (n, 1)), "reward": rng.normal(size=n), "terminated": ends}


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for k in ("state", "image"):
            np.testing.assert_array_equal(np.asarray(x.obs[k]), np.asarray(y.obs[k]))
        for k in ("action", "reward", "terminated", "truncated", "first"):
            np.testing.assert_array_equal(np.asarray(getattr(x, k)), np.asarray(getattr(y, k)))


def written(path, counts=(2, 1, 3), meta=None):
    given = list(episodes(sum(counts)))
    with datasets.Writer(path, meta) as out:
        for begin, count in zip(np.cumsum([0, *counts]), counts, strict=False):
            out.append(given[begin : begin + count])
    return replay.load(path)


def test_shards_give_back_what_was_written_in_memory_and_mapped(tmp_path):
    data = written(tmp_path / "d", meta={"env": "rlx:x", "seed": 3})
    datasets.write(tmp_path / "one.npz", episodes(6), {"env": "rlx:x", "seed": 3})
    one, there = datasets.read(tmp_path / "one.npz"), datasets.mapped(tmp_path / "d")
    same(data, one)
    same(there, one)
    assert dict(data.meta) == dict(one.meta) == dict(there.meta) == {"env": "rlx:x", "seed": 3}
    assert isinstance(there.rows.obs["image"], Mapped) and there.rows.obs["image"].dtype == np.uint8
    assert (
        len(replay.load(tmp_path / "d", episodes=2)) == 2
        and len(datasets.mapped(tmp_path / "d", datasets.Reading(episodes=4))) == 4
    )


def test_mapped_columns_index_as_arrays_do():
    whole = np.random.default_rng(0).normal(size=(10, 2))
    column = Mapped([whole[:4], whole[4:5], whole[5:]])
    for index in (
        0,
        4,
        9,
        slice(None),
        slice(3, 6),
        slice(5, 5),
        slice(0, 10, 3),
        np.array([9, 0, 4, 4]),
        np.array([[3, 5], [8, 4]]),
        -1,
        np.array([-10, -6, -1]),
        slice(-3, None),
        slice(6, 3),
        np.zeros(0, int),
        whole[:, 0] > 0,
    ):
        np.testing.assert_array_equal(column[index], whole[index])
    stream = column.as_stream()
    t = np.array([[1, 9], [4, 5]])
    np.testing.assert_array_equal(stream[t, np.zeros_like(t)], whole[:, None][t, 0])
    np.testing.assert_array_equal(stream[t], whole[:, None][t])
    np.testing.assert_array_equal(np.asarray(stream), whole[:, None])
    assert (column.shape, stream.shape, len(column), column.nbytes) == ((10, 2), (10, 1, 2), 10, 160)
    for wrong in (10, -11, np.array([0, 10])):
        with pytest.raises(IndexError, match="there are 10 rows"):
            column[wrong]
    with pytest.raises(IndexError, match="stream 0"):
        stream[t, np.ones_like(t)]


def test_a_whole_dataset_grows_and_unlike_episodes_are_refused(tmp_path):
    written(tmp_path / "d")
    with datasets.Writer(tmp_path / "d", resume=True) as out:
        assert out.shards == 3
        assert len(replay.load(tmp_path / "d")) == 6
        out.append(episodes(2, seed=1))
        with pytest.raises(ValueError, match="d is not complete"):
            replay.load(tmp_path / "d")
    assert len(replay.load(tmp_path / "d")) == 8
    with pytest.raises(ValueError, match="is a dataset already"):
        datasets.Writer(tmp_path / "d")
    wrong = [{**e, "action": np.zeros((len(e["reward"]), 2))} for e in episodes(1)]
    with (
        pytest.raises(ValueError, match=r"has action: .*1.*; these episodes have .*2"),
        datasets.Writer(tmp_path / "d", resume=True) as out,
    ):
        out.append(wrong)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no dataset"):
        datasets.Writer(tmp_path / "other")
    with pytest.raises(ValueError, match="what JSON can say"):
        datasets.Writer(tmp_path / "new", {"x": object()})


def test_damage_is_found_by_size_and_by_checksum(tmp_path):
    written(tmp_path / "d")
    file = tmp_path / "d" / "00001" / "reward.npy"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="reward.npy is damaged: its checksum"):
        replay.load(tmp_path / "d")
    datasets.mapped(tmp_path / "d")  # sizes alone
    file.write_bytes(good[:-4])
    for read in (replay.load, datasets.mapped):
        with pytest.raises(ValueError, match=r"reward.npy is damaged: \d+ bytes where \d+ bytes are listed"):
            read(tmp_path / "d")
    file.unlink()
    with pytest.raises(ValueError, match="damaged: nothing where"):
        replay.load(tmp_path / "d")
    manifest = tmp_path / "d" / native.MANIFEST
    told = json.loads(manifest.read_text())
    told["shards"][0]["name"] = "../elsewhere"
    manifest.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="an entry among its shards that is none"):
        replay.load(tmp_path / "d")


WRITER = """
import sys
import numpy as np
from rlx.replay.datasets import native
from tests.replay.test_shards import episodes
given = list(episodes(6))
out = native.Writer(sys.argv[1], resume=True)
for i in range(out.shards, 6):
    out.append(given[i : i + 1])
    if i == 3:
        real, out._list = out._list, lambda: None  # the next shard is there, and not listed yet
        out._shard([native.episode_row(given[4], 0)])
        print("half", flush=True)
        sys.stdin.read()
"""


def test_a_writer_that_was_killed_goes_on_after_its_last_shard(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "d")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "half\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (tmp_path / "d" / "00004").exists()
    for read in (replay.load, datasets.mapped):
        with pytest.raises(ValueError, match="is not complete"):
            read(tmp_path / "d")
    given = list(episodes(6))
    with datasets.Writer(tmp_path / "d", resume=True) as out:
        assert out.shards == 4 and not (tmp_path / "d" / "00004").exists()
        for episode in given[out.shards :]:
            out.append([episode])
    same(replay.load(tmp_path / "d"), replay_of(given))


def replay_of(given):
    from rlx.replay.episodes import episode_row

    return [episode_row(e, i) for i, e in enumerate(given)]
