"""The pushing task in MuJoCo: its forces against MuJoCo's own, its commands in numbers, and who solves it."""

from __future__ import annotations

import jax
import mujoco
import numpy as np
import pytest

import rlx.envs
from rlx.envs.control import push_lite as lite
from rlx.keys import HostKey


@pytest.fixture(scope="module")
def model():
    return lite.TASK.model()


def begun(model, finger=(0, 0.33, 0.06), puck=(0, 0.14, 0.031)):
    data = mujoco.MjData(model)
    data.qpos[:] = [*finger, *puck, 1, 0, 0, 0]
    lite.ready(data)
    mujoco.mj_forward(model, data)
    return data


def told(model, data, target):
    return dict(zip(lite.INFO, lite.move(model, data, np.array(target)), strict=True))


def test_the_command_follows_a_quarter_of_the_way_within_reach(model):
    data = begun(model)
    told(model, data, (0.4, -0.4, 0.06))
    np.testing.assert_allclose(data.ctrl, [0.0375, 0.33 - 0.0375, 0.06], atol=1e-12)
    finger = data.qpos[:3].copy()
    told(model, data, (0.4, -0.4, 0.06))
    expected = 0.25 * np.clip([0.4, -0.4, 0.06], finger - 0.15, finger + 0.15) + 0.75 * np.array([0.0375, 0.2925, 0.06])
    np.testing.assert_allclose(data.ctrl, expected, atol=1e-12)


def test_contact_force_is_the_sum_of_normal_forces_on_the_finger(model):
    """Against MuJoCo's list of contacts, at each physics step of a decision that presses the puck against a wall."""
    data = begun(model, finger=(0, -0.33, 0.02), puck=(0, -0.385, 0.031))
    twin, most, wrench = begun(model, finger=(0, -0.33, 0.02), puck=(0, -0.385, 0.031)), 0.0, np.zeros(6)
    finger = model.geom("finger").id
    twin.ctrl[:] = 0.25 * np.array([0, -0.4, 0.02]) + 0.75 * twin.ctrl
    for _ in range(lite.SUBSTEPS):
        mujoco.mj_step(model, twin)
        total = 0.0
        for k, contact in enumerate(twin.contact):
            mujoco.mj_contactForce(model, twin, k, wrench)
            total += wrench[0] * (finger in contact.geom)
        most = max(most, total)
    said = told(model, data, (0, -0.4, 0.02))
    assert said["contact_force"] == pytest.approx(most, rel=1e-9) and most > 20
    np.testing.assert_array_equal(data.qpos, twin.qpos)


def test_pressing_into_the_table_is_a_violation(model):
    """A command 5 cm below it pulls with 4000 N/m, and the finger's weight is added; the table gives way by 3 mm."""
    data = begun(model, finger=(0.2, 0, 0.001))
    for _ in range(20):
        said = told(model, data, (0.2, 0, -0.05))
    assert said["contact_force"] == pytest.approx(4000 * (data.qpos[2] - data.ctrl[2]) + 1.5 * 9.81, rel=1e-3)
    assert said["violation"] and data.qpos[2] == pytest.approx(-0.003, abs=5e-4)
    assert not said["saturation"] and said["jerk"] < 1
    np.testing.assert_allclose(data.ctrl, [0.2, 0, -0.05], atol=1e-3)


def test_torque_is_the_norm_of_what_the_controllers_give(model):
    """By the law of position control at each physics step; and of a finger that hangs still it is its weight."""
    data, twin, target = begun(model), begun(model), np.array([0.1, 0.2, 0.0])
    twin.ctrl[:], most = 0.25 * target + 0.75 * twin.ctrl, 0.0
    for _ in range(lite.SUBSTEPS):
        force = np.clip(4000 * (twin.ctrl - twin.qpos[:3]) - 150 * twin.qvel[:3], -300, 300)
        mujoco.mj_step(model, twin)
        most = max(most, np.linalg.norm(force))
    assert told(model, data, target)["torque"] == pytest.approx(most, rel=1e-9) and most > 100
    for _ in range(40):
        said = told(model, data, (0.1, 0.2, 0.06))
    assert said["torque"] == pytest.approx(1.5 * 9.81, rel=1e-3)


def test_saturation_and_jerk(model):
    """At 3 m/s damping alone asks for 450 N of the 300. From rest to falling at 9.81 m/s^2 in 0.08 s is a jerk of 122.6."""
    data = begun(model)
    data.qvel[0] = 3
    assert told(model, data, (0, 0.33, 0.06))["saturation"]
    model = lite.TASK.model()
    model.actuator_gainprm[:], model.actuator_biasprm[:], model.dof_damping[:] = 0, 0, 0
    data = begun(model, finger=(0.2, 0, 0.9))
    data.qacc_warmstart[:] = 0
    assert told(model, data, (0.2, 0, 0.9))["jerk"] == pytest.approx(9.81 / 0.08, rel=1e-6)
    assert told(model, data, (0.2, 0, 0.9))["jerk"] == pytest.approx(0, abs=1e-6)


