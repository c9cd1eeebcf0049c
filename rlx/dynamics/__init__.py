"""Learned dynamics, and how any of them becomes an environment.

`sparse` fits readable ones, `ensemble` networks and `bootstrap` networks that predict distributions. `as_env` makes a device
environment of a `Model`, `penalised` pays for its uncertainty, `filtered` chooses among what it thinks may come next, by a
dynamics reward (`scorer`, learned by `adversary` against `generators`, made cheap by `distilled`) or another score;
`terminations` says where tasks are over, `audit` what a model is worth on data. `told` is a model of latents, made to be
planned in, and `told_learning` how it learns.
`SparseDynamics` is the `Model` of a sparse one, be it fitted here or by pysindy, `EnsembleDynamics` that of an ensemble of
distributions; `RSSM` a recurrent model in latent space, `LatentDynamics` the `Model` of it.
"""

from __future__ import annotations

from rlx.dynamics.env import Model, Prediction, as_env, penalised
from rlx.dynamics.filtered import EnsembleDynamics, filtered
from rlx.dynamics.rssm import RSSM, LatentDynamics
from rlx.dynamics.scorer import TransitionScorer
from rlx.dynamics.sparse_dynamics import SparseDynamics

__all__ = [
    "EnsembleDynamics",
    "RSSM",
    "LatentDynamics",
    "Model",
    "Prediction",
    "SparseDynamics",
    "TransitionScorer",
    "as_env",
    "filtered",
    "penalised",
]
