"""A sparse model of a state as `rlx.dynamics.Model`, so that `as_env` makes an environment of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.env import Prediction, total_std
from rlx.dynamics.sparse_model import SparseModel
from rlx.envs.control.process import physical, runge_kutta
from rlx.types import Array, Key, PyTree


@dataclass(frozen=True)
class SparseDynamics:
    """`rlx.dynamics.Model` whose params are a `SparseModel` of z = [observation, input], or of the observation alone.

    ``score(xp, obs, action)`` is the reward of arriving at ``obs`` [n], such as an environment's ``spec.task.score``; 0 where
    there is none. Actions of [-1, 1] stand for inputs from ``low`` to ``high``, numbers or [m].

    A continuous model needs ``dt``, the seconds of a decision, over which the input is held: the classical Runge-Kutta method
    takes ``substeps`` steps of it.

    ::

        model = from_pysindy(fitted)
        env = as_env(SparseDynamics(score, dt=0.02), model, starts, actions=1, horizon=200)
    """

    score: Callable[[Any, Array, Array], Array] | None = None
    dt: float | None = None
    substeps: int = 1
    low: np.ndarray | float = -1.0
    high: np.ndarray | float = 1.0

    def __post_init__(self) -> None:
        if self.dt is not None and self.dt <= 0 or self.substeps < 1:
            raise ValueError(f"SparseDynamics: dt={self.dt} must be above 0, substeps={self.substeps} at least 1.")

    def begin(self, params: SparseModel, key: Key) -> PyTree:
        return ()

    def predict(self, params: SparseModel, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        """Raises ValueError where ``dt`` and the kind of model, or the sizes, do not fit together."""
        if params.continuous != (self.dt is not None):
            kind, what = ("continuous", "give dt") if params.continuous else ("of what comes next", "leave dt away")
            raise ValueError(f"SparseDynamics with dt={self.dt} has a model that is {kind}: {what}.")
        z = self._variables(params, obs, action)
        if self.dt is None:
            new = params(z)
        else:
            held = z[len(obs) :]
            drift = lambda xp, p, x, u: p(xp.concatenate([x, u]))
            new = runge_kutta(drift, jnp, params, obs, held, self.dt, self.substeps, lambda xp, x: x)
        reward = jnp.float32(0) if self.score is None else self.score(jnp, new, action)
        return Prediction(new, reward)

    def candidates(self, params: SparseModel, episode: PyTree, obs: Array, action: Array, key: Key, draws: int) -> Prediction:
        """What each member predicts, [E, n] and [E]."""
        each = lambda i: self.predict(params.member(i), episode, obs, action, key)
        return jax.vmap(each)(jnp.arange(params.members.shape[0]))

    def disagreement(self, params: SparseModel, obs: Array, action: Array) -> Array:
        """The standard deviation over the members of one decision's change, over all observations."""
        std = total_std(params.variance(self._variables(params, obs, action)))
        return std if self.dt is None else std * self.dt

    def _variables(self, params: SparseModel, obs: Array, action: Array) -> Array:
        """z [v]. Raises ValueError where the model is not of such observations and actions."""
        v, n, m = params.library.variables, len(obs), len(action)
        if params.coef.shape[0] != n or v not in (n, n + m):
            raise ValueError(
                f"SparseDynamics: a model of {v} variables with {params.coef.shape[0]} outputs does not map observations "
                f"[{n}] and actions [{m}] to observations: it needs {n + m} variables (or {n}, without inputs) and {n} outputs."
            )
        return obs if v == n else jnp.concatenate([obs, physical(action, np.asarray(self.low), np.asarray(self.high))])
