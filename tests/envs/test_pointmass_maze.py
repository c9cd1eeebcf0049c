"""The point-mass maze against MuJoCo with the same bodies, and its tasks against numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rlx.envs
from rlx.envs import tasks
from rlx.envs.control import pointmass_maze as maze
from rlx.envs.rewards import reward_of
from rlx.keys import HostKey
from rlx.types import PHYSICS


@pytest.fixture(scope="module")
def both():
    """(ours, MuJoCo's): functions of a start [4], an action [2] and a number of steps that give states [steps, 4]."""
    model = tasks.get("point_mass_maze-loop").model()

    def theirs(x, action, steps):
        data, out = mujoco.MjData(model), []
        data.qpos[:], data.qvel[:], data.ctrl[:] = x[:2], x[2:], action
        for _ in range(steps):
            mujoco.mj_step(model, data)
            out.append(np.r_[data.qpos, data.qvel])
        return np.array(out)

    scan = jax.jit(lambda x, u: jax.lax.scan(lambda x, _: (maze.advance(maze.PARAMS, x, u),) * 2, x, None, 600)[1])

    def ours(x, action, steps):
        with jax.enable_x64(True):
            return np.asarray(scan(jnp.float64(x), jnp.float64(action)))[:steps]

    return ours, theirs


def test_free_motion_is_mujocos(both):
    start, action = (-0.2, 0.2, 0, 0), (1, -0.5)
    ours, theirs = (step(start, action, 20) for step in both)
    np.testing.assert_allclose(ours[0, 2:], [0.00625, -0.003125], atol=1e-12)
    np.testing.assert_allclose(ours[-1], [-0.18174824, 0.19087412, 0.07249412, -0.03624706], atol=5e-9)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("start", "action"),
    [
        ((-0.25, 0.0, 0, 0), (1, 0)),  # the end of an arm
        ((-0.1, 0.1, 0, 0), (0, -1)),  # its side
        ((-0.1, 0.1, 0, 0), (-0.9, -0.3)),  # along, with little pressure, and past its end to the left limit
        ((0.1, -0.2, 0, 0), (1, -1)),  # the corner of the arena
        ((-0.2, 0.28, 0, 0), (1, 1)),  # along the upper limit, which does not rub
    ],
)
def test_it_comes_to_rest_where_mujocos_ball_does(both, start, action):
    ours, theirs = (step(start, action, 600) for step in both)
    np.testing.assert_allclose(ours[-1, :2], theirs[-1, :2], atol=5e-4)
    assert np.abs(ours - theirs)[:, :2].max() < 4e-3  # on the way there, at impacts: 2 steps at full speed


def test_the_end_of_the_arm_stops_the_ball_where_the_specification_says(both):
    assert both[0]((-0.25, 0.0, 0, 0), (1, 0), 600)[-1, 0] == pytest.approx(-0.190, abs=5e-4)


def test_walls_rub_as_mujocos_do(both):
    """Pressed hard the ball sticks to the arm; MuJoCo's, whose contacts are soft, slides on for some millimetres and then
    creeps by 0.7 mm a second. In the corner of the cross that brings it those tenths of a millimetre further."""
    start, action = (-0.1, 0.1, 0, 0), (0.5, -1)
    ours, theirs = (step(start, action, 100) for step in both)
    assert np.abs(ours - theirs)[:, :2].max() < 5e-3
    np.testing.assert_array_equal(ours[-1, 2:], 0)
    assert np.abs(theirs[-1, 2:]).max() < 1e-3
    ours, theirs = (step((-0.1, 0.1, 0, 0), (1, -1), 400)[-1] for step in both)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_no_action_leads_into_a_wall():
    env = rlx.envs.make("rlx:pointmass-maze", starts="uniform", time_limit=400)
    vec = rlx.envs.batch(env, 64)

    def policy(carry, step, key):
        held = jnp.where(jax.random.uniform(key, (64, 1)) < 0.05, jax.random.uniform(key, (64, 2), minval=-1, maxval=1), carry)
        return held, held, {}

    begun = rlx.envs.begin(vec, env.params, jnp.zeros((64, 2)), jax.random.key(0))
    rows = jax.jit(lambda b: rlx.envs.rollout(vec, env.params, policy, b, jax.random.key(1), 300)[1])(begun)
    place = np.float64(rows.obs[..., :2]).reshape(-1, 2)
    assert maze.free(np, place * (1 + 1e-6)).all() and np.abs(place).max() <= np.float32(maze.LIMIT)
    for sides in ((-1, 1), (1, 1), (-1, -1), (1, -1)):  # uniform starts see all four rooms
        assert ((place * sides > 0.05).all(-1)).mean() > 0.1


