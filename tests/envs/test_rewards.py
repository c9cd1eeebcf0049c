"""Rewards computed of stored physics are those that the environments emit."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dm_control import suite

import rlx.envs
from rlx.envs import tasks
from rlx.envs.base import batch, begin, rollout
from rlx.envs.rewards import Reward, reward_of
from rlx.envs.tasks.kinematics import Kinematics
from rlx.types import PHYSICS, Row

pytestmark = pytest.mark.filterwarnings("ignore:.*has no batched task in rlx")
FIELDS = ("xpos", "xmat", "xipos", "geom_xpos", "subtree_com", "subtree_angmom", "sensordata")


def episodes_of(name: str, steps: int = 60, streams: int = 5, **options) -> list[Row]:
    """One cut episode of each stream, at random."""
    env = rlx.envs.make(name, physics=True, **options)
    vec, rng = batch(env, streams), np.random.default_rng(0)
    taken = jnp.asarray(rng.uniform(-1, 1, (steps, streams, *env.spec.action.shape)), jnp.float32)
    act = lambda t, step, key: (taken[t], t + 1, {})
    if env.host:
        fast = jax.jit(act)
        rows = rollout(vec, vec.params, fast, begin(vec, vec.params, 0, jax.random.key(0)), jax.random.key(1), steps)[1]
    else:
        start = begin(vec, vec.params, 0, jax.random.key(0))
        rows = jax.jit(lambda s, k: rollout(vec, vec.params, act, s, k, steps)[1])(start, jax.random.key(1))
    vec.close()
    return [jax.tree.map(lambda x, w=w: np.asarray(x)[:, w], rows) for w in range(streams)]


DIVERSE = [
    "dmc:walker-walk",  # heights, rotations, the velocity of a subtree
    "dmc:walker-spin",  # an angular momentum
    "dmc:cheetah-run_backward",
    "dmc:hopper-stand",  # the action too
    "dmc:reacher-easy",  # a goal that each episode draws
    "dmc:cartpole-swingup",
    "dmc:quadruped-run",  # a body that floats, muscles with a state
    "dmc:quadruped-jump",
    "dmc:humanoid-stand",  # by dm_control, row by row
    "rlx:pendulum",  # paid by where it was
    "rlx:four-tank",  # set-points and disturbances
    "rlx:point-maze",
    "rlx:pointmass-maze",
]


@pytest.mark.parametrize("name", DIVERSE)
def test_rewards_of_stored_physics_are_those_emitted(name):
    options = {"reward": "dense"} if name == "rlx:point-maze" else {}
    reward, episodes = reward_of(name, **options), episodes_of(name, **options)
    found = np.concatenate([reward.of_episode(e) for e in episodes])
    emitted = np.concatenate([e.reward for e in episodes])
    assert found.dtype == np.float32 and np.ptp(emitted) > 0 or name == "dmc:reacher-easy"
    np.testing.assert_allclose(found, emitted, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_each_plant_knows_whether_it_needs_the_physics_before():
    needs = {}
    for name in rlx.envs.names("rlx"):
        if "probe" in name:
            continue
        reward, (episode, *_) = reward_of(name), episodes_of(name, steps=4, streams=1)
        physics, action = episode.info[PHYSICS], episode.action
        full = reward(physics[1:], action[:-1], physics[:-1])
        np.testing.assert_allclose(full, episode.reward[1:], rtol=1e-5, atol=1e-5)
        try:
            np.testing.assert_array_equal(reward(physics[1:], action[:-1]), full)
            needs[name] = False
        except ValueError as error:
            assert "as before" in str(error)
            needs[name] = True
    assert needs["rlx:pendulum"] and needs["rlx:cstr"] and not needs["rlx:point-mass"] and not needs["rlx:point-maze"]


def test_all_tasks_over_one_worlds_physics():
    (episode, *_) = episodes_of("dmc:walker-walk", streams=1)
    found = {name: reward_of(f"dmc:walker-{name}").of_episode(episode) for name in ("stand", "walk", "run", "spin")}
    assert (found["stand"] >= found["walk"]).all() and (found["walk"] >= found["run"]).all()
    assert len({x.tobytes() for x in found.values()}) == 4


# ---------------------------------------------------------------------------------------------------------- tasks of URLB


def derived(name: str, physics: np.ndarray):
    """MuJoCo's model and what it derives of one state of the world of ``name``."""
    model = suite.load(*name.split("-"), task_kwargs={"random": 0}).physics.model.ptr
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = np.split(physics[: model.nq + model.nv].astype(float), [model.nq])
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    return model, data


def test_tasks_of_urlb_by_their_formulas():
    rng = np.random.default_rng(0)
    physics = rng.normal(size=18).astype(np.float32)
    none, one = np.zeros((1, 6), np.float32), physics[None]
    model, data = derived("walker-walk", physics)
    momentum = data.subtree_angmom[model.body("torso").id, 1]
    assert reward_of("dmc:walker-spin")(one, none)[0] == pytest.approx(np.clip(momentum / 10, 0, 1), abs=1e-6)
    model, data = derived("cheetah-run", physics)
    speed = data.subtree_linvel[model.body("torso").id, 0]
    assert abs(speed) > 0.05
    for task, wanted in (("walk", 2), ("walk_backward", -2), ("run_backward", -10)):
        found = reward_of(f"dmc:cheetah-{task}")(one, none)[0]
        assert found == pytest.approx(np.clip(speed / wanted, 0, 1), abs=1e-6)


