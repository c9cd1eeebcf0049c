"""Soft actor-critic (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905).

::

    prefill: act at random
    repeat: act for a few decisions; as many times:
        y       <- r + discount (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')         (eq. 5, 6)
        Q_i     <- down the gradient of (Q_i(s, a) - y)^2
        pi      <- down the gradient of alpha log pi(a|s) - min_i Q_i(s, a),  a ~ pi(.|s)           (eq. 9)
        alpha   <- down the gradient of -log(alpha) (log pi(a|s) + target entropy)                  (eq. 18)
        Q'_i    <- a step of tau towards Q_i

``discount`` is 0 after a terminal step only: a cut episode is bootstrapped. Of the temperature alpha the logarithm is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offpolicy
from rlx.agents.offpolicy import Networks, critic_loss, q_values
from rlx.config import hyper, traced
from rlx.nn.distributions import tanh_normal_sample
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step

LOG_STD = (-10.0, 2.0)


@dataclass(frozen=True)
class Config(offpolicy.OffPolicyConfig):
    """Soft actor-critic."""

    RENAMED = {"alpha": "init_temperature", "alpha_lr": "temperature_lr", "entropy": "target_entropy"}

    temperature_lr: float = traced(3e-4, "Adam's step size for the temperature.", least=0)
    init_temperature: float = traced(0.1, "Temperature at the start; its logarithm is learned.", above=0)
    target_entropy: float = traced(-1.0, "Target entropy per action dimension.")


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offpolicy.DEBUG,
    "quickstart": {
        "env_steps": 12_500,
        "prefill": 500,
        "collect": 25,
        "eval_every": 1_250,
        "actor_lr": 1e-3,
        "critic_lr": 1e-3,
        "temperature_lr": 1e-3,
        "tau": 0.01,
    },
}


def policy(actor: MLP, params: PyTree, obs: Array) -> tuple[Array, Array]:
    """Mean and log standard deviation before the tanh, [..., A] each."""
    mean, log_std = jnp.split(actor.apply(params, obs), 2, -1)
    low, high = LOG_STD
    return mean, low + (high - low) * jax.nn.sigmoid(log_std)


def targets(nets: Networks, learned: dict[str, Any], batch: Transitions, key: Key, judged: Array | None = None) -> Array:
    """y [B] (eq. 5 and 6). ``judged``: the next observations as target critics see them, where policies see them otherwise."""
    action, log_prob = tanh_normal_sample(key, *policy(nets.actor, learned["actor"], batch.next_obs))
    q = q_values(nets.critics, learned["target"], batch.next_obs if judged is None else judged, action).min(0)
    soft = q - jnp.exp(learned["log_temperature"]) * log_prob
    return jax.lax.stop_gradient(batch.reward + batch.discount * soft)


def actor_loss(
    params: PyTree, nets: Networks, critics: PyTree, temperature: Array, obs: Array, key: Key
) -> tuple[Array, Array]:
    """(eq. 9), and the mean log-probability."""
    action, log_prob = tanh_normal_sample(key, *policy(nets.actor, params, obs))
    return (temperature * log_prob - q_values(nets.critics, critics, obs, action).min(0)).mean(), log_prob.mean()


def begin(nets: Networks, key: Key, n: int, m: int, init_temperature: Array) -> dict[str, Any]:
    """What is learned, before the first update, for observations [n] and actions [m]."""
    actor, critics = jax.random.split(key)
    learned = {
        "actor": nets.actor.init(actor, jnp.zeros(n)),
        "critics": nets.critics.init(critics, jnp.zeros(n + m)),
        "log_temperature": jnp.log(init_temperature),
    }
    opt = {name: optimizer(0.0).init(params) for name, params in learned.items()}
    return {**learned, "target": jax.tree.map(jnp.copy, learned["critics"]), "opt": opt}


def learn(
    nets: Networks,
    state: AgentState,
    batch: Transitions,
    y: Array,
    key: Key,
    *,
    actor_lr: Array | None = None,
    most_temperature: float | None = None,
    by_target: bool = False,
) -> tuple[AgentState, Out]:
    """One update towards the values ``y`` [B]. ``actor_lr`` in place of the setting; the temperature counts as at most
    ``most_temperature``; ``by_target``: the actor follows the target critics."""
    h, old, m = state.hyper, state.learned, batch.action.shape[-1]
    critic_grad = jax.value_and_grad(critic_loss, has_aux=True)
    (q_loss, q_mean), q_grads = critic_grad(old["critics"], nets.critics, batch, y)
    critics, q_opt = apply_gradients(optimizer(h["critic_lr"]), old["critics"], q_grads, old["opt"]["critics"])

    temperature = jnp.exp(old["log_temperature"])
    if most_temperature is not None:
        temperature = jnp.minimum(temperature, most_temperature)
    actor_grad = jax.value_and_grad(actor_loss, has_aux=True)
    guide = old["target"] if by_target else critics
    (pi_loss, log_prob), pi_grads = actor_grad(old["actor"], nets, guide, temperature, batch.obs, key)
    rate = h["actor_lr"] if actor_lr is None else actor_lr
    actor, pi_opt = apply_gradients(optimizer(rate), old["actor"], pi_grads, old["opt"]["actor"])

    t_grad, t_chain = -(log_prob + h["target_entropy"] * m), optimizer(h["temperature_lr"])
    log_temperature, t_opt = apply_gradients(t_chain, old["log_temperature"], t_grad, old["opt"]["log_temperature"])

    learned = {
        **old,
        "actor": actor,
        "critics": critics,
        "target": polyak(old["target"], critics, h["tau"]),
        "log_temperature": log_temperature,
        "opt": {"actor": pi_opt, "critics": q_opt, "log_temperature": t_opt},
    }
    metrics = {
        "critic/loss": q_loss,
        "critic/q_mean": q_mean,
        "actor/loss": pi_loss,
        "actor/entropy": -log_prob,
        "temperature": temperature,
    }
    return state._replace(learned=learned), Out(metrics)


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    offpolicy.check(config, spec, "sac")
    n, m = offpolicy.obs_action_dims(spec, "sac")
    nets = offpolicy.networks(config.hidden, 2 * m)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, begin(nets, key, n, m, hyper["init_temperature"]))

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return offpolicy.at_random(key, step, m), carry, {}
        mean, log_std = policy(nets.actor, state.learned["actor"], step.obs)
        action = jnp.tanh(mean) if mode == "eval" else tanh_normal_sample(key, mean, log_std)[0]
        return action, carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        k1, k2 = jax.random.split(key)
        return learn(nets, state, batch, targets(nets, state.learned, batch, k1), k2)

    shared = offpolicy.shared_parts(config, problem)
    return Agent("sac", config, hyper(config), init, act, offpolicy.stages(config, update), **shared)
