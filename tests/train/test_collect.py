"""Behaviours that data is collected with, and what a run's replay gives."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.cli import collect as collect_command
from rlx.cli import main
from rlx.envs.rewards import reward_of
from rlx.replay import datasets
from rlx.train.collect import Behaviour, acting, alike, collect, ornstein_uhlenbeck, random, replay_of, summary
from rlx.train.policy import Policy
from rlx.types import Leaf, Problem, Spec, Step


def test_runs_of_one_environment_that_was_made_differently_are_not_mixed(capsys):
    made = lambda **options: SimpleNamespace(
        problem=Problem({"train": rlx.envs.make("rlx:pendulum", **options)}), run_config=SimpleNamespace(env_options={})
    )
    env = lambda **policies: collect_command._env(collect_command.Flags(), [], policies)
    assert env(a=made(repeat=2), b=made(repeat=2)).spec.repeat == 2
    with pytest.raises(SystemExit):
        env(a=made(repeat=2), b=made(repeat=4))
    assert "rlx:pendulum (repeat 2, time limit 100) and rlx:pendulum (repeat 4" in capsys.readouterr().err


SPEC = Spec(Leaf((2,)), Leaf((1,), low=-1, high=1))


def step_of(first) -> Step:
    n = len(first)
    return Step(np.zeros((n, 2), np.float32), np.zeros(n, np.float32), *np.zeros((2, n), bool), np.array(first), {})


def test_ornstein_uhlenbeck_is_its_recurrence_and_begins_anew():
    behaviour = ornstein_uhlenbeck(SPEC, theta=0.15, sigma=0.5)
    carry, mine = behaviour.begin(2), np.zeros((2, 1))
    for t in range(30):
        key, first = jax.random.key(t), np.array([t == 0, t in (0, 12)])
        action, carry, _ = behaviour.act(carry, step_of(first), key)
        mine = np.where(first[:, None], 0, mine)
        mine = mine - 0.15 * mine + 0.5 * np.asarray(jax.random.normal(key, (2, 1)), np.float64)
        np.testing.assert_allclose(action, np.clip(mine, -1, 1), atol=1e-5)
    assert np.abs(mine).max() > 0.1


def test_ornstein_uhlenbeck_spreads_as_said():
    behaviour, n, sigma = ornstein_uhlenbeck(SPEC, 0.15, 0.05), 4000, 0.05
    carry = behaviour.begin(n)
    for t in range(40):
        action, carry, _ = behaviour.act(carry, step_of(np.full(n, t == 0)), jax.random.key(t))
    assert np.std(action) == pytest.approx(sigma / np.sqrt(2 * 0.15 - 0.15**2), rel=0.05)


def test_noise_needs_numbers():
    with pytest.raises(ValueError, match="choices"):
        ornstein_uhlenbeck(Spec(Leaf((2,)), Leaf((), np.int32, low=0, high=2)))
    with pytest.raises(ValueError, match="theta between"):
        ornstein_uhlenbeck(SPEC, theta=0)


@pytest.fixture(scope="module")
def policy() -> Policy:
    problem = Problem({"train": rlx.envs.make("rlx:pendulum", time_limit=4)})
    agent = agents.make("sac", problem=problem, **agents.presets("sac")["debug"])
    return Policy(agent, agent.init(jax.random.key(0), agent.hyper), problem)


def test_a_share_of_episodes_is_sampled_and_all_others_follow_the_mean(policy):
    env = policy.problem.envs["train"]
    episodes = collect(acting(policy, sampled=0.25), env, 2 * 10 * 4, streams=2)
    assert {len(e.reward) for e in episodes} == {5}
    mean = jax.jit(lambda step: policy.actor("eval")((), step, jax.random.key(0))[0])
    follows = []
    for e in episodes:
        step = Step(e.obs, e.reward, e.terminated, e.truncated, e.first, {})
        follows.append(bool(np.allclose(np.asarray(mean(step))[:-1], e.action[:-1], atol=1e-5)))
    # streams take turns: episodes 0, 2, 4, ... are the first stream's, 1, 3, 5, ... the second's
    by_number = np.array(follows).reshape(2, -1).T.ravel()
    np.testing.assert_array_equal(by_number, (np.arange(len(follows)) + 1) % 4 != 0)


def test_a_share_of_actions_is_sampled(policy):
    behaviour, n = acting(policy, sampled=0.2, each="step"), 4000
    step = step_of(np.ones(n))._replace(obs=np.zeros((n, 3), np.float32))
    action = behaviour.act(behaviour.begin(n), step, jax.random.key(0))[0]
    mean = policy.actor("eval")((), step, jax.random.key(0))[0]
    share = float(np.mean(np.abs(np.asarray(action - mean)) > 1e-6))
    assert share == pytest.approx(0.2, abs=0.03)  # 4.7 standard deviations


def test_what_cannot_be_sampled_is_refused(policy):
    with pytest.raises(ValueError, match="share of what is done"):
        acting(policy, sampled=1.5)
    with pytest.raises(ValueError, match="'episode' or 'step'"):
        acting(policy, sampled=0.5, each="row")
    with pytest.raises(ValueError, match="no mode 'explor'"):
        acting(policy, sampled=0.5, sampled_mode="explor")


def test_collecting_keeps_its_bits_and_tells_how_far_it_is():
    env, told = rlx.envs.make("rlx:pendulum", time_limit=5, physics=True), []
    a = collect(random(env.spec), env, 23, streams=2, key=3, progress=told.append)
    b = collect(random(env.spec), env, 23, streams=2, key=3)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert told[-1] == 23 and summary(a, 5)["transitions"] >= 23
    whole = [e for e in a if len(e.reward) == 6]
    np.testing.assert_allclose(summary(a, 5)["returns"], [e.reward.sum() for e in whole])


def test_parts_keep_what_all_of_them_have():
    plain, told = (rlx.envs.make("rlx:pendulum", time_limit=5, physics=p) for p in (False, True))
    a, b = collect(random(plain.spec), plain, 5, 1), collect(random(told.spec), told, 5, 1)
    assert alike([b, b])[0].info
    with pytest.warns(UserWarning, match="info/physics"):
        assert not alike([a, b])[-1].info


# --------------------------------------------------------------------------------------------------------------- a run's replay


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two members; the replay holds 40 of the 48 rows of each stream that were seen."""
    run_dir = tmp_path_factory.mktemp("runs") / "td3"
    own = {"env-steps": 96, "prefill": 40, "n-envs": 2, "collect": 8, "capacity": 80, "batch": 8, "hidden": 8}
    flags = [
        word
        for k, v in own.items()
        for word in (f"--agent.{k.replace('_', '-')}", *map(str, v if isinstance(v, list) else [v]))
    ]
    more = ["--seeds", "2", "--time-limit", "10", "--no-video", "--no-progress", "--episodes", "2"]
    env = ["--env", "rlx:pendulum", "--env-option", "physics=true"]
    assert main(["train", "td3", *env, "--preset", "debug", "--run-dir", str(run_dir), *flags, *more]) == 0
    return run_dir