def test_quadrupeds_are_paid_for_standing_and_jumping():
    (episode, *_) = episodes_of("dmc:quadruped-jump", streams=1)
    stand, jump = reward_of("dmc:quadruped-stand").of_episode(episode), reward_of("dmc:quadruped-jump").of_episode(episode)
    for t in (1, 30, 59):
        model, data = derived("quadruped-walk", episode.info[PHYSICS][t])
        torso = model.body("torso").id
        upright, height = (1 + data.xmat[torso, 8]) / 2, data.subtree_com[torso, 2]
        assert stand[t] == pytest.approx(upright, abs=1e-5)
        assert jump[t] == pytest.approx(upright * min(1, 1 - 0.5 * (1 - height)), abs=1e-5)


@pytest.mark.slow
def test_spin_is_there_for_mjx_too():
    env = rlx.envs.make("mjx:walker-spin", impl="jax")
    state, _ = jax.eval_shape(env.reset, env.params, jax.random.key(0))
    moved = jax.eval_shape(env.step, env.params, state, jax.ShapeDtypeStruct((6,), np.float32), jax.random.key(0))
    assert moved[1].reward.shape == ()


# -------------------------------------------------------------------------------------------------------------- kinematics


@pytest.mark.parametrize("world", ["walker-walk", "hopper-hop", "point_mass-easy", "quadruped-fetch", "humanoid-walk"])
def test_kinematics_are_mujocos(world):
    model = suite.load(*world.split("-")).physics.model.ptr
    rng, fields = np.random.default_rng(0), FIELDS if model.nsensor else FIELDS[:-1]
    qpos, qvel = rng.normal(size=(5, model.nq)), rng.normal(size=(5, model.nv))
    found, data, seen = Kinematics(model)(np, qpos, qvel, fields), mujoco.MjData(model), 0
    for i in range(5):
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        for field in fields:
            mine = found[field][i]
            known = ~np.isnan(mine)
            seen += known.sum() if field == "sensordata" else 0
            assert field == "sensordata" or known.all()
            np.testing.assert_allclose(mine[known], np.reshape(getattr(data, field), mine.shape)[known], atol=1e-9)
    assert seen or not model.nsensor


def test_kinematics_know_their_fields():
    with pytest.raises(ValueError, match="cfrc_ext"):
        Kinematics(tasks.get("walker-walk").model())(np, np.zeros((1, 9)), np.zeros((1, 9)), ("cfrc_ext",))


# ---------------------------------------------------------------------------------------------------------- on a device, fast


def test_jax_arrays_stay_there_under_jit_and_vmap():
    reward, (episode, *_) = reward_of("dmc:cheetah-walk"), episodes_of("dmc:cheetah-walk", streams=1)
    physics, action = jnp.asarray(episode.info[PHYSICS][1:]), jnp.asarray(episode.action[:-1])
    by_hand = reward.of_episode(episode)[1:]
    np.testing.assert_allclose(jax.jit(reward)(physics, action), by_hand, atol=2e-6)
    each = jax.vmap(lambda p, a: reward(p[None], a[None])[0])(physics, action)
    np.testing.assert_allclose(each, by_hand, atol=2e-6)
    slow = reward_of("dmc:ball_in_cup-catch")
    with pytest.raises(ValueError, match="outside of jax.jit"):
        jax.jit(slow)(jnp.zeros((1, 8)), jnp.zeros((1, 2)))


@pytest.mark.parametrize("name", ["dmc:walker-run", "dmc:quadruped-jump", "rlx:pendulum"])
def test_ten_thousand_rows_take_no_time(name):
    reward, rng = reward_of(name), np.random.default_rng(0)
    physics = rng.normal(size=(10_000, reward.size)).astype(np.float32)
    action = rng.uniform(-1, 1, (10_000, *reward.spec.action.shape)).astype(np.float32)
    reward(physics, action, physics)
    begun = time.process_time()
    assert np.isfinite(reward(physics, action, physics)).all()
    assert time.process_time() - begun < 1  # measured: 0.01 to 0.03 s


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dmc:fish-swim", {}, "places geom_pos anew"),
        ("dmc:finger-turn_easy", {}, "site_pos"),
        ("gym:HalfCheetah-v4", {}, "known of dmc: and rlx:"),
        ("rlx:probe-constant", {}, "equations of motion"),
        ("rlx:pendulum", {"repeat": 2}, "give 1"),
        ("rlx:pendulum", {"host": True}, "leave out host"),
        ("dmc:walker-fly", {}, "unknown"),
    ],
)
def test_what_has_no_reward_of_its_physics_says_why(name, options, message):
    with pytest.raises(ValueError, match=message):
        reward_of(name, **options)


def test_forces_are_no_part_of_the_physics():
    """A reward of dm_control that reads a sensor of contacts, which the step before has left."""
    with pytest.raises(ValueError, match="forces of the step before"):
        reward_of("dmc:dog-stand")


def test_other_physics_are_refused():
    reward, (episode, *_) = reward_of("dmc:walker-walk"), episodes_of("rlx:pendulum", steps=3, streams=1)
    assert isinstance(reward, Reward)
    with pytest.raises(ValueError, match=r"physics \[N, 18\]"):
        reward.of_episode(episode)
    with pytest.raises(ValueError, match="hold no physics"):
        reward.of_episode(episode._replace(info={}))
