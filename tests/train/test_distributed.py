"""Two processes with two devices each, on loopback, as one job: the same members, one killed, the job started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import rlx
from rlx import agents
from rlx.cli import main
from rlx.envs import make
from rlx.train import processes
from rlx.train.plan import validate
from rlx.train.population import members
from rlx.types import Problem

SMALL = ["train", "sac", "--env", "rlx:pendulum", "--preset", "debug", "--seeds", "5", "--no-video", "--episodes", "1"]
# twenty updates: longer runs part from one another by rounding
SHORT = ["--agent.env-steps", "220", "--agent.eval-every", "10", "--checkpoint-cycles", "1"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def job(*args: str, count: int = 2) -> list[subprocess.Popen]:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {os.environ['XLA_FLAGS']}", "JAX_PLATFORMS": "cpu"}
    where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count), "--wait", "60"]
    start = lambda i: subprocess.Popen(
        [sys.executable, "-m", "rlx", *args, *where, "--process", str(i)],
        env={**os.environ, **flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return [start(i) for i in range(count)]


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def policies(run_dir: Path) -> list:
    return [rlx.load(run_dir, "last", member=m).state for m in range(5)]


def assert_same(a: list, b: list, exactly: bool) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0 if exactly else 5e-5, atol=0 if exactly else 5e-5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    first, second = [ended(p) for p in job(*SMALL, *SHORT, "--run-dir", str(folder))]
    assert first[0] == 0 and second[0] == 0, first[2][-3000:] + second[2][-3000:]
    assert "RESULT" in first[1] and "RESULT" not in second[1], "the first process alone speaks"
    return folder


@pytest.mark.slow
def test_the_job_gives_the_members_of_one_process(undisturbed, tmp_path, capsys):
    assert main([*SMALL, *SHORT, "--run-dir", str(tmp_path)]) == 0
    assert_same(policies(undisturbed), policies(tmp_path), exactly=False)
    lines = [[json.loads(x) for x in (d / "metrics.jsonl").read_text().splitlines()] for d in (undisturbed, tmp_path)]
    assert [x["cycle"] for x in lines[0]] == [x["cycle"] for x in lines[1]]
    assert all(len(x["env_steps"]) == 5 for x in lines[0])
    assert lines[0][-1]["env_steps"] == lines[1][-1]["env_steps"]
    result = json.loads((undisturbed / "result.json").read_text())
    assert result["members"] == 5 == len(result["each"])


@pytest.mark.slow
def test_one_process_is_killed_and_the_job_started_again(undisturbed, tmp_path):
    args = [*SMALL, *SHORT, "--run-dir", str(tmp_path)]
    both = job(*args)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    both[1].send_signal(signal.SIGKILL)
    code, _, err = ended(both[0])
    both[1].communicate()
    finished = (tmp_path / "result.json").exists()
    assert finished or (code != 0 and "another process of this job is gone" in err), (code, err[-2000:])
    again = [ended(p) for p in job(*args)]
    assert [a[0] for a in again] == [0, 0], again[0][2][-3000:] + again[1][2][-3000:]
    assert_same(policies(undisturbed), policies(tmp_path), exactly=True)


@pytest.mark.slow
def test_a_finished_job_is_read_in_one_process(undisturbed, capsys):
    """The checkpoint of four devices in two processes: the same command goes on here, and has nothing left to do."""
    before = policies(undisturbed)
    assert main([*SMALL, *SHORT, "--run-dir", str(undisturbed)]) == 0
    assert "goes on" in capsys.readouterr().out
    assert_same(before, policies(undisturbed), exactly=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "1", "--wait", "2"], "found no complete job at"),
        (["--coordinator", f"127.0.0.1:{free_port()}", *"--processes 2 --process 0 --wait 2".split()], "no complete job"),
        ([], "no cluster is recognised"),
    ],
    ids=["nobody there", "nobody comes", "unrecognised"],
)
def test_no_cluster(flags, says, tmp_path):
    command = [sys.executable, "-m", "rlx", *SMALL, "--run-dir", str(tmp_path / "run"), "--distributed", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--coordinator", "127.0.0.1:1"], "needs all of"),
        ("--coordinator 127.0.0.1:1 --processes 2 --process 2".split(), "counted from 0 to 1"),
    ],
    ids=["incomplete", "beyond"],
)
def test_jobs_that_cannot_be(flags, says, tmp_path, capsys):
    assert main([*SMALL, "--run-dir", str(tmp_path / "run"), "--distributed", *flags]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and not (tmp_path / "run").exists()


def test_host_environments_stay_in_one_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    problem = Problem({"train": make("dmc:cartpole-swingup")})
    agent = agents.make("sac", agents.config("sac"), problem)
    with pytest.raises(ValueError, match="device environments"):
        validate(agent, problem, members([(0, {}), (1, {})]))
    with pytest.raises(ValueError, match="--seeds"):
        validate(agent, problem, jax.random.key(0))
