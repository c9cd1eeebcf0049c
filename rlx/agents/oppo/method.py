"""OPPO (Kang et al. 2023, "Beyond Reward: Offline Preference-guided Policy Optimization", arXiv:2305.16217): a policy from
preferences without a reward::

    z   = I(tau)               what a window was about                       (an encoder)
    a   = pi(s, ..., z)        a policy that does what z is about            (a sequence model)
    z*                         what people want: one vector that is learned

    repeat, on pairs of windows of which z+ is the preferred one and z- the other:
        I, pi  <- down the gradient of   mean (pi(s, I(tau)) - a)^2                               each does its own window again
                                       + 0.1 max(0, |z* - z+| - |z* - z-| + 1)                    z* stopped
                                       + 0.1 (|z| - 1)^2
        z*     <- down the gradient of   max(0, |z* - z+| - |z* - z-| + 1)                        I stopped
    act with pi(s, ..., z*)

Ties have no part in the triplets; a soft label y counts |2 y - 1|. Of true rewards, scripted labels see those of the ``ahead``
steps from a window's start on, as the authors' do, and nothing else looks at them. The authors report their best evaluation;
here the last and the best are told apart, as for every agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.agents import offline
from rlx.agents.oppo.networks import Encoder, Policy
from rlx.config import hyper, size, traced
from rlx.nn.optim import apply_gradients, optimizer
from rlx.preferences import labels, pairs
from rlx.preferences.pairs import Episodes, Preferences
from rlx.preferences.sampling import Comparisons, comparisons
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class Config(offline.DataConfig):
    """Offline preference-guided policy optimisation."""

    labels: str = "oracle"  # where Problem.data has no "pairs": oracle (returns ahead), random, or a file of pairs
    pairs: int = size(50_000, least=1)  # of oracle and random: windows anywhere in the data
    pairs_seed: int = size(0, least=0)  # and which these are
    ahead: int = size(200, least=1)  # steps whose return oracle compares, from a window's start on
    segment: int = size(20, least=1)  # steps of a window, and what the policy remembers
    updates: int = size(100_000, least=1, budget=True)
    batch: int = size(64, least=1)  # pairs
    normalize_obs: bool = True
    context: int = size(8, least=1)  # numbers of z
    width: int = size(128, least=1)
    layers: int = size(3, least=1)
    encoder_heads: int = size(2, least=1)
    policy_heads: int = size(1, least=1)
    dropout: float = size(0.1, least=0, below=1)
    actor_lr: float = traced(1e-4, "Adam's step size for the encoder and the policy.", least=0)
    warmup: float = traced(10_000.0, "Updates until that is reached, linearly from 0.", least=1)
    weight_decay: float = traced(1e-4, "Decoupled weight decay of both.", least=0)
    max_grad_norm: float = traced(0.25, "Their gradients are clipped to this norm.", above=0)
    context_lr: float = traced(1e-3, "Adam's step size for z*.", least=0)
    context_decay: float = traced(0.01, "Decoupled weight decay of z*.", least=0)
    context_std: float = traced(2.0, "Of the normal distribution that z* is first drawn from.", least=0)
    preference_coef: float = traced(0.1, "Weight of the triplets for the encoder.", least=0)
    norm_coef: float = traced(0.1, "Weight of (|z| - 1)^2.", least=0)
    margin: float = traced(1.0, "By which z* is to be nearer to what is preferred.", least=0)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"updates": 200, "block": 20, "batch": 8, "eval_every": 100, "eval_episodes": 2, "pairs": 100}
    | {"segment": 5, "width": 16, "layers": 1},
    "human": {"context": 16, "policy_heads": 2},
    "long": {"segment": 100},
}


# ------------------------------------------------------------------------------------------------------------------- losses


def distance(a: Array, b: Array) -> Array:
    """|a - b| over the last axis, with a gradient at 0."""
    return jnp.sqrt(((a - b) ** 2).sum(-1) + 1e-12)


def triplet(wanted: Array, z: Array, label: Array, weight: Array, margin: Array) -> tuple[Array, Array]:
    """The mean of max(0, |z* - z+| - |z* - z-| + margin) over pairs [B] that tell, and the share of these on the right side.

    ``z`` [2, B, d] of the first and the second windows; ``label`` [B] says how likely the second is preferred."""
    apart = distance(wanted, z)
    second = label > 0.5
    gap = jnp.where(second, apart[1] - apart[0], apart[0] - apart[1])
    confidence = weight * abs(2 * label - 1)
    mean = lambda x: (confidence * x).sum() / jnp.maximum(confidence.sum(), 1e-6)
    return mean(jnp.maximum(gap + margin, 0.0)), mean(gap < 0)


def reconstruction(done: Array, action: Array, mask: Array) -> Array:
    """Mean of squared errors of actions [N, K, m] over the steps that are there, [N, K]."""
    return (mask * ((done - action) ** 2).mean(-1)).sum() / jnp.maximum(mask.sum(), 1.0)


def updater(encoder: Encoder, policy: Policy) -> Any:
    def losses(
        nets: PyTree, wanted: Array, obs: Array, action: Array, mask: Array, about: Comparisons, h: dict[str, Array], key: Key
    ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        one, two = ({"dropout": keys.fold(key, part)} for part in ("encoder", "policy"))
        z = encoder.apply(nets["encoder"], obs, action, mask, True, rngs=one)
        again = reconstruction(policy.apply(nets["policy"], z, obs, action, mask, True, rngs=two), action, mask)
        z = z.reshape(2, -1, z.shape[-1])
        near, right = triplet(wanted, z, about.label, about.weight, h["margin"])
        norm = ((distance(z, jnp.zeros(())) - 1) ** 2).mean()
        metrics = {"policy/loss": again, "preference/loss": near, "preference/right": right, "context/norm_loss": norm}
        return again + h["preference_coef"] * near + h["norm_coef"] * norm, (z, metrics)

    def update(state: AgentState, clock: Clock, batch: Comparisons, key: Key) -> tuple[AgentState, Out]:
        h, old = state.hyper, state.learned
        windows = lambda x: jnp.moveaxis(x, 0, 2).reshape(-1, len(x), *x.shape[3:])  # [K, 2, B, ...] -> [2 B, K, ...]
        obs, mask = windows(old["scales"].obs(batch.obs[:-1])), windows(batch.mask)
        action = jnp.clip(windows(batch.action), -1.0, 1.0)
        given = (obs, action, mask, batch, h, key)
        slope = jax.grad(losses, has_aux=True)
        grads, (z, metrics) = slope(old["nets"], old["context"], *given)
        lr = h["actor_lr"] * jnp.minimum((clock.updates + 1) / h["warmup"], 1.0)
        chain = optimizer(lr, max_grad_norm=h["max_grad_norm"], weight_decay=h["weight_decay"])
        nets, opt = apply_gradients(chain, old["nets"], grads, old["opt"])
        pull = jax.grad(lambda wanted: triplet(wanted, z, batch.label, batch.weight, h["margin"])[0])
        own = optimizer(h["context_lr"], weight_decay=h["context_decay"])
        context, context_opt = apply_gradients(own, old["context"], pull(old["context"]), old["context_opt"])
        learned = {**old, "nets": nets, "opt": opt, "context": context, "context_opt": context_opt}
        return state._replace(learned=learned), Out({**metrics, "context/wanted_norm": distance(context, jnp.zeros(()))})

    return update


# ------------------------------------------------------------------------------------------------------------------- labels


def scripted(kind: str, found: Episodes, count: int, steps: int, ahead: int, rng: np.random.Generator) -> Preferences:
    """``count`` random pairs of windows of ``steps`` decisions; "oracle" prefers the one with the larger return over ``ahead``
    steps from its start (to its episode's end at most), "random" tosses a coin."""
    episode, start = pairs.places(found.steps, steps)
    chosen = rng.integers(0, len(episode), (2, count))
    total = np.cumsum(found.reward)
    row, last = found.begin[episode] + start, found.begin[episode] + np.minimum(start + ahead, found.steps[episode])
    value = total[last] - total[row]
    y = 0.5 + 0.5 * np.sign(value[chosen[1]] - value[chosen[0]]) if kind == "oracle" else rng.integers(2, size=count)
    source = "script" if kind == "oracle" else "random"
    return pairs.preferences(episode[chosen], y, steps, start=start[chosen], source=source)


# -------------------------------------------------------------------------------------------------------------------- agent


class Memory(NamedTuple):
    """The last K steps of each stream, oldest first; what is not filled yet comes last."""

    obs: Array  # [W, K, n] in the units of networks
    action: Array  # [W, K, m]
    count: Array  # int32 [W]


def make(config: Config, problem: Problem) -> Agent:
    """Raises ValueError as `labels.of_problem`, or where widths and heads do not go together."""
    data, n, m = offline.dataset(problem, "oppo")
    for name in ("encoder_heads", "policy_heads"):
        if config.width % getattr(config, name):
            raise ValueError(f"oppo: width={config.width} is no multiple of {name}={getattr(config, name)}.")
    scales, found = offline.scales(data, config), pairs.episodes(data)
    longest, rng = min(config.segment, int(found.steps.max())), np.random.default_rng(config.pairs_seed)
    make_up = lambda kind: scripted(kind, found, config.pairs, longest, config.ahead, rng)
    compared = labels.of_problem("oppo", config.labels, problem.data.get("pairs"), make_up)
    steps = min(config.segment, int(np.max(compared.steps)))
    encoder = Encoder(config.context, config.width, config.layers, config.encoder_heads, steps, config.dropout)
    policy = Policy(m, config.width, config.layers, config.policy_heads, steps, config.dropout)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        obs, action, mask, z = (jnp.zeros((1, *of)) for of in ((steps, n), (steps, m), (steps,), (config.context,)))
        nets = {
            "encoder": encoder.init(keys.fold(key, "encoder"), obs, action, mask),
            "policy": policy.init(keys.fold(key, "policy"), z, obs, action, mask),
        }
        wanted = hyper["context_std"] * jax.random.normal(keys.fold(key, "context"), (config.context,))
        opt = optimizer(0.0, max_grad_norm=1.0, weight_decay=0.0).init(nets)
        own = optimizer(0.0, weight_decay=0.0).init(wanted)
        return AgentState(hyper, {"nets": nets, "opt": opt, "context": wanted, "context_opt": own, "scales": scales})

    def carry(state: AgentState, count: int, context: PyTree = None) -> Memory:
        return Memory(jnp.zeros((count, steps, n)), jnp.zeros((count, steps, m)), jnp.zeros(count, jnp.int32))

    def act(state: AgentState, clock: Clock, memory: Memory, step: Step, key: Key, mode: str) -> tuple[Array, Memory, dict]:
        count = jnp.where(step.first, 0, memory.count)
        at, stream = jnp.minimum(count, steps - 1), jnp.arange(len(count))
        moved = lambda x: jnp.where((count == steps)[:, None, None], jnp.roll(x, -1, 1), x)
        obs = moved(memory.obs).at[stream, at].set(state.learned["scales"].obs(step.obs))
        before = moved(memory.action)
        z = jnp.broadcast_to(state.learned["context"], (len(count), config.context))
        mask = (jnp.arange(steps) <= at[:, None]).astype(jnp.float32)
        action = policy.apply(state.learned["nets"]["policy"], z, obs, before, mask)[stream, at]
        return action, Memory(obs, before.at[stream, at].set(action), jnp.minimum(count + 1, steps)), {}

    sampler = comparisons(compared, found, config.batch, steps)
    shared = offline.shared_parts(config, problem, updater(encoder, policy), sampler)
    return Agent("oppo", config, hyper(config), init, act, carry=carry, **{**shared, "reads": ("data", "pairs")})
