"""PPO (Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347).

::

    repeat: act for ``steps`` decisions in each stream
        A       <- generalised advantages of the rows (cut episodes bootstrapped, borders not crossed), normalised
        epochs x minibatches:
            rho <- pi(a|s) / pi_old(a|s)
            down the gradient of -min(rho A, clip(rho, 1 +- clip) A) + value_coef (V - G)^2 / 2 - entropy_coef H + beta KL
            (no further step once the mean KL from pi_old exceeds ``target_kl``)
        beta    <- 1.5 beta if KL > 2 kl_goal, 0.5 beta if KL < 0.5 kl_goal, where a kl_goal is given

The policy is a Gaussian whose sample is clipped to [-1, 1] by the environment; log-probabilities are of the raw sample, which
is stored in the rows' extras. Observations are normalised, and rewards scaled, by running statistics that see each row once,
before the update on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.offpolicy import vector
from rlx.config import hyper, traced
from rlx.envs import batch as batch_of
from rlx.nn import mlp, normalize
from rlx.nn.distributions import normal_entropy, normal_kl, normal_log_prob
from rlx.nn.optim import adam, adam_init, packing
from rlx.nn.returns import gae, running_returns
from rlx.replay import Sequences
from rlx.types import Agent, AgentState, Array, Clock, Collect, Eval, Key, Out, Problem, Row, Stage, Step, Update


@dataclass(frozen=True)
class Config:
    """Proximal policy optimisation."""

    env_steps: int = 1_000_000  # decisions in all
    n_envs: int = 16  # streams side by side
    steps: int = 128  # decisions per stream between updates
    epochs: int = 4  # passes over the rows
    minibatches: int = 8  # parts of each pass
    eval_every: int = 50_000  # decisions between evaluations
    eval_episodes: int = 10
    hidden: tuple[int, ...] = (64, 64)  # widths of both networks
    activation: str = "tanh"
    normalize_obs: bool = True
    normalize_reward: bool = False  # divide rewards by the standard deviation of the running discounted return
    state_std: bool = False  # the policy's standard deviation depends on the observation
    value_clip: bool = False  # clip the change of values too
    max_norm: float = 0.5  # of gradients
    lr: float = traced(3e-4, "Adam's step size.")
    lr_decay: float = traced(0.0, "Share of the step size that is gone at the end, linearly.")
    discount: float = traced(0.99, "Discount per decision.")
    gae_lambda: float = traced(0.95, "Lambda of the advantages.")
    clip: float = traced(0.2, "How far the probability ratio may move.")
    entropy_coef: float = traced(0.0, "Weight of the entropy bonus.")
    value_coef: float = traced(0.5, "Weight of the value loss.")
    kl_coef: float = traced(0.0, "Weight of the KL from the old policy (at the start, where there is a kl_goal).")
    kl_goal: float = traced(0.0, "KL per update that its weight is adapted to; 0 leaves the weight.")
    target_kl: float = traced(1e9, "Mean KL after which no further step is taken.")
    value_bound: float = traced(1e9, "Values are clamped to +- this.")
    error_bound: float = traced(1e9, "Squared value errors are clamped to this: larger ones give no gradient.")
    log_std: float = traced(-0.5, "Initial log standard deviation.")

    @property
    def cycles(self) -> int:
        """Rounds of collecting and updating, rounded up."""
        return -(-self.env_steps // (self.n_envs * self.steps))


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        "env_steps": 1_024,
        "n_envs": 4,
        "steps": 64,
        "minibatches": 2,
        "eval_every": 512,
        "eval_episodes": 2,
        "hidden": (32,),
    }
}


MOST_PACKED = 2**18  # rows whose index leaves 14 random bits of 32


class Samples(NamedTuple):
    """One decision each, [B, ...]."""

    obs: Array
    raw: Array  # the sample before clipping
    log_prob: Array  # of the old policy
    mean: Array
    log_std: Array
    value: Array
    advantage: Array
    goal: Array  # lambda return
    weight: Array  # 1, or 0 where the row is not followed by its successor


def surrogate(log_prob: Array, old_log_prob: Array, advantage: Array, clip: Array) -> Array:
    """The clipped objective per sample (eq. 7)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def value_error(value: Array, goal: Array, bound: Array, old: Array, clip: Array | None) -> Array:
    """Squared error per sample, clamped to ``bound`` (as RLlib's ``vf_clip_param`` does). With ``clip`` also that of the value
    moved by at most ``clip`` from the old one; the larger counts."""
    error = (value - goal) ** 2
    if clip is not None:
        error = jnp.maximum(error, (old + jnp.clip(value - old, -clip, clip) - goal) ** 2)
    return jnp.minimum(error, bound)


