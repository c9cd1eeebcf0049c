"""Choosing among candidates, stopping, and what of an imagined episode is kept."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.dynamics import EnsembleDynamics, SparseDynamics, as_env, ensemble, filtered, penalised, scorer
from rlx.dynamics.env import Prediction
from rlx.dynamics.filtered import by_likelihood, by_reward, by_truth, candidates, choose, largest_norm
from rlx.dynamics.sparse import SparseModel, affine
from rlx.dynamics.terminations import TERMINATIONS, fitting, register, rule_of, termination
from rlx.envs.base import batch, begin, rollout
from rlx.types import Key

KEY = jax.random.key(0)
NONE = jnp.float32(-jnp.inf)
KEEP = {"r_min": NONE, "filter_temperature": jnp.float32(0.1)}


def test_the_choice_by_softmax_and_argmax():
    scores = jnp.float32([0.3, 0.6, 0.9])
    drawn = jax.vmap(lambda k: choose(k, scores, 0.1, "softmax"))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.002356, 0.047314, 0.950330], atol=0.005)
    cold = jax.vmap(lambda k: choose(k, scores, 1e-4, "softmax"))(jax.random.split(KEY, 100))
    assert (cold == 2).all() and int(choose(KEY, scores, 0.1, "argmax")) == 2
    hot = jax.vmap(lambda k: choose(k, scores, jnp.inf, "softmax"))(jax.random.split(KEY, 3_000))
    np.testing.assert_allclose(np.bincount(hot) / 3_000, 1 / 3, atol=0.04)
    assert int(choose(KEY, scores[:1], 0.1, "softmax")) == 0
    order = jnp.array([2, 0, 1])
    assert int(choose(KEY, scores[order], 0.1, "argmax")) == 0
    lost = jnp.float32([jnp.nan, 0.6, -jnp.inf])  # a candidate that has left the numbers is not the best of all
    assert int(choose(KEY, lost, 0.1, "argmax")) == int(choose(KEY, lost, 0.1, "softmax")) == 1
    assert int(choose(KEY, lost, jnp.inf, "softmax")) == 1


def test_the_price_of_uncertainty_is_the_largest_norm():
    std = jnp.float32([[0.1, 0.2, 0.2], [0.3, 0, 0.4], [0.05, 0.05, 0.05]])
    assert float(largest_norm(std)) == pytest.approx(0.5)
    assert 1 - 2 * float(largest_norm(std)) == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------------ stops


class Scripted(NamedTuple):
    """Scores of these in turn; the observation counts decisions."""

    scores: tuple[float, ...]

    def begin(self, params, key: Key):
        return ()

    def predict(self, params, episode, obs, action, key: Key) -> Prediction:
        score = jnp.float32(self.scores)[obs[0].astype(int)]
        return Prediction(obs + 1, jnp.float32(1), score < params, score)

    def disagreement(self, params, obs, action):
        return jnp.float32(0)


def imagined(scores, r_min=0.6, steps=3, **how):
    """Rows of one stream that stops for good at its end."""
    env = as_env(Scripted(scores), jnp.float32(r_min), jnp.zeros((1, 1)), actions=1, horizon=steps, **how)
    vec = batch(env, 1, ends="stop")
    act = lambda carry, step, key: (jnp.zeros((1, 1)), carry, {})
    _, rows, tail = rollout(vec, env.params, act, begin(vec, env.params, (), KEY), KEY, steps)
    return jax.tree.map(lambda r, t: np.concatenate([r, t[None]])[:, 0], rows, tail)


def test_an_episode_stops_where_the_score_is_below_the_least():
    rows = imagined((0.59, 0.61, 0.9), stop="terminate")
    assert rows.terminated.tolist()[:2] == [False, True] and rows.valid.tolist() == [True, True, False, False]
    assert rows.info["stopped"][1] and rows.info["score"][1] == pytest.approx(0.59)
    rows = imagined((0.6, 0.61, 0.9), stop="terminate")  # what equals it stays
    assert not rows.terminated.any() and rows.valid.all() and rows.truncated.tolist() == [False] * 3 + [True]
    rows = imagined((0.59, 0.59, 0.9), stop="terminate", stop_after=1)
    assert rows.terminated.tolist()[:3] == [False, False, True] and rows.valid.tolist() == [True] * 3 + [False]
    rows = imagined((0.59, 0.61, 0.9), stop="truncate")
    assert not rows.terminated.any() and rows.truncated[1] and rows.valid.tolist() == [True, True, False, False]


def transitions_in(rows):
    """How many, and how many of these end."""
    pairs = rows.valid[:-1] & rows.valid[1:] & ~rows.last[:-1] & ~rows.first[1:]
    return int(pairs.sum()), int((pairs & rows.terminated[1:]).sum())


def test_what_stops_may_leave_no_transition():
    assert transitions_in(imagined((0.9, 0.59, 0.9), stop="terminate")) == (2, 1)
    assert transitions_in(imagined((0.9, 0.59, 0.9), stop="truncate")) == (2, 0)
    rows = imagined((0.9, 0.59, 0.9), stop="drop")
    assert transitions_in(rows) == (1, 0) and rows.valid.tolist() == [True, True, True, False]


@pytest.mark.parametrize(("stop", "kept"), [("terminate", 2), ("drop", 1)])
def test_replay_draws_no_transition_that_was_dropped(stop, kept):
    rows = jax.tree.map(lambda x: jnp.asarray(x)[:, None], imagined((0.9, 0.59, 0.9), stop=stop))
    buffer = replay.ring(8, 1)
    state = buffer.add(buffer.init(jax.tree.map(lambda x: x[0, 0], rows)), rows)
    drawn = replay.transitions(64)({"discount": jnp.float32(0.9)}, None, {"replay": state}, KEY)
    assert set(np.asarray(drawn.obs[:, 0])) == set(range(kept))
    assert drawn.terminated.any() == (stop == "terminate")


def test_a_task_ends_by_its_rule():
    rows = imagined((0.9,) * 3, ends=lambda xp, obs, action, new: new[..., 0] >= 2, stop="truncate")
    assert rows.terminated.tolist() == [False, False, True, True] and rows.valid.tolist() == [True] * 3 + [False]
    rows = imagined((0.1,) * 3, stop="terminate", r_min=0.6)
    assert rows.valid.sum() == 2  # all are dead after the first decision
    with pytest.raises(ValueError, match="stop='never' is unknown"):
        as_env(Scripted(()), 0.0, jnp.zeros((1, 1)), actions=1, horizon=1, stop="never")
    plain = as_env(SparseDynamics(), line(), jnp.zeros((1, 1)), actions=1, horizon=1, stop="drop")
    with pytest.raises(ValueError, match="stop is given, and the model never does"):
        plain.step(plain.params, plain.reset(plain.params, KEY)[0], jnp.zeros(1), KEY)


# ----------------------------------------------------------------------------------------------------------------- models

NET = ensemble.init(jax.random.key(3), 4, (3, 8, 3), "silu", gaussian=True, elites=2)
NET = dataclasses.replace(NET, elites=jnp.array([3, 1]))
OBS, ACTION = jnp.float32([0.3, -0.2]), jnp.float32([0.5])


def line():
    """Two members of x' = c x + u."""
    members = jnp.float32([[[0.9, 1.0, 0.0]], [[0.7, 1.0, 0.0]]])
    return SparseModel(members, members.mean(0), affine(1, 1, 1))


