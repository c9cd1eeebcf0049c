"""Adapters: Gymnasium, brax, MJX."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rlx.envs
from rlx.envs import mjx, tasks
from rlx.keys import HostKey


def key(streams=1, step=0):
    return HostKey(np.array([[3, 4]], np.uint32), streams, step)


@pytest.mark.parametrize(("name", "limit"), [("Pendulum-v1", 15), ("HalfCheetah-v5", 12), ("Hopper-v5", None)])
def test_gym_keeps_the_contract_and_resumes_exactly(name, limit):
    assert rlx.envs.check(rlx.envs.make(f"gym:{name}", time_limit=limit), steps=50).exact_resume


def test_gym_steps_as_gymnasium_does():
    vec = rlx.envs.make("gym:HalfCheetah-v5").make(1, "reset")
    _, first = (state := vec.reset(None, key()))
    env = gymnasium.make("HalfCheetah-v5")
    obs, _ = env.reset(seed=key().seed(0) % 2**31)
    np.testing.assert_array_equal(first.obs[0], obs.astype(np.float32))
    state, rng = state[0], np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, (1, 6)).astype(np.float32)
        state, step = vec.step(None, state, action, key())
        obs, reward, *_ = env.step(action[0])
        np.testing.assert_array_equal(step.obs[0], obs.astype(np.float32))
        assert step.reward[0] == np.float32(reward)


def test_gym_draws_the_episode_that_is_meant():
    """Two of one seed and one length, such as those of two evaluations, with other actions."""
    vec = rlx.envs.make("gym:tests.envs.gym_fixtures:RlxDrawn-v0").make(1, "reset")
    for way in (1.0, -1.0):
        state, _ = vec.reset(None, key())
        for t in range(3):
            state, step = vec.step(None, state, np.full((1, 2), way, np.float32), key(1, t + 1))
        picture = vec.render(None, state)
        place = np.frombuffer(picture.tobytes(), np.float64)[:2].astype(np.float32)
        np.testing.assert_array_equal(place, step.obs["arm"]["position"][0])
    vec.close()


def test_gym_makes_each_environment_once_before_threads_use_it():
    built = []

    def build():
        time.sleep(0.02)  # long enough that two threads would both start
        built.append(gymnasium.make("Pendulum-v1"))
        return built[-1]

    vec = rlx.envs.make("gym:Pendulum-v1", threads=2).make(4, "reset")
    vec = replace(vec, build=build)
    state, _ = vec.reset(None, key(4))
    vec.step(None, state, np.zeros((4, 1), np.float32), key(4, 1))
    assert len(built) == 4


def test_gym_repeat_sums_rewards():
    one, three = (rlx.envs.make("gym:Pendulum-v1", repeat=r).make(1, "reset") for r in (1, 3))
    (s1, _), (s3, _) = one.reset(None, key()), three.reset(None, key())
    action, total = np.array([[0.3]], np.float32), 0.0
    for _ in range(3):
        s1, step = one.step(None, s1, action, key())
        total += float(step.reward[0])
    s3, big = three.step(None, s3, action, key())
    assert big.reward[0] == pytest.approx(total, rel=1e-6) and np.array_equal(big.obs, step.obs)


def test_gym_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="Did you mean gym:HalfCheetah-v5"):
        rlx.envs.make("gym:HalfCheeta-v5")
    with pytest.raises(ValueError, match="time_limit=0"):
        rlx.envs.make("gym:Pendulum-v1", time_limit=0)


@pytest.mark.parametrize(
    ("package", "name", "options"),
    [
        ("gymnasium_robotics", "AdroitHandDoor-v1", {}),
        ("gymnasium_robotics", "PointMaze_UMaze-v3", {}),
        ("ogbench", "pointmaze-medium-v0", {}),
        ("metaworld", "Meta-World/MT1", {"env_name": "reach-v3"}),
    ],
)
def test_suites(package, name, options):
    pytest.importorskip(package)
    env = rlx.envs.make(f"gym:{name}", **options)
    vec = env.make(1, "reset")
    state, step = vec.reset(None, key())
    jax.tree.map(np.testing.assert_array_equal, step.obs, vec.reset(None, key())[1].obs)
    for _ in range(3):
        state, step = vec.step(None, state, np.zeros((1, *env.spec.action.shape)), key())
    assert "success" in env.spec.info and all(np.isfinite(x).all() for x in jax.tree.leaves(step.obs))
    vec.close()


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")  # brax's own functions have no precision of theirs
def test_brax_equals_brax_and_ends_where_it_does():
    from brax import envs

    env = rlx.envs.make("brax:inverted_pendulum", backend="spring", time_limit=40)
    inner = envs.get_environment("inverted_pendulum", backend="spring")
    k = jax.random.key(1)
    state, step = env.reset(env.params, k)
    theirs = inner.reset(jax.random.key_data(k))
    np.testing.assert_array_equal(step.obs, theirs.obs)
    ours_step, their_step = jax.jit(env.step), jax.jit(inner.step)
    for i in range(40):
        action = jnp.array([np.sin(i)], jnp.float32)
        state, step = ours_step(env.params, state, action, k)
        theirs = their_step(theirs, action)
        np.testing.assert_allclose(step.obs, theirs.obs, rtol=1e-5, atol=1e-5)
        assert bool(step.terminated) == bool(theirs.done)
        if step.last:
            break
    assert step.last and bool(step.truncated) == (not bool(theirs.done))


@pytest.mark.slow
def test_mjx_observes_and_rewards_as_native_mujoco():
    task = tasks.get("pendulum-swingup")
    env = rlx.envs.make("mjx:pendulum-swingup", time_limit=5, repeat=2)
    native, c = task.model(), None
    c = task.find(native)
    state, step = jax.jit(env.reset)(env.params, jax.random.key(0))
    data = mujoco.MjData(native)
    data.qpos[:], data.qvel[:] = np.asarray(state["qpos"]), np.asarray(state["qvel"])
    advance = jax.jit(env.step)
    for i in range(5):
        action = jnp.array([np.cos(i)], jnp.float32)
        state, step = advance(env.params, state, action, jax.random.key(0))
        data.ctrl[:] = np.asarray(action)
        total = 0.0
        for _ in range(2):
            mujoco.mj_step(native, data)
            mujoco.mj_kinematics(native, data)
            physics = type("P", (), {"qpos": data.qpos, "qvel": data.qvel, "xmat": data.xmat})
            total += float(task.reward(np, c, physics))
        np.testing.assert_allclose(step.obs, task.observe(np, c, physics), atol=1e-4)
        assert float(step.reward) == pytest.approx(total, abs=1e-4)
    assert step.truncated and not step.terminated


def test_mjx_names_and_brax_names():
    with pytest.raises(ValueError, match="Did you mean mjx:cartpole-swingup"):
        rlx.envs.make("mjx:cartpole-swingupp")
    with pytest.raises(ValueError, match="brax:ant"):
        rlx.envs.make("brax:ants")
    with pytest.raises(ValueError, match="backend='warp'"):
        rlx.envs.make("brax:ant", backend="warp")


IMPLEMENTATIONS = {  # (backend, whether Warp is installed, what was asked for) -> what runs, or what is said
    ("cpu", False, None): "jax",
    ("cpu", True, None): "jax",
    ("tpu", False, None): "jax",
    ("tpu", True, None): "jax",
    ("gpu", False, None): "jax",
    ("gpu", True, None): "warp",
    ("gpu", False, "jax"): "jax",
    ("gpu", True, "jax"): "jax",
    ("cpu", True, "jax"): "jax",
    ("gpu", True, "warp"): "warp",
    ("cpu", True, "warp"): "warp",
    ("gpu", False, "warp"): r"not installed: pip install 'rlx\[warp\]'",
    ("cpu", False, "warp"): r"not installed: pip install 'rlx\[warp\]'",
    ("tpu", True, "warp"): "NVIDIA devices and CPUs, not on tpu",
    ("gpu", True, "wrap"): "'wrap' is unknown; give 'jax' or 'warp'",
}


@pytest.mark.parametrize("case", IMPLEMENTATIONS, ids=str)
def test_mjx_runs_what_is_there_and_names_what_is_not(case):
    wanted = IMPLEMENTATIONS[case]
    if wanted in mjx.IMPLEMENTATIONS:
        assert mjx.implementation(*case) == wanted
    else:
        with pytest.raises(ValueError, match=wanted):
            mjx.implementation(*case)


def test_mjx_without_warp_says_once_how_to_get_it(monkeypatch):
    """JAX computes on the CPU here; that it were on CUDA is what is put in its place."""
    monkeypatch.setattr(mjx, "find_spec", lambda name: None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mjx._say_once.cache_clear()
    with pytest.warns(UserWarning, match=r"JAX implementation.*pip install 'rlx\[warp\]'") as said:
        envs = [rlx.envs.make("mjx:pendulum-swingup") for _ in range(2)]
    mjx._say_once.cache_clear()
    assert len(said) == 1 and all("qpos" in jax.eval_shape(e.reset, e.params, jax.random.key(0))[0] for e in envs)


def test_mjx_with_warp_asked_for_and_not_there(monkeypatch):
    monkeypatch.setattr(mjx, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rlx\[warp\]'"):
        rlx.envs.make("mjx:pendulum-swingup", impl="warp")


def acted(vec, key):
    policy = lambda carry, step, now: (jnp.array([[0.3], [-0.5], [0.9]]), carry, {})
    return rlx.envs.rollout(vec, vec.params, policy, rlx.envs.begin(vec, vec.params, (), key), key, 7)[1]


@pytest.mark.slow
def test_mjx_with_warp_steps_restarts_and_repeats_as_with_jax():
    """On the CPU where there is no NVIDIA device; Warp's arrays that all streams share must not reach what is carried."""
    pytest.importorskip("warp")
    rows = {}
    for impl in mjx.IMPLEMENTATIONS:
        env = rlx.envs.make("mjx:pendulum-swingup", impl=impl, repeat=2, time_limit=3)
        vec = rlx.envs.batch(env, 3)
        rows[impl] = jax.jit(partial(acted, vec))(jax.random.key(0))
    np.testing.assert_array_equal(rows["warp"].first, rows["jax"].first)
    assert rows["warp"].first.sum() == 6
    for name in ("obs", "reward"):
        np.testing.assert_allclose(getattr(rows["warp"], name), getattr(rows["jax"], name), atol=1e-5)


def test_playground():
    pytest.importorskip("mujoco_playground")
    env = rlx.envs.make("mjx:CartpoleBalance", time_limit=7)
    assert env.spec.horizon == 7 and rlx.envs.check(env, steps=12).exact_resume
