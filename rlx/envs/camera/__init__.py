"""Pixels: what cameras see of environments, with distractors behind.

``rlx.envs.make(name, pixels="sdf", image=64)`` gives {"pixels": uint8 [H, W, C], "state"}: `Pixels` has the options.
"""

from rlx.envs.camera.attach import attach
from rlx.envs.camera.distractors import Distractor
from rlx.envs.camera.options import LOOKS, Pixels, anchored, taken, unseen
from rlx.envs.camera.raster import Picture, draw
from rlx.envs.camera.scene import Camera, Poses, Scene, Shape, Texture

__all__ = [
    "LOOKS",
    "Camera",
    "Distractor",
    "Picture",
    "Pixels",
    "Poses",
    "Scene",
    "Shape",
    "Texture",
    "anchored",
    "attach",
    "draw",
    "taken",
    "unseen",
]
