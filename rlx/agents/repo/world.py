"""What the world model learns: its loss on windows of replay, and the multiplier of its constraint."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.agents.repo import losses
from rlx.agents.repo.networks import Net, Params
from rlx.dynamics.rssm import Filtered
from rlx.nn.images import random_shift
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Sequences
from rlx.types import Array, Key, PyTree


class Window(NamedTuple):
    """What a window of T + 1 rows says of T steps: each action and what it led to. The first row's observation is not used."""

    action: Array  # [T, B, A]
    obs: Array  # [T, B, ...]
    reward: Array  # [T, B]
    joined: Array  # bool [T, B]: else an episode begins here, and the action before it led nowhere
    terminated: Array  # bool [T, B]


def window(net: Net, rows: Sequences) -> Window:
    after = lambda x: x[1:]
    obs = net.see(jax.tree.map(after, rows.obs), 2)
    return Window(rows.action[:-1], obs, after(rows.reward), ~after(rows.first), after(rows.terminated))


def shifted(w: Window, key: Key, pad: int) -> Window:
    """With pictures moved at random, those of one window by one shift: what stands still goes on to stand still."""
    return w._replace(obs=jax.vmap(lambda images: random_shift(key, images, pad))(w.obs)) if pad else w


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
    violation = kl - h["target_kl"]
    return jax.lax.stop_gradient(price(net, beta, violation, h)) * violation, kl


def price(net: Net, beta: Array, violation: Array, h: dict[str, Array]) -> Array:
    """What a nat costs: the multiplier, and where it is learned its answer to the violation at once."""
    if net.config.bottleneck != "dual":
        return beta
    return jnp.minimum(beta * jnp.exp(h["beta_gain"] * violation), h["most_beta"])


def loss(p: Params, net: Net, w: Window, noise: Array, beta: Array, h: dict[str, Array]) -> tuple[Array, Loss]:
    """Of the parameters of `Net.world`. ``noise`` [T, B, `Net.noises`]."""
    c, embedding = net.config, net.embed(p, w.obs)
    filtered = net.rssm.filter(p["rssm"], embedding, w.action, w.joined, noise[..., : c.state])
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
        agreement = losses.barlow(flat(projected), jax.lax.stop_gradient(flat(embedding)), h["barlow_redundancy"])
        total, metrics = total + h["barlow_coef"] * agreement, {**metrics, "model/barlow_loss": agreement}
    if c.objective == "tia":
        cost, more = disentangled(p, net, w, embedding, features, noise[..., c.state :], beta, h)
        total, metrics = total + cost, {**metrics, **more}
    elif "decoder" in net.modules:
        learns = c.objective == "recon"
        recon = unlikely(net.decode(p, features if learns else jax.lax.stop_gradient(features)), net.target(w.obs))
        total = total + (h["recon_coef"] if learns else 1.0) * recon
        metrics |= {"model/recon_loss" if learns else "probe/loss": recon}
    return total, Loss(filtered, kl, metrics)


def unlikely(shown: Array, target: Array) -> Array:
    """Of observations [T, B, ...]: the sum over their entries, the mean over steps."""
    each = losses.nll(shown, target)
    return each.reshape(*each.shape[:2], -1).sum(-1).mean()


def disentangled(
    p: Params, net: Net, w: Window, embedding: Array, features: Array, noise: Array, beta: Array, h: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """What is added with objective=tia (Fu et al. 2021, "Learning Task Informed Abstractions", arXiv:2106.15612): a second
    model, of distractors, shares the encoder. Both together reconstruct, mixed by a mask; the second does so alone too, and is
    to know nothing of rewards: a head that reads them off it learns to, and the model learns to make it fail."""
    other = net.rssm.filter(p["other_rssm"], embedding, w.action, w.joined, noise)
    other_features, target = other.latent.features, net.target(w.obs)
    decoded = (net.modules[k].apply(p[k], x) for k, x in (("decoder", features), ("other_decoder", other_features)))
    (task, task_mask), (rest, rest_mask) = (jnp.split(x, 2, -1) for x in decoded)
    mask = jax.nn.sigmoid(net.modules["mask"].apply(p["mask"], jnp.concatenate([task_mask, rest_mask], -1)))
    recon = unlikely(mask * task + (1 - mask) * rest, target)
    alone = unlikely(net.modules["other_alone"].apply(p["other_alone"], other_features), target)
    read = lambda head, x: losses.masked_mean(
        losses.nll(net.head({"other_reward": head}, "other_reward", x), w.reward), w.joined
    )
    reads = read(p["other_reward"], jax.lax.stop_gradient(other_features))
    fooled = read(jax.lax.stop_gradient(p["other_reward"]), other_features)
    cost, kl = bottleneck(net, other, beta, h)
    total = h["recon_coef"] * recon + h["tia_coef"] * alone + cost + reads - h["tia_adversary"] * fooled
    return total, {"model/recon_loss": recon, "other/recon_loss": alone, "other/reward_loss": reads, "other/kl": kl}


# ------------------------------------------------------------------------------------------------------------- optimisers

RATES = {"adversary": "model_lr"}  # step sizes that have no name of their own


def groups(net: Net) -> dict[str, tuple[str, ...]]:
    """Names of networks by optimiser. What is in one is clipped together."""
    c, apart = net.config, {}
    if c.objective in ("repo", "barlow") and "decoder" in net.modules and not c.probe.joint_clip:
        apart = {"probe": ("decoder",)}
    if c.objective == "tia":
        apart = {"adversary": ("other_reward",)}
    return {"model": tuple(k for k in net.world if (k,) not in apart.values()), **apart}


def chain(name: str, h: dict[str, Array]) -> Any:
    """The optimiser of a group, or of "actor" or "value"."""
    return optimizer(h[RATES.get(name, f"{name}_lr")], max_grad_norm=h["max_grad_norm"])


def step(
    net: Net, params: Params, grads: Params, opt: dict[str, PyTree], h: dict[str, Array]
) -> tuple[Params, dict[str, PyTree], dict[str, Array]]:
    """One step of each optimiser of the model: (params, opt, the gradients' norms)."""
    norms = {}
    for name, names in groups(net).items():
        part, slopes = ({k: tree[k] for k in names} for tree in (params, grads))
        new, state = apply_gradients(chain(name, h), part, slopes, opt[name])
        params, opt = {**params, **new}, {**opt, name: state}
        norms[f"{name}/grad_norm"] = norm(slopes)
    return params, opt, norms


def norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def dual_chain(h: dict[str, Array]) -> Any:
    return optimizer(h["beta_lr"])


def dual_step(log_beta: Array, opt: PyTree, violation: Array, h: dict[str, Array]) -> tuple[Array, PyTree]:
    """The logarithm of the multiplier after one step of ascent: up while the divergence is above its bound."""
    log_beta, opt = apply_gradients(dual_chain(h), log_beta, losses.dual_slope(violation), opt)
    return jnp.clip(log_beta, jnp.log(h["least_beta"]), jnp.log(h["most_beta"])), opt