def test_candidates_are_of_the_elites_and_within_the_clip():
    found = jax.jit(lambda k: candidates(EnsembleDynamics(), NET, (), OBS, ACTION, k, 500))(KEY)
    assert found.obs.shape == (1_000, 2) and found.reward.shape == (1_000,)
    mean, std = NET.normals(jnp.concatenate([OBS, ACTION]))
    for j, member in enumerate((3, 1)):
        own = np.concatenate([found.obs - OBS, found.reward[:, None]], 1).reshape(500, 2, 3)[:, j]
        np.testing.assert_allclose(own.mean(0), mean[member], atol=4 * float(std[member].max()) / 500**0.5)
        np.testing.assert_allclose(own.std(0), std[member], rtol=0.15)
    tight = candidates(EnsembleDynamics(0.25), NET, (), OBS, ACTION, KEY, 50)
    assert (jnp.abs(tight.obs) <= 0.25).all() and (jnp.abs(tight.reward) <= 0.25).all()
    assert float(EnsembleDynamics().disagreement(NET, OBS, ACTION)) == pytest.approx(float(jnp.sqrt((std**2).sum(1)).max()))


def test_a_random_choice_is_the_model_itself():
    plain, params = EnsembleDynamics(), {"model": NET, "scorer": NET, **KEEP}
    both = filtered(plain, by_likelihood, "random")
    one = jax.jit(lambda k: plain.predict(NET, (), OBS, ACTION, k))(KEY)
    two = jax.jit(lambda k: both.predict(params, (), OBS, ACTION, k))(KEY)
    assert (one.obs == two.obs).all() and one.reward == two.reward and not two.stopped and jnp.isfinite(two.score)


