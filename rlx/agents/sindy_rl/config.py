"""Settings of SINDy-RL, and of the comparisons that are presets of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from rlx.agents import ppo
from rlx.config import size, traced
from rlx.dynamics.adversary import Game
from rlx.planning.planner import Planner


def _ppo() -> ppo.Config:
    """PPO as it improves the policy inside the model: 2 500 rounds of 4 000 imagined decisions."""
    return ppo.Config(
        env_steps=10_000_000,
        n_envs=40,
        steps=100,
        epochs=30,
        minibatches=32,
        state_std=True,
        normalize_obs=False,
        value_coef=1.0,
        kl_coef=0.2,
        adaptive_kl_target=0.01,
        lr_decay=1.0,
        log_std=0.0,
    )


@dataclass(frozen=True)
class Library:
    """A dictionary of monomials, and how sparse a model of its terms is."""

    degree: int = size(2, least=1)
    interact: bool = True  # products of different variables
    bias: bool = False  # a constant term
    alpha: float = size(5e-5, least=0)  # ridge
    threshold: float = size(7e-3, least=0)  # least coefficient, in the units of the data


@dataclass(frozen=True)
class Network:
    """Networks that stand in place of the sparse dynamics, and how each member is fitted."""

    RENAMED = {"max_norm": "max_grad_norm"}

    hidden: tuple[int, ...] = size((64, 64), least=1)
    activation: str = "tanh"
    normalize: bool = False  # inputs to mean 0 and standard deviation 1
    lr: float = size(1e-3, least=0)
    max_grad_norm: float = size(1.0, above=0)
    batch: int = size(500, least=1)
    epochs: int = size(50, least=1)  # passes at most
    patience: int = size(1, least=1)  # passes in a row with an error on the rows held out above its least, after which it ends
    holdout: float = size(0.2, above=0, below=1)  # share of a member's rows that it does not learn from


@dataclass(frozen=True)
class Filter:
    """A dynamics reward that chooses among the members' predictions, and stops imagined episodes (`rlx.dynamics.filtered`)."""

    selection: Literal["none", "softmax", "argmax", "random"] = "none"  # random: the aggregate predicts, only stopping is left
    temperature: float = traced(0.1, "Of the softmax over scores; inf: any member.", above=0, finite=False)
    r_min: float = traced(0.6, "An imagined episode stops where the score is below this; -inf: never.", finite=False)
    stop: Literal["terminate", "truncate"] = "terminate"  # with a value of 0, or that of where it stopped
    snapshots: int = size(10, "discriminators that speak", least=1)
    hidden: tuple[int, ...] = size((64, 64), least=1)
    game: Game = Game(steps=4_000, snap_every=100, generator=(64, 64))
    game_every: int = size(0, "fits after which it is learned anew, on all data; 0: that of the first stays", least=0)