def test_success_is_of_the_moment_and_solved_from_five_on(model):
    data = begun(model, puck=(0.03, -0.2, 0.031))
    said = [told(model, data, (0, 0.33, 0.06)) for _ in range(5)]
    assert [x["success"] for x in said] == [True] * 5 and [bool(x["solved"]) for x in said] == [False] * 4 + [True]
    assert not told(model, begun(model, puck=(0.06, -0.2, 0.031)), (0, 0.33, 0.06))["success"]


def test_sticky_success_counts_from_the_first_decision_in_the_goal_on(model):
    data, said = begun(model, puck=(0.03, -0.2, 0.031)), []
    for place in (0.03, 0.1, 0.1, 0.1, 0.1, 0.03):
        data.qpos[3] = place
        said.append(told(model, data, (0, 0.33, 0.06)))
    assert [x["success"] for x in said] == [True, False, False, False, False, True]
    assert [bool(x["solved_sticky"]) for x in said] == [False] * 4 + [True] * 2 and not any(x["solved"] for x in said)
    data = begun(model, puck=(0.1, -0.2, 0.031))
    assert not any(told(model, data, (0, 0.33, 0.06))["solved_sticky"] for _ in range(6))


def played(act, episodes, observe="privileged"):
    """Per episode: solved, violations per decision, the greatest force."""
    env = rlx.envs.make("rlx:push-lite", observe=observe)
    vec, key, rng = env.make(episodes, "stop"), HostKey.of(jax.random.key(0), episodes), np.random.default_rng(0)
    state, step = vec.reset(None, key)
    steps = []
    for t in range(50):
        state, step = vec.step(None, state, act(step.obs, rng).astype(np.float32), key.at(t + 1))
        steps.append(step)
    assert step.truncated.all() and not steps[-2].last.any()
    solved, violated = (np.stack([s.info[k] for s in steps]) for k in ("solved", "violation"))
    return solved.any(0), violated.mean(0), np.stack([s.info["contact_force"] for s in steps]).max(0)


@pytest.mark.slow
def test_script_solves_it_and_wide_actions_press():
    solved, violated, _ = played(lambda obs, rng: lite.expert(np, obs[:, :3], obs[:, 9:11]), 20)
    assert solved.mean() >= 0.95 and violated.max() == 0
    solved, violated, force = played(lambda obs, rng: 2 * rng.normal(size=(len(obs), 3)), 20, observe="proprio")
    assert solved.mean() == 0 and 0.02 < violated.mean() < 0.08 and 150 < force.max() < 300


def test_the_two_observations_and_the_physics():
    env = rlx.envs.make("rlx:push-lite", observe="proprio", physics=True)
    assert env.spec.obs.shape == (9,) and env.spec.info["physics"].shape == (19,) and env.spec.horizon == 50
    vec = env.make(2, "reset")
    _, step = vec.reset(None, HostKey.of(jax.random.key(3), 2))
    np.testing.assert_allclose(step.obs[:, :3], step.info["physics"][:, :3])
    np.testing.assert_allclose(step.obs[:, 6:], step.obs[:, :3])  # the command begins at the finger
    assert (np.abs(step.info["physics"][:, 3]) <= 0.08).all() and not step.info["contact_force"].any()
    with pytest.raises(ValueError, match="observe='pixels'"):
        rlx.envs.make("rlx:push-lite", observe="pixels")


def test_two_cameras_see_the_puck_where_it_is():
    """From 1.3 m above with 45 degrees, the puck's top at 0.061 m is seen at x / (1.239 tan 22.5) of half the picture."""
    env = rlx.envs.make("rlx:push-lite", pixels="sdf", camera=["top", "right"], observe="proprio", image=64)
    assert env.spec.obs["pixels"].shape == (64, 64, 6) and env.spec.obs["state"].shape == (9,)
    vec = env.make(2, "stop")
    state, step = vec.reset(vec.params, HostKey.of(jax.random.key(0), 2))
    puck = np.stack([d.qpos[3:5] for d in state.env.data])
    for image, place in zip(np.float64(step.obs["pixels"]), puck, strict=True):
        for k in (3, 0):
            red, green, blue = (image[..., k + i] for i in range(3))
            rows, columns = np.nonzero((blue > 100) & (green < 0.65 * blue) & (red < 0.6 * blue))
            assert 8 < len(rows) < 200
        seen = np.array([columns.mean(), -rows.mean()]) * 2 / 63 + [-1, 1]
        np.testing.assert_allclose(seen, place / (1.239 * np.tan(np.pi / 8)), atol=0.04)
