"""PPO (Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347).

::

    repeat: act for ``steps`` decisions in each stream
        A       <- generalised advantages of the rows (cut episodes bootstrapped, borders not crossed), normalised
        epochs x minibatches:
            rho <- pi(a|s) / pi_old(a|s)
            down the gradient of -min(rho A, clip(rho, 1 +- clip) A) + value_coef (V - G)^2 / 2 - entropy_coef H + beta KL
            (no further step once the mean KL from pi_old exceeds ``early_stop_kl``)
        beta    <- 1.5 beta if KL > 2 target, 0.5 beta if KL < 0.5 target, where an ``adaptive_kl_target`` is given

The policy is categorical where the action is one of several choices. Otherwise it is a Gaussian whose sample is clipped to
[-1, 1] by the environment; log-probabilities are of the raw sample, which is stored in the rows' extras. Observations are
normalised, and rewards scaled, by running statistics that see each row once, before the update on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import keys, replay
from rlx.agents.offpolicy import obs_action_dims
from rlx.config import hyper, size, traced
from rlx.envs import batch as batch_of
from rlx.nn import normalize
from rlx.nn.distributions import Categorical, Normal
from rlx.nn.mlp import ACTIVATIONS, MLP
from rlx.nn.normalize import Normalizer
from rlx.nn.optim import apply_gradients, optimizer, packing
from rlx.nn.returns import gae, running_returns
from rlx.replay import Sequences
from rlx.types import Agent, AgentState, Array, Clock, Collect, Eval, Key, Out, Problem, Row, Stage, Step, Update


@dataclass(frozen=True)
class Config:
    """Proximal policy optimisation."""

    RENAMED = {
        "max_norm": "max_grad_norm",
        "kl_goal": "adaptive_kl_target",
        "target_kl": "early_stop_kl",
        "error_bound": "value_error_clip",
    }

    env_steps: int = size(1_000_000, least=1, budget=True)  # decisions in all
    n_envs: int = size(16, least=1)  # streams side by side
    steps: int = size(128, least=1)  # decisions per stream between updates
    epochs: int = size(4, least=1)  # passes over the rows
    minibatches: int = size(8, least=1)  # parts of each pass
    eval_every: int = size(50_000, least=1)  # decisions between evaluations
    eval_episodes: int = size(10, least=1)
    hidden: tuple[int, ...] = size((64, 64), least=1)  # widths of both networks
    activation: str = "tanh"
    normalize_obs: bool = True
    normalize_reward: bool = False  # divide rewards by the standard deviation of the running discounted return
    state_std: bool = False  # the Gaussian's standard deviation depends on the observation
    value_clip: bool = False  # clip the change of values too
    max_grad_norm: float = size(0.5, above=0)
    lr: float = traced(3e-4, "Adam's step size.", least=0)
    lr_decay: float = traced(0.0, "Share of the step size that is gone at the end, linearly.", least=0, most=1)
    discount: float = traced(0.99, "Discount per decision.", least=0, most=1)
    gae_lambda: float = traced(0.95, "Lambda of the advantages.", least=0, most=1)
    clip: float = traced(0.2, "How far the probability ratio may move.", above=0)
    entropy_coef: float = traced(0.0, "Weight of the entropy bonus.")
    value_coef: float = traced(0.5, "Weight of the value loss.", least=0)
    kl_coef: float = traced(0.0, "Weight of the KL from the old policy (at the start, where it is adapted).", least=0)
    adaptive_kl_target: float = traced(0.0, "KL per update that kl_coef is adapted to; 0 leaves it.", least=0)
    early_stop_kl: float = traced(1e9, "Mean KL after which no further step is taken.", least=0)
    value_bound: float = traced(1e9, "Values are clamped to +- this.", above=0)
    value_error_clip: float = traced(1e9, "Squared value errors are clamped to this: larger ones give no gradient.", above=0)
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


TRAINED = ("actor", "critic", "log_std")  # the entries of ``learned`` that gradients move
Distribution = Normal | Categorical


@dataclass(frozen=True)
class ActorCritic:
    """The networks, and what they make of observations [..., n] with the numbers in ``learned``. Static."""

    actor: MLP
    critic: MLP
    categorical: bool
    normalize_obs: bool

    def normalized(self, learned: dict[str, Any], obs: Array) -> Array:
        return normalize.apply(learned["obs_stats"], obs) if self.normalize_obs else obs

    def policy(self, learned: dict[str, Any], obs: Array) -> Distribution:
        """At normalised observations."""
        return self.distribution(self.actor.apply(learned["actor"], obs), learned["log_std"])

    def distribution(self, out: Array, log_std: Array) -> Distribution:
        """What outputs [..., O] of the actor's network mean, beside ``log_std`` [A]. A deviation that is the same everywhere
        stays [A]: its exponentials are then computed once, and not for each row."""
        if self.categorical:
            return Categorical(out)
        if out.shape[-1] == log_std.shape[-1]:
            return Normal(out, log_std)
        mean, own = jnp.split(out, 2, -1)
        return Normal(mean, jnp.clip(own + log_std, -5.0, 1.0))

    def value(self, learned: dict[str, Any], obs: Array, bound: Array) -> Array:
        """V [...] at normalised observations, within +-``bound``."""
        return jnp.clip(self.critic.apply(learned["critic"], obs)[..., 0], -bound, bound)


class ReturnStats(NamedTuple):
    """What rewards are divided by: the standard deviation of discounted returns so far."""

    running: Array  # [n_envs], of the episodes in progress
    stats: Normalizer


class Samples(NamedTuple):
    """One decision each, [B, ...]."""

    obs: Array
    raw: Array  # the sample before clipping
    log_prob: Array  # of the old policy
    out: Array  # the outputs of its network
    value: Array
    advantage: Array
    value_target: Array  # lambda return
    weight: Array  # 1, or 0 where the row is not followed by its successor


def surrogate(log_prob: Array, old_log_prob: Array, advantage: Array, clip: Array) -> Array:
    """The clipped objective per sample (eq. 7)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def value_error(value: Array, target: Array, bound: Array, old: Array, clip: Array | None) -> Array:
    """Squared error per sample, clamped to ``bound`` (as RLlib's ``vf_clip_param`` does). With ``clip`` also that of the value
    moved by at most ``clip`` from the old one; the larger counts."""
    error = (value - target) ** 2
    if clip is not None:
        error = jnp.maximum(error, (old + jnp.clip(value - old, -clip, clip) - target) ** 2)
    return jnp.minimum(error, bound)


