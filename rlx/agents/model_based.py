"""What offline methods share that learn in a model of the data: MOPO, MOBILE and MOREC, which differ in settings alone.

::

    model:  an ensemble of normal distributions of (s' - s, r) given (s, a), by likelihood, on the data
    scorer: a reward of transitions, from a game on the data                                   (only where the filter is by it)
    learn:  repeat: imagine ``starts`` episodes from states of the data, at most ``horizon`` long; they may be filtered:
                        s' <- one of the candidates of the elites, by its score; stop where that is below ``r_min``
                    ``block`` times, on real_ratio real and else imagined transitions: an update of SAC, where
                        mopo:   imagined rewards are r - penalty max_i ||std_i||
                        mobile: y <- max(0, y - penalty U(s, a)) for imagined ones, U how the members' values of s' differ

Data are ``Problem.data["data"]``; the environment is for evaluation alone. What MOREC is compared with are settings here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents import offline, offpolicy, sac
from rlx.agents.model_audit import Report
from rlx.agents.model_based_config import ModelBasedConfig
from rlx.agents.offpolicy import Networks, q_values
from rlx.config import hyper
from rlx.dynamics import EnsembleDynamics, Model, as_env, bootstrap, distilled, ensemble, filtered, penalised, scorer
from rlx.dynamics.adversary import learn
from rlx.dynamics.ensemble import Ensemble
from rlx.dynamics.filtered import Score, by_likelihood, by_reward, by_truth
from rlx.dynamics.terminations import Rule, fitting, rule_of
from rlx.envs import batch as batch_of
from rlx.nn.distributions import tanh_normal_sample
from rlx.replay import Transitions
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Env,
    Eval,
    Host,
    Key,
    Out,
    Problem,
    ReplayState,
    Row,
    Sampler,
    Sources,
    Stage,
    Step,
    Update,
)

BANK = 100_000  # states that imagined episodes begin from, at most: of more data they are drawn once
# Of fits (`Host`) and rollouts (`Collect.observe`), which give no `Out`: kept in learned["told"], from where updates log them
METRICS = ("model/error", "model/epochs", "scorer/gap", "scorer/share", "rollout/length", "rollout/stopped", "rollout/score")
AGREEMENT = "scorer/agreement"  # of one network with all discriminators, where it is distilled


# ----------------------------------------------------------------------------------------------------------------- the data


class Rows(NamedTuple):
    """Transitions, float32 [N, ...]."""

    obs: np.ndarray
    action: np.ndarray
    new: np.ndarray
    reward: np.ndarray  # [N]
    terminated: np.ndarray  # bool [N]


def rows_in(data: ReplayState) -> Rows:
    """All transitions of ``data``. Raises ValueError where there are none."""
    episodes = replay.export(data)
    if not episodes:
        raise ValueError("the data have no transitions: every episode is a single row.")
    join = lambda pick: np.concatenate([pick(e) for e in episodes])
    return Rows(
        *(join(f) for f in (lambda e: e.obs[:-1], lambda e: e.action[:-1], lambda e: e.obs[1:])),
        *(join(f) for f in (lambda e: e.reward[1:], lambda e: e.terminated[1:])),
    )


# ---------------------------------------------------------------------------------------------------------------- the values


def value_disagreement(
    nets: Networks, learned: dict[str, Any], model: Ensemble, obs: Array, action: Array, draws: int, key: Key
) -> Array:
    """U [B] (MOBILE, Sun et al. 2023, eq. 11): the standard deviation over elites of the mean of min_j Q'_j(s', a'), each over
    ``draws`` of its s', a' ~ pi. ``obs`` [B, n] in units of the data."""
    mean, std = EnsembleDynamics().elites(model, obs, action)
    mean, std = obs + mean[..., :-1], std[..., :-1]

    def add(total: Array, draw_key: Key) -> tuple[Array, None]:
        next_key, act_key = jax.random.split(draw_key)
        next_obs = learned["scales"].obs(mean + std * jax.random.normal(next_key, mean.shape))
        chosen, _ = tanh_normal_sample(act_key, *sac.policy(nets.actor, learned["actor"], next_obs))
        return total + q_values(nets.critics, learned["target"], next_obs, chosen).min(0), None

    # one draw after the other: all at once, of several seeds, do not fit a processor's cache
    total, _ = jax.lax.scan(add, jnp.zeros(mean.shape[:-1]), jax.random.split(key, draws))
    return deviation(total / draws)


def deviation(values: Array) -> Array:
    """The standard deviation over members [K, ...], divided by K - 1."""
    return values.std(0, ddof=1)


def lower(y: Array, disagreement: Array, penalty: Array) -> Array:
    """max(0, y - penalty U) [B]; the first of ``y`` are of real transitions, which ``disagreement`` has no entries for."""
    real = y.shape[0] - disagreement.shape[0]
    return jnp.maximum(0.0, y - penalty * jnp.concatenate([jnp.zeros(real), disagreement]))


def real_rows(size: int, ratio: float) -> int:
    return int(size * ratio + 1e-6)


def mixture(config: ModelBasedConfig) -> Sampler:
    """Real transitions first, then imagined ones: exactly so many."""
    parts = [replay.transitions(config.batch, source=name) for name in ("data", "model")]
    return replay.mix(parts, real_rows(config.batch, config.real_ratio) / config.batch)


# ---------------------------------------------------------------------------------------------------------------- the method


@dataclass(frozen=True)
class Method:
    """All that is made once."""

    name: str
    config: ModelBasedConfig
    problem: Problem
    data: ReplayState
    n: int
    m: int
    ends: Rule
    scales: offline.Scales

    @cached_property
    def nets(self) -> Networks:
        return offpolicy.networks(self.config.hidden, 2 * self.m)

    @property
    def mopo(self) -> bool:
        return self.config.base == "mopo"

    # ------------------------------------------------------------------------------------------------- what is imagined

    @cached_property
    def bank(self) -> int:
        """How many states imagined episodes may begin from."""
        return min(int(np.prod(np.shape(self.data.index.flags))), BANK)

    @cached_property
    def score(self) -> Score | None:
        arrive = self.problem.envs["train"].spec.task.arrive
        own: dict[str, Any] = {"reward": by_reward, "likelihood": by_likelihood, "oracle": arrive and by_truth(arrive)}
        return own.get(self.config.filter)

    def blank_model(self, key: Key) -> Ensemble:
        c = self.config.dynamics
        sizes = (self.n + self.m, *c.hidden, self.n + 1)
        return ensemble.init(key, c.ensemble_size, sizes, "silu", gaussian=True, elites=c.elites)

    def blank_scorer(self, key: Key) -> Any:
        c = self.config.scorer
        if self.config.filter != "reward":
            return ()
        how = {"calibrated": c.calibrated, "common_range": c.common_range, "most": c.most}
        return scorer.blank(key, self.n, self.m, c.snapshots, c.hidden, c.delta, **how)

    @property
    def distils(self) -> bool:
        return self.config.filter == "reward" and self.config.scorer.distilled

    def blank_distilled(self, key: Key) -> Any:
        return distilled.blank(key, self.blank_scorer(key), self.config.scorer.distilled_hidden) if self.distils else ()

    @cached_property
    def candidates(self) -> distilled.Candidates:
        own, draws = EnsembleDynamics(self.config.dynamics.clip), self.config.draws
        return lambda model, obs, action, key: own.candidates(model, (), obs, action, key, draws).obs

    def model_params(self, model: Ensemble, scorer: Any, hyper: dict[str, Array]) -> Any:
        params: Any = model
        if self.score is not None:
            own = model if self.config.filter == "likelihood" else scorer
            params = {"model": model, "scorer": own, **{k: hyper[k] for k in ("r_min", "filter_temperature")}}
        return {"model": params, "uncertainty_penalty": hyper["uncertainty_penalty"]} if self.mopo else params

    def scorer_of(self, state: AgentState) -> Any:
        """What scores candidates of imagined episodes."""
        return state.learned["distilled" if self.distils else "scorer"]

    @cached_property
    def model(self) -> Model:
        """What predicts in imagined episodes, the filter with it."""
        model: Model = EnsembleDynamics(self.config.dynamics.clip)
        return model if self.score is None else filtered(model, self.score, self.config.selection, self.config.draws)

    def predicts(self, state: AgentState) -> tuple[Model, Any]:
        """`model` and its params, as learned."""
        params = self.model_params(state.learned["model"], self.scorer_of(state), state.hyper)
        return self.model, params["model"] if self.mopo else params

    @cached_property
    def imagined(self) -> Env:
        """Before anything is learned."""
        c = self.config
        model = penalised(self.model) if self.mopo else self.model
        hyper_ = {k: jnp.float32(v) for k, v in hyper(c).items()}
        speaks = self.blank_distilled if self.distils else self.blank_scorer
        shapes = jax.eval_shape(lambda k: (self.blank_model(k), speaks(k)), jax.random.key(0))
        blank, unscored = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        params = self.model_params(blank, unscored, hyper_)
        how: dict[str, Any] = {"actions": self.m, "horizon": c.horizon, "ends": self.ends, "stop_after": c.stop_after}
        return as_env(model, params, jnp.zeros((self.bank, self.n)), stop=None if self.score is None else c.stop, **how)

    def imagine(self, state: AgentState, sources: Sources) -> Any:
        learned = state.learned
        model = self.model_params(learned["model"], self.scorer_of(state), state.hyper)
        return {**self.imagined.params, "model": model, "starts": learned["starts"]}

    def watch(self, state: AgentState, rows: Row, key: Key) -> AgentState:
        """How long imagined episodes were, and how many of them stopped."""
        metrics, streams = state.learned["told"], rows.reward.shape[1]
        decided = (rows.valid & ~rows.last).sum()
        metrics = {**metrics, "rollout/length": decided / streams}
        if self.score is not None:
            arrived = rows.valid & ~rows.first
            score = jnp.where(arrived, rows.info["score"], 0.0).sum() / jnp.maximum(arrived.sum(), 1)
            metrics |= {"rollout/stopped": (rows.valid & rows.info["stopped"]).any(0).mean(), "rollout/score": score}
        return state._replace(learned={**state.learned, "told": metrics})

    # ---------------------------------------------------------------------------------------------------- what is fitted

    def fit_model(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        c, learned, rows = self.config.dynamics, state.learned, rows_in(sources["data"])
        inputs = np.concatenate([rows.obs, rows.action], 1)
        targets = np.concatenate([rows.new - rows.obs, rows.reward[:, None]], 1)
        how: dict[str, Any] = {k: getattr(c, k) for k in ("lr", "batch", "epochs", "patience", "holdout")}
        found = bootstrap.fit(learned["model"], inputs, targets, key, **how)
        elites = np.asarray(found.model.elites)
        metrics = {"model/error": found.error[elites].mean(), "model/epochs": found.epochs.max()}
        order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(len(rows.obs))
        starts = rows.obs[np.resize(order, self.bank)].astype(np.float32)
        return self._with(state, metrics, model=found.model, starts=starts), sources

    def fit_scorer(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        rows, game = rows_in(sources["data"]), self.config.scorer.game
        found = learn(state.learned["scorer"], rows.obs, rows.action, rows.new, key, game)
        metrics = {"scorer/gap": found.gap[-1], "scorer/share": (found.gap > game.gap_min).mean()}
        own = state.learned["distilled"]
        if self.distils:
            k_act, k_fit = jax.random.split(jax.random.fold_in(key, 1))
            anything = np.asarray(jax.random.uniform(k_act, rows.action.shape, minval=-1.0, maxval=1.0))  # as policies may
            obs, action = np.concatenate([rows.obs, rows.obs]), np.concatenate([rows.action, anything])
            given, c = (self.candidates, state.learned["model"], obs, action, k_fit), self.config.scorer
            how: dict[str, Any] = {"steps": c.distilled_steps, "least": c.distilled_agreement}
            own, metrics[AGREEMENT], _ = distilled.distil(own, found.scorer, *given, **how)
        return self._with(state, metrics, scorer=found.scorer, distilled=own), sources

    def _with(self, state: AgentState, metrics: dict[str, Any], **new: Any) -> AgentState:
        numbers = {**state.learned["told"], **{k: np.float32(v) for k, v in metrics.items()}}
        return state._replace(learned={**state.learned, **new, "told": numbers})

    # --------------------------------------------------------------------------------------------------------- the policy

    def init(self, key: Key, hyper: dict[str, Array]) -> AgentState:
        k = jax.random.split(key, 3)
        own = {"model": self.blank_model(k[0]), "scorer": self.blank_scorer(k[1]), "scales": self.scales}
        names = (*METRICS, AGREEMENT) if self.distils else METRICS
        own |= {"starts": jnp.zeros((self.bank, self.n)), "told": dict.fromkeys(names, jnp.float32(0))}
        own |= {"distilled": self.blank_distilled(k[1])}
        return AgentState(hyper, {**sac.begin(self.nets, k[2], self.n, self.m, hyper["init_temperature"]), **own})

    def act(self, state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        obs = state.learned["scales"].obs(step.obs)
        mean, log_std = sac.policy(self.nets.actor, state.learned["actor"], obs)
        return jnp.tanh(mean) if mode == "eval" else tanh_normal_sample(key, mean, log_std)[0], carry, {}

    def update(self, state: AgentState, clock: Clock, raw: Transitions, key: Key) -> tuple[AgentState, Out]:
        c, h, learned, k = self.config, state.hyper, state.learned, jax.random.split(key, 3)
        batch = offline.scaled(raw, learned["scales"], h)
        soft = -jnp.inf if c.deterministic_backup else jnp.minimum(learned["log_temperature"], 0.0)
        y = sac.targets(self.nets, {**learned, "log_temperature": soft}, batch, k[0])
        metrics = learned["told"]
        if not self.mopo:
            made = real_rows(len(y), c.real_ratio)
            disagreement = value_disagreement(
                self.nets, learned, learned["model"], raw.obs[made:], raw.action[made:], c.value_draws, k[1]
            )
            y = jax.lax.stop_gradient(lower(y, disagreement, h["uncertainty_penalty"]))
            mean = disagreement.sum() / max(len(disagreement), 1)  # there are none with real_ratio=1
            metrics = {**metrics, "critic/disagreement": mean}
        share = 0.5 * (1 + jnp.cos(jnp.pi * clock.cycle / c.cycles)) if c.actor_lr_decay else 1.0
        how: dict[str, Any] = {"actor_lr": h["actor_lr"] * share, "most_temperature": 1.0, "by_target": c.actor_by_target}
        new, out = sac.learn(self.nets, state, batch, y, k[2], **how)
        return new, out._replace(metrics={**out.metrics, **metrics})

    @property
    def stages(self) -> tuple[Stage, ...]:
        c = self.config
        how: dict[str, Any] = {"fresh": True, "counts": "model", "observe": self.watch}
        rollout = Collect("model", c.horizon, "model", params=self.imagine, **how)
        scored = (Stage("scorer", 1, (Host(self.fit_scorer),)),) if c.filter == "reward" else ()
        learn = Stage("learn", c.cycles, (rollout, Update(c.block, mixture(c), self.update)))
        return (Stage("model", 1, (Host(self.fit_model),)), *scored, learn)


def make(name: str, config: ModelBasedConfig, problem: Problem) -> Agent:
    """The agent ``name``. Raises ValueError for data of another environment, and settings that cannot be."""
    data, n, m = offline.dataset(problem, name)
    found, scales = rows_in(data), offline.scales(data, config)
    method = Method(name, config, problem, data, n, m, ends_of(name, config, problem, found), scales)
    check(method)
    tell_of_prices(name, config, config.reward_scale * float(scales.reward) * found.reward.max() + config.reward_shift)
    rows = (config.horizon + 1) * config.retained + 1  # each rollout and its last row, and a tail
    every = max(1, config.eval_every // config.block)
    return Agent(
        name,
        config,
        hyper(config),
        method.init,
        method.act,
        method.stages,
        envs={"model": batch_of(method.imagined, config.starts, ends="stop")},
        buffers={"model": replay.ring(rows, config.starts)},
        reads=("data",),
        evals=(Eval("main", problem.evaluated, config.eval_episodes, every, stages=("learn",)),),
        report=Report(method),
    )


def check(method: Method) -> None:
    """Raises ValueError for settings that cannot be."""
    c, name = method.config, method.name
    if c.dynamics.elites > c.dynamics.ensemble_size:
        raise ValueError(f"{name}: dynamics.elites={c.dynamics.elites} of dynamics.ensemble_size={c.dynamics.ensemble_size}.")
    if not method.mopo and c.dynamics.elites < 2:
        raise ValueError(f"{name}: base='mobile' compares the elites' values, so it needs dynamics.elites of at least 2.")
    if c.filter == "oracle" and method.score is None:
        raise ValueError(
            f"{name}: filter='oracle' needs an environment that can say what follows an observation (Task.arrive); "
            f"{method.problem.envs['train'].name} cannot."
        )
    bounded = c.scorer.calibrated and not c.scorer.common_range
    best = {"oracle": 0.0, "reward": -np.log(1 - min(1 / (1 + np.exp(-1)), c.scorer.most)) if bounded else np.inf}
    if c.r_min > best.get(c.filter, np.inf):
        raise ValueError(
            f"{name}: filter={c.filter!r} has scores of {best[c.filter]:.4g} at most, so r_min={c.r_min:g} stops every "
            "episode at its first decision: give less, or -inf, which never stops."
        )
    other = "filter='likelihood'" if c.filter == "likelihood" else "scorer.calibrated=False"
    if np.isfinite(c.r_min) and (c.filter == "likelihood" or (c.filter == "reward" and not c.scorer.calibrated)):
        warnings.warn(
            f"{name}: {other} has scores without fixed bounds, so r_min={c.r_min:g} may stop nothing or all; r_min=-inf stops "
            "nothing.",
            stacklevel=2,
        )
    if c.stop_after >= c.horizon and c.filter != "none":
        raise ValueError(f"{name}: stop_after={c.stop_after} of horizon={c.horizon} decisions: nothing ever stops; give less.")


def tell_of_prices(name: str, config: ModelBasedConfig, reward: float) -> None:
    """Warns where no reward is above 0, ``reward`` the largest, and something counts as 0 that should not be better."""
    what = None
    if config.base == "mobile":
        what = "values are cut at 0, so all are the same: give reward_shift"
    elif config.filter != "none" and config.stop == "terminate":
        what = "episodes that stop are worth 0 from there on, which pays: give reward_shift, or stop=truncate"
    if what and reward <= 0:
        warnings.warn(f"{name}: rewards of the data are {reward:.3g} at most, and {what}.", stacklevel=3)


def ends_of(name: str, config: ModelBasedConfig, problem: Problem, rows: Rows) -> Rule:
    """When the task is over. Raises ValueError for an unknown rule, or one that the data contradict."""
    env = problem.envs["train"].name
    known = rule_of(env, rows.obs.shape[-1]) if config.termination == "auto" else config.termination
    if known is None and rows.terminated.any():
        warnings.warn(
            f"{name}: episodes of the data end before their time, and when is not known of {env}: imagined ones will not. Give "
            "termination, the name of a rule (rlx.dynamics.terminations), or 'never'.",
            stacklevel=2,
        )
    return fitting(known or "never", rows.obs, rows.action, rows.new, rows.terminated)
