"""What people are told about files that are nearly what a reader takes: file, column, row, and what to do."""

from __future__ import annotations

import pickle
import zipfile

import h5py
import numpy as np
import pytest

from rlx import replay
from tests.replay.test_readers import d4rl, exorl, minari, neorl, write


def without(arrays, *names):
    return {k: v for k, v in arrays.items() if k not in names}


def images(path):
    return write(path, without(d4rl(next_observations=None), "observations") | {"observations/image": np.zeros((9, 2, 2, 3))})


def rewards(path):
    minari(path)
    with h5py.File(path, "a") as file:
        file["episode_10/rewards"][1] = np.nan


def bytes_among_floats(path):
    minari(path)
    with h5py.File(path, "a") as file:
        del file["episode_10/observations/position"]
        file["episode_10/observations/position"] = np.zeros((4, 2), np.uint8)


def archive(path):
    exorl(path.with_name("episode_0_5.npz"), 0)
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(path.with_name("episode_0_5.npz"), "walker/rnd/buffer/episode_0_5.npz")


def pairs(path):
    of = lambda width: np.zeros((2, 3, width))
    np.savez(path, obs_1=of(2), obs_2=of(2), action_1=of(1), action_2=of(1), label=np.zeros(2))


def labels(path):
    path.mkdir()
    for name in ("indices_num2_q3", "indices_2_num2_q3", "label_human"):
        (path / name).write_bytes(pickle.dumps([0, 1]))


MADE = {
    "group.hdf5": (images, r"observations is a group, of observations/image; .*: copy one of them to observations"),
    "d4rl.hdf5": (lambda p: write(p, without(d4rl(), "terminals")), r"of no layout .*\. Of D4RL it lacks terminals\."),
    "neorl.npz": (lambda p: np.savez(p, **without(neorl(), "index")), r"of no layout .*\. Of NeoRL it lacks index\."),
    "far.npz": (lambda p: np.savez(p, actions=np.zeros(3)), r"of no layout that is known; it holds actions\. Known are"),
    "nan.npz": (lambda p: exorl(p, 0, observation=np.full((6, 1), np.nan)), r"observation has values .*, first in row 0: mend"),
    "rewards.hdf5": (rewards, r"episode_10: rewards has values that are not finite, first in row 1: mend"),
    "bytes.hdf5": (bytes_among_floats, r"must be alike; of number 1 they are .*'uint8\[2\]'.* of the first .*'float32\[2\]'"),
    "rnd.zip": (archive, r"an archive of files, such as walker/rnd/.*npz, .*: unpack it, and give the folder"),
    "pairs.npz": (pairs, r"pairs of segments .* no episodes: in Python rlx.replay.datasets.load_pairs reads them"),
    "labels": (labels, r"pairs of segments .* no episodes: in Python rlx.replay.datasets.load_pairs reads them"),
    "table.csv": (lambda p: p.write_text("a,b\n1,2\n"), r"nor HDF5 nor a pickle\. .* of text such as \.csv save the columns"),
    "none.npz": (lambda p: p.write_bytes(b""), r"is empty, 0 bytes, as a failed download or a full disk leaves it"),
}


@pytest.mark.parametrize("name", MADE)
def test_the_remedy_is_said(name, tmp_path):
    make, message = MADE[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        replay.load(tmp_path / name)
