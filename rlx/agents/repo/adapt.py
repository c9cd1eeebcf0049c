"""Test-time adaptation of an encoder, without rewards (Zhu et al. 2023, section 4.3): in a domain that looks another way, the
embeddings of what is seen there are moved to where those of the source domain were; all that was learned on embeddings stays.

::

    chi^2(tau p_source || p_target) = sup_d  E_source[tau d] - E_target[d + d^2 / 4]

    support:       min over encoder and tau > 0 with E_source[tau] = 1, max over d: embeddings of the target need only lie where
                   some of the source do, which may have been seen more widely
    distribution:  a discriminator of the two is fooled (Goodfellow et al. 2014, arXiv:1406.2661): as frequent, too
    calibration:   pictures of the same states in both domains get the same embedding

The critic d sees embeddings through a variational bottleneck (Peng et al. 2019, "Variational Discriminator Bottleneck",
arXiv:1810.00821), and its slopes are held down. Functions take any encoder: ``embed(params, observations [N, ...]) -> [N, E]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.agents.repo import losses
from rlx.nn.distributions import Normal
from rlx.nn.mlp import INITIALIZERS, MLP, orthogonal, within
from rlx.nn.optim import apply_gradients, optimizer
from rlx.types import Array, Key, PyTree

Embed = Callable[[PyTree, Array], Array]
Kind = Literal["support", "distribution"]


# ---------------------------------------------------------------------------------------------------------------- networks


def _plain(widths: tuple[int, ...], activation: str) -> MLP:
    return MLP(widths, activation, kernel_init=(orthogonal(1.0),) * len(widths))


class Critic(nn.Module):
    """Embeddings [..., E] and ``noise`` [..., ``latent``] to d [...], and the distribution that it was drawn through."""

    hidden: int = 256
    latent: int = 64

    @nn.compact
    def __call__(self, embedding: Array, noise: Array) -> tuple[Array, Normal]:
        mean, log_std = jnp.split(_plain((*[self.hidden] * 4, 2 * self.latent), "leaky_relu")(embedding), 2, -1)
        z = jax.nn.leaky_relu(mean + jnp.exp(log_std) * noise)
        init = INITIALIZERS["fan_in"][1], within(self.latent**-0.5)
        d = nn.Dense(1, kernel_init=init[0], bias_init=init[1], param_dtype=float)(z)
        return d[..., 0], Normal(mean, log_std)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


# ---------------------------------------------------------------------------------------------------------------- formulas


def divergence(tau: Array, d_source: Array, d_target: Array) -> Array:
    """E_source[tau d] - E_target[d + d^2 / 4], whose supremum over d is the chi^2 divergence of tau p_source from p_target."""
    return (tau * d_source).mean() - (d_target + d_target**2 / 4).mean()


def weighted(tau: Array, d_source: Array, multiplier: Array | float) -> Array:
    """What tau goes down: E_source[tau d] + u (E_source[tau] - 1)."""
    return (tau * d_source).mean() + multiplier * (tau.mean() - 1)


def told_apart(d_source: Array, d_target: Array) -> Array:
    """The discriminator's loss."""
    return losses.cross_entropy(d_source, jnp.bool_(True)).mean() + losses.cross_entropy(d_target, jnp.bool_(False)).mean()


def through_bottleneck(source: Normal, target: Normal) -> Array:
    """Mean divergence from N(0, I) of what the critic sees, of both domains."""
    each = lambda normal: normal.kl(jax.tree.map(jnp.zeros_like, normal)).mean()
    return 0.5 * (each(source) + each(target))


def bottleneck_step(price: Array, kl: Array, most: Array | float, lr: Array | float) -> Array:
    """The price of the divergence after a step: up while that is above ``most``, never below 0."""
    return jnp.maximum(0.0, price + lr * (kl - most))


def slope_penalty(d: Callable[[Array], Array], embedding: Array) -> Array:
    """The mean of ||d'(e)||^2 over embeddings [N, E]; ``d`` takes all of them, each entry of its result depends on its own."""
    return (jax.grad(lambda e: d(e).sum())(embedding) ** 2).sum(-1).mean()


def calibration(source: Array, target: Array) -> Array:
    """Minus the log-likelihood of embeddings [N, E] of the source domain under a Gaussian around those of the same states in
    the other, by entry.

    Raises:
        ValueError: they are not of pairs; one of them would be repeated without a word.
    """
    if source.shape != target.shape:
        raise ValueError(
            f"calibration goes by pairs of pictures of one state each: embeddings {list(source.shape)} of the source and "
            f"{list(target.shape)} of the target; give as many of both."
        )
    return losses.nll(target, source).mean()


# ---------------------------------------------------------------------------------------------------------------- learning


class State(NamedTuple):
    """What adaptation changes."""

    encoder: PyTree  # of the target domain
    critic: PyTree
    weight: PyTree  # of tau; () without
    multiplier: Array  # u, of E_source[tau] = 1
    price: Array  # of the critic's bottleneck
    opt: dict[str, PyTree]


class Frames(NamedTuple):
    """Observations [N, ...] of both domains, of other states each."""

    source: Array
    target: Array


