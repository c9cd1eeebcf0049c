"""A rasteriser in JAX: pictures of a `Scene` as one expression over pixels, so it compiles into the program that asks for them.

Each pixel is a ray, and each shape is asked how far the ray passes from it: closed forms, exact for spheres, capsules and boxes
under both cameras. What a shape covers of a pixel is that distance in pixels (soft edges); what is in front is decided by
depth. In the camera's axes rays are ``t (x, y, -1)`` under perspective and ``(x, y, -t)`` where the camera is planar.
Arrays have the pixels last, in one axis: what belongs to a shape is a scalar, and all loops run over pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from rlx.envs.camera.scene import Camera, Colour, Poses, Scene, Shape, Texture
from rlx.precision import exact
from rlx.types import Array

AMBIENT, DIRECT = 0.55, 0.7  # light from everywhere, and from the camera on what faces it
FAR, TINY = 1e9, 1e-12
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
# edges of a box: the two corners, and the two faces (axis, side) that meet there
EDGES = [
    (a, b, tuple((k, int(CORNERS[a][k])) for k in range(3) if CORNERS[a][k] == CORNERS[b][k]))
    for a in range(8)
    for b in range(a + 1, 8)
    if (CORNERS[a] != CORNERS[b]).sum() == 1
]


class Rays(NamedTuple):
    """Of all pixels, [P]: the point of the image plane, 1 / |direction|^2, and the pitch of pixels there (a number)."""

    x: Any
    y: Any
    inverse: Any
    pitch: float


class Hit(NamedTuple):
    """What rays find of one shape, [P]: the share of the pixel that is covered, depth along the camera's axis [m], light."""

    cover: Array
    depth: Array
    light: Array
    blend: Array | None = None  # of the texture's colour


class Picture(NamedTuple):
    """``image`` uint8 [H, W, C]; ``front`` int32 [H, W]: the shape at the middle of each pixel, -1 where there is none."""

    image: Array
    front: Array


@exact
def draw(scene: Scene, poses: Poses, size: tuple[int, int], grey: bool = False) -> Picture:
    """``scene`` at ``poses``, ``size`` = (height, width) pixels of RGB or, ``grey``, of one channel (BT.601). Pure; `jax.vmap`
    makes batches of it."""
    rays = rays_of(scene.camera, size)
    high = _above(scene.camera, rays, poses.gaze)
    words = [_mixed(low, top, _share(high)) for top, low in zip(*(_words(c, grey) for c in scene.sky), strict=True)]
    nearest, front = jnp.full_like(rays.x, FAR), jnp.zeros(rays.x.shape, jnp.int32)
    places = (poses.place - poses.eye) @ poses.gaze  # in the camera's axes
    axes = jnp.swapaxes(poses.gaze, -1, -2) @ poses.turned
    for i, shape in enumerate(scene.shapes):
        hit = SHAPES[shape.kind](shape, places[i], axes[i], rays, scene.camera.planar)
        cover = jnp.where(hit.depth <= nearest, hit.cover, 0.0)
        brightest = max(*shape.colour, *(shape.texture.colour if shape.texture else ()), TINY)
        paint = _share(cover * jnp.minimum(hit.light, 1 / brightest))
        rest = 256 - _share(cover)
        colours = _words(shape.colour, grey)
        if shape.texture is not None:
            other = _words(shape.texture.colour, grey)
            colours = [_mixed(one, two, _share(hit.blend)) for one, two in zip(colours, other, strict=True)]
        words = [_lanes(old * rest + colour * paint) for old, colour in zip(words, colours, strict=True)]
        nearest = jnp.where(cover > 0.5, hit.depth, nearest)
        front = jnp.where(cover > 0.5, i + 1, front)
    return _unpacked(words, front, size)


# Colours are integers with a channel in each half, red and blue in one and green in another, so that a pixel leaves the loop as
# one number: three arrays would be three loops, and each would compute all shapes again. Channels go to 254, which leaves room
# for rounding; shares are of 256.


def _words(colour: Colour, grey: bool) -> list[Any]:
    red, green, blue = (int(round(254 * c)) for c in ((float(np.dot(GREY, colour)),) * 3 if grey else colour))
    return [jnp.int32(green)] if grey else [jnp.int32(blue << 16 | red), jnp.int32(green)]


def _share(x: Array) -> Array:
    return (x * 256.0).astype(jnp.int32)


def _lanes(products: Array) -> Array:
    """Both channels divided by 256, rounded."""
    return lax.shift_right_logical(products + 0x00800080, 8) & 0x00FF00FF


def _mixed(one: Array, two: Array, share: Array) -> Array:
    return _lanes(one * (256 - share) + two * share)


