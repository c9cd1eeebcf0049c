"""`rlx.envs.check` passes what is right, and finds each fault that is planted."""

from __future__ import annotations

import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.envs import check
from rlx.types import Env, HostEnv, Leaf, Spec, Step
from tests.envs.counter import counter


def changed(reset=None, step=None, **spec) -> Env:
    """The counter with what ``reset`` or ``step`` returns, or its spec, changed."""
    env, same = counter(), lambda out: out
    return replace(
        env,
        reset=lambda p, k: (reset or same)(env.reset(p, k)),
        step=lambda p, s, a, k: (step or same)(env.step(p, s, a, k)),
        spec=replace(env.spec, **spec),
    )


def of_step(**changes):
    """Changes of the `Step` that ``reset`` or ``step`` returned with its state."""
    return lambda out: (out[0], out[1]._replace(**{k: f(out[1]) for k, f in changes.items()}))


def long(length: int, **changes) -> Env:
    """Counts to ``length``, then it is cut; each step is changed."""

    def arrive(t, first):
        step = Step(jnp.stack([t, t]).astype(jnp.float32), jnp.float32(t), t < 0, t >= length, jnp.bool_(first), {})
        return step._replace(**{k: f(step) for k, f in changes.items()})

    reset = lambda params, key: (jnp.int32(0), arrive(jnp.int32(0), True))
    step = lambda params, t, action, key: (t + 1, arrive(t + 1, False))
    spec = Spec(Leaf((2,), low=0, high=length), Leaf((1,), low=-1, high=1), {}, length)
    return Env("long", spec, (), reset, step)


def faults_of(env) -> list[str]:
    with pytest.raises(ValueError, match="does not keep the contract") as caught:
        check(env)
    return [line.removeprefix("- ") for line in str(caught.value).splitlines()[1:]]


def test_a_good_environment_passes():
    report = check(counter())
    assert report.exact_resume and report.episodes >= 4 and report.notes == ()


# ------------------------------------------------------------------------------------------------------- what rows must be

