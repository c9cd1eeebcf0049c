"""MOPO (Yu et al. 2020, "MOPO: Model-based Offline Policy Optimization", arXiv:2005.13239).

Short episodes in a model of the data, whose rewards are less the largest norm of the members' standard deviations (eq. 9).
What is shared with MOBILE and MOREC, the outline too, stands in `rlx.agents.model_based`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlx.agents import model_based
from rlx.agents.model_based_config import DEBUG, ModelBasedConfig
from rlx.config import size
from rlx.types import Agent, Problem


@dataclass(frozen=True)
class Config(ModelBasedConfig):
    """MOPO: SAC in a model of the data that pays for its uncertainty."""

    starts: int = size(50_000, "imagined episodes side by side", least=1)
    horizon: int = size(5, "decisions of each, at most", least=1)


def _task(penalty: float, horizon: int = 5) -> dict[str, Any]:
    return {"uncertainty_penalty": penalty, "horizon": horizon}


PRESETS: dict[str, dict[str, Any]] = {
    "debug": DEBUG,
    "halfcheetah-medium": _task(0.5),
    "halfcheetah-medium-replay": _task(0.5),
    "halfcheetah-medium-expert": _task(2.5),
    "hopper-medium": _task(5.0),
    "hopper-medium-replay": _task(2.5),
    "hopper-medium-expert": _task(5.0),
    "walker2d-medium": _task(0.5),
    "walker2d-medium-replay": _task(2.5, 1),
    "walker2d-medium-expert": _task(2.5, 1),
    # whole episodes, without a filter: how far a model alone carries
    "full_horizon": {"starts": 2_000, "horizon": 1_000, "retained": 1},
}


def make(config: Config, problem: Problem) -> Agent:
    return model_based.make("mopo", config, problem)
