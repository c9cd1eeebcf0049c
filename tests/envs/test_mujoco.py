"""Native MuJoCo tasks are dm_control's, batched."""

from __future__ import annotations

import sys

import mujoco
import numpy as np
import pytest
from dm_control import suite
from dm_control.utils import rewards

import rlx.envs
from rlx.envs import tasks
from rlx.envs.tasks.base import tolerance
from rlx.keys import HostKey

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def key(streams=1, step=0):
    return HostKey(np.array([[3, 4]], np.uint32), streams, step)


def same_state(name, seed=0):
    """dm_control's environment and ours (one stream) in the same state."""
    theirs = suite.load(*name.split("-"), task_kwargs={"random": seed})
    theirs.reset()
    vec = rlx.envs.make(f"dmc:{name}").make(1, "reset")
    state, _ = vec.reset(None, key())
    numbers = np.zeros(mujoco.mj_stateSize(vec.sim.model, STATE))
    mujoco.mj_getState(theirs.physics.model.ptr, theirs.physics.data.ptr, numbers, STATE)
    mujoco.mj_setState(vec.sim.model, state.data[0], numbers, STATE)
    mujoco.mj_forward(vec.sim.model, state.data[0])
    if vec.sim.task.goal:
        state.goal[0] = theirs.physics.named.model.geom_pos["target", :2]
    return theirs, vec, state


@pytest.mark.parametrize("name", [name for name in tasks.names() if tuple(name.split("-")) in suite.ALL_TASKS])
def test_observations_and_rewards_equal_dm_controls(name):
    theirs, vec, state = same_state(name)
    assert theirs._step_limit == vec.spec.horizon
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.uniform(-1, 1, theirs.action_spec().shape)
        expected = theirs.step(action)
        state, step = vec.step(None, state, action[None], key())
        physics = vec._physics(state, slice(0, 1))
        obs = vec.sim.task.observe(np, vec.sim.c, physics)[0]  # before it is rounded to float32
        reward = vec.sim.task.reward(np, vec.sim.c, physics)[0]
        np.testing.assert_allclose(obs, np.concatenate([np.ravel(x) for x in expected.observation.values()]), atol=1e-6)
        assert reward == pytest.approx(expected.reward, abs=1e-6)
        np.testing.assert_array_equal(step.obs[0], obs.astype(np.float32))


@pytest.mark.parametrize("shape", ["gaussian", "linear", "quadratic"])
@pytest.mark.parametrize(("low", "high", "margin"), [(0.0, 0.0, 0.0), (-1.0, 2.0, 1.5), (1.0, np.inf, 0.5)])
def test_tolerance_equals_dm_controls(shape, low, high, margin):
    x = np.linspace(-4, 4, 401)
    for at_margin in (0.1, 0.5) if shape == "gaussian" else (0.0, 0.5):
        expected = rewards.tolerance(x, (low, high), margin, shape, at_margin)
        np.testing.assert_allclose(tolerance(np, x, low, high, margin, shape, at_margin), expected, atol=1e-12)


def play(vec, steps, streams, seed=0):
    rng = np.random.default_rng(seed)
    state, step = vec.reset(None, key(streams))
    out = [step]
    for t in range(steps):
        state, step = vec.step(None, state, rng.uniform(-1, 1, (streams, *vec.spec.action.shape)), key(streams, t + 1))
        out.append(step)
    return state, out


def test_threads_do_not_change_a_bit():
    many = play(rlx.envs.make("dmc:walker-walk", time_limit=8, threads=2).make(5, "reset"), 20, 5)[1]
    one = play(rlx.envs.make("dmc:walker-walk", time_limit=8, threads=1).make(5, "reset"), 20, 5)[1]
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.reward, b.reward)


def test_repeat_sums_rewards_of_the_same_steps():
    one, four = (rlx.envs.make("dmc:cheetah-run", repeat=r).make(2, "reset") for r in (1, 4))
    (s1, _), (s4, _) = one.reset(None, key(2)), four.reset(None, key(2))
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, (2, 6))
        total = 0
        for _ in range(4):
            s1, step = one.step(None, s1, action, key(2))
            total = total + step.reward
        s4, big = four.step(None, s4, action, key(2))
        np.testing.assert_allclose(big.reward, total, rtol=1e-6)
        np.testing.assert_array_equal(big.obs, step.obs)
    assert four.spec.horizon == 250 and four.spec.repeat == 4


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy", "hopper-hop", "walker-walk", "point_mass-easy"])
def test_the_contract_holds_and_saving_is_exact(name):
    assert rlx.envs.check(rlx.envs.make(f"dmc:{name}", time_limit=12, repeat=2)).exact_resume


def test_starts_are_distributed_as_dm_controls():
    for name in ("cartpole-swingup", "walker-walk"):
        theirs = suite.load(*name.split("-"), task_kwargs={"random": 1})
        a = np.array([np.concatenate([np.ravel(x) for x in theirs.reset().observation.values()]) for _ in range(400)])
        b = rlx.envs.make(f"dmc:{name}").make(400, "reset").reset(None, key(400))[1].obs
        error = np.sqrt((a.var(0) + b.var(0)) / 400) + 1e-6
        assert (np.abs(a.mean(0) - b.mean(0)) < 4.5 * error).all()
        np.testing.assert_allclose(a.std(0), b.std(0), rtol=0.25, atol=2e-3)


def test_wrong_actions_and_names_are_refused():
    vec = rlx.envs.make("dmc:walker-walk").make(2, "reset")
    state, _ = vec.reset(None, key(2))
    with pytest.raises(ValueError, match=r"action has shape \(2, 5\); 2 streams need \(2, 6\)"):
        vec.step(None, state, np.zeros((2, 5)), key(2))
    with pytest.raises(ValueError, match="Did you mean dmc:walker-walk"):
        rlx.envs.make("dmc:walker-wolk")


def test_other_tasks_take_the_slow_path_and_say_so():
    with pytest.warns(UserWarning, match="dm_control's own loop"):
        env = rlx.envs.make("dmc:finger-spin", time_limit=10)
    report = rlx.envs.check(env, steps=30)
    assert not report.exact_resume and "marked cut" in report.notes[0]


@pytest.mark.parametrize("limit", [4, 105])
def test_a_time_limit_may_be_longer_than_a_tasks_own(limit):
    """Which is 1,000 control steps here."""
    env = rlx.envs.make("dmc:ball_in_cup-catch", repeat=10, time_limit=limit)
    vec, key = env.make(1, "stop"), HostKey(np.array([[3, 4]], np.uint32), 1)
    state, step = vec.reset(None, key)
    taken = 0
    while not step.last[0]:
        taken += 1
        state, step = vec.step(None, state, np.zeros((1, 2), np.float32), key.at(taken))
    vec.close()
    assert taken == limit == env.spec.horizon and step.truncated[0]


@pytest.mark.parametrize("name", ["dmc:walker-walk", "dmc:ball_in_cup-catch", "mjx:cartpole-swingup"])
def test_what_to_install_where_dm_control_is_missing(name, monkeypatch):
    monkeypatch.delattr(sys.modules["dm_control"], "suite")
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)  # as where it is not installed
    with pytest.raises(ValueError, match=r"needs dm_control.*pip install --no-deps 'dm_control>=1\.0\.49,<1\.0\.50'.*labmaze"):
        rlx.envs.make(name)
