"""Random orders: permutations that are fair, also of a traced number of numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from rlx import keys


@pytest.mark.parametrize("n", [1, 7, 256])
def test_permutations_are_such_and_each_place_is_as_likely(n):
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: keys.permutation(k, n)))(jax.random.split(jax.random.key(0), 4_000)))
    assert (np.sort(drawn, 1) == np.arange(n)).all()
    if n > 1:
        for i in (0, n - 1):  # where the first and the last number come to lie
            places = np.bincount(np.argmax(drawn == i, 1), minlength=n)
            assert stats.chisquare(places).pvalue > 1e-4


@pytest.mark.parametrize("packed", [2**18, 4])
def test_permutations_of_what_counts_come_before_the_rest(packed, monkeypatch):
    monkeypatch.setattr(keys, "MOST_PACKED", packed)
    each = jax.jit(jax.vmap(lambda k: keys.permutation(k, 9, 6)))
    draws = np.asarray(each(jax.random.split(jax.random.key(0), 3_000)))
    assert (np.sort(draws[:, :6]) == np.arange(6)).all() and (np.sort(draws[:, 6:]) == [6, 7, 8]).all()
    where = np.stack([(draws == k).mean(0)[:6] for k in range(6)])
    np.testing.assert_allclose(where, 1 / 6, atol=0.03)