def kl_weight(weight: Array, kl: Array, target: Array) -> Array:
    """The next weight of the KL (section 4 of the paper, with RLlib's factors)."""
    factor = jnp.where(kl > 2 * target, 1.5, jnp.where(kl < 0.5 * target, 0.5, 1.0))
    return jnp.where(target > 0, weight * factor, weight)


def prepare(net: ActorCritic, config: Config, state: AgentState, rows: Sequences) -> tuple[Samples, Array]:
    """The decisions in rows [T + 1, W, ...] with their advantages and returns; and the mean lambda return."""
    h, learned = state.hyper, state.learned
    obs = net.normalized(learned, rows.obs)
    value = net.value(learned, obs, h["value_bound"])
    last = rows.terminated | rows.truncated
    joined = rows.valid[:-1] & rows.valid[1:] & ~last[:-1] & ~rows.first[1:]
    discount = h["discount"] * (1 - rows.terminated[1:])
    goes_on = joined & ~last[1:]
    reward = rows.reward[1:]
    if config.normalize_reward:
        reward = jnp.clip(reward / normalize.std(learned["return_stats"].stats), -10.0, 10.0)
    advantage = gae(reward, discount, value[:-1], value[1:], h["gae_lambda"], goes_on)
    weight = joined.astype(jnp.float32)
    average = lambda x: (x * weight).sum() / jnp.maximum(weight.sum(), 1.0)
    mean = average(advantage)
    std = jnp.sqrt(average((advantage - mean) ** 2))
    samples = Samples(
        obs=obs[:-1],
        raw=rows.extras["raw"][:-1],
        log_prob=rows.extras["log_prob"][:-1],
        out=net.actor.apply(learned["actor"], obs[:-1]),
        value=value[:-1],
        advantage=(advantage - mean) / (std + 1e-8),
        value_target=advantage + value[:-1],
        weight=weight,
    )
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)
    return flat, average(samples.value_target)


