"""The networks of YANN-RL: residuals that start at exactly 0, the paper's big-M network, and a critic that starts exact.

Arrays of parameters are stacked over regions where there is a net per region. Features x are z / scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.yann.config import Residual
from rlx.planning.laws import FAR, PiecewiseLaw
from rlx.types import Array, Key

SMALL = 0.01  # magnitude of paired initial weights (YANN-RL, section 3.2.3)
Params = dict[str, Array]


# --------------------------------------------------------------------------------------------------------------- residuals


def residual_init(key: Key, kind: Residual, init: str, regions: int, features: int, width: int, outputs: int) -> Params:
    """Parameters of g_i, whose output is 0 at the start: bitwise (``zero_last``: the last layer is 0), or as the paper has it
    (``paired``: units come in pairs of opposite weights that later layers treat alike), up to rounding."""
    if kind == "none":
        return {}
    nets = {"block": regions, "paper": 1, "shared": 1}[kind]
    wide = width * outputs * regions if kind == "paper" else width
    keys = jax.random.split(key, 3)
    first, second = (nets, features, wide), (nets, wide, wide)
    if init == "paired":
        bias = _opposite(jax.random.fold_in(keys[0], 1), (nets, 1, wide))[:, 0]
        params = {"wa": _opposite(keys[0], first), "ba": bias, "wb": _alike(keys[1], second)}
        head = _small(keys[2], (nets, wide, outputs))
    else:
        params = {"wa": _orthogonal(keys[0], first), "ba": jnp.zeros((nets, wide)), "wb": _orthogonal(keys[1], second)}
        head = jnp.zeros((nets, wide, outputs))
    if kind == "paper":  # no head, so that the second layer is the last: a region's units are summed
        return params if init == "paired" else {**params, "wb": jnp.zeros(second)}
    return {**params, "bb": jnp.zeros((nets, wide)), "head": head}


def residual(params: Params, kind: Residual, x: Array, region: Array, regions: int, outputs: int) -> Array:
    """g of ``region`` int [...] at x [..., features]: [..., outputs]."""
    if kind == "none":
        return jnp.zeros((*x.shape[:-1], outputs))
    if kind == "paper":
        every = residual_of_all(params, x, regions, outputs)
        return jnp.take_along_axis(every, region[..., None, None], -2)[..., 0, :]
    own = jax.tree.map(lambda p: p[region] if kind == "block" else p[0], params)
    hidden = jnp.tanh(_dot(x, own["wa"]) + own["ba"])
    hidden = jnp.tanh(_dot(hidden, own["wb"]) + own["bb"])
    return _dot(hidden, own["head"])


def residual_of_all(params: Params, x: Array, regions: int, outputs: int) -> Array:
    """The paper's g of all regions [..., p, outputs]: two layers dense over regions, the second without bias, and the sum of
    each region's and output's own units."""
    hidden = jnp.tanh(x @ params["wa"][0] + params["ba"][0])
    hidden = jnp.tanh(hidden @ params["wb"][0])
    return hidden.reshape(*x.shape[:-1], regions, outputs, -1).sum(-1)


def _dot(x: Array, w: Array) -> Array:
    """x [..., n] with w [n, m], or with one w [..., n, m] for each x."""
    return x @ w if w.ndim == 2 else (x[..., None, :] @ w)[..., 0, :]


def _orthogonal(key: Key, shape: tuple[int, int, int]) -> Array:
    make = jax.nn.initializers.orthogonal()
    return jax.vmap(lambda k: make(k, shape[1:]))(jax.random.split(key, shape[0]))


def _small(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-SMALL, maxval=SMALL)


def _opposite(key: Key, shape: tuple[int, int, int]) -> Array:
    """[W, -W] along the last axis, and one unit of 0 where it is odd."""
    half = _small(key, (*shape[:-1], shape[-1] // 2))
    return jnp.concatenate([half, -half, jnp.zeros((*shape[:-1], shape[-1] % 2))], -1)


def _alike(key: Key, shape: tuple[int, int, int]) -> Array:
    """Weights that see both units of a pair alike."""
    half = _small(key, (shape[0], shape[1] // 2, shape[2]))
    return jnp.concatenate([half, half, _small(jax.random.fold_in(key, 1), (shape[0], shape[1] % 2, shape[2]))], 1)


def bounded(g: Array, bound: Array | None) -> Array:
    """|g| <= bound, with slope 1 at 0."""
    return g if bound is None else bound * jnp.tanh(g / bound)


def parameter_counts(regions: int, rows: int, nz: int, m: int, width: int) -> tuple[int, int]:
    """Of the paper's network with its residual: (all, trainable)."""
    p, q, h = regions, rows, width * m
    trainable = p * h * (nz + 1) + (p * h) ** 2
    law = q * (nz + 1) + q * p + p + p * p + 2 * m * p * (nz + 1)
    suppress = 2 * m * p * (p + 2 * m * p + p * h) + 2 * m * p + 2 * m * m * p
    return law + trainable + suppress, trainable


