"""Encoders and decoders of world models: sizes of the papers, values against float64 numpy, how weights are drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.nn import convolutions
from rlx.nn.convolutions import in_parts
from rlx.nn.mlp import MLP
from rlx.nn.pictures import ConvDecoder, StridedConvs, centred, decoder_kernels, pixels

pytestmark = pytest.mark.usefixtures("all_bits")
RNG = np.random.default_rng(0)


def shapes_of(module, x):
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]


def count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def test_sizes_are_those_of_the_paper():
    picture = jax.ShapeDtypeStruct((64, 64, 3), np.uint8)
    assert count(shapes_of(StridedConvs(features=1024), picture)) == 690_144  # 64, 31, 14, 6, 2: they flatten to 1024
    assert count(shapes_of(StridedConvs(features=100), picture)) == 690_144 + 1024 * 100 + 100
    assert count(shapes_of(ConvDecoder(64), jnp.zeros(230))) == 3_795_555
    mlp = lambda n, layers, out: count(shapes_of(MLP((200,) * layers + (out,), "elu"), jnp.zeros(n)))
    assert mlp(230, 3, 1) == 126_801 and mlp(230, 4, 12) == 169_212


def test_decoders_come_to_the_size_that_is_asked_for():
    assert decoder_kernels(64) == (5, 5, 6, 6) and decoder_kernels(32) == (5, 6, 6)  # 1, 5, 13, 30, 64 and 1, 5, 14, 32
    for size in (7, 8, 16, 48, 84, 100):
        shown = jax.eval_shape(ConvDecoder(size, 2, 4, 8).init_with_output, jax.random.key(0), jnp.zeros((3, 5)))[0]
        assert shown.shape == (3, size, size, 2)


def test_pictures_come_back_to_the_last_level():
    levels = jnp.arange(256, dtype=jnp.uint8)
    scaled = centred(levels)
    assert scaled[0] == -1 and scaled[-1] == 1
    np.testing.assert_array_equal(pixels(scaled), levels)
    np.testing.assert_array_equal(pixels(jnp.float32([-3, 3])), [0, 255])
    np.testing.assert_array_equal(centred(jnp.float32([0.2])), jnp.float32([0.2]))


def shaken(module, x):
    params = module.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    return params, jax.tree.map(np.float64, params["params"])


def test_the_encoder_equals_float64_numpy():
    x = RNG.integers(0, 256, (2, 11, 11, 2)).astype(np.uint8)
    module = StridedConvs((3, 4), 5)
    params, wide = shaken(module, x)
    h = x / 127.5 - 1
    for layer in (wide["Conv_0"], wide["Conv_1"]):
        n = (h.shape[1] - 4) // 2 + 1
        out = np.zeros((2, n, n, layer["kernel"].shape[-1]))
        for i in range(n):
            for j in range(n):
                out[:, i, j] = np.tensordot(h[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4], layer["kernel"], 3) + layer["bias"]
        h = np.maximum(out, 0)
    wanted = h.reshape(2, -1) @ wide["Dense_0"]["kernel"] + wide["Dense_0"]["bias"]
    np.testing.assert_allclose(module.apply(params, x), wanted, rtol=1e-5, atol=1e-5)


def test_the_decoder_equals_float64_numpy():
    """Each pixel spreads over a kernel's square, squares two pixels apart."""
    x = RNG.normal(size=(2, 3))
    module = ConvDecoder(8, 1, 3, 4)
    params, wide = shaken(module, x)
    h = (x @ wide["Dense_0"]["kernel"] + wide["Dense_0"]["bias"])[:, None, None]
    for i, layer in enumerate((wide["ConvTranspose_0"], wide["ConvTranspose_1"])):
        h, kernel = np.maximum(h, 0) if i else h, layer["kernel"][::-1, ::-1]
        n, k = h.shape[1], len(kernel)
        out = np.zeros((2, 2 * n - 2 + k, 2 * n - 2 + k, kernel.shape[-1])) + layer["bias"]
        for a in range(n):
            for b in range(n):
                out[:, 2 * a : 2 * a + k, 2 * b : 2 * b + k] += np.einsum("nc,ijco->nijo", h[:, a, b], kernel)
        h = out
    np.testing.assert_allclose(module.apply(params, x), h, rtol=1e-5, atol=1e-5)


def test_weights_are_drawn_as_pytorch_draws_them():
    """Within one over the root of the inputs; of transposed convolutions, over that of the outputs times the kernel."""
    largest = lambda tree: [float(np.abs(tree[part]).max()) for part in ("kernel", "bias")]
    encoder = StridedConvs((64, 64), 300).init(jax.random.key(0), jnp.zeros((16, 16, 3)))["params"]
    decoder = ConvDecoder(16, 3, 64, 128).init(jax.random.key(0), jnp.zeros(200))["params"]
    mlp = MLP((400, 300), bias_init="fan_in").init(jax.random.key(0), jnp.zeros(50))["params"]
    bounds = [
        (encoder["Conv_0"], 48),
        (encoder["Conv_1"], 64 * 16),
        (encoder["Dense_0"], 2 * 2 * 64),
        (decoder["Dense_0"], 200),
        (decoder["ConvTranspose_0"], 64 * 36),
        (mlp["Dense_0"], 50),
        (mlp["Dense_1"], 400),
    ]
    for layer, fan_in in bounds:
        for found in largest(layer):
            assert 0.9 * fan_in**-0.5 < found <= fan_in**-0.5


@pytest.mark.parametrize("n", [4, 6, 7])
def test_parts_are_the_whole(monkeypatch, n):
    """Values and gradients, on any leading axes, of numbers of pictures that do and do not divide well."""
    monkeypatch.setattr(convolutions, "CACHED", 4 * 64)
    weights, x = jnp.arange(3.0), jnp.arange(2.0 * n * 3).reshape(2, n, 3)
    fn = lambda w, x: jnp.sin(w * x)[..., :2]
    losses = lambda w: jnp.sum(jnp.sin(fn(w, x))), lambda w: jnp.sum(jnp.sin(in_parts(lambda x: fn(w, x), x, 2, 64)))
    assert in_parts(lambda x: fn(weights, x), x, 2, 64).shape == (2, n, 2)
    for wanted, found in zip(*(jax.value_and_grad(loss)(weights) for loss in losses), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
