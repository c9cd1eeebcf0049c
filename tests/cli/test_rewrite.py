"""`rlx data convert` and `rlx data slice` of files that are larger than memory."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.cli import data as command
from rlx.cli import rewrite
from rlx.replay import datasets
from rlx.replay.datasets import found
from tests.replay.test_pieces import random_file, same


@pytest.fixture
def tight(monkeypatch):
    """Hardly any memory, and what reads a file as a whole fails."""

    def whole(*_):
        raise AssertionError("it is read as a whole")

    def set_in(small=True):
        monkeypatch.setattr(rewrite, "free_memory", lambda: 1000 if small else None)
        monkeypatch.setattr(found, "PIECE", 1500)
        monkeypatch.setattr(datasets, "load", whole if small else load)

    load = datasets.load
    return set_in


def test_a_file_larger_than_memory_is_converted_in_pieces(tmp_path, tight, monkeypatch):
    wide = np.random.default_rng(1).uniform(-3, 5, (80, 2))
    given = [str(random_file(tmp_path / "a.hdf5")), str(random_file(tmp_path / "b.hdf5", seed=1, actions=wide))]
    once, again = str(tmp_path / "once"), str(tmp_path / "again")
    option = ["--data-option", "bounds=data"]
    monkeypatch.setattr(rewrite, "BLOCK", 3)
    tight()
    assert command.main(["convert", *given, "--out", once, *option]) == 0
    assert command.main(["convert", once, "--out", again]) == 0  # of shards no row is read before it is written
    tight(False)
    wanted = replay.load(given, bounds="data")
    for path in (once, again):
        read = replay.load(path)
        np.testing.assert_array_equal(read.rows.action, wanted.rows.action)
        np.testing.assert_array_equal(read.rows.obs, wanted.rows.obs)
        np.testing.assert_array_equal(read.rows.info["qpos"], wanted.rows.info["qpos"])
        np.testing.assert_array_equal(read.offsets, wanted.offsets)
    assert replay.load(once).rows.action.min() == -1 and replay.load(given[0], bounds="data").rows.action.min() == -1


@pytest.mark.parametrize("words", [["--best", "--episodes", "4"], ["--shuffle", "3"], ["--shortest", "5", "--longest", "9"]])
@pytest.mark.parametrize("layout", ["D4RL", "rlx shards"])
def test_a_slice_of_a_file_larger_than_memory_is_that_of_one_that_fits(words, layout, tmp_path, tight):
    path = random_file(tmp_path / "a.hdf5")
    if layout != "D4RL":
        datasets.write(tmp_path / "shards", replay.load(path))
        path = tmp_path / "shards"
    for small in (True, False):
        tight(small)
        assert command.main(["slice", str(path), *words, "--out", str(tmp_path / f"small-{small}")]) == 0
    a, b = (replay.load(tmp_path / f"small-{small}") for small in (True, False))
    same(a, b)
    assert a.meta["slice_of"] == [path.name]


def test_a_large_file_that_turns_out_wrong_leaves_nothing(tmp_path, tight, capsys):
    path = random_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["infos/qvel"][79] = np.nan  # in the last piece
    tight()
    for words in (["convert"], ["slice", "--best"]):
        assert command.main([words[0], str(path), *words[1:], "--out", str(tmp_path / "out")]) == 2
        assert "a.hdf5: infos/qvel has values that are not finite, first in row 79" in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
