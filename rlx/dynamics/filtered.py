"""Choosing among what a learned model thinks may come next (MOREC, Luo et al. 2024, arXiv:2310.05422, section 4).

::

    model = penalised(filtered(EnsembleDynamics()))
    env = as_env(model, {"model": {"model": ensemble, "scorer": scorer, "r_min": 0.6, "filter_temperature": 0.1},
                         "uncertainty_penalty": 0.5}, starts, actions=m, horizon=100, stop="terminate")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlx.dynamics.ensemble import Ensemble
from rlx.dynamics.env import Model, Prediction
from rlx.types import Array, Key, PyTree

Selection = Literal["softmax", "argmax", "random"]
Score = Callable[[Any, Array, Array, Array], Array]  # (learned, obs [n], action [m], new [K, n]) -> [K], more is better


@dataclass(frozen=True)
class EnsembleDynamics:
    """`rlx.dynamics.Model` whose params are an `Ensemble` of normal distributions of (change of the observation, reward) for
    z = [observation, action]. What it predicts is within +- ``clip``."""

    clip: float = float("inf")

    def begin(self, params: Ensemble, key: Key) -> PyTree:
        return ()

    def predict(self, params: Ensemble, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        """A draw of one of the elites, each step of another."""
        which, draw = jax.random.split(key)
        mean, std = self.elites(params, obs, action)
        i = jax.random.randint(which, (), 0, len(mean))
        return self._arrived(obs, mean[i] + std[i] * jax.random.normal(draw, mean.shape[1:]))

    def candidates(self, params: Ensemble, episode: PyTree, obs: Array, action: Array, key: Key, draws: int) -> Prediction:
        """``draws`` of each elite: [K, n] and [K], with K = draws x elites."""
        mean, std = self.elites(params, obs, action)
        drawn = mean + std * jax.random.normal(key, (draws, *mean.shape))
        return self._arrived(obs, drawn.reshape(-1, drawn.shape[-1]))

    def disagreement(self, params: Ensemble, obs: Array, action: Array) -> Array:
        """The largest of the norms of all members' standard deviations, the reward's among them: MOPO's penalty (Yu et al.
        2020, arXiv:2005.13239, eq. 9)."""
        return largest_norm(params.normals(jnp.concatenate([obs, action]))[1])

    def elites(self, params: Ensemble, obs: Array, action: Array) -> tuple[Array, Array]:
        """Their means and standard deviations [K, ..., n + 1]."""
        mean, std = params.normals(jnp.concatenate([obs, action], -1))
        return (mean, std) if params.elites is None else (mean[params.elites], std[params.elites])

    def _arrived(self, obs: Array, change: Array) -> Prediction:
        new = jnp.clip(change + jnp.append(obs, 0.0), -self.clip, self.clip)
        return Prediction(new[..., :-1], new[..., -1])


def largest_norm(std: Array) -> Array:
    """Of standard deviations [E, ..., q]: [...]."""
    return jnp.sqrt((std**2).sum(-1)).max(0)


class filtered(NamedTuple):  # noqa: N801 - reads as the function it is used as
    """``model`` whose prediction is the best of several candidates by ``score``, or drawn by softmax(score / temperature); and
    which stops where the one taken scores below ``r_min``.

    ``params`` are ``{"model", "scorer", "r_min", "filter_temperature"}``. The candidates are the model's own, where it has any
    (elites of an ensemble, members of a sparse one), else ``draws`` predictions, each as in an episode of its own. With
    ``selection="random"`` the prediction is the model's, bit for bit, and only its score is looked at.
    """

    model: Model
    score: Score
    selection: Selection = "softmax"
    draws: int = 2

    def begin(self, params: PyTree, key: Key) -> PyTree:
        return self.model.begin(params["model"], key)

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        if self.selection == "random":
            taken = self.model.predict(params["model"], episode, obs, action, key)
            score = self.score(params["scorer"], obs, action, taken.obs[None])[0]
        else:
            draw, pick = jax.random.split(key)
            found = candidates(self.model, params["model"], episode, obs, action, draw, self.draws)
            scores = self.score(params["scorer"], obs, action, found.obs)
            i = choose(pick, scores, params["filter_temperature"], self.selection)
            taken, score = jax.tree.map(lambda x: x[i], found), scores[i]
        return taken._replace(stopped=known(score) < params["r_min"], score=score)

    def disagreement(self, params: PyTree, obs: Array, action: Array) -> Array:
        return self.model.disagreement(params["model"], obs, action)


def candidates(model: Model, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key, draws: int) -> Prediction:
    """What ``model`` thinks may come next, [K, n] and [K]."""
    own = getattr(model, "candidates", None)
    if own is not None:
        return own(params, episode, obs, action, key, draws)

    def one(key: Key) -> Prediction:
        begun, drawn = jax.random.split(key)
        return model.predict(params, model.begin(params, begun), obs, action, drawn)

    return jax.vmap(one)(jax.random.split(key, draws))


def choose(key: Key, scores: Array, temperature: Array, selection: Selection) -> Array:
    """The number of a candidate, by its ``scores`` [K]. One whose score is not a number is taken where all are such."""
    if selection == "argmax":
        return jnp.argmax(known(scores))
    return jax.random.categorical(key, known(scores / temperature))


def known(score: Array) -> Array:
    """-inf where ``score`` [...] is not a number, which a maximum would prefer to all numbers."""
    return jnp.where(jnp.isnan(score), -jnp.inf, score)


# ------------------------------------------------------------------------------------------------------------------ scores


def by_reward(scorer: Any, obs: Array, action: Array, new: Array) -> Array:
    """The dynamics reward of a `rlx.dynamics.scorer.TransitionScorer`."""
    return scorer(obs[None], action[None], new)


def by_likelihood(ensemble: Ensemble, obs: Array, action: Array, new: Array) -> Array:
    """Log-density of the change under the mixture of an ensemble's elites: the obvious rival, which needs nothing more."""
    mean, std = EnsembleDynamics().elites(ensemble, obs, action)
    mean, std = mean[:, None, :-1], std[:, None, :-1]
    z = (new - obs - mean) / std
    each = (-0.5 * z**2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)
    return jax.nn.logsumexp(each, 0) - jnp.log(len(mean))


def by_truth(arrive: Callable[[Any, Array, Array], Array]) -> Score:
    """How near a candidate is to ``arrive(xp, obs, action)``, minus the distance: what a perfect filter would choose."""
    return lambda nothing, obs, action, new: -jnp.sqrt(((new - arrive(jnp, obs, action)) ** 2).sum(-1))
