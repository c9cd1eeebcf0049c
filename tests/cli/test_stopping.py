"""How commands end: signals, closed pipes, terminals that lack letters, failed trials; and how they find what they began."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlx import agents
from rlx.cli import console, main, sweep
from rlx.cli import train as command
from rlx.train import Diverged, Interrupted, load, memory
from rlx.train import run_config as run_configs

PENDULUM = ["--env", "rlx:pendulum", "--preset", "debug", "--no-progress"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_of_training_is_one_line(number, code, capsys):
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}  # in the background SIGINT is ignored
    before = {s: signal.signal(s, handler) for s, handler in usual.items()}
    assert console.command(lambda argv: os.kill(os.getpid(), number), []) == code
    out, err = capsys.readouterr()
    assert "the same command goes on" in err and "Traceback" not in out + err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    for s, handler in before.items():
        signal.signal(s, handler)


def test_nobody_reads_and_letters_are_missing():
    """One process for both: its terminal knows ASCII alone, and its reader is gone after the first line."""
    body = "lambda argv: [print('Zürich', flush=True) for _ in range(100_000)]"
    code = f"import sys; from rlx.cli import console; sys.exit(console.command({body}, []))"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"Z\\xfcrich\n"
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/me")
    given = ["--run-dir=~/x", "~/y", "--run-dir", "~", "--grid", "agent.tau=0.1", "a~b", "--no-video"]
    seen: list[str] = []
    assert console.command(seen.extend, given) == 0
    assert seen == ["--run-dir=/somewhere/me/x", "/somewhere/me/y", "--run-dir", "/somewhere/me", *given[4:]]


@pytest.mark.parametrize(  # members that fit, at the start and when it goes on; of a sweep's trial the config is there before
    ("frees", "trial"), [((2.5, 1.5), False), ((2.5, 50.0), True), ((50.0, 2.5), False), ((50.0, 2.5), True)]
)
def test_waves_are_those_that_were_begun_whatever_is_free(frees, trial, tmp_path, monkeypatch, capsys):
    own = agents.config("sac")
    run_config = run_configs.RunConfig("sac", "rlx:pendulum", own)
    problem = run_config.problem()
    one, begun = sum(memory.needs(run_config.make(problem), problem).values()), []

    def stopped(agent, problem, key, run_dir, **more):
        begun.append((Path(run_dir).name, key.keys.shape[0]))
        (Path(run_dir) / "checkpoints").mkdir(exist_ok=True)
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(command, "run", stopped)
    kept = replace(run_config, seeds=4)
    run_configs.keep(kept, tmp_path / "run") if trial else None
    argv = ["train", "sac", "--env", "rlx:pendulum", "--no-progress", "--no-video", "--seeds", "4", "--waves", "auto"]
    for fits in frees:
        monkeypatch.setattr(memory, "free_memory", lambda fits=fits: int(fits * one / memory.SPARE))
        assert main([*argv, "--run-dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert begun[0] == begun[1] == (("wave0", 2) if frees[0] < 4 else ("run", 4))
    if begun[0][0] == "wave0":  # what its own config says is a part of the members
        wave = tmp_path / "run" / "wave0"
        argv = ["train", "--run-config", str(wave / "config.json"), "--no-progress", "--memory", "100", "--run-dir"]
        assert main([*argv, str(wave)]) == 0, capsys.readouterr().err
        assert begun[2] == ("wave0", 2) and run_configs.read(wave).part == (0, 2)
        with pytest.raises(ValueError, match=rf"no checkpoint yet. .*waves: give one of {wave}" if trial else f"of {wave}"):
            load(tmp_path / "run")


def test_a_sweep_whose_trials_fail_ends_with_code_1_and_names_them(tmp_path, monkeypatch, capsys):
    def diverges(*args):
        raise Diverged("critic/loss is not finite")

    monkeypatch.setattr(sweep, "train_waves", diverges)
    folder = tmp_path / "sweep"
    grid = ["--grid", "agent.hidden=8,16", "--run-dir", str(folder)]
    for name in ("hidden=8x8", "hidden=16x16"):
        (folder / "trials" / name).mkdir(parents=True)
    assert main(["sweep", "sac", *PENDULUM, *grid]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1].removeprefix("RESULT "))
    assert result["failed"] == ["hidden=16x16", "hidden=8x8"] and result["done"] == 0
    assert "no trial" in err and "not finite" in (folder / "trials" / "hidden=8x8" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_a_sweep_that_is_stopped_has_its_workers_save(terminal, tmp_path):
    """By SIGTERM, or by Ctrl-C, which a terminal sends to all processes of its group."""
    argv = ["sweep", "ppo", *PENDULUM, "--agent.env-steps", "100000000", "--grid", "agent.lr=1e-3,1e-4", "--seeds", "1"]
    argv += ["--workers", "local:1", "--checkpoint-seconds", "1000", "--run-dir", str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are told to ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "rlx", *argv],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("trials/*/metrics.jsonl")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT) if terminal else process.send_signal(signal.SIGTERM)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # and with it its workers
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1].removeprefix("RESULT "))["interrupted"] is True
    assert [p for p in tmp_path.glob("trials/*/checkpoints/*") if p.name.isdigit()], "the worker did not save"


def test_a_stream_without_letters_is_told_how_to_write_them(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    console.command(lambda argv: print("ü", file=sys.stderr), [])
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xfc\n"