# ------------------------------------------------------------------------------------------------------------- big-M network


class BigM(NamedTuple):
    """Layers 1 to 3 and the constant of 4 and 5 of the paper's network: which region holds z, as 0 or 1 each."""

    W1: Array  # [q, nz]; step(W1 z + b1) is 1 where a row holds
    b1: Array  # [q]
    W2: Array  # [p, q] 1 where the row is the region's, -1 where its negation is
    b2: Array  # [p]
    W3: Array  # [p, p] subtracts the regions before
    M: Array  # above all |v_i(z)|


def bigm_init(law: PiecewiseLaw, corners: np.ndarray) -> BigM:
    """Of a law, compressed or not; M is 1.05 times the largest law at ``corners`` [c, nz] of the parameters' box."""
    K, r, bounds = (np.asarray(x, np.float64) for x in (law.K, law.r, law.bounds))
    p = len(K)
    if law.pick is None:
        real = bounds < FAR / 2
        W1, b1 = -np.asarray(law.rows)[real], bounds[real]
        W2 = np.zeros((p, len(b1)))
        W2[np.nonzero(real)[0], np.arange(len(b1))] = 1
    else:
        W1, b1 = -np.asarray(law.rows)[:-1], bounds[:-1]
        W2 = np.zeros((p, len(b1) + 1))
        for i, picked in enumerate(np.asarray(law.pick)):
            for j in picked:
                W2[i, j if j >= 0 else ~j] = 1 if j >= 0 else -1
        W2 = W2[:, :-1]
    most = 1.05 * np.abs(np.einsum("pmn,cn->cpm", K, corners) + r).max()
    b2 = 1 - (W2 > 0).sum(1)
    W3 = np.eye(p) - np.tri(p, k=-1)
    return BigM(*(jnp.asarray(np.asarray(x, np.float64)) for x in (W1, b1, W2, b2, W3, most)))


def bigm_gates(net: BigM, z: Array) -> tuple[Array, Array]:
    """Outputs of layers 2 and 3, [..., p] each: all regions that hold z, and the first of them."""
    room = jnp.einsum("qn,...n->...q", net.W1, z, precision="highest") + net.b1
    y1 = (room >= 0).astype(z.dtype)
    y2 = jax.nn.relu(y1 @ net.W2.T + net.b2)
    return y2, jax.nn.relu(y2 @ net.W3.T)


def bigm_output(net: BigM, y3: Array, v: Array) -> Array:
    """Layers 4 and 5: of the laws v [..., p, m] the active one's, 0 where none is."""
    lifted = net.M * y3[..., None] - net.M
    return (jax.nn.relu(lifted + v) - jax.nn.relu(lifted - v)).sum(-2)


# ------------------------------------------------------------------------------------------------------------------ critic


