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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offpolicy
from rlx.agents.offpolicy import Networks, critic_loss, q_values
from rlx.config import hyper, size, traced
from rlx.nn.mlp import head
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """Twin delayed deep deterministic policy gradient."""

    policy_delay: int = size(2, least=1)  # critic updates per actor update
    noise: float = traced(0.1, "Standard deviation of the exploration noise.", least=0)
    smoothing: float = traced(0.2, "Standard deviation of the target policy's noise.", least=0)
    smoothing_clip: float = traced(0.5, "Bound of the target policy's noise.", least=0)


PRESETS: dict[str, dict[str, Any]] = {"debug": offpolicy.DEBUG}


def smoothed_action(nets: Networks, target: dict[str, Any], obs: Array, h: dict[str, Array], key: Key) -> Array:
    """That of the target policy, with clipped noise, [B, A]."""
    mean = jnp.tanh(nets.actor.apply(target["actor"], obs))
    noise = jnp.clip(h["smoothing"] * jax.random.normal(key, mean.shape), -h["smoothing_clip"], h["smoothing_clip"])
    return jnp.clip(mean + noise, -1.0, 1.0)


def targets(nets: Networks, target: dict[str, Any], batch: Transitions, h: dict[str, Array], key: Key) -> Array:
    """y [B]."""
    action = smoothed_action(nets, target, batch.next_obs, h, key)
    q = q_values(nets.critics, target["critics"], batch.next_obs, action).min(0)
    return jax.lax.stop_gradient(batch.reward + batch.discount * q)


def actor_loss(params: PyTree, nets: Networks, critics: PyTree, obs: Array) -> Array:
    return -q_values(nets.critic, head(critics, 0), obs, jnp.tanh(nets.actor.apply(params, obs))).mean()


def begin(nets: Networks, key: Key, n: int, m: int) -> dict[str, Any]:
    """Networks, their targets and optimisers, for observations [n] and actions [m]."""
    actor, critics = jax.random.split(key)
    own = {"actor": nets.actor.init(actor, jnp.zeros(n)), "critics": nets.critics.init(critics, jnp.zeros(n + m))}
    opt = {name: optimizer(0.0).init(params) for name, params in own.items()}
    return {**own, "target": jax.tree.map(jnp.copy, own), "opt": opt}


def learn(
    nets: Networks,
    state: AgentState,
    batch: Transitions,
    y: Array,
    turn: Array,
    loss: Callable[[PyTree, PyTree], Array],
) -> tuple[AgentState, Out]:
    """Critics towards ``y`` [B]; where ``turn``, the actor down ``loss(actor, new critics)``, and the targets."""
    h, old = state.hyper, state.learned
    critic_grad = jax.value_and_grad(critic_loss, has_aux=True)
    (q_loss, q_mean), grads = critic_grad(old["critics"], nets.critics, batch, y)
    critics, q_opt = apply_gradients(optimizer(h["critic_lr"]), old["critics"], grads, old["opt"]["critics"])

    def improve() -> tuple:
        pi_loss, grads = jax.value_and_grad(loss)(old["actor"], critics)
        actor, opt = apply_gradients(optimizer(h["actor_lr"]), old["actor"], grads, old["opt"]["actor"])
        return actor, opt, polyak(old["target"], {"actor": actor, "critics": critics}, h["tau"]), pi_loss

    def wait() -> tuple:
        return old["actor"], old["opt"]["actor"], old["target"], jnp.float32(0)

    actor, pi_opt, target, pi_loss = jax.lax.cond(turn, improve, wait)
    opt = {"actor": pi_opt, "critics": q_opt}
    learned = {**old, "actor": actor, "critics": critics, "target": target, "opt": opt}
    metrics = {"critic/loss": q_loss, "critic/q_mean": q_mean, "actor/loss": pi_loss}
    return state._replace(learned=learned), Out(metrics, valid={"actor/loss": turn})


def is_turn(clock: Clock, policy_delay: int) -> Array:
    """Whether the actor has its turn in the update at ``clock``."""
    return (clock.updates + 1) % policy_delay == 0


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "td3")
    n, m = offpolicy.obs_action_dims(spec, "td3")
    nets = offpolicy.networks(config.hidden, m)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, begin(nets, key, n, m))

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return offpolicy.at_random(key, step, m), carry, {}
        action = jnp.tanh(nets.actor.apply(state.learned["actor"], step.obs))
        if mode == "explore":
            action = jnp.clip(action + state.hyper["noise"] * jax.random.normal(key, action.shape), -1.0, 1.0)
        return action, carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        y = targets(nets, state.learned["target"], batch, state.hyper, key)
        loss = lambda actor, critics: actor_loss(actor, nets, critics, batch.obs)
        return learn(nets, state, batch, y, is_turn(clock, config.policy_delay), loss)

    shared = offpolicy.shared_parts(config, problem)
    return Agent("td3", config, hyper(config), init, act, offpolicy.stages(config, update), **shared)
