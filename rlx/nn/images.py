"""Networks that look at images, what augments these, and frames stacked while acting. Images are [..., H, W, C], uint8 as
replay keeps them; stacked frames lie along C, the oldest first, as samplers with ``stack`` give them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.nn.convolutions import Conv
from rlx.nn.mlp import LayerNormMLP, orthogonal
from rlx.types import Array, Key

LEAST_SIDE = 15  # pixels: what the four convolutions of `ConvTrunk` leave something of
STRIDED = (7, 5, 3, 3, 3, 3)  # kernels of `StridedTrunk`


class ConvTrunk(nn.Module):
    """Images [..., H, W, C] to features [..., ``features``]: convolutions of 3 x 3 without padding, each followed by ReLU, then
    dense, layer normalisation and tanh (DrQ-v2, Yarats et al. 2021, arXiv:2107.09645). uint8 is taken to [-0.5, 0.5]; floats
    are taken as they are. ``features`` None gives the flattened convolutions."""

    features: int | None = 256
    channels: int = 32
    strides: tuple[int, ...] = (2, 1, 1, 1)  # of the convolutions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255.0 - 0.5
        for i, stride in enumerate(self.strides):
            x = jax.nn.relu(Conv(self.channels, 3, orthogonal(math.sqrt(2.0)), stride=stride, name=f"Conv_{i}")(x))
        x = x.reshape(*x.shape[:-3], -1)
        return x if self.features is None else LayerNormMLP((self.features,), activate_last=True)(x)

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class StridedTrunk(nn.Module):
    """Images [..., H, W, C] in uint8 to features [..., ``features``]: ``convolutions`` of 7 x 7, 5 x 5, then 3 x 3, of stride 2
    without padding, each followed by ReLU, and a linear layer (MoDem, Hansen et al. 2022, arXiv:2212.05698). Values are taken
    to [0, 1]."""

    features: int
    convolutions: int
    channels: int = 32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32) / 255.0
        for i, kernel in enumerate(STRIDED[: self.convolutions]):
            x = jax.nn.relu(Conv(self.channels, kernel, orthogonal(math.sqrt(2.0)), name=f"Conv_{i}")(x))
        return nn.Dense(self.features, kernel_init=orthogonal(1.0), param_dtype=float)(x.reshape(*x.shape[:-3], -1))

    @staticmethod
    def convolutions_for(side: int, asked: int = 0) -> int:
        """How many convolutions images of ``side`` pixels are given: ``asked``, or (0) six from 135 pixels on, four from 39 and
        three from 23.

        Raises:
            ValueError: the image is too small for so many.
        """
        n = asked or (6 if side >= 135 else 4 if side >= 39 else 3)
        left = side
        for kernel in STRIDED[:n]:
            left = (left - kernel) // 2 + 1 if left >= kernel else 0
        if n > len(STRIDED) or left < 1:
            least = 1  # pixel a side that the last one leaves
            for kernel in reversed(STRIDED[:n]):
                least = 2 * (least - 1) + kernel
            need = f"these need {least} pixels a side" if n <= len(STRIDED) else f"there are {len(STRIDED)} at most"
            raise ValueError(
                f"images of {side} pixels are too small for {n} convolutions: {need}; give larger images, or fewer."
            )
        return n

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...


def random_shift(key: Key, images: Array, pad: int) -> Array:
    """``images`` [B, H, W, C] moved by up to ``pad`` pixels each way, as if their edges went on: one shift per image, whole
    pixels, the same for all of its stacked frames (the augmentation of DrQ, Yarats et al. 2020, arXiv:2004.13649)."""
    if pad == 0:
        return images
    around = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    corner = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1)
    cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])
    return jax.vmap(cut)(around, corner)


def push_frame(frames: Array, image: Array, first: Array) -> Array:
    """The last k frames [W, ..., k C] of each stream after one more ``image`` [W, ..., C]; at a ``first`` [W] one all of them
    are that image. What a policy that looks at stacked frames carries along."""
    k = frames.shape[-1] // image.shape[-1]
    pushed = jnp.concatenate([frames[..., image.shape[-1] :], image], -1)
    begun = jnp.tile(image, (1,) * (image.ndim - 1) + (k,))
    return jnp.where(first.reshape(first.shape + (1,) * (image.ndim - 1)), begun, pushed)
