"""The options that environments with pixels have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rlx.envs.camera.distractors import Distractor
from rlx.envs.camera.stored import BACKGROUND, LEAF, Halves
from rlx.types import Leaf, PyTree, Spec, Task

WAYS = ("sdf", "gl")
FLOORS = ("stock", "gray")
STORED = ("pixels", "clean")
LEAST, MOST = 8, 512  # pixels of a side


@dataclass(frozen=True)
class Pixels:
    """``pixels``: "sdf", the rasteriser, or "gl", MuJoCo's OpenGL renderer. ``image``: the side, or [height, width].
    ``grey``: one channel. ``camera``: a name or a number, or a list, whose
    pictures lie one behind another along the channels; None: the task's own. ``distractor``: see `Distractor`.
    ``floor``: "stock", which distractors replace, or "gray", which stays, so that speed can be seen. ``state``: the vector that
    was the observation stays beside the pixels; without it the picture alone is the observation. ``paired``: the picture
    without the distractor too, as ``clean``. ``stored``: "pixels", or "clean": replay keeps of such a pair the clean picture,
    the mask and the number of the frame, and samplers give back the same bytes.
    """

    pixels: str
    image: Any = 64
    grey: bool = False
    camera: Any = None
    distractor: Any = None
    floor: str = "stock"
    state: bool = True
    paired: bool = False
    stored: str = "pixels"

    @property
    def size(self) -> tuple[int, int]:
        return (self.image, self.image) if isinstance(self.image, int) else tuple(self.image)

    @property
    def cameras(self) -> tuple[str | int, ...]:
        """Those that were asked for; of none the task's own is meant."""
        if self.camera is None:
            return ()
        return tuple(self.camera) if isinstance(self.camera, (list, tuple)) else (self.camera,)

    def observation(self, inner: PyTree) -> PyTree:
        """The spec of what is seen, where ``inner`` is the spec of the former observation."""
        image = Leaf((*self.size, (1 if self.grey else 3) * max(len(self.cameras), 1)), np.uint8, 0, 255)
        if not self.state and not self.paired:
            return image
        return {"pixels": image} | ({"state": inner} if self.state else {}) | ({"clean": image} if self.paired else {})

    @property
    def pack(self) -> Halves | None:
        """How replay keeps rows; None: as they are."""
        return Halves(self.distractor, self.size, 1 if self.grey else 3) if self.stored == "clean" else None

    def with_background(self, info: dict[str, Any], at: Any) -> dict[str, Any]:
        """``info``, of a spec or of a step, with what `pack` needs to know of the background, ``at``."""
        return {**info, BACKGROUND: at} if self.stored == "clean" else info

    def spec(self, inner: Spec) -> Spec:
        """Of the environment that is seen, where ``inner`` is its own."""
        info = self.with_background(inner.info, LEAF)
        obs = self.observation(inner.obs)
        return replace(inner, obs=obs, info=info, task=Task(), tasks={}, native_obs=None, pack=self.pack)

    def leave_room(self, name: str, free: Callable[[], Any]) -> None:
        """Raises ValueError where a floor that stays leaves no pixel to the distractor; ``free()``: bool [H, W], those left."""
        if self.floor == "gray" and self.distractor.kind != "none" and not free().any():
            raise ValueError(
                f"{name}: the ground fills the picture, so floor='gray', which stays, leaves nothing to the distractor: "
                "give floor='stock', or another camera."
            )

    def compose(self, image: Any, clean: Any, inner: PyTree) -> PyTree:
        """An observation of that spec."""
        if not self.state and not self.paired:
            return image
        return {"pixels": image} | ({"state": inner} if self.state else {}) | ({"clean": clean} if self.paired else {})


LOOKS = tuple(f.name for f in fields(Pixels))


def unseen(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of an environment without those of its pixels: what happens there does not depend on how it looks."""
    looks = LOOKS if "pixels" in options else ()
    return {k: v for k, v in options.items() if k not in looks}


def anchored(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` whose distractor's files are found from any folder."""
    block = options.get("distractor")
    if not isinstance(block, Mapping) or not isinstance(block.get("path"), str) or not block["path"]:
        return dict(options)
    return {**options, "distractor": {**block, "path": os.path.abspath(os.path.expanduser(block["path"]))}}


def taken(name: str, pixels: Any, options: dict[str, Any]) -> Pixels:
    """The options of pixels out of ``options``, which loses them.

    Raises:
        ValueError: what there is not, each in one message.
    """
    given = {k: options.pop(k) for k in LOOKS if k in options}
    made = Pixels(pixels, **given)
    if made.pixels not in WAYS:
        raise ValueError(f"{name}: pixels={made.pixels!r} is unknown; give 'sdf' (the rasteriser) or 'gl' (OpenGL).")
    sides = made.image if isinstance(made.image, (list, tuple)) else [made.image] * 2
    whole = [isinstance(n, (int, np.integer)) and not isinstance(n, bool) and LEAST <= n <= MOST for n in sides]
    if len(whole) != 2 or not all(whole):
        raise ValueError(f"{name}: image={made.image!r}; give a side of {LEAST} to {MOST} pixels, or two, [height, width].")
    if not all(isinstance(c, (str, int)) and not isinstance(c, bool) for c in made.cameras):
        raise ValueError(f"{name}: camera={made.camera!r}; give a name, a number from 0 on, or a list of these.")
    if made.floor not in FLOORS:
        raise ValueError(f"{name}: floor={made.floor!r} is unknown; give {' or '.join(FLOORS)}.")
    for flag in ("grey", "state", "paired"):
        if not isinstance(getattr(made, flag), bool):
            raise ValueError(f"{name}: {flag}={getattr(made, flag)!r}; give true or false.")
    distractor = Distractor.of(name, made.distractor)
    if made.grey and (distractor.mask == "colour" or distractor.colour):
        raise ValueError(
            f"{name}: grey pictures have no colour: leave mask='colour' and colour=true out of distractor, or grey."
        )
    if made.stored not in STORED:
        raise ValueError(f"{name}: stored={made.stored!r} is unknown; give {' or '.join(STORED)}.")
    if made.stored == "clean" and (not made.paired or distractor.kind == "none"):
        why = "without paired=true there is one picture, and the clean one takes as much room"
        why = why if not made.paired else "without a distractor both pictures are the same"
        raise ValueError(f"{name}: stored='clean' saves memory where pictures come in pairs: {why}. Leave it out, or add that.")
    image = tuple(int(n) for n in sides)
    return replace(made, image=image, distractor=distractor)