FAULTS = [
    ({"reward": lambda s: s.reward + 1.0}, "reward must be 0 at first rows"),
    ({"truncated": lambda s: s.truncated | s.terminated}, "terminated and truncated"),
    ({"obs": lambda s: s.obs.astype(jnp.float16)}, "float16"),
    ({"obs": lambda s: s.obs * 3 - 8}, "leaves its bounds"),
    ({"obs": lambda s: jnp.where(s.obs == 2, jnp.nan, s.obs)}, "not finite"),
    ({"first": lambda s: s.first | (s.obs[1] == 2)}, "first must be True exactly"),
    ({"first": lambda s: s.first & False}, "reset must give first=True"),
    ({"truncated": lambda s: s.truncated | s.first}, "a first row is already last"),
    ({"truncated": lambda s: s.truncated & False}, "took [0-9]+ decisions, Spec.horizon promises at most 4"),
    ({"truncated": lambda s: s.truncated | ((s.obs[1] == 2) & ~s.terminated)}, "truncated after 2 of 4 decisions"),
    ({"reward": lambda s: jnp.where(s.obs[1] == 3, jnp.nan, s.reward)}, "reward has values that are not finite, first after 3"),
    ({"info": lambda s: {"speed": s.reward}}, "info has leaves .*speed.*, Spec.info promises"),
    ({"obs": lambda s: {"a": s.obs}}, "obs has leaves .*'a'"),
    ({"obs": lambda s: jnp.concatenate([s.obs, s.obs])}, r"obs is float32\(4,\), Spec promises float32\(2,\)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_planted_faults_are_found(changes, message):
    with pytest.raises(ValueError, match=message):
        check(counter(**changes))


LATE = [
    ({"obs": lambda s: jnp.where(s.obs == 90, jnp.nan, s.obs)}, "obs has values that are not finite, first after 90 decisions"),
    ({"reward": lambda s: jnp.where(s.obs[0] == 99, jnp.inf, s.reward)}, "reward has values .* first after 99 decisions"),
    ({"obs": lambda s: s.obs + jnp.where(s.obs >= 95, 50, 0)}, "obs leaves its bounds"),
    ({"truncated": lambda s: s.obs[0] >= 97}, "truncated after 97 of 100 decisions"),
    ({"terminated": lambda s: s.obs[0] >= 100}, "a row is terminated and truncated"),
]


@pytest.mark.parametrize(("changes", "message"), LATE)
def test_what_comes_late_in_an_episode_is_found(changes, message):
    """Later than the rows that are looked at anyway."""
    assert any(re.search(message, fault) for fault in faults_of(long(100, **changes)))


def test_what_comes_in_a_second_episode_is_found():
    """A host environment that forgets to begin anew what it counts."""

    class Forgetful(Around):
        ends_seen = 0

        def step(self, params, state, action, key):
            state, step = self.vec.step(params, state, action, key)
            self.ends_seen += int(step.first.any())
            return state, step._replace(obs=np.where(self.ends_seen, np.nan, step.obs).astype(np.float32))

    assert any(re.search("obs has values that are not finite", fault) for fault in faults_of(hosted(Forgetful, 80)))


def test_two_whole_episodes_are_played_where_there_is_a_horizon():
    report = check(long(100))
    assert report.episodes >= 4 and report.rows >= 2 * 2 * 101
    few = check(long(100), episodes=0)
    assert few.rows == 2 * 60 and few.notes[-1].startswith("no episode ended in 60 decisions")


def test_endless_environments_say_that_no_end_was_seen():
    endless = long(10**6)
    report = check(replace(endless, spec=replace(endless.spec, horizon=None)))
    assert report.rows == 2 * 60 and any("no episode ended in 60 decisions" in note for note in report.notes)


def test_episodes_that_begin_alike_are_noted():
    assert check(long(9)).notes == ("another key gave the same first observations: episodes begin alike",)


def test_unclipped_actions_and_early_truncation_are_found():
    env = counter()

    def step(params, state, action, key):
        state, arrived = env.step(params, state, action, key)
        return state, arrived._replace(reward=arrived.reward + action[0])

    with pytest.raises(ValueError, match="Clip actions"):
        check(replace(env, step=step))
    with pytest.raises(ValueError, match="truncated after 4 of 9 decisions"):
        check(replace(env, spec=replace(env.spec, horizon=9)))


@pytest.mark.parametrize("leaf", [Leaf((1,), low=-2, high=2), Leaf((1,)), Leaf((1,), np.float64, low=-1, high=1)])
def test_actions_of_another_range_or_type_are_found(leaf):
    assert faults_of(changed(action=leaf))[0].startswith("Spec.action must be float32 from -1 to 1")


# ------------------------------------------------------------------------------------------------ types, before anything runs

VALUES = [
    ("reward", lambda s: s.reward.astype(jnp.float16), "gives reward as float16[], it must be float32[]"),
    ("reward", lambda s: s.reward.astype(jnp.int32), "gives reward as int32[], it must be float32[]"),
    ("reward", lambda s: s.reward[None], "gives reward as float32[1], it must be float32[]"),
    ("reward", lambda s: 0.0, "gives reward as a Python float: give an array of float32"),
    ("terminated", lambda s: s.terminated.astype(jnp.int32), "gives terminated as int32[], it must be bool[]"),
    ("truncated", lambda s: s.truncated.astype(jnp.float32), "gives truncated as float32[], it must be bool[]"),
    ("truncated", lambda s: False, "gives truncated as a Python bool: give an array of bool"),
    ("first", lambda s: s.first.astype(jnp.uint8), "gives first as uint8[], it must be bool[]"),
    ("info", lambda s: {"speed": 1.5}, "gives info['speed'] as a Python float: give an array"),
    ("obs", lambda s: 0.5, "gives obs as a Python float: give an array"),
]


@pytest.mark.parametrize("where", ["reset", "step"])
@pytest.mark.parametrize(("name", "value", "message"), VALUES)
def test_wrong_types_and_python_scalars_are_found(where, name, value, message):
    assert any(f.startswith(f"{where} {message}") for f in faults_of(changed(**{where: of_step(**{name: value})})))


CODE = [
    (lambda x: x if x > 0 else -x, "decides by a Python if, while, and, or or on a traced value (test_check.py, line "),
    (lambda x: x * 1.0 if (x > 0 and x < 3) else x, "decides by a Python if"),
    (lambda x: jnp.float32(float(x)), "makes a number or numpy array of a traced value (test_check.py, line "),
    (lambda x: jnp.float32(np.sin(x)), "makes a number or numpy array of a traced value"),
    (
        lambda x: jnp.float32([2.0, 3.0][x.astype(int)]),
        "counts by a traced value, or indexes a list by it (test_check.py, line ",
    ),
    (lambda x: jnp.float32(len(range(x.astype(int)))), "counts by a traced value, or indexes a list by it"),
    (lambda x: jnp.ones(2)[jnp.stack([x > 0, x > 1])].sum(), "picks by a traced mask, so the size is not known"),
]


@pytest.mark.parametrize("where", ["reset", "step"])
@pytest.mark.parametrize(("code", "message"), CODE)
def test_python_on_traced_values_is_found(where, code, message):
    faults = faults_of(changed(**{where: of_step(reward=lambda s: code(s.obs[0]))}))
    assert len(faults) == 1 and faults[0].startswith(f"{where} {message}")


def test_python_decisions_on_parameters_are_found():
    """Parameters are traced in runs, though as constants they would pass here."""
    env = counter()
    step = lambda p, s, a, k: env.step(p, s, a, k) if p["scale"] > 0 else env.step(p, s, -a, k)
    assert faults_of(replace(env, step=step))[0].startswith("step decides by a Python if")


STATES = [
    (lambda s: (s[0], s[1].astype(jnp.float32)), "the state[1] is int32[] after reset and float32[] after step"),
    (lambda s: (s[0][None], s[1]), "the state[0] is int32[] after reset and int32[1] after step"),
    (lambda s: {"start": s[0], "t": s[1]}, "the state has the arrays ['[0]', '[1]'] after reset and"),
    (lambda s: (s[0], 1.5), "the state[1] is int32[] after reset and a Python float after step"),
]


@pytest.mark.parametrize(("change", "message"), STATES)
def test_states_that_change_their_types_are_found(change, message):
    assert faults_of(changed(step=lambda out: (change(out[0]), out[1])))[0].startswith(message)


def test_observations_that_change_their_types_are_found():
    faults = faults_of(changed(step=of_step(obs=lambda s: s.obs.astype(jnp.int32))))
    assert faults == ["obs is float32[2] after reset and int32[2] after step. Loops carry it: make them the same."]


@pytest.mark.parametrize(("where", "wrong"), [("reset", lambda out: out[1]), ("step", lambda out: (*out, {}))])
def test_returning_something_else_is_found(where, wrong):
    assert faults_of(changed(**{where: wrong}))[0].startswith(f"{where} must return (state, Step), it returned ")


# ------------------------------------------------------------------------------------------------------------- on the host


class Around:
    """A `VecEnv` around another one."""

    def __init__(self, vec):
        self.vec = vec

    def __getattr__(self, name):
        return getattr(self.vec, name)


def hosted(around, limit=6) -> HostEnv:
    host = rlx.envs.make("rlx:pendulum", host=True, time_limit=limit)
    return replace(host, make=lambda n, ends: around(host.make(n, ends)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward", lambda x: x.astype(np.float64), "step gives reward as float64[2], it must be float32[2]."),
        ("reward", lambda x: float(x.sum()), "step gives reward as a Python float: give an array of float32."),
        ("reward", lambda x: x.tolist(), "step gives reward as a Python list: give an array of float32."),
        ("truncated", lambda x: x.astype(int), "step gives truncated as int64[2], it must be bool[2]."),
    ],
)
def test_wrong_types_on_the_host_are_found(name, value, message):
    class Wrong(Around):
        def step(self, params, state, action, key):
            state, step = self.vec.step(params, state, action, key)
            return state, step._replace(**{name: value(getattr(step, name))})

    assert faults_of(hosted(Wrong)) == [message]


def test_a_first_row_that_is_missing_on_the_host_is_found():
    class Firstless(Around):
        def step(self, params, state, action, key):
            state, step = self.vec.step(params, state, action, key)
            return state, step._replace(first=np.zeros_like(step.first))

    assert "first must be True exactly at the rows after last ones." in faults_of(hosted(Firstless))


def test_lossy_saves_and_hidden_randomness_are_found():
    class Lossy(Around):
        def load(self, arrays):
            return self.vec.load({k: v * 0 if k == "0" else v for k, v in arrays.items()})

    with pytest.raises(ValueError, match="after save and load"):
        check(hosted(Lossy))

    class Moody(Around):
        def step(self, params, state, action, key):
            state, step = self.vec.step(params, state, action, key)
            return state, step._replace(obs=step.obs * np.float32(1 - 1e-6 * np.random.default_rng().random()))

    with pytest.raises(ValueError, match="same key gave other rows"):
        check(hosted(Moody))


def test_what_was_opened_is_closed_whatever_happens():
    closed = []

    class Breaks(Around):
        def step(self, params, state, action, key):
            raise RuntimeError("out of order")

        def close(self):
            closed.append(self)

    with pytest.raises(RuntimeError, match="out of order"):
        check(hosted(Breaks))
    assert len(closed) == 1


def test_what_cannot_be_saved_is_noted():
    class Closed(Around):
        def save(self, state):
            return None

    report = check(hosted(Closed))
    assert not report.exact_resume and any("resume with a marked cut" in note for note in report.notes)
