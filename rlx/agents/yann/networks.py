"""The networks of YANN-RL: residuals that start at exactly 0, the paper's big-M network, and a critic that starts exact.

Arrays of parameters are stacked over regions where there is a net per region. Features x are z / scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.yann.config import Residual
from rlx.nn.mlp import MLP, Initializer, head, orthogonal, stack
from rlx.planning.laws import FAR, PiecewiseLaw
from rlx.precision import exact
from rlx.types import Array, Key, PyTree

SMALL = 0.01  # magnitude of paired initial weights (YANN-RL, section 3.2.3)
Params = dict[str, Array]


# ------------------------------------------------------------------------------------------------------ networks from zero


def zero_mlp(widths: tuple[int, ...], init: str, unseen: int = 0, last_bias: bool = True) -> MLP:
    """A tanh network whose output is 0 at the start: bitwise (``zero_last``: the last layer is 0), or as the paper has it
    (``paired``: units come in pairs of opposite weights that the second layer treats alike), up to rounding. It does not see
    the last ``unseen`` inputs until they have been shown to matter: their weights are 0 too."""
    later = len(widths) - 1
    zeros = jax.nn.initializers.zeros
    if init == "paired":
        kernels, biases = [_opposite, _alike, *[_small] * (later - 1)], [_opposite, *[zeros] * later]
    else:
        kernels, biases = [*[orthogonal(1.0)] * later, zeros], [zeros] * len(widths)
    if unseen:
        kernels[0] = _blind(kernels[0], unseen)
    return MLP(widths, "tanh", kernel_init=tuple(kernels), bias_init=tuple(biases), last_bias=last_bias)


def _small(key: Key, shape: tuple[int, ...], dtype: Any = float) -> Array:
    return jax.random.uniform(key, shape, dtype, -SMALL, SMALL)


def _opposite(key: Key, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """[W, -W] along the last axis, and one unit of 0 where it is odd."""
    half = _small(key, (*shape[:-1], shape[-1] // 2), dtype)
    return jnp.concatenate([half, -half, jnp.zeros((*shape[:-1], shape[-1] % 2), dtype)], -1)


def _alike(key: Key, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Weights [n, m] that see both units of a pair alike."""
    half = _small(key, (shape[0] // 2, shape[1]), dtype)
    return jnp.concatenate([half, half, _small(jax.random.fold_in(key, 1), (shape[0] % 2, shape[1]), dtype)])


def _blind(init: Initializer, unseen: int) -> Initializer:
    """Weights [n, m] of ``init``, those of the last ``unseen`` inputs 0."""
    return lambda key, shape, dtype: init(key, shape, dtype).at[shape[0] - unseen :].set(0.0)


# --------------------------------------------------------------------------------------------------------------- residuals


class ResidualNet(NamedTuple):
    """g_i, what is added to the law of region i: 0 at the start. Static."""

    kind: Residual
    net: MLP  # of one region, or of all
    regions: int
    outputs: int

    @staticmethod
    def of(kind: Residual, init: str, regions: int, width: int, outputs: int) -> ResidualNet:
        if kind == "paper":  # dense over regions, without a head: a region's units are summed
            wide = width * outputs * regions
            return ResidualNet(kind, zero_mlp((wide, wide), init, last_bias=False), regions, outputs)
        return ResidualNet(kind, zero_mlp((width, width, outputs), init, last_bias=False), regions, outputs)

    def init(self, key: Key, features: int) -> PyTree:
        """Parameters, with a leading axis of the regions or 1; {} where there is no residual."""
        if self.kind == "none":
            return {}
        return stack(self.net, self.regions if self.kind == "block" else 1).init(key, jnp.zeros(features))

    def apply(self, params: PyTree, x: Array, region: Array) -> Array:
        """g of ``region`` int [...] at x [..., features]: [..., outputs]."""
        if self.kind == "none":
            return jnp.zeros((*x.shape[:-1], self.outputs))
        if self.kind == "paper":
            return jnp.take_along_axis(self.of_all(params, x), region[..., None, None], -2)[..., 0, :]
        if self.kind == "shared":
            return self.net.apply(head(params, 0), x)
        each = self.net.apply
        for _ in range(region.ndim):
            each = jax.vmap(each)
        return each(head(params, region), x)

    def of_all(self, params: PyTree, x: Array) -> Array:
        """The paper's g of all regions [..., p, outputs]: two layers dense over regions, the second without bias, and the sum
        of each region's and output's own units."""
        units = jnp.tanh(self.net.apply(head(params, 0), x))
        return units.reshape(*x.shape[:-1], self.regions, self.outputs, -1).sum(-1)


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
    b1: Array  # [q] with the law's tolerance
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
    b1 = b1 + law.tolerance  # so that rounding puts no z outside that the law finds inside
    b2 = 1 - (W2 > 0).sum(1)
    W3 = np.eye(p) - np.tri(p, k=-1)
    return BigM(*(jnp.asarray(np.asarray(x, np.float64)) for x in (W1, b1, W2, b2, W3, most)))


@exact
def bigm_gates(net: BigM, z: Array) -> tuple[Array, Array]:
    """Outputs of layers 2 and 3, [..., p] each: all regions that hold z, and the first of them."""
    room = jnp.einsum("qn,...n->...q", net.W1, z) + net.b1
    y1 = (room >= 0).astype(z.dtype)
    y2 = jax.nn.relu(y1 @ net.W2.T + net.b2)
    return y2, jax.nn.relu(y2 @ net.W3.T)


def bigm_output(net: BigM, y3: Array, v: Array) -> Array:
    """Layers 4 and 5: of the laws v [..., p, m] the active one's, 0 where none is; what is not a number stays so.

    M is above all laws where there are regions. Beyond them laws grow past it and would leak, as in the paper's network.
    """
    lifted = net.M * y3[..., None] - net.M
    out = (jax.nn.relu(lifted + v) - jax.nn.relu(lifted - v)).sum(-2)
    return jnp.where((y3 > 0).any(-1, keepdims=True), out, 0 * out)


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

    @exact
    def value(self, z: Array) -> Array:
        """z'Vz [...] of the start: the least of the action value over u."""
        return (jnp.einsum("ij,...j->...i", self.root, z) ** 2).sum(-1)


@exact
def quadratic(params: Params, form: Form, z: Array, u: Array) -> Array:
    """[z; u]'W[z; u] [...]."""
    nz, m = z.shape[-1], u.shape[-1]
    dot = lambda M, x: jnp.einsum("ij,...j->...i", M, x)
    off = jnp.zeros((nz, nz)).at[np.triu_indices(nz)].set(params["V"])
    e = dot(form.root, z)
    a = dot((form.L + form.L @ jnp.zeros((m, m)).at[np.tril_indices(m)].set(params["L"])).T, u + dot(params["K"], z))
    return (e**2).sum(-1) + (e * dot((off + off.T) / 2, e)).sum(-1) + (a**2).sum(-1) + RIDGE * (u**2).sum(-1)


RIDGE = 1e-9  # of u alone: what keeps the form strictly convex, whatever is learned


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
