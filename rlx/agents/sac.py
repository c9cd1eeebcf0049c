"""Soft actor-critic (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905).

::

    prefill: act at random
    repeat: act for a few decisions; as many times:
        y       <- r + discount (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')         (eq. 5, 6)
        Q_i     <- down the gradient of (Q_i(s, a) - y)^2
        pi      <- down the gradient of alpha log pi(a|s) - min_i Q_i(s, a),  a ~ pi(.|s)           (eq. 9)
        alpha   <- down the gradient of -log(alpha) (log pi(a|s) + target entropy)                  (eq. 18)
        Q'_i    <- a step of tau towards Q_i

``discount`` is 0 after a terminal step only: a cut episode is bootstrapped. The temperature learns its logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offpolicy
from rlx.config import hyper, traced
from rlx.nn import mlp
from rlx.nn.distributions import tanh_normal_sample
from rlx.nn.optim import adam, adam_init, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, Step

LOG_STD = (-10.0, 2.0)


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """Soft actor-critic."""

    alpha_lr: float = traced(3e-4, "Adam's step size for the temperature.")
    alpha: float = traced(0.1, "Initial temperature.")
    entropy: float = traced(-1.0, "Target entropy per action dimension.")


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offpolicy.DEBUG,
    "quickstart": {
        "env_steps": 12_500,
        "prefill": 500,
        "collect": 25,
        "eval_every": 1_250,
        "actor_lr": 1e-3,
        "critic_lr": 1e-3,
        "alpha_lr": 1e-3,
        "tau": 0.01,
    },
}


def policy(actor: list[Any], obs: Array) -> tuple[Array, Array]:
    """Mean and log standard deviation before the tanh, [..., A] each."""
    mean, log_std = jnp.split(mlp.apply(actor, obs), 2, -1)
    low, high = LOG_STD
    return mean, low + (high - low) * jax.nn.sigmoid(log_std)


def q_values(critics: tuple, obs: Array, action: Array) -> list[Array]:
    """Q_i(obs, action) [B] of each critic."""
    x = jnp.concatenate([obs, action], -1)
    return [mlp.apply(c, x)[..., 0] for c in critics]


def targets(learned: dict[str, Any], batch: Transitions, key: Key) -> Array:
    """y [B] (eq. 5 and 6)."""
    action, log_prob = tanh_normal_sample(key, *policy(learned["actor"], batch.next_obs))
    soft = jnp.minimum(*q_values(learned["target"], batch.next_obs, action)) - jnp.exp(learned["log_alpha"]) * log_prob
    return jax.lax.stop_gradient(batch.reward + batch.discount * soft)


def critic_loss(critics: tuple, batch: Transitions, y: Array) -> tuple[Array, Array]:
    """Mean over the batch, summed over critics; and the mean Q."""
    qs = q_values(critics, batch.obs, batch.action)
    return sum(((q - y) ** 2).mean() for q in qs), qs[0].mean()  # type: ignore[return-value]


def actor_loss(actor: list[Any], critics: tuple, alpha: Array, obs: Array, key: Key) -> tuple[Array, Array]:
    """(eq. 9), and the mean log-probability."""
    action, log_prob = tanh_normal_sample(key, *policy(actor, obs))
    return (alpha * log_prob - jnp.minimum(*q_values(critics, obs, action))).mean(), log_prob.mean()


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "sac")
    if config.alpha <= 0:
        raise ValueError(f"sac: alpha={config.alpha} must be positive, its logarithm is learned; alpha_lr=0 keeps it.")
    n, m = offpolicy.vector(spec, "sac")

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        k = jax.random.split(key, 3)
        actor = mlp.init(k[0], (n, *config.hidden, 2 * m), last_scale=0.01)
        critics = tuple(mlp.init(i, (n + m, *config.hidden, 1)) for i in k[1:])
        log_alpha = jnp.log(hyper["alpha"])
        learned = {"actor": actor, "critics": critics, "target": jax.tree.map(jnp.copy, critics), "log_alpha": log_alpha}
        opt = {name: adam_init(learned[name]) for name in ("actor", "critics", "log_alpha")}
        return AgentState(hyper, {**learned, "opt": opt})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return offpolicy.at_random(key, step, m), carry, {}
        mean, log_std = policy(state.learned["actor"], step.obs)
        action = jnp.tanh(mean) if mode == "eval" else tanh_normal_sample(key, mean, log_std)[0]
        return action, carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old, (k1, k2) = state.hyper, state.learned, jax.random.split(key)
        y = targets(old, batch, k1)
        (q_loss, q_mean), q_grads = jax.value_and_grad(critic_loss, has_aux=True)(old["critics"], batch, y)
        critics, q_opt = adam(old["critics"], q_grads, old["opt"]["critics"], h["critic_lr"])

        alpha = jnp.exp(old["log_alpha"])
        actor_grad = jax.value_and_grad(actor_loss, has_aux=True)
        (pi_loss, log_prob), pi_grads = actor_grad(old["actor"], critics, alpha, batch.obs, k2)
        actor, pi_opt = adam(old["actor"], pi_grads, old["opt"]["actor"], h["actor_lr"])

        alpha_grad = -(log_prob + h["entropy"] * m)
        log_alpha, alpha_opt = adam(old["log_alpha"], alpha_grad, old["opt"]["log_alpha"], h["alpha_lr"])

        learned = {
            "actor": actor,
            "critics": critics,
            "target": polyak(old["target"], critics, h["tau"]),
            "log_alpha": log_alpha,
            "opt": {"actor": pi_opt, "critics": q_opt, "log_alpha": alpha_opt},
        }
        metrics = {
            "critic/loss": q_loss,
            "critic/q_mean": q_mean,
            "actor/loss": pi_loss,
            "actor/entropy": -log_prob,
            "alpha": alpha,
        }
        return state._replace(learned=learned), Out(metrics)

    plumbing = offpolicy.plumbing(config, problem)
    return Agent("sac", config, hyper(config), init, act, offpolicy.stages(config, update), **plumbing)
