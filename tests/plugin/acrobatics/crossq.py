"""CrossQ (Bhatt, Palenicek et al. 2024, "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample
Efficiency and Simplicity", arXiv:1902.05605): SAC without target networks, with batch renormalisation in wide critics.

::

    a'       <- pi(.|s')
    Q, Q'    <- the critics on the rows (s, a) and (s', a') as one batch, normalised by its own statistics
    y        <- r + discount (min_i Q'_i - alpha log pi(a'|s')), no gradient through it
    Q_i      <- down the gradient of (Q_i - y)^2
    every policy_delay updates, as in SAC, with the critics' running statistics:
        pi, alpha
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.agents import offpolicy
from rlx.agents.sac import policy
from rlx.config import hyper, size, traced
from rlx.nn.distributions import tanh_normal_sample
from rlx.nn.mlp import MLP, stack
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """CrossQ: SAC with batch renormalisation in place of target networks (``tau`` has no effect)."""

    critic_hidden: tuple[int, ...] = size((2048, 2048), least=1)  # widths of the critics; ``hidden`` is the actor's
    policy_delay: int = size(3, least=1)  # critic updates per actor update
    actor_lr: float = traced(1e-3, "Adam's step size for the actor.", least=0)
    critic_lr: float = traced(1e-3, "Adam's step size for the critics.", least=0)
    temperature_lr: float = traced(1e-3, "Adam's step size for the temperature.", least=0)
    init_temperature: float = traced(0.1, "Temperature at the start.", above=0)
    target_entropy: float = traced(-1.0, "Target entropy per action dimension.")
    b1: float = traced(0.5, "Decay of Adam's mean of gradients.", least=0, below=1)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {**offpolicy.DEBUG, "critic_hidden": (64, 64)},
    "small": {  # for tasks like the pendulum
        "env_steps": 4_500,
        "prefill": 500,
        "collect": 20,
        "batch": 128,
        "eval_every": 2_000,
        "hidden": (64, 64),
        "critic_hidden": (128, 128),
        "policy_delay": 1,
        "actor_lr": 2e-3,
        "critic_lr": 2e-3,
    },
}


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe 2017) of [B, n]. Where ``batch_stats`` may change, by the batch's statistics, corrected
    towards the running ones once ``warmup`` batches were seen; else by the running ones."""

    momentum: float = 0.99
    warmup: int = 1_000
    most_scale: float = 3.0
    most_shift: float = 5.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, n)
        var = self.variable("batch_stats", "var", jnp.ones, n)
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        scale, shift = self.param("scale", nn.initializers.ones, (n,)), self.param("bias", nn.initializers.zeros, (n,))
        std = jnp.sqrt(var.value + 1e-3)
        if not self.is_mutable_collection("batch_stats") or self.is_initializing():
            return (x - mean.value) / std * scale + shift
        now_mean, now_var = x.mean(0), x.var(0)
        now_std = jnp.sqrt(now_var + 1e-3)
        r = jnp.clip(now_std / std, 1 / self.most_scale, self.most_scale)
        d = jnp.clip((now_mean - mean.value) / std, -self.most_shift, self.most_shift)
        warm = seen.value >= self.warmup
        r, d = (jax.lax.stop_gradient(jnp.where(warm, value, neutral)) for value, neutral in ((r, 1.0), (d, 0.0)))
        mean.value += (1 - self.momentum) * (now_mean - mean.value)
        var.value += (1 - self.momentum) * (now_var - var.value)
        seen.value += 1
        return ((x - now_mean) / now_std * r + d) * scale + shift


