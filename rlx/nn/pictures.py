"""Pictures to embeddings and back, as world models of the Dreamer family have it: convolutions of stride 2 without padding, and
transposed ones. Pictures are [..., H, W, C]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.nn.convolutions import Conv
from rlx.nn.mlp import within
from rlx.types import Array

_FAN_IN = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # in +-1/sqrt(inputs), PyTorch's default


def centred(images: Array) -> Array:
    """uint8 to [-1, 1], as world models of the Dreamer family look at images; floats are taken as they are."""
    return images.astype(jnp.float32) * (2 / 255) - 1 if images.dtype == jnp.uint8 else images


def pixels(images: Array) -> Array:
    """What `centred` was given, uint8, of anything near it. Rounded: cutting off would lose a level of 63 of the 256."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)


class StridedConvs(nn.Module):
    """Images [..., H, W, C] to features [..., ``features``]: convolutions of 4 x 4, stride 2, without padding, ReLU after each,
    and a linear layer where they do not flatten to ``features`` numbers (None: to whatever they do). The encoder of World
    Models (Ha and Schmidhuber 2018) and Dreamer (Hafner et al. 2020, arXiv:1912.01603). uint8 is `centred`."""

    channels: tuple[int, ...] = (32, 64, 128, 256)
    features: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = centred(x)
        for i, width in enumerate(self.channels):
            bias = within((16 * x.shape[-1]) ** -0.5)
            x = jax.nn.relu(Conv(width, 4, _FAN_IN, bias, name=f"Conv_{i}")(x))
        x = x.reshape(*x.shape[:-3], -1)
        if self.features in (None, x.shape[-1]):
            return x
        bias = within(x.shape[-1] ** -0.5)
        return nn.Dense(self.features, kernel_init=_FAN_IN, bias_init=bias, param_dtype=float)(x)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def decoder_kernels(size: int) -> tuple[int, ...]:
    """Sizes of kernels by which transposed convolutions of stride 2 come from one pixel to ``size``: (5, 5, 6, 6) for 64."""
    kernels: list[int] = []
    while size > 7:
        kernels.append(6 - size % 2)
        size = (size + 2 - kernels[-1]) // 2
    return (size, *reversed(kernels))


class ConvDecoder(nn.Module):
    """Features [..., n] to images [..., size, size, ``channels``], `centred`: linear to ``width`` channels of one pixel, then
    transposed convolutions of stride 2 with ReLU between, the last but one of ``depth`` channels, each before that of twice as
    many. The other half of `StridedConvs`."""

    size: int
    channels: int = 3
    depth: int = 32
    width: int = 1024

    @nn.compact
    def __call__(self, x: Array) -> Array:
        bias = within(x.shape[-1] ** -0.5)
        x = nn.Dense(self.width, kernel_init=_FAN_IN, bias_init=bias, param_dtype=float)(x)[..., None, None, :]
        kernels = decoder_kernels(self.size)
        for i, k in enumerate(kernels):
            left = len(kernels) - 1 - i
            out = self.depth * 2 ** (left - 1) if left else self.channels
            init = within((out * k * k) ** -0.5)  # PyTorch counts the outputs of a transposed convolution
            conv = Conv(out, k, init, init, up=True, name=f"ConvTranspose_{i}")
            x = conv(jax.nn.relu(x) if i else x)
        return x

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...
