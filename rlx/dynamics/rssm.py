"""The recurrent state-space model (Hafner et al. 2019, "Learning Latent Dynamics for Planning from Pixels", arXiv:1811.04551):
a belief h that is computed, and a state s that is drawn, given what was seen or not.

::

    h'  = GRU(ELU(W [s; a]), h)
    s'  ~ prior(h')                 what comes next (imagining)
    s'  ~ posterior(h', e')         what came next, given the embedding e' of the observation (filtering)

Filtering is one `lax.scan` of what has to wait for its turn. The rest is taken out of it and gives the same numbers: actions
and embeddings enter by products of their own, before the scan, and the prior is computed for all steps at once, after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx import keys
from rlx.dynamics.env import Prediction
from rlx.nn.distributions import Normal
from rlx.nn.mlp import MLP, within
from rlx.nn.recurrent import GRU
from rlx.types import Array, Key, PyTree

Reset = Literal["full", "paper"]


class Latent(NamedTuple):
    """Where the model is, [..., H] and [..., S]."""

    belief: Array
    state: Array

    @property
    def features(self) -> Array:
        """[..., H + S]: what heads are given."""
        return jnp.concatenate([self.belief, self.state], -1)


class Filtered(NamedTuple):
    """What filtering T steps gives, [T, B, ...]: index t is after the action t, at the observation t + 1."""

    latent: Latent
    posterior: Normal
    prior: Normal


def gaussian(raw: Array, min_std: float) -> Normal:
    """Of a head's output [..., 2 n]: means, and numbers whose softplus is added to ``min_std``."""
    mean, std = jnp.split(raw, 2, -1)
    return Normal(mean, jnp.log(jax.nn.softplus(std) + min_std))


