"""`rlx pref transfer`, and training on the labels that it wrote."""

from __future__ import annotations

import numpy as np
import pytest

import rlx.envs
from rlx import replay
from rlx.cli import main
from rlx.preferences import pairs
from tests.agents.pearl.test_pearl import graded

from .test_commands import result_of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pref")
    env = rlx.envs.make("rlx:point-mass")
    for name, seed, rot in (("a", 0, 0.0), ("b", 1, 1.1)):
        replay.datasets.write(folder / f"{name}.npz", replay.export(graded(env, seed, rot)[0]))
    return folder


def transfer(files, *more: str) -> int:
    given = ["--source", str(files / "a.npz"), "--target", str(files / "b.npz"), "--out", str(files / "labels.npz")]
    return main(["pref", "transfer", *given, "--features", "flat_s", *more])


def test_labels_are_written_and_measured(files, capsys):
    assert transfer(files) == 0
    found = result_of(capsys.readouterr().out)
    assert found["accuracy"] > 0.65 and found["accuracy_nearest"] < found["accuracy"] and not found["degenerate"]
    made = pairs.read(files / "labels.npz")
    assert len(made.label) == found["pairs"] == 30 * 29 // 2
    assert (files / "labels.png").read_bytes().startswith(b"\x89PNG")
    # a part of the source's pairs says it too
    pairs.write(files / "some.npz", pairs.read(files / "labels.npz")._replace(label=np.float32(made.label > 0.5)))
    assert transfer(files, "--source-labels", str(files / "some.npz"), "--pairs", "50") == 0
    assert result_of(capsys.readouterr().out)["pairs"] <= 50


def test_what_is_read_and_what_people_have_said_is_not_written_over(files, tmp_path, capsys):
    said = pairs.preferences([[0], [1]], [1], 5, source="human")
    for name in ("labels.npz", "answers.npz"):
        pairs.write(tmp_path / name, said)
    out = str(tmp_path / "labels.npz")
    for more, words in (
        (["--source-labels", out, "--out", out], "is one of the files to read"),
        (["--out", str(tmp_path / "answers.npz")], "holds answers of people"),
    ):
        assert transfer(files, *more) == 2 and words in capsys.readouterr().err
    assert all(pairs.read(tmp_path / name).source.tolist() == said.source.tolist() for name in ("labels.npz", "answers.npz"))


def test_sources_vote(files, capsys):
    """The target itself is the second source, whose cost is the least."""
    assert transfer(files, "--source", str(files / "b.npz")) == 0
    found = result_of(capsys.readouterr().out)
    assert found["votes"][1] > found["votes"][0] > 0 and found["costs"][1] < found["costs"][0]
    assert found["accuracies"][1] > 0.9 and len(found["accuracies"]) == 2 and sum(found["votes"]) == pytest.approx(1)
    assert found["accuracies"][0] < found["accuracy"] and found["pairs"] == 30 * 29 // 2


@pytest.mark.slow
def test_training_goes_by_a_source(files, capsys):
    """Two seeds, each with labels, a reward and an overlay of its own."""
    common = ["--env", "rlx:point-mass", "--time-limit", "5", "--data", str(files / "b.npz"), "--preset", "debug", "--no-video"]
    more = ["--agent.source", str(files / "a.npz"), "--seeds", "2", "--run-dir", str(files / "run"), "--no-progress"]
    assert main(["train", "pearl", *common, *more]) == 0
    assert result_of(capsys.readouterr().out)["updates"] == 2 * 200
    assert (files / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--out", "labels.csv"], "ends in .npz"),
        (["--source", ""], "Give both"),
        (["--source-labels", "some.npz", "--source-labels", "more.npz"], "there are 1 of --source and 2 of --source-labels"),
        (["--vote-tau", "0"], "--vote-tau must be above 0"),
        (["--target", "nowhere.npz"], "nowhere.npz"),
        (["--features", "flat"], "unknown features 'flat'"),
    ],
)
def test_bad_requests_are_named(files, capsys, more, words):
    assert transfer(files, *more) == 2
    assert words in capsys.readouterr().err
