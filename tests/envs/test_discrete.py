"""Actions that are one of n choices: on the device, from Gymnasium, in workers and vector environments, saved and loaded."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import replay
from rlx.envs import actions
from rlx.envs.probes import DISCRETE_PROBES
from rlx.keys import HostKey
from rlx.train import Options, run
from rlx.types import Agent, AgentState, Collect, Leaf, Problem, Spec, Stage

KEY = HostKey(np.array([[3, 4]], np.uint32), 2)


class Teller(gymnasium.Env):
    """Rewards are the actions that it was given; an episode takes 3."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        assert {action: True}, "a choice must be hashable, as tables are indexed by it"
        self.t += 1
        return np.zeros(1, np.float32), float(action), self.t == 3, False, {}


SPACES = {
    "Choices": gymnasium.spaces.Discrete(3, start=5),
    "Several": gymnasium.spaces.MultiDiscrete([2, 3]),
    "Bits": gymnasium.spaces.MultiBinary(4),
    "Unbounded": gymnasium.spaces.Box(-np.inf, np.inf, (1,)),
}
for name, space in SPACES.items():
    gymnasium.register(f"Test{name}-v0", entry_point=lambda space=space, **_: Teller(space))


def at_random(vec, key):
    policy = lambda carry, step, k: (actions.sample(vec.spec, jax.random.wrap_key_data(k) if vec.host else k, vec.n), carry, {})
    if vec.host:
        policy = jax.jit(policy)
    return rlx.envs.rollout(vec, vec.params, policy, rlx.envs.begin(vec, vec.params, (), key), key, 20)[1:]


def test_which_leaves_are_choices():
    assert Leaf((), np.int32, 0, 4).choices == 5 and Leaf((), np.uint8, 0, 1).choices == 2
    for other in (Leaf((1,), np.int32, 0, 4), Leaf((), np.float32, 0, 4), Leaf((), np.int32), Leaf((), np.int32, 0)):
        assert other.choices is None


@pytest.mark.parametrize("name", ["rlx:probe-discrete", "gym:CartPole-v1", "gym:TestChoices-v0"])
def test_choices_stay_whole_numbers_in_rows(name):
    env = rlx.envs.make(name)
    rows, tail = at_random(rlx.envs.batch(env, 4), jax.random.key(0))
    action, last = np.asarray(rows.action), np.asarray(rows.last)
    assert action.dtype == np.int32 and action.shape == (20, 4) and tail.action.dtype == np.int32
    assert set(np.unique(action[~last])) == set(range(env.spec.action.choices)) and not action[last].any() and last.any()
    assert rlx.envs.check(env).exact_resume


def test_cartpole_steps_as_gymnasiums():
    spec = rlx.envs.make("gym:CartPole-v1").spec
    assert spec.action == Leaf((), np.int32, 0, 1) and spec.action.choices == 2 and spec.horizon == 500
    vec = rlx.envs.make("gym:CartPole-v1").make(2, "reset")
    state, first = vec.reset(None, KEY)
    theirs = gymnasium.make("CartPole-v1")
    obs, _ = theirs.reset(seed=KEY.seed(1) % 2**31)
    np.testing.assert_array_equal(first.obs[1], obs)
    for action in (0, 1, 1, 0, 1):
        state, step = vec.step(None, state, np.array([0, action], np.int32), KEY)
        obs, reward, *_ = theirs.step(action)
        np.testing.assert_array_equal(step.obs[1], obs)
        assert step.reward[1] == reward
    vec.close()


def test_choices_are_counted_from_0_and_given_from_start():
    env = rlx.envs.make("gym:TestChoices-v0")
    assert env.spec.action.choices == 3 and (env.spec.native_action.low, env.spec.native_action.high) == (5, 7)
    rows, _ = at_random(rlx.envs.batch(env, 2), jax.random.key(1))
    moved = ~rows.last[:-1]
    np.testing.assert_array_equal(rows.reward[1:][moved], 5 + rows.action[:-1][moved])


