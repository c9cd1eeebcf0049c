"""SINDy-RL (Zolman, Lagemann, Fasel, Kutz and Brunton 2024, "SINDy-RL: Interpretable and Efficient Model-Based Reinforcement
Learning", arXiv:2403.09110).

::

    D0 <- real decisions at random
    x' = Xi theta(x, u), r = Xr theta(x', u): an ensemble of sparse regressions on D0; the median of the members is the model
    repeat: a round of PPO in the model                                                        (Algorithm 1)
            every ``refit_every`` rounds: D1 <- real decisions of the policy, the oldest trajectories forgotten
                                          fit anew on D0 and D1
    the policy as a polynomial: a sparse regression of the network's mean, on states visited in the model and around them
the planner: model predictive control in the same model, where it is asked for                   (rlx.planning.planner)

What is learned is a pytree of coefficients that enters the imagined environment traced. A refit that fails, or predicts the
data far worse than the model before it, is not taken. Sparse models are fitted in float64 on the host; networks may stand in
the place of the dynamics, for comparison, and a refit of these goes on from where they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents import ppo
from rlx.agents.offpolicy import at_random, obs_action_dims
from rlx.agents.sindy_rl import filtering, planning
from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.distil import HULL, blank_policy, distiller, policy_library
from rlx.agents.sindy_rl.gradient import improver
from rlx.agents.sindy_rl.report import Report
from rlx.agents.sindy_rl.world import Box, World, around, box_of, known_of, names_of, refitted, sound, transitions
from rlx.config import hyper
from rlx.dynamics import as_env
from rlx.envs import batch, begin
from rlx.planning import planner
from rlx.precision import exact
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Collect,
    Env,
    Eval,
    Host,
    HostEnv,
    Key,
    Problem,
    PyTree,
    Sources,
    Stage,
    Step,
    Update,
)

STARTS = 256  # states in the bank that imagined episodes begin from
SIDE = 16  # streams of a host environment that is reset for them
FAR = 1e6  # bounds before the data are seen


def make(config: Config, problem: Problem) -> Agent:
    env = problem.envs["train"]
    observations, m = obs_action_dims(env.spec, "sindy_rl")
    n = config.modes or observations
    names = names_of(config, env.spec, n, m)
    world = World(config, n, m, *known_of(config, env.spec))
    check(world, env.spec.horizon, observations)
    dyna = Dyna(config, world, names, observations, box_of(config, env.spec, n), env.spec.horizon or config.horizon, env)
    return Agent(
        "sindy_rl",
        config,
        hyper(config),
        dyna.init,
        dyna.act,
        stages(dyna),
        envs={"train": batch(env, config.n_envs), "model": batch(dyna.imagined, config.ppo.n_envs)},
        buffers={
            "seed": replay.ring(seed_rows(config), config.n_envs),
            **({"online": dyna.online} if config.refit_every else {}),
            **dyna.learner.buffers,
        },
        carry=dyna.carry,
        modes=("explore", "eval", "mean", "random", "sparse", *planner.modes(config.planner)),
        evals=evaluations(config, problem.evaluated),
        on_eval=keep_best,
        report=Report(world, names, dyna.lasting, dyna.imagine, env, dyna.act, dyna.encoded),
    )


@dataclass(frozen=True)
class Dyna:
    """The functions of the agent, over what is known before the first decision."""

    config: Config
    world: World
    names: tuple[str, ...]  # of observations, then actions
    observations: int  # of the real environment; the world has principal components of them where the config has modes
    box: Box | None  # where the model is trusted; None: the data will say
    whole: int  # decisions of a real episode
    env: Env | HostEnv  # the real one

    # ------------------------------------------------------------------------------------------------------- the policy

    @cached_property
    def imagined(self) -> Env:
        """What the policy learns in."""
        return imagination(self.world, self.box, self.config.horizon or self.whole)

    @cached_property
    def lasting(self) -> Env:
        """The same with episodes as long as real ones."""
        return imagination(self.world, self.box, self.whole)

    @cached_property
    def learner(self) -> Agent:
        """PPO in the model."""
        return ppo.make(self.config.ppo, Problem({"train": self.imagined}))

    def init(self, key: Key, h: dict[str, Array]) -> AgentState:
        config, n, m = self.config, self.world.observations, self.world.actions
        own = self.learner.init(key, as_ppo(AgentState(h, {})).hyper).learned
        model = {"model": self.world.blank(), "uncertainty_penalty": jnp.float32(0)}
        more = {
            "world": {**self.imagined.params, "model": model},
            **({"scorer": filtering.blank(self.world)} if filtering.filters(config) else {}),
            "basis": {"mean": jnp.zeros(self.observations), "modes": jnp.eye(self.observations, n)} if config.modes else {},
            "sparse": blank_policy(config, n, m),
            "fits": {k: jnp.float32(0) for k in ("done", "refused_dynamics", "refused_reward", "rows_left_out")},
        }
        best = {"score": jnp.float32(-jnp.inf), **{k: {**own, **more}[k] for k in KEPT}}
        return AgentState(h, {**own, **more, "error": jnp.float32(jnp.inf), "best": jax.tree.map(jnp.copy, best)})

    @exact
    def encoded(self, learned: dict[str, Any], obs: Array) -> Array:
        """Principal components, in standard deviations, of what the real environment shows."""
        if not self.config.modes or obs.shape[-1] == self.world.observations:
            return obs
        return (obs - learned["basis"]["mean"]) @ learned["basis"]["modes"]

    def carry(self, state: AgentState, n: int, context: PyTree = None) -> PyTree:
        """Plans, where there are any."""
        return planner.blank(self.config.planner, n, self.world.actions)

    def act(self, state: AgentState, clock: Any, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        if mode == "random":
            return at_random(key, step, self.world.actions), carry, {}
        step = step._replace(obs=self.encoded(state.learned, step.obs))
        if mode == planner.MODE:
            params = self.imagine(state, {})
            first = jnp.asarray(step.first)
            return *planning.decided(self.world, state.learned, state.hyper, params, carry, step.obs, first, key), {}
        if mode == "sparse":
            return jnp.clip(state.learned["sparse"](step.obs), -1.0, 1.0), carry, {}
        return self.learner.act(as_ppo(state), clock, carry, step, key, mode)

    def imagine(self, state: AgentState, sources: Sources) -> Any:
        """Parameters of the imagined environment."""
        world, h = state.learned["world"], state.hyper
        model = filtering.params(self.config, world["model"]["model"], state.learned.get("scorer"), h)
        return {**world, "model": {"model": model, "uncertainty_penalty": h["uncertainty_penalty"]}}

    # -------------------------------------------------------------------------------------------------------- the model

    @cached_property
    def online(self) -> replay.Replay:
        """Real decisions of the policy: those that are kept, and the next that come."""
        c = self.config
        kept = 2 * -(-c.online // c.n_envs)  # a trajectory has a row more than decisions, the shortest two rows for one
        return replay.ring(kept + -(-c.collect // c.n_envs) + 3, c.n_envs)

    def episodes(self, learned: dict[str, Any], sources: dict[str, Any]) -> tuple[list[Any], int]:
        """All real data that are finite, as the model sees them, and how many rows are not."""
        kept, lost = sound([e for k in ("seed", "online") if k in sources for e in replay.export(sources[k])])
        return [e._replace(obs=np.asarray(self.encoded(learned, e.obs))) for e in kept], lost

    def first_fit(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        learned = state.learned
        if self.config.modes:
            learned = {**learned, "basis": principal(sound(replay.export(sources["seed"]))[0], self.world.observations)}
        data, lost = self.episodes(learned, sources)
        bounds = self.box if self.box is not None else around(np.concatenate([e.obs for e in data]))
        low, high = (np.asarray(x, np.float32) for x in bounds)
        learned = {**learned, "world": {**learned["world"], "low": low, "high": high}}
        return self.fit(state._replace(learned=learned), data, lost, key, first=True), sources

    def refit(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        each = -(-self.config.online // self.config.n_envs)
        sources = {**sources, "online": self.online.evict(sources["online"], each)}
        return self.fit(state, *self.episodes(state.learned, sources), key, first=False), sources

    def fit(self, state: AgentState, data: list[Any], lost: int, key: Key, first: bool) -> AgentState:
        """The world that episodes ``data`` show: models, states to begin from, and the price of an exit. ``lost``: rows that
        were not finite."""
        learned, config = state.learned, self.config
        old = learned["world"]
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        rows = transitions(data, old["low"], old["high"])
        new, error, refused = refitted(self.world, old["model"]["model"], rows, rng, self.names, first)
        tell(refused, lost)
        weights = float(state.hyper["ppo.discount"]) ** np.arange(self.whole)  # to the end of an episode
        least = min(0.0, float(rows.reward.min())) * weights.sum()
        if config.starts == "task":
            bank = self.task_starts(learned, key) if first else old["starts"]
        else:
            begun = [e.obs[0] for e in data if e.first[0]]
            bank = np.stack(begun) if begun and config.starts == "starts" else rows.obs
            bank = bank[rng.integers(len(bank), size=STARTS)].astype(np.float32)
        params = {**old, "model": {**old["model"], "model": new}, "starts": bank, "exit_reward": np.float32(least)}
        so_far = learned["fits"]
        fits = {k: np.float32(so_far[k] + (k.removeprefix("refused_") in refused)) for k in so_far}
        fits |= {"done": np.float32(so_far["done"] + 1), "rows_left_out": np.float32(lost)}
        every = config.filter.game_every
        if filtering.filters(config) and (first or every and int(so_far["done"]) % every == 0):
            learned = {**learned, "scorer": filtering.learned(config, learned["scorer"], rows, key, first)}
        return state._replace(learned={**learned, "world": params, "fits": fits, "error": np.float32(error)})

    def task_starts(self, learned: dict[str, Any], key: Key) -> np.ndarray:
        """Observations [STARTS, n] that the real environment resets to; no decision is taken there."""
        n = SIDE if self.env.host else STARTS
        vec = batch(self.env, n)
        obs = [np.asarray(begin(vec, vec.params, (), k).step.obs) for k in jax.random.split(key, STARTS // n)]
        vec.close()
        return np.asarray(self.encoded(learned, np.concatenate(obs)), np.float32)

    @cached_property
    def distilled(self) -> Callable:
        return distiller(self.config, self.learner, self.lasting, self.world.projected)

    def distil(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        def data(which: str) -> np.ndarray:
            names = ("seed", "online") if which == "all" else ("online",)
            kept = self.episodes(state.learned, {k: sources[k] for k in names if k in sources})[0]
            return transitions(kept[-1:] if which == "last" else kept).obs

        found = self.distilled(as_ppo(state), self.imagine(state, sources), data, key)
        return state._replace(learned={**state.learned, "sparse": found}), sources


def as_ppo(state: AgentState) -> AgentState:
    """What PPO sees of the state: its own traced values by their own names."""
    return state._replace(hyper={k.removeprefix("ppo."): v for k, v in state.hyper.items()})


def telling(update: Callable) -> Callable:
    """``update`` whose metrics also say how fitting went: counts so far, and the last error where it is finite."""

    def wrapped(state: AgentState, *rest: Any) -> Any:
        new, out = update(state, *rest)
        error = state.learned["error"]
        more = {"model/error": error, **{f"model/fits_{k}": v for k, v in state.learned["fits"].items()}}
        valid = {**(out.valid or {}), "model/error": jnp.isfinite(error)}
        return new, out._replace(metrics={**out.metrics, **more}, valid=valid)

    return wrapped


def with_ppo(fn: Callable) -> Callable:
    """PPO's function of its own state, as one of this agent's."""

    def wrapped(state: AgentState, *rest: Any) -> Any:
        out = fn(as_ppo(state), *rest)
        back = lambda new: new._replace(hyper=state.hyper)
        return back(out) if isinstance(out, AgentState) else (back(out[0]), out[1])

    return wrapped


def imagination(world: World, box: Box | None, horizon: int) -> Env:
    """The environment that a model before its first fit imagines; where there is no ``box`` the data will name one."""
    config, n = world.config, world.observations
    low, high = (np.full(n, -FAR), np.full(n, FAR)) if box is None else box
    scorer, h = (filtering.blank(world), jax.tree.map(jnp.float32, hyper(config))) if filtering.filters(config) else ((), {})
    model = filtering.params(config, world.blank(), scorer, h)
    params, starts = {"model": model, "uncertainty_penalty": jnp.float32(0)}, jnp.zeros((STARTS, n))
    how: dict[str, Any] = {"actions": world.actions, "horizon": horizon, "low": low, "high": high, "exit": config.exit}
    stop = config.filter.stop if filtering.filters(config) else None
    return as_env(filtering.around(world), params, starts, stop=stop, **how)


KEPT = (*ppo.TRAINED, "obs_stats", "world")  # what belongs to a policy


def keep_best(state: AgentState, report: dict[str, Any], key: Key) -> AgentState:
    """The policy of the best evaluation, with the model it learned in: what is distilled."""
    learned = state.learned
    score = report["main"]["returns"].mean()
    now = {"score": score, **{k: learned[k] for k in KEPT}}
    best = jax.tree.map(lambda a, b: jnp.where(score > learned["best"]["score"], a, b), now, learned["best"])
    return state._replace(learned={**learned, "best": best})


def back_to_best(state: AgentState, sources: Sources, key: Key) -> AgentState:
    return state._replace(learned={**state.learned, **{k: jax.tree.map(jnp.copy, state.learned["best"][k]) for k in KEPT}})


def check(world: World, limit: int | None, observations: int) -> None:
    """Raises ValueError for settings that cannot be, before anything is collected."""
    config, seeds = world.config, world.config.seed_steps
    for name, part in world.parts.items():
        part.check(name)
    least = min(config.policy_degrees, default=0)
    if not least:
        raise ValueError("sindy_rl: policy_degrees needs at least one degree.")
    policy, drop = len(policy_library(config, world.observations, least)), config.policy_drop
    if drop >= policy:
        raise ValueError(f"sindy_rl: policy_drop={drop} of {policy} terms of a policy of degree {least}: give less.")
    for name in ("aggregate", "policy_aggregate"):
        which = getattr(config, name)
        if not isinstance(which, str) and which >= config.ensemble_size:
            raise ValueError(f"sindy_rl: {name}={which} of ensemble_size={config.ensemble_size} members, which count from 0.")
    real = config.distil_states == "hull" or config.distil_select == "online"
    if config.distil and real and not config.refit_every:
        raise ValueError("sindy_rl: distil_states='hull' and distil_select='online' need runs of the policy: refit_every > 0.")
    if config.distil_states == "hull" and world.observations > HULL:
        raise ValueError(f"sindy_rl: distil_states='hull' is for {HULL} observations at most, there are {world.observations}.")
    if 0 < config.guard < 1:
        raise ValueError(f"sindy_rl: guard={config.guard:g} would refuse a model as good as the old; give 0, or at least 1.")
    if config.modes > seeds:
        raise ValueError(f"sindy_rl: modes={config.modes} need as many seed_steps, got {seeds}.")
    if config.modes > observations:
        raise ValueError(f"sindy_rl: modes={config.modes} of {observations} observations; give at most as many.")
    if limit is None and not config.horizon:
        raise ValueError("sindy_rl: this environment has no time limit; give horizon, the decisions of an imagined episode.")
    if config.seed_steps < config.n_envs * 2 or config.collect < config.n_envs:
        raise ValueError(f"sindy_rl: seed_steps and collect are of all n_envs={config.n_envs} streams together; give more.")


def tell(refused: dict[str, str], lost: int) -> None:
    """Warns of what a fit left out and why a refit was not taken."""
    if lost:
        warnings.warn(f"sindy_rl: {lost} stored rows are not finite; the fit leaves them out.", stacklevel=2)
    for name, why in refused.items():
        warnings.warn(f"sindy_rl: a refit of the {name} was refused, the one before it stays: {why}", stacklevel=2)


def principal(episodes: list[Any], count: int) -> dict[str, np.ndarray]:
    """Of the observations: their mean, and the leading principal directions, each divided by its standard deviation."""
    obs = np.concatenate([np.asarray(e.obs, np.float64) for e in episodes])
    mean = obs.mean(0)
    _, size, right = np.linalg.svd(obs - mean, full_matrices=False)
    modes = right[:count].T / np.maximum(size[:count] / np.sqrt(len(obs)), 1e-12)
    return {"mean": mean.astype(np.float32), "modes": modes.astype(np.float32)}


def seed_cycles(config: Config) -> tuple[int, int]:
    """How often the random behaviour is begun anew, and its decisions per stream each time."""
    each = min(config.seed_episode, -(-config.seed_steps // config.n_envs))
    return -(-config.seed_steps // (each * config.n_envs)), each


def seed_rows(config: Config) -> int:
    cycles, each = seed_cycles(config)
    return cycles * (each + 1) + 2


def stages(dyna: Dyna) -> tuple[Stage, ...]:
    """Behave at random; fit; by turns improve the policy in the model, act, and fit anew; write the policy as a polynomial."""
    config, rollout = dyna.config, dyna.learner.stages[0].phases
    cycles, each = seed_cycles(config)
    behave = Collect("train", each, "seed", mode="random", fresh=True)
    imagine = next(p for p in rollout if isinstance(p, Collect))
    improve = next(p for p in rollout if isinstance(p, Update))
    observe = with_ppo(imagine.observe) if imagine.observe else None
    imagine = replace(imagine, env="model", params=dyna.imagine, counts="model", observe=observe)
    if config.improve == "ppo":
        update = with_ppo(improve.update)
    else:
        net = ppo.actor_critic(config.ppo, dyna.world.actions, categorical=False)
        update = improver(config, net, dyna.imagined, dyna.imagine)
    phases: tuple = (imagine, replace(improve, update=telling(update)))
    if config.refit_every:
        mode = planner.MODE if config.planner.use == "act" else "eval"
        act = Collect("train", -(-config.collect // config.n_envs), "online", mode=mode, fresh=True, every=config.refit_every)
        phases = (*phases, act, Host(dyna.refit, every=config.refit_every))
    out = (
        Stage("seed", cycles, (behave,)),
        Stage("fit", 1, (Host(dyna.first_fit),)),
        Stage("dyna", config.ppo.cycles, phases),
    )
    return (*out, Stage("distil", 1, (Host(dyna.distil),), enter=back_to_best)) if config.distil else out


def evaluations(config: Config, env: str) -> tuple[Eval, ...]:
    main = Eval("main", env, config.eval_episodes, config.eval_every, stages=("dyna", "distil"))
    plans = [replace(main, name=mode, mode=mode, stages=("dyna",)) for mode in planner.modes(config.planner)]
    sparse = Eval("sparse", env, config.eval_episodes, 1, mode="sparse", stages=("distil",))
    return main, *plans, *((sparse,) if config.distil else ())
