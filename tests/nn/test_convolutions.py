"""Convolutions of stride 2 by way of stride 1 against XLA's own, values and gradients."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.nn.convolutions import Conv, doubling, halving, plain, squares, unsquared

pytestmark = pytest.mark.usefixtures("all_bits")
NUMBERS = ("NHWC", "HWIO", "NHWC")
CASES = [
    (halving, lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "VALID", dimension_numbers=NUMBERS), (3, 4, 5, 6)),
    (doubling, lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "VALID", dimension_numbers=NUMBERS), (3, 5, 6)),
]


def some(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def test_squares_are_channels_in_order():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(squares(x)[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(unsquared(squares(x)), x)


@pytest.mark.parametrize(("ours", "theirs", "kernels"), CASES, ids=("halving", "doubling"))
def test_values_and_gradients_are_those_of_xla(ours, theirs, kernels):
    @partial(jax.jit, static_argnums=0)
    def both(convolve, x, kernel):
        out, back = jax.vjp(convolve, x, kernel)
        return out, back(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    for k in kernels:
        for h, w in [(k, k), (8, 9)] if ours is halving else [(1, 1), (1, 3)]:
            x, kernel = some(2, h, w, 3), some(k, k, 3, 4)
            wanted, found = both(theirs, x, kernel), both(ours, x, kernel)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=("pictures", "kernels", "both"))
def test_members_are_what_each_is_alone(axes):
    """Values and gradients, and members of members."""
    x, kernel = some(3, 2, 5, 6, 2), some(3, 2, 2, 2, 4)
    slopes = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(plain(x, kernel))), (0, 1))
    given = [v if axis == 0 else v[0] for v, axis in zip((x, kernel), axes, strict=True)]
    found = jax.vmap(slopes, axes)(*given)
    for i in range(3):
        wanted = slopes(*(v if axis is None else v[i] for v, axis in zip(given, axes, strict=True)))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-4, atol=1e-4)
    twice = jax.vmap(jax.vmap(plain, (None, 0)), (0, None))(x, kernel)
    np.testing.assert_allclose(twice[2, 1], plain(x[2], kernel[1]), rtol=1e-4, atol=1e-4)


def test_modules_have_the_parameters_of_flax():
    """So what was learned by these is read by those."""
    init = jax.nn.initializers.normal()
    for ours, theirs in (
        (Conv(4, 4, init, init), nn.Conv(4, (4, 4), (2, 2), "VALID")),
        (Conv(4, 3, init, init, stride=1), nn.Conv(4, (3, 3), (1, 1), "VALID")),
        (Conv(4, 5, init, init, up=True), nn.ConvTranspose(4, (5, 5), (2, 2), "VALID")),
    ):
        for lead in ((), (2,), (2, 3)):
            x = some(*lead, 6, 8, 3)
            params = ours.init(jax.random.key(0), x)
            np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-5)
