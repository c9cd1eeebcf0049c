"""MOBILE (Sun et al. 2023, "Model-Bellman Inconsistency for Offline Model-based Reinforcement Learning", ICML).

Short episodes in a model of the data; the value of an imagined transition is less how much the members differ in the values of
what comes next. What is shared with MOPO and MOREC, the outline too, stands in `rlx.agents.model_based`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlx.agents import model_based
from rlx.agents.model_based_config import DEBUG, ModelBasedConfig
from rlx.config import size
from rlx.types import Agent, Problem


@dataclass(frozen=True)
class Config(ModelBasedConfig):
    """MOBILE: SAC in a model of the data whose values pay for what the members disagree on."""

    base: Literal["mopo", "mobile"] = "mobile"  # what pays for uncertainty: the reward, or the values
    starts: int = size(50_000, "imagined episodes side by side", least=1)
    horizon: int = size(5, "decisions of each, at most", least=1)
    deterministic_backup: bool = True  # no entropy in the values


def _task(penalty: float, horizon: int = 5) -> dict[str, Any]:
    return {"uncertainty_penalty": penalty, "horizon": horizon}


PRESETS: dict[str, dict[str, Any]] = {
    "debug": DEBUG,
    "halfcheetah-random": _task(0.5),
    "halfcheetah-medium": _task(0.5),
    "halfcheetah-medium-replay": _task(0.1),
    "halfcheetah-medium-expert": _task(1.0),
    "hopper-random": _task(5.0),
    "hopper-medium": _task(1.5),
    "hopper-medium-replay": _task(0.1),
    "hopper-medium-expert": _task(1.5),
    "walker2d-random": _task(2.0),
    "walker2d-medium": {**_task(0.5), "dynamics.epochs": 30},
    "walker2d-medium-replay": _task(0.5, 1),
    "walker2d-medium-expert": _task(1.5, 1),
    # whole episodes, without a filter: how far a model alone carries
    "full_horizon": {"starts": 2_000, "horizon": 1_000, "retained": 1},
}


def make(config: Config, problem: Problem) -> Agent:
    return model_based.make("mobile", config, problem)