def test_starts():
    reset = jax.jit(jax.vmap(rlx.envs.make("rlx:pointmass-maze").reset, (None, 0)))
    obs = np.asarray(reset(maze.PARAMS, jax.random.split(jax.random.key(0), 500))[1].obs)
    assert obs[:, 0].min() >= -0.29 and obs[:, 0].max() <= -0.15 and obs[:, 1].min() >= 0.15 and obs[:, 1].max() <= 0.29
    np.testing.assert_array_equal(obs[:, 2:], 0)


def test_rewards_of_the_tasks():
    still, full = np.zeros(2), np.ones(2)
    at = lambda x, y, v=0.0, w=0.0: np.array([x, y, v, w])
    score = lambda name, obs, action=still: float(maze.SCORES[name](np, obs, action))
    for room, place in maze.ROOMS.items():
        assert score(f"reach_{room}", at(*place)) == 1
        assert score(f"reach_{room}", at(*place), full) == pytest.approx(0.8)
        assert score(f"reach_{room}", at(place[0] + 0.105, place[1])) == pytest.approx(0.1)  # a margin beyond the bound
        assert score(f"reach_{room}", at(place[0], place[1] - 0.06)) == pytest.approx(0.1 ** (0.045 / 0.09) ** 2)
    assert score("reach_bottom_left_long", at(-0.15, -0.15)) == 1
    assert score("reach_bottom_left_long", at(-0.25, 0.0)) == pytest.approx(score("reach_bottom_left", at(-0.25, 0.0)) - 1)
    assert score("loop", at(0, 0.2, 0.1, 0)) == pytest.approx(1)  # above, to the right: clockwise
    assert score("loop", at(0.2, 0, 0, 0.1)) == 0
    assert score("square", at(0.2, 0, 0, -0.05)) == pytest.approx(0.5)
    assert score("square", at(0.27, 0, 0, -0.1)) == pytest.approx(0.1)  # a margin outside
    assert score("fast_slow", at(0, 0.2, 0.09, 0)) == 1 and score("fast_slow", at(0, 0.2, 0.045, 0)) == pytest.approx(0.5)
    assert score("fast_slow", at(0, -0.2, 0.03, 0)) == 1 and score("fast_slow", at(0, -0.2, 0.09, 0)) == 0


def test_the_task_is_a_parameter_and_each_is_scored_from_observations_alone():
    env = rlx.envs.make("rlx:pointmass-maze", task="loop")
    assert list(env.spec.tasks)[int(env.params["task"])] == "loop"
    state, _ = env.reset(env.params, jax.random.key(3))
    action = jnp.array([0.3, -0.8])
    paid = jax.vmap(lambda i: env.step({**env.params, "task": i}, state, action, jax.random.key(0))[1])(jnp.arange(8))
    told = [float(t.score(jnp, paid.obs[i], action)) for i, t in enumerate(env.spec.tasks.values())]
    np.testing.assert_allclose(paid.reward, told, atol=1e-6)
    rows = np.random.default_rng(0).normal(size=(5, 3, 4)) * 0.1
    for task in env.spec.tasks.values():
        assert np.shape(task.score(np, rows, np.zeros((5, 3, 2)))) == (5, 3)
    with pytest.raises(ValueError, match="task='run' of"):
        rlx.envs.make("rlx:pointmass-maze", task="run")


def test_in_mujoco_it_is_the_same_world():
    """`dmc:` beside `rlx:`: starts, motion clear of walls, what is paid while it plays, and of stored physics."""
    ours, theirs = (
        rlx.envs.make("rlx:pointmass-maze", task="fast_slow"),
        rlx.envs.make("dmc:point_mass_maze-fast_slow", physics=True),
    )
    assert (theirs.spec.obs, theirs.spec.action, theirs.spec.horizon) == (ours.spec.obs, ours.spec.action, ours.spec.horizon)
    vec = theirs.make(16, "reset")
    key = HostKey(np.array([[3, 4]], np.uint32), 16)
    state, step = vec.reset(None, key)
    assert (np.abs(step.obs[:, :2] - [-0.22, 0.22]) <= 0.07 + 1e-6).all() and len(np.unique(step.obs[:, 0])) == 16
    move = jax.jit(lambda x, u: jax.vmap(maze.advance, (None, 0, 0))(maze.PARAMS, x, u))
    inwards = np.array([1, -1]) * np.random.default_rng(0).uniform(0, 1, (16, 2))
    x, action = jnp.asarray(step.obs), inwards.astype(np.float32)
    for t in range(40):
        state, step = vec.step(None, state, action, key.at(t + 1))
        x = move(x, action)
        np.testing.assert_allclose(step.obs, x, atol=1e-5)
        np.testing.assert_allclose(step.reward, maze.SCORES["fast_slow"](np, np.asarray(x), action), atol=1e-3)
    for name, score in maze.SCORES.items():
        paid = reward_of(f"dmc:point_mass_maze-{name}")(step.info[PHYSICS], action)
        np.testing.assert_allclose(paid, np.broadcast_to(score(np, step.obs, action), 16), atol=1e-5)
    vec.close()
