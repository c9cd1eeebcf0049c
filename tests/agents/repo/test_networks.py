"""What the networks take, and what the policy makes of its output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, config
from rlx.agents.repo.networks import Net, seen_leaf
from rlx.types import Leaf, Spec

from .worlds import SMALL

CONFIG = config.replace(agents.config("repo"), SMALL)


def test_means_of_actions_are_bounded_and_deviations_begin_below_one():
    """5 tanh(x / 5) of 10 is 4.820, of 0.01 nearly that; softplus(0) + 0.1 = 0.793."""
    net = Net.of(CONFIG, Spec(Leaf((3,)), Leaf((2,), low=-1, high=1)))
    shapes = jax.eval_shape(lambda: net.modules["actor"].init(jax.random.key(0), jnp.zeros(11)))
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    last = sorted(blank["params"])[-1]
    blank["params"][last]["bias"] = jnp.float32([10, 0.01, 0, 0])
    found = net.policy({"actor": blank}, jnp.ones((7, 11)))
    np.testing.assert_allclose(found.mean, np.tile([4.8201379, 0.01], (7, 1)), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(found.log_std), 0.7931472, rtol=1e-6)


def test_the_paper_has_so_many_parameters():
    """Counted by hand from layers and their biases, for 64 x 64 pictures in colour and six actions."""
    net = Net.of(agents.config("repo"), Spec(Leaf((64, 64, 3), np.uint8, 0, 255), Leaf((6,), low=-1, high=1)))
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in jax.eval_shape(net.init, jax.random.key(0)).items()}
    assert sizes == {
        "encoder": 690_144, "rssm": 557_520, "reward": 126_801, "value": 126_801, "actor": 169_212, "decoder": 3_795_555,
    }  # fmt: skip


def test_what_is_looked_at():
    picture, vector = Leaf((16, 16, 1), np.uint8, 0, 255), Leaf((3,))
    spec = lambda obs: Spec(obs, Leaf((1,), low=-1, high=1))
    assert seen_leaf(spec({"pixels": picture, "state": vector})) == picture and seen_leaf(spec(picture)) == picture
    assert seen_leaf(spec({"a": vector, "b": Leaf((2,))})).shape == (5,) and seen_leaf(spec(vector)) == vector
    with pytest.raises(ValueError, match="looks at the picture 'pixels' of a dict; this environment has camera uint8"):
        seen_leaf(spec({"camera": picture}))
    with pytest.raises(ValueError, match="vectors, or pictures in uint8"):
        seen_leaf(spec(Leaf((16, 16, 1))))
    net = lambda obs: Net.of(CONFIG, spec(obs))
    with pytest.raises(ValueError, match="square, and at least 10 wide for channels=\\(4, 4\\); these are 16 x 8"):
        net(Leaf((16, 8, 1), np.uint8, 0, 255))
    with pytest.raises(ValueError, match="actions that are vectors"):
        Net.of(CONFIG, Spec(vector, Leaf((), np.int32, 0, 2)))
