"""Success in enough decisions, and forces, of Gymnasium environments that do not tell them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import rlx.envs
from rlx.envs.gym_outcomes import FORCES, TellsForces
from rlx.envs.outcomes import LEAVES
from tests.envs import foreign
from tests.envs.test_border import HERE, play

mujoco = pytest.importorskip("mujoco")


# ------------------------------------------------------------------------------------------------------------------ success


@pytest.mark.parametrize("how", [{}, {"vectorize": "sync"}, {"repeat": 2}])
def test_five_decisions_in_success_are_solved(how):
    env = rlx.envs.make(f"{HERE}Blinks-v0", **how)
    assert env.spec.info["solved"] == LEAVES["solved"]
    count = 20 // env.spec.repeat
    rows = play(env, steps=2 * count + 1)  # two episodes
    done = np.reshape([t in foreign.Blinks.DONE for t in range(1, 21)], (count, -1)).any(1)
    for start in (0, count + 1):
        told = {k: v[start : start + count + 1, 0] for k, v in rows.info.items()}
        np.testing.assert_array_equal(told["success"], [False, *done])
        np.testing.assert_array_equal(told["solved"], [False, *(np.cumsum(done) >= 5)])
        first = int(np.argmax(done))  # it is done in the second of twenty decisions, or the first of ten
        np.testing.assert_array_equal(told["solved_sticky"], [False, *(np.arange(count) >= first + 4)])
    assert done.sum() == (6 if env.spec.repeat == 2 else 7)


def test_an_episode_that_terminates_in_success_is_solved():
    rows = play(rlx.envs.make(f"{HERE}LateSuccess-v0"), steps=foreign.LENGTH)
    for name in ("solved", "solved_sticky"):
        assert rows.terminated[-1].all() and rows.info[name][:, 0].tolist() == [False] * foreign.LENGTH + [True]


def test_what_is_asked_for_is_the_environment_s_own():
    env = rlx.envs.make(f"{HERE}Blinks-v0", info_keys={"solved": "any"})
    assert not play(env, steps=20).info["solved"].any()


# ------------------------------------------------------------------------------------------------------------------- forces

XML = """
<mujoco>
  <option timestep="0.002" cone="{cone}"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1"/>
    <body pos="0 0 0.1"><freejoint/><geom type="box" size="0.1 0.2 0.1" mass="3"/></body>
    <body pos="2 0 1"><joint name="a" axis="0 1 0" damping="9"/><geom size="0.05" pos="0.3 0 0" mass="1" contype="0" conaffinity="0"/></body>
    <body pos="3 0 1"><joint name="b" axis="0 1 0" damping="9"/><geom size="0.05" pos="0.3 0 0" mass="1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator>
    <motor joint="a" gear="7" ctrllimited="true" ctrlrange="-2 2"/>
    <position joint="b" kp="10" forcelimited="true" forcerange="-5 5"/>
    <position joint="b" kp="1" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""  # noqa: E501


