"""Learned dynamics, and how any of them becomes an environment.

`sparse` fits readable ones and `ensemble` networks, `as_env` makes a device environment of a `Model`, `penalised` pays for its
uncertainty.
"""

from __future__ import annotations

from rlx.dynamics.env import Model, Prediction, as_env, penalised

__all__ = ["Model", "Prediction", "as_env", "penalised"]
