"""Another way to improve the policy in the model: the gradient of short imagined runs, taken through the model (Xu et al. 2022,
"Accelerated Policy Learning with Parallel Differentiable Simulation", arXiv:2204.07137, with one critic).

::

    from states of the newest imagined rows, ``lookahead`` decisions without noise: R = sum_k g^k r_k + g^H V(x_H)
    actor up the gradient of the mean R through policy, model and reward; critic down that of (V(x_0) - R)^2
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import ppo
from rlx.agents.sindy_rl.config import Config
from rlx.nn.optim import apply_gradients, packing
from rlx.replay import Sequences
from rlx.types import AgentState, Array, Clock, Env, Key, Out, PyTree

OUTSIDE = 0.1  # price of the squared distance of the policy's mean from the action's range, where the model's gradient is 0


def improver(config: Config, net: ppo.ActorCritic, imagined: Env, imagine: Any) -> Any:
    """An update like PPO's, on the rows of the newest rollout. ``imagine``: (state, sources) -> the model's parameters."""
    settings: ppo.Config = config.ppo
    batch = settings.n_envs * settings.steps // settings.minibatches
    step = jax.vmap(imagined.step, (None, 0, 0, 0))

    def value(learned: PyTree, obs: Array) -> Array:
        return net.value(learned, net.normalized(learned, obs), jnp.inf)

    def loss(params: PyTree, state: AgentState, world: PyTree, obs: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        learned = {**state.learned, **params}
        start, _ = jax.vmap(imagined.reset, (None, 0))(world, jax.random.split(key, len(obs)))
        discount = state.hyper["ppo.discount"]
        frozen = jax.lax.stop_gradient(learned)

        def once(carry: tuple, k: Key) -> tuple[tuple, Array]:
            now, weight, total = carry
            mean = net.policy(learned, net.normalized(learned, now.obs)).mode()
            now, arrived = step(world, now, jnp.clip(mean, -1, 1), jax.random.split(k, len(obs)))
            total = total + weight * arrived.reward
            cut = weight * discount * value(frozen, arrived.obs)
            total = total + jnp.where(arrived.truncated, cut, 0.0)
            weight = jnp.where(arrived.last, 0.0, weight * discount)
            return (now, weight, total), (jax.nn.relu(jnp.abs(mean) - 1) ** 2).sum(-1)

        first = (start._replace(obs=obs), jnp.ones(len(obs)), jnp.zeros(len(obs)))
        (now, weight, total), outside = jax.lax.scan(once, first, jax.random.split(key, config.lookahead))
        total = total + weight * value(frozen, now.obs)
        error = (value(learned, obs) - jax.lax.stop_gradient(total)) ** 2
        gain = total.mean() / config.lookahead
        metrics = {"actor/loss": -gain, "critic/loss": error.mean(), "actor/outside": outside.mean()}
        return -gain + OUTSIDE * outside.mean() + state.hyper["ppo.value_coef"] * error.mean(), metrics

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        world = imagine(state, {})
        obs = rows.obs.reshape(-1, rows.obs.shape[-1])
        going = (rows.valid & ~(rows.terminated | rows.truncated)).reshape(-1)
        h = {k.removeprefix("ppo."): v for k, v in state.hyper.items()}
        chain = ppo.adam(settings, ppo.step_size(settings, h, clock))
        params = {k: state.learned[k] for k in ppo.TRAINED}
        pack, unpack = packing(params)

        def once(carry: tuple, k: Key) -> tuple[tuple, dict]:
            packed, opt = carry
            draw, roll = jax.random.split(k)
            index = jax.random.choice(draw, len(obs), (batch,), p=going / going.sum())
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(unpack(packed), state, world, obs[index], roll)
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)
            return apply_gradients(chain, packed, pack(grads), opt), metrics

        carry = pack(params), state.learned["opt"]
        (packed, opt), metrics = jax.lax.scan(once, carry, jax.random.split(key, settings.epochs))
        metrics = {k: v.mean() for k, v in metrics.items()}
        return state._replace(learned={**state.learned, **unpack(packed), "opt": opt}), Out(metrics)

    return update
