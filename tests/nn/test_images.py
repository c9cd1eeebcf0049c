"""Convolutional trunks, random shifts and stacked frames; and the embedding that follows them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rlx.nn.images import ConvTrunk, StridedTrunk, push_frame, random_shift
from rlx.nn.mlp import LayerNormMLP, stack

pytestmark = pytest.mark.usefixtures("all_bits")
RNG = np.random.default_rng(0)


def count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def test_trunk_has_the_sizes_of_drq():
    trunk = ConvTrunk()
    shapes = jax.eval_shape(trunk.init, jax.random.key(0), jax.ShapeDtypeStruct((64, 64, 9), np.uint8))["params"]
    convolutions = {k: v for k, v in shapes.items() if k.startswith("Conv")}
    assert count(convolutions) == 30_368 and count(shapes) == 30_368 + 5_120_768
    flat = jax.eval_shape(lambda: ConvTrunk(None).init_with_output(jax.random.key(0), jnp.zeros((2, 64, 64, 9)))[0])
    assert flat.shape == (2, 32 * 25 * 25)


def test_trunk_equals_float64_numpy():
    trunk, x = ConvTrunk(6, channels=3, strides=(2, 1)), RNG.integers(0, 256, (4, 9, 8, 2)).astype(np.uint8)
    params = trunk.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    wide, h = jax.tree.map(np.float64, params["params"]), x / 255 - 0.5
    for name, stride in (("Conv_0", 2), ("Conv_1", 1)):
        rows, columns = ((n - 3) // stride + 1 for n in h.shape[1:3])
        out = np.zeros((4, rows, columns, 3))
        for i in range(rows):
            for j in range(columns):
                patch = h[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
                out[:, i, j] = np.tensordot(patch, wide[name]["kernel"], 3) + wide[name]["bias"]
        h = np.maximum(out, 0)
    dense = wide["LayerNormMLP_0"]
    h = h.reshape(4, -1) @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"]
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    h = np.tanh(h * dense["LayerNorm_0"]["scale"] + dense["LayerNorm_0"]["bias"])
    np.testing.assert_allclose(trunk.apply(params, x), h, rtol=1e-5, atol=1e-5)
    floats = jnp.float32(x) / 255 - 0.5
    np.testing.assert_allclose(trunk.apply(params, floats), trunk.apply(params, x), rtol=1e-5, atol=1e-6)


def test_strided_trunk_equals_float64_numpy_and_begins_orthogonal():
    """7 x 7, 5 x 5 and 3 x 3 at every second place, values to [0, 1], ReLU after each; K'K = 2 at first."""
    trunk, x = StridedTrunk(6, 3), RNG.integers(0, 256, (2, 24, 23, 2)).astype(np.uint8)
    begun = trunk.init(jax.random.key(0), x)
    kernel = np.float64(begun["params"]["Conv_1"]["kernel"]).reshape(-1, 32)
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(32), atol=1e-5)
    assert not any(np.any(layer["bias"]) for layer in begun["params"].values())
    wide = jax.tree.map(lambda p: np.float64(p + 0.1 * RNG.normal(size=p.shape)), begun["params"])
    h = x / 255
    for k, size in enumerate((7, 5, 3)):
        patches = np.lib.stride_tricks.sliding_window_view(h, (size, size), (1, 2))[:, ::2, ::2]  # [B, i, j, C, size, size]
        h = np.maximum(np.einsum("bijcyx,yxco->bijo", patches, wide[f"Conv_{k}"]["kernel"]) + wide[f"Conv_{k}"]["bias"], 0)
    assert h.shape == (2, 1, 1, 32)
    wanted = h.reshape(2, -1) @ wide["Dense_0"]["kernel"] + wide["Dense_0"]["bias"]
    np.testing.assert_allclose(trunk.apply({"params": jax.tree.map(np.float32, wide)}, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("widths", "last"), [((8, 5, 3), False), ((8, 5, 3), True), ((4,), True), ((4,), False)])
def test_layer_norm_mlp_equals_float64_numpy(widths, last):
    net, x = LayerNormMLP(widths, last), RNG.normal(size=(5, 3))
    params = net.init(jax.random.key(0), jnp.zeros(3))
    kernel = np.asarray(params["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(3), atol=1e-5)  # orthogonal, gain 1
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    h, wide = x, jax.tree.map(np.float64, params["params"])
    for i in range(len(widths)):
        h = h @ wide[f"Dense_{i}"]["kernel"] + wide[f"Dense_{i}"]["bias"]
        if i == len(widths) - 1 and not last:
            continue
        if i == 0:
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            h = np.tanh(h * wide["LayerNorm_0"]["scale"] + wide["LayerNorm_0"]["bias"])
        else:
            h = np.maximum(h, 0)
    np.testing.assert_allclose(net.apply(params, jnp.float32(x)), h, rtol=2e-5, atol=2e-6)
    assert ("LayerNorm_0" in wide) == (len(widths) > 1 or last)


def test_one_head_of_a_stack_leaves_the_other_alone():
    net, x = stack(LayerNormMLP((6, 2), gain=2**0.5), 2), jnp.float32(RNG.normal(size=(5, 3)))
    params = net.init(jax.random.key(0), x)
    total = lambda p: (net.apply(p, x) ** 2).sum()
    moved = jax.tree.map(lambda p: p.at[0].add(0.1), params)
    np.testing.assert_array_equal(net.apply(params, x)[1], net.apply(moved, x)[1])
    assert not np.allclose(net.apply(params, x)[0], net.apply(moved, x)[0])
    before, after = jax.grad(total)(params), jax.grad(total)(moved)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), before, after)


# ------------------------------------------------------------------------------------------------------------ augmentation


def test_constant_images_stay_and_types_are_kept():
    images = jnp.full((3, 8, 8, 9), 7, jnp.uint8)
    out = random_shift(jax.random.key(0), images, 2)
    assert out.dtype == jnp.uint8
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, 0), images)


