"""HERON (Bukharin et al. 2023, "Deep Reinforcement Learning from Hierarchical Preference Design", arXiv:2309.02632): PPO on a
reward that is learned, while it acts, from ranked factors.

::

    repeat: act for ``steps`` decisions in each stream
        one pass over the states that were arrived at, in ``reward_minibatches``, each state beside a random other one:
            y <- 1 where the other is preferred: the first factor decides that differs by more than its margin, of which
                 the unit is its standard deviation over these states; pairs that none decides do not count
            down the gradient of the mean of CE(y, r(state) - r(other))               Bradley and Terry's model
        reward of each state <- r(state), with mean 0 and standard deviation 1 over these states
        PPO's update on these rewards                                                  (rlx.agents.ppo)

Ranked factors say what is preferred without saying how much of one is worth how much of another (`rlx.preferences.hierarchy`
names them). The environment's reward is looked at where it is a factor, as it is by default. Comparisons leave the level and
the unit of rewards open: those above are ours, so an end that comes early is worth as much as an average state.

The authors' code for robots differs, as we read it: its advantages are of the environment's own rewards, and the learned ones
are what values are fitted to. Here, as the paper has it, the policy learns from nothing but the learned reward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rlx import keys
from rlx.agents import ppo
from rlx.config import size, traced
from rlx.nn import normalize
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer
from rlx.preferences import hierarchy
from rlx.preferences.learning import cross_entropy
from rlx.replay import Sequences
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Row, Spec, Stage, Update


@dataclass(frozen=True)
class Config(ppo.Config):
    """A reward from ranked factors, proximal policy optimisation."""

    # what decides, the most important first, one flag each, as --agent.factors=-info/energy; none: the reward
    factors: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    margins: tuple[float, ...] = size((), "from how many standard deviations on each of factors does; none: 1", least=0)
    reward_hidden: tuple[int, ...] = size((256, 256), least=1)
    reward_minibatches: int = size(32, least=1)  # parts of the pass over new states
    reward_lr: float = traced(1e-3, "Adam's step size for the reward.", least=0)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {**ppo.PRESETS["debug"], "reward_hidden": (32,), "reward_minibatches": 4},
}


class Compared(NamedTuple):
    """P pairs of states."""

    first: Array  # [P, n]
    second: Array  # [P, n]
    label: Array  # [P]: 1 where the second is preferred
    weight: Array  # [P]: 0 where nothing decides


def compared(rows: Sequences, obs: Array, factors: tuple[str, ...], margins: np.ndarray, key: Key) -> Compared:
    """Each state that was arrived at in rows [T + 1, W, ...] beside a random other one; ``obs`` [T + 1, W, n]: what of them
    the reward is told."""
    flat = lambda x: x[1:].reshape(-1, *x.shape[2:])
    there = flat(rows.valid & ~rows.first).astype(jnp.float32)
    f = jnp.stack([flat(hierarchy.channel(rows, name)) for name in factors])
    average = lambda x: (x * there).sum(1, keepdims=True) / jnp.maximum(there.sum(), 1.0)
    std = jnp.sqrt(average((f - average(f)) ** 2))[:, 0]
    count = len(there)
    other = (jnp.arange(count) + jax.random.randint(key, (count,), 1, count)) % count
    label, level = hierarchy.by_level(jnp, f[:, other] - f, jnp.float32(margins) * std)
    x = flat(obs)
    return Compared(x, x[other], label, there * there[other] * (level < len(factors)))


def loss(params: PyTree, net: MLP, pairs: Compared) -> tuple[Array, Array]:
    """The mean over pairs that count, and how many of these the reward has the right way round."""
    gap = (net.apply(params, pairs.first) - net.apply(params, pairs.second))[..., 0]
    count = jnp.maximum(pairs.weight.sum(), 1.0)
    right = (gap < 0) == (pairs.label > 0.5)
    return (pairs.weight * cross_entropy(pairs.label, gap)).sum() / count, (pairs.weight * right).sum()


def taught(
    net: MLP, params: PyTree, opt: PyTree, pairs: Compared, lr: Array, parts: int, key: Key
) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """One pass over ``pairs`` [P] in ``parts``: parameters, their optimiser's state, metrics."""

    def step(carry: tuple[PyTree, PyTree], part: Compared) -> tuple[tuple[PyTree, PyTree], tuple[Array, Array]]:
        (value, right), grads = jax.value_and_grad(loss, has_aux=True)(carry[0], net, part)
        return apply_gradients(optimizer(lr), carry[0], grads, carry[1]), (value, right)

    order = keys.permutation(key, len(pairs.label)).reshape(parts, -1)
    (params, opt), (value, right) = jax.lax.scan(step, (params, opt), jax.tree.map(lambda x: x[order], pairs))
    decided = pairs.weight.sum()
    metrics = {"reward/loss": value.mean(), "reward/right": right.sum() / jnp.maximum(decided, 1.0)}
    return params, opt, metrics | {"reward/decided": decided / len(pairs.label)}


