"""A task-oriented latent dynamics model (TOLD; Hansen, Wang and Su 2022, "Temporal Difference Learning for Model Predictive
Control", arXiv:2203.04955), and with it encoders of images and of states as MoDem has them (Hansen et al. 2022,
arXiv:2212.05698).

::

    z = e(obs)    z' = d(z, a)    r = R(z, a)    Q_1, Q_2(z, a)    pi(z)

Nothing is reconstructed: latents are what predicts rewards, values, and the next latent. Policies and pairs of critics may be
stacks of several, with a leading axis of their parameters. How they learn is `rlx.dynamics.told_learning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlx.nn.convolutions import in_parts
from rlx.nn.images import StridedTrunk
from rlx.nn.mlp import MLP, orthogonal, stack
from rlx.types import Array, Key, Leaf, PyTree, Spec

Params = dict[str, PyTree]  # "encoder", "dynamics", "reward", "critics" [M, 2, ...], "policies" [M, ...]
EDGE = 1 - 1e-6  # the largest action of a policy
NOISE = 0.3  # the largest noise


def elu(widths: tuple[int, ...], last_scale: float = 1.0) -> MLP:
    """Dense layers with ELU in between, orthogonal, biases 0."""
    return MLP(widths, "elu", kernel_init=(orthogonal(1.0),) * len(widths), last_scale=last_scale)


class Critic(nn.Module):
    """x [..., n] to a value [..., 1]: dense, layer normalisation, tanh; dense, ELU; and a last layer that is 0 at first."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.hidden, kernel_init=orthogonal(1.0), param_dtype=float)(x)
        x = jnp.tanh(nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, param_dtype=float)(x))
        return elu((self.hidden, 1), last_scale=0.0)(x)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Encoder(nn.Module):
    """Observations to latents [..., ``latent``]: a trunk for each of the ``views`` and one for the rest, added up, then dense,
    ELU, dense."""

    latent: int
    hidden: int
    views: tuple[str, ...] = ()  # names of images; "" where the observation is one
    convolutions: int = 0

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        pictures, state = parted(obs, self.views)
        parts = [StridedTrunk(self.latent, self.convolutions, name=f"view_{k}")(x) for k, x in pictures.items()]
        if state is not None:
            parts.append(elu((self.hidden, self.latent))(state))
        return elu((self.hidden, self.latent))(sum(parts))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def parted(obs: PyTree, views: tuple[str, ...]) -> tuple[dict[str, Array], Array | None]:
    """The images by name, and one vector [..., n] of all else; None where there is nothing else."""
    if not isinstance(obs, Mapping):
        return ({"": obs}, None) if views else ({}, obs)
    rest = [jnp.asarray(obs[k], jnp.float32) for k in sorted(obs) if k not in views]
    return {k: obs[k] for k in views}, jnp.concatenate(rest, -1) if rest else None


