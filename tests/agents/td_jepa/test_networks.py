"""Sizes, routes and heads of the family's networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents.td_jepa import networks
from rlx.types import Leaf, Problem, Spec

from .worlds import maze_rows

pytestmark = pytest.mark.usefixtures("all_bits")


def sizes(features: str, obs: int = 24, actions: int = 6, **settings) -> dict[str, int]:
    """Numbers of parameters by network, with the paper's sizes for walker; nothing is computed."""
    module = agents._module("td_jepa")
    config = agents.config("td_jepa").__class__(**{"features": features, **settings})
    spec = Spec(Leaf((obs,)), Leaf((actions,), low=-1, high=1))
    method = module.method.Method.of(config, spec, module.method.Tasks(("reward",), 0))
    params = jax.eval_shape(method.parameters, jax.random.key(0))
    return {name: sum(x.size for x in jax.tree.leaves(p)) for name, p in params.items()}


def test_asymmetric_networks_have_the_papers_sizes():
    found = sizes("td_jepa")
    assert found == {"phi": 6_400, "psi": 85_554, "predictor": 5_476_452, "back": 5_054_976, "actor": 2_686_982}
    assert sum(found.values()) == 13_310_364


def test_symmetric_networks_have_the_papers_sizes():
    assert sum(sizes("symmetric").values()) == 6_983_324
    assert set(sizes("contrastive")) == {"psi", "predictor", "actor"}


def test_other_methods_have_the_networks_that_they_say():
    assert set(sizes("fb")) == {"phi", "psi", "predictor", "actor"}
    assert set(sizes("fb", state_encoder=False)) == {"psi", "predictor", "actor"}
    assert sizes("one_step_fb")["predictor"] == sizes("fb")["predictor"] - 2 * 50 * 1024  # no z
    assert sizes("hilp")["psi"] == 2 * sizes("fb")["psi"]
    assert set(sizes("icvf")) == {"phi", "psi", "predictor", "actor", "state", "value"}
    assert set(sizes("byol", actor="flow")) == {"phi", "psi", "predictor", "actor", "flow", "dynamics"}


def test_encoders_are_on_the_sphere_and_those_without_layers_linear_before_it():
    x = jnp.float32(np.random.default_rng(0).normal(size=(7, 5)))
    for layers in (0, 1, 3):
        net = networks.Encoder(8, layers, 6)
        params = net.init(jax.random.key(1), x)
        np.testing.assert_allclose(jnp.linalg.norm(net.apply(params, x), axis=-1), 6**0.5, rtol=1e-5)
    net = networks.Encoder(8, 0, 6, normalize=False)
    params = net.init(jax.random.key(1), x)
    np.testing.assert_allclose(net.apply(params, 3 * x), 3 * net.apply(params, x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_heads_are_apart_and_their_layers_follow_the_outline():
    net = networks.predictor(agents.config("td_jepa").__class__(predictor_hidden=8, predictor_layers=1), 3)
    rng = np.random.default_rng(0)
    x, z, action = (jnp.float32(rng.normal(size=(5, n))) for n in (4, 3, 2))
    params = net.init(jax.random.key(0), x, z, action)
    total = lambda p: (net.apply(p, x, z, action) ** 2).sum()
    moved = jax.tree.map(lambda p: p.at[0].add(0.1), params)
    a, b = net.apply(params, x, z, action), net.apply(moved, x, z, action)
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.allclose(a[0], b[0])
    one, two = jax.grad(total)(params), jax.grad(total)(moved)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), one, two)
    wide = jax.tree.map(lambda p: np.float64(p[1]), params)["params"]

    def embed(name, *parts):
        w, h = wide[name], np.concatenate(parts, -1)
        h = h @ w["Dense_0"]["kernel"] + w["Dense_0"]["bias"]
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return np.maximum(np.tanh(h) @ w["Dense_1"]["kernel"] + w["Dense_1"]["bias"], 0)

    h = np.concatenate([embed("LayerNormMLP_0", x, action), embed("LayerNormMLP_1", x, z)], -1)
    h = np.maximum(h @ wide["Dense_0"]["kernel"] + wide["Dense_0"]["bias"], 0)
    np.testing.assert_allclose(a[1], h @ wide["Dense_1"]["kernel"] + wide["Dense_1"]["bias"], rtol=1e-4, atol=1e-5)
    kernel = np.asarray(params["params"]["LayerNormMLP_1"]["Dense_0"]["kernel"][0])
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(7), atol=1e-5)  # orthogonal, gain sqrt(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"state_encoder": False}, "state_encoder=False"),
        ({"state_encoder": False, "features": "symmetric"}, "'symmetric' has no other encoder"),
        ({"frames": 3}, "frames=3 are stacked of images"),
        ({"features": "bayes"}, "features is 'bayes'"),
        ({"heads": 0}, "heads must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    problem = Problem({"train": rlx.envs.make("rlx:pointmass-maze")}, {"data": maze_rows()})
    with pytest.raises(ValueError, match=words):
        agents.make("td_jepa", None, problem, **settings)
