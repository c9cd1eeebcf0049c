"""The agent ``repo_adapt``: RePo in a world that looks another way than the one that it has learned in. Its encoder alone is
adapted, by `rlx.agents.repo.adapt`, and without rewards; world model, actor and value stay as they are.

::

    calibrate: act for a while by what the source's encoder sees of the picture without distractor; both pictures are kept
    repeat:    act by the encoder of here; as many times, on windows of the source's rows, of what is seen here, and of pairs:
        critic, encoder, weights of the source  <-  a step of the alignment, with the calibration's cost for the encoder

It begins with what a run of RePo has learned (``--init-from``), with the same networks (``--agent.repo...``). The environment
shows each picture with and without distractor (``paired=true``); ``--data`` are rows of the world as it was, shown so too.
Calibration "pair" compares what follows: a model of the action between two states, which is learned on the source's rows first,
finds it between a state without distractor and the next one with it. ``how="finetune"`` is the baseline that has rewards: the
encoder learns on with the model's own loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.repo import config as repo_config
from rlx.agents.repo import losses, world
from rlx.agents.repo.adapt import Alignment, Frames, Kind, State, calibration
from rlx.agents.repo.method import Carry, Method
from rlx.agents.repo.networks import PIXELS, Net
from rlx.config import compose, hyper, size, traced
from rlx.dynamics.rssm import Filtered, gaussian
from rlx.envs import batch as batch_of
from rlx.envs.observations import described
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Sequences
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Eval,
    Host,
    Key,
    Leaf,
    Out,
    Problem,
    PyTree,
    Sampler,
    Spec,
    Stage,
    Step,
    Update,
)

OBSERVATIONS = "any"
CLEAN = "clean"  # the picture without distractor, in observations of paired environments
MIN_STD = 0.1  # of actions, as the model of what led to a state says them


@dataclass(frozen=True)
class Config:
    """Test-time adaptation of RePo (Zhu et al. 2023, section 4.3). Baselines are settings: `how`, `calibration`."""

    repo: repo_config.Config = field(default_factory=repo_config.Config)  # as the run has it that --init-from names
    how: Literal["support", "distribution", "none", "finetune"] = "support"  # finetune: by rewards, instead of all else
    calibration: Literal["simple", "pair", "none"] = "simple"
    calibrate_by: Literal["expert", "random"] = "expert"  # whose states the pairs are

    env_steps: int = size(50_000, least=1, budget=True)  # decisions in the world as it looks now, pairs not counted
    n_envs: int = size(1, least=1)  # streams side by side
    pairs: int = size(5_000, least=1)  # decisions with pictures of both kinds
    collect: int = size(500, least=1)  # decisions per stream between updates
    updates: int = size(100, least=1)  # after each collection
    batch: int = size(50, least=1)  # windows
    chunk: int = size(50, least=3)  # rows of a window
    capacity: int = size(50_000, least=1)  # rows of what is seen now
    head_updates: int = size(5_000, least=1)  # calibration=pair: of the model of actions
    hidden: int = size(256, least=1)  # width of the critic and of the weights
    latent: int = size(64, least=1)  # what the critic sees through
    head_hidden: int = size(512, least=1)  # of the model of actions
    eval_every: int = size(5_000, least=1)  # decisions between evaluations
    eval_episodes: int = size(10, least=1)  # of each evaluation

    encoder_lr: float = traced(3e-4, "Adam's step size for the encoder.", least=0)
    critic_lr: float = traced(3e-4, "Adam's step size for the critic.", least=0)
    critic_kl: float = traced(0.1, "Bound of what the critic sees, nats.", least=0)
    init_price: float = traced(0.1, "Price of what it sees above that, at the start.", least=0)
    price_lr: float = traced(5e-3, "Step size of that price.", least=0)
    penalty: float = traced(1.0, "Weight of the critic's squared slopes.", least=0)
    weight_lr: float = traced(5e-5, "how=support: Adam's step size for the weights of the source.", least=0)
    multiplier_lr: float = traced(5e-3, "how=support: Adam's step size for the multiplier of their mean.", least=0)
    init_multiplier: float = traced(1e-4, "how=support: that multiplier at the start.")
    align: float = traced(1.0, "Weight of the alignment.", least=0)
    calibrate: float = traced(1.0, "Weight of the calibration.", least=0)
    dynamics: float = traced(1.0, "calibration=pair: weight of actions found between two states of here.", least=0)
    head_lr: float = traced(3e-4, "calibration=pair: Adam's step size for the model of actions.", least=0)


PRESETS = compose(
    {
        "debug": {
            "env_steps": 200,
            "pairs": 100,
            "collect": 25,
            "updates": 2,
            "batch": 4,
            "chunk": 6,
            "head_updates": 4,
            "hidden": 16,
            "latent": 4,
            "head_hidden": 16,
            "eval_every": 100,
            "eval_episodes": 2,
        },
        "tiny": {
            "env_steps": 4_000,
            "n_envs": 4,
            "pairs": 1_000,
            "collect": 25,
            "updates": 40,
            "batch": 16,
            "chunk": 20,
            "hidden": 64,
            "latent": 16,
            "head_hidden": 64,
            "eval_every": 1_000,
        },
    },
    repo=repo_config.PRESETS,
)


def inverse_loss(head: Any, params: PyTree, before: Filtered, after: Filtered, w: world.Window) -> Array:
    """Minus the log-likelihood of each action given where it was taken (``before``, features) and where it led (``after``, the
    belief), over steps [T, B] within an episode. The two are the same latents, or those of the same steps as seen otherwise."""
    inputs = jnp.concatenate([before.latent.features[:-1], after.latent.belief[1:]], -1)
    found = -gaussian(head.apply(params, inputs), MIN_STD).log_prob(w.action[1:])
    return jnp.where(w.joined[1:], found, 0).sum() / jnp.maximum(w.joined[1:].sum(), 1)


@dataclass(frozen=True)
class Adapting:
    """The functions of the agent. ``learned`` begins as that of RePo; while adapting it has ``source``, the encoder as it was,
    and ``adapt``; with pairs ``head``."""

    config: Config
    method: Method

    @property
    def net(self) -> Net:
        return self.method.net

    @cached_property
    def alignment(self) -> Alignment:
        c = self.config
        kind: Kind | None = c.how if c.how in ("support", "distribution") else None  # type: ignore[assignment]
        embed = lambda params, obs: self.net.embed({"encoder": params}, obs)
        return Alignment(embed, kind, c.repo.embedding, c.hidden, c.latent)

    @cached_property
    def head(self) -> MLP:
        return MLP((*[self.config.head_hidden] * 3, 2 * self.net.actions), "elu", bias_init="fan_in")

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        return AgentState(h, self.method.init(key, of_repo(h)).learned)

    def act(self, state: AgentState, clock: Clock, carry: Carry, step: Step, key: Key, mode: str) -> tuple[Array, Carry, dict]:
        """``source``: by the picture without distractor, as in an evaluation. Only before the encoder is adapted."""
        if mode == "source":
            mode, step = "eval", step._replace(obs={PIXELS: step.obs[CLEAN]})
        return self.method.act(state._replace(hyper=of_repo(state.hyper)), clock, carry, step, key, mode)

    # --------------------------------------------------------------------------------------------------------- stages

    def begin_head(self, state: AgentState, sources: Any, key: Key) -> AgentState:
        c = self.config.repo
        params = self.head.init(key, jnp.zeros(2 * c.belief + c.state))
        opt = optimizer(state.hyper["head_lr"]).init(params)
        return state._replace(learned={**state.learned, "head": params, "head_opt": opt})

    def learn_head(self, state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        old, w = state.learned, world.window(self.net, rows)
        latents = self.latents(old["params"], old["params"]["encoder"], w, key)
        loss, slopes = jax.value_and_grad(lambda p: inverse_loss(self.head, p, latents, latents, w))(old["head"])
        new, opt = apply_gradients(optimizer(state.hyper["head_lr"]), old["head"], slopes, old["head_opt"])
        return state._replace(learned={**old, "head": new, "head_opt": opt}), Out({"head/loss": loss})

    def begin(self, state: AgentState, sources: Any, key: Key) -> AgentState:
        encoder = state.learned["params"]["encoder"]
        copy = jax.tree.map(jnp.copy, encoder)
        return state._replace(
            learned={**state.learned, "source": copy, "adapt": self.alignment.init(key, encoder, state.hyper)}
        )

    # ------------------------------------------------------------------------------------------------------- learning

    def latents(self, params: PyTree, encoder: PyTree, w: world.Window, key: Key) -> Filtered:
        noise = jax.random.normal(key, (*w.reward.shape, self.config.repo.state))
        return self.net.rssm.filter(params["rssm"], self.alignment.embed(encoder, w.obs), w.action, w.joined, noise)

    def update(self, state: AgentState, clock: Clock, batch: dict[str, Sequences], key: Key) -> tuple[AgentState, Out]:
        h, old, k = state.hyper, state.learned, jax.random.split(key)
        adapt: State = old["adapt"]
        frames = Frames(*(self._frames(batch[name].obs) if name in batch else () for name in ("source", "target")))
        adapt, metrics = self.alignment.step(adapt, old["source"], frames, self.cost(state, batch, k[0]), h, k[1])
        params = {**old["params"], "encoder": adapt.encoder}
        return state._replace(learned={**old, "params": params, "adapt": adapt}), Out(metrics)

    def _frames(self, obs: PyTree) -> Array:
        return self.net.see(obs, 2).reshape(-1, *self.net.leaf.shape)

    def cost(self, state: AgentState, batch: dict[str, Sequences], key: Key) -> Callable[[PyTree], Array]:
        """What calibration costs the parameters of an encoder."""
        h, old, k, how = state.hyper, state.learned, jax.random.split(key, 3), self.config.calibration
        if how == "none":
            return lambda encoder: jnp.float32(0)
        clean, here = ({PIXELS: batch["pairs"].obs[name]} for name in (CLEAN, PIXELS))
        if how == "simple":
            wanted = jax.lax.stop_gradient(self.alignment.embed(old["source"], self._frames(clean)))
            return lambda encoder: h["calibrate"] * calibration(wanted, self.alignment.embed(encoder, self._frames(here)))
        p, target = old["params"], world.window(self.net, batch["target"])
        without, w = (world.window(self.net, batch["pairs"]._replace(obs=obs)) for obs in (clean, here))
        before = jax.lax.stop_gradient(self.latents(p, old["source"], without, k[0]))

        def pair(encoder: PyTree) -> Array:
            own = self.latents(p, encoder, target, k[1])
            after = self.latents(p, encoder, w, k[2])
            found = inverse_loss(self.head, old["head"], own, own, target)
            return h["dynamics"] * found + h["calibrate"] * inverse_loss(self.head, old["head"], before, after, w)

        return pair

    def finetune(self, state: AgentState, clock: Clock, batch: dict[str, Sequences], key: Key) -> tuple[AgentState, Out]:
        """The model's loss with the whole divergence, of the encoder alone, and the multiplier of its bound."""
        h, old, w = of_repo(state.hyper), state.learned, world.window(self.net, batch["target"])
        adapt, p, beta = old["adapt"], old["params"], self.method.beta(state._replace(hyper=h))

        def loss(encoder: PyTree) -> tuple[Array, tuple[Array, Array]]:
            filtered = self.latents(p, encoder, w, key)
            errors = losses.nll(self.net.head(p, "reward", filtered.latent.features), w.reward)
            reward, kl = losses.masked_mean(errors, w.joined), filtered.posterior.kl(filtered.prior).mean()
            return reward + beta * (kl - h["target_kl"]), (reward, kl)

        slopes, (reward, kl) = jax.grad(loss, has_aux=True)(adapt.encoder)
        encoder, opt = apply_gradients(optimizer(state.hyper["encoder_lr"]), adapt.encoder, slopes, adapt.opt["encoder"])
        adapt = adapt._replace(encoder=encoder, opt={**adapt.opt, "encoder": opt})
        log_beta, dual = world.dual_step(old["log_beta"], old["opt"]["dual"], kl - h["target_kl"], h)
        learned = {**old, "params": {**p, "encoder": encoder}, "adapt": adapt, "log_beta": log_beta}
        learned["opt"] = {**old["opt"], "dual": dual}
        metrics = {"encoder/reward_loss": reward, "encoder/kl": kl, "dual/beta": beta}
        return state._replace(learned=learned), Out(metrics)


