"""Pairs as indices, reward models and their losses by hand, relabelled windows, and what is learned from noisy labels."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.preferences import labels, learning, models, pairs
from rlx.preferences.learning import Coefs, Training
from rlx.preferences.models import Judged, PreferenceTransformer, RewardMLP
from rlx.replay.datasets import Pairs

pytestmark = pytest.mark.usefixtures("all_bits")
close = functools.partial(np.testing.assert_allclose, rtol=0)
KEY = jax.random.key(0)


def data(lengths, seed=0, n=3, m=2):
    """Episodes of so many decisions; a decision is worth its observation's first entry."""
    rng = np.random.default_rng(seed)
    out = []
    for steps in lengths:
        obs = rng.normal(size=(steps + 1, n)) + 0.5 * rng.normal()
        reward = np.r_[0, obs[:-1, 0]]
        action = rng.uniform(-1, 1, (steps + 1, m))
        out.append({"obs": obs, "action": action, "reward": reward, "terminated": np.zeros(steps + 1, bool)})
    return replay.from_episodes(out)


# ---------------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_point_into_a_replay(tmp_path):
    state = data([4, 2, 6])
    found = pairs.episodes(state)
    assert found.steps.tolist() == [4, 2, 6] and found.begin.tolist() == [0, 5, 8] and found.obs.shape == (15, 3)
    close(found.returns, replay.episode_returns(state), atol=1e-6)
    given = pairs.preferences([[0, 2], [2, 1]], [1, 0.5], [3, 2], start=[[1, 4], [0, 0]], weight=[1, 0.3], source="cpa")
    assert pairs.rows_of(given, found).tolist() == [[1, 12], [8, 5]]
    again = pairs.read(pairs.write(tmp_path / "labels.npz", given))
    for a, b in zip(again, given, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="pair 1 points at steps 5 to 7 of episode 2; .* 3 episodes of 2 to 6 steps"):
        pairs.rows_of(given._replace(start=np.array([[1, 5], [0, 0]])), found)
    with pytest.raises(ValueError, match="of episode 3"):
        pairs.rows_of(given._replace(episode=np.array([[0, 3], [2, 1]])), found)
    np.savez(tmp_path / "odd.npz", episode=[[0], [1]])
    with pytest.raises(ValueError, match="odd.npz: this is no file of preferences: it has no label, start, steps"):
        pairs.read(tmp_path / "odd.npz")


@pytest.mark.parametrize(
    ("episode", "label", "more", "words"),
    [
        (np.zeros((2, 0)), [], {}, "one pair at least"),
        ([[0], [1]], [1.5], {}, "label 1.5 of pair 0"),
        ([[0, 0], [1, 1]], [0.5, np.nan], {}, "label nan of pair 1"),
        ([[0], [1]], [1], {"weight": -1}, "weight -1 of pair 0"),
        ([[0], [1]], [1, 0], {}, r"label is \[2\] for 1 pairs"),
        ([[0], [1]], [1], {"source": "nobody"}, "unknown source 'nobody'"),
    ],
)
def test_bad_pairs_are_named(episode, label, more, words):
    with pytest.raises(ValueError, match=words):
        pairs.preferences(episode, label, 3, **more)


def test_segments_of_a_file_become_episodes():
    rng = np.random.default_rng(0)
    given = Pairs(*(rng.uniform(size=(2, 3, 4, k)).astype("f4") for k in (5, 2)), np.float32([0, 0.5, 1]))
    state, prefs = pairs.from_segments(given)
    found = pairs.episodes(state)
    at = pairs.rows_of(prefs, found)[..., None] + np.arange(4)
    np.testing.assert_array_equal(found.obs[at], given.obs)
    np.testing.assert_array_equal(found.action[at], given.action)
    assert prefs.label.tolist() == [0, 0.5, 1] and prefs.steps.tolist() == [4, 4, 4]


