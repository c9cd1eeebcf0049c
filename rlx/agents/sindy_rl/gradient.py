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
from rlx.nn import mlp, normalize
from rlx.nn.optim import adam
from rlx.replay import Sequences
from rlx.types import Agent, AgentState, Array, Clock, Env, Key, Out, PyTree, Step

OUTSIDE = 0.1  # price of the squared distance of the policy's mean from the action's range, where the model's gradient is 0


def improver(config: Config, learner: Agent, imagined: Env, policy_of: Any, imagine: Any) -> Any:
    """An update like PPO's, on the rows of the newest rollout."""
    settings: ppo.Config = config.ppo
    batch = settings.n_envs * settings.steps // settings.minibatches
    step = jax.vmap(imagined.step, (None, 0, 0, 0))

    def value(nets: PyTree, seen: Any, obs: Array) -> Array:
        obs = normalize.apply(seen, obs) if settings.normalize_obs else obs
        return mlp.apply(nets["critic"], obs, settings.activation)[..., 0]

    def loss(nets: PyTree, state: AgentState, params: PyTree, obs: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        acting = policy_of(state._replace(learned={**state.learned, **nets}))
        start, _ = jax.vmap(imagined.reset, (None, 0))(params, jax.random.split(key, len(obs)))
        no = jnp.zeros(len(obs), bool)
        shown = lambda obs: Step(obs, jnp.zeros(len(obs)), no, no, no, {})
        discount = state.hyper["ppo.discount"]
        frozen = jax.lax.stop_gradient(nets)

        def once(carry: tuple, k: Key) -> tuple[tuple, Array]:
            world, weight, total = carry
            mean = learner.act(acting, None, (), shown(world.obs), k, "mean")[0]
            world, arrived = step(params, world, jnp.clip(mean, -1, 1), jax.random.split(k, len(obs)))
            total = total + weight * arrived.reward
            cut = weight * discount * value(frozen, state.learned["seen"], arrived.obs)
            total = total + jnp.where(arrived.truncated, cut, 0.0)
            weight = jnp.where(arrived.last, 0.0, weight * discount)
            return (world, weight, total), (jax.nn.relu(jnp.abs(mean) - 1) ** 2).sum(-1)

        first = (start._replace(obs=obs), jnp.ones(len(obs)), jnp.zeros(len(obs)))
        (world, weight, total), outside = jax.lax.scan(once, first, jax.random.split(key, config.lookahead))
        total = total + weight * value(frozen, state.learned["seen"], world.obs)
        error = (value(nets, state.learned["seen"], obs) - jax.lax.stop_gradient(total)) ** 2
        gain = total.mean() / config.lookahead
        metrics = {"actor/loss": -gain, "critic/loss": error.mean(), "actor/outside": outside.mean()}
        return -gain + OUTSIDE * outside.mean() + state.hyper["ppo.value_coef"] * error.mean(), metrics

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        params = imagine(state, {})
        obs = rows.obs.reshape(-1, rows.obs.shape[-1])
        going = (rows.valid & ~(rows.terminated | rows.truncated)).reshape(-1)
        h = state.hyper
        lr = h["ppo.lr"] * (1 - h["ppo.lr_decay"] * clock.updates / settings.cycles)

        def once(carry: tuple, k: Key) -> tuple[tuple, dict]:
            nets, opt = carry
            draw, roll = jax.random.split(k)
            index = jax.random.choice(draw, len(obs), (batch,), p=going / going.sum())
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(nets, state, params, obs[index], roll)
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)
            return adam(nets, grads, opt, lr, max_norm=settings.max_norm), metrics

        nets = {k: state.learned[k] for k in ("actor", "critic", "log_std")}
        (nets, opt), metrics = jax.lax.scan(once, (nets, state.learned["opt"]), jax.random.split(key, settings.epochs))
        metrics = {k: v.mean() for k, v in metrics.items()}
        return state._replace(learned={**state.learned, **nets, "opt": opt}), Out(metrics)

    return update
