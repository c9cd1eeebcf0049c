"""Learned dynamics as a device environment: ``as_env(model, ...)`` is an `rlx.types.Env` like any other.

All that is learned enters through ``params``, traced: a refit recompiles nothing. What may go wrong with a learned model is
caught here: leaving the box where it was learned, and numbers that are not finite, end the episode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step

Exit = Literal["terminate", "truncate", "penalty"]
Stop = Literal["terminate", "truncate", "drop"]
Rule = Callable[[Any, Array, Array, Array], Array]  # (xp, obs, action, new) -> bool, as in `rlx.dynamics.terminations`


class Prediction(NamedTuple):
    """Of one step of one stream."""

    obs: Array  # [n], on arrival
    reward: Array  # []
    stopped: Array | None = None  # bool []: the model does not believe in it; None: it never says
    score: Array | None = None  # []: how much it does


class Model(Protocol):
    """Any learned dynamics, as pure functions of one stream. ``params`` is what was learned.

    A model that has several answers at once may have ``candidates(params, episode, obs, action, key, draws)`` too, a
    `Prediction` with a leading axis: `rlx.dynamics.filtered` chooses among them."""

    def begin(self, params: PyTree, key: Key) -> PyTree:
        """Drawn once per episode, such as the member that rules it; () for nothing."""
        ...

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        """``obs`` [n], ``action`` [m] within [-1, 1]."""
        ...

    def disagreement(self, params: PyTree, obs: Array, action: Array) -> Array:
        """[]: how uncertain it is of what it predicts, in units of the observations; 0 where it cannot say."""
        ...


class Imagined(NamedTuple):
    """State of one stream."""

    obs: Array  # [n]
    t: Array  # int32, decisions in this episode
    episode: PyTree


def as_env(
    model: Model,
    params: PyTree,
    starts: Array,
    *,
    actions: int,
    horizon: int,
    low: Array | None = None,
    high: Array | None = None,
    exit: Exit = "terminate",
    exit_reward: Array | float = 0.0,
    ends: Rule | None = None,
    stop: Stop | None = None,
    stop_after: int = 0,
    name: str = "model",
) -> Env:
    """The environment that ``model`` imagines.

    ``params``: of the model. ``starts`` [S, n]: episodes begin at one of them. ``low`` and ``high`` [n]: an observation at or
    beyond them ends the episode, as one that is not finite does, of which nothing is passed on: the last good one stands in its
    place.

    ``exit`` says how it ends there: ``"terminate"`` with a value of 0 (which pays where rewards are negative), ``"truncate"``
    with the value of where it ended, ``"penalty"`` terminated with ``exit_reward`` added. Episodes are truncated after
    ``horizon`` decisions.

    ``ends(xp, obs, action, new)`` says where the task is over, which a model does not learn: terminated. ``stop``, for models
    that stop (`Prediction.stopped`), says how an episode ends there: ``"terminate"``, ``"truncate"``, or ``"drop"``, where the
    transition that led there is none: what is emitted is a first row that is truncated at once. The first ``stop_after``
    decisions of an episode stop nothing. The info has ``stopped`` and ``score`` then.

    The environment's params are ``{"model", "starts", "low", "high", "exit_reward"}``, all traced. Its info ``exit`` counts.

    Raises:
        ValueError: an unknown ``exit`` or ``stop``, shapes that do not fit together, or a ``low`` that is not below ``high``.
    """
    starts = jnp.asarray(starts, jnp.float32)
    box = _box(starts, exit, stop, low, high)
    traced = {"model": params, "starts": starts, **jax.tree.map(jnp.asarray, box), "exit_reward": jnp.float32(exit_reward)}

    def reset(params: PyTree, key: Key) -> tuple[Imagined, Step]:
        which, drawn = jax.random.split(key)
        obs = params["starts"][jax.random.randint(which, (), 0, params["starts"].shape[0])]
        no = jnp.bool_(False)
        state = Imagined(obs, jnp.int32(0), model.begin(params["model"], drawn))
        more = {} if stop is None else {"stopped": no, "score": jnp.float32(0)}
        return state, Step(obs, jnp.float32(0), no, no, jnp.bool_(True), {"exit": no, **more})

    def step(params: PyTree, state: Imagined, action: Array, key: Key) -> tuple[Imagined, Step]:
        action = jnp.clip(action, -1.0, 1.0)
        prediction = model.predict(params["model"], state.episode, state.obs, action, key)
        new = prediction.obs
        sound = jnp.isfinite(new).all() & jnp.isfinite(prediction.reward)
        out = ~sound | (new <= params["low"]).any() | (new >= params["high"]).any()
        obs = jnp.where(sound, jnp.clip(new, params["low"], params["high"]), state.obs)
        reward = jnp.where(sound, prediction.reward, 0.0) + jnp.where(out & (exit == "penalty"), params["exit_reward"], 0.0)
        late = state.t + 1 >= horizon
        over = out & (exit != "truncate")
        if ends is not None:
            over = over | ends(jnp, state.obs, action, new)
        cut, first, info = late | out, jnp.bool_(False), {"exit": out}
        if stop is not None:
            stopped, score = stopping(prediction, state.t >= stop_after)
            info |= {"stopped": stopped, "score": score}
            over, cut = over | (stopped & (stop == "terminate")), cut | stopped
            if stop == "drop":
                first, over = stopped, over & ~stopped
                obs, reward = jnp.where(stopped, state.obs, obs), jnp.where(stopped, 0.0, reward)
        state = Imagined(obs, state.t + 1, state.episode)
        return state, Step(obs, reward.astype(jnp.float32), over, cut & ~over, first, info)

    stop_info = {} if stop is None else {"stopped": Leaf((), bool, reduce="any"), "score": Leaf((), reduce="mean")}
    n = starts.shape[1]
    spec = Spec(Leaf((n,)), Leaf((actions,), low=-1, high=1), {"exit": Leaf((), bool, reduce="any"), **stop_info}, horizon)
    return Env(name, spec, traced, reset, step, starts="pool")


def stopping(prediction: Prediction, may: Array) -> tuple[Array, Array]:
    """Whether the episode stops here, where it ``may``, and the score. Raises ValueError for a model that never stops."""
    if prediction.stopped is None or prediction.score is None:
        raise ValueError("as_env: stop is given, and the model never does: wrap it by rlx.dynamics.filtered, or leave it away.")
    return prediction.stopped & may, prediction.score.astype(jnp.float32)


def _box(starts: Array, exit: str, stop: str | None, low: Any, high: Any) -> dict[str, np.ndarray]:
    """The bounds [n] each, as `as_env` describes. Raises as it does."""
    if starts.ndim != 2 or not len(starts):
        raise ValueError(f"as_env: starts must be [S, n] with S >= 1, got {list(starts.shape)}.")
    if exit not in ("terminate", "truncate", "penalty"):
        raise ValueError(f"as_env: exit={exit!r} is unknown; give 'terminate', 'truncate' or 'penalty'.")
    if stop not in (None, "terminate", "truncate", "drop"):
        raise ValueError(f"as_env: stop={stop!r} is unknown; give 'terminate', 'truncate' or 'drop', or None.")
    n = starts.shape[1]
    bounds = {"low": -np.inf if low is None else low, "high": np.inf if high is None else high}
    for side, value in bounds.items():
        if np.shape(value) not in ((), (n,)):
            raise ValueError(f"as_env: {side} must have shape [{n}], as the observations; got {list(np.shape(value))}.")
    box = {k: np.broadcast_to(np.asarray(v, np.float32), (n,)) for k, v in bounds.items()}
    wrong = np.flatnonzero(~(box["low"] < box["high"]))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(f"as_env: low must be below high; of observation {i} they are {box['low'][i]} and {box['high'][i]}.")
    return box


def total_std(variance: Array) -> Array:
    """The standard deviation of a prediction whose entries have this ``variance`` [n], with a gradient at 0 too."""
    total = variance.sum()
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1.0)), 0.0)


class penalised(NamedTuple):  # noqa: N801 - reads as the function it is used as
    """``model`` with the reward less ``params["uncertainty_penalty"]`` times the disagreement: a price for uncertainty, or
    where negative a reward for exploring. ``params`` are then ``{"model", "uncertainty_penalty"}``. At 0 the disagreement is
    not computed, unless members of a population share the program."""

    model: Model

    def begin(self, params: PyTree, key: Key) -> PyTree:
        return self.model.begin(params["model"], key)

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        prediction = self.model.predict(params["model"], episode, obs, action, key)
        weight = params["uncertainty_penalty"]
        penalty = lambda: weight * self.disagreement(params, obs, action)
        cost = jax.lax.cond(weight != 0, penalty, lambda: jnp.zeros_like(weight))
        return prediction._replace(reward=prediction.reward - cost)

    def disagreement(self, params: PyTree, obs: Array, action: Array) -> Array:
        return self.model.disagreement(params["model"], obs, action)
