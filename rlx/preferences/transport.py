"""Optimal transport between sets of trajectories: Sinkhorn, stabilised in the log domain, and Gromov-Wasserstein.

A coupling T [M, N] says how much of the i-th source goes to the j-th target; its rows sum to p, its columns to q.
Gromov-Wasserstein compares distances within one set to distances within the other, so the two need nothing in common::

    GW(T) = sum_ijkl (Cs[i,k] - Ct[j,l])^2 T[i,j] T[k,l] = <D(T), T>
    D(T)  = (Cs * Cs) p 1' + 1 ((Ct * Ct) q)' - 2 Cs T Ct'

    T <- p q'
    repeat:  T <- Sinkhorn(D(T), p, q, eps)                          entropic (Peyre, Cuturi and Solomon 2016, alg. 1)
       or:   T <- Sinkhorn(D(T) - eps log T, p, q, eps)              proximal (Xu et al. 2019), which ends without blur

The gradient of GW is 2 D(T), so ``eps`` here is half of that of libraries that linearise with the gradient (POT). *Fused*
transport (Vayer et al. 2019) adds a cost M between the sets: it goes down (1 - alpha) <M, T> + alpha GW(T), of which the linear
part is alpha D(T) + (1 - alpha) M / 2.

All functions take ``xp``: jax.numpy computes in float32 and may be traced and mapped, numpy in float64 on the host. A row or
column of weight 0 takes no part, so that problems of different sizes become one program (`solve_many`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.precision import exact
from rlx.types import Array

SCALED = 5  # rounds of Sinkhorn between two looks at the log domain


class Coupling(NamedTuple):
    """A plan and how far it can be trusted. Batches have a leading axis."""

    plan: Array  # [M, N], columns sum to q exactly
    cost: Array  # GW(T), or <M, T> where only a cost between the sets was given
    row_error: Array  # sum_i |sum_j T[i,j] - p[i]|: 0 once Sinkhorn has converged
    change: Array  # largest change of an entry in the last outer step


def _repeat(xp: Any, times: int, step: Callable[[Any], Any], start: Any) -> Any:
    if xp is jnp:
        return jax.lax.fori_loop(0, times, lambda _, x: step(x), start)
    for _ in range(times):
        start = step(start)
    return start


def _log(xp: Any, weight: Array) -> Array:
    """-inf at 0, without numpy's warning."""
    return xp.where(weight > 0, xp.log(xp.where(weight > 0, weight, 1.0)), -xp.inf)