class Guess(NamedTuple):
    """A model without candidates of its own: where an episode is decides what comes next."""

    def begin(self, params, key: Key):
        return jax.random.uniform(key)

    def predict(self, params, episode, obs, action, key: Key) -> Prediction:
        return Prediction(obs + episode, episode)

    def disagreement(self, params, obs, action):
        return jnp.float32(0)


def test_a_model_without_candidates_is_asked_several_times():
    found = candidates(Guess(), (), (), OBS, ACTION, KEY, 6)
    assert found.obs.shape == (6, 2) and len(set(np.asarray(found.reward))) == 6
    largest = filtered(Guess(), lambda nothing, obs, action, new: new[:, 0], "argmax", draws=50)
    assert largest.predict({"model": (), "scorer": (), **KEEP}, jnp.float32(0), OBS, ACTION, KEY).reward > 0.9


@pytest.mark.parametrize("selection", ["argmax", "softmax", "random"])
def test_what_has_no_score_stops_unless_nothing_does(selection):
    model = filtered(Guess(), lambda nothing, obs, action, new: jnp.full(len(new), jnp.nan), selection)
    found = lambda r_min: model.predict({"model": (), "scorer": (), **KEEP, "r_min": r_min}, jnp.float32(0), OBS, ACTION, KEY)
    assert found(jnp.float32(0.6)).stopped and not found(NONE).stopped


def test_the_truth_and_the_likelihood_choose_as_they_say():
    """Of a sparse ensemble the members are the candidates: 0.9 and 0.7 of x, and the truth is 0.72 of it."""
    obs, action = jnp.float32([1.0]), jnp.float32([0.25])
    params = {"model": line(), "scorer": (), **KEEP}
    best = filtered(SparseDynamics(), by_truth(lambda xp, x, u: 0.72 * x + u), "argmax")
    assert float(best.predict(params, (), obs, action, KEY).obs[0]) == pytest.approx(0.95)
    best = penalised(filtered(SparseDynamics(), by_truth(lambda xp, x, u: 0.85 * x + u), "argmax"))
    found = best.predict({"model": params, "uncertainty_penalty": jnp.float32(2)}, (), obs, action, KEY)
    assert float(found.obs[0]) == pytest.approx(1.15) and float(found.reward) == pytest.approx(-0.2)  # std of 0.9 and 0.7
    mean, std = (np.asarray(x, np.float64)[[3, 1], :2] for x in NET.normals(jnp.concatenate([OBS, ACTION])))
    new = np.asarray(OBS) + np.float64([[0.1, 0.0], [0.5, 0.5]])
    z = (new[:, None] - np.asarray(OBS) - mean) / std
    density = (np.exp(-0.5 * z**2) / std / np.sqrt(2 * np.pi)).prod(-1).mean(1)
    np.testing.assert_allclose(by_likelihood(NET, OBS, ACTION, jnp.float32(new)), np.log(density), rtol=1e-4)


def reward_filter(selection="argmax", r_min=-np.inf):
    """A model, its params and the environment with a scorer of random networks."""
    own = scorer.blank(jax.random.key(5), 2, 1, 4, (16,))
    model = filtered(EnsembleDynamics(5.0), by_reward, selection)
    params = {"model": NET, "scorer": own, "r_min": jnp.float32(r_min), "filter_temperature": jnp.float32(0.1)}
    return as_env(model, params, jax.random.normal(KEY, (20, 2)), actions=1, horizon=6, stop="terminate")


def emitted(env, params, streams=16):
    vec = batch(env, streams, ends="stop")
    act = lambda carry, step, key: (jnp.tanh(step.obs[:, :1]), carry, {})
    _, rows, _ = rollout(vec, params, act, begin(vec, params, (), KEY), KEY, 6)
    return rows


