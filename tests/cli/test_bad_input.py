"""Bad input: one clear message on stderr, exit code 2, no traceback, and nothing lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

from rlx.cli import main

DEBUG = ["--preset", "debug", "--no-progress", "--no-video"]
PENDULUM = ["--env", "rlx:pendulum"]


def refused(capsys, *argv: str) -> str:
    """The message with which the command is refused."""
    capsys.readouterr()
    code = main(list(argv))
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert "Traceback" not in captured.err + captured.out
    assert "RESULT" not in captured.out
    assert captured.err.count("error: ") + captured.err.count("For full helptext") == 1, captured.err
    return captured.err


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "run"
    assert main(["train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "'train'"),
        (["train", "sax", *PENDULUM], "'sac'"),
        (["train", "--env", "rlx:pendulum", "sac"], "agent comes first"),
        (["train", "sac"], "--env"),
        (["train", "--recipe", "runs/x/config.json"], "now called --run-config"),
        (["train", "sac", "--env", "rlx:pendulun"], "rlx:pendulum"),
        (["train", "sac", "--env", "dmc:walker-wlak"], "walker-walk"),
        (["train", "sac", "--env", "nowhere:walker"], "dmc:"),
        (["train", "sac", *PENDULUM, "--preset", "debgu"], "'debug'"),
        (["train", "sac", *PENDULUM, "--sede", "1"], "--seed"),
        (["train", "sac", *PENDULUM, "--seed", "one"], "seed"),
        (["train", "sac", *PENDULUM, "--agent.actor-lrr", "1"], "--agent.actor-lr"),
        (["train", "sac", *PENDULUM, "--seeds", "0"], "--seeds must be at least 1"),
        (["train", "sac", *PENDULUM, "--seeds", "9" * 26], "--seeds must be"),
        (["train", "sac", *PENDULUM, "--seed", "9" * 26], "--seed must be"),
        (["train", "sac", *PENDULUM, "--seed", "18446744073709551616"], "at most 18_446_744_073_709_551_615"),
        (["train", "sac", *PENDULUM, "--seed", "18446744073709551615", "--seeds", "2"], "begin lower"),
        (["sweep", "sac", *PENDULUM, "--grid", "agent.tau=0.1,0.2", "--seed", "-1"], "--seed must be at least 0"),
        (["train", "sac", *PENDULUM, "--grid", "agent.tau=0.001,0.001"], "a run and its copy count as one"),
        (["train", "sac", *PENDULUM, "--grid", "agent.tau=0.1", "--grid", "agent.tau=0.2"], "given twice"),
        (["evaluate", "--seed", "-1"], "--seed must be at least 0"),
        (["collect", "--seed", "18446744073709551616"], "at most 18_446_744_073_709_551_615"),
        (["train", "sac", *PENDULUM, "--time-limit", "9" * 26], "--time-limit must be"),
        (["train", "sac", *PENDULUM, "--memory", "inf"], "--memory must be finite and above 0"),
        (["train", "sac", *PENDULUM, "--agent.tau", "nan"], "--agent.tau must be finite"),
        (["sweep", "sac", *PENDULUM, "--grid", "agent.tau=0.1,0.2", "--search", "random:" + "9" * 26], "random:N"),
        (
            ["sweep", "sac", *PENDULUM, "--grid", "agent.tau=0.1,0.2", "--workers", "ray:here:" + "9" * 20],
            "no address of a Ray",
        ),
        (["evaluate"], "--run-dir"),
        (["evaluate", "--run-dir", "nowhere"], "no run folder"),
        (["evaluate", "--run-dir", "nowhere", "--which", "worst"], "best"),
        (["collect", "--steps", "5", "--out", "x.npz"], "--run-dir"),
        (["collect", *PENDULUM, "--mode", "eval", "--out", "x.npz"], "--run-dir"),
        (["collect", "--run-dir", "x", "--repeat", "2", "--out", "x.npz"], "--repeat is that of the run in x: leave it out"),
        (["collect", *PENDULUM, "--part", "./x:9", "--time-limit", "9", "--out", "x.npz"], "--time-limit is that of the run"),
        (["train", "sac", *PENDULUM, "--process", "0", "--processes", "2"], "--processes, --process without --distributed"),
        (["report"], "run folder"),
        (["report", "nowhere"], "nowhere"),
    ],
    ids=lambda value: "-".join(value).replace("/", "_") if isinstance(value, list) else "",
)
def test_typing_errors(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *argv)
    assert not list(tmp_path.rglob("*")), "a refused command leaves nothing behind"


class Bad(gymnasium.Env):
    """A pendulum's shapes; after 40 steps what it observes is not a number."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        value = np.nan if self.t > 40 else 0.1 * self.t
        return np.full(3, value, np.float32), 0.0, False, False, {}