@dataclass(frozen=True)
class Alignment:
    """One way to align. ``h``: ``encoder_lr``; ``critic_lr``, ``critic_kl`` (bound of its bottleneck), ``price_lr``,
    ``init_price``, ``penalty`` (of its slopes); ``weight_lr``, ``multiplier_lr``, ``init_multiplier``; and ``align``, the
    weight beside calibration."""

    embed: Embed
    kind: Kind | None  # None: by calibration alone
    features: int  # E
    hidden: int = 256
    latent: int = 64

    @cached_property
    def critic(self) -> Critic:
        return Critic(self.hidden, self.latent)

    @cached_property
    def weight(self) -> MLP:
        return _plain((*[self.hidden] * 4, 1), "relu")

    def tau(self, params: PyTree, embedding: Array) -> Array:
        """The weight [N] of each embedding [N, E] of the source."""
        return jnp.exp(self.weight.apply(params, embedding)[..., 0])

    def init(self, key: Key, encoder: PyTree, h: dict[str, Array]) -> State:
        """From a copy of the source's ``encoder``."""
        k = jax.random.split(key)
        e = jnp.zeros(self.features)
        critic = self.critic.init(k[0], e, jnp.zeros(self.latent)) if self.kind else ()
        weight = self.weight.init(k[1], e) if self.kind == "support" else ()
        u = jnp.asarray(h["init_multiplier"], jnp.float32)
        trained = {"encoder": encoder, "critic": critic, "weight": weight, "multiplier": u}
        opt = {name: optimizer(h[f"{name}_lr"]).init(tree) for name, tree in trained.items()}
        return State(encoder, critic, weight, u, jnp.asarray(h["init_price"], jnp.float32), opt)

    def step(
        self,
        state: State,
        source: PyTree,
        frames: Frames,
        calibrate: Callable[[PyTree], Array],
        h: dict[str, Array],
        key: Key,
    ) -> tuple[State, dict[str, Array]]:
        """The critic, then the encoder, then the weights of the source and their multiplier. ``source``: parameters of its
        encoder, which stay. ``calibrate``: what else an encoder's parameters cost. Without a kind frames are not looked at."""
        k = jax.random.split(key, 4)
        draw = lambda k, x: jax.random.normal(k, (x.shape[0], self.latent))
        metrics: dict[str, Array] = {}
        if self.kind:
            e_source = jax.lax.stop_gradient(self.embed(source, frames.source))
            e_target = jax.lax.stop_gradient(self.embed(state.encoder, frames.target))
            noise = draw(k[0], e_source), draw(k[1], e_target)
            tau = self.tau(state.weight, e_source) if self.kind == "support" else jnp.ones(len(e_source))
            given = state.price, tau, e_source, e_target, noise, h
            (_, (loss, kl)), grads = jax.value_and_grad(self.critic_loss, has_aux=True)(state.critic, *given)
            state = self._descend(state, h, critic=grads)
            state = state._replace(price=bottleneck_step(state.price, kl, h["critic_kl"], h["price_lr"]))
            metrics |= {"critic/loss": loss, "critic/kl": kl, "critic/price": state.price}

        def encoder_loss(encoder: PyTree) -> tuple[Array, dict[str, Array]]:
            cost = calibrate(encoder)
            parts = {"encoder/calibration": cost}
            if self.kind:
                d = self.critic.apply(state.critic, self.embed(encoder, frames.target), draw(k[2], frames.target))[0]
                fooled = losses.cross_entropy(d, jnp.bool_(True)).mean()
                parts["encoder/alignment"] = -(d + d**2 / 4).mean() if self.kind == "support" else fooled
                cost = cost + h["align"] * parts["encoder/alignment"]
            return cost, parts

        grads, parts = jax.grad(encoder_loss, has_aux=True)(state.encoder)
        state, metrics = self._descend(state, h, encoder=grads), {**metrics, **parts}
        if self.kind == "support":
            d = self.critic.apply(state.critic, e_source, draw(k[3], e_source))[0]
            slopes = jax.grad(lambda w: weighted(self.tau(w, e_source), d, state.multiplier))(state.weight)
            mean = self.tau(state.weight, e_source).mean()
            state = self._descend(state, h, weight=slopes, multiplier=1 - mean)
            metrics |= {"weight/mean": mean, "weight/multiplier": state.multiplier}
        return state, metrics

    def critic_loss(
        self,
        critic: PyTree,
        price: Array,
        tau: Array,
        source: Array,
        target: Array,
        noise: tuple[Array, Array],
        h: dict[str, Array],
    ) -> tuple[Array, tuple[Array, Array]]:
        """Of embeddings [N, E] of both domains, with the noise [N, latent] of each: beside it the loss without what holds the
        critic down, and its divergence."""
        d_source, seen_source = self.critic.apply(critic, source, noise[0])
        d_target, seen_target = self.critic.apply(critic, target, noise[1])
        loss = -divergence(tau, d_source, d_target) if self.kind == "support" else told_apart(d_source, d_target)
        kl = through_bottleneck(seen_source, seen_target)
        steep = slope_penalty(lambda e: self.critic.apply(critic, e, noise[0])[0], source)
        return loss + price * (kl - h["critic_kl"]) + h["penalty"] * steep, (loss, kl)

    def _descend(self, state: State, h: dict[str, Array], **grads: PyTree) -> State:
        for name, slopes in grads.items():
            new, opt = apply_gradients(optimizer(h[f"{name}_lr"]), getattr(state, name), slopes, state.opt[name])
            state = state._replace(**{name: new}, opt={**state.opt, name: opt})
        return state