@dataclass(frozen=True)
class RSSM:
    """The model; its parameters are a dictionary by the names of `modules`.

    ``reset`` says what is forgotten where an episode begins inside of a sequence: "full" all (belief, state and action, so that
    what follows is what a fresh start gives), "paper" the state alone, as RePo's published code does.
    """

    actions: int
    embedding: int
    belief: int = 200
    state: int = 30
    hidden: int = 200
    min_std: float = 0.1
    reset: Reset = "full"

    @cached_property
    def modules(self) -> dict[str, Any]:
        """What enters a layer from two sides enters by two products, whose weights are drawn as those of one layer are."""

        def dense(inputs: int, bias: bool) -> Any:
            init = within(inputs**-0.5)
            return nn.Dense(self.hidden, bias, kernel_init=init, bias_init=init, param_dtype=float)

        return {
            "state_in": dense(self.state + self.actions, False),
            "action_in": dense(self.state + self.actions, True),
            "gru": GRU(self.belief),
            "prior": MLP((self.hidden, 2 * self.state), "elu", bias_init="fan_in"),
            "belief_in": dense(self.belief + self.embedding, False),
            "embedding_in": dense(self.belief + self.embedding, True),
            "posterior": MLP((2 * self.state,), bias_init="fan_in"),
        }

    def init(self, key: Key) -> dict[str, PyTree]:
        h, s, x = jnp.zeros(self.belief), jnp.zeros(self.state), jnp.zeros(self.hidden)
        inputs = {
            "state_in": (s,),
            "action_in": (jnp.zeros(self.actions),),
            "gru": (x, h),
            "prior": (h,),
            "belief_in": (h,),
            "embedding_in": (jnp.zeros(self.embedding),),
            "posterior": (x,),
        }
        keys = jax.random.split(key, len(inputs))
        return {name: self.modules[name].init(k, *inputs[name]) for k, name in zip(keys, inputs, strict=True)}

    def blank(self, *lead: int) -> Latent:
        """Where an episode begins."""
        return Latent(jnp.zeros((*lead, self.belief)), jnp.zeros((*lead, self.state)))

    # ------------------------------------------------------------------------------------------------------- one step

    def _apply(self, p: PyTree, name: str, *x: Array) -> Array:
        return self.modules[name].apply(p[name], *x)

    def _move(self, p: PyTree, latent: Latent, acted: Array) -> Array:
        """The next belief; ``acted`` [..., hidden] is how the action enters."""
        x = jax.nn.elu(self._apply(p, "state_in", latent.state) + acted)
        return self._apply(p, "gru", x, latent.belief)

    def _see(self, p: PyTree, belief: Array, embedded: Array) -> Normal:
        """The posterior; ``embedded`` [..., hidden] is how the embedding enters."""
        x = jax.nn.elu(self._apply(p, "belief_in", belief) + embedded)
        return gaussian(self._apply(p, "posterior", x), self.min_std)

    def prior(self, p: PyTree, belief: Array) -> Normal:
        return gaussian(self._apply(p, "prior", belief), self.min_std)

    def observe(self, p: PyTree, latent: Latent, action: Array, embedding: Array, noise: Array) -> Latent:
        """After ``action`` [..., A], seeing ``embedding`` [..., E]. ``noise`` [..., S] is standard normal; 0 gives the mean."""
        belief = self._move(p, latent, self._apply(p, "action_in", action))
        posterior = self._see(p, belief, self._apply(p, "embedding_in", embedding))
        return Latent(belief, drawn(posterior, noise))

    def imagine(self, p: PyTree, latent: Latent, action: Array, noise: Array) -> Latent:
        """After ``action`` [..., A], seeing nothing."""
        belief = self._move(p, latent, self._apply(p, "action_in", action))
        return Latent(belief, drawn(self.prior(p, belief), noise))

    # ------------------------------------------------------------------------------------------------------ filtering

    def filter(
        self, p: PyTree, embedding: Array, action: Array, joined: Array, noise: Array, start: Latent | None = None
    ) -> Filtered:
        """``action`` [T, B, A] leads to ``embedding`` [T, B, E], unless ``joined`` [T, B] is False: an episode begins there.
        ``noise`` [T, B, S] is standard normal. Begins at ``start`` [B, ...] (None: at zeros)."""
        keep = joined[..., None].astype(embedding.dtype)
        full = self.reset == "full"
        acted = self._apply(p, "action_in", action * keep if full else action)
        embedded = self._apply(p, "embedding_in", embedding)

        def one(latent: Latent, x: tuple[Array, ...]) -> tuple[Latent, tuple[Latent, Normal]]:
            on, acted_now, embedded_now, noise_now = x
            before = Latent(latent.belief * on if full else latent.belief, latent.state * on)
            belief = self._move(p, before, acted_now)
            posterior = self._see(p, belief, embedded_now)
            latent = Latent(belief, drawn(posterior, noise_now))
            return latent, (latent, posterior)

        begin = self.blank(embedding.shape[1]) if start is None else start
        latent, posterior = jax.lax.scan(one, begin, (keep, acted, embedded, noise))[1]
        return Filtered(latent, posterior, self.prior(p, latent.belief))


def drawn(normal: Normal, noise: Array) -> Array:
    """A sample that gradients go through."""
    return normal.mean + jnp.exp(normal.log_std) * noise


class LatentDynamics(NamedTuple):
    """An `RSSM` as an `rlx.dynamics.Model`, for `rlx.dynamics.as_env`: observations are the features [H + S]. ``params`` are
    {"rssm", "reward"}, the second those of the module ``reward``, from features to [..., 1]. ``goes_on``, with parameters
    "continue": the module whose sigmoid is how likely the task goes on; where it does not, drawn, the model says so
    (`Prediction.stopped`, for ``as_env(..., stop="terminate")``)."""

    rssm: RSSM
    reward: Any
    goes_on: Any = None

    def begin(self, params: PyTree, key: Key) -> PyTree:
        return ()

    def predict(self, params: PyTree, episode: PyTree, obs: Array, action: Array, key: Key) -> Prediction:
        latent = Latent(obs[: self.rssm.belief], obs[self.rssm.belief :])
        noise = jax.random.normal(key, latent.state.shape)
        new = self.rssm.imagine(params["rssm"], latent, action, noise).features
        reward = self.reward.apply(params["reward"], new)[..., 0]
        if self.goes_on is None:
            return Prediction(new, reward)
        likely = jax.nn.sigmoid(self.goes_on.apply(params["continue"], new)[..., 0])
        return Prediction(new, reward, ~jax.random.bernoulli(keys.fold(key, "continue"), likely), likely)

    def disagreement(self, params: PyTree, obs: Array, action: Array) -> Array:
        """One model has nobody to disagree with."""
        return jnp.zeros(obs.shape[:-1])
