"""Settings of RePo and of what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlx.config import size, traced
from rlx.dynamics.rssm import Reset
from rlx.planning.planner import Planner


@dataclass(frozen=True)
class Probe:
    """A decoder that shows what the latent has kept, and from which nothing is learned but itself."""

    enabled: bool = True
    joint_clip: bool = False  # its gradients are clipped together with the model's, as in the published code


@dataclass(frozen=True)
class Config:
    """RePo (Zhu et al. 2023): a world model of what predicts rewards. Baselines are settings: `objective`, `bottleneck`."""

    env_steps: int = size(500_000, least=1, budget=True)  # decisions in all, the prefill included
    n_envs: int = size(1, least=1)  # streams side by side
    prefill: int = size(5_000, least=1)  # decisions at random before the first update, rounded up to whole episodes
    collect: int = size(500, least=1)  # decisions per stream between updates
    updates: int = size(100, least=1)  # after each collection
    batch: int = size(50, least=1)  # windows
    chunk: int = size(50, least=2)  # rows of a window
    capacity: int = size(500_000, least=1)  # rows of replay
    eval_every: int = size(5_000, least=1)  # decisions between evaluations
    eval_episodes: int = size(10, least=1)  # of each evaluation

    # rewards; and observations; or features that agree with embeddings; or observations by two models, of task and distractors
    objective: Literal["repo", "recon", "barlow", "tia"] = "repo"
    bottleneck: Literal["dual", "fixed", "free_nats"] = "dual"  # beta learned; beta is init_beta; Dreamer's, of weight 1
    balanced: bool = True  # the divergence's gradients are split; else both sides get all of them
    reset: Reset = "full"  # what a window forgets where an episode begins; "paper" the state alone
    continues: bool = False  # a head learns where the task ends; without it none is taken to end
    greedy: Literal["best_of_100", "tanh_mean"] = "best_of_100"  # acting in evaluations
    probe: Probe = field(default_factory=Probe)
    planner: Planner = Planner(samples=256, elites=32)  # plans in the latent model, beside the actor or in its place

    pad: int = size(0, least=0)  # pictures of a window are shifted, all alike, by so many pixels at most
    channels: tuple[int, ...] = size((32, 64, 128, 256), least=1)  # of the encoder's convolutions
    embedding: int = size(1024, least=1)  # numbers that the encoder makes of an observation
    belief: int = size(200, least=1)  # size of the deterministic state, the GRU's
    state: int = size(30, least=1)  # size of the stochastic state
    hidden: int = size(200, least=1)  # width of all heads
    head_layers: int = size(3, least=1)  # of reward, value, continuation
    actor_layers: int = size(4, least=1)  # of the actor
    min_std: float = size(0.1, above=0)  # of states
    horizon: int = size(15, least=3)  # states of an imagined trajectory, the first one included
    entropy_nodes: int = size(16, least=1)  # of the quadrature that gives the actor's entropy

    model_lr: float = traced(3e-4, "Adam's step size for the world model.", least=0)
    probe_lr: float = traced(3e-4, "Adam's step size for the probe.", least=0)
    actor_lr: float = traced(8e-5, "Adam's step size for the actor.", least=0)
    value_lr: float = traced(8e-5, "Adam's step size for the value.", least=0)
    max_grad_norm: float = traced(100.0, "Gradients of each optimiser are clipped to this norm.", above=0)
    target_kl: float = traced(3.0, "Bound of the mean divergence of posterior from prior, nats.", least=0)
    init_beta: float = traced(1e-5, "The multiplier at the start; its logarithm is learned.", least=0)
    beta_lr: float = traced(1e-4, "Adam's step size for it.", least=0)
    least_beta: float = traced(0.0, "The multiplier goes no lower.", least=0)
    most_beta: float = traced(1e8, "And no higher.", above=0)
    beta_gain: float = traced(0.0, "Its proportional part: it counts exp(beta_gain (KL - target_kl)) times.", least=0)
    prior_train_steps: float = traced(5.0, "KL balancing: k / (1 + k) of the KL's gradient trains the prior.", least=0)
    free_nats: float = traced(3.0, "bottleneck=free_nats: what costs nothing, per step.", least=0)
    recon_coef: float = traced(1.0, "objective=recon: weight of observations.", least=0)
    barlow_coef: float = traced(0.05, "objective=barlow: weight of the agreement.", least=0)
    barlow_redundancy: float = traced(5e-4, "objective=barlow: weight of correlations off the diagonal.", least=0)
    tia_coef: float = traced(1.0, "objective=tia: weight of the distractors' own reconstruction.", least=0)
    tia_adversary: float = traced(1.0, "objective=tia: weight of what distractors are not to know of rewards.", least=0)
    discount: float = traced(0.99, "Discount per decision.", least=0, most=1)
    return_lambda: float = traced(0.95, "How far imagined returns look before they ask the value.", least=0, most=1)
    slow_value: float = traced(
        1.0, "How far the value in returns follows per update; 1: it is the learned one.", most=1, least=0
    )
    entropy_coef: float = traced(3e-4, "Weight of the actor's entropy.", least=0)


# In minutes on a few cores, for 32 x 32; before films in colour: in grey their levels are those of bodies.
TINY: dict[str, Any] = {
    "env_steps": 30_000,
    "n_envs": 4,
    "prefill": 1_000,
    "collect": 25,
    "updates": 20,
    "batch": 16,
    "chunk": 20,
    "capacity": 100_000,
    "eval_every": 2_500,
    "channels": (8, 16, 32),
    "embedding": 128,
    "belief": 64,
    "state": 16,
    "hidden": 64,
    "horizon": 10,
    "model_lr": 1e-3,
    "probe_lr": 1e-3,
    "actor_lr": 1e-3,
    "value_lr": 1e-3,
    # at 0.99 values of 50 to 125 decisions are still on their way when a short run ends, and the actor saturates meanwhile
    "discount": 0.95,
    "entropy_coef": 0.1,
    "target_kl": 1.6,
    # while the latent is empty the bound holds by itself, and the multiplier would fall to where nothing is asked of the prior
    "init_beta": 3e-2,
    "least_beta": 3e-2,
    "beta_lr": 3e-2,
    # and where pictures go on to tell more than the bound, it would rise until nothing else of the gradient is left
    "most_beta": 3.0,
    "slow_value": 0.02,
}
PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        **TINY,
        "env_steps": 600,
        "n_envs": 1,
        "prefill": 200,
        "updates": 2,
        "batch": 4,
        "chunk": 6,
        "eval_every": 200,
        "eval_episodes": 2,
        "channels": (4, 4, 4),
        "embedding": 16,
        "belief": 16,
        "state": 4,
        "hidden": 16,
        "horizon": 4,
        "planner.horizon": 3,
        "planner.samples": 16,
        "planner.proposals": 2,
        "planner.elites": 4,
        "planner.iterations": 2,
    },
    "tiny": TINY,
    "small": {"channels": (16, 32, 64, 128), "embedding": 512, "batch": 16, "chunk": 32},  # 64 x 64
    "paper": {},
    # what it is compared with, one part at a time
    "dreamer": {"objective": "recon", "bottleneck": "free_nats"},
    "no_bottleneck": {"bottleneck": "fixed", "init_beta": 0.0},
    "fixed_beta": {"bottleneck": "fixed", "init_beta": 1e-2},
    "unbalanced": {"balanced": False},
    "recon_dual": {"objective": "recon"},
    "barlow": {"objective": "barlow"},
    "tia": {"objective": "tia", "bottleneck": "free_nats"},
    # decisions by plans in its model; PlaNet is this in Dreamer's model, without what the actor proposes and the value says
    "planner": {"planner.use": "act"},
    "planet": {
        "objective": "recon",
        "bottleneck": "free_nats",
        "planner.use": "act",
        "planner.samples": 1_000,
        "planner.proposals": 0,
        "planner.value": False,
        "planner.elites": 100,
        "planner.iterations": 10,
        "planner.temperature": 0.0,
        "planner.momentum": 0.0,
    },
}
