"""`rlx data`: looking at files, rewriting, cutting and scoring them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.cli import data as command
from rlx.replay import datasets


def result(capsys):
    return json.loads(capsys.readouterr().out.rsplit("RESULT ", 1)[1])


@pytest.fixture
def hopper(tmp_path):
    """D4RL's layout: 3 episodes of 4, 2 and 3 steps, with returns 10, 11 and 24."""
    path, n = tmp_path / "hopper_medium-v2.hdf5", 9
    obs = np.random.default_rng(0).normal(size=(n + 1, 11)).astype("f4")
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = obs[:-1], obs[1:]
        file["actions"], file["rewards"] = np.zeros((n, 3), "f4"), np.arange(1, 10, dtype="f4")
        file["terminals"] = np.isin(np.arange(n), [3])
        file["timeouts"] = np.isin(np.arange(n), [5, 8])
    return str(path)


def test_info_says_what_is_there_and_draws_it(hopper, tmp_path, capsys):
    assert command.main(["info", hopper, "--out", str(tmp_path / "a.png"), "--env", "gym:Hopper-v4"]) == 0
    found = result(capsys)
    assert (found["format"], found["episodes"], found["transitions"]) == ("D4RL", 3, 9)
    assert (found["terminated"], found["truncated"], found["return_mean"]) == (1, 2, 15.0)
    assert found["score"] == pytest.approx(100 * (15 + 20.272305) / (3234.3 + 20.272305))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_convert_keeps_every_number_and_slice_takes_the_best(hopper, tmp_path, capsys):
    out = str(tmp_path / "shards")
    assert command.main(["convert", hopper, "--out", out, "--env", "gym:Hopper-v4"]) == 0
    a, b = replay.load(hopper), replay.load(out)
    np.testing.assert_array_equal(a.rows.obs, b.rows.obs)
    np.testing.assert_array_equal(a.rows.reward, b.rows.reward)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert b.meta["env"] == "gym:Hopper-v4" and b.meta["converted_from"] == ["hopper_medium-v2.hdf5"]
    assert command.main(["slice", out, "--best", "--episodes", "2", "--out", str(tmp_path / "best.npz")]) == 0
    assert replay.load(tmp_path / "best.npz").returns.tolist() == [24, 11]
    assert command.main(["slice", out, "--shortest", "3", "--longest", "3", "--out", str(tmp_path / "three.npz")]) == 0
    assert replay.load(tmp_path / "three.npz").lengths.tolist() == [3]
    capsys.readouterr()
    assert command.main(["score", out]) == 0
    assert result(capsys)["score_reference"] == "D4RL's hopper"


def test_references_of_ones_own(hopper, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    best = str(tmp_path / "best.npz")
    assert command.main(["slice", hopper, "--best", "--episodes", "1", "--out", best]) == 0
    assert command.main(["reference", hopper, "--of", "random", "--env", "rlx:mine"]) == 0
    assert command.main(["reference", best, "--of", "expert", "--env", "rlx:mine"]) == 0
    capsys.readouterr()
    assert command.main(["score", best, "--env", "rlx:mine"]) == 0
    assert result(capsys)["score"] == 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: rlx data"),
        (["inform"], "Did you mean 'info'"),
        (["info"], "which data"),
        (["info", "nowhere.hdf5"], "there is no dataset nowhere.hdf5"),
        (["convert", "HOPPER"], "where to"),
        (["score", "HOPPER"], "does not say which environment"),
        (["reference", "HOPPER"], "--of random"),
        (["slice", "HOPPER", "--out", "a.npz", "--longest", "1"], "no episode is left of 3, whose lengths are 2 to 4"),
        (["info", "HOPPER", "--data-option", "horizn=3"], "horizn"),
        (["info", "HOPPER", "--data-option", "format=D4RM"], "unknown format 'D4RM'.*D4RL"),
    ],
)
def test_wrong_words_are_one_message(hopper, words, message, capsys, monkeypatch, tmp_path):
    import re

    monkeypatch.chdir(tmp_path)
    assert command.main([hopper if w == "HOPPER" else w for w in words]) == 2
    said = capsys.readouterr()
    assert re.search(message, said.out + said.err) and "Traceback" not in said.err


KILLED = """
import sys, time
from rlx.replay.datasets import native
slow = native.Writer._shard
def shard(self, rows):
    slow(self, rows)
    print("shard", flush=True)
    time.sleep(0.2)
native.Writer._shard = shard
from rlx.cli import data
data.BLOCK = 1
data.main(["convert", sys.argv[1], "--out", sys.argv[2]])
"""


def test_a_conversion_that_was_killed_leaves_nothing_that_reads_as_whole(hopper, tmp_path, capsys):
    out = tmp_path / "shards"
    child = subprocess.Popen([sys.executable, "-c", KILLED, hopper, str(out)], stdout=subprocess.PIPE, text=True)
    while "shard" not in child.stdout.readline():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists()
    with pytest.raises(ValueError, match="not complete"):
        datasets.read(tmp_path / ".shards.part")
    assert command.main(["convert", hopper, "--out", str(out)]) == 0
    assert len(replay.load(out)) == 3 and not (tmp_path / ".shards.part").exists()