@dataclass(frozen=True)
class Sight:
    """What networks are shown of observations that hold frames along their last axes, the oldest first: of images all of them,
    each camera as an image of its own, and of vectors the newest."""

    images: tuple[tuple[str, int], ...] = ()  # by name, "" where the observation is one; and how many cameras lie in each
    proprio: tuple[int, ...] = ()  # which numbers of the vector beside images are shown; (): all

    @property
    def views(self) -> tuple[str, ...]:
        """The names of what `__call__` makes of the images: that of the image, or one for each of its cameras."""
        return tuple(view for k, n in self.images for view in self._cameras(k, n))

    @staticmethod
    def _cameras(name: str, count: int) -> tuple[str, ...]:
        return (name,) if count == 1 else tuple(f"{name or 'camera'}_{i}" for i in range(count))

    def __call__(self, obs: PyTree, frames: int = 1) -> PyTree:
        """Of ``obs`` [...] with so many ``frames``. The channels of an image are [frames, cameras, C], flat."""
        newest = lambda x: x if frames == 1 else x[..., -(x.shape[-1] // frames) :]
        if not self.images:
            return jax.tree.map(newest, obs)
        leaves, found = obs if isinstance(obs, Mapping) else {"": obs}, {}
        for k, n in self.images:
            x = leaves[k]
            apart = x.reshape(*x.shape[:-1], frames, n, -1) if n > 1 else None
            for i, view in enumerate(self._cameras(k, n)):
                found[view] = x if apart is None else apart[..., i, :].reshape(*x.shape[:-1], -1)
        rest: Any = {k: newest(x) for k, x in leaves.items() if k not in dict(self.images)}
        if self.proprio:
            vector: Any = parted(rest, ())[1]
            rest = {"state": vector[..., np.array(self.proprio)]}
        found |= rest
        return found[""] if set(found) == {""} else found


def sight_of(spec: Spec, name: str, convolutions: int = 0, cameras: int | None = None, proprio: str = "") -> tuple[Sight, int]:
    """What networks are shown of an environment, and how many convolutions look at its images (``convolutions``, or 0: as many
    as the smallest allows). ``cameras``: how many lie in each image; None: one for each three channels, if there are such.
    ``proprio``: `entries` of the vector beside images; "": all.

    Raises:
        ValueError: observations that are neither vectors nor images in uint8 (nor a dict of such), images that are too small
            or have no equal shares for the cameras; entries that there are not.
    """
    flat = dict(spec.obs) if isinstance(spec.obs, Mapping) else {"": spec.obs}
    images = tuple(k for k, leaf in sorted(flat.items()) if isinstance(leaf, Leaf) and len(leaf.shape) == 3)
    odd = {k: leaf for k, leaf in flat.items() if not isinstance(leaf, Leaf) or len(leaf.shape) not in (1, 3)}
    odd |= {k: flat[k] for k in images if flat[k].dtype != np.uint8}
    if odd:
        raise ValueError(f"{name} takes vectors, and images in uint8 [H, W, C]; this environment has {odd}.")
    if not images:
        return Sight(), 0
    channels = {k: flat[k].shape[-1] for k in images}
    for k, n in channels.items():
        if n % (cameras or 1):
            raise ValueError(f"{name}: the {n} channels of the image {k!r} are no equal shares for cameras={cameras}.")
    count = lambda n: cameras or (n // 3 if n % 3 == 0 else 1)
    sides = [min(leaf.shape[:2]) for leaf in (flat[k] for k in images)]
    numbers = sum(leaf.shape[0] for k, leaf in flat.items() if k not in images)
    shown = entries(proprio, numbers, name) if proprio and numbers else ()
    return Sight(tuple((k, count(n)) for k, n in channels.items()), shown), StridedTrunk.convolutions_for(
        min(sides), convolutions
    )


def entries(text: str, n: int, name: str) -> tuple[int, ...]:
    """Places in a vector of ``n`` numbers, as ``text`` has them with commas between: 7, 0:4 or -3:, as Python counts.

    Raises:
        ValueError: something else, or places that there are not.
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            ends = [int(x) if x.strip() else None for x in part.split(":")]
            if any(x is not None and abs(x) > n for x in ends):
                raise IndexError
            found += range(n)[slice(*ends)] if len(ends) == 2 else [range(n)[int(part)]]
    except (ValueError, IndexError):
        raise ValueError(f"{name}: proprio={text!r} are no places among {n} numbers; give such as 0:4,7,-3:.") from None
    if not found:
        raise ValueError(f"{name}: proprio={text!r} are no places among {n} numbers; leave it out for all of them.")
    return tuple(found)


@dataclass(frozen=True)
class Told:
    """The networks, static. Functions take the parameters of one network each."""

    encoder: Encoder
    dynamics: MLP
    reward: MLP
    policy: MLP
    critic: Any  # a stack of two
    count: int = 1  # policies, and pairs of critics
    extra: int = 0  # pairs of critics before these, of policies that do not learn

    @staticmethod
    def of(
        actions: int,
        latent: int = 50,
        hidden: int = 512,
        encoder_hidden: int = 256,
        views: tuple[str, ...] = (),
        convolutions: int = 0,
        count: int = 1,
        extra: int = 0,
    ) -> Told:
        heads = lambda out, scale=1.0: elu((hidden, hidden, out), scale)
        encoder = Encoder(latent, encoder_hidden, views, convolutions)
        return Told(encoder, heads(latent), heads(1, 0.0), heads(actions), stack(Critic(hidden), 2), count, extra)

    def init(self, key: Key, obs: PyTree) -> Params:
        """``obs``: an observation."""
        k = jax.random.split(key, 5)
        z = self.encoder.latent
        pair = jnp.zeros(z + self.policy.widths[-1])
        pairs = jax.random.split(k[3], self.count + self.extra)
        return {
            "encoder": self.encoder.init(k[0], obs),
            "dynamics": self.dynamics.init(k[1], pair),
            "reward": self.reward.init(k[2], pair),
            "critics": jax.vmap(lambda key: self.critic.init(key, pair))(pairs),
            "policies": stack(self.policy, self.count).init(k[4], jnp.zeros(z)),
        }

    def encode(self, params: PyTree, obs: PyTree) -> Array:
        encode = lambda part: self.encoder.apply(params, part)
        pictures = list(parted(obs, self.encoder.views)[0].values())
        if not pictures:
            return encode(obs)
        return in_parts(encode, obs, pictures[0].ndim - 3, sum(math.prod(x.shape[-3:-1]) for x in pictures))

    def move(self, params: PyTree, z: Array, action: Array) -> Array:
        """The next latent."""
        return self.dynamics.apply(params, jnp.concatenate([z, action], -1))

    def rewards(self, params: PyTree, z: Array, action: Array) -> Array:
        return self.reward.apply(params, jnp.concatenate([z, action], -1))[..., 0]

    def act(self, params: PyTree, z: Array) -> Array:
        """The mean of one policy."""
        return jnp.tanh(self.policy.apply(params, z))

    def act_each(self, params: PyTree, z: Array) -> Array:
        """Of a stack of policies [M], each at latents of its own [M, ..., Z]."""
        return jax.vmap(self.act)(params, z)

    def values(self, params: PyTree, z: Array, action: Array) -> Array:
        """Of one pair of critics [2, ...]."""
        return self.critic.apply(params, jnp.concatenate([z, action], -1))[..., 0]

    def values_each(self, params: PyTree, z: Array, action: Array) -> Array:
        """Of a stack of pairs [M], each at [M, ..., Z] and [M, ..., A] of its own: [M, 2, ...]."""
        return jax.vmap(self.values)(params, z, action)


def noisy(mean: Array, std: Array | float, key: Key) -> Array:
    """An action: ``mean`` and a normal noise cut at +-0.3, kept within (-1, 1). The gradient passes as if nothing were cut at
    the end, or it would vanish where actions lie at their bounds."""
    x = mean + jnp.clip(std * jax.random.normal(key, mean.shape), -NOISE, NOISE)
    return x + jax.lax.stop_gradient(jnp.clip(x, -EDGE, EDGE) - x)
