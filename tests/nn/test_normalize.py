"""Where running statistics can go wrong: masked rubbish, large offsets, constants, and too few rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.nn import normalize


def fed(*chunks):
    state = normalize.init(chunks[0][0].shape[chunks[0][1].ndim :])
    for x, mask in chunks:
        state = jax.jit(normalize.update)(state, jnp.asarray(x, jnp.float32), jnp.asarray(mask))
    return state


def test_by_hand():
    state = fed((np.array([[1.0], [3.0]]), np.array([True, True])), (np.array([[8.0]]), np.array([True])))
    assert [float(v) for v in (state.count, state.mean[0], state.m2[0])] == [3, 4, 26]  # 9 + 1 + 16
    assert float(normalize.std(state)[0]) == pytest.approx((26 / 3) ** 0.5)
    assert float(normalize.apply(state, jnp.array([4.0 + 2 * (26 / 3) ** 0.5]))[0]) == pytest.approx(2.0)
    assert float(normalize.apply(state, jnp.array([1e6]), clip=5.0)[0]) == 5.0


def test_what_is_masked_out_may_be_anything():
    x = np.array([[1.0], [np.nan], [3.0], [np.inf]])
    mask = np.array([True, False, True, False])
    plain = normalize.update(normalize.init((1,)), jnp.float32(x), jnp.asarray(mask))  # the compiler may hide a fault
    for state in (plain, fed((x, mask))):
        assert [float(v) for v in (state.count, state.mean[0], state.m2[0])] == [2, 2, 2]


def test_an_offset_does_not_swallow_the_spread():
    x = np.random.default_rng(1).normal(1e4, 1, (100, 64, 1)).astype(np.float32)
    state = fed(*[(part, np.ones(part.shape[:2], bool)) for part in np.split(x, 20)])
    np.testing.assert_allclose(normalize.std(state), x.astype(np.float64).std((0, 1)), rtol=1e-2)


def test_one_row_changes_nothing():
    x = jnp.array([[3.0, -40.0]])
    np.testing.assert_array_equal(normalize.apply(fed((np.ones((1, 2)), np.array([True]))), x), x)


def test_constants_stay_finite():
    state = fed((np.full((10, 1), 7.0), np.ones(10, bool)))
    np.testing.assert_allclose(normalize.apply(state, jnp.array([[7.0]])), [[0.0]], atol=1e-6)
    assert float(normalize.apply(state, jnp.array([7.1]))[0]) == 10.0
