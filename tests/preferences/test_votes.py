"""Several sources: votes by hand, that they follow the source that is like the target, and words for what cannot be."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.preferences import Settings, alignment, labels, pairs, toy_quality
from rlx.preferences.alignment import Alignment
from rlx.preferences.transport import Coupling
from rlx.types import Problem
from tests.agents.pearl.test_pearl import graded

close = functools.partial(np.testing.assert_allclose, rtol=0)


def said(better, weight=1.0, cost=0.0, rows=3, degenerate=False, confidence=None):
    """That the second of two is preferred to the first with probability ``better``."""
    label, full = np.array([[0.5, 1 - better], [better, 0.5]]), np.full((2, 2), weight)
    confidence = abs(2 * label - 1) if confidence is None else full * 0 + confidence
    plan = np.full((rows, 2), 1 / (2 * rows))
    return Alignment(label, full, confidence, Coupling(plan, cost, 0.1 * rows, 0.01 * rows), degenerate, 0.2 * rows)


def test_votes_by_hand():
    """Costs 0.02 and 0.03 at tau 0.01: e to 1, 0.731059 and 0.268941. The second is labelled by half."""
    both, v = alignment.vote([said(0.9, 1.0, 0.02), said(0.2, 0.5, 0.03, rows=5)], 0.01)
    close(v, [0.731059, 0.268941], atol=1e-6)
    weight = 0.731059 + 0.5 * 0.268941
    label = (0.731059 * 0.9 + 0.5 * 0.268941 * 0.2) / weight
    close([both.weight[1, 0], both.label[1, 0], both.label[0, 1]], [weight, label, 1 - label], atol=1e-6)
    close(both.label[0, 0], 0.5, atol=1e-12)
    close(both.confidence[1, 0], 2 * label - 1, atol=1e-6)
    assert both.coupling.plan.shape == (8, 2)
    close(both.coupling.plan.sum(0), [0.5, 0.5], atol=1e-12)  # a coupling of all sources with the target
    close(both.coupling.plan[:3].sum(), v[0], atol=1e-12)
    close(both.coupling.cost, v @ [0.02, 0.03], atol=1e-12)
    close([both.coupling.row_error, both.asymmetry, both.coupling.change], [v @ [0.3, 0.5], v @ [0.6, 1.0], 0.05], atol=1e-12)


def test_hard_labels_are_counted_and_nothing_says_nothing():
    hard = [said(x, cost=1.0, confidence=c) for x, c in ((1.0, 0.3), (0.0, 0.2), (1.0, 0.4))]
    both, v = alignment.vote(hard, 0.01)
    close([*v, both.label[1, 0], both.confidence[1, 0]], [1 / 3] * 3 + [2 / 3, (0.3 - 0.2 + 0.4) / 3], atol=1e-12)
    empty = said(0.5, 0.0, np.nan, degenerate=True)
    both, v = alignment.vote([empty, said(0.9, cost=7.0)], 0.01)
    assert v.tolist() == [0, 1] and not both.degenerate and both.coupling.cost == 7
    close(both.label[1, 0], 0.9, atol=1e-12)
    both, v = alignment.vote([empty, empty], 0.01)
    assert both.degenerate and v.tolist() == [0.5, 0.5] and (both.label == 0.5).all() and (both.weight == 0).all()
    some = said(0.9, 0.0)
    assert (alignment.vote([some, some], 1.0)[0].label == 0.5).all()  # no pair of either is labelled


def noise(like, seed):
    """Paths that have nothing to do with any task, liked at random."""
    rng = np.random.default_rng(seed)
    q = rng.uniform(size=len(like.obs))
    obs = rng.normal(size=like.obs.shape).astype(np.float32)
    return like._replace(obs=obs, preferred=alignment.by_return(q).astype(np.float32))


def test_votes_go_to_the_source_that_is_a_copy():
    env = rlx.envs.make("rlx:point-mass")
    target, truth = graded(env, 1, rot=1.1)
    copy = labels.source_of(pairs.episodes(graded(env, 1)[0]))
    other = noise(copy, 0)
    ask = lambda source, tau: labels.label(
        "cpa", pairs.episodes(target), np.random.default_rng(0), source=source, settings=Settings("flat_s", vote_tau=tau)
    )
    one, got, even = ask(copy, 0.01), ask([other, copy], 0.01), ask((other, copy), 1e6)
    assert got.votes[1] > 0.99 and one.votes.tolist() == [1] and got.each[0].coupling.cost > 5 * got.each[1].coupling.cost
    right = lambda x: alignment.accuracy(x.label, truth)
    assert right(got.alignment) > right(one.alignment) - 0.01 > 0.9 > right(got.each[0]) + 0.2
    assert len(got.alignment.coupling.plan) == 60
    close(even.votes, [0.5, 0.5], atol=1e-6)
    close(even.alignment.label, (even.each[0].label + even.each[1].label) / 2, atol=1e-6)

    agent = agents.make("pearl", None, Problem({"train": env}, {"data": target, "source": [other, copy]}), **{
        **agents.presets("pearl")["debug"], "align.features": "flat_s",
    })  # fmt: skip
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    state, _ = agent.stages[0].phases[0].fn(state, {"data": target}, jax.random.key(1))
    told = state.learned["told"]
    assert told["votes"][1] > 0.99 and told["costs"][0] > told["costs"][1]
    close(told["cost"], told["votes"] @ told["costs"], atol=1e-6)


def test_mirrors_are_turned_before_they_vote():
    """Of two copies one is liked the wrong way round: alike they cancel out, until some true labels turn it."""
    env = rlx.envs.make("rlx:point-mass")
    target, truth = graded(env, 1, rot=1.1)
    copy = labels.source_of(pairs.episodes(graded(env, 1)[0]))
    both = [copy, copy._replace(preferred=copy.preferred.T)]
    ask = lambda kind: labels.label(
        kind, pairs.episodes(target), np.random.default_rng(0), source=both, settings=Settings("flat_s"), share=0.1
    )
    close(ask("cpa").alignment.label, 0.5, atol=1e-6)
    got = ask("cpa+fewshot")
    assert got.flipped and alignment.accuracy(got.alignment.label, truth) > 0.9


def test_bad_votes_are_named():
    with pytest.raises(ValueError, match=r"labels of \[\] target trajectories"):
        alignment.vote([], 1.0)
    with pytest.raises(ValueError, match=r"labels of \[2, 3\] target"):
        alignment.vote([said(0.9), said(0.9)._replace(label=np.full((3, 3), 0.5))], 1.0)
    with pytest.raises(ValueError, match="tau=0 must be above 0"):
        alignment.vote([said(0.9)], 0.0)
    paths, _ = toy_quality(np.random.default_rng(0), 4, 5)
    state = lambda width: labels.Source(np.zeros((4, 5, width), "f4"), np.zeros((4, 5, 1), "f4"), *np.full((2, 4, 4), 0.5))
    with pytest.raises(ValueError, match="labels='sim' are carried over from one source, and there are 2"):
        labels.sources_of("sim", [state(2), state(2)])
    for given, words in (([], "there is none"), ([state(2), 3], "what is given is a int")):
        with pytest.raises(ValueError, match=words):
            labels.sources_of("cpa", given)
    with pytest.raises(ValueError, match="source 2 of 2: .* are 15 numbers, of the target 10"):
        how = Settings("flat_s", geometry="linear", outer=1, inner=2)
        labels.all_carried("cpa", [state(2), state(3)], paths, how)