def kl_weight(weight: Array, kl: Array, goal: Array) -> Array:
    """The next weight of the KL (section 4 of the paper, with RLlib's factors)."""
    factor = jnp.where(kl > 2 * goal, 1.5, jnp.where(kl < 0.5 * goal, 0.5, 1.0))
    return jnp.where(goal > 0, weight * factor, weight)


def shuffled(key: Key, n: int) -> Array:
    """The numbers below ``n`` in random order: one sort of random numbers whose low bits are the index, on CPUs several times
    as quick as `jax.random.permutation`. Of two with the same high bits the lower comes first, which minibatches do not notice.
    """
    if n > MOST_PACKED:
        return jax.random.permutation(key, n)
    low = np.uint32((1 << (n - 1).bit_length()) - 1)
    mixed = jax.random.bits(key, (n,)) & ~low | jnp.arange(n, dtype=jnp.uint32)
    return (jnp.sort(mixed) & low).astype(jnp.int32)


def make(config: Config, problem: Problem) -> Agent:
    spec = problem.envs["train"].spec
    n, m = vector(spec, "ppo")
    for field in ("env_steps", "n_envs", "steps", "epochs", "minibatches", "eval_every", "eval_episodes"):
        if getattr(config, field) < 1:
            raise ValueError(f"ppo: {field} must be at least 1, got {getattr(config, field)}.")
    total = config.steps * config.n_envs
    if total % config.minibatches:
        raise ValueError(f"ppo: {total} rows (steps x n_envs) do not divide into minibatches={config.minibatches}.")
    if config.activation not in mlp.ACTIVATIONS:
        raise ValueError(f"ppo: activation={config.activation!r}; there are {', '.join(mlp.ACTIVATIONS)}.")

    def see(learned: dict[str, Any], obs: Array) -> Array:
        return normalize.apply(learned["seen"], obs) if config.normalize_obs else obs

    def distribution(learned: dict[str, Any], obs: Array) -> tuple[Array, Array]:
        out = mlp.apply(learned["actor"], obs, config.activation)
        if not config.state_std:
            return out, jnp.broadcast_to(learned["log_std"], out.shape)
        mean, log_std = jnp.split(out, 2, -1)
        return mean, jnp.clip(log_std + learned["log_std"], -5.0, 1.0)

    def value_of(learned: dict[str, Any], obs: Array, bound: Array) -> Array:
        return jnp.clip(mlp.apply(learned["critic"], obs, config.activation)[..., 0], -bound, bound)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        k = jax.random.split(key)
        nets = {
            "actor": mlp.init(k[0], (n, *config.hidden, m * (1 + config.state_std)), last_scale=0.01, orthogonal=True),
            "critic": mlp.init(k[1], (n, *config.hidden, 1), orthogonal=True),
            "log_std": jnp.full(m, hyper["log_std"]),
        }
        paid = {"so_far": jnp.zeros(config.n_envs), "seen": normalize.init(())}
        rest = {"opt": adam_init(nets), "seen": normalize.init((n,)), "paid": paid, "kl_scale": jnp.float32(1)}
        return AgentState(hyper, {**nets, **rest})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        mean, log_std = distribution(state.learned, see(state.learned, step.obs))
        if mode != "explore":
            return mean if mode == "mean" else jnp.clip(mean, -1.0, 1.0), carry, {}
        raw = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        return jnp.clip(raw, -1.0, 1.0), carry, {"raw": raw, "log_prob": normal_log_prob(raw, mean, log_std)}

    def observe(state: AgentState, rows: Row, key: Key) -> AgentState:
        """The statistics take in what was collected; the old policy's log-probabilities are those that it acted with."""
        learned = state.learned
        if config.normalize_obs:
            learned = {**learned, "seen": normalize.update(learned["seen"], rows.obs, rows.valid)}
        if config.normalize_reward:
            sums = running_returns(rows.reward, rows.first, state.hyper["discount"], learned["paid"]["so_far"])
            seen = normalize.update(learned["paid"]["seen"], sums, rows.valid & ~rows.first)
            learned = {**learned, "paid": {"so_far": sums[-1], "seen": seen}}
        return state._replace(learned=learned)

    def prepare(state: AgentState, rows: Sequences) -> tuple[Samples, Array]:
        """Advantages and returns of the rows [T + 1, W, ...]; and the mean lambda return."""
        h, learned = state.hyper, state.learned
        obs = see(learned, rows.obs)
        value = value_of(learned, obs, h["value_bound"])
        last = rows.terminated | rows.truncated
        joined = rows.valid[:-1] & rows.valid[1:] & ~last[:-1] & ~rows.first[1:]
        discount = h["discount"] * (1 - rows.terminated[1:])
        goes_on = joined & ~last[1:]
        reward = rows.reward[1:]
        if config.normalize_reward:
            reward = jnp.clip(reward / normalize.std(learned["paid"]["seen"]), -10.0, 10.0)
        advantage = gae(reward, discount, value[:-1], value[1:], h["gae_lambda"], goes_on)
        mean, log_std = distribution(learned, obs[:-1])
        weight = joined.astype(jnp.float32)
        count = jnp.maximum(weight.sum(), 1.0)
        centre = (advantage * weight).sum() / count
        spread = jnp.sqrt((((advantage - centre) ** 2) * weight).sum() / count)
        samples = Samples(
            obs=obs[:-1],
            raw=rows.extras["raw"][:-1],
            log_prob=rows.extras["log_prob"][:-1],
            mean=mean,
            log_std=log_std,
            value=value[:-1],
            advantage=(advantage - centre) / (spread + 1e-8),
            goal=advantage + value[:-1],
            weight=weight,
        )
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)
        return flat, (samples.goal * weight).sum() / count

    def loss(nets: dict[str, Any], s: Samples, h: dict[str, Array], beta: Array) -> tuple[Array, dict[str, Array]]:
        mean, log_std = distribution(nets, s.obs)
        value = value_of(nets, s.obs, h["value_bound"])
        average = lambda x: (x * s.weight).sum() / jnp.maximum(s.weight.sum(), 1.0)
        gain = average(surrogate(normal_log_prob(s.raw, mean, log_std), s.log_prob, s.advantage, h["clip"]))
        error = value_error(value, s.goal, h["error_bound"], s.value, h["clip"] if config.value_clip else None)
        fit, entropy = 0.5 * average(error), average(normal_entropy(log_std))
        kl = average(normal_kl(s.mean, s.log_std, mean, log_std))
        total = -gain + h["value_coef"] * fit - h["entropy_coef"] * entropy + beta * kl
        return total, {"actor/loss": -gain, "critic/loss": fit, "actor/entropy": entropy, "actor/kl": kl}

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        h = state.hyper
        samples, goal = prepare(state, rows)
        beta = h["kl_coef"] * state.learned["kl_scale"]
        lr = h["lr"] * (1 - h["lr_decay"] * clock.updates / config.cycles)
        size = total // config.minibatches
        nets = {name: state.learned[name] for name in ("actor", "critic", "log_std")}
        pack, unpack = packing(nets)

        def epoch(carry: tuple, k: Key) -> tuple[tuple, dict]:
            order = shuffled(k, total).reshape(config.minibatches, size)
            return jax.lax.scan(minibatch, carry, jax.tree.map(lambda x: x[order], samples))

        def minibatch(carry: tuple, part: Samples) -> tuple[tuple, dict]:
            packed, opt, near = carry
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(unpack(packed), part, h, beta)
            near = near & (metrics["actor/kl"] <= h["target_kl"])
            new = adam(packed, pack(grads), opt, lr, eps=1e-5, max_norm=config.max_norm)
            packed, opt = jax.tree.map(lambda a, b: jnp.where(near, a, b), new, (packed, opt))
            return (packed, opt, near), metrics

        opt = state.learned["opt"]
        carry = (pack(nets), opt._replace(mu=pack(opt.mu), nu=pack(opt.nu)), jnp.bool_(True))
        (packed, opt, _), metrics = jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))
        new = {**unpack(packed), "opt": opt._replace(mu=unpack(opt.mu), nu=unpack(opt.nu))}
        kl_scale = kl_weight(state.learned["kl_scale"], metrics["actor/kl"][-1].mean(), h["kl_goal"])
        metrics = {k: v.mean() for k, v in metrics.items()} | {"critic/return": goal}
        return state._replace(learned={**state.learned, **new, "kl_scale": kl_scale}), Out(metrics)

    sampler = replay.newest(config.steps + 1, source="rollout")
    learn = Stage("learn", config.cycles, (
        Collect("train", config.steps, "rollout", observe=observe if config.normalize_obs or config.normalize_reward else None),
        Update(1, sampler, update),
    ))  # fmt: skip
    which = "eval" if "eval" in problem.envs else "train"
    every = max(1, config.eval_every // total)
    return Agent(
        "ppo",
        config,
        hyper(config),
        init,
        act,
        (learn,),
        envs={"train": batch_of(problem.envs["train"], config.n_envs)},
        buffers={"rollout": replay.ring(config.steps + 2, config.n_envs)},
        modes=("explore", "eval", "mean"),
        evals=(Eval("main", which, config.eval_episodes, every),),
    )
