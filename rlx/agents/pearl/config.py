"""Settings of PEARL and of what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from rlx.agents import iql, offline
from rlx.config import size, traced


@dataclass(frozen=True)
class Align:
    """How labels are carried over; see `rlx.preferences.Settings`. Constants of the paper are not known; these are ours."""

    features: str = "delta"  # delta, flat_s, flat_sa, hand, moments
    entries: int | None = size(None, least=1)  # of an observation the first so many; 18 for Meta-World
    geometry: Literal["gw", "fused", "linear"] = "gw"
    alpha: float = size(0.5, least=0, most=1)  # fused: share of Gromov-Wasserstein
    eps: float = size(5e-3, above=0)
    outer: int = size(20, least=1)
    inner: int = size(50, least=1)
    group_size: int | None = size(None, least=3)  # transport and pairs within random groups of so many trajectories
    restarts: int = size(0, least=0)  # besides p q', so many random couplings to begin at; the cheapest result is taken
    scale: Literal["max", "mean", "none"] = "max"  # what distances within a task are divided by
    float64: bool = False  # on the host, instead of float32 on the device
    proximal: bool = False  # towards a coupling without blur
    norm: Literal["pair", "global"] = "pair"
    tau: float = size(0.0, least=0)  # norm=global: labels less confident are ties
    vote_tau: float = size(0.01, above=0)  # several sources: their labels are weighed by softmax(-cost / vote_tau)


@dataclass(frozen=True)
class Model:
    """The reward model, and sizes of its training."""

    kind: Literal["mlp", "transformer", "general", "mixture"] = "transformer"
    hidden: tuple[int, ...] = size((256, 256), least=1)  # of all but the transformer
    agg: Literal["sum", "mean"] = "sum"  # of mlp and mixture: what a segment is worth
    blocks: int = size(2, least=1)  # general: planes in which tastes may go in circles
    tau: float = size(0.1, above=0)  # general: temperature of its scores
    tastes: int = size(2, least=1)  # mixture: rewards that are mixed
    annotators: int = size(2, least=1)  # mixture: who answered is a number below this one
    annotator: int = size(0, least=0)  # mixture: whose reward is learned from
    width: int = size(256, least=1)  # of the transformer
    layers: int = size(1, least=1)
    heads: int = size(4, least=1)
    weighted: bool = True  # attention over steps, as the paper of the Preference Transformer has it
    dropout: float = size(0.1, least=0, below=1)
    steps: int = size(20_000, least=1)
    batch: int = size(256, least=1)  # pairs
    segment: int = size(100, least=1)  # steps of a window, at most those of the longest episode that is compared
    held_out: float = size(0.1, least=0, below=1)  # share of the pairs that judge the model; drawn before it learns
    checks: int = size(20, least=1)  # how often they do; the best is kept
    samples: int = size(4, least=1)  # of the Gaussian
    noise: Literal["per_segment", "per_step"] = "per_segment"
    variance: Literal["hinge", "target"] = "hinge"
    unlabelled: int = size(0, least=0)  # random pairs without a label, of which those that the model is sure of count too


@dataclass(frozen=True)
class Config(iql.Config):
    """Preferences by transport, a Gaussian reward, implicit Q-learning."""

    labels: str = "cpa"  # oracle, random, cpa, cpa+fewshot, sim, dis, heron; or a file of pairs, such as labels.npz
    # a file of the source's episodes, labelled by their returns, where Problem.data has no "source"; of several, one flag each
    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    head: Literal["gaussian", "constant", "deterministic"] = "gaussian"  # constant: a std that is set, not learned
    pairs: int = size(500, least=1)
    trajectories: int = size(64, least=2)  # of source and target, at most
    pairing: Literal["all", "random", "cross_cluster"] = "all"
    least_confidence: float = size(0.0, least=0, most=1)  # of a label, |2 L - 1|; others do not count
    # heron: what decides, the most important first, one flag each, as --agent.factors=-info/energy
    factors: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    margins: tuple[float, ...] = size((), "heron: from how many standard deviations on each does; none: 1", least=0)
    fewshot: float = size(0.1, least=0, most=1)  # cpa+fewshot: share of true labels
    align: Align = field(default_factory=Align)
    model: Model = field(default_factory=Model)
    mean_coef: float = traced(1.0, "Weight of the loss of mean rewards.", least=0)
    sample_coef: float = traced(1.0, "Weight of the loss of sampled rewards.", least=0)
    variance_coef: float = traced(0.1, "Weight of what keeps the entropy of rewards up.", least=0)
    entropy: float = traced(0.0, "That entropy; 0 is that of a standard deviation of 0.242.")
    reward_lr: float = traced(1e-3, "Adam's largest step size for the reward model.", least=0)
    weight_decay: float = traced(1e-4, "Decoupled weight decay of the reward model.", least=0)
    pseudo_coef: float = traced(1.0, "model.unlabelled: weight of the loss of pairs without a label.", least=0)
    pseudo_least: float = traced(0.95, "model.unlabelled: how sure the model must be of such a pair.", least=0.5, below=1)
    # of learned rewards: by horizon / range of the episodes' returns; the same from the worst episode on; as they are
    rescale: Literal["range", "from_worst", "none"] = "range"
    kappa: float = traced(0.0, "Rewards are the mean less so many standard deviations.", least=0)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offline.DEBUG
    | {"pairs": 20, "model.width": 16, "model.heads": 2, "model.steps": 20, "model.batch": 8}
    | {"model.segment": 8, "model.checks": 2, "align.outer": 5, "align.inner": 20},
    "mlp": {"model.kind": "mlp", "model.batch": 16, "model.segment": 25, "reward_lr": 3e-4, "weight_decay": 0.0},
    "general": {"model.kind": "general", "head": "deterministic", "model.batch": 64, "model.segment": 25, "weight_decay": 0.0},
    "mixture": {"model.kind": "mixture", "head": "deterministic", "model.batch": 64, "model.segment": 25, "weight_decay": 0.0},
    "antmaze": iql.PRESETS["antmaze"] | {"rescale": "from_worst"},
    "metaworld": iql.PRESETS["metaworld"] | {"align.entries": 18, "model.segment": 25},
    "robomimic": iql.PRESETS["robomimic"] | {"model.segment": 50},
}
PRESETS["metaworld-mlp"] = PRESETS["metaworld"] | PRESETS["mlp"] | {"rescale": "none"}
