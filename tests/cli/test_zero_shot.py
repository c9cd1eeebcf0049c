"""`rlx zero_shot`, from collecting and training on: what it finds, leaves and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlx.cli import main
from rlx.cli.zero_shot import _stacked

from .test_commands import result_of

ENV = ["--env", "rlx:pointmass-maze", "--time-limit", "20"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero_shot")
    data = str(folder / "maze.npz")
    uniform = ["--env-option", "starts=uniform"]
    assert main(["collect", *ENV, *uniform, "--mode", "random", "--steps", "600", "--out", data, "--no-progress"]) == 0
    more = ["--preset", "debug", "--run-dir", str(folder / "run"), "--no-progress", "--no-video"]
    assert main(["train", "td_jepa", *ENV, "--data", data, *more]) == 0
    return folder / "run"


def ask(run_dir, *more: str) -> int:
    return main(["zero_shot", "--run-dir", str(run_dir), "--preset", "debug", *more])


@pytest.mark.slow
def test_a_reward_is_answered(run_dir, capsys):
    assert ask(run_dir, "--reward", "exp(-norm(pos - [0.1, 0.1]) / 0.05)", "--video") == 0
    found = result_of(capsys.readouterr().out)
    assert 0 <= found["mean"] <= 1 and found["seconds"] < 1 and found["video"]
    z = json.loads((run_dir / "zero_shot" / "z.json").read_text())
    assert np.linalg.norm(z) == pytest.approx(2, rel=1e-5)
    assert json.loads((run_dir / "tasks.json").read_text())["features"] == "td_jepa"


@pytest.mark.slow
def test_a_goal_is_answered(run_dir, capsys):
    assert ask(run_dir, "--goal", "0.1, 0.1, 0, 0") == 0
    assert result_of(capsys.readouterr().out)["mean"] <= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "one of --reward and --goal"),
        (["--reward", "pos.shape"], "attributes are not allowed"),
        (["--reward", "norm(place)"], "no such quantity"),
        (["--reward", "x ** 99"], "a power is a number of at most 8"),
        (["--reward", "0 * x"], "all rewards are 0"),
        (["--reward", "1 / (0 * x)"], "rewards are not finite"),
        (["--goal", "0.1, 0.1"], "--goal has 2 numbers; an observation here has 4"),
        (["--goal", "left"], "give 4 numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_questions(run_dir, capsys, given, words):
    assert ask(run_dir, *given) == 2
    assert words in capsys.readouterr().err


def test_pictures_of_an_episode_lie_behind_those_before_them():
    pictures = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    assert _stacked(pictures, 3)[:, 0, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert _stacked(pictures, 1) is pictures
