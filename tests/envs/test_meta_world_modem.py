"""Meta-World as MoDem sees it, against Meta-World itself."""

from __future__ import annotations

import gymnasium
import jax
import numpy as np
import pytest

import rlx.envs
from rlx.envs import experts, meta_world_modem
from rlx.keys import HostKey

pytestmark = pytest.mark.slow
NAME = f"gym:{meta_world_modem.__name__}:{meta_world_modem.ID}"
TASK = {"env_name": "drawer-open-v3"}


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("metaworld")
    env = gymnasium.make("Meta-World/MT1", **TASK, seed=0, disable_env_checker=True)
    yield env
    env.close()


@pytest.fixture(scope="module")
def own(plain):
    env = gymnasium.make(NAME.removeprefix("gym:"), **TASK)
    yield env
    env.close()


def test_a_step_of_nothing_follows_each_reset_and_counts_in_no_limit(plain, own):
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        for env in (plain, own):
            env.unwrapped.seed(seed)
        before = plain.reset(seed=seed)[0]
        after, *_ = plain.step(np.zeros(4, np.float32))
        np.testing.assert_array_equal(own.reset(seed=seed)[0], after)
        assert np.abs(before[:3] - after[:3]).max() > 1e-4  # the hand sinks to where it is held
        np.testing.assert_array_equal(after[18:22], before[:4])
        np.testing.assert_array_equal(after[-3:], own.unwrapped._target_pos)  # the goal is in sight of who asks for it
        for t in range(meta_world_modem.STEPS):
            action = rng.uniform(-1, 1, 4).astype(np.float32)
            wanted, reward, *_ = plain.step(action)
            obs, paid, terminated, truncated, _ = own.step(action)
            np.testing.assert_array_equal(obs, wanted)
            assert paid == reward and not terminated and truncated == (t + 1 == meta_world_modem.STEPS)
    long = gymnasium.make(NAME.removeprefix("gym:"), **TASK, max_episode_steps=500)
    long.reset(seed=0)
    ends = [long.step(np.zeros(4, np.float32))[3] for _ in range(500)]
    assert not any(ends[:-1]) and ends[-1]
    long.close()


def test_the_camera_is_nearer_and_shows_up_as_up(plain, own):
    """Where pictures put what: to the right of the gaze, above it, along it. Meta-World's own shows what is higher below."""

    def shown(env, *places):
        data, camera = env.unwrapped.data, env.unwrapped.model.camera("corner2").id
        seen = (np.array(places) - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
        return seen[:, :2] / -seen[:, 2:], data.cam_xpos[camera], -data.cam_xmat[camera].reshape(3, 3)[:, 2]

    for env in (plain, own):
        env.reset(seed=0)
    low, high = (0, 0.6, 0.0), (0, 0.6, 0.3)  # over the middle of the table
    (at, place, gaze), (upside_down, _, before) = shown(own, low, high), shown(plain, low, high)
    np.testing.assert_allclose(place, (0.75, 0.075, 0.7))
    np.testing.assert_allclose(gaze, before, atol=1e-6)
    assert at[1, 1] - at[0, 1] > 0.1 and upside_down[1, 1] < upside_down[0, 1]
    edge = np.tan(np.deg2rad(own.unwrapped.model.camera("corner2").fovy[0] / 2))
    assert (np.abs(at) < edge).all()  # both are in the picture


def test_rows_and_the_script(plain):
    env = rlx.envs.make(NAME, **TASK, repeat=2)
    assert env.spec.horizon == 100 and env.spec.obs.shape == (39,) and not np.isfinite(env.spec.obs.low).any()
    vec, key = env.make(1, "reset"), HostKey.of(jax.random.key(0), 1)
    state, step = vec.reset(None, key)
    expert = experts.of(env, TASK)
    for t in range(60):
        state, step = vec.step(None, state, np.asarray(expert(step.obs, np.zeros((1, 0)))), key.at(t + 1))
    assert step.info["success"][0]
    again = vec.load(vec.save(state))  # by its seed and actions, from behind the step of nothing
    np.testing.assert_array_equal(again[0].step.obs, step.obs[0])
    vec.close()
