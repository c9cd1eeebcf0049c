"""MuJoCo's OpenGL renderer with all left out that costs time and no body needs: shadows, reflections, several samples a pixel.

On CPUs, where OpenGL runs in software, that is the difference between some 30 frames a second and some hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from rlx.envs.camera.host import Shots
from rlx.envs.camera.mujoco import camera_number
from rlx.envs.camera.options import Pixels
from rlx.envs.camera.picture import behind
from rlx.envs.camera.scene import GRAY_FLOOR

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
CHANGED = ("geom_size", "geom_rgba", "site_size", "site_rgba", "mat_rgba")  # of a model, what an episode may begin with


class GlCamera:
    """Pictures of a model that this one owns: its visual settings change.

    Raises:
        ValueError: no such camera, or no OpenGL.
    """

    def __init__(self, name: str, model: Any, pixels: Pixels, default: str | int = 0):
        import mujoco

        self.name, self.model, self.pixels = name, model, pixels
        height, width = pixels.size
        given = pixels.cameras or (default,)
        self.cameras = [camera_number(name, model, c) for c in given]
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
        if pixels.floor == "gray":
            _gray_textures(model)
            _gray_colours(model)
        try:
            self.renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # the GL back-ends raise errors of many kinds
            raise ValueError(
                f"{name} cannot be drawn by pixels='gl': {error}. Without a screen, install EGL (Debian: apt-get install "
                "libegl1 libgl1) and set MUJOCO_GL=egl, or OSMesa (libosmesa6) and MUJOCO_GL=osmesa; pixels='sdf' needs none."
            ) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[flag] = 0
        plane = int(mujoco.mjtGeom.mjGEOM_PLANE)
        self.still = np.append(model.geom_type == plane, True)  # of a geom's number: whether it is backdrop; and of none
        if pixels.floor == "gray":
            self.still[:-1] = False
        self.geom = int(mujoco.mjtObj.mjOBJ_GEOM)

    def shoot(self, data: Any, like: Any = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of each camera the image uint8 [H, W, C], and bool [H, W]: where no body is, False where nobody asks. ``like``: the
        model of ``data``, where episodes change it."""
        if like is not None:
            for field in CHANGED:
                getattr(self.model, field)[:] = getattr(like, field)
            if self.pixels.floor == "gray":
                _gray_colours(self.model)
        images, free, made = [], [], self.pixels.distractor
        for camera in self.cameras:
            self.renderer.update_scene(data, camera=camera)
            image = self.renderer.render()
            images.append(np.round(image @ GREY)[..., None].astype(np.uint8) if self.pixels.grey else image.copy())
            if made.kind != "none" and made.mask == "segmentation":
                free.append(self._free())
            else:
                free.append(np.zeros(image.shape[:2], bool))
        return images, free

    def _free(self) -> np.ndarray:
        self.renderer.enable_segmentation_rendering()
        segmentation = self.renderer.render()
        self.renderer.disable_segmentation_rendering()
        number, kind = segmentation[..., 0], segmentation[..., 1]
        return np.where((kind == self.geom) | (number < 0), self.still[np.where(kind == self.geom, number, -1)], False)

    def leave_room(self) -> None:
        """As `Pixels.leave_room`, where the model stands at first."""
        for camera in self.cameras:
            self.pixels.leave_room(self.name, partial(self._free_at_first, camera))

    def _free_at_first(self, camera: int) -> np.ndarray:
        import mujoco

        data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, data)
        self.renderer.update_scene(data, camera=camera)
        return self._free()

    def close(self) -> None:
        self.renderer.close()


def _planes(model: Any) -> Iterator[tuple[int, int, int]]:
    """Of each plane its number, and those of its material and of that one's texture, or -1."""
    import mujoco

    for i in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        material = int(model.geom_matid[i])
        texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]) if material >= 0 else -1
        yield int(i), material, texture


def _gray_textures(model: Any) -> None:
    """Those of planes become gray checks, in the darkness and lightness that they have."""
    dark, light = (np.array(c) * 255 for c in GRAY_FLOOR)
    for texture in {texture for _, _, texture in _planes(model)} - {-1}:
        size = int(model.tex_height[texture]) * int(model.tex_width[texture]) * int(model.tex_nchannel[texture])
        start = int(model.tex_adr[texture])
        level = model.tex_data[start : start + size].reshape(-1, int(model.tex_nchannel[texture]))
        bright = level.astype(float).mean(-1, keepdims=True)
        share = (bright - bright.min()) / max(np.ptp(bright), 1)
        level[:] = dark[: level.shape[1]] + share * (light - dark)[: level.shape[1]]


def _gray_colours(model: Any) -> None:
    """Planes show their texture as it is; those without one are gray."""
    for i, material, texture in _planes(model):
        if texture < 0:
            model.geom_matid[i] = -1
        else:
            model.mat_rgba[material, :3] = 1.0
        model.geom_rgba[i, :3] = GRAY_FLOOR[0] if texture < 0 else 1.0


def shots_of(pixels: Pixels, open_camera: Callable[[], GlCamera], read: Callable[[Any], list[tuple[Any, Any]]]) -> Shots:
    """The pictures of all streams, one after another: ``read(state)`` gives of each its data and, or None, its model."""
    first = open_camera()  # in the thread that renders another one is opened, with the first picture
    try:
        first.leave_room()
    finally:
        first.close()
    opened: list[GlCamera] = []

    def take(state: Any, at: np.ndarray, bank: Any) -> tuple[np.ndarray, np.ndarray]:
        if not opened:
            opened.append(open_camera())
        images, cleans = [], []
        for (data, model), now in zip(read(state), at, strict=True):
            clean, free = opened[0].shoot(data, model)
            if not len(bank):
                images.append(np.concatenate(clean, -1))
            else:
                mask = pixels.distractor.mask
                composed = [behind(np, c, f, bank, now, mask) for c, f in zip(clean, free, strict=True)]
                images.append(np.concatenate(composed, -1))
            cleans.append(np.concatenate(clean, -1))
        return np.stack(images), np.stack(cleans)

    def close() -> None:
        while opened:
            opened.pop().close()

    return Shots(take, close)
