"""PEARL (Liu et al. 2024, "Zero-shot Cross-task Preference Alignment and Robust Reward Learning", arXiv:2306.03615).

::

    label    pairs of episodes of the data, labelled from those of another task by optimal transport      (rlx.preferences)
    reward   a model with a Gaussian for each step, fitted to these pairs (and, on request, to what it is sure of in others);
             the one is kept that judges held-out pairs best
    relabel  each decision is worth the mean of its Gaussian, times horizon / range of the episodes' returns (``rescale``)
    learn    implicit Q-learning on these rewards                                                          (rlx.agents.iql)

What it is compared with are settings: ``labels`` (true ones, chance, the nearest source trajectory) and ``head``
(deterministic: the Preference Transformer, or an MLP). True rewards of the data are looked at by labels=oracle and cpa+fewshot
alone; ``pearl.json`` says how learned returns go with true ones, which decides nothing.

The paper's constants, its features and the sum of its losses could not be verified; docs/methods/pearl.md lists what is ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import files, keys, replay
from rlx.agents import iql, offline
from rlx.agents.pearl.config import Config
from rlx.config import hyper
from rlx.preferences import hierarchy, labels, learning, pairs
from rlx.preferences.alignment import Settings
from rlx.preferences.labels import Source
from rlx.preferences.models import PreferenceModel, PreferenceTransformer, RewardMLP
from rlx.preferences.pairs import Episodes, Preferences
from rlx.preferences.tastes import GeneralPreference, MixtureOfTastes
from rlx.types import Agent, AgentState, Array, Clock, Host, Key, Problem, Stage, Step

# What the stages found out; NaN where it does not apply. Of each source there are "costs" and "votes" too. It is kept in
# learned["told"] for `report`, which is given a state after training: `Host` stages give no `Out`.
METRICS = ("flipped", "cost", "row_error", "asymmetry", "held_loss", "factor", "rank_correlation", "correlation")


def model_of(config: Config) -> PreferenceModel:
    """Raises ValueError where parts of it do not go together."""
    gaussian, own = config.head == "gaussian", config.model
    if own.kind == "transformer" and own.width % own.heads:
        raise ValueError(f"pearl: model.width={own.width} is no multiple of model.heads={own.heads}.")
    if own.kind in ("general", "mixture") and config.head != "deterministic":
        raise ValueError(f"pearl: model.kind={own.kind!r} does not say how sure it is: give head='deterministic' with it.")
    if own.annotator >= own.annotators:
        raise ValueError(f"pearl: model.annotator={own.annotator} is none of the {own.annotators} of model.annotators.")
    if own.kind == "mlp":
        return RewardMLP(own.hidden, gaussian, own.agg)
    if own.kind == "general":
        return GeneralPreference(own.hidden, own.blocks, own.tau)
    if own.kind == "mixture":
        return MixtureOfTastes(own.hidden, own.tastes, own.annotators, own.agg, own.annotator)
    return PreferenceTransformer(
        own.width, own.layers, own.heads, own.segment, weighted=own.weighted, gaussian=gaussian, dropout=own.dropout
    )


def training_of(config: Config) -> learning.Training:
    own = config.model
    names = ("steps", "batch", "segment", "samples", "noise", "variance", "held_out", "checks")
    of = {k: getattr(own, k) for k in names}
    return learning.Training(**of, schedule=own.kind == "transformer", constant=config.head == "constant")


def coefs_of(h: dict[str, Array]) -> learning.Coefs:
    losses = ("mean_coef", "sample_coef", "variance_coef", "entropy")
    names = (*losses, "reward_lr", "weight_decay", "pseudo_coef", "pseudo_least")
    return learning.Coefs(*(h[k] for k in names))


def sources_of(config: Config, problem: Problem) -> tuple[Source, ...]:
    """What labels are carried over from; none where they are not.

    Raises:
        ValueError: they are, and there is no source, or something else.
    """
    if config.labels not in labels.CARRIED:
        return ()
    given = problem.data.get("source")
    if given is None:
        rows = (pairs.episodes(replay.load(path).replay(False)) for path in config.source)
        given = [labels.source_of(found, most=config.trajectories) for found in rows]
    return labels.sources_of(config.labels, given, "pearl: ")


def pairs_of(config: Config, found: Episodes) -> tuple[int, Preferences | None]:
    """How many pairs there will be, and those of a file.

    Raises:
        ValueError: ``labels`` is nothing that is known, or the file's pairs do not lie in the data.
    """
    if config.labels.endswith(".npz"):
        given = pairs.read(config.labels)
        pairs.rows_of(given, found)
        many = int(np.max(given.annotator)) + 1
        if config.model.kind == "mixture" and many > config.model.annotators:
            raise ValueError(f"pearl: {config.labels} has answers of annotator {many - 1}: give model.annotators={many}.")
        return len(given.label), given
    if config.labels == "heron":
        return config.pairs, None
    if config.labels not in labels.KINDS:
        raise ValueError(f"pearl: labels={config.labels!r} is unknown: one of {', '.join(labels.KINDS)}, heron, or a file.npz.")
    n = min(len(found.steps), config.trajectories)
    if n < 2:
        raise ValueError("pearl: preferences are between two episodes; the data hold one.")
    members = np.bincount(labels.groups(config.labels, n, config.align.group_size))
    return min(config.pairs, int((members * (members - 1) // 2).sum())), None


def padded(given: Preferences, count: int) -> Preferences:
    """``count`` pairs, the last one repeated with a weight of 0 where there are fewer."""
    short = count - len(given.label)
    if not short:
        return given
    more = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[..., -1:], short, -1)], -1), given)
    return more._replace(weight=np.where(np.arange(count) < count - short, more.weight, 0).astype(np.float32))


# -------------------------------------------------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Method:
    """The functions of the agent, and what all of them know."""

    config: Config
    nets: iql.Networks
    scales: offline.Scales
    model: PreferenceModel
    settings: Settings  # of transport
    sources: tuple[Source, ...]  # of labels that are carried over
    count: int  # of pairs
    given: Preferences | None  # pairs of a file
    horizon: int
    n: int  # entries of an observation
    m: int  # of an action

    def init(self, key: Key, hyper: dict[str, Array]) -> AgentState:
        learned = {**iql.begin(self.nets, key, self.n, self.m), "scales": self.scales}
        learned["reward"] = learning.init(self.model, keys.fold(key, "reward"), self.n, self.m)
        nothing = pairs.preferences(np.zeros((2, self.count)), np.full(self.count, 0.5), 1, weight=0.0)
        learned["pairs"] = jax.tree.map(jnp.asarray, nothing)
        learned["told"] = dict.fromkeys(METRICS, jnp.float32(jnp.nan))
        if self.sources:
            learned["told"] |= {k: jnp.full(len(self.sources), jnp.nan) for k in ("costs", "votes")}
        return AgentState(hyper, learned)

    def label(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        if self.given is not None:
            return with_metrics(state, {}, pairs=self.given), sources
        rng, c = keys.HostKey.of(key, 1).rng(0), self.config
        if c.labels == "heron":
            ranked, _ = hierarchy.by_factors(sources["data"], c.factors, self.count, rng, margins=c.margins)
            return with_metrics(state, {}, pairs=ranked), sources
        labelled = labels.label(
            c.labels,
            pairs.episodes(sources["data"]),
            rng,
            source=self.sources,
            settings=self.settings,
            most=c.trajectories,
            count=self.count,
            pairing=c.pairing,
            least_confidence=c.least_confidence,
            share=c.fewshot,
        )
        return with_metrics(state, metrics_of(labelled), pairs=padded(labelled.pairs, self.count)), sources

    def reward(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        rows, given, more = pairs.episodes(sources["data"]), state.learned["pairs"], None
        if self.config.model.unlabelled:  # of the length that is usual among those with a label
            rng = keys.HostKey.of(keys.fold(key, "unlabelled"), 1).rng(0)
            more = pairs.unlabelled(rows, self.config.model.unlabelled, int(np.median(given.steps)), rng)
        begin, how, coefs = state.learned["reward"], training_of(self.config), coefs_of(state.hyper)
        fitted = learning.fit(self.model, begin, given, rows, key, how, coefs, more)
        params = jax.tree.map(np.asarray, fitted.params)
        return with_metrics(state, {"held_loss": fitted.held_loss[fitted.best]}, reward=params), sources

    def relabel(self, state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        rows = pairs.episodes(sources["data"])
        steps = learning.window_length(state.learned["pairs"], self.config.model.segment)
        each = learning.rewards(self.model, state.learned["reward"], rows, steps, state.hyper["kappa"])
        new, factor = learning.scaled(each, rows, self.horizon, self.config.rescale)
        metrics = {"factor": factor, **learning.correlations(each, rows)}
        return with_metrics(state, metrics), {**sources, "data": pairs.with_rewards(sources["data"], rows, new)}

    def act(self, state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        policy = offline.gaussian(self.nets.actor, state.learned["actor"], state.learned["scales"].obs(step.obs))
        action = policy.mode() if mode == "eval" else jnp.clip(policy.sample(key), -1.0, 1.0)
        return action, carry, {}

    def report(self, state: AgentState, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        number = lambda x: float(x) if np.isfinite(x) else None
        metrics = {k: [*map(number, v)] if np.ndim(v) else number(v) for k, v in state.learned["told"].items()}
        files.write_text(folder / "pearl.json", json.dumps(metrics, indent=1) + "\n")
        return [folder / "pearl.json", pairs.write(folder / "labels.npz", state.learned["pairs"])]


def with_metrics(state: AgentState, metrics: dict[str, Any], **learned: Any) -> AgentState:
    """``state`` with these metrics among the others, and with what else was ``learned``."""
    new = {**state.learned["told"], **{k: np.float32(v) for k, v in metrics.items()}}
    return state._replace(learned={**state.learned, "told": new, **learned})


def metrics_of(labelled: labels.Labelled) -> dict[str, Any]:
    """Of labels, and of the alignment that carried them over where one did. Raises ValueError where it says nothing."""
    metrics: dict[str, Any] = {"flipped": labelled.flipped}
    if labelled.alignment is None:
        return metrics
    if labelled.alignment.degenerate:
        raise ValueError(
            "pearl: the source says nothing about the data: fewer than three trajectories, distances all alike, "
            "or a coupling that does not tell them apart. Give other align.features, more episodes, or labels=oracle."
        )
    coupling = labelled.alignment.coupling
    metrics |= {"asymmetry": labelled.alignment.asymmetry, "cost": coupling.cost, "row_error": coupling.row_error}
    return metrics | {"costs": [a.coupling.cost for a in labelled.each], "votes": labelled.votes}


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "pearl")
    if config.normalize_returns:
        raise ValueError("pearl: normalize_returns looks at true rewards; learned ones are scaled by their own range anyway.")
    nets, scales, model = iql.networks(config.hidden, m), offline.scales(data, config), model_of(config)
    sources, found = sources_of(config, problem), pairs.episodes(data)
    count, given = pairs_of(config, found)
    if config.labels == "heron":  # its words come before training
        hierarchy.by_factors(data, config.factors, 1, np.random.default_rng(0), margins=config.margins)
    horizon = problem.envs["train"].spec.horizon or int(found.steps.max())
    settings = Settings(**asdict(config.align))
    method = Method(config, nets, scales, model, settings, sources, count, given, horizon, n, m)
    update = iql.updater(nets, lambda clock: clock.updates / (config.cycles * config.block))
    shared = offline.shared_parts(config, problem, update)
    before = tuple(Stage(f.__name__, 1, (Host(f),)) for f in (method.label, method.reward, method.relabel))
    shared |= {"stages": (*before, *shared["stages"]), "reads": ("data", "source")}
    return Agent("pearl", config, hyper(config), method.init, method.act, **shared, report=method.report)