def _logsumexp(xp: Any, x: Array, axis: int) -> Array:
    """Along ``axis``; a slice of -inf alone gives 0, which is only met where everything has no weight."""
    top = x.max(axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.exp(x - top).sum(axis)
    return top.squeeze(axis) + xp.log(xp.where(total > 0, total, 1.0))


def _ratio(xp: Any, weight: Array, total: Array) -> Array:
    """weight / total; 0 where there is neither."""
    return weight / xp.where(total > 0, total, 1.0)


@exact
def sinkhorn(xp: Any, cost: Array, p: Array, q: Array, eps: float | Array, inner: int) -> Array:
    """The coupling [M, N] with the least <cost, T> - eps entropy(T) (Cuturi 2013), after ``inner`` rounds. The columns' update
    comes last, so column sums are exact whether it has converged or not.

    Potentials f, g are in the log domain, where nothing underflows; the exponential of the matrix, which costs most, is taken
    once for `SCALED` rounds, which scale its rows and columns by u, v (Schmitzer 2019, arXiv:1610.06519, section 3.1). That is
    safe: after a first round column sums are q, and a round makes no row's sum less than min(q) of what it was.
    """
    log_p, log_q = _log(xp, p), _log(xp, q)
    g = xp.where(q > 0, 0.0 * q, -xp.inf)
    f = eps * (log_p - _logsumexp(xp, (g[None] - cost) / eps, 1))
    g = eps * (log_q - _logsumexp(xp, (f[:, None] - cost) / eps, 0))

    def scaled(fg: tuple[Array, Array], rounds: int) -> tuple[Array, Array]:
        f, g = fg
        plan = xp.exp((f[:, None] + g[None] - cost) / eps)

        def step(uv: tuple[Array, Array]) -> tuple[Array, Array]:
            u = _ratio(xp, p, plan @ uv[1])
            return u, _ratio(xp, q, u @ plan)

        u, v = _repeat(xp, rounds, step, (xp.ones_like(p), xp.ones_like(q)))
        return f + eps * _log(xp, u), g + eps * _log(xp, v)

    times, rest = divmod(inner - 1, SCALED)
    f, g = scaled(_repeat(xp, times, lambda fg: scaled(fg, SCALED), (f, g)), rest)
    plan = xp.exp((f[:, None] + g[None] - cost) / eps)
    return plan * _ratio(xp, q, plan.sum(0))  # the last digits of float32


@exact
def distortion(xp: Any, source: Array, target: Array, plan: Array, p: Array, q: Array) -> Array:
    """D(T) [M, N] of distances ``source`` [M, M] and ``target`` [N, N]."""
    return ((source**2) @ p)[:, None] + ((target**2) @ q)[None] - 2 * source @ plan @ target.T


def gw_cost(xp: Any, source: Array, target: Array, plan: Array) -> Array:
    """GW(T) for any T, with the sums that it has."""
    return (distortion(xp, source, target, plan, plan.sum(1), plan.sum(0)) * plan).sum()


@exact
def gromov_wasserstein(
    xp: Any,
    source: Array,
    target: Array,
    p: Array,
    q: Array,
    *,
    eps: float | Array = 5e-3,
    outer: int = 20,
    inner: int = 50,
    proximal: bool = False,
    start: Array | None = None,
    between: Array | None = None,
    alpha: float | Array = 0.5,
) -> Coupling:
    """A stationary coupling of two sets by their distances within, ``source`` [M, M] and ``target`` [N, N].

    ``start`` [M, N] is where it begins (None: p q'). With ``between`` [M, N], a cost between the sets, it is fused transport
    with the share ``alpha`` of GW.
    """
    begin = p[:, None] * q[None] if start is None else start

    def step(at: tuple[Array, Array]) -> tuple[Array, Array]:
        plan = at[0]
        cost = distortion(xp, source, target, plan, p, q)
        if between is not None:
            cost = alpha * cost + 0.5 * (1 - alpha) * between
        if proximal:
            cost = cost - eps * xp.log(xp.maximum(plan, np.finfo(np.float32).tiny))
        new = sinkhorn(xp, cost, p, q, eps, inner)
        return new, abs(new - plan).max()

    plan, change = _repeat(xp, outer, step, (begin, abs(begin).max()))
    return Coupling(plan, gw_cost(xp, source, target, plan), abs(plan.sum(1) - p).sum(), change)


@exact
def linear(xp: Any, cost: Array, p: Array, q: Array, *, eps: float | Array = 5e-3, inner: int = 1000) -> Coupling:
    """Ordinary transport by a ``cost`` [M, N] between the sets."""
    plan = sinkhorn(xp, cost, p, q, eps, inner)
    return Coupling(plan, (cost * plan).sum(), abs(plan.sum(1) - p).sum(), xp.zeros(()))


# ------------------------------------------------------------------------------------------------------------------ batches


@functools.partial(jax.jit, static_argnames=("outer", "inner", "proximal"))
def _many(source: Array, target: Array, p: Array, q: Array, eps: Array, outer: int, inner: int, proximal: bool) -> Coupling:
    solve = functools.partial(gromov_wasserstein, jnp, outer=outer, inner=inner, proximal=proximal)
    return jax.vmap(lambda *one: solve(*one[:4], eps=one[4]))(source, target, p, q, eps)


def solve_many(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    *,
    eps: float | Sequence[float] = 5e-3,
    outer: int = 20,
    inner: int = 50,
    proximal: bool = False,
) -> list[Coupling]:
    """`gromov_wasserstein` of B problems of any sizes with uniform weights, as one program in float32: distances [M_b, M_b] and
    [N_b, N_b] are padded with rows and columns of weight 0. Gives numpy.

    Raises:
        ValueError: there are not as many sources as targets, or none, or something is no square matrix.
    """
    if len(sources) != len(targets) or not len(sources):
        raise ValueError(f"solve_many: {len(sources)} sources and {len(targets)} targets; give as many of each, one at least.")
    (source, p), (target, q) = _padded(sources, "source"), _padded(targets, "target")
    each = np.broadcast_to(np.asarray(eps, np.float32), len(sources))
    found = jax.tree.map(np.asarray, _many(source, target, p, q, each, outer, inner, proximal))
    cut = lambda b, m, n: Coupling(found.plan[b, :m, :n], found.cost[b], found.row_error[b], found.change[b])
    return [cut(b, len(s), len(t)) for b, (s, t) in enumerate(zip(sources, targets, strict=True))]


def _padded(matrices: Sequence[np.ndarray], what: str) -> tuple[np.ndarray, np.ndarray]:
    """[B, n, n] and uniform weights [B, n], 0 where padded; float32."""
    for b, c in enumerate(matrices):
        if np.ndim(c) != 2 or np.shape(c)[0] != np.shape(c)[1] or not len(c):
            raise ValueError(f"solve_many: {what} {b} has the shape {list(np.shape(c))}; give distances [n, n].")
    n = max(map(len, matrices))
    out, weight = np.zeros((len(matrices), n, n), np.float32), np.zeros((len(matrices), n), np.float32)
    for b, c in enumerate(matrices):
        out[b, : len(c), : len(c)] = c
        weight[b, : len(c)] = 1 / len(c)
    return out, weight