def _unpacked(words: list[Array], front: Array, size: tuple[int, int]) -> Picture:
    """One array of 32 bits leaves the loop: red, green, blue, and the number in front."""
    word = words[0] | words[-1] << 8 | front << 24
    if len(words) == 1:
        word = words[0] | front << 24
    parts = lax.bitcast_convert_type(lax.optimization_barrier(word), jnp.uint8).reshape(*size, 4)
    return Picture(parts[..., :1] if len(words) == 1 else parts[..., :3], parts[..., 3].astype(jnp.int32) - 1)


def rays_of(camera: Camera, size: tuple[int, int]) -> Rays:
    """Through the middles of pixels, rows from above."""
    height, width = size
    pitch = 2 * camera.half / height
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    x, y = (columns + 0.5 - width / 2) * pitch, (height / 2 - rows - 0.5) * pitch
    inverse = np.ones_like(x) if camera.planar else 1 / (x**2 + y**2 + 1)
    return Rays(jnp.asarray(x), jnp.asarray(y), jnp.asarray(inverse, jnp.float32), pitch)


def _above(camera: Camera, rays: Rays, gaze: Array) -> Array:
    """How high a ray looks, 0 to 1 from -45 to 45 degrees."""
    if camera.planar:
        return 0.5 + 0.5 * rays.y / camera.half
    rise = (gaze[2, 0] * rays.x + gaze[2, 1] * rays.y - gaze[2, 2]) * jnp.sqrt(rays.inverse)
    return jnp.clip(0.5 + rise / np.sqrt(2), 0.0, 1.0)


def _along(rays: Rays, v: Array) -> Array:
    """The product of ``v`` [3] with (x, y, -1), [P]."""
    return v[0] * rays.x + v[1] * rays.y - v[2]


def _slab(distance: Array, radius: float, width: Any) -> Array:
    """What a strip of half width ``radius`` covers of a pixel ``distance`` from its middle: of thin ones less than all."""
    low, high = jnp.maximum(distance - 0.5 * width, -radius), jnp.minimum(distance + 0.5 * width, radius)
    return jnp.clip((high - low) / width, 0.0, 1.0)


def _side(inside: Array, width: Any) -> Array:
    """The cover of a pixel that lies ``inside`` of an edge."""
    return jnp.clip(0.5 + inside / width, 0.0, 1.0)


# ------------------------------------------------------------------------------------------------------------- round shapes