class Critic(nn.Module):
    """Q [B] of observations and actions [B, n + m], with normalisation before each layer."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden:
            x = jax.nn.relu(nn.Dense(width)(BatchRenorm()(x)))
        return nn.Dense(1)(BatchRenorm()(x))[..., 0]


def critic_loss(
    params: PyTree, stats: PyTree, critics: nn.Module, batch: Transitions, next_action: Array, soft: Array
) -> tuple[Array, tuple[PyTree, Array]]:
    """(Q_i - y)^2, its mean over the batch summed over critics; the new statistics, and the mean Q. ``soft`` [B] is what the
    entropy of the next action is worth."""
    here, there = jnp.concatenate([batch.obs, batch.action], -1), jnp.concatenate([batch.next_obs, next_action], -1)
    both = jnp.concatenate([here, there])
    q, new = critics.apply({"params": params, "batch_stats": stats}, both, mutable=["batch_stats"])
    q, next_q = jnp.split(q, 2, -1)
    y = jax.lax.stop_gradient(batch.reward + batch.discount * (next_q.min(0) + soft))
    return ((q - y) ** 2).mean(-1).sum(), (new["batch_stats"], q.mean())


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "crossq")
    n, m = offpolicy.obs_action_dims(spec, "crossq")
    actor = MLP((*config.hidden, 2 * m), last_scale=0.01)
    critics = stack(Critic(config.critic_hidden), 2)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        k1, k2 = jax.random.split(key)
        variables = critics.init(k2, jnp.zeros((1, n + m)))
        nets = {
            "actor": actor.init(k1, jnp.zeros(n)),
            "critics": variables["params"],
            "temperature": jnp.log(hyper["init_temperature"]),
        }
        opt = {name: optimizer(0.0).init(params) for name, params in nets.items()}
        return AgentState(hyper, {**nets, "stats": variables["batch_stats"], "opt": opt})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return offpolicy.at_random(key, step, m), carry, {}
        mean, log_std = policy(actor, state.learned["actor"], step.obs)
        return jnp.tanh(mean) if mode == "eval" else tanh_normal_sample(key, mean, log_std)[0], carry, {}

    def actor_loss(params: PyTree, learned: dict[str, Any], obs: Array, key: Key) -> tuple[Array, Array]:
        """The soft value, negated, and the mean log-probability."""
        action, log_prob = tanh_normal_sample(key, *policy(actor, params, obs))
        variables = {"params": learned["critics"], "batch_stats": learned["stats"]}
        q = critics.apply(variables, jnp.concatenate([obs, action], -1)).min(0)
        return (jnp.exp(learned["temperature"]) * log_prob - q).mean(), log_prob.mean()

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old, (k1, k2) = state.hyper, state.learned, jax.random.split(key)
        next_action, log_prob = tanh_normal_sample(k1, *policy(actor, old["actor"], batch.next_obs))
        temperature = jnp.exp(old["temperature"])
        grad = jax.value_and_grad(critic_loss, has_aux=True)
        inputs = (critics, batch, next_action, -temperature * log_prob)
        (loss, (stats, q_mean)), grads = grad(old["critics"], old["stats"], *inputs)
        chain = optimizer(h["critic_lr"], b1=h["b1"])
        params, opt = apply_gradients(chain, old["critics"], grads, old["opt"]["critics"])
        learned = {**old, "critics": params, "stats": stats, "opt": {**old["opt"], "critics": opt}}

        def improve(learned: dict[str, Any]) -> dict[str, Any]:
            grads, log_prob = jax.grad(actor_loss, has_aux=True)(learned["actor"], learned, batch.obs, k2)
            t_grad = -(log_prob + h["target_entropy"] * m)
            new, opt = {}, dict(learned["opt"])
            for name, g, lr in (("actor", grads, h["actor_lr"]), ("temperature", t_grad, h["temperature_lr"])):
                new[name], opt[name] = apply_gradients(optimizer(lr, b1=h["b1"]), learned[name], g, opt[name])
            return {**learned, **new, "opt": opt}

        learned = jax.lax.cond((clock.updates + 1) % config.policy_delay == 0, improve, lambda same: same, learned)
        metrics = {"critic/loss": loss, "critic/q_mean": q_mean, "actor/entropy": -log_prob.mean(), "temperature": temperature}
        return state._replace(learned=learned), Out(metrics)

    shared = offpolicy.shared_parts(config, problem)
    return Agent("crossq", config, hyper(config), init, act, offpolicy.stages(config, update), **shared)
