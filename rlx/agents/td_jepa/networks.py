"""Networks of the family, and `Net`, which bundles those of one agent. Shapes as in Touati et al. 2023 (arXiv:2209.14935)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.agents.td_jepa.config import Config
from rlx.nn.convolutions import of_pictures
from rlx.nn.images import ConvTrunk
from rlx.nn.mlp import LayerNormMLP, orthogonal, stack
from rlx.precision import exact
from rlx.types import Array, PyTree

Params = dict[str, PyTree]  # by the names of `Net.modules`


@exact
def on_sphere(x: Array) -> Array:
    """``x`` [..., d] brought to norm sqrt(d); 0 stays 0."""
    least = 1e-24  # of the squared norm: that of 1e-12
    return x * math.sqrt(x.shape[-1]) * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), least))


class Encoder(nn.Module):
    """``x`` [..., n] to features [..., ``out``], of norm sqrt(out) unless told otherwise. Without layers it is linear."""

    hidden: int
    layers: int
    out: int
    normalize: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = LayerNormMLP((self.hidden,) * self.layers + (self.out,))(x)
        return on_sphere(y) if self.normalize else y

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Predictor(nn.Module):
    """(x [..., n], z [..., d], action [..., m]) to [..., ``out``]: an embedding of (x, z) and one of (x, action) go through
    ``layers`` of ReLU. A ``z`` of no entries is left out."""

    hidden: int
    layers: int
    out: int
    gain: float = math.sqrt(2.0)

    @nn.compact
    def __call__(self, x: Array, z: Array, action: Array) -> Array:
        embed = lambda *parts: LayerNormMLP((self.hidden, self.hidden // 2), True, self.gain)(jnp.concatenate(parts, -1))
        of_action, of_task = embed(x, action), embed(x, z)
        return _trunk(self, jnp.concatenate([of_action, of_task], -1), self.gain, self.out)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class Actor(nn.Module):
    """(x [..., n], z [..., d], noise [..., k]) to actions [..., ``out``] within (-1, 1). The mean of a Gaussian takes no noise,
    k = 0."""

    hidden: int
    layers: int
    out: int

    @nn.compact
    def __call__(self, x: Array, z: Array, noise: Array) -> Array:
        embed = lambda *parts: LayerNormMLP((self.hidden, self.hidden // 2), True)(jnp.concatenate(parts, -1))
        of_task, of_state = embed(x, z, noise), embed(x, noise)
        return jnp.tanh(_trunk(self, jnp.concatenate([of_state, of_task], -1), 1.0, self.out))

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def _trunk(module: Any, x: Array, gain: float, out: int) -> Array:
    """``module.layers`` of ReLU and a linear one, inside a module's call."""
    dense = lambda width: nn.Dense(width, kernel_init=orthogonal(gain), param_dtype=float)
    for _ in range(module.layers):
        x = jax.nn.relu(dense(module.hidden)(x))
    return dense(out)(x)


class FlowField(nn.Module):
    """The velocity [..., m] of a flow from noise to the data's actions, at (x [..., n], place [..., m], time [..., 1])."""

    hidden: int
    layers: int
    out: int

    @nn.compact
    def __call__(self, x: Array, place: Array, time: Array) -> Array:
        h = jnp.concatenate([x, place, time], -1)
        for i in range(self.layers + 1):
            last = i == self.layers
            h = nn.Dense(self.out if last else self.hidden, kernel_init=orthogonal(1.0), param_dtype=float)(h)
            h = h if last else jax.nn.gelu(h, approximate=False)
        return h

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Net:
    """The networks of an agent. Functions take the parameters of all by name (or those of the targets)."""

    config: Config
    modules: dict[str, Any]
    actions: int
    shared: bool = False  # one encoder for states and tasks
    blind: bool = False  # the predictor does not see z
    noise: int = 0  # entries of the actor's noise
    discrete: bool = False  # actions are one of so many choices, here vectors with a single 1

    def see(self, p: Params, which: str, obs: Array) -> Array:
        """What an encoder ("phi" or "psi") is given: an observation, or its trunk's features of an image."""
        name = "trunk_psi" if self.shared else f"trunk_{which}"
        return of_pictures(self.modules[name], p[name], obs) if name in self.modules else obs

    def phi(self, p: Params, h: Array) -> Array:
        """State features [..., d_phi] of what was seen."""
        if self.shared:
            return self.psi(p, h)
        return self.modules["phi"].apply(p["phi"], h) if "phi" in self.modules else h

    def psi(self, p: Params, h: Array, mean: Array | float = 0.0) -> Array:
        """Task features [..., d_psi]: of several encoders those of the first, less their running ``mean`` where one is kept."""
        out = self.modules["psi"].apply(p["psi"], h)
        return (out[0] if out.ndim > h.ndim else out) - mean

    def predict(self, p: Params, x: Array, z: Array, action: Array) -> Array:
        """Successor features [H, ..., d_psi] of taking ``action`` at state features ``x``, then following z's policy."""
        return self.modules["predictor"].apply(p["predictor"], x, z[..., :0] if self.blind else z, action)

    def values(self, p: Params, x: Array, z: Array, action: Array) -> Array:
        """Q [H, ...] of z's own reward psi' z: on its scale, not that of a user's reward."""
        return (self.predict(p, x, z, action) * z).sum(-1)

    def actor_sees(self, p: Params, h: Array) -> Array:
        return self.phi(p, h) if self.config.actor_input == "phi" or self.discrete else h

    def pi(self, p: Params, x: Array, z: Array, noise: Array | None = None) -> Array:
        """Actions [..., m]: of a Gaussian actor its mean; of choices that of the largest value, a mean over heads."""
        if self.discrete:
            each = jnp.broadcast_to(jnp.eye(self.actions), (*x.shape[:-1], self.actions, self.actions))
            wide = lambda v: jnp.broadcast_to(v[..., None, :], (*v.shape[:-1], self.actions, v.shape[-1]))
            return jax.nn.one_hot(self.values(p, wide(x), wide(z), each).mean(0).argmax(-1), self.actions)
        return self.modules["actor"].apply(p["actor"], x, z, z[..., :0] if noise is None else noise)


def common(c: Config, actions: int, images: bool, shared: bool, discrete: bool) -> dict[str, Any]:
    """The networks that all methods have; choices need no actor."""
    psi = Encoder(c.psi_hidden, c.psi_layers, c.d_psi)
    modules: dict[str, Any] = {
        "psi": psi,
        "predictor": predictor(c, c.d_psi),
    }
    if not discrete:
        modules["actor"] = Actor(c.actor_hidden, c.actor_layers, actions)
    if c.state_encoder and not shared:
        modules["phi"] = Encoder(c.phi_hidden, c.phi_layers, c.d_phi)
    if images:
        modules |= {"trunk_psi": ConvTrunk()} | ({} if shared else {"trunk_phi": ConvTrunk()})
    if c.actor == "flow":
        modules["flow"] = FlowField(c.flow_hidden, c.flow_layers, actions)
    return modules


def predictor(c: Config, out: int) -> Predictor:
    """Heads of predictors to ``out`` features, as one."""
    return stack(Predictor(c.predictor_hidden, c.predictor_layers, out), c.heads)
