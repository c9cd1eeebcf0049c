"""The networks of one agent, and `Net`, which bundles them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.offpolicy import action_dims
from rlx.agents.repo.config import Config
from rlx.dynamics.rssm import RSSM, gaussian
from rlx.envs.observations import described, flatten, vector_leaf
from rlx.nn.convolutions import in_parts
from rlx.nn.distributions import Normal
from rlx.nn.mlp import MLP
from rlx.nn.pictures import ConvDecoder, StridedConvs, centred
from rlx.types import Array, Key, Leaf, PyTree, Spec

Params = dict[str, PyTree]  # by the names of `Net.modules`, and "rssm"
PIXELS = "pixels"  # the picture, in observations that are dicts
BEHAVIOUR = ("actor", "value")
MEAN = 5.0  # means of the actor lie within +-MEAN before tanh,
MIN_STD = 0.1  # and their deviations above this


def seen_leaf(spec: Spec) -> Leaf:
    """Of the observations what the model looks at: the picture, or else all of them as one vector.

    Raises:
        ValueError: neither is there.
    """
    obs = spec.obs
    leaf = obs.get(PIXELS) if isinstance(obs, dict) else obs
    if leaf is None:
        if any(x.dtype == np.uint8 for x in jax.tree.leaves(obs, is_leaf=lambda x: isinstance(x, Leaf))):
            raise ValueError(f"repo looks at the picture {PIXELS!r} of a dict; this environment has {described(obs)}.")
        return vector_leaf(obs)
    if not isinstance(leaf, Leaf) or len(leaf.shape) not in (1, 3) or (len(leaf.shape) == 3) != (leaf.dtype == np.uint8):
        raise ValueError(f"repo takes vectors, or pictures in uint8 [H, W, C]; this environment has {described(leaf)}.")
    return leaf


@dataclass(frozen=True)
class Net:
    """Functions take the parameters of all networks by name."""

    config: Config
    leaf: Leaf  # what is seen
    actions: int

    @staticmethod
    def of(c: Config, spec: Spec) -> Net:
        """Raises ValueError for what the agent cannot take."""
        leaf = seen_leaf(spec)
        if c.objective == "tia" and len(leaf.shape) != 3:
            raise ValueError(f"repo: objective='tia' splits pictures; this environment has {described(leaf)}.")
        actions = action_dims(spec.action, "repo")
        if len(leaf.shape) == 3:
            height, width = leaf.shape[:2]
            least = 1
            for _ in c.channels:
                least = 2 * least + 2
            if height != width or height < least:
                raise ValueError(
                    f"repo: pictures must be square, and at least {least} wide for channels={c.channels}; "
                    f"these are {height} x {width}."
                )
        return Net(c, leaf, actions)

    @property
    def images(self) -> bool:
        return len(self.leaf.shape) == 3

    @cached_property
    def rssm(self) -> RSSM:
        c = self.config
        return RSSM(self.actions, c.embedding, c.belief, c.state, c.hidden, c.min_std, c.reset)

    @cached_property
    def modules(self) -> dict[str, Any]:
        c, mlp = self.config, lambda *widths, activation="elu": MLP(widths, activation, bias_init="fan_in")
        head = mlp(*[c.hidden] * c.head_layers, 1)
        modules: dict[str, Any] = {"reward": head, "value": head, "actor": mlp(*[c.hidden] * c.actor_layers, 2 * self.actions)}
        if self.images:
            modules["encoder"] = StridedConvs(c.channels, c.embedding)
        else:
            modules["encoder"] = mlp(c.embedding, c.embedding, c.embedding, activation="relu")
        if c.continues:
            modules["continue"] = head
        size = self.leaf.shape
        pictures = lambda times=1: ConvDecoder(size[0], times * size[2], c.channels[0], c.embedding)
        if c.objective == "tia":  # each decoder gives a picture, and what the mask of both, one for all colours, is made of
            modules |= {"decoder": pictures(2), "other_decoder": pictures(2), "other_alone": pictures(), "mask": mlp(1)}
            modules["other_reward"] = head
        elif c.objective == "recon" or c.probe.enabled:
            modules["decoder"] = pictures() if self.images else mlp(c.embedding, c.embedding, size[0], activation="relu")
        if c.objective == "barlow":
            modules["projection"] = mlp(c.embedding)
        return modules

    @property
    def world(self) -> tuple[str, ...]:
        """Names of what the model's loss trains; the decoder among them, be it a probe or not."""
        return (*self.models, *(k for k in self.modules if k not in BEHAVIOUR))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the state-space models: that of the task, and with objective=tia that of distractors."""
        return ("rssm", "other_rssm") if self.config.objective == "tia" else ("rssm",)

    @property
    def noises(self) -> int:
        """Entries of noise that one step of filtering takes."""
        return len(self.models) * self.config.state

    def init(self, key: Key) -> Params:
        names = sorted([*self.models, *self.modules])
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        features = jnp.zeros(self.config.belief + self.config.state)
        given = {"encoder": jnp.zeros(self.leaf.shape, self.leaf.dtype), "mask": jnp.zeros(2 * self.leaf.shape[-1])}
        params = {k: m.init(keys[k], given.get(k, features)) for k, m in self.modules.items()}
        return {**params, **{k: self.rssm.init(keys[k]) for k in self.models}}

    # ---------------------------------------------------------------------------------------------------------- seeing

    def see(self, obs: PyTree, axes: int) -> Array:
        """What the model looks at, with so many leading ``axes``."""
        if not isinstance(obs, dict):
            return obs
        lead = jax.tree.leaves(obs)[0].shape[:axes]
        return obs[PIXELS] if PIXELS in obs else flatten(jnp, obs, lead)

    def target(self, obs: Array) -> Array:
        """What a decoder is to give: pictures in [-1, 1], vectors as they are."""
        return centred(obs)

    def embed(self, p: Params, obs: Array) -> Array:
        return self._of_pictures(partial(self.modules["encoder"].apply, p["encoder"]), obs, len(self.leaf.shape))

    def decode(self, p: Params, features: Array) -> Array:
        """What the decoder makes of features, like `target`."""
        shown = self._of_pictures(partial(self.modules["decoder"].apply, p["decoder"]), features, 1)
        return shown[..., : self.leaf.shape[-1]]

    def _of_pictures(self, fn: Callable[[Array], Array], x: Array, last: int) -> Array:
        """``fn`` of ``x``, whose ``last`` axes are one picture's or its features'."""
        return in_parts(fn, x, x.ndim - last, math.prod(self.leaf.shape[:2])) if self.images else fn(x)

    # ----------------------------------------------------------------------------------------------------------- heads

    def head(self, p: Params, name: str, features: Array) -> Array:
        """[...] of features [..., H + S]: "reward", "value", or "continue", a logit."""
        return self.modules[name].apply(p[name], features)[..., 0]

    def policy(self, p: Params, features: Array) -> Normal:
        """Of actions before tanh."""
        raw = gaussian(self.modules["actor"].apply(p["actor"], features), MIN_STD)
        return raw._replace(mean=MEAN * jnp.tanh(raw.mean / MEAN))