def loss(
    params: dict[str, Any], old: dict[str, Any], net: ActorCritic, config: Config, s: Samples, h: dict[str, Array], beta: Array
) -> tuple[Array, dict[str, Array]]:
    """``old``: what was learned when the rows were collected; ``beta``: the weight of the KL."""
    policy, before = net.policy(params, s.obs), net.distribution(s.out, old["log_std"])
    value = net.value(params, s.obs, h["value_bound"])
    average = lambda x: (x * s.weight).sum() / jnp.maximum(s.weight.sum(), 1.0)
    gain = average(surrogate(policy.log_prob(s.raw), s.log_prob, s.advantage, h["clip"]))
    error = value_error(value, s.value_target, h["value_error_clip"], s.value, h["clip"] if config.value_clip else None)
    value_loss, entropy = 0.5 * average(error), average(policy.entropy())
    kl = average(before.kl(policy))  # type: ignore[arg-type]
    total = -gain + h["value_coef"] * value_loss - h["entropy_coef"] * entropy + beta * kl
    return total, {"actor/loss": -gain, "critic/loss": value_loss, "actor/entropy": entropy, "actor/kl": kl}


def step_size(config: Config, h: dict[str, Array], clock: Clock) -> Array:
    """Adam's, of the update at ``clock``."""
    return h["lr"] * (1 - h["lr_decay"] * clock.updates / config.cycles)


def adam(config: Config, lr: Array | float) -> Any:
    """The optimiser, of packed parameters."""
    return optimizer(lr, max_grad_norm=config.max_grad_norm, eps=1e-5)


def updater(net: ActorCritic, config: Config) -> Any:
    """The update on the rows of the newest rollout: all epochs and minibatches."""
    total = config.steps * config.n_envs

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        h = state.hyper
        samples, mean_return = prepare(net, config, state, rows)
        beta = h["kl_coef"] * state.learned["kl_scale"]
        chain = adam(config, step_size(config, h, clock))
        params = {name: state.learned[name] for name in TRAINED}
        pack, unpack = packing(params)
        slope = jax.value_and_grad(loss, has_aux=True)

        def epoch(carry: tuple, k: Key) -> tuple[tuple, dict]:
            order = keys.permutation(k, total).reshape(config.minibatches, -1)
            return jax.lax.scan(minibatch, carry, jax.tree.map(lambda x: x[order], samples))

        def minibatch(carry: tuple, part: Samples) -> tuple[tuple, dict]:
            packed, opt, near = carry
            (_, metrics), grads = slope(unpack(packed), state.learned, net, config, part, h, beta)
            near = near & (metrics["actor/kl"] <= h["early_stop_kl"])
            new = apply_gradients(chain, packed, pack(grads), opt)
            packed, opt = jax.tree.map(lambda a, b: jnp.where(near, a, b), new, (packed, opt))
            return (packed, opt, near), metrics

        carry = (pack(params), state.learned["opt"], jnp.bool_(True))
        (packed, opt, _), metrics = jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))
        kl_scale = kl_weight(state.learned["kl_scale"], metrics["actor/kl"][-1].mean(), h["adaptive_kl_target"])
        metrics = {k: v.mean() for k, v in metrics.items()} | {"critic/return": mean_return}
        learned = {**state.learned, **unpack(packed), "opt": opt, "kl_scale": kl_scale}
        return state._replace(learned=learned), Out(metrics)

    return update


