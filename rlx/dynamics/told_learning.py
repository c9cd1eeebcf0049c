"""How a latent model, its critics and its policies learn from windows of rows: the losses of TD-MPC (Hansen, Wang and Su 2022,
arXiv:2203.04955), for one pair of critics or several, and with policies that do not learn any more (MoDem-V2, Lancaster et al.
2024, arXiv:2309.14236). With z_0 = e(o_0) and z_{t+1} = d(z_t, a_t)::

    y_i      r_t + discount min Q'_i(e(o_{t+1}), pi_i(e(o_{t+1})) + noise), nothing ahead where the task ended
    c_t      mean (z_{t+1} - e'(o_{t+1}))^2            q_t  (R(z_t, a_t) - r_t)^2           v_t  sum_i (Q_i(z_t, a_t) - y_i)^2
    loss     w (2 sum rho^t c_t + 0.5 sum rho^t q_t + 0.1 sum rho^t v_t), each sum at most 1e4
    policy   -sum_t rho^t min Q_i(z_t, pi_i(z_t) + noise), the latents without gradient

A frozen policy has an encoder of its own, and its critics learn what it is worth from latents of that encoder alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.dynamics.told import Params, Told, noisy
from rlx.nn.optim import apply_gradients, optimizer, polyak
from rlx.precision import exact
from rlx.types import Array, Key, PyTree

MOST = 1e4  # of a window's loss
LEAST_PRIORITY = 1e-6
stop = jax.lax.stop_gradient


class Windows(NamedTuple):
    """A batch of windows over H decisions, time in front."""

    obs: PyTree  # [H + 1, B, ...]
    action: Array  # [H, B, A]
    reward: Array  # [H, B], for that action
    going: Array  # [H, B]: 0 where the task ended on arrival, else 1
    weight: Array  # [B]

    @staticmethod
    def of(rows: Any, horizon: int) -> Windows:
        """The first ``horizon`` decisions of `rlx.replay.Sequences`, which may be longer."""
        obs = jax.tree.map(lambda x: x[: horizon + 1], rows.obs)
        after = slice(1, horizon + 1)
        going = 1.0 - rows.terminated[after].astype(jnp.float32)
        return Windows(obs, rows.action[:horizon], rows.reward[after], going, rows.weight)


class Coefs(NamedTuple):
    """Traced."""

    discount: Array | float = 0.99
    consistency: Array | float = 2.0
    reward: Array | float = 0.5
    value: Array | float = 0.1
    rho: Array | float = 0.5  # weight of a step less than the one before
    std: Array | float = 0.05  # of the policies' noise

    @staticmethod
    def of(h: dict[str, Array]) -> Coefs:
        """Of an agent's traced values."""
        names = ("discount", "consistency_coef", "reward_coef", "value_coef", "rho", "std")
        return Coefs(*(h[k] for k in names))


class Errors(NamedTuple):
    """By step and window, [H, B]."""

    consistency: Array
    reward: Array
    value: Array  # squares, summed over critics
    absolute: Array  # the same without squares


class Aux(NamedTuple):
    """What the model's loss says beside its value."""

    latents: Array  # [H + 1, B, Z], imagined
    priority: Array  # [B]
    metrics: dict[str, Array]


@exact
def total(errors: Errors, weight: Array, coefs: Coefs) -> tuple[Array, Array, dict[str, Array]]:
    """The loss, priorities [B] and metrics."""
    powers = coefs.rho ** jnp.arange(errors.reward.shape[0])
    c, r, v, p = (jnp.minimum(jnp.tensordot(powers, x, 1), MOST) for x in errors)
    loss = (weight * (coefs.consistency * c + coefs.reward * r + coefs.value * v)).mean()
    return loss, p + LEAST_PRIORITY, {"model/consistency": c.mean(), "model/reward": r.mean(), "critic/loss": v.mean()}


def td_targets(
    net: Told,
    params: Params,
    frozen: Params | None,
    target: Params,
    batch: Windows,
    following: dict[str, Array],
    coefs: Coefs,
    key: Key,
) -> Array:
    """y [M, H, B] of each pair of critics, those of a frozen policy first. ``following``: latents [H, B, Z] on arrival, "own"
    and of the "frozen" encoder."""
    z, policies = following["own"], params["policies"]
    z = jnp.broadcast_to(z, (net.count, *z.shape))
    if frozen is not None:
        join = lambda one, many: jnp.concatenate([one[None], many])
        z, policies = join(following["frozen"], z), jax.tree.map(join, frozen["policy"], policies)
    ahead = net.values_each(target["critics"], z, noisy(net.act_each(policies, z), coefs.std, key)).min(1)
    return stop(batch.reward + coefs.discount * batch.going * ahead)


