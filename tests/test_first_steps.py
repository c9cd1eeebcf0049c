"""`docs/first_steps.md` as a newcomer follows it: its files are written, its commands and lines run, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlx.train import logging

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first_steps.md"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of code; the installation has no language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


DRIVER = """
import sys, json
from rlx.cli import main
for argv, code in json.load(sys.stdin):
    print(argv or code, flush=True)
    exec(code, {}) if code else None
    assert not argv or main(argv) == 0
"""


@pytest.mark.slow
def test_every_step_runs_in_order(tmp_path):
    """In one process, which saves the imports of a dozen; `tests/test_plugins.py` starts fresh ones."""
    steps: list[tuple[list[str], str]] = []
    for language, text in blocks():
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            (tmp_path / name[1]).write_text(text)
        elif language == "python":
            steps.append(([], text))
        else:
            for line in text.replace("\\\n", " ").splitlines():
                program, *argv = shlex.split(line)
                assert program == "rlx" or argv[0] == "-c"
                quick = ["--no-video"] if argv[0] == "train" and "--help" not in argv else []  # films take longer than runs
                steps.append(([*argv, *quick], "") if program == "rlx" else ([], argv[1]))
    assert len(steps) >= 9
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER]
    done = subprocess.run(command, input=json.dumps(steps), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs/scaled/export/policy.c").is_file() and (tmp_path / "runs/report").is_dir()
    for name, members in (("first", 1), ("mine", 1), ("scaled", 4)):
        assert_returns_are_logged(tmp_path / "runs" / name, members)
    learning = [line for line in logging.read(tmp_path / "runs/scaled") if line["kind"] == "train" and np.all(line["updates"])]
    rewards = np.array([line["batch/reward"] for line in learning])  # the page's metric, in each line that tells of updates
    assert rewards.shape == (40, 4) and np.isfinite(rewards).all() and (rewards < 0).all()


def assert_returns_are_logged(run_dir: Path, members: int) -> None:
    """Of 598 decisions of each member: two evaluations of two episodes, two whole episodes of 200 decisions while training, and
    the result. Rewards are costs here: of the pendulum 16.28 a decision at most, pi^2 + 0.1 8^2 + 0.001 2^2."""
    lines, result = logging.read(run_dir), json.loads((run_dir / "result.json").read_text())
    evaluated = np.array([np.reshape(line["returns"], (members, 2)) for line in lines if line["kind"] == "eval"])
    trained = np.array([np.ravel(line["episode_return"]) for line in lines if "episode_return" in line])
    each = np.array([member["return_mean"] for member in result["each"]])
    assert evaluated.shape == (2, members, 2) and trained.shape == (2, members) and each.shape == (members,)
    for returns in (evaluated, trained, each):
        assert np.isfinite(returns).all() and (returns < 0).all()
        assert result["env"] != "rlx:pendulum" or (returns >= 200 * -16.28).all()
    assert result["return_mean"] == pytest.approx(each.mean()) and result["diverged"] == 0
