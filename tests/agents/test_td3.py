"""TD3's update as a whole; its losses are in test_losses.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import offpolicy, td3
from rlx.types import Clock, Problem, Step

from .numpy_nets import double, forward, heads, slopes
from .test_sac import M, N, transitions

pytestmark = pytest.mark.usefixtures("all_bits")  # formulas are compared with float64, and programs with each other

NETS = offpolicy.networks((5,), M)


@pytest.fixture(scope="module")
def agent():
    problem = Problem({"train": rlx.envs.make("rlx:point-mass")})
    return agents.make("td3", None, problem, hidden=(5,), critic_lr=0.02, actor_lr=0.01, tau=0.25, policy_delay=3)


def started(agent):
    state = agent.init(jax.random.key(1), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    moved = lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    nets = {name: jax.tree.map(moved, state.learned[name]) for name in ("actor", "critics")}
    return state._replace(learned={**state.learned, **nets})


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, want)


def test_gradients_equal_float64(agent):
    learned, batch = started(agent).learned, transitions(3)
    wide, obs, action, y = double(learned), *map(double, (batch.obs, batch.action, batch.reward))
    q = lambda critic, a: forward(critic, np.concatenate([obs, a], -1))[:, 0]
    fit = lambda critics: sum(((q(c, action) - y) ** 2).mean() for c in heads(critics))
    (loss, _), grads = jax.value_and_grad(offpolicy.critic_loss, has_aux=True)(
        learned["critics"], NETS.critics, batch, batch.reward
    )
    np.testing.assert_allclose(loss, fit(wide["critics"]), rtol=1e-4)
    slopes(fit, wide["critics"], grads)
    improve = lambda actor: -q(heads(wide["critics"])[0], np.tanh(forward(actor, obs))).mean()
    grads = jax.grad(td3.actor_loss)(learned["actor"], NETS, learned["critics"], batch.obs)
    slopes(improve, wide["actor"], grads)


def test_updates_by_turns(agent):
    """Critics move each time; actor and targets at every third update, the actor by the new critics."""
    state, batch, key = started(agent), transitions(4), jax.random.key(2)
    update = jax.jit(agent.stages[1].phases[1].update)
    old = state.learned
    y = td3.targets(NETS, old["target"], batch, state.hyper, key)
    grads = jax.grad(offpolicy.critic_loss, has_aux=True)(old["critics"], NETS.critics, batch, y)[0]
    critics = jax.tree.map(lambda p, g: p - 0.02 * g / (jnp.abs(g) + 1e-8), old["critics"], grads)  # Adam's first step
    for i in range(4):
        new, out = update(state, Clock(jnp.int32(0), jnp.int32(0), jnp.int32(i)), batch, key)
        close(new.learned["critics"], critics)
        assert bool(out.valid["actor/loss"]) == (i == 2)  # there is no loss to count while the actor waits
        if i != 2:
            for name in ("actor", "target"):
                jax.tree.map(np.testing.assert_array_equal, new.learned[name], old[name])
            continue
        loss, grads = jax.value_and_grad(td3.actor_loss)(old["actor"], NETS, critics, batch.obs)
        close(out.metrics["actor/loss"], loss)
        actor = jax.tree.map(lambda p, g: p - 0.01 * g / (jnp.abs(g) + 1e-8), old["actor"], grads)
        close(new.learned["actor"], actor)
        move = lambda t, p: 0.75 * t + 0.25 * p
        close(new.learned["target"], jax.tree.map(move, old["target"], {"actor": actor, "critics": critics}))


def test_exploration(agent):
    """Evaluation is the bare policy, exploration adds noise of the size asked, within bounds."""
    state, w = started(agent), 4000
    no = jnp.zeros(w, bool)
    step = Step(jnp.tile(jnp.linspace(-0.1, 0.1, N), (w, 1)), jnp.zeros(w), no, no, no, {})
    act = lambda mode, key: np.asarray(agent.act(state, None, (), step, jax.random.key(key), mode)[0])
    bare, noisy, wild = act("eval", 0), act("explore", 0), act("random", 0)
    np.testing.assert_array_equal(bare, act("eval", 1))
    np.testing.assert_allclose(bare, np.tanh(forward(double(state.learned["actor"]), double(step.obs))), rtol=1e-4)
    np.testing.assert_allclose((noisy - bare).std(0), [0.1] * M, rtol=0.05)
    assert np.abs(noisy).max() <= 1 and np.abs(wild).max() <= 1
    np.testing.assert_allclose(wild.std(0), [1 / 3**0.5] * M, rtol=0.05)