def standardised(reward: Array, there: Array) -> Array:
    """Rewards [T + 1, W] with mean 0 and standard deviation 1 over the states that are ``there``, 0 elsewhere."""
    average = lambda x: (x * there).sum() / jnp.maximum(there.sum(), 1)
    apart = reward - average(reward)
    return jnp.where(there, apart / jnp.maximum(jnp.sqrt(average(apart**2)), 1e-6), 0.0)


def ranked(config: Config, spec: Spec) -> tuple[tuple[str, ...], np.ndarray]:
    """Factors and their margins [L]. Raises ValueError for settings that cannot be, and factors that the environment lacks."""
    factors, total = config.factors or ("reward",), config.steps * config.n_envs
    margins = hierarchy.checked(factors, config.margins)
    if total % config.reward_minibatches:
        raise ValueError(
            f"heron: {total} rows (steps x n_envs) do not divide into reward_minibatches={config.reward_minibatches}."
        )
    if config.normalize_reward:
        raise ValueError("heron: normalize_reward divides by true rewards; learned ones have a standard deviation of 1 anyway.")
    blank = jax.tree.map(lambda leaf: np.zeros((1, 1, *leaf.shape), leaf.dtype), (spec.obs, dict(spec.info)))
    none = np.zeros((1, 1), bool)
    row = Row(blank[0], np.zeros((1, 1), np.float32), none, none, none, blank[1], None, {}, none)  # type: ignore[arg-type]
    for name in factors:
        hierarchy.channel(row, name)
    return factors, margins


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    (factors, margins), player = ranked(config, spec), ppo.make(config, problem)
    n, net = ppo.obs_action_dims(spec, "heron", discrete=True)[0], MLP((*config.reward_hidden, 1))
    collect, learn = player.stages[0].phases
    assert isinstance(learn, Update)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        reward = net.init(keys.fold(key, "reward"), jnp.zeros(n))
        own = {"reward": reward, "reward_opt": optimizer(0.0).init(reward)}
        return AgentState(hyper, {**player.init(key, hyper).learned, **own})

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        old, (other, parts, rest) = state.learned, jax.random.split(key, 3)
        obs = normalize.apply(old["obs_stats"], rows.obs) if config.normalize_obs else rows.obs
        pairs = compared(rows, obs, factors, margins, other)
        lr = state.hyper["reward_lr"]
        reward, opt, metrics = taught(net, old["reward"], old["reward_opt"], pairs, lr, config.reward_minibatches, parts)
        each = standardised(net.apply(reward, obs)[..., 0], rows.valid & ~rows.first)
        state = state._replace(learned={**old, "reward": reward, "reward_opt": opt})
        state, out = learn.update(state, clock, rows._replace(reward=each), rest)
        return state, out._replace(metrics={**out.metrics, **metrics})

    stage = Stage("learn", config.cycles, (collect, Update(1, learn.sample, update)))
    return replace(player, name="heron", init=init, stages=(stage,))