def test_a_runs_replay_is_what_it_stored(trained):
    episodes, other = replay_of(trained), replay_of(trained, member=1)
    rows = sum(len(e.reward) for e in episodes)
    assert rows == 2 * 40 and sum(len(e.reward) - 1 for e in episodes) >= 70
    for e in episodes:
        assert e.first[0] or e is episodes[0] or e is episodes[len(episodes) // 2]  # the oldest of a stream may lack its begin
        assert e.truncated[-1] and len(e.reward) <= 11 and np.abs(e.action).max() <= 1
        angle, rate = e.info["physics"].T
        np.testing.assert_allclose(e.obs, np.stack([np.cos(angle), np.sin(angle), rate], -1), atol=1e-5)
        np.testing.assert_allclose(  # the reward of arriving, of the row before: as Gymnasium's pendulum has it
            e.reward[1:],
            -(((angle[:-1] + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * rate[:-1] ** 2 + 0.004 * e.action[:-1, 0] ** 2),
            atol=1e-4,
        )
    assert not np.array_equal(episodes[0].obs, other[0].obs)


def test_a_replay_with_physics_can_be_paid_anew(trained, tmp_path, capsys):
    """By the function of its own task: what was stored; so any other's is as good."""
    args = ["collect", "--run-dir", str(trained), "--mode", "replay", "--no-progress", "--out", str(tmp_path / "data")]
    assert main(args) == 0 and '"physics": true' in capsys.readouterr().out
    data, pay = datasets.mapped(tmp_path / "data"), reward_of("rlx:pendulum")
    assert data.meta["physics"] and np.ptp(data.rows.reward[:]) > 1
    for episode in data:
        whole = slice(None) if episode.first[0] else slice(1, None)  # the first row that is left of a stream kept its reward
        np.testing.assert_allclose(pay.of_episode(episode)[whole], episode.reward[whole], rtol=1e-5, atol=1e-5)


def test_a_replay_without_physics_says_so(tmp_path, capsys):
    run = ["--run-dir", str(tmp_path / "run"), "--no-progress"]
    small = ["--preset", "debug", "--agent.env-steps", "40", "--agent.prefill", "20", "--time-limit", "10", "--episodes", "1"]
    assert main(["train", "td3", "--env", "rlx:pendulum", *small, "--no-video", *run]) == 0
    assert main(["collect", *run, "--mode", "replay", "--out", str(tmp_path / "data")]) == 0
    assert "trained without --env-option physics=true" in " ".join(capsys.readouterr().out.split())
    data = datasets.mapped(tmp_path / "data")
    assert not data.meta["physics"] and "physics" not in data.rows.info


def test_replays_that_are_not_there(trained, tmp_path):
    with pytest.raises(ValueError, match="no member 2"):
        replay_of(trained, member=2)
    with pytest.raises(ValueError, match="no replay 'demos'"):
        replay_of(trained, name="demos")


def test_commands_collect_mixtures_noise_and_replays(trained, tmp_path, capsys):
    out = str(tmp_path / "data.npz")
    run = ["--run-dir", str(trained), "--streams", "2", "--out", out, "--no-progress", "--member", "1"]
    parts = ["--part", "random:20", "--part", "eval:30", "--part", f"{trained}@replay:1", "--part", "ou:0.5", "--steps", "40"]
    assert main(["collect", *run, *parts]) == 0
    said = capsys.readouterr().out
    assert "random, eval, replay, ou" in said and '"physics": true' in said
    episodes = datasets.read(out)
    assert sum(len(e.reward) - 1 for e in episodes) >= 20 + 30 + 70 + 20
    assert all(set(e.info) == {"physics"} for e in episodes)
    assert main(["collect", "--env", "dmc:cartpole-balance", "--mode", "ou", "--no-physics", *run[2:6], "--steps", "10"]) == 0
    assert datasets.read(out)[0].info == {}


def test_data_says_what_it_is(trained, tmp_path, capsys):
    out = tmp_path / "data.npz"
    args = ["--run-dir", str(trained), "--sampled", "0.5", "--steps", "30", "--streams", "1", "--seed", "4", "--no-progress"]
    assert main(["collect", *args, "--part", "eval:1.0", "--part", "ou:10", "--out", str(out)]) == 0
    meta = datasets.read(out).meta
    assert meta["env"] == "rlx:pendulum" and meta["env_options"] == {"physics": True} and meta["time_limit"] == 10
    assert meta["seed"] == 4 and meta["versions"]["rlx"] and meta["physics"]
    policy, noise = meta["parts"]
    assert policy["mode"] == "eval" and policy["sampled"] == 0.5 and policy["run_dir"] == str(trained) and policy["steps"] == 30
    assert noise["mode"] == "ou" and noise["sigma"] == 0.2 and noise["transitions"] == 10
    assert meta["transitions"] == 40 and meta["return_mean"] < 0


@pytest.mark.slow
def test_a_folder_grows_piece_by_piece_and_goes_on(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlx.cli.collect.PIECE", 20)
    pieces = []
    roll = collect_command.collect
    monkeypatch.setattr(collect_command, "collect", lambda *args: pieces.append(args[2]) or roll(*args))
    args = ["collect", "--run-dir", str(trained), "--streams", "1", "--no-progress", "--part", "random:50", "--part", "eval:20"]
    assert main([*args, "--out", str(tmp_path / "whole")]) == 0
    assert pieces == [20, 20, 10, 20]

    def stopped(*args):
        if len(pieces) == 6:
            raise KeyboardInterrupt
        return pieces.append(args[2]) or roll(*args)

    monkeypatch.setattr(collect_command, "collect", stopped)
    assert main([*args, "--out", str(tmp_path / "cut")]) == 130
    with pytest.raises(ValueError, match="not complete"):
        datasets.read(tmp_path / "cut")
    monkeypatch.setattr(collect_command, "collect", lambda *args: pieces.append(args[2]) or roll(*args))
    assert main([*args, "--out", str(tmp_path / "cut"), "--seed", "1"]) == 2
    assert "another command collects (seed differ)" in capsys.readouterr().err
    assert main([*args, "--out", str(tmp_path / "cut")]) == 0
    assert pieces[4:] == [20, 20, 10, 20] and "goes on after 2 of 4 pieces" in capsys.readouterr().out
    whole, cut = datasets.read(tmp_path / "whole"), datasets.read(tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, whole.rows, cut.rows)
    assert main([*args, "--out", str(tmp_path / "cut")]) == 0 and len(pieces) == 8  # nothing left to do


@pytest.mark.slow
def test_kill_9_costs_the_piece_in_the_making(tmp_path):
    """A folder that was being written reads as not complete, and the same command makes it the one that was not killed."""
    env = ["--env", "rlx:double-integrator", "--mode", "random", "--streams", "50", "--steps", "400000", "--no-physics"]
    command = [sys.executable, "-m", "rlx", "collect", *env, "--no-progress", "--out", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listed = lambda: json.loads((tmp_path / "data" / "dataset.json").read_text())["shards"]
    while process.poll() is None and not ((tmp_path / "data" / "dataset.json").exists() and listed()):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 1 <= len(listed()) < 4, "it ended before it was killed"
    with pytest.raises(ValueError, match="not complete"):
        datasets.read(tmp_path / "data")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert main(["collect", *env, "--no-progress", "--out", str(tmp_path / "whole")]) == 0
    one, other = (datasets.mapped(tmp_path / name) for name in ("data", "whole"))
    assert one.transitions == other.transitions >= 400_000
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:], b[:]), one.rows, other.rows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--part", "eval"], "WHO:STEPS"),
        (["--part", "eval:none"], "WHO:STEPS"),
        (["--part", "random:0"], "WHO:STEPS"),
        (["--mode", "greedy"], "no mode 'greedy'"),
        (["--mode", "replay", "--env", "rlx:point-mass"], "leave out --env"),
    ],
)
def test_what_cannot_be_collected_is_said(trained, tmp_path, capsys, args, message):
    assert main(["collect", "--run-dir", str(trained), "--out", str(tmp_path / "x.npz"), "--no-progress", *args]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_a_behaviour_of_ones_own():
    still = Behaviour(lambda n: (), lambda carry, step, key: (0 * step.obs[:, :1], carry, {}))
    env = rlx.envs.make("rlx:pendulum", time_limit=3)
    assert not any(e.action.any() for e in collect(still, env, 6, 2))