def _round(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """Spheres, capsules and cylinders: where the ray comes nearest to the axis from ``a`` to ``a + u``, at the share ``s``. A
    cylinder's side is part of one without ends."""
    radius, half = shape.size[0], 0.0 if shape.kind == "sphere" else shape.size[1]
    width: Any
    u = 2 * half * axes[:, 2]
    a = place - half * axes[:, 2]
    within = (lambda s: s) if shape.kind == "cylinder" else (lambda s: jnp.clip(s, 0.0, 1.0))
    if planar:
        (dx, dy), length = (rays.x - a[0], rays.y - a[1]), u[0] ** 2 + u[1] ** 2
        s = (dx * u[0] + dy * u[1]) / jnp.maximum(length, TINY)
        free, s = s, within(s)
        away = (dx - s * u[0]) ** 2 + (dy - s * u[1]) ** 2
        depth, width, lean = -a[2] - s * u[2], rays.pitch, (length + u[2] ** 2) / jnp.maximum(length, TINY)
    elif shape.kind == "sphere":
        ahead = _along(rays, a)
        depth = ahead * rays.inverse
        away, width, free = a @ a - ahead * depth, depth * rays.pitch, None
    else:
        ahead, slope = _along(rays, a), _along(rays, u)
        q = slope * rays.inverse
        over = 1 / jnp.maximum(u @ u - slope * q, TINY)
        free = (ahead * q - a @ u) * over
        s = within(free)
        ahead = ahead + s * slope
        depth = ahead * rays.inverse
        away = a @ a + s * (2 * (a @ u) + s * (u @ u)) - ahead * depth
        width, lean = jnp.maximum(depth, 0.0) * rays.pitch + TINY, (u @ u) * over
    away = jnp.maximum(away, 0.0)
    cover = _slab(jnp.sqrt(away), radius, width)
    bulge = jnp.sqrt(jnp.maximum(radius**2 - away, 0.0))
    light = AMBIENT + DIRECT / radius * bulge
    if shape.kind != "sphere":  # an axis that leans towards the camera is hit earlier
        bulge = bulge * jnp.sqrt(jnp.where(s == free, jnp.minimum(lean, 1e4), 1.0))
    front = depth - bulge * (1.0 if planar else jnp.sqrt(rays.inverse))
    if not planar:
        cover = jnp.where(depth > 0, cover, 0.0)
    if shape.kind != "cylinder":
        return Hit(cover, front, light)
    cover = jnp.where((free >= 0) & (free <= 1), cover, 0.0)
    return _with_ends(Hit(cover, front, light), radius, place, half * axes[:, 2], rays, planar)


def _with_ends(side: Hit, radius: float, place: Array, arm: Array, rays: Rays, planar: bool) -> Hit:
    """A cylinder: its outline is that of its ``side`` and of both ends; the end turned to the camera is in front."""
    facing = jnp.where((arm[2] < 0) if planar else ((arm @ place) > arm @ arm), -1.0, 1.0)
    covers = []
    for end in (facing, -facing):
        n = end * arm / jnp.sqrt(jnp.maximum(arm @ arm, TINY))
        depth, cosine, (p, q, w) = _meet(place + end * arm, n, rays, planar)
        cover = _side(radius - jnp.sqrt(p * p + q * q + w * w), rays.pitch * (1.0 if planar else jnp.maximum(depth, TINY)))
        covers.append((jnp.where(depth > 0, cover, 0.0), depth, AMBIENT + DIRECT * cosine))
    front, back = covers
    pick = lambda a, b: jnp.where(front[0] > 0.5, a, b)
    whole = jnp.maximum(jnp.maximum(front[0], back[0]), side.cover)
    return Hit(whole, pick(front[1], side.depth), pick(front[2], side.light))


def _meet(c: Array, n: Array, rays: Rays, planar: bool) -> tuple[Array, Array, tuple[Array, Array, Array]]:
    """Where rays meet the plane through ``c`` with the normal ``n``: depth, cosine of the angle, and place [3] from ``c`` on.
    Depths behind the camera are negative."""
    if planar:
        slope = jnp.where(jnp.abs(n[2]) < 1e-6, 1e-6, n[2])
        depth = (n[0] * (rays.x - c[0]) + n[1] * (rays.y - c[1])) / slope - c[2]
        return depth, jnp.broadcast_to(jnp.abs(n[2]), depth.shape), (rays.x - c[0], rays.y - c[1], -depth - c[2])
    down = _along(rays, n)
    depth = (n @ c) / jnp.where(jnp.abs(down) < TINY, TINY, down)
    cosine = jnp.abs(down) * jnp.sqrt(rays.inverse)
    return depth, cosine, (depth * rays.x - c[0], depth * rays.y - c[1], -depth - c[2])


def _ellipsoid(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """Its outline is the conic whose dual is the projection of the dual quadric (Hartley & Zisserman 2004, section 8.3)."""
    half = jnp.asarray(shape.size, jnp.float32)
    spread = (axes * half**2) @ axes.T  # p lies inside where (p - place)' spread^-1 (p - place) < 1
    if planar:
        flat = jnp.array([[1.0, 0, 0], [0, 1.0, 0]]) @ spread @ jnp.array([[1.0, 0], [0, 1.0], [0, 0]])
        dx, dy = rays.x - place[0], rays.y - place[1]
        det = flat[0, 0] * flat[1, 1] - flat[0, 1] ** 2
        gx, gy = (flat[1, 1] * dx - flat[0, 1] * dy) / det, (flat[0, 0] * dy - flat[0, 1] * dx) / det
        level = 1 - (gx * dx + gy * dy)
        inside, centre, one = 0.5 * level / jnp.sqrt(gx**2 + gy**2 + TINY), -place[2], level
        depth = centre - gx * spread[0, 2] - gy * spread[1, 2]
        reach = jnp.sqrt(jnp.maximum(1 / jnp.linalg.inv(spread)[2, 2], 0.0))
    else:
        dual = spread - jnp.outer(place, place)
        conic = jnp.linalg.inv(dual)
        conic = conic * jnp.sign(place @ conic @ place)  # positive inside
        kx, ky, kz = (_along(rays, conic[i]) for i in range(3))
        level = kx * rays.x + ky * rays.y - kz
        inside = 0.5 * level / jnp.sqrt(kx**2 + ky**2 + TINY)
        one = level * rays.inverse / jnp.maximum(place @ conic @ place / (place @ place), TINY)
        depth, reach = _along(rays, place) * rays.inverse, jnp.sqrt(spread[2, 2])
    bulge = jnp.sqrt(jnp.clip(one, 0.0, 1.0))
    cover = jnp.where(depth > 0, _side(inside, rays.pitch), 0.0) if not planar else _side(inside, rays.pitch)
    return Hit(cover, depth - reach * bulge, AMBIENT + DIRECT * bulge)


# -------------------------------------------------------------------------------------------------------------- flat shapes


def _line(a: Array, b: Array, within: Array, planar: bool) -> Array:
    """The line [3] of the image through the points ``a`` and ``b``, positive on the side of ``within``: its product with
    (x, y, -1) is a distance in the image plane."""
    if planar:
        a, b, within = (p.at[2].set(-1.0) for p in (a, b, within))
    line = jnp.cross(a, b)
    return line * jnp.sign(line @ within) / jnp.sqrt(line[0] ** 2 + line[1] ** 2 + TINY)


def _box(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """A convex body: its outline is made of the edges between a face that the camera sees and one that it does not."""
    half = jnp.asarray(shape.size, jnp.float32)
    corners = place + (CORNERS * half) @ axes.T
    toward, beyond = (axes[2], jnp.zeros(3)) if planar else (-(place @ axes), half)  # the camera in the box's own axes
    seen = {(k, side): side * toward[k] > beyond[k] for k in range(3) for side in (-1, 1)}
    inside = None
    for a, b, (one, two) in EDGES:
        line = _line(corners[a], corners[b], place, planar)
        line = jnp.where(seen[one] != seen[two], line, jnp.array([0.0, 0.0, -FAR]))
        edge = _along(rays, line)
        inside = edge if inside is None else jnp.minimum(inside, edge)
    depth, light = jnp.full_like(rays.x, -FAR), jnp.full_like(rays.x, AMBIENT)
    for k in range(3):
        side = jnp.where(toward[k] > 0, 1.0, -1.0)
        faces = seen[k, -1] | seen[k, 1]
        t, cosine, _ = _meet(place + side * half[k] * axes[:, k], side * axes[:, k], rays, planar)
        later = faces & (t > depth)
        depth, light = jnp.where(later, t, depth), jnp.where(later, AMBIENT + DIRECT * cosine, light)
    ahead = True if planar else place[2] < 0
    return Hit(jnp.where(ahead, _side(inside, rays.pitch), 0.0), depth, light)


def _plane(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """A rectangle, or a plane up to its horizon."""
    n = axes[:, 2]
    depth, cosine, rest = _meet(place, n, rays, planar)
    faces = n[2] > 1e-6 if planar else n @ place < 0
    inside = jnp.full_like(rays.x, FAR) if planar else _along(rays, -n / jnp.sqrt(n[0] ** 2 + n[1] ** 2 + TINY))
    for k, half in enumerate(shape.size[:2]):
        for side in (-1, 1) if half else ():
            middle, along = place + side * half * axes[:, k], axes[:, 1 - k]
            edge = _line(middle - along, middle + along, place, planar)
            inside = jnp.minimum(inside, _along(rays, edge))
    cover = jnp.where(faces & (depth > 0 if not planar else True), _side(inside, rays.pitch), 0.0)
    light = AMBIENT + DIRECT * cosine
    blend = None
    if shape.texture is not None:
        width = rays.pitch * (1.0 if planar else jnp.maximum(depth, 0.0))
        u, v = ((axes[0, k] * rest[0] + axes[1, k] * rest[1] + axes[2, k] * rest[2]) for k in (0, 1))
        if planar:
            wide = (width, width)
        else:  # how fast the place on the plane moves with the pixel, both ways of the image together
            c = n @ place
            moves = lambda k, at: sum(jnp.abs(axes[j, k] - (at + axes[:, k] @ place) * n[j] / c) for j in (0, 1))
            wide = (width * moves(0, u), width * moves(1, v))
        blend = _pattern(shape.texture, (u, v), wide)
    return Hit(cover, depth, light, blend)


def _pattern(texture: Texture, at: tuple, wide: tuple) -> Array:
    """The share of the second colour at places of a plane, smoothed over ``wide``: far away both colours mix."""
    waves = []
    for x, width, start in zip(at, wide, texture.start, strict=True):
        turn = (x - start) / texture.side - 0.5
        near = jnp.abs(turn - 2.0 * jnp.floor(0.5 * turn) - 1.0) - 0.5  # to the next border, +-0.5, in sides
        width = width / texture.side
        waves.append(jnp.clip(2.0 * near / (width + TINY), -1.0, 1.0) * jnp.clip(2.0 - width, 0.0, 1.0))
    return 0.5 - 0.5 * (waves[0] if texture.pattern == "stripes" else waves[0] * waves[1])


SHAPES = {
    "sphere": _round,
    "capsule": _round,
    "cylinder": _round,
    "ellipsoid": _ellipsoid,
    "box": _box,
    "plane": _plane,
}
