"""The search in models whose best actions are known, and each of its formulas against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import RSSM, EnsembleDynamics, LatentDynamics, SparseDynamics, ensemble, filtered, scorer
from rlx.dynamics.dictionary import Dictionary
from rlx.dynamics.filtered import by_likelihood, by_reward
from rlx.dynamics.sparse_model import SparseModel
from rlx.planning import mppi
from rlx.planning.mppi import Imagination, Search, Settings

pytestmark = pytest.mark.usefixtures("all_bits")
close = np.testing.assert_allclose
KEY = jax.random.key(0)
SHARP = Settings(discount=1.0, temperature=20.0, std_min=1e-3)
SEARCH = Search(horizon=3, samples=200, proposals=0, elites=20, iterations=8)


def towards(goal: float, pull: float = 1.0) -> Imagination:
    """A point on a line that actions move; what is paid is the square of the distance from ``goal``, and nothing ahead."""

    def step(x, action, key):
        x = x + pull * action[:, 0]
        return x, -((x - goal) ** 2)

    return Imagination(step, lambda x, key: jnp.zeros((1, *x.shape)))


def found(imagine, sizes=SEARCH, settings=SHARP, x=0.0, mean=None, h=3, explore=0.0, key=KEY):
    mean = jnp.zeros((sizes.horizon, 1)) if mean is None else mean
    return jax.jit(partial(mppi.search, imagine, sizes))(settings, jnp.float32(x), mean, h, explore, key)


# ------------------------------------------------------------------------------------------------------------- formulas


def test_returns_discount_rewards_and_what_is_ahead():
    paid = jnp.float32([0, 0, 1, 1, 1])
    imagine = Imagination(lambda t, action, key: (t + 1, paid[t]), lambda t, key: jnp.full((1, *t.shape), 2.0))
    start, actions = jnp.zeros(3, jnp.int32), jnp.zeros((5, 3, 1))
    whole = mppi.returns(imagine, start, actions, 5, 0.95, KEY)
    close(whole, np.full((1, 3), 2.57438125 + 0.77378094 * 2), rtol=1e-6)
    close(mppi.returns(imagine, start, actions, 3, 0.95, KEY), np.full((1, 3), 0.95**2 + 0.95**3 * 2), rtol=1e-6)


def test_what_policies_do_is_valued_as_it_is_done():
    imagine = towards(1.0)._replace(propose=lambda x, key: 0.5 * jax.random.normal(key, (x.shape[0], 1)))
    start = jnp.zeros(4)
    actions, values = mppi.proposed(imagine, start, 5, 2, 0.9, KEY)
    assert actions.shape == (5, 4, 1) and not actions[2:].any() and len(np.unique(actions[:2])) == 8
    close(values, mppi.returns(imagine, start, actions, 2, 0.9, KEY), rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "value"), [((0.0, 1.0, -10.0), 1 - 10 * 0.158113883), ((1.0, 0.0, 0.0), 0.8), ((0.0, 1.0, 0.0), 1.0)]
)
def test_estimates_are_weighed(weights, value):
    estimates = jnp.float32([1.0, 1.2, 0.8, 1.1, 0.9])[:, None]
    close(mppi.weighed(estimates, weights), [value], atol=1e-5)


def test_estimates_that_agree_cost_nothing_and_one_has_no_deviation():
    close(mppi.weighed(jnp.full((10, 3), 0.7), (0.0, 1.0, -10.0)), np.full(3, 0.7), atol=1e-5)
    close(mppi.deviation(jnp.ones((1, 2))), [0.0, 0.0])


@pytest.mark.parametrize("weight", [-10.0, -0.5, 0.0, 1.0, 300.0])
def test_what_all_agree_on_is_the_value_whatever_their_deviation_costs(weight):
    """To the last bit, of numbers whose sums are not rounded."""
    agreed = jnp.float32([-3.0, 0.0, 0.75, 18.5])
    for count in (2, 6, 10):
        np.testing.assert_array_equal(mppi.weighed(jnp.tile(agreed, (count, 1)), (0.0, 1.0, weight)), agreed)


def test_elites_are_weighed_by_their_values():
    best = mppi.elites(jnp.float32([1, 2, 4, 0]), 3, 0.5)
    np.testing.assert_array_equal(best.index, [2, 1, 0])
    close(best.weight, [0.628532, 0.231224, 0.140244], atol=1e-6)
    close(mppi.elites(jnp.float32([1, 2, 4, 0]) + 100, 3, 0.5).weight, best.weight, atol=1e-6)
    close(mppi.elites(jnp.full(9, 3.0), 4, 0.5).weight, np.full(4, 0.25))
    close(mppi.elites(jnp.float32([1, 2, 4, 0]), 3, 0.0).weight, np.full(3, 1 / 3), rtol=1e-6)  # the cross-entropy method


def test_what_is_no_number_is_an_elite_where_there_is_no_other():
    values = jnp.float32([jnp.nan, -90, jnp.inf, -80, -70])
    best = mppi.elites(values, 3, 0.5, worst=-50.0)
    np.testing.assert_array_equal(best.index, [4, 3, 1])
    last = mppi.elites(values, 4, 0.5, worst=-100.0)
    assert int(last.index[3]) in (0, 2) and float(last.value[3]) == -100 and np.isfinite(last.weight).all()


def test_the_gaussian_is_refitted_with_a_momentum():
    chosen, weight = jnp.float32([[[1.0], [0.0], [-1.0]]]), jnp.float32([0.5, 0.25, 0.25])
    settings = Settings(momentum=0.1, std_min=0.1, std_max=2.0)
    mean, std = mppi.refit(chosen, weight, jnp.full((1, 1), 2.0), settings)
    close(mean, [[0.1 * 2 + 0.9 * 0.25]], rtol=1e-6)
    close(std, [[np.sqrt(0.5 * 0.75**2 + 0.25 * 0.25**2 + 0.25 * 1.25**2)]], rtol=1e-6)
    close(mppi.refit(chosen, weight, mean, settings._replace(std_min=1.0))[1], [[1.0]])
    close(mppi.refit(chosen, weight, mean, settings._replace(std_max=0.3))[1], [[0.3]])


def test_a_plan_moves_on_by_one():
    close(mppi.shifted(jnp.float32([[1, 2], [3, 4], [5, 6]])), [[3, 4], [5, 6], [0, 0]])


# ----------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("goal", [0.6, -0.3])
def test_the_best_plan_is_found(goal):
    plan = found(towards(goal))
    close(plan.mean[:, 0], [goal, 0, 0], atol=0.15)
    close(plan.action, [goal], atol=0.05)
    close(plan.value, 0, atol=0.03)


def test_a_goal_out_of_reach_is_gone_for_at_full_speed():
    close(found(towards(9.0)).mean[:, 0], [1, 1, 1], atol=0.1)


def test_a_centred_search_narrows_without_bound_and_its_noise_does_not():
    """Policies that all do 0.3 leave a Gaussian of no width; MoDem-V2 bounds the noise of the action alone."""
    imagine = towards(0.6)._replace(propose=lambda x, key: jnp.full((x.shape[0], 1), 0.3))
    sizes = dataclasses.replace(SEARCH, proposals=20, elites=10, iterations=3, centred=True, pick="elite")
    wide = SHARP._replace(momentum=0.0, std_min=0.5)
    plan = found(imagine, sizes, wide)
    close([plan.action[0], plan.mean[0, 0], plan.std[0]], [0.3, 0.3, 0.5], rtol=1e-6)
    assert abs(float(found(imagine, sizes, wide, explore=1.0).action[0]) - 0.3) > 0.01
    loose = found(imagine, dataclasses.replace(sizes, centred=False), wide)
    assert abs(float(loose.action[0]) - 0.6) < 0.2 and float(loose.std[0]) == 0.5


def test_it_begins_where_the_last_plan_was():
    once = dataclasses.replace(SEARCH, iterations=1, samples=20, elites=1)
    narrow = SHARP._replace(momentum=0.0, std_max=0.05)
    plan = found(towards(0.6), once, narrow, mean=jnp.float32([[0.6], [0], [0]]))
    far = found(towards(0.6), once, narrow)
    assert abs(float(plan.mean[0, 0]) - 0.6) < 0.1 < abs(float(far.mean[0, 0]) - 0.6)
    still = found(towards(0.6), once, narrow._replace(momentum=1.0), mean=jnp.full((3, 1), -0.25))
    close(still.mean, np.full((3, 1), -0.25))


def test_it_looks_no_further_than_told_and_compiles_nothing_for_it():
    traces = []

    def step(x, action, key):
        traces.append(1)
        late = x[1] >= 1
        return (x[0] + action[:, 0], x[1] + 1), jnp.where(late, 100 * action[:, 0], -action[:, 0])

    imagine = Imagination(step, lambda x, key: jnp.zeros((1, *x[1].shape)))
    one = jax.jit(lambda h: mppi.search(imagine, SEARCH, SHARP, (jnp.float32(0), jnp.int32(0)), jnp.zeros((3, 1)), h, 0.0, KEY))
    near = one(1)
    count = len(traces)
    far = one(3)
    assert len(traces) == count
    assert float(near.mean[0, 0]) < -0.9 and float(far.mean[1, 0]) > 0.9
    close(near.value, 1.0, atol=0.1)


def test_plans_that_lead_to_no_number_are_left_out():
    def step(x, action, key):
        x = x + action[:, 0]
        return jnp.where(x > 0.2, jnp.nan, x), -((x - 0.6) ** 2)

    plan = found(Imagination(step, lambda x, key: x[None]), h=1)
    assert all(np.isfinite(x).all() for x in plan) and 0.1 < float(plan.action[0]) <= 0.2
    nothing = found(Imagination(lambda x, action, key: (x, x + jnp.nan), lambda x, key: x[None]))
    assert all(np.isfinite(x).all() for x in nothing)


def test_what_policies_propose_is_a_candidate():
    imagine = towards(0.6)._replace(propose=lambda x, key: jnp.clip(0.6 - x, -1, 1)[:, None])
    sizes = dataclasses.replace(SEARCH, samples=1, proposals=1, elites=1, iterations=1)
    close(found(imagine, sizes, SHARP._replace(momentum=0.0)).mean[:, 0], [0.6, 0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="needs policies"):
        found(towards(0.6), sizes)


def test_a_centred_search_draws_from_policies_alone_and_then_refits():
    policy = lambda noise: lambda x, key: 0.2 + noise * jax.random.normal(key, (x.shape[0], 1))
    imagine = towards(0.6)._replace(propose=policy(0.05))
    sizes = Search(horizon=3, samples=0, proposals=100, elites=10, iterations=1, centred=True, pick="elite")
    actions = np.array([found(imagine, sizes, h=2, key=jax.random.key(i)).action[0] for i in range(5)])
    assert (abs(actions - 0.2) < 0.25).all() and len(set(actions)) == 5
    refined = found(imagine._replace(propose=policy(0.5)), dataclasses.replace(sizes, elites=30, iterations=8), h=2)
    close(refined.mean[:2, 0], [0.6, 0], atol=0.1)


def test_elites_are_drawn_by_their_weights():
    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(lambda k: mppi.drawn_elite(jnp.arange(3.0)[:, None], jnp.float32([0.6, 0.3, 0.1]), k))(keys)
    close(np.bincount(np.int64(drawn[:, 0])) / 4000, [0.6, 0.3, 0.1], atol=0.03)


def test_noise_is_added_where_one_explores():
    settings = SHARP._replace(std_min=0.3)
    still = found(towards(0.0), settings=settings)
    close(still.action, still.mean[0])
    moved = np.array([found(towards(0.0), settings=settings, explore=1.0, key=jax.random.key(i)).action[0] for i in range(20)])
    assert 0.1 < moved.std() < 0.6 and abs(moved).max() <= 1


def test_the_same_search_in_sparse_equations():
    """x' = x + u / 2, paid by -(x' - 0.4)^2: the first action is 0.8."""
    library, row = Dictionary(2, ((0,), (1,))), np.float32([[1.0, 0.5]])
    params = SparseModel(jnp.asarray(row)[None], jnp.asarray(row), library)
    model = SparseDynamics(lambda xp, obs, action: -((obs[..., 0] - 0.4) ** 2))
    state = mppi.imagined_state(model, params, jnp.zeros(1), KEY)
    wide = mppi.imagined(model, params)
    plan = jax.jit(lambda s: mppi.search(wide, SEARCH, SHARP, s, jnp.zeros((3, 1)), 3, 0.0, KEY))(state)
    close(plan.mean[:, 0], [0.8, 0, 0], atol=0.15)


def linear_members(rows: np.ndarray) -> ensemble.Ensemble:
    """Members [E] that predict (change, reward) = u times ``rows`` [E, 2], with next to no noise."""
    blank = ensemble.init(KEY, len(rows), (2, 2), gaussian=True, elites=len(rows))
    kernel = jnp.zeros((len(rows), 2, 4)).at[:, 1, :2].set(rows)
    params = {"params": {"Dense_0": {"kernel": kernel, "bias": jnp.full((len(rows), 4), -9.0).at[:, :2].set(0.0)}}}
    return dataclasses.replace(blank, params=params)


@pytest.mark.parametrize("kind", ["ensemble", "filtered"])
def test_the_same_search_in_an_ensemble_and_in_what_filters_it(kind):
    """Each member pays for going down; behind the horizon it is worth to be low."""
    model, params = EnsembleDynamics(), linear_members(np.float32([[0.5, -1.0], [0.4, -0.8]]))
    if kind == "filtered":
        model = filtered(model, by_likelihood, draws=1)
        params = {"model": params, "scorer": params, "r_min": -jnp.inf, "filter_temperature": 1.0}
    imagine = mppi.imagined(model, params, lambda obs, key: -obs[None, :, 0])
    state = mppi.imagined_state(model, params, jnp.zeros(1), KEY)
    plan = jax.jit(lambda s: mppi.search(imagine, SEARCH, SHARP, s, jnp.zeros((3, 1)), 3, 0.0, KEY))(state)
    close(plan.mean[:, 0], [-1, -1, -1], atol=0.25)
    assert 2.7 < float(plan.value) < 4.8  # a decision is worth 0.8 + 0.4 to 1 + 0.5


def test_a_learned_reward_of_transitions_keeps_a_search_off_what_is_not_real():
    """One member pays a little for going down, the other more for going up, by changes that are too large to be real."""
    members = linear_members(np.float32([[0.5, -1.0], [-2.0, 1.0]]))
    own = scorer.blank(KEY, 1, 1, 1, (2,))
    layers = {  # the logit is 2 - 4 |change|
        "Dense_0": {"kernel": jnp.zeros((1, 3, 2)).at[0, 2].set(jnp.array([1.0, -1.0])), "bias": jnp.zeros((1, 2))},
        "Dense_1": {"kernel": jnp.full((1, 2, 1), -4.0), "bias": jnp.full((1, 1), 2.0)},
    }
    own = dataclasses.replace(own, params={"params": layers}, real=jnp.ones(1), generated=jnp.full(1, -5.0))
    chosen = filtered(EnsembleDynamics(), by_reward, "argmax", draws=1)
    given = {"model": members, "scorer": own, "r_min": -jnp.inf, "filter_temperature": 1.0}
    for model, params, down in ((EnsembleDynamics(), members, False), (chosen, given, True)):
        imagine = mppi.imagined(model, params, lambda obs, key: -obs[None, :, 0])
        state = mppi.imagined_state(model, params, jnp.zeros(1), KEY)
        plan = jax.jit(lambda s, imagine=imagine: mppi.search(imagine, SEARCH, SHARP, s, jnp.zeros((3, 1)), 3, 0.0, KEY))(state)
        assert (float(plan.mean.mean()) < -0.8) if down else (float(plan.mean.mean()) > 0.0)
    assert 3.5 < float(plan.value) < 5.5  # 1 + 1/2 for each decision


def test_the_same_search_in_a_recurrent_latent_model():
    """What it finds is worth more, imagined again, than the opposite. What is paid is an entry of the belief."""

    class Paid:
        apply = staticmethod(lambda params, features: 10 * features[..., :1])

    rssm = RSSM(actions=1, embedding=3, belief=2, state=3, hidden=4)
    model, params = LatentDynamics(rssm, Paid), {"rssm": rssm.init(KEY), "reward": ()}
    imagine, state = mppi.imagined(model, params), mppi.imagined_state(model, params, jnp.zeros(5), KEY)
    plan = jax.jit(lambda s: mppi.search(imagine, SEARCH, SHARP, s, jnp.zeros((3, 1)), 3, 0.0, KEY))(state)
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (64, *x.shape)), state)
    again = jax.jit(lambda mean: mppi.returns(imagine, wide, jnp.tile(mean[:, None], (1, 64, 1)), 3, 1.0, KEY).mean())
    assert float(again(plan.mean)) > float(again(-plan.mean)) and abs(float(plan.action[0])) > 0.5


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"elites": 600}, "600 elites: give at most 537"),
        ({"horizon": 0}, "at least 1"),
        ({"proposals": 8, "centred": True}, "at most 8"),
    ],
)
def test_sizes_that_cannot_be(sizes, words):
    with pytest.raises(ValueError, match=words):
        Search(**sizes)
