"""Tastes in circles and of several people, labels by ranked factors: formulas by hand, what can be fitted and what cannot."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.preferences import hierarchy, learning, pairs, tastes
from rlx.preferences.learning import Coefs, Training
from rlx.preferences.models import RewardMLP
from rlx.preferences.tastes import GeneralPreference, Mixed, MixtureOfTastes, Placed
from rlx.types import Problem
from tests.agents.settings import dataset
from tests.preferences.test_learning import data

pytestmark = pytest.mark.usefixtures("all_bits")
close = functools.partial(np.testing.assert_allclose, rtol=0)
KEY = jax.random.key(0)

# ------------------------------------------------------------------------------------------------------------------ by hand


def test_scores_of_pairs_by_hand():
    """Rock, paper and scissors a third of a circle apart: each beats the next with sin(120 degrees) / tau."""
    angle = 2 * np.pi / 3 * np.arange(3)
    v = np.stack([np.cos(angle), np.sin(angle)], -1)
    this, that = Placed(jnp.float32(v), 0.5).against(Placed(jnp.float32(np.roll(v, -1, 0)), 0.5))
    close(np.exp(this), 1 / (1 + np.exp(-(3**0.5) / 2 / 0.5)), atol=1e-6)
    close(np.exp(this) + np.exp(that), 1, atol=1e-6)
    close(tastes.turned(jnp.float32([1, 2, 3, 4])), [-2, 1, -4, 3], atol=0)
    rates = tastes.win_rate(v, v, 0.5)
    close(rates, 0.5, atol=1e-12)  # nobody is better on the whole
    close(tastes.win_rate(v[:1], v[1:2], 0.5), np.exp(this[:1]), atol=1e-6)


def test_a_mixture_by_hand():
    reward = jnp.float32([[[1.0, -1.0], [0.5, 2.0]]])  # one segment of two steps, two heads
    first = Mixed(reward, jnp.log(jnp.float32([[0.25, 0.75]])), jnp.ones((1, 2)))
    second = first._replace(reward=jnp.zeros_like(reward))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    this, that = first.against(second)
    close(np.exp(this), 0.25 * sigmoid(1.5) + 0.75 * sigmoid(1.0), atol=1e-6)
    close(np.exp(that), 0.25 * sigmoid(-1.5) + 0.75 * sigmoid(-1.0), atol=1e-6)
    close(first.last(0.0), 0.25 * 0.5 + 0.75 * 2.0, atol=1e-6)
    y = np.array([1.0, 0.0, 0.5])
    p = np.array([[0.8, 0.3], [0.9, 0.4], [0.6, 0.5]])  # P(first) by two heads
    weight = np.array([0.2 * 0.9 * (0.6 * 0.4) ** 0.5, 0.7 * 0.4 * 0.5])
    close(tastes.routed(np.log(p), np.log(1 - p), y), weight / weight.sum(), atol=1e-12)


def test_a_mixture_of_one_is_the_plain_model():
    obs, action, mask = (jax.random.normal(KEY, (6, 4, k)) for k in (3, 2, 1))
    plain, one = RewardMLP((8,)), MixtureOfTastes((8,), heads=1, annotators=1)
    params = learning.init(plain, KEY, 3, 2)
    more = {"params": {**params["params"], "weights": jnp.zeros((1, 1))}}
    assert jax.tree.structure(more) == jax.tree.structure(learning.init(one, KEY, 3, 2))
    y = jnp.float32([0, 0.3, 1])
    found = []
    for model, of in ((plain, params), (one, more)):
        first, second = learning.parted(model.apply(of, obs, action, jnp.ones(mask.shape[:2])), 3)
        found.append(learning.surprise(first, second, y))
        close(model.apply(of, obs, action, jnp.ones(mask.shape[:2])).last(0.0)[:2], first.last(0.0)[:2], atol=0)
    close(found[0], found[1], atol=1e-6)
    gap = first.heads(second)[0] - first.heads(second)[1]
    close(found[0], learning.cross_entropy(y, gap[:, 0]), atol=1e-6)


def test_factors_decide_in_their_order():
    """Standard deviations are 1 and 10; both margins are 1."""
    f = np.array([[-1, 1, 1, -1], [10, 10, -10, -10]]) * 1.0
    first, second = np.array([0, 1, 1, 2, 0]), np.array([1, 0, 2, 3, 0])
    label, level = hierarchy.decided(f, first, second, [1, 1])
    assert label.tolist() == [1, 0, 0, 0, 0.5] and level.tolist() == [0, 0, 1, 0, 2]
    again = hierarchy.decided(f * np.array([[5], [0.1]]), first, second, [1, 1])  # units do not matter
    assert all((a == b).all() for a, b in zip(again, (label, level), strict=True))
    assert hierarchy.decided(f, first, second, [2.5, 1])[1].tolist() == [2, 2, 1, 2, 2]  # the first level decides nothing more
    assert hierarchy.decided(f, first, second, [2, 1])[1].tolist() == [2, 2, 1, 2, 2]  # more than the margin is asked


def test_factors_are_channels_of_arrivals():
    rng = np.random.default_rng(0)
    one = lambda n: {
        "obs": rng.normal(size=(n + 1, 3)),
        "action": np.zeros((n + 1, 1)),
        "reward": rng.normal(size=n + 1),
        "terminated": np.zeros(n + 1, bool),
        "info": {"speed": rng.normal(size=n + 1).astype("f4")},
    }
    episodes = [one(n) for n in (4, 2, 6)]
    state = replay.from_episodes(episodes)
    got, level = hierarchy.by_factors(state, ("-info/speed", "obs/2"), 200, rng, margins=(0.5, 0.0), steps=2)
    found = pairs.episodes(state)
    pairs.rows_of(got, found)
    mean = lambda e, s, f: np.mean([f(episodes[e], t) for t in (s + 1, s + 2)])
    speed = lambda e, s: -mean(e, s, lambda x, t: x["info"]["speed"][t])
    height = lambda e, s: mean(e, s, lambda x, t: x["obs"][t, 2])
    places = [(e, s) for e, x in enumerate(episodes) for s in range(len(x["reward"]) - 2)]
    std = np.std([speed(*p) for p in places])
    for i in range(200):
        a, b = ((int(got.episode[k, i]), int(got.start[k, i])) for k in (0, 1))
        d = speed(*b) - speed(*a)
        by = 0 if abs(d) > 0.5 * std else 1 if a != b else 2
        d = (d, height(*b) - height(*a), 0)[by]
        assert level[i] == by and got.label[i] == 0.5 + 0.5 * np.sign(d) and got.weight[i] == (by < 2)
    assert set(level) == {0, 1, 2} and set(got.source) == {pairs.SOURCES.index("heron")}
    for names, margins, words in (
        ((), (), "need factors"),
        (("info/height",), (), "no factor 'info/height'.*they have reward, info/speed, obs/0"),
        (("obs/3",), (), "no factor 'obs/3'"),
        (("reward",), (1, 2), "1 factors and 2 margins"),
    ):
        with pytest.raises(ValueError, match=words):
            hierarchy.by_factors(state, names, 3, rng, margins=margins)


# ----------------------------------------------------------------------------------------------------------- what is fitted

SHORT = Training(300, 16, 1, held_out=0.0, checks=1)


def fitted(model, prefs, found, training=SHORT, seed=0):
    key = jax.random.key(seed)
    n, m = found.obs.shape[1], found.action.shape[1]
    return learning.fit(model, learning.init(model, key, n, m), prefs, found, key, training, Coefs(lr=1e-2)).params


@pytest.mark.slow
def test_rock_paper_scissors():
    """Each beats the next one. A general preference says all of it; of one score each, a pair of the three is always wrong."""
    one = lambda i: {"obs": np.eye(3)[[i, i]], "action": np.zeros((2, 1)), "reward": [0, 0], "terminated": [False, False]}
    found = pairs.episodes(replay.from_episodes([one(i) for i in range(3)]))
    prefs = pairs.preferences([[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]], [0, 0, 0, 1, 1, 1], 1)
    right = {}
    for name, model in (("general", GeneralPreference((16,))), ("plain", RewardMLP((16,)))):
        params = fitted(model, prefs, found)
        said = learning.predictions(model, params, prefs, found, 1)
        right[name] = learning.agreement(prefs.label, said)
        if name == "general":
            assert (abs(said - prefs.label) < 0.1).all()
            each = learning.rewards(model, params, found, 1)
            close(each[found.begin], 0.5, atol=0.05)  # no choice is better than another
    assert right["general"] == 1 and right["plain"] <= 2 / 3 + 1e-9


@pytest.mark.slow
def test_two_people_of_opposite_taste():
    found = pairs.episodes(data([8] * 30))
    rng = np.random.default_rng(1)
    episode = np.stack([pairs.choose(30, 400, "random", rng) for _ in range(2)])  # [annotator, 2, P]
    count = episode.shape[-1]
    episode = np.concatenate(episode, -1)
    who = np.repeat([0, 1], count)
    label = (found.returns[episode[1]] > found.returns[episode[0]]) ^ (who == 1)
    learn = rng.permutation(2 * count) < 1.6 * count
    of = lambda part: pairs.preferences(episode[:, part], label[part], 8, annotator=who[part])
    training = Training(400, 32, 8, held_out=0.0, checks=1)
    right = {}
    for name, model in (("mixture", MixtureOfTastes((16,), of=1)), ("one", RewardMLP((16,)))):
        params = fitted(model, of(learn), found, training)
        right[name] = learning.agreement(label[~learn], learning.predictions(model, params, of(~learn), found, 8))
        if name == "mixture":
            each = learning.rewards(model, params, found, 8)
            there = ~np.isnan(each)
            assert np.corrcoef(each[there], found.obs[there, 0])[0, 1] < -0.8  # the second one's taste
            few = pairs.preferences(episode[:, :8], label[:8], 8)  # eight answers of somebody new, whose taste is the first's
            read, steps = learning.windows(few, found, 8)
            said = model.apply(params, *read.read(jnp.arange(8), jnp.zeros(8, jnp.int32), steps))
            first, second = learning.parted(said, 8)
            weights = tastes.routed(*first.heads(second), few.label)
            assert weights.max() > 0.9 and weights.argmax() == params["params"]["weights"][0].argmax()
    assert right["mixture"] > 0.9 and abs(right["one"] - 0.5) < 0.12


# ------------------------------------------------------------------------------------------------------------- in an agent


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model.kind": "general"}, "give head='deterministic'"),
        ({"model.kind": "mixture", "model.annotator": 2, "head": "deterministic"}, "none of the 2 of model.annotators"),
        ({"labels": "heron"}, "need factors"),
        ({"labels": "heron", "factors": ("info/speed",)}, "no factor 'info/speed'"),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    env = rlx.envs.make("rlx:point-mass")
    with pytest.raises(ValueError, match=words):
        agents.make("pearl", None, Problem({"train": env}, {"data": dataset(env)}), **{"labels": "oracle", **settings})


def test_answers_of_more_people_than_there_are(tmp_path):
    env = rlx.envs.make("rlx:point-mass")
    path = pairs.write(tmp_path / "labels.npz", pairs.preferences([[0, 1], [1, 2]], [1, 0], 3, annotator=[0, 2]))
    more = {"labels": str(path), "model.kind": "mixture", "head": "deterministic"}
    problem = Problem({"train": env}, {"data": dataset(env)})
    with pytest.raises(ValueError, match="answers of annotator 2: give model.annotators=3"):
        agents.make("pearl", None, problem, **more)
    assert agents.make("pearl", None, problem, **more, **{"model.annotators": 3}).stages[0].name == "label"


@pytest.mark.slow
def test_a_reward_by_ranked_factors_reaches_the_rows():
    """What is preferred is a small first entry of the action, which the rows repeat in the next observation."""
    env = rlx.envs.make("rlx:point-mass", time_limit=5)
    rng = np.random.default_rng(0)
    out = []
    for _ in range(10):
        action, obs = rng.uniform(-1, 1, (12, 2)), rng.normal(size=(12, 4))
        obs[1:, 0] = action[:-1, 0]
        out.append({"obs": obs, "action": action, "reward": np.zeros(12), "terminated": np.zeros(12, bool)})
    given = replay.from_episodes(out)
    small = {"labels": "heron", "factors": ("-obs/0",), "margins": (0.2,), "pairs": 400}
    small |= {"model.hidden": (16,), "model.steps": 300, "model.held_out": 0.0}
    agent = agents.make(
        "pearl",
        None,
        Problem({"train": env}, {"data": given}),
        **{**agents.presets("pearl")["general"], **small, "reward_lr": 1e-2, "model.checks": 2},
    )
    state = agent.init(KEY, {k: jnp.float32(v) for k, v in agent.hyper.items()})
    sources = {"data": given}
    for stage in agent.stages[:3]:
        state, sources = stage.phases[0].fn(state, sources, jax.random.key(3))
    found = pairs.episodes(sources["data"])
    inside = np.setdiff1d(np.arange(len(found.reward)), found.begin)
    assert np.corrcoef(found.reward[inside], found.action[inside - 1, 0])[0, 1] < -0.8
