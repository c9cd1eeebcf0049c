"""The latent model's networks: sizes, what they are at first, and the policies' noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics.told import Sight, Told, entries, noisy, sight_of
from rlx.nn.images import StridedTrunk
from rlx.types import Leaf, Spec

KEY = jax.random.key(0)
SMALL = Told.of(2, latent=6, hidden=8, encoder_hidden=8, count=3, extra=1)


def count(tree) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def image(side: int, channels: int = 3) -> Leaf:
    return Leaf((side, side, channels), np.uint8)


def test_sizes_of_the_planar_push_model():
    """One view of two RGB-D frames at 224 pixels, 23 numbers of proprioception, 5 actions, 5 actor-critics and a cloned pair:
    6,124,297 parameters (MoDem-V2)."""
    obs = {"pixels": image(224, 8), "state": Leaf((23,))}
    sight, convolutions = sight_of(Spec(obs, Leaf((5,))), "x")
    assert (sight.views, convolutions) == (("pixels",), 6)
    net = Told.of(5, views=sight.views, convolutions=convolutions, count=5, extra=1)
    params = jax.eval_shape(net.init, KEY, jax.tree.map(lambda x: x.zeros(), obs))
    assert count(params["encoder"]["params"]["view_pixels"]) == 81_650
    assert params["critics"]["params"]["Dense_0"]["kernel"].shape == (6, 2, 55, 512)
    cloned = count(params["encoder"]) + count(params["policies"]) // 5
    assert count(params) + cloned == 6_124_297


@pytest.mark.parametrize(
    ("side", "n", "left"), [(224, 6, 128), (135, 6, 32), (64, 4, 128), (84, 4, 288), (55, 4, 128), (32, 3, 128)]
)
def test_as_many_convolutions_as_the_size_allows(side, n, left):
    assert StridedTrunk.convolutions_for(side) == n
    params = jax.eval_shape(StridedTrunk(50, n).init, KEY, image(side).zeros())
    assert params["params"]["Dense_0"]["kernel"].shape == (left, 50)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="images of 100 pixels are too small for 6 convolutions: these need 135"):
        StridedTrunk.convolutions_for(100, 6)
    assert StridedTrunk.convolutions_for(71, 5) == 5
    for asked, words in ((5, "5 convolutions: these need 71 pixels"), (7, "7 convolutions: there are 6 at most")):
        with pytest.raises(ValueError, match=words):
            StridedTrunk.convolutions_for(70, asked)
    with pytest.raises(ValueError, match="16 pixels .* need 23"):
        sight_of(Spec(image(16), Leaf((1,))), "x")
    with pytest.raises(ValueError, match="x takes vectors, and images in uint8"):
        sight_of(Spec({"a": Leaf((8, 8, 3))}, Leaf((1,))), "x")


def test_views_and_vectors_are_added_up():
    obs = {"left": image(40), "right": image(40), "a": Leaf((2,)), "b": Leaf((3,))}
    sight, n = sight_of(Spec(obs, Leaf((2,))), "x")
    views = sight.views
    assert (views, n) == (("left", "right"), 4)
    net = Told.of(2, 6, 8, 8, views, n)
    rng = np.random.default_rng(0)
    some = {
        k: rng.integers(0, 255, x.shape).astype(np.uint8) if k in views else np.float32(rng.normal(size=x.shape))
        for k, x in obs.items()
    }
    params = net.init(KEY, some)["encoder"]
    p = params["params"]
    elu = lambda x: np.where(x > 0, x, np.expm1(x))
    dense = lambda layers, x: elu(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]) @ layers["Dense_1"]["kernel"]
    u = dense(p["MLP_0"], np.concatenate([some["a"], some["b"]]))
    for view in views:
        u = u + StridedTrunk(6, n).apply({"params": p[f"view_{view}"]}, some[view])
    np.testing.assert_allclose(net.encode(params, some), dense(p["MLP_1"], u), rtol=1e-4, atol=1e-5)
    assert net.encode(params, jax.tree.map(lambda x: np.stack([x] * 3), some)).shape == (3, 6)


@pytest.mark.parametrize(
    ("channels", "asked", "cameras"), [(3, None, 1), (6, None, 2), (9, None, 3), (4, None, 1), (8, 2, 2), (2, 2, 2), (6, 1, 1)]
)
def test_how_many_cameras_lie_in_an_image(channels, asked, cameras):
    obs = {"pixels": image(32, channels), "state": Leaf((4,))}
    assert sight_of(Spec(obs, Leaf((1,))), "x", cameras=asked)[0] == Sight((("pixels", cameras),))


def test_cameras_of_one_image_become_images_with_all_of_their_frames():
    sight = Sight((("pixels", 2),))
    cube = lambda n: np.random.default_rng(n).integers(0, 255, (5, 3, 8, 8, 3)).astype(np.uint8)
    left, right, old, new = [cube(0), cube(1)], [cube(2), cube(3)], np.zeros((5, 3, 4)), np.ones((5, 3, 4))
    stacked = np.concatenate([left[0], right[0], left[1], right[1]], -1)  # frame by frame, camera by camera
    found = sight({"pixels": stacked, "state": np.concatenate([old, new], -1)}, frames=2)
    assert set(found) == {*sight.views, "state"} == {"pixels_0", "pixels_1", "state"}
    np.testing.assert_array_equal(found["pixels_0"], np.concatenate(left, -1))
    np.testing.assert_array_equal(found["pixels_1"], np.concatenate(right, -1))
    np.testing.assert_array_equal(found["state"], new)
    alone = Sight((("", 2),))(stacked, frames=2)
    assert set(alone) == {"camera_0", "camera_1"}
    np.testing.assert_array_equal(alone["camera_1"], np.concatenate(right, -1))
    assert Sight((("", 1),))(stacked, frames=2) is stacked and Sight()(old) is old
    with pytest.raises(ValueError, match="x: the 5 channels of the image 'pixels' are no equal shares for cameras=2"):
        sight_of(Spec({"pixels": image(32, 5)}, Leaf((1,))), "x", cameras=2)


def test_of_a_vector_beside_images_some_numbers_may_be_shown():
    obs = {"pixels": image(32), "a": Leaf((3,)), "b": Leaf((4,))}
    sight = sight_of(Spec(obs, Leaf((1,))), "x", proprio="0:2,4,-2:")[0]
    assert sight.proprio == (0, 1, 4, 5, 6)
    two = lambda n: np.arange(2.0 * n).reshape(2, n)
    some = {"pixels": np.zeros((2, 32, 32, 6), np.uint8), "a": two(6), "b": two(8)}
    found = sight(some, frames=2)
    np.testing.assert_array_equal(found["state"], [[3, 4, 5, 6, 7], [9, 10, 13, 14, 15]])
    assert set(found) == {"pixels", "state"} and found["pixels"] is some["pixels"]
    assert sight_of(Spec(Leaf((7,)), Leaf((1,))), "x", proprio="0:2") == (Sight(), 0)  # a state that is all stays whole
    assert sight_of(Spec(image(32), Leaf((1,))), "x", proprio="0:2")[0] == Sight((("", 1),))
    for wrong in ("0:9", "7", "a", "1:2:3", "4:4", ""):
        with pytest.raises(ValueError, match=f"x: proprio='{wrong}' are no places among 7 numbers"):
            entries(wrong, 7, "x")


def test_heads_equal_float64_numpy():
    """Dynamics, rewards and policies: two layers with ELU and one without. Of a critic the first is normalised, with tanh."""
    shapes, rng = jax.eval_shape(SMALL.init, KEY, jnp.zeros(3)), np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)
    z, a = rng.normal(size=(4, 6)), rng.uniform(-1, 1, (4, 2))
    pair = np.concatenate([z, a], -1)
    elu = lambda x: np.where(x > 0, x, np.expm1(x))
    dense = lambda p, k, x: x @ p[f"Dense_{k}"]["kernel"] + p[f"Dense_{k}"]["bias"]
    heads = lambda p, x: dense(p, 2, elu(dense(p, 1, elu(dense(p, 0, x)))))
    close = lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    close(SMALL.move(params["dynamics"], z, a), heads(params["dynamics"]["params"], pair))
    close(SMALL.rewards(params["reward"], z, a), heads(params["reward"]["params"], pair)[:, 0])
    one = lambda tree, *at: jax.tree.map(lambda x: x[at], tree)
    close(SMALL.act_each(params["policies"], np.stack([z] * 3))[1], np.tanh(heads(one(params["policies"], 1)["params"], z)))
    values = SMALL.values_each(params["critics"], np.stack([z] * 4), np.stack([a] * 4))
    for i, n in ((0, 1), (2, 0)):
        p = one(params["critics"], i, n)["params"]
        x = dense(p, 0, pair)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = np.tanh(x * p["LayerNorm_0"]["scale"] + p["LayerNorm_0"]["bias"])
        close(values[i, n], dense(p["MLP_0"], 1, elu(dense(p["MLP_0"], 0, x)))[:, 0])


def test_at_first_rewards_and_values_are_0_and_critics_differ():
    params = SMALL.init(KEY, jnp.zeros(3))
    z, a = jax.random.normal(KEY, (4, 6)), jnp.ones((4, 2))
    assert not SMALL.rewards(params["reward"], z, a).any()
    each = SMALL.values_each(params["critics"], jnp.stack([z] * 4), jnp.stack([a] * 4))
    assert each.shape == (4, 2, 4) and not each.any()
    first = np.asarray(params["critics"]["params"]["Dense_0"]["kernel"]).reshape(8, -1)
    assert len(np.unique(first[:, 0])) == 8
    kernel = np.asarray(params["dynamics"]["params"]["Dense_1"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)
    bias = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if "bias" in jax.tree_util.keystr(path)]
    assert not any(np.any(x) for x in bias)


def test_noise_is_cut_and_gradients_are_not():
    keys = jax.random.split(KEY, 10_000)
    high = jax.vmap(lambda k: noisy(jnp.float32([0.95]), 0.1, k))(keys)
    assert 0.65 - 1e-6 < float(high.min()) and float(high.max()) == np.float32(1 - 1e-6)
    low = jax.vmap(lambda k: noisy(jnp.zeros(1), 0.5, k))(keys)
    assert float(abs(low).max()) == np.float32(0.3)
    slopes = jax.vmap(jax.grad(lambda mean, k: noisy(mean[None], 0.1, k)[0]), (None, 0))(jnp.float32(0.95), keys)
    np.testing.assert_array_equal(slopes, np.ones(10_000))
    np.testing.assert_array_equal(noisy(jnp.float32([0.4]), 0.0, KEY), np.float32([0.4]))