@pytest.mark.slow
def test_episodes_by_a_random_choice_are_those_of_the_model():
    plain, params = EnsembleDynamics(), {"model": NET, "scorer": NET, **KEEP}
    both = filtered(plain, by_likelihood, "random")
    starts = {"starts": jax.random.normal(KEY, (20, 2)), "actions": 1, "horizon": 6}
    short = as_env(plain, NET, **starts), as_env(both, params, stop="terminate", **starts)
    alone, through = (jax.jit(lambda p, e=env: emitted(e, p))(env.params) for env in short)
    for field in ("obs", "action", "reward", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(getattr(alone, field), getattr(through, field))


def test_a_higher_least_never_leaves_more():
    env = reward_filter()
    roll = jax.jit(lambda r: emitted(env, {**env.params, "model": {**env.params["model"], "r_min": r}}))
    alive = [np.asarray(roll(jnp.float32(r)).valid).sum(0) for r in (-np.inf, 0.68, 0.7, 0.75, 2.0)]
    assert (alive[0] == 6).all() and (alive[-1] == 2).all()  # the first row, and that of the arrival which stopped it
    assert all((b <= a).all() for a, b in zip(alive, alive[1:], strict=False))
    again = roll(jnp.float32(0.7))
    jax.tree.map(np.testing.assert_array_equal, again, roll(jnp.float32(0.7)))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(roll(jnp.float32(2.0))) if x.dtype == jnp.float32)


@pytest.mark.slow
def test_compiled_is_as_it_is_run_step_by_step():
    env = reward_filter("softmax", 0.69)
    state, step = env.reset(env.params, KEY)
    once = lambda s: env.step(env.params, s, jnp.float32([0.3]), jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), jax.jit(once)(state), once(state))
    assert set(step.info) == {"exit", "stopped", "score"} == set(env.spec.info)


# ------------------------------------------------------------------------------------------------------------ terminations


@pytest.mark.parametrize(
    ("name", "size", "still", "falls"),
    [
        ("halfcheetah", 17, {}, [{3: 100.0}, {5: -100.0}]),
        ("hopper", 11, {0: 1.2}, [{0: 0.7}, {1: 0.2}, {1: -0.2}, {4: 100.0}, {4: -101.0}, {7: np.nan}, {0: np.inf}]),
        ("walker2d", 17, {0: 1.2}, [{0: 0.8}, {0: 2.0}, {1: 1.0}, {1: -1.0}, {9: -100.0}]),
        ("neorl-halfcheetah", 18, {}, []),
        ("neorl-hopper", 12, {0: 500.0, 1: 1.2}, [{1: 0.7}, {2: -0.2}, {3: 100.0}]),
        ("neorl-walker2d", 18, {0: 500.0, 1: 1.2}, [{1: 0.8}, {2: 1.0}, {8: 100.0}]),
    ],
)
def test_when_tasks_are_over(name, size, still, falls):
    rows = np.zeros((1 + len(falls), size))
    for i, own in enumerate([{}, *falls]):
        for k, v in {**still, **own}.items():
            rows[i, k] = v
    for xp in (np, jnp):
        over = TERMINATIONS[name](xp, xp.asarray(rows), xp.zeros((len(rows), 3)), xp.asarray(rows))
        assert np.asarray(over).tolist() == [False] + [True] * len(falls)


def test_a_rule_is_held_against_real_transitions():
    new = np.tile(np.float32([1.2, 0.0, 3.0]), (300, 1))
    new[200, 0] = 0.5  # one fall
    ended = np.arange(300) == 200
    fit = lambda name, terminated: fitting(name, new, np.zeros((300, 1)), new, terminated)
    assert fit("hopper", ended) is TERMINATIONS["hopper"] and fit("never", ended) is TERMINATIONS["never"]
    assert fit("hopper", np.zeros(300, bool))  # one in 300 may be rounding
    new[:20, 1] = -0.3
    with pytest.raises(
        ValueError, match=r"termination='hopper' does not fit the data: 20 of 300 transitions are over by it and"
    ):
        fit("hopper", ended)
    with pytest.raises(ValueError, match=r"2 of the 3 that end do not by it. Give termination the name of another"):
        fit("hopper", np.isin(np.arange(300), [100, 150, 200]))


def test_rules_by_name():
    assert rule_of("gym:Hopper-v4", 11) == "hopper" and rule_of("gym:Walker2d-v4", 18) == "neorl-walker2d"
    assert rule_of("rlx:pendulum", 3) is None and rule_of("gym:Hopper-v4", 5) is None
    with pytest.raises(ValueError, match="termination='hoper' is unknown; there are never, halfcheetah, hopper"):
        termination("hoper")
    with pytest.raises(ValueError, match="another rule already"):
        register("hopper", lambda xp, obs, action, new: new[..., 0] > 1)
