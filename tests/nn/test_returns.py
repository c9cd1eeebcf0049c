"""Returns and advantages by hand, and where episodes end; rlax is compared with in test_nn.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlx.nn import returns

T, W = 12, 3


def sequence(seed=0):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, T, W)).astype(np.float32)
    last = rng.normal(size=(1, W)).astype(np.float32)
    discount = (0.9 * (rng.random((T, W)) > 0.2)).astype(np.float32)  # zeros are terminal steps
    return reward, discount, value, np.concatenate([value[1:], last])


def test_gae_by_hand():
    reward, value, following = map(jnp.array, ([1.0, 2.0], [0.5, 1.0], [1.0, 4.0]))
    joined = jnp.array([True, True])
    # delta_1 = 2 + 0.5 * 4 - 1 = 3;  delta_0 = 1 + 0.5 * 1 - 0.5 = 1;  A_0 = 1 + 0.5 * 0.8 * 3
    got = returns.gae(reward, jnp.array([0.5, 0.5]), value, following, 0.8, joined)
    np.testing.assert_allclose(got, [2.2, 3.0], rtol=1e-6)
    # terminal: delta_1 = 2 - 1 = 1, A_0 = 1 + 0.4
    got = returns.gae(reward, jnp.array([0.5, 0.0]), value, following, 0.8, joined)
    np.testing.assert_allclose(got, [1.4, 1.0], rtol=1e-6)
    # cut after the first step: its own bootstrap stays, nothing of the second enters
    got = returns.gae(reward, jnp.array([0.5, 0.5]), value, following, 0.8, jnp.array([False, True]))
    np.testing.assert_allclose(got, [1.0, 3.0], rtol=1e-6)


def test_lambda_and_n_step_returns_by_hand():
    reward, discount, following = map(jnp.array, ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [10.0, 20.0, 40.0]))
    # G_2 = 3 + 20; G_1 = 2 + 0.5 (0.5 * 20 + 0.5 * 23); G_0 = 1 + 0.5 (0.5 * 10 + 0.5 * 12.75)
    np.testing.assert_allclose(returns.lambda_returns(reward, discount, following, 0.5), [6.6875, 12.75, 23.0])
    # 1 + 0.5 (2 + 0.5 * 20), 2 + 0.5 (3 + 0.5 * 40), 3 + 0.5 * 40
    np.testing.assert_allclose(returns.n_step_returns(reward, discount, following, 2), [7.0, 13.5, 23.0])


def test_a_cut_separates_what_was_joined():
    """Two episodes in one stream give what each gives alone, whatever the other holds."""
    reward, discount, value, following = sequence(3)
    joined = np.ones((T, W), bool)
    joined[4] = False
    both = returns.gae(reward, discount, value, following, 0.9, jnp.asarray(joined))
    alone = [
        returns.gae(reward[part], discount[part], value[part], following[part], 0.9, jnp.ones_like(joined[part]))
        for part in (slice(0, 5), slice(5, T))
    ]
    np.testing.assert_allclose(both, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    both = returns.lambda_returns(reward, discount, following, 0.9, jnp.asarray(joined))
    alone = [returns.lambda_returns(reward[p], discount[p], following[p], 0.9) for p in (slice(0, 5), slice(5, T))]
    np.testing.assert_allclose(both, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_running_returns_by_hand():
    reward, first = jnp.array([0.0, 1.0, 2.0, 0.0, 5.0]), jnp.array([False, False, False, True, False])
    got = jax.jit(returns.running_returns)(reward, first, 0.5, jnp.float32(8))
    np.testing.assert_allclose(got, [4.0, 3.0, 3.5, 0.0, 5.0])