def test_pairs_are_chosen_once_each():
    rng = np.random.default_rng(0)
    first, second = pairs.choose(6, None, "all", rng)
    both = lambda first, second: {frozenset(p) for p in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(both(first, second)) == 15 and (first > second).any() and (first < second).any()
    first, second = pairs.choose(6, 4, "random", rng)
    assert len(both(first, second)) == 4
    first, second = pairs.choose(6, None, "cross_cluster", rng, np.array([[0.0], [9], [0.1], [9.1], [9.2], [0.2]]))
    assert both(first, second) == {frozenset((a, b)) for a in (0, 2, 5) for b in (1, 3, 4)}


# -------------------------------------------------------------------------------------------------------------------- losses


def test_pieces_are_compared_by_their_discounted_rewards():
    state = data([5, 9])
    found = pairs.episodes(state)
    made = labels.of_pieces(found, 30, 3, np.random.default_rng(1), discount=0.5)
    assert (made.steps == 3).all() and set(made.episode.ravel()) == {0, 1}
    ends = {0: 5, 1: 9}
    for p in range(30):
        worth = []
        for episode, start in zip(made.episode[:, p], made.start[:, p], strict=True):
            assert start + 3 <= ends[int(episode)]
            told = found.obs[found.begin[episode] + start :][:3, 0].astype(np.float64)  # what a decision is worth here
            worth.append(told[0] + 0.5 * told[1] + 0.25 * told[2])
        assert made.label[p] == (worth[1] > worth[0]) if worth[0] != worth[1] else made.label[p] == 0.5


def test_soft_cross_entropy_by_hand():
    close(learning.cross_entropy(0.7, jnp.float32(1)), 1.013262, atol=1e-6)
    close(learning.cross_entropy(0.5, jnp.float32(0)), np.log(2), atol=1e-6)
    y, gap = jnp.float32([0, 0.3, 1]), jnp.float32([2, -1, 0.5])
    close(learning.cross_entropy(y, gap), learning.cross_entropy(1 - y, -gap), atol=1e-7)


def judged(mean, std, shape=(1, 1)):
    full = lambda x: jnp.full(shape, x, jnp.float32)
    return Judged(full(mean), full(std), full(1.0))


def test_sampled_cross_entropy_is_the_gaussian_integral():
    """E softplus(-d), d ~ N(mean, v), by Gauss-Hermite; half of v comes from each segment."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(81)
    exact = lambda mean, v: (weights * np.logaddexp(0, -(mean + np.sqrt(v) * nodes))).sum() / weights.sum()
    close([exact(1, 0), exact(1, 1), exact(0, 1)], [0.313262, 0.406856, 0.806059], atol=1e-6)
    how, coef = Training(samples=200_000), Coefs(mean=0.0, variance=0.0)
    y, w = jnp.zeros(1), jnp.ones(1)

    def value(v, mean=1.0):
        std = jnp.sqrt(v / 2)
        return learning.loss(judged(mean, std), judged(0, std), y, w, KEY, coef, how)

    for mean, v in ((1.0, 1.0), (0.0, 1.0), (1.0, 1e-9)):
        close(value(v, mean), exact(mean, v), atol=5e-3)
    assert jax.grad(value)(1.0) > 0  # so it alone sends the spread to 0


def test_entropy_is_kept_up():
    how = Training()
    of = lambda std, entropy=0.0, how=how: float(learning.entropy_loss(judged(0, std), Coefs(entropy=entropy), how))
    close(-of(0.1), np.log(0.1) + 1.418939, atol=1e-5)
    close([of(1.0, 1.418939), of(0.5, 0.725791)], 0, atol=1e-5)
    assert of(0.241972) == 0 and of(0.2419) > 0
    close(of(1.0, how=Training(variance="target")), 1.418939**2, atol=1e-4)
    masked = judged(0, 0.1, (1, 2))._replace(share=jnp.float32([[1, 0]]))
    close(learning.entropy_loss(masked, Coefs(), how), of(0.1), atol=1e-6)  # padding does not count


def test_noise_of_single_steps_cancels_in_a_mean():
    """Standard deviations of scores: std / sqrt(H) where each step has noise of its own, std where the segment has one."""
    one = Judged(jnp.zeros((1, 50)), jnp.full((1, 50), 0.24), jnp.full((1, 50), 1 / 50))
    still = one._replace(std=jnp.full((1, 50), 1e-6))
    gap = lambda noise: learning.loss(
        one, still, jnp.zeros(1), jnp.ones(1), KEY, Coefs(0.0, 1.0, 0.0), Training(noise=noise, samples=4096)
    )
    extra = lambda std: std**2 / 8  # second order: softplus'' (0) / 2 = 1/8
    close(gap("per_step") - np.log(2), extra(0.24 / 50**0.5), atol=1e-3)
    close(gap("per_segment") - np.log(2), extra(0.24), atol=3e-3)
    assert gap("per_segment") > gap("per_step")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_without_its_terms_a_gaussian_model_is_the_plain_one(kind):
    """The loss, its gradient and what a step starts from; Adam would enlarge the rounding of gradients that are 0."""
    make = lambda g: RewardMLP((8,), g) if kind == "mlp" else PreferenceTransformer(8, 1, 2, 20, gaussian=g, dropout=0.0)
    obs, action, mask = (jax.random.normal(KEY, (6, 4, k)) for k in (3, 2, 1))
    found = {}
    for g in (False, True):
        model = make(g)
        whole = learning.init(model, KEY, 3, 2)

        def value(params, model=model):
            judged = model.apply(params, obs, action, jnp.ones(mask.shape[:2]))
            first, second = (jax.tree.map(lambda x, part=part: x[part], judged) for part in (slice(3), slice(3, 6)))
            label, weight = jnp.float32([0, 0.3, 1]), jnp.float32([1, 1, 0.5])
            return learning.loss(first, second, label, weight, KEY, Coefs(sample=0.0, variance=0.0), Training())

        found[g] = [whole, *jax.jit(jax.value_and_grad(value))(whole)]
    (plain, loss, slope), (gaussian, other, other_slope) = found[False], found[True]
    close(loss, other, atol=1e-6)
    for one, two in ((plain, gaussian), (slope, other_slope)):
        rest = {k: v for k, v in two["params"].items() if k != "rho"}
        assert jax.tree.structure(one["params"]) == jax.tree.structure(rest)
        jax.tree.map(lambda a, b: close(a, b, atol=1e-6), one["params"], rest)
    assert all((x == 0).all() for x in jax.tree.leaves(other_slope["params"]["rho"]))


# -------------------------------------------------------------------------------------------------------------------- models

TRANSFORMER = PreferenceTransformer(width=16, layers=2, heads=2, max_steps=30, gaussian=True)


def test_size_of_the_preference_transformer():
    """By hand: 10 240 + 1 280 + 256 256 + 512 in front, 789 760 in the block, 512 and 131 841 behind; 257 for a Gaussian."""
    count = lambda model: sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: learning.init(model, KEY, 39, 4))))
    assert count(PreferenceTransformer()) == 1_190_401
    assert count(PreferenceTransformer(gaussian=True)) == 1_190_401 + 257


@pytest.mark.slow
def test_the_future_changes_weights_and_not_rewards():
    obs, action = jax.random.normal(KEY, (1, 6, 3)), jax.random.normal(KEY, (1, 6, 2))
    params, mask = learning.init(TRANSFORMER, KEY, 3, 2), jnp.ones((1, 6))
    run = jax.jit(TRANSFORMER.apply)
    base = run(params, obs, action, mask)
    other = run(params, obs.at[:, 4:].add(1.0), action.at[:, 4:].add(-1.0), mask)
    close(base.mean[:, :4], other.mean[:, :4], atol=1e-5)
    assert abs(base.mean[:, 4:] - other.mean[:, 4:]).max() > 1e-3
    assert abs(base.score(base.mean) - other.score(other.mean)).max() > 1e-5
    close(base.share.sum(), 1, atol=1e-5)
    changed = run(params, obs, action.at[:, 3].add(1.0), mask)
    assert abs(changed.mean[0, 3] - base.mean[0, 3]) > 1e-4  # a step's reward knows its own action
    pad = lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    padded = run(params, pad(obs), pad(action), jnp.pad(mask, ((0, 0), (2, 0))))
    close(padded.mean[:, 2:], base.mean, atol=1e-5)
    close(padded.share, jnp.pad(base.share, ((0, 0), (2, 0))), atol=1e-5)


def test_an_mlp_adds_up_its_steps():
    obs, action, mask = jnp.ones((1, 3, 3)), jnp.ones((1, 3, 2)), jnp.float32([[0, 1, 1]])
    for agg, share in (("sum", [0, 1, 1]), ("mean", [0, 0.5, 0.5])):
        model = RewardMLP((4,), agg=agg)
        found = model.apply(learning.init(model, KEY, 3, 2), obs, action, mask)
        assert found.share.tolist() == [share] and found.std is None


# -------------------------------------------------------------------------------------------------------------- relabelling


def test_windows_that_are_relabelled():
    """An episode of 5 steps and windows of 3; a second one begins at row 6."""
    at, mask = learning.window(np.array([0, 4, 6, 7]), np.array([0, 0, 6, 6]), 3)
    assert np.asarray(mask).tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert at[1].tolist() == [2, 3, 4] and at[3, 1:].tolist() == [6, 7]
    time = np.cumsum(np.asarray(mask), -1) * np.asarray(mask)  # as the transformer counts
    assert time.tolist() == [[0, 0, 1], [1, 2, 3], [0, 0, 1], [0, 1, 2]]


def test_rewards_are_those_of_windows_one_by_one():
    state = data([5, 3])
    found = pairs.episodes(state)
    params = learning.init(TRANSFORMER, KEY, 3, 2)
    got = learning.rewards(TRANSFORMER, params, found, 3, kappa=0.5, chunk=4)
    one = jax.jit(TRANSFORMER.apply)
    for row in (0, 1, 4, 6, 8):
        begin = 0 if row < 6 else 6
        rows = np.arange(max(begin, row - 2), row + 1)
        short = 3 - len(rows)
        pad = lambda x, k=short: np.pad(x, ((k, 0), (0, 0)))[None]
        j = one(params, pad(found.obs[rows]), pad(found.action[rows]), np.r_[np.zeros(short), np.ones(3 - short)][None])
        close(got[row], j.mean[0, -1] - 0.5 * j.std[0, -1], atol=1e-5)
    assert np.isnan(got[[5, 9]]).all()
    new = pairs.with_rewards(state, found, np.nan_to_num(got))
    told = replay.export(new)
    close(told[0].reward, np.r_[0, got[:5]], atol=1e-6)
    close(told[1].reward, np.r_[0, got[6:9]], atol=1e-6)
    close(replay.export(state)[0].reward[1], found.reward[1], atol=1e-6)  # the rows themselves stay


def test_unit_of_rewards():
    found = pairs.episodes(data([2, 2]))
    reward = np.array([1, 1, np.nan, 4, 6, np.nan])  # returns 2 and 10
    new, factor = learning.scaled(reward, found, 500)
    assert factor == 62.5 and new[0] == 62.5
    new, factor = learning.scaled(reward, found, 500, "from_worst")  # each of two steps is a half of the least return, 2, less
    assert factor == 62.5 and new[[0, 1, 3, 4]].tolist() == [0, 0, 3 * 62.5, 5 * 62.5]
    assert learning.scaled(reward, found, 500, "none") == (pytest.approx(reward, nan_ok=True), 1.0)
    with pytest.warns(UserWarning, match="all episodes are worth the same"):
        assert learning.scaled(np.ones(6), found, 500)[1] == 1


def test_how_returns_go_with_true_ones():
    found = pairs.episodes(data([1, 1, 1, 1]))._replace(reward=np.array([0, 1, 0, 2, 0, 3, 0, 4.0]))
    told = learning.correlations(np.array([1, np.nan, 3, np.nan, 2, np.nan, 10, np.nan]), found)  # ranks 1 3 2 4 of 1 2 3 4
    assert told["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert told["correlation"] == pytest.approx(np.corrcoef([1, 3, 2, 10], [1, 2, 3, 4])[0, 1])
    assert all(np.isnan(x) for x in learning.correlations(np.ones(8), found).values())


# ------------------------------------------------------------------------------------------------------------------ learning


def compared(flips=0.0, episodes=40, steps=12):
    found = pairs.episodes(data([steps] * episodes))
    rng = np.random.default_rng(1)
    first, second = pairs.choose(episodes, 400, "random", rng)
    truth = (found.returns[second] > found.returns[first]) * 1.0
    label = np.where(rng.uniform(size=len(truth)) < flips, 1 - truth, truth)
    return found, pairs.preferences([first, second], label, steps), truth


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_reward_is_learned_from_pairs(kind):
    """Labels of whole episodes, a fifth of them wrong; the truth is found all the same."""
    found, prefs, truth = compared(flips=0.2)
    if kind == "mlp":
        model, training = RewardMLP((32, 32), gaussian=True), Training(400, 32, 12, checks=10)
    else:
        model, training = PreferenceTransformer(16, 1, 2, 20, gaussian=True), Training(200, 32, 8, schedule=True, checks=10)
    got = learning.fit(model, learning.init(model, KEY, 3, 2), prefs, found, KEY, training, Coefs(lr=1e-3))
    assert got.held_loss[got.best] == got.held_loss.min() and got.held_loss.min() < got.held_loss[0]
    assert learning.agreement(truth, learning.predictions(model, got.params, prefs, found, 12)) > 0.85
    if kind == "mlp":
        each = learning.rewards(model, got.params, found, 1)
        inside = ~np.isnan(each)
        assert np.corrcoef(each[inside], found.obs[inside, 0])[0, 1] > 0.8


def test_windows_of_pieces_that_are_shorter_are_masked():
    found = pairs.episodes(data([3, 5, 5]))
    given = pairs.preferences([[0, 1], [1, 2]], [1, 0], [3, 5])
    read, steps = learning.windows(given, found, 4)
    both = np.arange(2)
    assert steps == 4 and read.room(both, steps).tolist() == [0, 1]
    obs, action, mask = read.read(both, np.array([0, 1]), steps)
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]] * 2
    close(obs[0], np.r_[found.obs[:3], np.zeros((1, 3))], atol=0)
    close(obs[3], found.obs[found.begin[2] + 1 :][:4], atol=0)
    close(action[2], np.r_[found.action[4:7], np.zeros((1, 2))], atol=0)
    assert learning.windows(given, found, 99)[1] == learning.window_length(given, 99) == 5


def test_nothing_to_learn_from_is_named():
    found, prefs, _ = compared(episodes=4)
    model = models.RewardMLP((4,))
    with pytest.raises(ValueError, match="all weights are 0"):
        learning.fit(model, learning.init(model, KEY, 3, 2), prefs._replace(weight=0 * prefs.weight), found, KEY)


def test_of_the_pairs_that_count_some_are_held_out_and_some_are_not():
    """Whatever the draw: a held-out loss of pairs of weight 0 says nothing, and to learn from such is to learn nothing."""
    for seed in range(20):
        weight = np.random.default_rng(seed).permutation(np.arange(40) < 20).astype(float)
        learn, held = learning.split(weight, 0.1, jax.random.key(seed))
        assert (len(held), (weight[held] > 0).sum()) == (4, 2) and sorted([*learn, *held]) == [*range(40)]
        learn, held = learning.split(np.arange(8) < 2, 0.5, jax.random.key(seed))
        assert len(held) == 4 and (held < 2).sum() == 1
        learn, held = learning.split(np.arange(8) < 1, 0.5, jax.random.key(seed))
        assert len(held) == 4 and 0 in learn


def test_without_a_held_out_pair_that_counts_the_last_parameters_are_kept():
    found, prefs, _ = compared(episodes=4)
    one = prefs._replace(weight=(np.arange(len(prefs.label)) == 0).astype(np.float32))
    model, how = models.RewardMLP((4,)), learning.Training(steps=20, batch=4, held_out=0.5, checks=4)
    got = learning.fit(model, learning.init(model, KEY, 3, 2), one, found, KEY, how)
    assert np.isnan(got.held_loss).all() and int(got.best) == 3


def test_all_updates_are_made_whatever_the_checks():
    found, prefs, _ = compared(episodes=4)
    model = models.RewardMLP((4,))
    of = lambda checks: learning.fit(
        model, learning.init(model, KEY, 3, 2), prefs, found, KEY, learning.Training(7, 4, held_out=0, checks=checks)
    )
    one, three, many = of(1), of(3), of(20)
    assert len(three.train_loss) == 3 and len(many.train_loss) == 7
    close(np.average(three.train_loss, weights=[2, 2, 3]), one.train_loss[0], rtol=1e-5)
    for got in (three, many):
        jax.tree.map(lambda x, y: close(x, y, atol=1e-6), got.params, one.params)


def test_a_constant_std_is_the_one_that_is_asked_for():
    """As a Gaussian head that gives it everywhere, of which nothing is left to be asked."""
    share, coef = jnp.full((3, 4), 0.25), learning.Coefs(entropy=0.5)
    first, second = (models.Judged(jax.random.normal(jax.random.key(i), (3, 4)), None, share) for i in (0, 1))
    std = jnp.full((3, 4), np.exp(0.5) / np.sqrt(2 * np.pi * np.e))
    label, weight = jnp.array([0.0, 1.0, 0.5]), jnp.ones(3)
    of = lambda a, b, **how: learning.loss(a, b, label, weight, KEY, coef, learning.Training(**how))
    found = of(first, second, constant=True)
    close(found, of(first._replace(std=std), second._replace(std=std)), atol=1e-5)
    assert found > of(first, second) and learning.entropy_loss(first._replace(std=std), coef, learning.Training()) < 1e-6


def test_pairs_are_held_out_before_training():
    learn, held = learning.split(np.ones(20), 0.25, KEY)
    assert len(held) == 5 and sorted([*learn, *held]) == [*range(20)]
    assert [len(x) for x in learning.split(np.ones(1), 0.5, KEY)] == [1, 0]
    assert len(learning.split(np.ones(10_000), 0.5, KEY)[1]) == learning.MOST_HELD
    close([learning.step_share(x) for x in (0.0, 0.1, 0.55, 1.0)], [0.1, 1, 0.55, 0.1], atol=1e-6)
