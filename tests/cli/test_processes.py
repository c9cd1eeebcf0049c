"""Real processes: the scripts as a person starts them, asked to stop, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(*argv: str) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "experiments" / argv[0]), *argv[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes)  # type: ignore[call-overload]


def result_of(out: str) -> dict:
    return json.loads(out.rstrip("\n").splitlines()[-1].removeprefix("RESULT "))


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "run"
    argv = ["train.py", "sac", "--env", "rlx:pendulum", "--preset", "debug", "--no-video", "--run-dir", str(folder)]
    argv += ["--agent.env-steps", "1000000", "--checkpoint-seconds", "1000", "--log-every", "100"]
    process = start(*argv)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGTERM" in out and "same command" in out and f"--run-dir {folder}" in out
    assert result_of(out)["interrupted"] is True
    assert [p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    process = start(*argv)
    while len(metrics.read_text().splitlines()) <= len(lines) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "goes on from its last checkpoint" in out
    now = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert now[: len(lines)] == lines and now[len(lines)]["cycle"] > lines[-1]["cycle"]


@pytest.mark.slow
def test_killed_runs_end_bit_equal(tmp_path):
    process = start("reproduce/kill_resume.py", "--preset", "debug", "--run-dir", str(tmp_path / "kill"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    result = result_of(out)
    assert result["equal"] is True and result["kills"] == 3


def test_help_and_bad_input_from_a_shell():
    process = start("train.py", "sac", "--help")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "--agent." in out and "[traced]" in out and "--preset debug" in out
