"""IQL (Kostrikov et al. 2022, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv:2110.06169).

Values are learned from actions of the data alone; an expectile above 0.5 makes V lean towards the best of them::

    repeat, on a batch of the data:
        q       <- min_i Q'_i(s, a)
        V       <- down the gradient of |expectile - 1[q < V(s)]| (q - V(s))^2                               (eq. 5)
        pi      <- down the gradient of -min(exp(temperature (q - V(s))), 100) log pi(a|s)                   (eq. 7)
        Q_i     <- down the gradient of (Q_i(s, a) - r - discount V(s'))^2                                   (eq. 6)
        Q'_i    <- a step of tau towards Q_i

V in the policy's and in Q's line is the new one. The policy is a Gaussian whose mean is a tanh; its step size goes to 0 as a
cosine over all updates (``lr_decay``).

Presets: "mujoco" and "antmaze" are of the paper's appendix B; "robomimic" and "metaworld" are what preference learning uses
(Kim et al. 2023, arXiv:2303.00957; Hejna and Sadigh 2023, arXiv:2305.15363), the first without its dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.agents import offline
from rlx.agents.offpolicy import critic_loss, q_values
from rlx.config import hyper, traced
from rlx.nn.mlp import MLP, stack
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step

MOST_WEIGHT = 100.0


@dataclass(frozen=True)
class Config(offline.ValueConfig):
    """Implicit Q-learning."""

    expectile: float = traced(0.7, "Expectile of V: 0.5 is the mean over the data's actions.", above=0, below=1)
    temperature: float = traced(3.0, "Inverse temperature of the policy: how much better actions count more.", least=0)
    value_lr: float = traced(3e-4, "Adam's step size for V.", least=0)
    lr_decay: float = traced(1.0, "Share of the actor's step size that is gone at the end, as a cosine.", least=0, most=1)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offline.DEBUG,
    "mujoco": {"normalize_returns": True},
    "antmaze": {"expectile": 0.9, "temperature": 10.0, "reward_shift": -1.0, "eval_every": 100_000, "eval_episodes": 100},
    "robomimic": {"temperature": 0.5, "eval_every": 50_000, "eval_episodes": 25},
    "metaworld": {"updates": 200_000, "expectile": 0.75, "hidden": (256, 256, 256), "eval_every": 2_500, "eval_episodes": 20},
}


class Networks(NamedTuple):
    """Static; their parameters are the entries of the same names in ``learned``."""

    actor: MLP
    value: MLP
    critics: MLP  # both, stacked


def networks(hidden: tuple[int, ...], outputs: int) -> Networks:
    """All layers are orthogonal, times sqrt 2."""
    mlp = lambda last: MLP((*hidden, last), kernel_init="orthogonal", last_scale=math.sqrt(2))
    return Networks(mlp(outputs), mlp(1), stack(mlp(1), 2))


def expectile_loss(error: Array, expectile: Array) -> Array:
    """Of ``error`` = target - prediction, each (eq. 5)."""
    return jnp.abs(expectile - (error < 0)) * error**2


def imitation_weight(advantage: Array, temperature: Array) -> Array:
    """What an action of the data counts for (eq. 7), at most `MOST_WEIGHT`."""
    return jnp.minimum(jnp.exp(temperature * advantage), MOST_WEIGHT)


def value_loss(params: PyTree, value: MLP, obs: Array, q: Array, expectile: Array) -> Array:
    return expectile_loss(q - value.apply(params, obs)[..., 0], expectile).mean()


def actor_loss(params: PyTree, actor: MLP, obs: Array, action: Array, weight: Array) -> Array:
    return -(weight * offline.gaussian(actor, params, obs).log_prob(action)).mean()


def step_size(h: dict[str, Array], share: Array) -> Array:
    """Adam's for the actor, when a ``share`` of all updates is done."""
    return h["actor_lr"] * (1 - h["lr_decay"] * 0.5 * (1 - jnp.cos(jnp.pi * share)))


def begin(nets: Networks, key: Key, n: int, m: int) -> dict[str, Any]:
    """Networks, targets and optimisers, for observations [n] and actions [m]."""
    actor, value, critics = jax.random.split(key, 3)
    own = {
        "actor": offline.init_gaussian(nets.actor, actor, n, m),
        "value": nets.value.init(value, jnp.zeros(n)),
        "critics": nets.critics.init(critics, jnp.zeros(n + m)),
    }
    opt = {name: optimizer(0.0).init(params) for name, params in own.items()}
    return {**own, "target": jax.tree.map(jnp.copy, own["critics"]), "opt": opt}


def updater(nets: Networks, share: Callable[[Clock], Array]) -> Callable:
    """The update on a batch. ``share(clock)`` is how much of all updates is done."""

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        h, old = state.hyper, state.learned
        opt = dict(old["opt"])
        batch = offline.scaled(batch, old["scales"], h)
        batch = batch._replace(action=jnp.clip(batch.action, -offline.EDGE, offline.EDGE))

        q = q_values(nets.critics, old["target"], batch.obs, batch.action).min(0)
        v_loss, grads = jax.value_and_grad(value_loss)(old["value"], nets.value, batch.obs, q, h["expectile"])
        value, opt["value"] = apply_gradients(optimizer(h["value_lr"]), old["value"], grads, opt["value"])
        v, v_next = nets.value.apply(value, jnp.stack([batch.obs, batch.next_obs]))[..., 0]

        weight = imitation_weight(q - v, h["temperature"])
        pi_loss, grads = jax.value_and_grad(actor_loss)(old["actor"], nets.actor, batch.obs, batch.action, weight)
        lr = step_size(h, share(clock))
        actor, opt["actor"] = apply_gradients(optimizer(lr), old["actor"], grads, opt["actor"])

        y = batch.reward + batch.discount * v_next
        critic_grad = jax.value_and_grad(critic_loss, has_aux=True)
        (q_loss, q_mean), grads = critic_grad(old["critics"], nets.critics, batch, y)
        critics, opt["critics"] = apply_gradients(optimizer(h["critic_lr"]), old["critics"], grads, opt["critics"])

        learned = {**old, "actor": actor, "value": value, "critics": critics, "opt": opt}
        learned["target"] = polyak(old["target"], critics, h["tau"])
        metrics = {"critic/loss": q_loss, "critic/q_mean": q_mean, "value/loss": v_loss, "value/mean": v.mean()}
        metrics |= {"actor/loss": pi_loss, "actor/weight": weight.mean()}
        return state._replace(learned=learned), Out(metrics)

    return update


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "iql")
    nets, scales = networks(config.hidden, m), offline.scales(data, config)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, {**begin(nets, key, n, m), "scales": scales})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        policy = offline.gaussian(nets.actor, state.learned["actor"], state.learned["scales"].obs(step.obs))
        action = policy.mode() if mode == "eval" else jnp.clip(policy.sample(key), -1.0, 1.0)
        return action, carry, {}

    update = updater(nets, lambda clock: clock.updates / (config.cycles * config.block))
    return Agent("iql", config, hyper(config), init, act, **offline.shared_parts(config, problem, update))
