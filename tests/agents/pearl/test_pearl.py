"""PEARL's stages: where labels come from, what the reward learns, what rows get, and words for what cannot be."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, preferences, replay
from rlx.preferences import labels, pairs, toy_quality
from rlx.train import Options, run
from rlx.types import Problem
from tests.agents.settings import dataset

QUIET = Options(progress=False, log_every=100)
SMALL = {"model.kind": "mlp", "model.hidden": (16, 16), "model.steps": 300, "model.batch": 32, "model.checks": 5}
SMALL |= {"reward_lr": 3e-3, "updates": 20, "block": 20, "batch": 8, "hidden": (8,), "eval_episodes": 1, "pairs": 200}


@pytest.fixture(scope="module")
def env():
    return rlx.envs.make("rlx:point-mass", time_limit=5)


def graded(env, seed, rot=0.0):
    """Episodes in the place of the environment's, whose first two numbers are a path of graded quality; a step pays as far as
    the whole path goes."""
    paths, quality = toy_quality(np.random.default_rng(seed), 30, 12, rot=rot)
    width, many = env.spec.obs.shape[0], env.spec.action.shape[0]
    rng = np.random.default_rng(seed + 100)
    out = []
    for (path, _), q in zip(paths, quality, strict=True):
        obs = np.zeros((13, width), np.float32)
        obs[:, :2] = np.concatenate([path, path[-1:]])
        action = rng.uniform(-1, 1, (13, many)).astype(np.float32)
        out.append({"obs": obs, "action": action, "reward": np.r_[0, np.full(12, q)], "terminated": np.zeros(13, bool)})
    return replay.from_episodes(out), quality


def trained(env, data, source=None, seed=0, **settings):
    problem = Problem({"train": env}, {"data": data} | ({"source": source} if source is not None else {}))
    agent = agents.make("pearl", None, problem, **{**SMALL, **settings})
    return run(agent, problem, seed, options=QUIET), agent


@pytest.mark.slow
def test_labels_of_another_task_become_rewards_of_this_one(env, tmp_path):
    source, quality = graded(env, 0)
    given = preferences.source_of(pairs.episodes(source))
    target, truth = graded(env, 1, rot=1.1)
    state, agent = trained(env, target, given, **{"align.features": "flat_s", "model.held_out": 0.2})
    learned, new = state.agent.learned, state.sources["data"]
    assert learned["told"]["asymmetry"] < -0.3 and learned["told"]["cost"] > 0
    made = pairs.episodes(new)
    assert np.corrcoef(np.argsort(np.argsort(made.returns)), np.argsort(np.argsort(truth)))[0, 1] > 0.5
    np.testing.assert_allclose(np.ptp(made.returns), env.spec.horizon, rtol=1e-4)
    np.testing.assert_array_equal(target.data.reward, new.data.reward)  # the rows are shared, the overlay is the run's own
    written = {p.name: p for p in agent.report(jax.tree.map(np.asarray, state.agent), tmp_path)}
    told = json.loads(written["pearl.json"].read_text())
    assert told["held_loss"] < 0.69 and told["rank_correlation"] > 0.5
    again = pairs.read(written["labels.npz"])
    assert set(again.source) == {pairs.SOURCES.index("cpa")} and len(again.label) == 200
    # the same labels from the file, which needs no source
    other, _ = trained(env, target, labels=str(written["labels.npz"]), **{"model.held_out": 0.2})
    np.testing.assert_array_equal(other.agent.learned["pairs"].label, again.label)


def test_kinds_of_labels(env):
    data, truth = graded(env, 2)
    found = pairs.episodes(data)
    source = labels.source_of(pairs.episodes(graded(env, 3)[0]))
    settings = preferences.Settings("flat_s")

    def right(kind, **how):
        got = labels.label(kind, found, np.random.default_rng(0), source=source, settings=settings, count=None, **how)
        first, second = got.pairs.episode
        told = got.pairs.weight > 0
        sided = 0.5 + 0.5 * np.sign(got.pairs.label - 0.5) * np.sign(truth[second] - truth[first])
        assert (got.pairs.steps == 12).all() and len(got.pairs.label) == 30 * 29 // 2
        return sided[told].mean(), got

    assert right("oracle")[0] == 1
    assert abs(right("random")[0] - 0.5) < 0.1
    carried, got = right("cpa")
    assert carried > 0.65 and not got.alignment.degenerate
    for kind in ("sim", "dis"):
        assert right(kind)[0] > 0.5
    some, got = right("cpa+fewshot", share=0.5)
    assert some > carried and abs((got.pairs.source == pairs.SOURCES.index("script")).mean() - 0.5) < 0.1
    sure = right("cpa", least_confidence=0.5)
    assert sure[0] > carried and 0 < (sure[1].pairs.weight > 0).mean() < 1
    mirrored = source._replace(preferred=source.preferred.T)
    got = labels.label("cpa+fewshot", found, np.random.default_rng(0), source=mirrored, settings=settings, share=0.2)
    assert got.flipped


def test_a_source_may_be_labelled_in_part(env):
    found = pairs.episodes(graded(env, 0)[0])
    given = pairs.preferences([[4, 7], [7, 9]], [1, 0], 12)
    source = labels.source_of(found, given)
    assert source.obs.shape[:2] == (3, 12) and source.known.sum() == 3 + 4
    assert source.preferred[0, 1] == 0 and source.preferred[1, 0] == 1 and source.preferred[1, 2] == 1
    np.testing.assert_array_equal(source.obs[0], found.trajectories()[4][0])
    assert labels.source_of(found, most=5).obs.shape[0] == 5
    with pytest.raises(ValueError, match="of episode 40"):
        labels.source_of(found, pairs.preferences([[4], [40]], [1], 12))


def test_several_answers_on_a_pair_are_averaged_and_pieces_are_refused(env):
    """Three say 7, one with a third of the weight says 4: 3 / 4 and 1 / 4, in whatever order and direction they come."""
    found = pairs.episodes(graded(env, 0)[0])
    given = pairs.preferences([[4, 7, 4], [7, 4, 7]], [1, 0, 0], 12, weight=[1, 0.5, 0.5], annotator=[0, 1, 2])
    for order in ([0, 1, 2], [2, 1, 0]):
        source = labels.source_of(found, jax.tree.map(lambda x, order=order: x[..., order], given))
        np.testing.assert_allclose(source.preferred, [[0.5, 0.25], [0.75, 0.5]])
    with pytest.raises(ValueError, match=r"pair 1 of the source's labels is of pieces \(11 of 12 decisions\)"):
        labels.source_of(found, pairs.preferences([[4, 4], [7, 7]], [1, 1], [12, 11]))
    with pytest.raises(ValueError, match="source: no pair of preferences counts"):
        labels.source_of(found, given._replace(weight=0 * given.weight))
    with pytest.raises(ValueError, match="one return, so nothing says which is better"):
        labels.source_of(found._replace(reward=0 * found.reward))
    with pytest.raises(ValueError, match="ipl: no pair of preferences counts"):
        labels.of_problem("ipl", "oracle", given._replace(weight=0 * given.weight), None)
    for own in ({"weight": np.inf}, {"annotator": -1}):
        with pytest.raises(ValueError, match=f"preferences: {next(iter(own))} "):
            pairs.preferences([[4], [7]], [1], 12, **own)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "labels='cpa' are carried over from a source, and there is none"),
        ({"labels": "sim"}, "labels='sim' are carried over"),
        ({"labels": "best"}, "labels='best' is unknown: one of oracle, random"),
        ({"labels": "oracle", "normalize_returns": True}, "normalize_returns looks at true rewards"),
        ({"labels": "oracle", "head": "constant", "model.kind": "mixture"}, "does not say how sure it is: give head='determin"),
        ({"labels": "oracle", "model.heads": 3}, "model.width=256 is no multiple of model.heads=3"),
        ({"labels": "oracle", "pairs": 0}, "pairs must be at least 1"),
    ],
)
def test_bad_settings_are_named(env, settings, words):
    with pytest.raises(ValueError, match=words):
        agents.make("pearl", None, Problem({"train": env}, {"data": dataset(env)}), **settings)


@pytest.mark.parametrize("preset", [*agents.presets("pearl"), *agents.presets("ipl")])
def test_presets_fit_their_agents(env, preset):
    for name in ("pearl", "ipl"):
        given = agents.presets(name).get(preset, {}) | {"labels": "oracle"}
        assert agents.make(name, None, Problem({"train": env}, {"data": dataset(env)}), **given).stages[-1].name == "learn"


def test_a_source_that_says_nothing_ends_the_run(env):
    data = graded(env, 0)[0]
    source = labels.source_of(pairs.episodes(data))
    alike = source._replace(obs=np.repeat(source.obs[:1], 30, 0))
    problem = Problem({"train": env}, {"data": data, "source": alike})
    agent = agents.make("pearl", None, problem, **agents.presets("pearl")["debug"])
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    with pytest.raises(ValueError, match="the source says nothing about the data"):
        agent.stages[0].phases[0].fn(state, {"data": data}, jax.random.key(1))


def test_rewards_learn_from_pairs_without_a_label_on_request(env):
    data, learned = graded(env, 0)[0], {}
    for count in (0, 30):
        own = {**SMALL, "model.steps": 10, "model.unlabelled": count, "pseudo_least": 0.5, "labels": "oracle", "pairs": 20}
        agent = agents.make("pearl", None, Problem({"train": env}, {"data": data}), **own)
        state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
        for stage in agent.stages[:2]:
            state, _ = stage.phases[0].fn(jax.tree.map(np.asarray, state), {"data": data}, jax.random.key(1))
        learned[count] = state.learned["reward"]["params"]["hidden_0"]["kernel"]
    assert np.abs(learned[0] - learned[30]).max() > 1e-3


def test_bad_data_are_named(env):
    data = dataset(env)
    with pytest.raises(ValueError, match="a source, and what is given is a ReplayState"):
        agents.make("pearl", None, Problem({"train": env}, {"data": data, "source": data}))
    with pytest.raises(ValueError, match="the data hold one"):
        agents.make("pearl", None, Problem({"train": env}, {"data": dataset(env, 1)}), labels="oracle")


def test_fewer_pairs_are_filled_up_with_ones_that_do_not_count():
    from rlx.agents.pearl.method import padded

    given = pairs.preferences([[0, 1], [1, 2]], [1, 0], 3)
    more = padded(given, 4)
    assert more.episode.shape == (2, 4) and more.weight.tolist() == [1, 1, 0, 0] and padded(given, 2) is given
    assert jnp.asarray(more.label).shape == (4,)