@dataclass(frozen=True)
class Config:
    """SINDy-RL: sparse dynamics, rewards and policies that can be read, from little data."""

    RENAMED = {"members": "ensemble_size", "caution": "uncertainty_penalty", "policy_degree": "policy_degrees"}

    # the data
    seed_steps: int = size(8_000, least=2)  # real decisions at random, before the first fit
    seed_episode: int = size(1_000, least=2)  # decisions after which these are begun anew
    refit_every: int = size(10, least=0)  # rounds of PPO between refits; 0: the first model stays
    collect: int = size(500, least=1)  # real decisions of the policy without noise, before each refit
    online: int = size(8_000, least=2)  # so many of them are kept, in whole trajectories
    n_envs: int = size(1, least=1)  # real streams side by side
    # the model
    model: Literal["sparse", "mlp"] = "sparse"  # the dynamics: equations, or networks (a learned reward stays sparse)
    network: Network = Network()
    dynamics: Library = Library()
    tensor: bool = True  # the dynamics have products of states and inputs
    reward: Literal["auto", "task", "sparse"] = "auto"  # the environment's own formula, or learned; auto: where it has none
    rewards: Library = Library(degree=2, interact=False, alpha=1e-5, threshold=5e-2)  # where it is learned
    reward_input: bool = False  # a learned reward sees the action too
    reward_pairing: Literal["next", "current"] = "next"  # it is of the observation arrived at (the paper), or left (its code)
    ensemble_size: int = size(20, least=1)
    bag: float = size(0.6, "share of the rows for each, drawn with replacement (networks: without)", least=0, most=1)
    bag_frozen: bool = False  # of the rows of the first fit, in later ones too (as the paper's code does)
    bag_by: Literal["rows", "trajectories"] = "rows"  # what is drawn: single rows, or all of a trajectory together
    drop: int | None = size(None, "terms that each may not use, at random; None: 1, or 0 of less than 16 terms", least=0)
    aggregate: Literal["median", "mean", "sample"] | int = size(
        "median", "of the members (networks: the mean); sample: one per episode; a number: that member", least=0
    )
    unbias: bool = False  # the last regression is without the ridge
    backend: Literal["rlx", "pysindy"] = "rlx"  # who does the regressions
    modes: int = size(0, "so many principal components stand for the observations; 0: themselves", least=0)
    guard: float = size(10.0, "a refit with so many times the old error over 20 steps is not taken; 0: any is", least=0)
    # the imagined environment
    horizon: int = size(0, least=0)  # decisions per imagined episode; 0: as the real one
    box: tuple[float, ...] = size((), "largest observations where it is trusted; (): the environment's, or the data's", above=0)
    # imagined episodes begin where real ones did, anywhere in the data, or where the task's own resets put them (not counted)
    starts: Literal["starts", "rows", "task"] = "starts"
    exit: Literal["penalty", "terminate", "truncate"] = "penalty"  # beyond the box; penalty: the least reward to the end
    project: bool = True  # predictions are projected as the environment says (cosine and sine on their circle)
    uncertainty_penalty: float = traced(0.0, "Reward less per standard deviation of the ensemble; below 0 a bonus.")
    filter: Filter = Filter()
    # the policy
    improve: Literal["ppo", "gradient"] = "ppo"  # inside the model; gradient: that of short runs, through the model
    lookahead: int = size(32, least=1)  # decisions of these runs
    planner: Planner = Planner(horizon=20)  # model predictive control in the model, beside the policy or in its place
    ppo: ppo.Config = dataclasses.field(default_factory=_ppo)
    names: tuple[str, ...] = ()  # of the observations, then of the actions, for the equations; (): the environment's
    # the policy as a polynomial
    distil: bool = True
    policy_degrees: tuple[int, ...] = size((3, 4), "tried; the least that earns nearly as much as the best is kept", least=1)
    policy_bias: bool = False
    policy_aggregate: Literal["median", "mean"] | int = size("mean", "of the members; a number: that one", least=0)
    policy_drop: int = size(0, least=0)  # terms that each member may not use; they shrink the mean
    distil_rounds: int = size(5, "of running the polynomial in the model and learning the network's actions", least=1)
    distil_passes: int = size(3, "regressions more, without the rows that are beyond a bound as they should be", least=0)
    # of the first round: the network's in the model, the data's, anywhere in the box, normal as the data are, or in the convex
    # hull of the policy's last real run
    distil_states: Literal["runs", "rows", "box", "gaussian", "hull"] = "runs"
    # what chooses ridge and threshold: the states themselves, a fifth that is held out, those of the policy's real runs
    distil_select: Literal["states", "held_out", "online"] = "states"
    distil_steps: int = size(5_000, least=1)  # imagined decisions of each
    distil_length: int = size(500, least=1)  # of each run of them
    distil_starts: float = size(0.25, least=0)  # standard deviation of the noise on the states that these begin with
    distil_noise: float = size(0.1, least=0)  # and of the noise on the states that it is fitted to
    distil_clip: float = size(5.0, least=1)  # largest target, in ranges of the action
    # evaluation
    eval_every: int = size(50, least=1)  # rounds of PPO between evaluations on the real environment
    eval_episodes: int = size(5, least=1)


