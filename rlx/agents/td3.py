"""TD3 (Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods", arXiv:1802.09477).

::

    prefill: act at random
    repeat: act with Gaussian noise for a few decisions; as many times:
        a'      <- clip(pi'(s') + clip(noise, +-c), -1, 1)                      (target policy smoothing)
        y       <- r + discount min_i Q'_i(s', a')                              (clipped double Q)
        Q_i     <- down the gradient of (Q_i(s, a) - y)^2
        every policy_delay updates:
            pi  <- down the gradient of -Q_1(s, pi(s));  targets <- a step of tau towards their networks
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offpolicy
from rlx.config import hyper, traced
from rlx.nn import mlp
from rlx.nn.optim import adam, adam_init, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, Step


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """Twin delayed deep deterministic policy gradient."""

    policy_delay: int = 2  # critic updates per actor update
    noise: float = traced(0.1, "Standard deviation of the exploration noise.")
    smoothing: float = traced(0.2, "Standard deviation of the target policy's noise.")
    smoothing_clip: float = traced(0.5, "Bound of the target policy's noise.")


PRESETS: dict[str, dict[str, Any]] = {"debug": offpolicy.DEBUG}


def q_values(critics: tuple, obs: Array, action: Array) -> list[Array]:
    """Q_i(obs, action) [B] of each critic."""
    x = jnp.concatenate([obs, action], -1)
    return [mlp.apply(c, x)[..., 0] for c in critics]


def targets(target: dict[str, Any], batch: Transitions, h: dict[str, Array], key: Key) -> Array:
    """y [B]."""
    mean = jnp.tanh(mlp.apply(target["actor"], batch.next_obs))
    noise = jnp.clip(h["smoothing"] * jax.random.normal(key, mean.shape), -h["smoothing_clip"], h["smoothing_clip"])
    q = jnp.minimum(*q_values(target["critics"], batch.next_obs, jnp.clip(mean + noise, -1.0, 1.0)))
    return jax.lax.stop_gradient(batch.reward + batch.discount * q)


def critic_loss(critics: tuple, batch: Transitions, y: Array) -> tuple[Array, Array]:
    """Mean over the batch, summed over critics; and the mean Q."""
    qs = q_values(critics, batch.obs, batch.action)
    return sum(((q - y) ** 2).mean() for q in qs), qs[0].mean()  # type: ignore[return-value]


def actor_loss(actor: list[Any], critics: tuple, obs: Array) -> Array:
    return -q_values(critics[:1], obs, jnp.tanh(mlp.apply(actor, obs)))[0].mean()


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "td3")
    if config.policy_delay < 1:
        raise ValueError(f"td3: policy_delay must be at least 1, got {config.policy_delay}.")
    n, m = offpolicy.vector(spec, "td3")

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        k = jax.random.split(key, 3)
        nets = {
            "actor": mlp.init(k[0], (n, *config.hidden, m), last_scale=0.01),
            "critics": tuple(mlp.init(i, (n + m, *config.hidden, 1)) for i in k[1:]),
        }
        opt = {name: adam_init(net) for name, net in nets.items()}
        rest = {"target": jax.tree.map(jnp.copy, nets), "opt": opt, "actor_loss": jnp.float32(0)}
        return AgentState(hyper, {**nets, **rest})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return offpolicy.at_random(key, step, m), carry, {}
        action = jnp.tanh(mlp.apply(state.learned["actor"], step.obs))
        if mode == "explore":
            action = jnp.clip(action + state.hyper["noise"] * jax.random.normal(key, action.shape), -1.0, 1.0)
        return action, carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old = state.hyper, state.learned
        y = targets(old["target"], batch, h, key)
        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(old["critics"], batch, y)
        critics, q_opt = adam(old["critics"], grads, old["opt"]["critics"], h["critic_lr"])

        def improve() -> tuple:
            loss, grads = jax.value_and_grad(actor_loss)(old["actor"], critics, batch.obs)
            actor, opt = adam(old["actor"], grads, old["opt"]["actor"], h["actor_lr"])
            return actor, opt, polyak(old["target"], {"actor": actor, "critics": critics}, h["tau"]), loss

        def wait() -> tuple:
            return old["actor"], old["opt"]["actor"], old["target"], old["actor_loss"]

        turn = (clock.updates + 1) % config.policy_delay == 0
        actor, pi_opt, target, pi_loss = jax.lax.cond(turn, improve, wait)
        opt = {"actor": pi_opt, "critics": q_opt}
        learned = {"actor": actor, "critics": critics, "target": target, "opt": opt, "actor_loss": pi_loss}
        return state._replace(learned=learned), Out({"critic/loss": q_loss, "critic/q_mean": q_mean, "actor/loss": pi_loss})

    plumbing = offpolicy.plumbing(config, problem)
    return Agent("td3", config, hyper(config), init, act, offpolicy.stages(config, update), **plumbing)
