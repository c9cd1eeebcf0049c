"""One network in the place of a scorer: how orders are compared, by hand; that it learns them; that too few raise."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import distilled, scorer


def test_orders_are_compared_pair_by_pair():
    truth = np.array([[0.1, 0.5, 0.9], [0.3, 0.301, 0.7]])  # the second row has a tie, so 3 + 2 pairs count
    assert distilled.agreement(truth, 2 * truth + 1) == 1
    assert distilled.agreement(truth, -truth) == 0
    said = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.7]])  # one of five is the wrong way round
    assert distilled.agreement(truth, said) == pytest.approx(4 / 5)
    assert distilled.agreement(np.ones((2, 3)), said) == 1


def spread(model, obs, action, key):
    return obs + action[:1] + 0.5 * jax.random.normal(key, (6, 2))


@pytest.fixture(scope="module")
def learned():
    """A scorer of logits that are linear in the change, so that orders are known."""
    blank = scorer.blank(jax.random.key(0), 2, 1, 3, (8,))
    own = dataclasses.replace(blank, generated=jnp.full(3, -4.0), real=jnp.full(3, 4.0))
    rng = np.random.default_rng(0)
    return own, rng.uniform(-1, 1, (400, 2)), rng.uniform(-1, 1, (400, 1))


@pytest.mark.slow
def test_it_says_what_the_scorer_says(learned):
    own, obs, action = learned
    empty = distilled.blank(jax.random.key(1), own, (32, 32))
    found = distilled.distil(empty, own, spread, (), obs, action, jax.random.key(2), steps=1_500, lr=3e-3, least=0.9)
    assert found.agreement >= 0.9 and found.error < 0.05
    k = jax.random.split(jax.random.key(3), 3)
    rows = jax.random.uniform(k[0], (20, 1, 2)), jax.random.uniform(k[1], (20, 1, 1)), jax.random.uniform(k[2], (20, 6, 2))
    assert found.scorer(*rows).shape == own(*rows).shape == (20, 6)
    np.testing.assert_allclose(found.scorer(*rows), own(*rows), atol=0.25)
    with pytest.raises(ValueError, match="orders .* of pairs of candidates as the scorer does, and 95% are asked for"):
        distilled.distil(empty, own, spread, (), obs, action, jax.random.key(2), steps=1, lr=0.0)