@pytest.mark.parametrize("how", [{"workers": 2}, {"vectorize": "sync"}, {"vectorize": "native"}])
def test_every_way_to_step_gives_the_same_rows(how):
    plain, other = (rlx.envs.make("gym:CartPole-v1", **options).make(2, "reset") for options in ({}, how))
    rng, out = np.random.default_rng(0), []
    given = rng.integers(0, 2, (12, 2)).astype(np.int32)
    for vec in (plain, other):
        state, step = vec.reset(None, KEY)
        steps = [step]
        for action in given:
            state, step = vec.step(None, state, action, KEY)
            steps.append(step)
        out.append(jax.tree.map(lambda *x: np.stack(x), *steps))
        vec.close()
    if how.get("vectorize") == "native":  # one seed for all streams: other starts
        assert out[1].obs.shape == out[0].obs.shape and (out[1].reward[1:] == 1).all()
    else:
        jax.tree.map(np.testing.assert_array_equal, *out)


@pytest.mark.parametrize(("name", "kind"), [("Several", "MultiDiscrete"), ("Bits", "MultiBinary")])
def test_other_action_spaces_are_refused_by_name(name, kind):
    with pytest.raises(ValueError, match=f"actions of the kind {kind}; rlx takes Box and Discrete actions"):
        rlx.envs.make(f"gym:Test{name}-v0")


@pytest.mark.parametrize(
    "leaf", [Leaf((), np.int64, 0, 2), Leaf((), np.int32, 1, 3), Leaf((), np.int32), Leaf((2,), np.int32, 0, 2)]
)
def test_the_checker_refuses_other_whole_numbers(leaf):
    env = rlx.envs.make("rlx:probe-discrete")

    def step(params, state, action, key):
        return env.step(params, state, jnp.int32(0), key)

    with pytest.raises(ValueError, match="rlx takes no other integers"):
        rlx.envs.check(replace(env, step=step, spec=replace(env.spec, action=leaf)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_choices_are_whole_numbers_in_runs_too(dtype):
    env = rlx.envs.make("rlx:probe-discrete")
    act = lambda state, clock, carry, step, key, mode: (jnp.ones(step.reward.shape, dtype), carry, {})
    agent = Agent(
        "one",
        None,
        {},
        lambda key, hyper: AgentState(hyper, {}),
        act,
        (Stage("act", 1, (Collect("train", 4, "replay"),)),),
        envs={"train": rlx.envs.batch(env, 2)},
        buffers={"replay": replay.ring(6, 2)},
    )
    go = lambda: run(agent, Problem({"train": env}), jax.random.key(0), options=Options(progress=False))
    if dtype == jnp.float32:
        with pytest.raises(ValueError, match="one acts with float32 .* takes one of 3 choices, int32 from 0 on"):
            go()
    else:
        stored = go().sources["replay"].data.action
        assert stored.dtype == np.int32 and np.asarray(stored)[:4].tolist() == [[1, 1], [0, 0]] * 2


def test_the_discrete_probe_pays_for_the_choice_that_the_observation_names():
    env, probe = rlx.envs.make("rlx:probe-discrete"), DISCRETE_PROBES["discrete"]
    for seed in range(4):
        state, step = env.reset((), jax.random.key(seed))
        right = probe.action(step.obs[0])
        for choice in range(3):
            arrived = env.step((), state, jnp.int32(choice), jax.random.key(0))[1]
            assert arrived.reward == (choice == right) and arrived.terminated


def test_random_actions_and_native_ones():
    native = Leaf((2,), np.float32, np.array([-2.0, 0]), np.array([2.0, 4]))
    box = Spec(Leaf(), Leaf((2,), low=-1, high=1), native_action=native)
    np.testing.assert_array_equal(actions.to_native(box, np.array([[-3, 0.5], [1, -1]])), [[-2, 3], [2, 0]])
    choice = Spec(Leaf(), Leaf((), np.int32, 0, 2), native_action=Leaf((), np.int64, -1, 1))
    given = actions.to_native(choice, np.array([0, 2], np.int32))
    assert given.dtype == np.int64 and given.tolist() == [-1, 1]
    drawn = actions.sample(choice, jax.random.key(0), 50)
    assert drawn.dtype == np.int32 and set(np.unique(drawn)) == {0, 1, 2}
