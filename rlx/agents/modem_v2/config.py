"""Settings of MoDem-V2, of MoDem, and of what lies between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlx.agents.tdmpc import TdConfig
from rlx.config import size, traced


@dataclass(frozen=True)
class Handover:
    """How control goes from the cloned policy to the planner: at once after seeding (off), with a probability that grows with
    the decisions (schedule), or grows while evaluations do not get worse (gated)."""

    kind: Literal["off", "schedule", "gated"] = "schedule"
    steps: float = traced(100_000, "Decisions after seeding until the planner has all.", least=1)
    raised: float = traced(0.05, "gated: what an evaluation that is as good as the best adds.", above=0, most=1)


@dataclass(frozen=True)
class Config(TdConfig):
    """MoDem-V2: a cloned policy, a latent model, and a planner that keeps near policies and to what critics agree on."""

    RENAMED = {"members": "ensemble_size"}

    env_steps: int = size(200_000, least=0, budget=True)  # decisions in all, seeding included; 0: the clone alone
    seed_steps: int = size(5_000, least=1)  # decisions of the clone before the model learns; whole episodes of all streams
    bc_updates: int | None = size(None, least=0)  # None: two for each decision of the demonstrations; 0: nothing is cloned
    batch: int = size(256, least=1)
    eval_every: int = size(2_500, least=1)  # decisions between evaluations
    eval_episodes: int = size(30, least=1)

    clone: bool = True  # a frozen copy of the cloned policy acts, and is valued, beside what learns; without, it learns on
    centering: bool = True  # candidates are what policies do; without, they are a Gaussian's, and some of policies
    handover: Handover = field(default_factory=Handover)
    ensemble_size: int = size(5, least=1)  # actor-critics that learn; with several none values what it proposed itself
    pick: Literal["elite", "mean"] = "elite"  # what is done
    samples: int = size(510, least=1)  # candidates
    policy_share: float = size(0.05, least=0, most=1)  # without centering: so many more are policies'
    elites: int = size(64, least=1)
    iterations: int = size(1, least=1)  # of the search
    warm_start: bool = False  # a search begins with the last plan
    bc_use_tail: bool = False  # the last ``horizon`` decisions of a demonstration are cloned too
    fix_tail_mask: bool = False  # the last decision of an episode may end a window
    success: str = "solved"  # gated: info that says whether an episode did the task; "": evaluations go by returns
    reward: str = ""  # info, such as success, that is the reward: 1 where it says so, else 0; "": the environment's own
    penalty: str = ""  # info, such as torque, whose Euclidean norm costs ``penalty_coef``

    frames: int = size(2, least=1)  # images: stacked

    discount: float = traced(0.95, "Discount per decision.", least=0, most=1)
    lr: float = traced(3e-4, "Adam's step size.", least=0)
    value_min: float = traced(0.0, "Weight of the least estimate of a candidate.")
    value_mean: float = traced(1.0, "Weight of the mean of its estimates.")
    value_std: float = traced(-10.0, "Weight of their standard deviation.")
    std: float = traced(0.1, "Deviation of policies' noise; least one of the search in the end.", least=0)
    std_start: float = traced(0.1, "Least deviation of the search at first.", least=0)
    std_steps: float = traced(12_500, "Decisions until it has changed.", least=1)
    demo_share: float = traced(0.75, "Share of demonstrations in a batch at first.", least=0, most=1)
    demo_share_end: float = traced(0.25, "And in the end.", least=0, most=1)
    demo_steps: float = traced(50_000, "Decisions until then.", least=1)
    reward_shift: float = traced(0.0, "Added to rewards: -1 makes of 1 and 0 a 0 at success, else -1.")
    penalty_coef: float = traced(0.0, "Price of ``penalty``.", least=0)


ONE = {"ensemble_size": 1, "value_min": 1.0, "value_mean": 0.0, "value_std": 0.0}  # one pair of critics, the lesser of the two
OFF = {"handover.kind": "off"}
V1: dict[str, Any] = {
    **ONE,
    **OFF,
    "clone": False,
    "centering": False,
    "pick": "mean",
    "warm_start": True,
    "samples": 512,
    "iterations": 6,
    "discount": 0.99,
    "std": 0.05,
    "reward_shift": -1.0,
}
TINY: dict[str, Any] = {
    "env_steps": 10_400,
    "n_envs": 16,
    "seed_steps": 1_600,
    "batch": 64,
    "latent": 24,
    "hidden": 96,
    "encoder_hidden": 96,
    "horizon": 3,
    "samples": 66,
    "elites": 16,
    "ensemble_size": 3,
    "eval_every": 800,
    "eval_episodes": 30,
    "handover.steps": 6_400,
    "demo_steps": 6_400,
    "horizon_steps": 2_400,
}
# MoDem's share there; what the environment pays is dense, and both methods learn from success alone. Beside images the hand and
# its fingers now and a step ago
METAWORLD: dict[str, Any] = {
    "seed_steps": 5_000,
    "demo_share": 0.5,
    "reward": "success",
    "proprio": "0:4,18:22",
}
ADROIT: dict[str, Any] = {"seed_steps": 5_000, "reward": "success"}
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        **{k: v for k, v in TINY.items() if "." not in k},
        "env_steps": 400,
        "n_envs": 2,
        "seed_steps": 100,
        "bc_updates": 20,
        "utd": 0.1,
        "batch": 16,
        "latent": 8,
        "hidden": 16,
        "encoder_hidden": 16,
        "horizon": 2,
        "samples": 12,
        "elites": 4,
        "eval_every": 100,
        "eval_episodes": 2,
    },
    "tiny": TINY,  # for pushing on a small table, in minutes on two cores
    "modem_v2": {},
    "bc_only": {"env_steps": 0},
    "v1": V1,  # MoDem
    "v1_as_in_v2": {**ONE, **OFF, "centering": False, "samples": 484, "policy_share": 26 / 484},  # MoDem as in V2's code
    "torque_penalty": {"penalty": "torque", "penalty_coef": 1e-3},  # after v1, or any other; the paper's price is not known
    "centering": {**ONE, **OFF},
    "transition": ONE,  # centering and the scheduled handover
    "ensemble": OFF,  # centering and several critics
    "gated": {"handover.kind": "gated"},
    "no_centering": {"centering": False, "samples": 484, "policy_share": 26 / 484},
    "no_cloning": {"bc_updates": 0},
    "no_oversampling": {"demo_share": 0.0, "demo_share_end": 0.0},
    "tiny_v1": {**TINY, **{k: v for k, v in V1.items() if k != "samples"}},
    "metaworld": METAWORLD,
    "v1_metaworld": {**V1, **METAWORLD, "iterations": 4},
    "v1_adroit": {**V1, "iterations": 8},  # before one of adroit_*
    "metaworld_goal": {"proprio": "0:4,18:22,-3:"},  # after one of the two, where pictures do not show it
    "adroit_door": {**ADROIT, "proprio": "0:27,29:32"},  # as MoDem has them
    "adroit_hammer": {**ADROIT, "proprio": "0:36"},
    "adroit_pen": {**ADROIT, "proprio": "0:24,-9:-6"},
}