def test_shifts_are_whole_pixels_up_to_the_pad_and_one_for_all_frames():
    n = 400
    images = np.zeros((n, 16, 16, 9), np.uint8)
    images[:, 8, 8] = np.arange(1, 10)
    out = np.asarray(random_shift(jax.random.key(1), jnp.asarray(images), 2))
    shifts = []
    for image in out:
        i, j = np.argwhere(image[..., 0])[0]
        np.testing.assert_array_equal(image[i, j], np.arange(1, 10))  # all nine channels moved alike
        assert (image != 0).sum() == 9
        shifts.append((i - 8, j - 8))
    assert set(shifts) == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    other = np.asarray(random_shift(jax.random.key(2), jnp.asarray(images), 2))
    assert (out != other).any()


def test_64_pixels_by_3_are_cut_out_of_the_padded_image():
    """The shift is read off the picture's middle: each pixel says where it is. A shift of (3, 3) is the picture itself."""
    row, column = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    image = np.stack([row, column, row, column], -1).astype(np.uint8)  # two frames
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    out = np.asarray(random_shift(jax.random.key(4), jnp.asarray(np.stack([image] * 200)), 3))
    corners = out[:, 32, 32, :2].astype(int) - 32 + 3
    for shifted, (dy, dx) in zip(out, corners, strict=True):
        np.testing.assert_array_equal(shifted, padded[dy : dy + 64, dx : dx + 64])
    assert (corners == 3).all(1).any() and np.ptp(corners, 0).tolist() == [6, 6]


def test_shifts_are_uniform_and_those_of_two_images_independent():
    """The 49 shifts of two images that are shifted together: 20,000 draws of each, and of the pair of their rows."""
    row, column = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    two = jnp.asarray(np.stack([np.stack([row, column], -1)] * 2).astype(np.uint8))
    out = jax.jit(jax.vmap(lambda key: random_shift(key, two, 3)[:, 4, 4]))(jax.random.split(jax.random.key(6), 20_000))
    shift = np.asarray(out).astype(int) - 1  # [draws, image, axis], 0 to 6
    cells = [7 * shift[:, i, 0] + shift[:, i, 1] for i in (0, 1)] + [7 * shift[:, 0, k] + shift[:, 1, k] for k in (0, 1)]
    for found in cells:
        assert scipy.stats.chisquare(np.bincount(found, minlength=49)).pvalue > 1e-3


def test_edges_go_on():
    image = jnp.arange(16, dtype=jnp.float32).reshape(1, 4, 4, 1)
    for seed in range(20):
        out = np.asarray(random_shift(jax.random.key(seed), image, 2))[0, ..., 0]
        i, j = int(out[1, 1]) // 4 - 1, int(out[1, 1]) % 4 - 1  # where the middle came from says the shift, if inside
        rows, columns = np.clip(np.arange(4) + i, 0, 3), np.clip(np.arange(4) + j, 0, 3)
        if 0 < rows[1] < 3 and 0 < columns[1] < 3:
            np.testing.assert_array_equal(out, np.asarray(image)[0, rows][:, columns, 0])


def test_frames_are_pushed_oldest_out_and_begin_anew():
    one = lambda x: jnp.full((2, 1, 1, 3), x, jnp.uint8)
    begun = push_frame(jnp.zeros((2, 1, 1, 9), jnp.uint8), one(5), jnp.ones(2, bool))
    np.testing.assert_array_equal(begun, 5)
    after = push_frame(begun, one(6), jnp.array([False, True]))
    np.testing.assert_array_equal(after[0, 0, 0], [5] * 6 + [6] * 3)
    np.testing.assert_array_equal(after[1], 6)
