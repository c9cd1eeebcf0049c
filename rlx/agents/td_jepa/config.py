"""Settings of TD-JEPA and of the methods that share its back-end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlx.config import size, traced

Method = Literal[
    "td_jepa",
    "symmetric",
    "contrastive",
    "fb",
    "one_step_fb",
    "hilp",
    "rldp",
    "byol",
    "byol_gamma",
    "icvf",
    "laplacian",
    "random",
]

PRETRAIN, RELABEL, PREFILL, ADAPT = "pretrain", "relabel", "prefill", "adapt"  # stages


@dataclass(frozen=True)
class Config:
    """TD-JEPA (Bagatella et al. 2025) and other zero-shot methods: `features` says which. Needs --data, a dataset."""

    features: Method = "td_jepa"  # the loss that makes the features; presets of its names bring its settings too
    updates: int = size(3_000_000, least=0, budget=True)  # in all, rounded up to whole intervals of evaluations
    adapt: int = size(0, least=0, budget=True)  # updates after that on the environment's own task, by TD3 on the dataset
    adapt_frozen: bool = False  # and the state encoder stays as it is then
    adapt_online: bool = False  # and half of each batch are decisions of its own, one for each update
    adapt_prefill: int = size(5_000, least=1)  # online: decisions before the first update
    adapt_capacity: int = size(200_000, least=1)  # online: the newest decisions, that are kept
    n_envs: int = size(1, least=1)  # online: streams side by side
    eval_every: int = size(250_000, least=1)  # updates between evaluations, each with tasks inferred anew
    eval_episodes: int = size(10, least=1)  # of each task
    per_cycle: int = size(250, least=1)  # updates in one call of the device; online, behind as many decisions
    batch: int = size(1024, least=2)
    inference: int = size(10_000, least=1)  # transitions that a task is inferred from

    d_phi: int = size(256, least=1)  # of state features
    d_psi: int = size(50, least=1)  # of task features, and of z
    state_encoder: bool = True  # False: predictors and actor see observations (or a trunk's features) as they are
    phi_hidden: int = size(256, least=1)  # width of the state encoder
    phi_layers: int = size(0, least=0)  # hidden layers; 0: it is linear
    psi_hidden: int = size(256, least=1)  # width of the task encoder
    psi_layers: int = size(2, least=0)  # hidden layers
    predictor_hidden: int = size(1024, least=2)  # width of the predictors
    predictor_layers: int = size(1, least=0)  # hidden layers behind the two embeddings
    heads: int = size(2, least=1)  # of each predictor
    actor: Literal["gaussian", "flow"] = "gaussian"  # of fixed deviation; or of a noise, held to a flow model of the data
    actor_input: Literal["phi", "obs"] = "phi"  # state features; or what the state encoder sees
    actor_hidden: int = size(1024, least=2)  # width of the actor
    actor_layers: int = size(1, least=0)  # hidden layers behind the two embeddings
    flow_hidden: int = size(512, least=1)  # width of the flow model
    flow_layers: int = size(4, least=1)  # its hidden layers
    flow_steps: int = size(10, least=1)  # of its integration
    scale_goals: bool = False  # z of a goal by the inverse second moment too, where the method does not say it
    target_trunk: bool = False  # images: targets look through a moving average of the convolutions
    frames: int = size(1, least=1)  # images: stacked
    pad: int = size(2, least=0)  # images: random shifts, by so many pixels at most
    random_goals: float = size(0.375, least=0, most=1)  # hilp, icvf: share of goals that are any state
    same_goals: float = size(0.5, least=0, most=1)  # icvf: share of outcomes that are the intent
    horizon: int = size(5, least=1)  # rldp: steps predicted

    discount: float = traced(0.98, "Discount per decision.", least=0, below=1)
    future_discount: float = traced(0.98, "hilp, byol_gamma, icvf: of the time until the goal.", least=0, below=1)
    tau: float = traced(0.001, "How far targets move per update.", least=0, most=1)
    lr_phi: float = traced(1e-4, "Adam's step size for the state encoder.", least=0)
    lr_psi: float = traced(1e-4, "Adam's step size for the task encoder.", least=0)
    lr_predictor: float = traced(1e-4, "Adam's step size for predictors.", least=0)
    lr_actor: float = traced(1e-4, "Adam's step size for the actor.", least=0)
    lr_flow: float = traced(3e-4, "Adam's step size for the flow model.", least=0)
    lambda_phi: float = traced(0.1, "Weight of orthonormal state features.", least=0)
    lambda_psi: float = traced(0.1, "Weight of orthonormal task features.", least=0)
    goal_share: float = traced(0.5, "Share of z that are goals out of the batch.", least=0, most=1)
    bc: float = traced(0.0, "Weight of the data's actions, or of the flow's, in the actor.", least=0)
    actor_std: float = traced(0.2, "Gaussian actor: standard deviation.", least=0)
    actor_clip: float = traced(0.3, "Gaussian actor: bound of its noise while training.", least=0)
    pessimism: float = traced(0.0, "Spread of heads taken off the targets.", least=0)
    actor_pessimism: float = traced(0.0, "Spread of heads taken off the actor's values.", least=0)
    expectile: float = traced(0.5, "hilp, icvf: expectile of the value.", above=0, below=1)
    reward_shift: float = traced(0.0, "Added to rewards before a task is inferred.")


_OGBENCH = {
    "updates": 1_000_000,
    "batch": 256,
    "discount": 0.99,
    "future_discount": 0.99,
    "d_phi": 50,
    "phi_hidden": 512,
    "phi_layers": 4,
    "psi_hidden": 512,
    "psi_layers": 4,
    "predictor_hidden": 512,
    "predictor_layers": 2,
    "actor": "flow",
    "actor_input": "obs",
    "actor_hidden": 512,
    "actor_layers": 2,
    "lambda_phi": 1.0,
    "lambda_psi": 1.0,
    "tau": 0.005,
    "scale_goals": True,
    "bc": 3.0,
    "reward_shift": 1.0,
}
_NARROW = {
    "d_phi": 64,
    "d_psi": 32,
    "phi_hidden": 128,
    "psi_hidden": 128,
    "predictor_hidden": 128,
    "actor_hidden": 128,
    "flow_hidden": 128,
    "flow_layers": 2,
}
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        **{name: 16 for name in _NARROW if name != "flow_layers"},
        "d_phi": 8,
        "d_psi": 4,
        "updates": 40,
        "eval_every": 20,
        "eval_episodes": 2,
        "per_cycle": 10,
        "batch": 32,
        "inference": 256,
    },
    "small": {
        **_NARROW,
        "phi_layers": 2,
        "updates": 15_000,
        "eval_every": 5_000,
        "batch": 256,
        "discount": 0.97,
        "tau": 0.005,
        "lambda_psi": 1.0,
        # ten times the paper's steps, for thousands of updates
        **dict.fromkeys(("lr_phi", "lr_psi", "lr_predictor", "lr_actor"), 1e-3),
    },
    "walker": {},  # the paper's, for walker, cheetah and quadruped with states
    "pointmass": {"discount": 0.99, "lr_actor": 1e-6},
    "pixels": {"updates": 2_000_000, "batch": 512, "frames": 3},
    "ogbench": _OGBENCH,  # manipulation; antmaze has bc=0.3
    "ogbench_pixels": {**_OGBENCH, "d_phi": 256, "phi_layers": 0, "frames": 3},
    # Baselines: what each has for itself, to be named behind one of the above. Weights are out of the authors' grids.
    "fb": {"features": "fb", "lambda_psi": 1.0},
    "fb_ogbench": {"features": "fb", "lambda_psi": 100.0},
    "one_step_fb": {"features": "one_step_fb", "lambda_psi": 1.0},
    "rldp": {"features": "rldp", "lambda_psi": 0.01, "horizon": 5},
    "byol": {"features": "byol", "lambda_psi": 0.01},
    "byol_gamma": {"features": "byol_gamma", "lambda_psi": 0.01},
    "hilp": {"features": "hilp", "expectile": 0.5, "random_goals": 0.375, "future_discount": 0.99},
    "icvf": {"features": "icvf", "expectile": 0.9, "random_goals": 0.375, "same_goals": 0.5, "d_phi": 50, "d_psi": 50},
}