def of_repo(h: dict[str, Array]) -> dict[str, Array]:
    """The traced values of RePo among those of the agent."""
    return {name.removeprefix("repo."): value for name, value in h.items() if name.startswith("repo.")}


# ---------------------------------------------------------------------------------------------------------------- the plan


def trained(state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
    """Raises ValueError where nothing was learned before: random weights would be adapted without a word."""
    if not np.asarray(state.learned["told"]["updates"]).all():
        raise ValueError("repo_adapt goes on with what RePo has learned: give its run folder by --init-from.")
    return state, {}


def stages(adapting: Adapting) -> tuple[Stage, ...]:
    c = adapting.config
    window = lambda source: replay.sequences(c.batch, c.chunk, cross=True, source=source)
    pairs = -(-c.pairs // c.n_envs)
    cycles = -(-c.env_steps // (c.collect * c.n_envs))
    found = [Stage("check", 1, (Host(trained),))]
    if c.how == "finetune":
        learn = Update(c.updates, replay.beside(target=window("replay")), adapting.finetune)
        return *found, Stage("adapt", cycles, (Collect("train", c.collect, "replay"), learn), enter=adapting.begin)
    target = window("replay")
    if calibrates(c):
        mode = "source" if c.calibrate_by == "expert" else "random"
        found += [Stage("calibrate", 1, (Collect("train", pairs, "pairs", mode=mode),))]

        def share(hyper: dict[str, Array], clock: Clock) -> Array:  # of pairs among all that was seen here
            return pairs / (pairs + jnp.minimum(c.collect * (clock.cycle + 1), rows(c)))

        target = replay.mix((window("pairs"), target), share)
    if c.calibration == "pair":
        learn = Update(c.head_updates, window("data"), adapting.learn_head)
        found += [Stage("head", 1, (learn,), enter=adapting.begin_head)]
    samplers: dict[str, Sampler] = {"target": target} if c.how != "none" or c.calibration == "pair" else {}
    samplers |= {"source": window("data")} if c.how != "none" else {}
    samplers |= {"pairs": window("pairs")} if calibrates(c) else {}
    phases = Collect("train", c.collect, "replay"), Update(c.updates, replay.beside(**samplers), adapting.update)
    return *found, Stage("adapt", cycles, phases, enter=adapting.begin)


def calibrates(c: Config) -> bool:
    """Pairs of pictures are collected."""
    return c.how != "finetune" and c.calibration != "none"


def rows(c: Config) -> int:
    """Of each stream, kept of what is seen while adapting."""
    return min(-(-c.capacity // c.n_envs), -(-c.env_steps // (c.collect * c.n_envs)) * c.collect)


def _check(c: Config, problem: Problem, spec: Spec) -> None:
    obs, needs = spec.obs, []
    if c.how == c.calibration == "none":
        raise ValueError("repo_adapt: how='none' and calibration='none' leave nothing to do.")
    if c.collect < c.chunk:
        raise ValueError(f"repo_adapt: windows are of chunk={c.chunk} rows, and collect={c.collect} of a stream are fewer.")
    if c.capacity // c.n_envs < c.collect:
        raise ValueError(
            f"repo_adapt: capacity={c.capacity} over n_envs={c.n_envs} streams has to hold collect={c.collect} of each of them."
        )
    if calibrates(c) and -(-c.pairs // c.n_envs) < c.chunk:
        raise ValueError(
            f"repo_adapt: windows are of chunk={c.chunk} rows, and pairs={c.pairs} over n_envs={c.n_envs} streams are fewer "
            "of each."
        )
    paired = isinstance(obs, dict) and isinstance(obs.get(CLEAN), Leaf) and obs[CLEAN].shape == obs[PIXELS].shape
    if calibrates(c) and not paired:
        raise ValueError(
            f"repo_adapt calibrates by pictures with and without distractor, 'pixels' and 'clean': make the environment with "
            f"paired=true, or give calibration='none'; this one has {described(obs)}."
        )
    needs += ["how=" + c.how] if c.how in ("support", "distribution") else []
    needs += ["calibration=pair"] if c.how != "finetune" and c.calibration == "pair" else []
    if needs and "data" not in problem.data:
        raise ValueError(
            f"repo_adapt: {' and '.join(needs)} needs rows of the world as it was: give --data, such as rlx collect makes of "
            "the run (--run-dir) there, with the same options of pictures."
        )


def make(config: Config, problem: Problem) -> Agent:
    c, train = config, problem.envs["train"]
    _check(c, problem, train.spec)
    adapting = Adapting(c, Method(c.repo, Net.of(c.repo, train.spec)))
    plan = stages(adapting)
    every = max(1, c.eval_every // (c.collect * c.n_envs))
    watched = tuple(stage.name for stage in plan if stage.name in ("calibrate", "adapt"))
    buffers = {"replay": replay.ring(rows(c) + 1, c.n_envs)}
    if any(stage.name == "calibrate" for stage in plan):
        buffers["pairs"] = replay.ring(-(-c.pairs // c.n_envs) + 1, c.n_envs)
    return Agent(
        "repo_adapt",
        c,
        hyper(c),
        adapting.init,
        adapting.act,
        plan,
        envs={"train": batch_of(train, c.n_envs)},
        buffers=buffers,
        reads=("data",),
        carry=adapting.method.carry,
        modes=("explore", "eval", "random", "source"),
        evals=(Eval("main", problem.evaluated, c.eval_episodes, every, stages=watched),),
    )
