"""The dynamics reward: its formulas by hand, and what the game that it is learned in must keep."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import adversary, distilled, scorer
from rlx.dynamics.adversary import Game, Snapshots, choose, discriminator_loss, learn
from rlx.dynamics.scorer import between, calibrate, ranges, reward
from rlx.nn.mlp import stack

close = lambda x, y, tol=1e-5: np.testing.assert_allclose(x, y, atol=tol)


def made(snapshots=4, n=3, m=2, seed=0, hidden=(16, 8), **how):
    """A scorer of random networks, and e and l that differ."""
    one = scorer.blank(jax.random.key(seed), n, m, snapshots, hidden, **how)
    rng = np.random.default_rng(seed)
    low = jnp.float32(-rng.uniform(0.1, 1, snapshots))
    return dataclasses.replace(one, real=-low / 2, generated=low)


def rewards(logits, e, low, calibrated=True, **how):
    """r of logits [T, ...]."""
    own = dataclasses.replace(made(len(logits), calibrated=calibrated, **how), real=jnp.float32(e), generated=jnp.float32(low))
    return reward(own.probabilities(jnp.float32(logits)), own.there)


def test_the_loss_of_a_discriminator():
    assert float(discriminator_loss(jnp.float32([1.0]), jnp.float32([-0.5]), 0.0)) == pytest.approx(0.787339, abs=1e-6)
    close(adversary.bernoulli_entropy(jnp.float32([1.0, -0.5])), [0.582203, 0.662847], 1e-6)
    assert float(discriminator_loss(jnp.float32([1.0]), jnp.float32([-0.5]), 1e-3)) == pytest.approx(0.786716, abs=1e-6)


def test_the_reward_is_of_the_mean_probability():
    close(reward(jnp.float32([0.2, 0.8]), jnp.ones(2, bool)), 0.693147)
    close(reward(jnp.float32([0.2, 0.8, 0.1]), jnp.array([True, True, False])), 0.693147)  # what is not there does not count
    logit = np.log([[0.2 / 0.8], [0.8 / 0.2]])
    close(rewards(logit, [1, 1], [-1, -1], calibrated=False), [0.693147])
    close(rewards([[90.0], [90.0]], [1, 1], [-1, -1], calibrated=False), [-np.log(1e-9)])  # sure in float32, and not inf


def test_logits_are_clipped_to_what_is_typical_and_then_rescaled():
    d = jnp.float32([[-4, -2, 0.5, 2, 3, 7]])
    close(calibrate(d, jnp.float32([-2]), jnp.float32([3])), [[-1, -1, 0, 0.6, 1, 1]])
    close(rewards(d, [3], [-2]), [0.313262, 0.313262, 0.693147, 1.037488, 1.313262, 1.313262])
    two = jnp.float32([[0.5], [-2]])
    close(calibrate(two, jnp.float32([-1, -3]), jnp.float32([1, 1])), [[0.5], [-0.5]])
    close(rewards(two, [1, 1], [-1, -3]), [0.693147])
    y = calibrate(two, jnp.float32([-1, -3]), jnp.float32([1, 1]), 3.0)  # with the common range of both
    close(y, [[1.5], [-1.5]])
    p = 1 / (1 + np.exp(-np.asarray(y, np.float64)))
    close(rewards(two, [1, 1], [-1, -3], common_range=True), -np.log(1 - p.mean(0)))
    close(rewards([[100.0]], [1], [-1], calibrated=False, most=0.9), [-np.log(0.1)])


def test_the_reward_is_bounded_rises_and_has_slopes():
    logits = jax.random.uniform(jax.random.key(0), (4, 10_000), minval=-50, maxval=50)
    own = made()
    r, slope = jax.vmap(jax.value_and_grad(lambda d: reward(own.probabilities(d), own.there)), 1)(logits)
    assert (r > 0.31326).all() and (r < 1.31327).all()
    assert jnp.isfinite(slope).all() and (slope >= 0).all() and (slope > 0).any()


def test_scales_of_the_data():
    close(0.8 * between(jnp.float32(5), jnp.float32(-1), jnp.float32(9)), 0.16)
    obs = np.float32([[-1, 7], [9, 7], [4, 7]])
    own = ranges(obs, np.float32([[0], [2], [1]]), obs + np.float32([2, 0]), scale_change=True)
    close(own.obs(jnp.float32([5, 7])), [0.16, 0])  # what never changes says nothing, and is no NaN
    close(own.action(jnp.float32([1.5])), [0.5])
    close(own.change, [0.32, 1])  # 2 of 10, where 10 are 1.6
    close(scorer.changed(own, True, jnp.float32([1, 7]), jnp.float32([0, 7])), [-0.5, 0])
    close(scorer.changed(own, False, jnp.float32([1, 7]), jnp.float32([9, 7])), [0.8, 0])
    close(ranges(obs, obs, obs, scale_change=False).change, [1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.usefixtures("all_bits")
def test_what_candidates_share_is_computed_once(delta):
    """Against the snapshots' networks on the whole input; the order of snapshots makes no difference."""
    own = made(delta=delta)
    k = jax.random.split(jax.random.key(1), 3)
    obs, action = jax.random.normal(k[0], (5, 1, 3)), jax.random.normal(k[1], (5, 1, 2))
    new = jax.random.normal(k[2], (5, 6, 3))
    wide = lambda x: jnp.broadcast_to(x, (5, 6, x.shape[-1]))
    naive = stack(own.network, 4).apply(own.params, own.inputs(wide(obs), wide(action), new))[..., 0]
    close(own.logits(obs, action, new), naive, 1e-4)
    r = own(obs, action, new)
    assert r.shape == (5, 6)
    order = jnp.array([2, 0, 3, 1])
    mixed = dataclasses.replace(
        own, params=jax.tree.map(lambda x: x[order], own.params), real=own.real[order], generated=own.generated[order]
    )
    close(mixed(obs, action, new), r)
    close(own(obs[0, 0], action[0, 0], new[0, 2]), r[0, 2])
    close(jax.jit(lambda s, *rows: s(*rows))(own, obs, action, new), r)


