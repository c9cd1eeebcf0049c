"""Settings of YANN-DDPG and of its baselines, which are presets of it: all go through the same loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlx.config import size, traced

Residual = Literal["block", "paper", "shared", "none"]


@dataclass(frozen=True)
class Config:
    """YANN-DDPG: an actor-critic that starts as an explicit model predictive controller."""

    # the run
    episodes: int = size(50, least=1, budget=True)  # of full length, in all; the warm-up included
    n_envs: int = size(1, least=1)  # streams side by side
    warmup: int = size(256, least=1)  # decisions before the first update
    updates: int = size(1, least=1)  # per decision
    policy_delay: int = size(1, least=1)  # critic updates per actor update
    batch: int = size(64, least=1)
    capacity: int = size(50_000, least=1)  # rows of replay
    eval_every: int = size(5, least=1)  # episodes between evaluations
    eval_episodes: int = size(64, least=1)
    # the controller that it starts from
    law: Literal["mpqp", "qp", "lqr"] = "mpqp"  # explicit MPC; MPC solved for each state; the clipped regulator
    horizon: int = size(2, least=1)  # decisions that the controller looks ahead
    state_rows: bool = True  # it keeps predicted states inside the box
    soft: float | None = size(None, above=0)  # price of leaving the box; None: it must not
    outside: Literal["nearest", "zero"] = "nearest"  # what it does where the program has no solution; the paper's does nothing
    mode: Literal["gated", "bigm"] = "gated"  # how a region is chosen; bigm: the paper's network, layer by layer
    compress: bool = False  # each hyperplane once, instead of once per region
    merge: bool = False  # regions with the same first move become one, where together they are convex
    # what learns
    actor: Literal["law", "mlp"] = "law"  # mlp: a plain network, which starts at random
    residual: Residual = "block"  # a net per region; the paper's, dense over regions; one for all; none
    width: int = size(16, least=1)  # of a region's net
    init: Literal["zero_last", "paired"] = "zero_last"  # how residuals start at 0
    trust: float | None = size(None, "bound of the residual as a share of the input's range (safe: 0.25)", above=0)
    critic: Literal["lqr", "mpqp", "mlp"] = "lqr"  # starts as the regulator's action value, as the program's, or at random
    critic_P: Literal["discounted", "paper"] = "discounted"  # the paper puts the undiscounted cost-to-go into it
    critic_hidden: tuple[int, ...] = size((64, 64), least=1)
    critic_input: Literal["deviation", "paper"] = "deviation"  # h sees the input less the controller's, with weights of 0 at
    #    the start, so that nothing is concluded about inputs that were not tried; or the input itself
    critic_scale: Literal["local", "replay"] = "local"  # h and errors count in units of the start value at z, so that no state
    #    drowns another; or of what the first policy met
    n_critics: int = size(1, least=1, most=2)  # 2: the larger of two costs counts
    hidden: tuple[int, ...] = size((256, 256), least=1)  # of the mlp actor and critic
    clone: int = size(0, least=0)  # updates of behaviour cloning of the controller before all else, for the mlp actor
    loss: Literal["huber", "mse"] = "huber"  # the paper's is mse
    discount: float = size(0.99, above=0, most=1)  # static, since the critic begins as the solution of an equation with it
    # safety
    safeguard: Literal["keep_best", "q_gate", "none"] = "keep_best"
    patience: int = size(3, least=1)  # worse evaluations in a row before the best is restored
    filter: bool = False  # keep the next state, as the linear model predicts it, inside the box
    actor_lr: float = traced(1e-4, "Adam's step size for the actor.", least=0)
    critic_lr: float = traced(1e-3, "Adam's step size for the critic.", least=0)
    tau_actor: float = traced(0.005, "How far the target actor moves per update.", least=0, most=1)
    tau_critic: float = traced(0.005, "How far the target critic moves per update.", least=0, most=1)
    explore_sigma: float = traced(  # the law's noise ends where the linear model sees a state leave its box
        0.1, "Standard deviation of exploration noise while training, as a share of the input's range.", least=0
    )
    huber_delta: float = traced(10.0, "Where the critic's loss becomes linear, in mean stage costs.", above=0)
    tolerance: float = traced(0.05, "keep_best: how much worse than the best, relatively, an evaluation may be.", least=0)
    certainty: float = traced(0.0, "keep_best: standard errors over starts by which a gain must be above 0 to count.", least=0)
    gate: float = traced(0.0, "q_gate: predicted gain, relative to the cost, below which the controller acts.", least=0)
    margin: float = traced(
        0.0, "filter, noise: distance kept from the box's border, as a share of its half-width.", least=0, most=1
    )


_DDPG: dict[str, Any] = {"actor": "mlp", "critic": "mlp", "safeguard": "none"}

PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"episodes": 3, "warmup": 32, "eval_every": 1, "eval_episodes": 4, "hidden": (32, 32), "width": 4},
    "paper": {
        "residual": "paper",
        "init": "paired",
        "loss": "mse",
        "safeguard": "none",
        "outside": "zero",
        "critic_P": "paper",
        "critic_input": "paper",
        "critic_scale": "replay",
        "explore_sigma": 0.0,
    },
    "safe": {"trust": 0.25, "filter": True},
    "reactor": {"width": 8, "state_rows": False, "actor_lr": 3e-5, "critic_lr": 3e-4},
    "frozen": {"residual": "none", "explore_sigma": 0.0},
    "lqr": {"law": "lqr", "residual": "none", "explore_sigma": 0.0},
    "ddpg": _DDPG,
    "ddpg_cloned": {**_DDPG, "clone": 5_000},
}