class Table(gymnasium.Env):
    """A box of 3 kg on the floor, and two arms."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-9, 9, (3,))

    def __init__(self, cone):
        self.model = mujoco.MjModel.from_xml_string(XML.format(cone=cone))
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        mujoco.mj_resetData(self.model, self.data)
        return np.zeros(1), {"torque": "its own"}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=300)
        return np.zeros(1), 0.0, False, False, {}


@pytest.mark.parametrize("cone", ["elliptic", "pyramidal"])
def test_forces_are_those_of_the_model(cone):
    env = TellsForces(Table(cone), "x")
    assert env.reset()[1]["torque"] == 0
    info = env.step(np.zeros(3))[-1]
    assert info["contact_force"] == pytest.approx(3 * 9.81, rel=1e-3) and env.unwrapped.data.ncon == 4  # a box stands on four
    motor, b = 1.5, env.unwrapped.data.qpos[8]
    info = env.step(np.array([motor, b, 1.0]))[-1]  # the third's control is at its bound, what it can give has none
    assert not info["saturation"]
    b = float(env.unwrapped.data.qpos[8])
    env.unwrapped.data.ctrl[:] = motor, b + 0.1, 0
    mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
    expected = np.hypot(7 * motor, 10 * 0.1 - b)
    assert env._extended({})["torque"] == pytest.approx(expected, rel=1e-6)
    for ctrl, full in (((2, b, 0), True), ((-2, b, 0), True), ((1.99, b, 0), False), ((0, 9, 0), True), ((0, -9, 0), True)):
        env.unwrapped.data.ctrl[:] = ctrl
        mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
        assert env._extended({})["saturation"] is full, ctrl


def test_a_force_above_the_limit_is_a_violation():
    """Of a box of 3 kg that lies on the floor, 29.43 N, and is pulled up, or pressed down, by some more."""
    env = TellsForces(Table("elliptic"), "x", limit=30.0)
    assert env.reset()[1]["violation"] is False
    for pull, force in ((0, 29.43), (10, 19.43), (-10, 39.43), (0, 29.43), (-0.3, 29.73), (-0.8, 30.23)):
        env.unwrapped.data.xfrc_applied[1, 2] = pull
        info = env.step(np.zeros(3))[-1]
        assert info["contact_force"] == pytest.approx(force, abs=0.05) and info["violation"] is (force > 30), pull
    assert "violation" not in TellsForces(Table("elliptic"), "x").step(np.zeros(3))[-1]


@pytest.mark.parametrize("how", [{}, {"repeat": 2}, {"vectorize": "sync"}])
def test_violations_are_told_where_a_limit_is_given(how):
    env = rlx.envs.make("gym:Hopper-v5", time_limit=30, forces=True, force_limit=20, **how)
    assert env.spec.info == {k: LEAVES[k] for k in (*FORCES, "violation")}
    info = play(env, 1.0, 30).info
    np.testing.assert_array_equal(info["violation"], info["contact_force"] > 20)
    assert info["violation"].any() and not info["violation"].all() and not info["violation"][0].any()


def test_forces_are_an_option_and_change_nothing_else():
    plain, told = (rlx.envs.make("gym:Hopper-v5", time_limit=30, **how) for how in ({}, {"forces": True}))
    assert plain.spec.info == {} and told.spec.info == {k: LEAVES[k] for k in FORCES}
    a, b = play(plain, 1.0, 30), play(told, 1.0, 30)
    np.testing.assert_array_equal(a.obs, b.obs)
    np.testing.assert_array_equal(a.reward, b.reward)
    assert b.info["saturation"][1:].any() and (b.info["torque"][1] > 1).all() and b.info["contact_force"].max() > 1
    assert rlx.envs.check(told, steps=10, episodes=1).exact_resume
    sync = play(rlx.envs.make("gym:Hopper-v5", time_limit=30, forces=True, vectorize="sync"), 1.0, 30)
    for name in FORCES:
        assert sync.info[name].dtype == b.info[name].dtype and sync.info[name][1].any() == b.info[name][1].any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gym:Pendulum-v1", {"forces": True}, "gym:Pendulum-v1: forces=true is for environments on MuJoCo .*; leave it out"),
        ("gym:CartPole-v1", {"forces": True, "vectorize": "native"}, "forces are true or false, and not of 'native'"),
        ("gym:Hopper-v5", {"forces": "yes"}, "forces='yes'.*true or false"),
        ("gym:Hopper-v5", {"force_limit": 100}, "force_limit=100, forces=False; a limit is in newtons.* give both, or leave"),
        ("gym:Hopper-v5", {"forces": True, "force_limit": -1}, "force_limit=-1, forces=True; a limit is in newtons, above 0"),
        ("gym:Hopper-v5", {"forces": True, "force_limit": "hard"}, "force_limit='hard', .*a limit is in newtons"),
    ],
)
def test_what_has_no_forces_says_so(name, options, message):
    with pytest.raises(ValueError, match=message):
        rlx.envs.make(name, **options)
