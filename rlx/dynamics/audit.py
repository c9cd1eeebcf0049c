"""What a learned model is worth on data that it may not have seen: `audit` runs it along what really happened.

::

    found = audit(model, params, obs, action, scale, key, score=lambda obs, action, new: scorer(obs, action, new))
    draw(found).savefig("audit.png")

Windows of the data are replayed in the model, open loop: it begins where they begin, is given their actions, and is never told
what they came to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.env import Model
from rlx.types import Array, Key, PyTree

MOST = 1e6  # what a model says beyond this many standard deviations counts as this
SHARES = (0.1, 0.5, 0.9)  # quantiles that are told of each number


class Audit(NamedTuple):
    """By steps into the model [H], quantiles [H, 3] over windows (`SHARES`); None where there is no score."""

    error: np.ndarray  # root mean square over entries of s_h - truth, in standard deviations of the data
    disagreement: np.ndarray  # what the model says of its uncertainty where it is
    score: np.ndarray | None  # of the transitions that the model makes
    real_score: np.ndarray | None  # of the data's own, at the same steps

    @property
    def horizon(self) -> int:
        return len(self.error)


def windows(episodes: Any, horizon: int, count: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Up to ``count`` windows of ``horizon`` transitions, drawn evenly: observations [N, horizon + 1, n] and actions
    [N, horizon, m]. ``episodes``: rows [T, ...] each.

    Raises:
        ValueError: no episode is so long.
    """
    long = [(i, t) for i, e in enumerate(episodes) for t in range(len(e.reward) - horizon)]
    if not long:
        most = max((len(e.reward) - 1 for e in episodes), default=0)
        raise ValueError(f"no episode has {horizon} transitions, the longest has {most}: give a horizon of at most that.")
    order = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(len(long))[:count]
    cut = [(episodes[i], t) for i, t in (long[j] for j in order)]
    obs = np.stack([e.obs[t : t + horizon + 1] for e, t in cut])
    return obs.astype(np.float32), np.stack([e.action[t : t + horizon] for e, t in cut]).astype(np.float32)


def audit(
    model: Model,
    params: PyTree,
    obs: np.ndarray,
    action: np.ndarray,
    scale: np.ndarray,
    key: Key,
    score: Callable[[Any, Array, Array, Array], Array] | None = None,
    scorer: PyTree = (),
) -> Audit:
    """``model`` with ``params`` along ``obs`` [N, H + 1, n] and ``action`` [N, H, m]; ``scale`` [n] are the standard deviations
    that errors are counted in. ``score(scorer, obs, action, new)``: a number for transitions with any leading axes.

    Raises:
        ValueError: shapes that do not go together.
    """
    if obs.ndim != 3 or action.ndim != 3 or obs.shape[:2] != (action.shape[0], action.shape[1] + 1) or not obs.size:
        raise ValueError(f"obs {list(obs.shape)} and action {list(action.shape)} are to be [N, H + 1, n] and [N, H, m].")
    size = np.where(np.asarray(scale) < 1e-8, 1.0, scale).astype(np.float32)
    found = _run(model, score, params, scorer, jnp.asarray(obs), jnp.asarray(action), jnp.asarray(size), key)
    quantile = lambda x: None if x is None else np.quantile(np.asarray(x), SHARES, axis=0).T
    return Audit(*(quantile(x) for x in found))  # type: ignore[arg-type]


@partial(jax.jit, static_argnames=("model", "score"))
def _run(model: Any, score: Any, params: Any, scorer: Any, obs: Array, action: Array, size: Array, key: Key) -> Any:
    def window(obs: Array, action: Array, key: Key) -> Any:
        begin, key = jax.random.split(key)
        episode = model.begin(params, begin)

        def step(at: Array, given: Any) -> Any:
            real, new, action, key = given
            prediction = model.predict(params, episode, at, action, key).obs
            unsure = model.disagreement(params, at, action)
            off = jnp.sqrt((((prediction - new) / size) ** 2).mean())
            scores = None if score is None else (score(scorer, at, action, prediction), score(scorer, real, action, new))
            lost = ~jnp.isfinite(prediction).all()  # a model that has left the numbers stays where it was
            return jnp.where(lost, at, prediction), (jnp.where(jnp.isfinite(off), jnp.minimum(off, MOST), MOST), unsure, scores)

        inputs = (obs[:-1], obs[1:], action, jax.random.split(key, action.shape[0]))
        return jax.lax.scan(step, obs[0], inputs)[1]

    error, unsure, scores = jax.vmap(window)(obs, action, jax.random.split(key, obs.shape[0]))
    return error, jnp.where(jnp.isfinite(unsure), unsure, MOST), *(scores or (None, None))


def draw(found: Audit, r_min: float | None = None) -> Any:
    """A figure of error, disagreement and score against steps into the model: medians, and bands of the middle four fifths."""
    from matplotlib.figure import Figure

    parts = [("error, standard deviations", found.error, "#4477aa"), ("disagreement", found.disagreement, "#228833")]
    parts += [("score", found.score, "#aa3377")] if found.score is not None else []
    figure = Figure(figsize=(3.6 * len(parts), 3.2), layout="constrained")
    steps = np.arange(1, found.horizon + 1)
    for ax, (name, values, color) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        ax.fill_between(steps, values[:, 0], values[:, 2], color=color, alpha=0.2, linewidth=0)
        ax.plot(steps, values[:, 1], color=color, label="in the model")
        ax.set(xlabel="steps into the model", ylabel=name)
        ax.spines[["top", "right"]].set_visible(False)
        if name == "score" and found.real_score is not None:
            ax.plot(steps, found.real_score[:, 1], color="black", lw=0.8, label="of the data")
            if r_min is not None and np.isfinite(r_min):
                ax.axhline(r_min, color="grey", lw=0.8, ls=":", label="stops below")
            ax.legend(frameon=False, fontsize=8)
        elif np.max(values) > 20 * max(np.min(values[:, 1]), 1e-9):
            ax.set_yscale("log")
    return figure
