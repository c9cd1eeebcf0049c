"""What a rasteriser draws: shapes of fixed kind, size and colour, and a camera; where they are is said by `Poses`, traced.

Lengths are metres. A shape's own axes are MuJoCo's: capsules and cylinders lie along z, planes are seen from their +z side. A
camera looks along its -z, its x points right and its y up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from rlx.types import Array

Colour = tuple[float, float, float]  # RGB within [0, 1]
Kind = Literal["plane", "sphere", "capsule", "ellipsoid", "cylinder", "box"]


@dataclass(frozen=True)
class Texture:
    """The second colour of a plane, as ``checks`` or ``stripes`` (across x) with sides of ``side`` [m]; at ``start`` a field of
    the plane's own colour begins."""

    pattern: Literal["checks", "stripes"]
    colour: Colour
    side: float = 1.0
    start: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Shape:
    """``size`` as in MuJoCo: radius; half length behind it for capsules and cylinders; half sides of boxes and planes (0: a
    plane without end); half axes of ellipsoids. A ``backdrop`` belongs to the world and not to what moves in it: distractors
    may replace it."""

    kind: Kind
    size: tuple[float, ...]
    colour: Colour = (0.7, 0.5, 0.3)
    texture: Texture | None = None
    backdrop: bool = False
    name: str = ""


@dataclass(frozen=True)
class Camera:
    """``half``: what the picture shows from its middle to its upper edge: metres where it is ``planar`` (orthographic), and the
    tangent of half the field of view where it is not."""

    half: float
    planar: bool = False


@dataclass(frozen=True)
class Scene:
    """All that is static. The later of two shapes at one depth is in front; put what is far away first: an edge is blended
    with what was drawn before it. ``sky``: the colours above and below where nothing is."""

    shapes: tuple[Shape, ...]
    camera: Camera
    sky: tuple[Colour, Colour] = ((0.98, 0.98, 0.97), (0.98, 0.98, 0.97))


GRAY_FLOOR: tuple[Colour, Colour] = ((0.1, 0.1, 0.1), (0.2, 0.2, 0.2))


def on_floor(scene: Scene, floor: str) -> Scene:
    """``floor`` "gray": planes are gray checks, and stay before a distractor; "stock": ``scene`` as it is."""
    if floor == "stock":
        return scene
    dark, light = GRAY_FLOOR

    def gray(shape: Shape) -> Shape:
        texture = replace(shape.texture or Texture("checks", light), colour=light)
        return replace(shape, colour=dark, texture=texture, backdrop=False) if shape.kind == "plane" else shape

    return replace(scene, shapes=tuple(gray(s) for s in scene.shapes))


class Poses(NamedTuple):
    """Where everything is, float32: of ``G`` shapes and of the camera. Columns of rotations are the axes."""

    place: Array  # [G, 3]
    turned: Array  # [G, 3, 3]
    eye: Array  # [3]
    gaze: Array  # [3, 3]