SWIMMER_BOX = (3.1416, 1.7453, 1.7453, 10.0, 10.0, 10.0, 10.0, 10.0)
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        "seed_steps": 400,
        "seed_episode": 100,
        "refit_every": 2,
        "collect": 60,
        "online": 200,
        "ensemble_size": 5,
        "ppo.env_steps": 2_048,
        "ppo.n_envs": 8,
        "ppo.steps": 32,
        "ppo.epochs": 2,
        "ppo.minibatches": 4,
        "ppo.hidden": (32,),
        "filter.snapshots": 2,
        "filter.hidden": (16,),
        "filter.game.steps": 400,
        "filter.game.discriminator_lr": 3e-3,
        "filter.game.snap_every": 100,
        "filter.game.generator": (16,),
        "planner.horizon": 3,
        "planner.samples": 16,
        "planner.proposals": 2,
        "planner.elites": 4,
        "planner.iterations": 2,
        "horizon": 100,
        "distil_steps": 400,
        "distil_length": 50,
        "eval_every": 4,
        "eval_episodes": 2,
    },
    # a fifth of the paper's rounds, enough for the swing-up
    "swingup": {"ppo.env_steps": 2_000_000, "eval_every": 25},
    # as the authors' runs were: RLlib's clamp keeps the critic almost untrained, which is theirs, not PPO's
    "paper": {
        "ppo.value_error_clip": 0.2,
        "ppo.n_envs": 2,
        "ppo.steps": 2_000,
        "guard": 0.0,
        "exit": "terminate",
        "starts": "task",
        "bag_frozen": True,
        "drop": 1,
        "policy_drop": 1,
        "policy_degrees": (3,),
        "distil_rounds": 1,
        "distil_passes": 0,
    },
    "linear": {
        "dynamics.degree": 1,
        "dynamics.interact": False,
        "tensor": False,
        "dynamics.alpha": 0.0,
        "dynamics.threshold": 0.0,
        "drop": 0,
    },
    "no_refit": {"refit_every": 0},
    # the paper's comparison "Dyna-NN", which forgets nothing: 62 refits
    "dyna_nn": {
        "model": "mlp",
        "ensemble_size": 5,
        "seed_steps": 8_000,
        "refit_every": 40,
        "collect": 1_000,
        "online": 62_000,
    },
    # real decisions are those of plans in the equations; PPO, from which some are proposed, has a hundred rounds
    "planner": {
        "planner.use": "act",
        "planner.hold": 5,
        "ppo.env_steps": 400_000,
        "eval_every": 25,
        "distil": False,
    },
    "gradient": {"improve": "gradient", "ppo.lr": 1e-3, "ppo.minibatches": 16},
    "swimmer": {
        "seed_steps": 12_000,
        "seed_episode": 100,
        "refit_every": 5,
        "collect": 1_000,
        "online": 12_000,
        "dynamics.interact": False,
        "dynamics.alpha": 0.5,
        "dynamics.threshold": 2e-2,
        "box": SWIMMER_BOX,
        "starts": "rows",  # many short episodes from anywhere in the data: long ones end where the model is exploited
        "horizon": 25,
        "exit": "terminate",  # the least reward to the end would outweigh all that swimming earns
        "names": ("angle", "joint1", "joint2", "vx", "vy", "rate", "rate1", "rate2", "u1", "u2"),
        "ppo.env_steps": 5_000_000,
        "ppo.lr_decay": 0.0,
        "ppo.discount": 0.999,  # a stroke pays many decisions later
        "ppo.gae_lambda": 0.99,
        "distil_steps": 10_000,
        "distil_length": 200,
        "distil_starts": 0.2,
        "policy_degrees": (3,),
    },
    "ks22": {
        "modes": 12,
        "seed_steps": 8_000,
        "seed_episode": 400,
        "refit_every": 25,
        "collect": 400,
        "online": 4_000,
        "tensor": False,
        "dynamics.alpha": 1e-3,
        "dynamics.threshold": 1e-3,
        "rewards.interact": True,
        "rewards.bias": True,
        "rewards.alpha": 1e-5,
        "rewards.threshold": 1e-4,
        "reward_input": True,
        "starts": "rows",
        "ppo.env_steps": 5_000_000,
        "policy_degrees": (2,),
        "policy_bias": True,
    },
}
