"""MOREC (Luo, Xu, Cao and Yu 2024, "Reward-Consistent Dynamics Models are Strongly Generalizable for Offline Reinforcement
Learning", arXiv:2310.05422).

MOPO or MOBILE (``base``) in long episodes of a model whose predictions are chosen among candidates by a reward of transitions,
and which stop where none is believed. What is shared with both, the outline too, stands in `rlx.agents.model_based`; the reward
and how it is learned in `rlx.dynamics.scorer` and `rlx.dynamics.adversary`.
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
    """MOREC: long episodes in a model whose predictions are filtered by a dynamics reward."""

    filter: Literal["none", "reward", "likelihood", "oracle"] = "reward"  # what scores candidates
    starts: int = size(2_000, "imagined episodes side by side", least=1)


def _mopo(penalty: float, **more: Any) -> dict[str, Any]:
    return {"base": "mopo", "uncertainty_penalty": penalty, "scorer.snapshots": 40, **more}


def _mobile(penalty: float, **more: Any) -> dict[str, Any]:
    return {"base": "mobile", "uncertainty_penalty": penalty, "scorer.snapshots": 10, "actor_by_target": True, **more}


def _fixed(temperature: float) -> dict[str, Any]:
    return {"init_temperature": temperature, "temperature_lr": 0.0}


ARGMAX: dict[str, Any] = {"selection": "argmax"}
NEORL: dict[str, Any] = {"dynamics.clip": 1e6}  # the place on the track is in the observation
HALF: dict[str, Any] = {"real_ratio": 0.5}
DETERMINISTIC: dict[str, Any] = {"deterministic_backup": True}

MOPO = {
    "halfcheetah-random": _mopo(0.5),
    "halfcheetah-medium": _mopo(0.5, **ARGMAX),
    "halfcheetah-medium-replay": _mopo(0.5),
    "halfcheetah-medium-expert": _mopo(0.5, **ARGMAX),
    "hopper-random": _mopo(10.0, **ARGMAX),
    "hopper-medium": _mopo(15.0),
    "hopper-medium-replay": _mopo(15.0),
    "hopper-medium-expert": _mopo(15.0),
    "walker2d-random": _mopo(1.0),
    "walker2d-medium": _mopo(0.5),
    "walker2d-medium-replay": _mopo(0.25, **ARGMAX),
    "walker2d-medium-expert": _mopo(1.0),
    "neorl-halfcheetah-low": _mopo(2.0, **NEORL, **ARGMAX),
    "neorl-halfcheetah-medium": _mopo(2.0, **NEORL, **ARGMAX),
    "neorl-halfcheetah-high": _mopo(2.0, **NEORL),
    "neorl-hopper-low": _mopo(2.0, **NEORL, **ARGMAX, **_fixed(0.1)),
    "neorl-hopper-medium": _mopo(20.0, **NEORL, **ARGMAX, **HALF),
    "neorl-hopper-high": _mopo(20.0, **NEORL, **ARGMAX, **HALF, **_fixed(0.2)),
    "neorl-walker2d-low": _mopo(2.0, **NEORL),
    "neorl-walker2d-medium": _mopo(2.0, **NEORL),
    "neorl-walker2d-high": _mopo(2.0, **NEORL, **ARGMAX),
}
MOBILE = {
    "halfcheetah-random": _mobile(0.25),
    "halfcheetah-medium": _mobile(0.25),
    "halfcheetah-medium-replay": _mobile(0.25),
    "halfcheetah-medium-expert": _mobile(1.0, **HALF),
    "hopper-random": _mobile(7.5, **DETERMINISTIC),
    "hopper-medium": _mobile(1.5),
    "hopper-medium-replay": _mobile(0.5),
    "hopper-medium-expert": _mobile(1.5),
    "walker2d-random": _mobile(1.0),
    "walker2d-medium": _mobile(0.75, **{"dynamics.epochs": 30}),
    "walker2d-medium-replay": _mobile(0.1),
    "walker2d-medium-expert": _mobile(0.25),
    "neorl-halfcheetah-low": _mobile(1.0, **NEORL),
    "neorl-halfcheetah-medium": _mobile(0.5, **NEORL),
    "neorl-halfcheetah-high": _mobile(0.75, **NEORL),
    "neorl-hopper-low": _mobile(0.5, **NEORL),
    "neorl-hopper-medium": _mobile(2.0, **NEORL),
    "neorl-hopper-high": _mobile(2.5, **NEORL, **_fixed(0.1)),
    "neorl-walker2d-low": _mobile(0.75, **NEORL),
    "neorl-walker2d-medium": _mobile(0.25, **NEORL),
    "neorl-walker2d-high": _mobile(0.1, **NEORL, **HALF),
}
# In minutes on a few cores: for small tasks, and for a first look.
SMALL: dict[str, Any] = {
    "updates": 20_000,
    "block": 500,
    "eval_every": 2_000,
    "hidden": (64, 64),
    "dynamics.ensemble_size": 5,
    "dynamics.elites": 4,
    "dynamics.hidden": (64, 64),
    "starts": 200,
    "horizon": 50,
    "draws": 2,
    "value_draws": 3,
    "scorer.snapshots": 10,
    "scorer.hidden": (64, 64, 64),
    "scorer.game.steps": 4_000,
    "scorer.game.snap_every": 50,
    "scorer.game.generator": (64, 64),
}
PRESETS: dict[str, dict[str, Any]] = {
    "debug": DEBUG,
    "small": SMALL,
    "mobile": _mobile(0.5),
    **{f"mopo-{task}": own for task, own in MOPO.items()},
    **{f"mobile-{task}": own for task, own in MOBILE.items()},
    # what the filter is made of, one part at a time
    "unfiltered": {"filter": "none"},  # MOPO or MOBILE in long episodes
    "full_horizon": {"filter": "none", "horizon": 1_000, "retained": 1},  # and in whole ones
    "no_stop": {"r_min": float("-inf")},
    "stop_only": {"selection": "random"},
    "argmax": ARGMAX,
    "last_snapshot": {"scorer.snapshots": 1},
    "uncalibrated": {"scorer.calibrated": False, "r_min": float("-inf")},
    "no_penalty": {"uncertainty_penalty": 0.0},
    "distilled": {"scorer.distilled": True},
    # another generator in the game: as it goes on by itself, or as an agent that discriminators pay
    "multi_step": {"scorer.game.horizon": 5},
    "rl_generator": {"scorer.game.generator_by": "rl", "scorer.game.horizon": 5},
    "likelihood": {"filter": "likelihood", "r_min": float("-inf")},
}


def make(config: Config, problem: Problem) -> Agent:
    return model_based.make("morec", config, problem)