def observer(config: Config) -> Any:
    """The look at new rows that keeps the statistics; None where there are none to keep."""

    def observe(state: AgentState, rows: Row, key: Key) -> AgentState:
        learned = state.learned
        if config.normalize_obs:
            learned = {**learned, "obs_stats": normalize.update(learned["obs_stats"], rows.obs, rows.valid)}
        if config.normalize_reward:
            old = learned["return_stats"]
            sums = running_returns(rows.reward, rows.first, state.hyper["discount"], old.running)
            stats = normalize.update(old.stats, sums, rows.valid & ~rows.first)
            learned = {**learned, "return_stats": ReturnStats(sums[-1], stats)}
        return state._replace(learned=learned)

    return observe if config.normalize_obs or config.normalize_reward else None


def check(config: Config) -> None:
    """Raises ValueError for settings that cannot be."""
    total = config.steps * config.n_envs
    if total % config.minibatches:
        raise ValueError(f"ppo: {total} rows (steps x n_envs) do not divide into minibatches={config.minibatches}.")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"ppo: activation={config.activation!r}; there are {', '.join(ACTIVATIONS)}.")


def actor_critic(config: Config, outputs: int, categorical: bool) -> ActorCritic:
    """Networks for ``outputs`` actions or choices."""
    mlp = lambda last, scale: MLP((*config.hidden, last), config.activation, kernel_init="orthogonal", last_scale=scale)
    actor = mlp(outputs * (1 + (config.state_std and not categorical)), 0.01)
    return ActorCritic(actor, mlp(1, 1.0), categorical, config.normalize_obs)


def make(config: Config, problem: Problem) -> Agent:
    check(config)
    spec = problem.envs["train"].spec
    n, m = obs_action_dims(spec, "ppo", discrete=True)
    categorical = spec.action.choices is not None
    net = actor_critic(config, m, categorical)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        actor, critic = jax.random.split(key)
        params = {
            "actor": net.actor.init(actor, jnp.zeros(n)),
            "critic": net.critic.init(critic, jnp.zeros(n)),
            "log_std": jnp.full(0 if categorical else m, hyper["log_std"]),
        }
        rest = {
            "opt": adam(config, 0.0).init(packing(params)[0](params)),
            "obs_stats": normalize.init((n,)),
            "return_stats": ReturnStats(jnp.zeros(config.n_envs), normalize.init(())),
            "kl_scale": jnp.float32(1),
        }
        return AgentState(hyper, {**params, **rest})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        policy = net.policy(state.learned, net.normalized(state.learned, step.obs))
        bounded = lambda raw: raw if categorical else jnp.clip(raw, -1.0, 1.0)
        if mode != "explore":
            return policy.mode() if mode == "mean" else bounded(policy.mode()), carry, {}
        raw = policy.sample(key)
        return bounded(raw), carry, {"raw": raw, "log_prob": policy.log_prob(raw)}

    sampler = replay.newest(config.steps + 1, source="rollout")
    collect = Collect("train", config.steps, "rollout", observe=observer(config))
    every = max(1, config.eval_every // (config.steps * config.n_envs))
    return Agent(
        "ppo",
        config,
        hyper(config),
        init,
        act,
        (Stage("learn", config.cycles, (collect, Update(1, sampler, updater(net, config)))),),
        envs={"train": batch_of(problem.envs["train"], config.n_envs)},
        buffers={"rollout": replay.ring(config.steps + 2, config.n_envs)},
        modes=("explore", "eval") if categorical else ("explore", "eval", "mean"),
        evals=(Eval("main", problem.evaluated, config.eval_episodes, every),),
    )