def model_loss(
    params: Params, net: Told, policies: PyTree, frozen: Params | None, target: Params, batch: Windows, coefs: Coefs, key: Key
) -> tuple[Array, Aux]:
    """The loss of encoder, dynamics, rewards and critics, ``params``. ``frozen``: {"encoder", "policy"} or None."""
    after = lambda tree: jax.tree.map(lambda x: x[1:], tree)
    first = jax.tree.map(lambda x: x[0], batch.obs)
    z0 = net.encode(params["encoder"], first)

    def ahead(z: Array, action: Array) -> tuple[Array, Array]:
        z = net.move(params["dynamics"], z, action)
        return z, z

    _, rest = jax.lax.scan(ahead, z0, batch.action)
    z = jnp.concatenate([z0[None], rest])
    here = z[:-1]
    following = {"own": stop(net.encode(params["encoder"], after(batch.obs)))}
    q = jax.vmap(net.values, (0, None, None))(jax.tree.map(lambda x: x[net.extra :], params["critics"]), here, batch.action)
    if frozen is not None:
        theirs = stop(net.encode(frozen["encoder"], batch.obs))
        following["frozen"] = theirs[1:]
        own = net.values(jax.tree.map(lambda x: x[0], params["critics"]), theirs[:-1], batch.action)
        q = jnp.concatenate([own[None], q])
    y = td_targets(net, {"policies": policies}, frozen, target, batch, following, coefs, key)
    off = q - y[:, None]
    errors = Errors(
        ((rest - stop(net.encode(target["encoder"], after(batch.obs)))) ** 2).mean(-1),
        (net.rewards(params["reward"], here, batch.action) - batch.reward) ** 2,
        (off**2).sum((0, 1)),
        jnp.abs(off).sum((0, 1)),
    )
    loss, priority, metrics = total(errors, batch.weight, coefs)
    return loss, Aux(stop(z), stop(priority), metrics | {"critic/q_mean": q.mean()})


def policy_loss(policies: PyTree, net: Told, critics: PyTree, z: Array, coefs: Coefs, key: Key) -> tuple[Array, Array]:
    """The sum over policies of their losses, and each [M]; ``critics`` [M] theirs, ``z`` [H + 1, B, Z]. A policy's parameters
    are in its own loss alone, so the gradient of the sum is that of each."""
    z = jnp.broadcast_to(z, (net.count, *z.shape))
    q = net.values_each(critics, z, noisy(net.act_each(policies, z), coefs.std, key)).min(1).mean(-1)
    each = -(q * coefs.rho ** jnp.arange(q.shape[1])).sum(1)
    return each.sum(), each


def model_optimizers(params: Params, names: tuple[str, ...]) -> dict[str, PyTree]:
    """Fresh ones, by the name of what they train."""
    return {k: optimizer(0.0).init(params[k]) for k in names}


def policy_optimizers(policies: PyTree) -> PyTree:
    """Fresh ones, one for each policy [M]."""
    return jax.vmap(optimizer(0.0, max_grad_norm=1.0).init)(policies)


def learn_model(
    net: Told,
    params: Params,
    opts: dict[str, PyTree],
    frozen: Params | None,
    target: Params,
    batch: Windows,
    coefs: Coefs,
    lr: Array,
    max_grad_norm: Array,
    key: Key,
) -> tuple[Params, dict[str, PyTree], Aux]:
    """One step of what ``opts`` has optimisers for, of "encoder", "dynamics", "reward" and "critics". Gradients are divided by
    the horizon and clipped together; each group keeps its own count of steps, which begins when its optimiser does."""
    own = {k: params[k] for k in opts if k != "policies"}
    held = {k: v for k, v in params.items() if k not in own}
    loss = lambda own: model_loss({**held, **own}, net, params["policies"], frozen, target, batch, coefs, key)
    (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(own)
    grads = jax.tree.map(lambda g: g / batch.action.shape[0], grads)
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-12)), grads)
    done = {k: apply_gradients(optimizer(lr), own[k], grads[k], opts[k]) for k in own}
    new = {**params, **{k: v[0] for k, v in done.items()}}
    aux = aux._replace(metrics=aux.metrics | {"model/grad_norm": norm})
    return new, {**opts, **{k: v[1] for k, v in done.items()}}, aux


def learn_policies(
    net: Told, params: Params, opt: PyTree, z: Array, coefs: Coefs, lr: Array, max_grad_norm: Array, key: Key
) -> tuple[PyTree, PyTree, Array]:
    """One step of each policy [M] by itself: (policies, their optimisers, the losses [M])."""
    critics = jax.tree.map(lambda x: stop(x[net.extra :]), params["critics"])
    loss = lambda policies: policy_loss(policies, net, critics, z, coefs, key)
    (_, each), grads = jax.value_and_grad(loss, has_aux=True)(params["policies"])
    chain = optimizer(lr, max_grad_norm=max_grad_norm)
    policies, opt = jax.vmap(lambda p, g, s: apply_gradients(chain, p, g, s))(params["policies"], grads, opt)
    return policies, opt, each


def move_target(target: Params, params: Params, turn: Array, tau: Array) -> Params:
    """Encoder and critics of the target a step of ``tau`` on where it is their ``turn``."""
    return jax.lax.cond(turn, lambda: polyak(target, {k: params[k] for k in target}, tau), lambda: target)