@pytest.fixture
def bad_env():
    gymnasium.register("RlxBad-v0", entry_point=Bad, max_episode_steps=50)
    yield "gym:RlxBad-v0"
    gymnasium.registry.pop("RlxBad-v0")


def test_nan_observation_stops_the_run_and_names_where(bad_env, tmp_path, capsys):
    message = refused(capsys, "train", "sac", "--env", bad_env, *DEBUG, "--run-dir", str(tmp_path / "run"))
    assert "not finite" in message and bad_env in message and "checkpoint" in message


@pytest.mark.slow
def test_a_policy_for_other_shapes(run_dir, capsys):
    before = contents(run_dir)
    message = refused(capsys, "evaluate", "--run-dir", str(run_dir), "--env", "dmc:cartpole-swingup")
    assert "rlx:pendulum" in message and "dmc:cartpole-swingup" in message and "shape" in message
    assert contents(run_dir) == before


def test_actions_of_another_shape(tmp_path, capsys, monkeypatch):
    """An agent whose actions do not fit is refused before anything runs."""
    import dataclasses

    from rlx import agents

    make = agents.make

    def wrong(*args, **more):
        agent = make(*args, **more)
        twice = lambda *a: (np.repeat(1, 2)[None] * agent.act(*a)[0], *agent.act(*a)[1:])
        return dataclasses.replace(agent, act=twice)

    monkeypatch.setattr(agents, "make", wrong)
    message = refused(capsys, "train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(tmp_path / "run"))
    assert "(1, 2)" in message and "(1, 1)" in message and "rlx:pendulum" in message


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_names_what_differs(run_dir, capsys):
    before = contents(run_dir)
    message = refused(capsys, "train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(run_dir), "--seed", "5")
    assert "seed: 0, not 5" in message
    message = refused(capsys, "train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(run_dir), "--agent.actor-lr", "0.5")
    assert "actor_lr" in message and "0.5" in message and "seed" not in message
    assert contents(run_dir) == before


def test_options_that_only_watch_may_differ(run_dir, capsys):
    argv = ["train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(run_dir), "--log-every", "7", "--keep", "3"]
    assert main(argv) == 0


def test_a_run_of_another_agent(run_dir, capsys):
    before = contents(run_dir)
    message = refused(capsys, "train", "td3", *PENDULUM, *DEBUG, "--run-dir", str(run_dir))
    assert "'sac'" in message and "'td3'" in message
    assert contents(run_dir) == before


def test_a_checkpoint_of_another_agent(run_dir, tmp_path, capsys):
    """The folder's config says td3, its checkpoints are sac's."""
    import shutil

    from rlx import agents
    from rlx.train.run_config import RunConfig

    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "config.json").write_text(RunConfig("td3", "rlx:pendulum", agents.config("td3")).to_json())
    before = contents(other)
    message = refused(capsys, "evaluate", "--run-dir", str(other))
    assert "'sac'" in message and "'td3'" in message
    message = refused(capsys, "train", "td3", *PENDULUM, "--no-progress", "--no-video", "--run-dir", str(other))
    assert "'sac'" in message and "'td3'" in message
    assert contents(other) == before


def test_a_run_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    message = refused(capsys, "train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(tmp_path / "file" / "run"))
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_damaged_config(run_dir, tmp_path, capsys):
    (tmp_path / "config.json").write_text((run_dir / "config.json").read_text()[:40])
    assert "config.json" in refused(capsys, "evaluate", "--run-dir", str(tmp_path))
    tree = json.loads((run_dir / "config.json").read_text())
    tree["config"]["no_such_field"] = 1
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert "no_such_field" in refused(capsys, "evaluate", "--run-dir", str(tmp_path))


def test_a_run_folder_of_an_older_layout(run_dir, tmp_path, capsys):
    """As rlx 0.1 wrote it: another version in the config, another field. One message, and nothing is touched."""
    import shutil

    import rlx
    from rlx import agents, config
    from rlx.train import run
    from rlx.types import Problem

    old = tmp_path / "old"
    shutil.copytree(run_dir, old)
    tree = json.loads((old / "config.json").read_text())
    tree["versions"]["rlx"] = "0.1.0"
    tree["config"]["no_longer_there"] = 1
    (old / "config.json").write_text(json.dumps(tree))
    before = contents(old)
    for argv in (
        ["train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(old)],
        ["train", "--run-config", str(old / "config.json"), "--run-dir", str(tmp_path / "new")],
        ["evaluate", "--run-dir", str(old)],
        ["export", "--run-dir", str(old), "--out", str(tmp_path / "out")],
    ):
        message = refused(capsys, *argv)
        assert "was written by rlx 0.1.0" in message and f"this is rlx {rlx.__version__}" in message
    with pytest.raises(ValueError, match=r"was written by rlx 0\.1\.0.*train again in another run folder"):
        rlx.load(old)
    assert contents(old) == before

    # a folder that `rlx.train.run` wrote has checkpoints alone
    (newest,) = sorted((old / "checkpoints").iterdir())[-1:]
    tree = json.loads((newest / "meta.json").read_text())
    del tree["rlx"]
    meta = json.dumps(tree).encode()
    (newest / "meta.json").write_bytes(meta)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["meta.json"] = [len(meta), hashlib.blake2b(meta).hexdigest()]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    problem = Problem({"train": rlx.envs.make("rlx:pendulum")})
    agent = agents.make("sac", config.replace(agents.config("sac"), agents.presets("sac")["debug"]), problem)
    with pytest.raises(ValueError, match=r"old was written by an rlx before 0\.2"):
        run(agent, problem, jax.random.key(0), old)


def test_a_sweep_folder_of_an_older_layout(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text(json.dumps({"recipe": {}, "points": [], "together": True}))
    argv = ["sweep", "sac", *PENDULUM, "--grid", "actor_lr=1e-3,3e-4", "--preset", "debug", "--run-dir", str(tmp_path)]
    assert "was written by an rlx before 0.2" in refused(capsys, *argv)


def test_datasets(run_dir, tmp_path, capsys):
    """Refused: none there, not one, with a missing key, with unequal lengths; and one for an agent that takes none."""
    good = tmp_path / "good.npz"
    assert main(["collect", "--run-dir", str(run_dir), "--steps", "50", "--streams", "1", "--out", str(good)]) == 0
    arrays = dict(np.load(good))
    bad = {"lacking": {k: v for k, v in arrays.items() if k != "action"}, "uneven": {**arrays, "action": arrays["action"][:-1]}}
    for name, content in bad.items():
        np.savez(tmp_path / f"{name}.npz", **content)
    (tmp_path / "text.npz").write_text("no archive")
    says = {"nowhere": "no dataset", "text": "text.npz", "lacking": "action", "uneven": "length", "good": "does not learn from"}
    for name, word in says.items():
        argv = ["train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(tmp_path / "new"), "--data", str(tmp_path / f"{name}.npz")]
        assert word in refused(capsys, *argv)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB, which a debug run fills."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs rights that this user lacks")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_full_disk(small_disk, capfd):
    argv = ["train", "sac", *PENDULUM, *DEBUG, "--run-dir", str(small_disk / "run"), "--agent.hidden", "256", "256"]
    message = refused(capfd, *argv)
    assert "full" in message or os.strerror(errno.ENOSPC) in message
    config = json.loads((small_disk / "run" / "config.json").read_text())
    assert config["agent"] == "sac"


def test_full_disk_for_a_dataset(run_dir, tmp_path, capsys):
    """Where no file system can be mounted: a device that is always full."""
    out = tmp_path / "data.npz"
    out.mkdir()
    message = refused(capsys, "collect", "--run-dir", str(run_dir), "--steps", "50", "--out", str(out))
    assert str(out) in message


def test_debug_shows_where(run_dir, capsys):
    argv = ["evaluate", "--run-dir", str(run_dir), "--env", "dmc:cartpole-swingup", "--debug"]
    assert main(argv) == 2
    assert "Traceback" in capsys.readouterr().err
