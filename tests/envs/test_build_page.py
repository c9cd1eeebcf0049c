"""What BUILD.md shows of environments runs as it stands there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import rlx
from rlx.envs.wrappers import as_vector
from tests.doc_blocks import python_blocks


@pytest.fixture(scope="module")
def page():
    """The names that the blocks make, run one after another."""
    names = {"__name__": "page"}
    for number, block in enumerate(python_blocks("BUILD.md", "## Adding an environment")):
        exec(compile(block, f"BUILD.md, block {number}", "exec"), names)
    return names


def test_the_plant_and_the_corridor_are_registered_and_keep_the_contract(page):
    assert {"mine:oscillator", "mine:corridor"} <= set(rlx.envs.list("mine"))
    assert page["env"].spec.horizon == 50 and page["env"].params["gain"] == 2.0
    assert rlx.envs.check(page["env"], seed=1).exact_resume and rlx.envs.check(page["corridor"], seed=1).exact_resume


def test_the_corridor_pays_at_its_right_end(page):
    env = page["corridor"]
    state, _ = env.reset(env.params, jax.random.key(0))
    state, rewards = (np.int32(3), state[1]), []
    for action in (0, 1, 1, 1):
        state, step = env.step(env.params, state, np.int32(action), jax.random.key(0))
        rewards.append(float(step.reward))
    assert step.terminated and not step.truncated and rewards == pytest.approx([-0.1, -0.1, -0.1, 1.0])
    assert as_vector(env).spec.obs.shape == (2,)


def test_blocks_are_those_below_their_heading():
    assert len(python_blocks("BUILD.md", "## Adding an environment")) == 3
    assert any("class Config" in block for block in python_blocks("BUILD.md", "## Adding an agent"))
    with pytest.raises(ValueError, match="no heading '## Adding a planet'"):
        python_blocks("BUILD.md", "## Adding a planet")
