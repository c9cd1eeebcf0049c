"""Learned dynamics, and how any of them becomes an environment.

`sparse` fits readable ones and `ensemble` networks, `as_env` makes a device environment of a `Model`, `penalised` pays for its
uncertainty. `SparseDynamics` is the `Model` of a sparse one, be it fitted here or by pysindy.
"""

from __future__ import annotations

from rlx.dynamics.env import Model, Prediction, as_env, penalised
from rlx.dynamics.sparse_dynamics import SparseDynamics

__all__ = ["Model", "Prediction", "SparseDynamics", "as_env", "penalised"]
