"""The state of the physics, stored with the rows."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

import rlx.envs
from rlx.envs.base import batch, begin, rollout
from rlx.envs.options import NoPhysics
from rlx.types import PHYSICS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no batched task in rlx"),
    pytest.mark.filterwarnings("ignore:.*is out of date"),
]


def rows_of(env, steps=6, streams=2, seed=0):
    """Rows [T, W] under the same actions for the same seed."""
    vec = batch(env, streams)
    taken = np.random.default_rng(seed).uniform(-1, 1, (steps, streams, *env.spec.action.shape)).astype(np.float32)
    if env.host:
        count = iter(range(steps))
        policy = lambda carry, step, key: (taken[next(count)], (), {})
        start = begin(vec, vec.params, (), jax.random.key(seed))
        rows = rollout(vec, vec.params, policy, start, jax.random.key(seed + 1), steps)[1]
    else:
        policy = lambda t, step, key: (jax.numpy.asarray(taken)[t], t + 1, {})
        start = begin(vec, vec.params, 0, jax.random.key(seed))
        rows = jax.jit(lambda s, k: rollout(vec, vec.params, policy, s, k, steps)[1])(start, jax.random.key(seed + 1))
    vec.close()
    return jax.tree.map(np.asarray, rows)


NAMES = [
    ("rlx:pendulum", 2),
    ("rlx:cstr", None),
    ("dmc:reacher-easy", 2 + 2 + 2),  # with where the target is
    ("dmc:walker-walk", 9 + 9),
    ("dmc:ball_in_cup-catch", 4 + 4),  # by dm_control's own loop
    ("gym:HalfCheetah-v4", 9 + 9),
]


@pytest.mark.parametrize(("name", "size"), NAMES)
def test_physics_is_stored_and_changes_no_other_bit(name, size):
    plain, told = rlx.envs.make(name, time_limit=4), rlx.envs.make(name, time_limit=4, physics=True)
    a, b = rows_of(plain), rows_of(told)
    if not plain.host:  # compiled whole, XLA fuses and rounds by what else is asked for
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a._replace(info={}), b._replace(info={}))
        with jax.disable_jit():
            a, b = rows_of(plain), rows_of(told)
    physics = b.info.pop(PHYSICS)
    assert physics.dtype == np.float32 and size in (None, physics.shape[-1])
    assert told.spec.info[PHYSICS].shape == physics.shape[2:]
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert a.last.any() and np.abs(np.diff(physics, axis=0)).max() > 0


def test_physics_is_mujocos_own():
    walker, reacher, cheetah = (
        rows_of(rlx.envs.make(n, time_limit=4, physics=True)) for n, _ in (NAMES[3], NAMES[2], NAMES[5])
    )
    np.testing.assert_allclose(walker.info[PHYSICS][..., 9:], walker.obs[..., -9:], rtol=1e-6)  # qvel
    finger = reacher.info[PHYSICS]
    np.testing.assert_allclose(finger[..., :2], reacher.obs[..., :2], rtol=1e-6)  # qpos
    length = np.linalg.norm(finger[..., 4:], axis=-1)  # of the target from the shoulder
    assert ((length > 0.05) & (length < 0.2)).all()
    np.testing.assert_allclose(cheetah.info[PHYSICS][..., 1:], cheetah.obs, rtol=1e-6)  # without x


def test_a_plants_physics_is_its_state():
    rows = rows_of(rlx.envs.make("rlx:pendulum", time_limit=4, physics=True))
    angle, rate = np.moveaxis(rows.info[PHYSICS], -1, 0)
    np.testing.assert_allclose(rows.obs, np.stack([np.cos(angle), np.sin(angle), rate], -1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("brax:ant", {}, "only rlx:, dmc:, gym:"),
        ("gym:Pendulum-v1", {}, "no environment on MuJoCo"),
        ("rlx:probe-constant", {}, "equations of motion"),
        ("gym:CartPole-v1", {"vectorize": "native"}, "no state of their own"),
    ],
)
def test_what_has_no_physics_says_so(name, options, why):
    with pytest.raises(NoPhysics, match=why):
        rlx.envs.make(name, physics=True, **options)


def test_physics_is_a_switch():
    with pytest.raises(ValueError, match="true or false"):
        rlx.envs.make("rlx:pendulum", physics="yes")
    assert PHYSICS not in rlx.envs.make("rlx:pendulum", physics=False).spec.info


def test_physics_passes_the_checker_and_comes_through_processes_and_vectors():
    for name, options in (("dmc:cartpole-swingup", {}), ("rlx:point-mass", {"host": True}), ("gym:Hopper-v4", {})):
        assert rlx.envs.check(rlx.envs.make(name, physics=True, time_limit=5, **options), steps=10, episodes=1).exact_resume
    sync = rows_of(rlx.envs.make("gym:Hopper-v4", physics=True, time_limit=4, vectorize="sync"))
    np.testing.assert_array_equal(sync.info[PHYSICS][..., 1:], sync.obs)  # without x
    many = rows_of(rlx.envs.make("dmc:point_mass-easy", physics=True, workers=2))
    np.testing.assert_array_equal(many.info[PHYSICS], many.obs)
