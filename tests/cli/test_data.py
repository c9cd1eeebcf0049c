"""`rlx data`: looking at files, rewriting, cutting and scoring them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref

import h5py
import numpy as np
import pytest

from rlx import replay
from rlx.cli import data as command
from rlx.cli import rewrite
from rlx.replay import datasets
from rlx.replay.datasets import pieces


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
from rlx.cli import data, rewrite
rewrite.BLOCK = 1
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


def rollouts(path, lengths, name="rlx:pendulum", pay=1.0, **meta):
    """An .npz as `rlx collect` writes it: each step pays ``pay``, and no episode ends in a terminal state."""
    rows = []
    for n in lengths:
        obs, reward = np.zeros((n + 1, 3), "f4"), np.r_[0, np.full(n, pay)].astype("f4")
        rows.append({"obs": obs, "action": np.zeros((n + 1, 1), "f4"), "reward": reward, "terminated": np.zeros(n + 1, bool)})
    datasets.write(path, rows, {"env": name, "env_options": {}, "repeat": 1, **meta})
    return str(path)


def test_episodes_that_were_cut_before_the_time_limit_are_no_returns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    monkeypatch.chdir(tmp_path)
    path = rollouts(tmp_path / "a.npz", [200, 150, 200], time_limit=200)  # of pendulum as it is
    assert command.main(["info", path]) == 0
    said = capsys.readouterr().out
    assert json.loads(said.rsplit("RESULT ", 1)[1])["return_mean"] == 200 and "2, mean return 200" in said
    assert command.main(["reference", path, "--of", "random"]) == 0
    assert result(capsys)["random"] == 200
    best = rollouts(tmp_path / "best.npz", [200], pay=3.0, time_limit=200)
    assert command.main(["reference", best, "--of", "expert"]) == 0
    capsys.readouterr()
    some = rollouts(tmp_path / "some.npz", [200, 30], pay=2.0, time_limit=200)
    assert command.main(["score", some]) == 0
    found = result(capsys)
    assert (found["return_mean"], found["score"], found["episodes"]) == (400, 50, 1)
    pieces = rollouts(tmp_path / "pieces.npz", [150, 150], time_limit=200)
    assert command.main(["info", pieces]) == 0 and result(capsys)["return_mean"] is None
    assert command.main(["reference", pieces, "--of", "random"]) == 2
    assert "none of 2 episodes is whole" in capsys.readouterr().err


def test_references_hold_for_the_time_limit_and_options_of_the_environment_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    monkeypatch.chdir(tmp_path)
    for of, pay in (("random", 1.0), ("expert", 3.0)):
        path = rollouts(tmp_path / f"{of}.npz", [200], pay=pay, time_limit=200)
        assert command.main(["reference", path, "--of", of]) == 0
    short = rollouts(tmp_path / "short.npz", [10, 10], time_limit=10)
    other = rollouts(tmp_path / "other.npz", [200], time_limit=200, env_options={"gravity": 1})
    joined = rollouts(tmp_path / "full.npz", [200], time_limit=200), short
    for files in ([short], [other], joined):
        capsys.readouterr()
        assert command.main(["info", *files]) == 0 and result(capsys)["score"] is None
        assert command.main(["score", *files]) == 2
        assert "do not hold for this data's time limit or options" in capsys.readouterr().err
        assert command.main(["reference", *files, "--of", "random"]) == 2
    for of in ("random", "expert"):  # of a name of one's own it is the user who knows
        path = short if of == "random" else rollouts(tmp_path / "good.npz", [10], pay=2.0, time_limit=10)
        assert command.main(["reference", path, "--of", of, "--env", "mine:short"]) == 0
    capsys.readouterr()
    assert command.main(["score", short, "--env", "mine:short"]) == 0 and result(capsys)["score"] == 0


def test_conversion_holds_one_file_at_a_time(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(4):
        rollouts(folder / f"{i}.npz", [3 + i], pay=i, time_limit=9, seed=i)
    loaded = []

    def watched(source, options):
        assert not [ref for ref in loaded[:-1] if ref() is not None]  # the last one may be what is handed on
        data = load(source, options)
        loaded.append(weakref.ref(data))
        return data

    load = pieces.load_one
    monkeypatch.setattr(pieces, "load_one", watched)
    assert command.main(["convert", str(folder), "--out", str(tmp_path / "all"), "--data-option", "episodes=3"]) == 0
    assert len(loaded) == 3 and result(capsys)["transitions"] == 12
    found, wanted = replay.load(tmp_path / "all"), replay.load(folder, episodes=3)
    np.testing.assert_array_equal(found.rows.reward, wanted.rows.reward)
    np.testing.assert_array_equal(found.offsets, [0, 4, 9, 15])
    assert found.meta["env"] == "rlx:pendulum" and "seed" not in found.meta and len(found.notes) == 1
    monkeypatch.setattr(pieces, "load_one", None)  # shards are not read as a whole
    assert command.main(["convert", str(tmp_path / "all"), "--out", str(tmp_path / "again")]) == 0
    np.testing.assert_array_equal(replay.load(tmp_path / "again").rows.reward, wanted.rows.reward)


def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(hopper, tmp_path, capsys, monkeypatch):
    out, packed = str(tmp_path / "shards"), rollouts(tmp_path / "a.npz", [3, 4])
    monkeypatch.setattr(rewrite, "free_memory", lambda: 100)
    for action in ("convert", "slice"):
        assert command.main([action, packed, "--out", out]) == 2
        said = capsys.readouterr().err
        assert "a.npz is read as a whole, as the columns of an .npz may be compressed" in said and "episodes=N" in said
    assert command.main(["convert", packed, "--out", out, "--data-option", "episodes=1"]) == 0
    assert command.main(["convert", packed, "--out", out + "2", "--data-option", "episodes=1", "--data-option", "keys=a"]) == 2
    for action in ("convert", "slice"):
        assert command.main([action, hopper, "--out", out + ".npz"]) == 2
        assert "one file, written at once" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_nothing_is_written_over_what_is_read(tmp_path, capsys):
    folder = tmp_path / "files"
    folder.mkdir()
    path = rollouts(folder / "a.npz", [3, 4])
    before, link = (folder / "a.npz").read_bytes(), tmp_path / "link.npz"
    link.symlink_to(path)
    for words in (
        ["slice", path, "--episodes", "1", "--out", path],
        ["slice", path, "--episodes", "1", "--out", str(link)],
        ["convert", str(folder), "--out", path],
        ["slice", str(folder / "*"), "--episodes", "1", "--out", path],
        ["info", path, "--out", path],
    ):
        assert command.main(words) == 2 and "is what this command reads" in capsys.readouterr().err
        assert (folder / "a.npz").read_bytes() == before
    named = tmp_path / "b.png"  # what a file is is not seen from its name
    named.write_bytes(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert command.main(["info", "b.png"]) == 2 and named.read_bytes() == before


def test_the_table_stands_where_the_picture_cannot(tmp_path, capsys, monkeypatch):
    rollouts(tmp_path / "a.npz", [3, 4])
    monkeypatch.chdir(tmp_path)
    assert command.main(["info", "*.npz"]) == 0 and result(capsys)["picture"] == "data.png"
    (tmp_path / "runs").mkdir()
    rollouts(tmp_path / "runs" / "b.npz", [3])
    assert command.main(["info", str(tmp_path / "runs" / "*.n?z")]) == 0 and result(capsys)["picture"] == "runs.png"
    (tmp_path / "a.png").mkdir()  # nothing can be written there
    assert command.main(["info", "a.npz"]) == 0
    said = capsys.readouterr()
    assert "picture a.png cannot be written" in said.err and json.loads(said.out.rsplit("RESULT ", 1)[1])["picture"] is None
    assert command.main(["info", "a.npz", "--out", "nowhere/a.png"]) == 2
    said = capsys.readouterr()
    assert "length of an episode" in said.out and "picture nowhere/a.png cannot be written" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "--out", "cv", "--episodes", "3"], "--episodes .* rlx data slice.* --data-option episodes=N"),
        (["convert", "--out", "cv", "--best"], "--best does nothing in rlx data convert, it is for rlx data slice"),
        (["info", "--horizon", "10"], "rlx data score --model.* --data-option horizon=STEPS"),
        (["score", "--out", "a.png"], "--out does nothing in rlx data score without --model"),
        (["score", "--member", "1"], "--member does nothing in rlx data score without --model"),
        (["reference", "--of", "random", "--out", "a.npz"], "--out does nothing in rlx data reference"),
        (["slice", "--out", "a.npz", "--of", "expert"], "--of does nothing in rlx data slice, it is for rlx data reference"),
    ],
)
def test_flags_of_other_actions_are_refused(words, message, hopper, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert command.main([words[0], hopper, *words[1:]]) == 2
    assert re.search(message, capsys.readouterr().err) and sorted(tmp_path.iterdir()) == before


def test_options_of_readers_are_said_as_flags(hopper, capsys):
    with h5py.File(hopper, "a") as file:
        file["actions"][4] = 3
    assert command.main(["info", hopper]) == 2
    assert capsys.readouterr().err.rstrip().endswith("On the command line: --data-option bounds=LOW,HIGH.")
    assert command.main(["info", hopper, "--data-option", "bounds=-2,2"]) == 2
    assert "On the command line" not in capsys.readouterr().err
