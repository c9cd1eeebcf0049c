"""What replay keeps of pictures in pairs: the clean one, which pixels the distractor replaced, and its frame's number.

A picture with the distractor is the clean one but for whole pixels of a frame of the bank, so these three give it back bit for
bit, in half the memory of both pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.camera.distractors import Distractor, bank
from rlx.types import Array, Leaf, Packed, Row

BACKGROUND = "background"  # the leaf of info that says which frame is behind
LEAF = Leaf((), np.int32, 0, np.iinfo(np.int32).max, reduce=())  # numbers of frames say nothing of an episode


@dataclass(frozen=True)
class Halves:
    """How rows are stored: a function of rows with any leading axes, numpy or JAX. ``size`` [height, width] of pictures;
    ``channels`` of one camera, the last axis of a picture may be those of several."""

    distractor: Distractor
    size: tuple[int, int]
    channels: int

    def __call__(self, row: Row) -> Row:
        xp = np if isinstance(row.reward, np.ndarray) else jnp
        info, obs = dict(row.info), dict(row.obs)
        at, pixels, clean = info.pop(BACKGROUND), obs.pop("pixels"), obs["clean"]
        # where both agree it does not matter which of the two a pixel is
        changed = (pixels != clean).reshape(*clean.shape[:-1], -1, self.channels).any(-1)
        bits = xp.packbits(changed.reshape(*clean.shape[:-3], -1), axis=-1)
        return row._replace(obs=Behind(obs, bits, at, self), info=info)


@jax.tree_util.register_pytree_with_keys_class
class Behind(Packed):
    """Observations [...]: ``rest`` has all but the picture with the distractor; ``bits`` uint8 [..., ceil(H W cameras / 8)] say
    where that differs, ``at`` int32 [...] what is there."""

    def __init__(self, rest: dict[str, Any], bits: Array, at: Array, how: Halves):
        self.rest, self.bits, self.at, self.how = rest, bits, at, how

    def opened(self) -> dict[str, Any]:
        xp = np if isinstance(self.bits, np.ndarray) else jnp
        clean, channels = self.rest["clean"], self.how.channels
        apart = (*clean.shape[:-1], clean.shape[-1] // channels, channels)
        changed = xp.unpackbits(self.bits, axis=-1, count=int(np.prod(apart[-4:-1]))).reshape(apart[:-1]).astype(bool)
        frames = bank(self.how.distractor, self.how.size)
        frame = xp.asarray(frames)[self.at % len(frames)]
        pixels = xp.where(changed[..., None], frame[..., None, :], clean.reshape(apart)).reshape(clean.shape)
        return {"pixels": pixels, **self.rest}

    def tree_flatten_with_keys(self) -> tuple[Any, Halves]:
        return tuple((jax.tree_util.GetAttrKey(k), getattr(self, k)) for k in ("rest", "bits", "at")), self.how

    @classmethod
    def tree_unflatten(cls, how: Halves, children: Any) -> Behind:
        rest, bits, at = children
        return cls(rest, bits, at, how)
