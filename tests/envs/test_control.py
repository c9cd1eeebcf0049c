"""Device environments: their equations against independent ones, their contract, their pictures."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rlx.envs
from rlx.envs import tasks
from rlx.envs.control import cartpole, pendulum, point
from rlx.envs.probes import PROBES

NAMES = [n for n in rlx.envs.list("rlx")]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    assert rlx.envs.check(rlx.envs.make(name, time_limit=None if "probe" in name else 15), steps=40).exact_resume


def test_pendulum_equals_gymnasiums():
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    x, rng = jnp.asarray(env.state, jnp.float32), np.random.default_rng(0)
    step = jax.jit(pendulum.advance)
    for _ in range(200):
        a = rng.uniform(-1, 1, 1).astype(np.float32)
        env.state = np.float64(x)  # from the same state each time: the motion is chaotic, rounding would grow
        expected, reward, *_ = env.step(2 * a)
        new = step(pendulum.PARAMS, x, a)
        np.testing.assert_allclose(pendulum.observe(np, pendulum.PARAMS, np.asarray(new)), expected, atol=2e-5)
        ours = pendulum.reward(np, pendulum.PARAMS, np.asarray(x), a, None)
        assert float(ours) == pytest.approx(float(reward), abs=2e-4)
        x = new


def test_cartpole_equals_mujoco_through_the_ends_of_the_rail():
    model = tasks.get("cartpole-swingup").model()
    assert model.body_inertia[2][0] == pytest.approx(cartpole.INERTIA, rel=1e-12)
    rng, hit = np.random.default_rng(0), 0.0
    with jax.enable_x64(True):
        params = {k: np.float64(v) for k, v in cartpole.PARAMS.items()}
        step = jax.jit(cartpole.advance)
        for _ in range(4):
            data = mujoco.MjData(model)
            data.qpos[:], data.qvel[:] = rng.normal(size=2), rng.normal(size=2)
            x = jnp.asarray(np.r_[data.qpos, data.qvel])
            for t in range(200):
                if t % 25 == 0:
                    data.ctrl[:] = rng.choice([-1.0, 1.0])
                x = step(params, x, jnp.asarray(data.ctrl))
                mujoco.mj_step(model, data)
                np.testing.assert_allclose(np.r_[data.qpos, data.qvel], x, atol=1e-9)
                hit = max(hit, abs(data.qpos[0]))
    assert hit > cartpole.RAIL, "the soft limit was never reached"


def test_cartpole_rewards_and_observes_as_the_dm_control_task():
    task, rng = tasks.get("cartpole-swingup"), np.random.default_rng(0)
    x, a = rng.normal(size=(50, 4)), rng.uniform(-1, 1, (50, 1))
    xmat = np.zeros((50, 3, 9))
    xmat[:, 2, 8], xmat[:, 2, 2] = np.cos(x[:, 1]), np.sin(x[:, 1])
    physics = type("Physics", (), {"qpos": x[:, :2], "qvel": x[:, 2:], "xmat": xmat, "ctrl": a})
    np.testing.assert_allclose(cartpole.reward(np, None, None, a, x), task.reward(np, None, physics))
    np.testing.assert_allclose(cartpole.observe(np, None, x), task.observe(np, None, physics))


@pytest.mark.parametrize("module", [cartpole, pendulum, point])
def test_drift_is_the_derivative_of_the_motion(module):
    """A step of a tenth of a thousandth of a second moves by drift times the step, to first order."""
    n = {cartpole: 4, pendulum: 2, point: 4}[module]
    params = {**module.PARAMS, "dt": 1e-4}
    rng = np.random.default_rng(0)
    x, a = jnp.asarray(rng.uniform(-0.5, 0.5, n)), jnp.asarray(rng.uniform(-1, 1, 2 if module is point else 1))
    with jax.enable_x64(True):
        x, a = jnp.float64(x), jnp.float64(a)
        dt = cartpole.DT if module is cartpole else 1e-4
        moved = (module.advance(params, x, a) - x) / dt
        tolerance = 0.2 if module is cartpole else 5e-3  # its step is 10 ms, of fourth order
        np.testing.assert_allclose(moved, module.drift(jnp, params, x, a), rtol=tolerance, atol=tolerance)


def test_time_limits_truncate_and_never_terminate():
    env = rlx.envs.make("rlx:pendulum")
    vec = rlx.envs.batch(env, 2)
    policy = lambda carry, step, key: (jnp.zeros((2, 1)), carry, {})
    roll = jax.jit(lambda k: rlx.envs.rollout(vec, env.params, policy, rlx.envs.begin(vec, env.params, (), k), k, 402)[1])
    rows = roll(jax.random.key(0))
    assert np.array_equal(np.flatnonzero(rows.truncated[:, 0]), [200, 401]) and not rows.terminated.any()


def test_how_far_rewards_of_the_point_mass_reach():
    still = np.zeros(2)
    for margin in (4.0, 20.0):
        params = rlx.envs.make("rlx:point-mass", margin=margin).params
        at = lambda d, p=params: float(point.reward(np, p, None, still, np.array([0.6 * d, -0.8 * d, 0, 0])))
        assert at(0.05) == pytest.approx(1) and at(0.05 * (1 + margin)) == pytest.approx(0.1, rel=1e-4)
    with pytest.raises(ValueError, match="margin=0 is how far rewards reach"):
        rlx.envs.make("rlx:point-mass", margin=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_getting_far_along_an_axis(axis):
    env = rlx.envs.make("rlx:point-mass", along="xy"[axis])
    state, first = env.reset(env.params, jax.random.key(3))
    np.testing.assert_array_equal(first.obs, np.zeros(4))
    _, arrived = env.step(env.params, state, jnp.array([1.0, -0.5]), jax.random.key(0))
    speed = 0.02 / 0.3 * np.array([1.0, -0.5])  # force over mass, for one step from rest
    np.testing.assert_allclose(arrived.obs, [*(0.02 * speed), *speed], rtol=1e-6)
    np.testing.assert_allclose(arrived.reward, speed[axis], rtol=1e-6)
    with pytest.raises(ValueError, match="along='z' is the way to go"):
        rlx.envs.make("rlx:point-mass", along="z")


@pytest.mark.parametrize("name", [n for n in NAMES if "probe" not in n and n != "rlx:push-lite"])  # which OpenGL draws
def test_pictures(name):
    env = rlx.envs.make(name)
    state, _ = env.reset(env.params, jax.random.key(0))
    picture = env.render(env.params, state)
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("name", PROBES)
def test_probe_values_are_those_of_the_best_policy(name):
    """The discounted return of the documented best action, by simulation."""
    probe, discount = PROBES[name], 0.8
    env = rlx.envs.make(f"rlx:probe-{name}")
    for seed in range(3):
        state, step = env.reset((), jax.random.key(seed))
        sign = np.float32(step.obs[0])
        action = np.array([0.0 if probe.action is None else probe.action(sign)], np.float32)
        total, factor = 0.0, 1.0
        while not step.last:
            state, step = env.step((), state, action, jax.random.key(9))
            total, factor = total + factor * float(step.reward), factor * discount
        rest = factor / (1 - discount) if bool(step.truncated) else 0.0  # what goes on after a cut
        assert total + rest == pytest.approx(float(probe.value(sign, discount)), rel=1e-5)


def test_maze_walls_stop_and_success_is_told():
    env = rlx.envs.make("rlx:point-maze", layout="small")
    state, _ = env.reset(env.params, jax.random.key(0))
    state = state._replace(x=jnp.array([1.3, 1.3, 3.5, 3.5]))
    for _ in range(20):
        state, step = env.step(env.params, state, jnp.array([-1.0, -1.0]), jax.random.key(0))
    assert (state.x[:2] >= 1.0).all() and not step.info["success"]
    state = state._replace(x=jnp.array([3.2, 3.4, 3.5, 3.5]))
    _, step = env.step(env.params, state, jnp.zeros(2), jax.random.key(0))
    assert step.info["success"] and step.reward == 1.0
    with pytest.raises(ValueError, match="layout='tiny'"):
        rlx.envs.make("rlx:point-maze", layout="tiny")
