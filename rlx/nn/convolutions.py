"""Convolutions of stride 2, and transposed ones, by such of stride 1, whose axes and whose gradients' axes lie in the one order
for which XLA's CPU backend has fast code: [N, H, W, C] by [h, w, C, O]. It brings others into it outside of loops alone.

Squares of 2 x 2 pixels become channels (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution",
arXiv:1609.05158, their sub-pixel convolution), so a kernel of k x k becomes one of (k / 2) x (k / 2). Numbers stay the same.
With gradients, in a loop on one core, encoder and decoder of 32 x 32 pictures (8 to 32 channels) take 0.95 and 0.7 of the time
of strided ones, of 64 x 64 (16 to 128) 0.86 and 0.91, with 32 to 256 channels 1.08; outside of loops 0.5 to 0.95.
Trunks of odd kernels (`rlx.nn.images`, 32 x 32) take a twentieth in loops. Each of five members takes 1.2 to 1.7 times what one
alone does, where groups took 2.8 to 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from rlx.nn.mlp import Initializer
from rlx.types import Array, PyTree

CACHED = 2**15  # pixels of the pictures whose convolutions a CPU's cache holds
LARGE = 4096  # pairs of channels from which on the slope of a kernel is rather a product for each of its entries


def in_parts(fn: Callable[[PyTree], Array], x: PyTree, axes: int, pixels: int) -> Array:
    """``fn`` of ``x``, of whose leaves it takes any leading axes, as they have ``axes`` of. Of pictures with so many ``pixels``
    that come in or go out, a CPU does as many at a time as its cache holds: 256 of 32 x 32 at once, with 32 channels, took
    twice as long."""
    leading = jax.tree.leaves(x)[0].shape[:axes]
    n, most = math.prod(leading), max(1, CACHED // pixels)
    if jax.default_backend() != "cpu" or n <= most:
        return fn(x)
    together = max(k for k in range(1, most + 1) if n % k == 0)
    y = jax.lax.map(fn, jax.tree.map(lambda leaf: leaf.reshape(-1, together, *leaf.shape[axes:]), x))
    return y.reshape(*leading, *y.shape[2:])


def of_pictures(module: nn.Module, params: PyTree, x: Array) -> Array:
    """What ``module`` makes of pictures [..., H, W, C], `in_parts`."""
    return in_parts(lambda part: module.apply(params, part), x, x.ndim - 3, math.prod(x.shape[-3:-1]))


def squares(x: Array) -> Array:
    """[N, 2 h, 2 w, C] to [N, h, w, 4 C]: each square of 2 x 2 pixels as channels."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def unsquared(x: Array) -> Array:
    """[N, h, w, 4 C] to [N, 2 h, 2 w, C]: what undoes `squares`."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def even(kernel: Array) -> Array:
    """[k, k, ...] with a row and a column of zeros more where k is odd, as [t, 2, t, 2, ...]."""
    more = kernel.shape[0] % 2
    kernel = jnp.pad(kernel, ((0, more), (0, more), *[(0, 0)] * (kernel.ndim - 2)))
    t = kernel.shape[0] // 2
    return kernel.reshape(t, 2, t, 2, *kernel.shape[2:])


def _convolution(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


_convolved = jax.custom_batching.custom_vmap(_convolution)


@_convolved.def_vmap
def _of_members(size: int, batched: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
    """Members that share a kernel are more pictures, and such that share pictures more channels. With pictures and kernels of
    their own XLA makes one convolution of many groups, for which it has no fast code on a CPU: there one goes after another."""
    if all(batched):
        in_turn = lambda x, kernel: jax.lax.map(lambda own: _convolved(*own), (x, kernel))
        return jax.lax.platform_dependent(x, kernel, cpu=in_turn, default=jax.vmap(_convolution)), True
    if batched[0]:
        y = _convolved(x.reshape(-1, *x.shape[2:]), kernel)
        return y.reshape(size, -1, *y.shape[1:]), True
    y = _convolved(x, jnp.moveaxis(kernel, 0, 3).reshape(*kernel.shape[1:4], -1))
    return jnp.moveaxis(y.reshape(*y.shape[:3], size, -1), 3, 0), True


@jax.custom_vjp
def plain(x: Array, kernel: Array) -> Array:
    """Stride 1, no padding: ``x`` [N, H, W, C] by ``kernel`` [k, k, C, O] to [N, H - k + 1, W - k + 1, O]."""
    return _convolved(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rim = (kernel.shape[0] - 1,) * 2
    around = jnp.pad(slope, ((0, 0), rim, rim, (0, 0)))
    of_x = _convolved(around, kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    if kernel.shape[0] > 2 and math.prod(kernel.shape[2:]) < LARGE:
        return of_x, _convolved(x.transpose(3, 1, 2, 0), slope.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)
    h, w = slope.shape[1:3]
    met = lambda i, j: jnp.einsum("nhwc,nhwo->co", x[:, i : i + h, j : j + w], slope)  # by one entry of the kernel
    rows, columns = map(range, kernel.shape[:2])
    return of_x, jnp.stack([jnp.stack([met(i, j) for j in columns]) for i in rows])


plain.defvjp(_forward, _backward)


def halving(x: Array, kernel: Array) -> Array:
    """A convolution of stride 2 without padding: ``x`` [N, H, W, C] by ``kernel`` [k, k, C, O] to [N, h, w, O], where
    h = (H - k) // 2 + 1."""
    k, t = kernel.shape[0], (kernel.shape[0] + 1) // 2
    h, w = ((side - k) // 2 + t for side in x.shape[1:3])
    if k % 2:  # what the kernel's zeros meet
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    weights = even(kernel).transpose(0, 2, 1, 3, 4, 5).reshape(t, t, -1, kernel.shape[-1])
    return plain(squares(x[:, : 2 * h, : 2 * w]), weights)


def doubling(x: Array, kernel: Array) -> Array:
    """A transposed convolution of stride 2 without padding, as `jax.lax.conv_transpose` has it: ``x`` [N, h, w, C] by
    ``kernel`` [k, k, C, O] to [N, 2 h + k - 2, 2 w + k - 2, O], for k of 2 at least."""
    k, t, (h, w) = kernel.shape[0], (kernel.shape[0] + 1) // 2, x.shape[1:3]
    if h == w == 1:  # one pixel becomes the kernel: a product
        return jnp.einsum("nc,ijco->nijo", x[:, 0, 0], kernel[::-1, ::-1])
    weights = even(kernel[::-1, ::-1]).transpose(0, 2, 4, 1, 3, 5).reshape(t, t, x.shape[-1], -1)[::-1, ::-1]
    around = jnp.pad(x, ((0, 0), (t - 1, t - 1), (t - 1, t - 1), (0, 0)))
    return unsquared(plain(around, weights))[:, : 2 * h + k - 2, : 2 * w + k - 2]


class Conv(nn.Module):
    """[..., H, W, C] to [..., h, w, ``features``] by ``kernel`` x ``kernel``, `plain` (``stride`` 1), `halving` (2), or ``up``
    by `doubling`; and a bias."""

    features: int
    kernel: int
    kernel_init: Initializer
    bias_init: Initializer = jax.nn.initializers.zeros
    stride: int = 2
    up: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, float)
        bias = self.param("bias", self.bias_init, (self.features,), float)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        by = doubling if self.up else halving if self.stride == 2 else plain
        y = by(x.reshape(-1, *x.shape[-3:]), kernel) + bias
        return y.reshape(*x.shape[:-3], *y.shape[1:])

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
