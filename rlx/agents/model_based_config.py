"""Settings of offline methods that learn in a model of the data, see `rlx.agents.model_based`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlx.agents import offline
from rlx.config import size, traced
from rlx.dynamics.adversary import Game
from rlx.dynamics.filtered import Selection


@dataclass(frozen=True)
class Dynamics:
    """The ensemble, and how it is fitted."""

    ensemble_size: int = size(7, least=1)
    elites: int = size(5, "members of least error, which predict", least=1)
    hidden: tuple[int, ...] = size((200, 200, 200, 200), least=1)
    lr: float = size(1e-3, least=0)
    batch: int = size(256, least=1)
    epochs: int = size(200, "passes at most", least=1)
    patience: int = size(5, "passes in a row in which no member gets better, after which it ends", least=1)
    holdout: float = size(0.2, "share of the rows, at most 1000, that tell when to stop", above=0, below=1)
    clip: float = size(25.0, "predictions are within +- this", above=0)


@dataclass(frozen=True)
class Scorer:
    """The dynamics reward, and the game that it is learned in."""

    snapshots: int = size(40, "discriminators that speak, of the latest 400; 1: the last alone", least=1)
    hidden: tuple[int, ...] = size((128, 256, 256), least=1)
    delta: bool = True  # it reads the change, not the observation arrived at
    calibrated: bool = True  # logits in units of what is typical of each discriminator
    common_range: bool = False  # these units reach to the largest of all
    most: float = size(1.0, "largest probability of one", above=0, most=1)
    distilled: bool = False  # one network says what all of them say together: imagined steps become cheaper by as many times
    distilled_hidden: tuple[int, ...] = size((256, 256), least=1)
    distilled_steps: int = size(20_000, least=1)
    distilled_agreement: float = size(0.95, "least share of pairs of candidates that both order alike", least=0, most=1)
    game: Game = Game()


@dataclass(frozen=True)
class ModelBasedConfig(offline.ValueConfig):
    """Settings of offline methods that learn in a model."""

    updates: int = size(3_000_000, least=1, budget=True)  # of the policy, in all
    block: int = size(1_000, least=1)  # updates after each imagined rollout
    eval_every: int = size(10_000, least=1)  # updates between evaluations
    base: Literal["mopo", "mobile"] = "mopo"  # what pays for uncertainty: the reward, or the values
    dynamics: Dynamics = Dynamics()
    # imagined episodes
    starts: int = size(2_000, "side by side", least=1)
    horizon: int = size(100, "decisions of each, at most", least=1)
    retained: int = size(5, "rollouts that are kept", least=1)
    termination: str = "auto"  # when the task is over, a name in rlx.dynamics.terminations; auto: by the environment's name
    # the filter
    filter: Literal["none", "reward", "likelihood", "oracle"] = "none"  # what scores candidates
    selection: Selection = "softmax"  # random: only stopping is left
    draws: int = size(2, "candidates of each elite", least=1)
    filter_temperature: float = traced(0.1, "Of the softmax over scores; inf: any candidate.", above=0, finite=False)
    r_min: float = traced(0.6, "An episode stops where the score is below this; -inf: never.", finite=False)
    stop: Literal["terminate", "truncate", "drop"] = "terminate"  # what the transition that stopped it is
    stop_after: int = size(0, "decisions of an episode that stop nothing", least=0)
    scorer: Scorer = Scorer()
    # the policy
    real_ratio: float = size(0.05, "share of real transitions in a batch", least=0, most=1)
    uncertainty_penalty: float = traced(0.5, "Weight of what is paid for uncertainty.", least=0)
    value_draws: int = size(10, "next states of each elite, whose values are compared (mobile)", least=1)
    deterministic_backup: bool = False  # no entropy in the values
    actor_by_target: bool = False  # the actor follows the target critics
    actor_lr: float = traced(1e-4, "Adam's step size for the actor, at the start.", least=0)
    actor_lr_decay: bool = True  # by a cosine, to 0 at the end
    temperature_lr: float = traced(1e-4, "Adam's step size for the temperature.", least=0)
    init_temperature: float = traced(1.0, "Temperature at the start.", above=0)
    target_entropy: float = traced(-1.0, "Target entropy per action dimension.")


DEBUG: dict[str, Any] = {
    "updates": 40,
    "block": 10,
    "batch": 32,
    "hidden": (16, 16),
    "eval_every": 20,
    "eval_episodes": 2,
    "dynamics.ensemble_size": 3,
    "dynamics.elites": 2,
    "dynamics.hidden": (16,),
    "dynamics.batch": 32,
    "dynamics.epochs": 5,
    "starts": 8,
    "horizon": 5,
    "retained": 2,
    "value_draws": 2,
    "scorer.snapshots": 4,
    "scorer.hidden": (16, 16),
    "scorer.game.steps": 400,
    "scorer.game.snap_every": 100,
    "scorer.game.batch": 32,
    "scorer.game.discriminator_lr": 3e-3,
    "scorer.game.generator": (16,),
}
