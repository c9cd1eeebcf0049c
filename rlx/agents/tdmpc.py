"""TD-MPC (Hansen, Wang and Su 2022, "Temporal Difference Learning for Model Predictive Control", arXiv:2203.04955).

::

    prefill: act at random for a few episodes, then learn as many times as there were decisions
    repeat: act by planning in the latent model for an episode (`rlx.planning.mppi`); as many times, on prioritised windows:
        model, critics  <- down the gradient of the loss of `rlx.dynamics.told_learning`
        policy          <- towards actions that the critics value, along the imagined latents
        targets         <- every second time a step of tau on;  priorities <- the sum of the critics' errors

The horizon grows from 1, and the least deviation of the search falls, over the first decisions. Of images three frames are seen
at a time, and learning shifts them at random. Presets: "paper" is the default, "pixels" its search for images; "small" has
networks and searches for a few cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents.offpolicy import action_dims, at_random
from rlx.config import hyper, size, traced
from rlx.dynamics import told_learning as learning
from rlx.dynamics.told import Sight, Told, noisy, parted, sight_of
from rlx.dynamics.told_learning import Coefs, Windows
from rlx.envs import batch
from rlx.nn.images import push_frame, random_shift
from rlx.nn.mlp import head
from rlx.nn.optim import linear
from rlx.planning import mppi
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Eval,
    Key,
    Out,
    Problem,
    PyTree,
    Spec,
    Stage,
    Step,
    Update,
)

OBSERVATIONS = "views"
MODEL = ("encoder", "dynamics", "reward", "critics")


@dataclass(frozen=True)
class TdConfig:
    """What agents share that plan in a latent model which is learned by temporal differences."""

    n_envs: int = size(1, least=1)  # streams side by side
    utd: float = size(1.0, above=0)  # updates per decision
    capacity: int = size(1_000_000, least=1)  # rows of replay
    latent: int = size(50, least=1)
    hidden: int = size(512, least=1)  # width of all networks but the encoder
    encoder_hidden: int = size(256, least=1)
    convolutions: int = size(0, least=0, most=6)  # of images; 0: as many as their size allows
    cameras: int | None = size(None, least=1)  # whose channels lie in an image one after another; None: one for each three
    proprio: str = ""  # which numbers of the vector beside images are seen, as 0:4,18:22,-3: has them; "": all
    frames: int = size(3, least=1)  # images: stacked
    pad: int | None = size(None, least=0)  # images: random shifts, by so many pixels at most; None: a 21st of a side
    horizon: int = size(5, least=1)
    delay: int = size(2, least=1)  # updates per step of the targets

    tau: float = traced(0.01, "How far targets move per step.", least=0, most=1)
    rho: float = traced(0.5, "Weight of a step in a loss, against the step before.", least=0, most=1)
    consistency_coef: float = traced(2.0, "Weight of predicted latents.", least=0)
    reward_coef: float = traced(0.5, "Weight of predicted rewards.", least=0)
    value_coef: float = traced(0.1, "Weight of values.", least=0)
    max_grad_norm: float = traced(10.0, "Norm that gradients are cut to.", above=0)
    priority_exponent: float = traced(0.6, "Of priorities, when windows are drawn.", least=0)
    importance_exponent: float = traced(0.4, "Of the weights that make up for it.", least=0)
    horizon_steps: float = traced(25_000, "Decisions until the horizon has grown.", least=1)
    temperature: float = traced(0.5, "Of the elites' weights.", least=0)
    momentum: float = traced(0.1, "Share of a search's old mean.", least=0, most=1)


@dataclass(frozen=True)
class Config(TdConfig):
    """Temporal difference learning for model predictive control."""

    env_steps: int = size(125_000, least=1, budget=True)  # decisions in all, the prefill included
    prefill: int = size(5_000, least=1)  # decisions at random before the first update
    collect: int | None = size(None, least=1)  # decisions per stream between updates; None: an episode
    batch: int = size(512, least=1)
    eval_every: int = size(5_000, least=1)  # decisions between evaluations
    eval_episodes: int = size(10, least=1)
    samples: int = size(512, least=1)  # candidates of the Gaussian
    proposals: int = size(25, least=0)  # and of the policy
    elites: int = size(64, least=1)
    iterations: int = size(6, least=1)  # of the search

    discount: float = traced(0.99, "Discount per decision.", least=0, most=1)
    lr: float = traced(1e-3, "Adam's step size.", least=0)
    std: float = traced(0.05, "Deviation of the policy's noise; least one of the search in the end.", least=0)
    std_start: float = traced(0.5, "Least deviation of the search at first.", least=0)
    std_steps: float = traced(25_000, "Decisions until it has fallen.", least=1)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        "env_steps": 600,
        "prefill": 200,
        "collect": 100,
        "utd": 0.1,
        "batch": 16,
        "latent": 8,
        "hidden": 16,
        "encoder_hidden": 16,
        "horizon": 2,
        "samples": 16,
        "proposals": 2,
        "elites": 4,
        "iterations": 2,
        "eval_every": 200,
        "eval_episodes": 2,
    },
    "small": {
        "env_steps": 25_000,
        "n_envs": 4,
        "prefill": 1_000,
        "hidden": 128,
        "encoder_hidden": 128,
        "batch": 256,
        "samples": 128,
        "proposals": 8,
        "elites": 24,
        "iterations": 4,
    },
    "paper": {},  # for tasks of DeepMind's suite from states
    "pixels": {"iterations": 8},  # and from images of 84 pixels a side
}


def kept(c: TdConfig, rows: int, once: int, name: str) -> int:
    """Rows per stream that replay keeps: ``capacity`` of them all, or as many as there will be, ``rows``. Raises ValueError
    where it does not hold those that are collected at ``once``."""
    found = min(-(-c.capacity // c.n_envs), rows)
    if found < once:
        least = once * c.n_envs
        raise ValueError(f"{name}: capacity={c.capacity} does not hold what one Collect gives; give at least {least}.")
    return found


@dataclass(frozen=True)
class Times:
    """What happens when. An episode of L decisions is L + 1 rows, and rows are what is collected."""

    first: int  # rows per stream of the prefill
    collect: int  # and per stream of each later cycle
    cycles: int
    updates: tuple[int, int]  # of the prefill, and of each later cycle
    share: float  # of the rows, that are decisions

    @staticmethod
    def of(c: Config, spec: Spec) -> Times:
        """Raises ValueError for settings that cannot be."""
        if c.prefill >= c.env_steps:
            raise ValueError(f"tdmpc: prefill={c.prefill} leaves nothing of env_steps={c.env_steps}; give fewer.")
        share = 1.0 if spec.horizon is None else spec.horizon / (spec.horizon + 1)
        collect = c.collect or (250 if spec.horizon is None else spec.horizon + 1)
        first = -(-math.ceil(c.prefill / share / c.n_envs - 1e-6) // collect)
        cycles = max(1, math.ceil(c.env_steps / (share * collect * c.n_envs) - 1e-6) - first)
        shortest = min(first * collect, spec.horizon or first * collect)
        if shortest < c.horizon:
            raise ValueError(
                f"tdmpc: windows of horizon={c.horizon} are drawn after a prefill of {shortest} decisions without a break: "
                "give a shorter horizon, a longer time limit, or more prefill."
            )
        count = lambda rows: max(1, math.ceil(rows * share * c.n_envs * c.utd - 1e-6))
        return Times(first * collect, collect, cycles, (count(first * collect), count(collect)), share)

    def acting(self, clock: Clock) -> Array:
        """Decisions before those of this cycle."""
        return jnp.asarray(clock.env_steps) * self.share

    @property
    def rows(self) -> int:
        """Per stream, that a whole run stores."""
        return self.first + self.cycles * self.collect


def horizon_at(k: Array, h: dict[str, Array], most: int) -> Array:
    """Steps that a search looks ahead at decision ``k``."""
    return jnp.floor(linear(jnp.float32(1), jnp.float32(most), k / h["horizon_steps"])).astype(jnp.int32)


def settings_at(k: Array, h: dict[str, Array]) -> mppi.Settings:
    least = linear(h["std_start"], h["std"], k / h["std_steps"])
    return mppi.Settings(h["discount"], h["temperature"], h["momentum"], least)


def imagination(net: Told, params: PyTree, std: Array) -> mppi.Imagination:
    """Plans in the latent model; a state is a latent [N, Z]."""
    pi = head(params["policies"], 0)
    critics = head(params["critics"], 0)

    def step(z: Array, action: Array, key: Key) -> tuple[Array, Array]:
        return net.move(params["dynamics"], z, action), net.rewards(params["reward"], z, action)

    def policy(z: Array, key: Key) -> Array:
        return noisy(net.act(pi, z), std, key)

    return mppi.Imagination(step, lambda z, key: net.values(critics, z, policy(z, key)).min(0, keepdims=True), policy)


class Carry(NamedTuple):
    """What streams take along."""

    mean: Array  # [W, H, A], where searches begin
    frames: dict[str, Array]  # images, stacked


@dataclass(frozen=True)
class Looks:
    """How agents that plan in a latent model look at observations: at images several frames at a time, which are shifted at
    random while learning."""

    config: TdConfig
    sight: Sight
    net: Told
    spec: Spec

    @property
    def frames(self) -> int:
        """Of images, that networks see."""
        return self.config.frames if self.sight.images else 1

    def nothing(self, *lead: int) -> PyTree:
        """An observation [*lead, ...] as replay gives them, with all frames, of zeros."""
        shape = lambda leaf: (*lead, *leaf.shape[:-1], self.frames * leaf.shape[-1])
        return jax.tree.map(lambda leaf: jnp.zeros(shape(leaf), leaf.dtype), self.spec.obs)

    def carry(self, state: AgentState, n: int, context: PyTree = None) -> Carry:
        frames = parted(self.sight(self.nothing(n), self.frames), self.sight.views)[0] if self.frames > 1 else {}
        return Carry(jnp.zeros((n, self.config.horizon, *self.spec.action.shape)), frames)

    def stacked(self, carry: Carry, step: Step) -> tuple[PyTree, Carry]:
        """The observation with the last frames of its images, and the carry that holds them."""
        obs = self.sight(step.obs)
        if not carry.frames:
            return obs, carry
        images = parted(obs, self.sight.views)[0]
        frames = {k: push_frame(jnp.asarray(x), images[k], step.first) for k, x in carry.frames.items()}
        return ({**obs, **frames} if isinstance(obs, dict) else frames[""]), carry._replace(frames=frames)

    def looked(self, obs: PyTree, key: Key) -> PyTree:
        """Observations of rows [T, B, ...] as networks take them: images shifted, each by a draw of its own."""
        views, obs = self.sight.views, self.sight(obs, self.frames)

        def image(x: Array, key: Key) -> Array:
            pad = min(x.shape[-3:-1]) // 21 if self.config.pad is None else self.config.pad
            return random_shift(key, x.reshape(-1, *x.shape[-3:]), pad).reshape(x.shape)

        if not isinstance(obs, dict):
            return image(obs, key) if views else obs
        keys = dict(zip(views, jax.random.split(key, max(len(views), 1)), strict=False))
        return {k: image(x, keys[k]) if k in views else x for k, x in obs.items()}


@dataclass(frozen=True)
class Method(Looks):
    """The functions of the agent."""

    config: Config
    sizes: mppi.Search
    times: Times

    @staticmethod
    def of(c: Config, spec: Spec) -> Method:
        """Raises ValueError for settings, observations or actions that cannot be."""
        sight, convolutions = sight_of(spec, "tdmpc", c.convolutions, c.cameras, c.proprio)
        m = action_dims(spec.action, "tdmpc")
        net = Told.of(m, c.latent, c.hidden, c.encoder_hidden, sight.views, convolutions)
        sizes = mppi.Search(c.horizon, c.samples, c.proposals, c.elites, c.iterations)
        return Method(c, sight, net, spec, sizes, Times.of(c, spec))

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        params = self.net.init(key, self.sight(self.nothing(), self.frames))
        opts = learning.model_optimizers(params, MODEL)
        target = jax.tree.map(jnp.copy, {k: params[k] for k in ("encoder", "critics")})
        opt = {**opts, "policies": learning.policy_optimizers(params["policies"])}
        return AgentState(h, {"params": params, "target": target, "opt": opt})

    def act(self, state: AgentState, clock: Clock, carry: Carry, step: Step, key: Key, mode: str) -> tuple[Array, Carry, dict]:
        obs, carry = self.stacked(carry, step)
        if mode == "random":
            return at_random(key, step, *self.spec.action.shape), carry, {}
        h, params, k = state.hyper, state.learned["params"], self.times.acting(clock)
        imagine, settings = imagination(self.net, params, h["std"]), settings_at(k, h)
        z = self.net.encode(params["encoder"], obs)
        mean = jnp.where(jnp.asarray(step.first)[:, None, None], 0.0, carry.mean)
        ahead, noise = horizon_at(k, h, self.config.horizon), jnp.float32(mode == "explore")
        one = lambda z, mean, key: mppi.search(imagine, self.sizes, settings, z, mean, ahead, noise, key)
        plan = jax.vmap(one)(z, mean, jax.random.split(key, z.shape[0]))
        return plan.action, carry._replace(mean=jax.vmap(mppi.shifted)(plan.mean)), {}

    def update(self, state: AgentState, clock: Clock, drawn: replay.Sequences, key: Key) -> tuple[AgentState, Out]:
        h, old, coefs = state.hyper, state.learned, Coefs.of(state.hyper)
        k_model, k_policy = jax.random.split(key)
        looked = self.looked(drawn.obs, jax.random.fold_in(key, 2))  # without images as if there were no third key
        windows = Windows.of(drawn._replace(obs=looked), self.config.horizon)
        rates = h["lr"], h["max_grad_norm"]
        params, opt, aux = learning.learn_model(
            self.net, old["params"], old["opt"], None, old["target"], windows, coefs, *rates, k_model
        )
        policies, policy_opt, each = learning.learn_policies(
            self.net, params, opt["policies"], aux.latents, coefs, *rates, k_policy
        )
        params = {**params, "policies": policies}
        target = learning.move_target(old["target"], params, clock.updates % self.config.delay == 0, h["tau"])
        learned = {"params": params, "target": target, "opt": {**opt, "policies": policy_opt}}
        return state._replace(learned=learned), Out(aux.metrics | {"actor/loss": each.mean()}, aux.priority)


def make(config: Config, problem: Problem) -> Agent:
    env = problem.envs["train"]
    method = Method.of(config, env.spec)
    times = method.times
    sampler = replay.sequences(config.batch, config.horizon + 1, priorities=True, stack=method.frames)
    updates = [Update(n, sampler, method.update, priorities_of="replay") for n in times.updates]
    first = Stage("prefill", 1, (Collect("train", times.first, "replay", mode="random"), updates[0]))
    learn = Stage("learn", times.cycles, (Collect("train", times.collect, "replay"), updates[1]))
    rows = kept(config, times.rows, max(times.first, times.collect), "tdmpc")
    every = max(1, round(config.eval_every / (times.collect * times.share * config.n_envs)))
    return Agent(
        "tdmpc",
        config,
        hyper(config),
        method.init,
        method.act,
        (first, learn),
        {"train": batch(env, config.n_envs)},
        {"replay": replay.ring(rows + 1, config.n_envs, priorities=True, ends=config.horizon)},
        carry=method.carry,
        evals=(Eval("main", problem.evaluated, config.eval_episodes, every, stages=("learn",)),),
        modes=("explore", "eval", "random"),
    )