def quadratic_init(W: np.ndarray, nz: int) -> Params:
    """Trainable coefficients of [z; u]'W[z; u], as z'Vz + |L'(u + K z)|^2: V and L relative to where they start (so that a step
    changes each direction by the same share), K as it is. L L' keeps the form convex in u."""
    m = len(W) - nz
    zero = {"V": jnp.zeros(nz * (nz + 1) // 2), "L": jnp.zeros(m * (m + 1) // 2)}
    return zero | {"K": jnp.asarray(np.linalg.solve(W[nz:, nz:], W[nz:, :nz]))}


class Form(NamedTuple):
    """Where a quadratic starts: constants that its coefficients are relative to."""

    root: Array  # [nz, nz] R with V = R'R
    L: Array  # [m, m] lower

    @staticmethod
    def of(W: np.ndarray, nz: int) -> Form:
        W = np.asarray(W, np.float64)
        value, vectors = np.linalg.eigh(W[:nz, :nz] - W[:nz, nz:] @ np.linalg.solve(W[nz:, nz:], W[nz:, :nz]))
        root = np.sqrt(np.maximum(value, 0.0))[:, None] * vectors.T  # V may be singular, where set-points are parameters
        return Form(*map(jnp.asarray, (root, np.linalg.cholesky(W[nz:, nz:]))))

    def value(self, z: Array) -> Array:
        """z'Vz [...] of the start: the least of the action value over u."""
        return (jnp.einsum("ij,...j->...i", self.root, z, precision="highest") ** 2).sum(-1)


def quadratic(params: Params, form: Form, z: Array, u: Array) -> Array:
    """[z; u]'W[z; u] [...]."""
    nz, m = z.shape[-1], u.shape[-1]
    dot = lambda M, x: jnp.einsum("ij,...j->...i", M, x, precision="highest")
    off = jnp.zeros((nz, nz)).at[np.triu_indices(nz)].set(params["V"])
    e = dot(form.root, z)
    a = dot((form.L + form.L @ jnp.zeros((m, m)).at[np.tril_indices(m)].set(params["L"])).T, u + dot(params["K"], z))
    return (e**2).sum(-1) + (e * dot((off + off.T) / 2, e)).sum(-1) + (a**2).sum(-1) + RIDGE * (u**2).sum(-1)


RIDGE = 1e-9  # of u alone: what keeps the form strictly convex, whatever is learned


def zero_mlp_init(key: Key, sizes: Sequence[int], init: str, unseen: int = 0) -> list[Params]:
    """A tanh network with output 0 at the start, see `residual_init`; what `rlx.nn.mlp.apply` takes. It does not see the last
    ``unseen`` inputs until they have been shown to matter: their weights are 0 too."""
    layers: list[Params] = []
    for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        k, last = jax.random.fold_in(key, i), i == len(sizes) - 2
        if init == "zero_last":
            w, b = (jnp.zeros((n, m)) if last else _orthogonal(k, (1, n, m))[0]), jnp.zeros(m)
        elif i == 0:
            w, b = _opposite(k, (1, n, m))[0], _opposite(jax.random.fold_in(k, 1), (1, 1, m))[0, 0]
        else:  # the second layer cancels the pairs, whatever follows
            w, b = (_alike(k, (1, n, m))[0] if i == 1 else _small(k, (n, m))), jnp.zeros(m)
        layers.append({"w": w, "b": b})
    layers[0]["w"] = layers[0]["w"].at[sizes[0] - unseen :].set(0.0)
    return layers


# -------------------------------------------------------------------------------------------------------------- saturation


@jax.custom_vjp
def saturate(u: Array, low: Array, high: Array) -> Array:
    """clip(u, low, high), for costs that are minimised: where u is at a bound, gradients pass that lead back inside and those
    that lead further out are stopped."""
    return jnp.clip(u, low, high)


def _saturate_forward(u: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, ...]]:
    return jnp.clip(u, low, high), (u, low, high)


def _saturate_backward(kept: tuple[Array, ...], slope: Array) -> tuple[Array, Any, Any]:
    u, low, high = kept
    outwards = ((u >= high) & (slope < 0)) | ((u <= low) & (slope > 0))
    return jnp.where(outwards, 0.0, slope), jnp.zeros_like(low), jnp.zeros_like(high)


saturate.defvjp(_saturate_forward, _saturate_backward)
