"""The model that the policy learns in: sparse dynamics, a reward that is known or sparse too, and how they are fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.sindy_rl.config import Config
from rlx.agents.sindy_rl.config import Library as Settings
from rlx.dynamics import Prediction
from rlx.dynamics.sparse import SparseModel, affine, fit, poly
from rlx.types import Array, Key, PyTree, Row, Spec

HORIZON = 20  # decisions over which models are compared


class World(NamedTuple):
    """`rlx.dynamics.Model` with params ``{"dynamics": SparseModel, "reward": SparseModel | None}``."""

    config: Config
    observations: int
    actions: int
    project: Callable[[Any, Array], Array] | None  # of observations
    score: Callable[[Any, Array, Array], Array] | None  # the known reward of arriving at an observation

    def begin(self, params: PyTree, key: Key) -> PyTree:
        return jax.random.randint(key, (), 0, self.config.members) if self.config.aggregate == "sample" else ()

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        z = jnp.concatenate([obs, action])
        dynamics = params["dynamics"]
        chosen = dynamics.member(episode) if self.config.aggregate == "sample" else dynamics
        new = self.projected(chosen(z))
        if self.score is not None:
            reward = self.score(jnp, new, action)
        else:
            reward = params["reward"](jnp.concatenate([new, action]) if self.config.reward_input else new)[0]
        return Prediction(new, reward, jnp.sqrt(dynamics.variance(z).sum()))

    def projected(self, obs: Array) -> Array:
        xp: Any = np if isinstance(obs, np.ndarray) else jnp
        return obs if self.project is None else self.project(xp, obs)

    @property
    def libraries(self) -> dict[str, Any]:
        c = self.config
        seen = self.observations + (self.actions if c.reward_input else 0)
        out = {"dynamics": affine(self.observations, self.actions, c.dynamics.degree, c.dynamics.interact, c.tensor)}
        return out if self.score else {**out, "reward": poly(seen, c.rewards.degree, c.rewards.bias, c.rewards.interact)}

    def blank(self) -> dict[str, SparseModel]:
        """Models before the first fit."""
        size = {"dynamics": self.observations, "reward": 1}
        zeros = lambda k, d: SparseModel(jnp.zeros((self.config.members, size[k], len(d))), jnp.zeros((size[k], len(d))), d)
        return {k: zeros(k, d) for k, d in self.libraries.items()}

    def fitted(self, rows: Rows, rng: np.random.Generator, names: Sequence[str]) -> dict[str, SparseModel]:
        """All models from scratch. Raises ValueError as `rlx.dynamics.sparse.fit` does."""
        c = self.config
        how: dict[str, Any] = {"rng": rng, "members": c.members, "bag": c.bag, "unbias": c.unbias, "backend": c.backend}
        how["aggregate"] = "median" if c.aggregate == "sample" else c.aggregate
        settings: dict[str, Settings] = {"dynamics": c.dynamics, "reward": c.rewards}
        seen = rows.new if c.reward_pairing == "next" else rows.obs
        data = {
            "dynamics": (np.concatenate([rows.obs, rows.action], 1), rows.new, names),
            "reward": (np.concatenate([seen, rows.action], 1) if c.reward_input else seen, rows.reward[:, None], ("reward",)),
        }
        out = {}
        for kind, library in self.libraries.items():
            inputs, targets, called = data[kind]
            own = settings[kind]
            levels: dict[str, Any] = {"alpha": own.alpha, "threshold": own.threshold, "drop": min(c.drop, len(library) - 1)}
            out[kind] = fit(library, inputs, targets, names=called, **levels, **how)
        return out

    def error(self, models: dict[str, SparseModel], rows: Rows, rng: np.random.Generator, runs: int = 256) -> float:
        """Root mean square of the error after `HORIZON` decisions from recorded states, in standard deviations of the data; inf
        where it is not finite. float64, on the host."""
        begin = np.flatnonzero(rows.follows(HORIZON))
        if not len(begin):
            begin, steps = np.arange(len(rows.obs)), 1
        else:
            steps = HORIZON
        begin = begin[rng.integers(len(begin), size=min(runs, len(begin)))]
        dynamics = models["dynamics"]
        coef, x = np.asarray(dynamics.coef, np.float64), rows.obs[begin]
        with np.errstate(all="ignore"):
            for t in range(steps):
                z = np.concatenate([x, rows.action[begin + t]], 1)
                x = self.projected(dynamics.library(z) @ coef.T)
            off = (x - rows.new[begin + steps - 1]) / (rows.new.std(0) + 1e-12)
            size = float(np.sqrt(np.mean(off**2)))
        return size if np.isfinite(size) else np.inf


class Rows(NamedTuple):
    """Transitions one after another, float64."""

    obs: np.ndarray  # [N, n]
    action: np.ndarray  # [N, m]
    new: np.ndarray  # [N, n]
    reward: np.ndarray  # [N]
    first: np.ndarray  # bool [N]: the one before is of another trajectory

    def follows(self, steps: int) -> np.ndarray:
        """bool [N - steps + 1 or 0]: whether ``steps`` transitions from here on are of one trajectory."""
        if len(self.first) < steps:
            return np.zeros(0, bool)
        windows = np.lib.stride_tricks.sliding_window_view(self.first, steps)
        return np.asarray(~windows[:, 1:].any(1))


def transitions(episodes: Sequence[Row], low: np.ndarray | None = None, high: np.ndarray | None = None) -> Rows:
    """Of all episodes [T, ...], none across a border; those that begin outside the box are left out.

    Raises:
        ValueError: there are none.
    """
    parts = []
    for e in episodes:
        inside = np.ones(len(e.obs) - 1, bool)
        if low is not None and high is not None:
            inside = ((e.obs[:-1] > low) & (e.obs[:-1] < high)).all(1)
        first = np.r_[True, ~inside[:-1]] if len(inside) else np.zeros(0, bool)
        own = (e.obs[:-1], e.action[:-1], e.obs[1:], e.reward[1:], first)
        parts.append([x[inside] for x in own])
    if not parts or not sum(len(p[0]) for p in parts):
        raise ValueError("there are no transitions inside the box: widen it, or collect more.")
    obs, action, new, reward, first = (np.concatenate(x) for x in zip(*parts, strict=True))
    double = lambda x: x.astype(np.float64)
    return Rows(double(obs), double(action), double(new), double(reward), first)


def known_of(config: Config, spec: Spec) -> tuple[Any, Any]:
    """How observations are projected, and the reward of arriving at one; None where that is not known.

    Raises:
        ValueError: the reward is to be the environment's, which has no formula of observations.
    """
    plain = not config.modes
    score = spec.task.score if config.reward != "sparse" and plain and spec.repeat == 1 else None
    if config.reward == "task" and score is None:
        raise ValueError(
            "sindy_rl: reward='task' needs an environment that can score observations (Task.score), without modes and with "
            "repeat=1; this one cannot. Give reward='sparse'."
        )
    return spec.task.project if config.project and plain else None, score


def box_of(config: Config, spec: Spec, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The box that settings or environment name; None: it comes from the data."""
    if config.box:
        if len(config.box) != n:
            raise ValueError(f"sindy_rl: box has {len(config.box)} entries; there are {n} observations.")
        return -np.asarray(config.box), np.asarray(config.box)
    return spec.task.box if not config.modes else None


def names_of(config: Config, spec: Spec, n: int, m: int) -> tuple[str, ...]:
    """Of observations, then actions."""
    given = config.names or (spec.task.names if not config.modes else ())
    if not given:
        letter = "a" if config.modes else "x"
        return tuple([f"{letter}{i + 1}" for i in range(n)] + ([f"u{i + 1}" for i in range(m)] if m > 1 else ["u"]))
    if len(given) != n + m:
        raise ValueError(f"sindy_rl: names has {len(given)} entries; there are {n} observations and {m} actions.")
    return tuple(given)
