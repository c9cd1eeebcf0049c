"""What the world model learns: its loss on windows of replay, and the multiplier of its constraint."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.agents.repo import losses
from rlx.agents.repo.networks import Net, Params
from rlx.dynamics.rssm import Filtered
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Sequences
from rlx.types import Array, PyTree


class Window(NamedTuple):
    """What a window of T + 1 rows says of T steps: each action and what it led to. The first row's observation is not used."""

    action: Array  # [T, B, A]
    seen: Array  # [T, B, ...]
    reward: Array  # [T, B]
    joined: Array  # bool [T, B]: else an episode begins here, and the action before it led nowhere
    terminated: Array  # bool [T, B]


def window(net: Net, rows: Sequences) -> Window:
    after = lambda x: x[1:]
    seen = net.see(jax.tree.map(after, rows.obs), 2)
    return Window(rows.action[:-1], seen, after(rows.reward), ~after(rows.first), after(rows.terminated))


class Loss(NamedTuple):
    """What a loss found beside its value."""

    filtered: Filtered
    kl: Array  # [], the mean over steps
    metrics: dict[str, Array]


def bottleneck(net: Net, filtered: Filtered, beta: Array, h: dict[str, Array]) -> tuple[Array, Array]:
    """What the divergence costs, and its mean over steps [T, B]."""
    c = net.config
    share = losses.prior_share(h["prior_train_steps"]) if c.balanced else None
    if c.bottleneck == "free_nats":
        each = filtered.posterior.kl(filtered.prior)
        return jnp.maximum(each, h["free_nats"]).mean(), each.mean()
    kl = losses.divergence(filtered.posterior, filtered.prior, share).mean()
    return jax.lax.stop_gradient(beta) * (kl - h["target_kl"]), kl


def loss(p: Params, net: Net, w: Window, noise: Array, beta: Array, h: dict[str, Array]) -> tuple[Array, Loss]:
    """Of the parameters of `Net.world`. ``noise`` [T, B, S]."""
    c, embedding = net.config, net.embed(p, w.seen)
    filtered = net.rssm.filter(p["rssm"], embedding, w.action, w.joined, noise)
    features = filtered.latent.features
    reward = losses.masked_mean(losses.nll(net.head(p, "reward", features), w.reward), w.joined)
    cost, kl = bottleneck(net, filtered, beta, h)
    total, metrics = reward + cost, {"model/reward_loss": reward, "model/kl": kl}
    if c.continues:
        ends = losses.cross_entropy(net.head(p, "continue", features), ~w.terminated).mean()
        total, metrics = total + ends, {**metrics, "model/continue_loss": ends}
    if c.objective == "barlow":
        flat = lambda x: x.reshape(-1, x.shape[-1])
        projected = net.modules["projection"].apply(p["projection"], features)
        agreement = losses.barlow(flat(projected), flat(embedding), h["barlow_redundancy"])
        total, metrics = total + h["barlow_coef"] * agreement, {**metrics, "model/barlow_loss": agreement}
    if "decoder" in net.modules:
        learns = c.objective == "recon"
        shown = net.modules["decoder"].apply(p["decoder"], features if learns else jax.lax.stop_gradient(features))
        each = losses.nll(shown, net.target(w.seen))
        recon = each.reshape(*each.shape[:2], -1).sum(-1).mean()
        total = total + (h["recon_coef"] if learns else 1.0) * recon
        metrics |= {"model/recon_loss" if learns else "probe/loss": recon}
    return total, Loss(filtered, kl, metrics)


# ------------------------------------------------------------------------------------------------------------- optimisers


def groups(net: Net) -> dict[str, tuple[str, ...]]:
    """Names of networks by optimiser. What is in one is clipped together."""
    probe = net.config.objective != "recon" and "decoder" in net.modules and not net.config.probe.joint_clip
    model = tuple(k for k in net.world if not (probe and k == "decoder"))
    return {"model": model, **({"probe": ("decoder",)} if probe else {})}


def chain(name: str, h: dict[str, Array]) -> Any:
    """The optimiser of a group, or of "actor" or "value"."""
    return optimizer(h[f"{name}_lr"], max_grad_norm=h["max_grad_norm"])


def step(
    net: Net, params: Params, grads: Params, opt: dict[str, PyTree], h: dict[str, Array]
) -> tuple[Params, dict[str, PyTree], dict[str, Array]]:
    """One step of each optimiser of the model: (params, opt, the gradients' norms)."""
    said = {}
    for name, names in groups(net).items():
        part, slopes = ({k: tree[k] for k in names} for tree in (params, grads))
        new, state = apply_gradients(chain(name, h), part, slopes, opt[name])
        params, opt = {**params, **new}, {**opt, name: state}
        said[f"{name}/grad_norm"] = norm(slopes)
    return params, opt, said


def norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def dual_chain(h: dict[str, Array]) -> Any:
    return optimizer(h["beta_lr"])


def dual_step(log_beta: Array, opt: PyTree, violation: Array, h: dict[str, Array]) -> tuple[Array, PyTree]:
    """The logarithm of the multiplier after one step of ascent: up while the divergence is above its bound."""
    return apply_gradients(dual_chain(h), log_beta, losses.dual_slope(violation), opt)