def test_the_best_scorer_of_two_normals():
    """Real N(0, 1), generated N(1, 1): the log-ratio is -x + 0.5, which a logistic regression by the loss finds."""
    rng = np.random.default_rng(0)
    real, fake = (jnp.float32(rng.normal(mean, 1, 100_000)) for mean in (0, 1))
    loss = lambda w: discriminator_loss(w[0] * real + w[1], w[0] * fake + w[1], 0.0)
    step = lambda _, w: w - jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w))
    w = jax.jit(lambda w: jax.lax.fori_loop(0, 8, step, w))(jnp.zeros(2))
    close(w, [-1, 0.5], 0.05)
    x = jnp.float32([0, 0.5, 1])
    close(rewards((w[0] * x + w[1])[None], [1], [-1], calibrated=False), [0.974077, 0.693147, 0.474077], 0.03)


# --------------------------------------------------------------------------------------------------------------- the game


def shots(gaps):
    own = made(len(gaps), n=1, m=1, hidden=(4,))
    number = jax.tree.map(lambda x: jnp.ones_like(x) * jnp.arange(len(gaps)).reshape(-1, *[1] * (x.ndim - 1)), own.params)
    params = [jax.tree.map(lambda x, i=i: x[i], number) for i in range(len(gaps))]
    return Snapshots(params, np.float32(gaps), np.zeros(len(gaps), np.float32))


def numbers(found):
    return [int(x) for x in found.params["params"]["Dense_0"]["bias"][:, 0][found.there]]


@pytest.mark.slow
def test_snapshots_are_spread_over_those_that_can_tell_the_newest_among_them():
    blank = scorer.blank(jax.random.key(0), 1, 1, 3, (4,))
    assert numbers(choose(blank, shots([1.0] * 9), 0.1)) == [2, 5, 8]
    with pytest.warns(UserWarning, match=r"5 of 9 discriminators cannot tell .*the last gap is 0.05"):
        assert numbers(choose(blank, shots([1, 1, 1, 1, 0.1, 0, 0, np.nan, 0.05]), 0.1)) == [1, 3]  # every second of four
    assert numbers(choose(blank, shots([2.0, 3.0]), 0.1)) == [0, 1]
    one = scorer.blank(jax.random.key(0), 1, 1, 1, (4,))
    assert numbers(choose(one, shots([1.0] * 9), 0.1)) == [8]
    with pytest.raises(ValueError, match=r"no discriminator of 2 .* is at most 0.09.*The generator has won: slow it down"):
        choose(blank, shots([0.05, 0.09]), 0.1)


SMALL = Game(steps=400, snap_every=50, batch=64, generator=(16,))


def line(n=500, seed=0):
    """s' = 0.9 s + a and a little noise."""
    rng = np.random.default_rng(seed)
    obs, action = rng.uniform(-1, 1, (n, 1)), rng.uniform(-1, 1, (n, 1))
    return obs, action, 0.9 * obs + 0.3 * action + 0.02 * rng.normal(size=(n, 1))


@pytest.mark.slow
def test_a_game_tells_what_the_environment_does_from_what_it_does_not():
    blank = scorer.blank(jax.random.key(0), 1, 1, 4, (32, 32))
    found = learn(blank, *line(), jax.random.key(0), SMALL)
    assert found.gap.shape == (8,) and found.gap[-1] > 1 and found.scorer.there.all()  # the trap: at the end it still tells
    np.testing.assert_allclose(found.scorer.real, found.real[1::2], rtol=1e-6)
    obs, action, new = (jnp.float32(x) for x in line(seed=1))
    own = jax.jit(lambda s, *rows: s(*rows))
    right, wrong = own(found.scorer, obs, action, new), own(found.scorer, obs, action, new + 0.6)
    assert float((right > wrong).mean()) > 0.9
    again = learn(blank, *line(), jax.random.key(0), SMALL)
    jax.tree.map(np.testing.assert_array_equal, again.scorer, found.scorer)


def test_wrong_rows_are_named():
    blank = scorer.blank(jax.random.key(0), 2, 1, 4, (8,))
    small = distilled.blank(jax.random.key(0), blank, (4,))
    for own in (blank, small):
        for n, m, k in ((3, 1, 3), (2, 2, 2), (1, 1, 1), (2, 1, 1)):  # some of which would broadcast
            with pytest.raises(ValueError, match=rf"the scorer is of observations \[2\] and actions \[1\]; got \[5, {n}\]"):
                own(jnp.zeros((5, n)), jnp.zeros((5, m)), jnp.zeros((5, k)))
    with pytest.raises(ValueError, match=r"of observations \[2\] and actions \[1\]; got rows \[500, 1\]"):
        learn(blank, *line(), jax.random.key(0), SMALL)
    rows = [np.tile(x, k) for x, k in zip(line(), (2, 1, 2), strict=True)]
    rows[2][7, 0] = np.nan
    with pytest.raises(ValueError, match="1 transitions are not finite, the first is row 7"):
        learn(blank, *rows, jax.random.key(0), SMALL)
