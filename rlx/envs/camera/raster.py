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
MOST_SHAPES = 255  # numbers in a byte, without that of nothing
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
# edges of a box: the two corners, and (0 below or 1 above, axis) of the two faces that meet there
EDGES = np.array(
    [
        [a, b, *(x for k in range(3) if CORNERS[a][k] == CORNERS[b][k] for x in (int(CORNERS[a][k] > 0), k))]
        for a in range(8)
        for b in range(a + 1, 8)
        if (CORNERS[a] != CORNERS[b]).sum() == 1
    ]
)


class Rays(NamedTuple):
    """Of all pixels, [P]: the point of the image plane, 1 / |direction|^2 and its root, and the pitch of pixels (a number)."""

    x: Any
    y: Any
    inverse: Any
    short: Any
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
    makes batches of it.

    Two halves are drawn one after another: what a loop carries is written before it is read, where a compiler would else draw
    each pixel once for each of its channels.

    Raises:
        ValueError: a scene of more shapes than a byte can number.
    """
    if len(scene.shapes) > MOST_SHAPES:
        raise ValueError(f"a scene has at most {MOST_SHAPES} shapes, this one has {len(scene.shapes)}: use pixels='gl'.")
    places = (poses.place - poses.eye) @ poses.gaze  # in the camera's axes
    axes = poses.gaze.T @ poses.turned
    rays = rays_of(scene.camera, size)
    halves = [_halves(x) for x in (rays.x, rays.y, rays.inverse, rays.short)]

    def half(carry: tuple, part: list) -> tuple[tuple, None]:
        mine = Rays(part[0], part[1], part[2], part[3], rays.pitch)
        return (_drawn(scene, places, axes, poses.gaze, mine, grey), carry[0]), None

    blank = jnp.zeros_like(halves[0][0], jnp.int32)
    lower, upper = lax.scan(half, (blank, blank), halves)[0]
    words = jnp.concatenate([upper, lower])[: rays.x.size].reshape(size)
    parts = lax.bitcast_convert_type(words, jnp.uint8)
    return Picture(parts[..., :1] if grey else parts[..., :3], parts[..., 3].astype(jnp.int32) - 1)


def _halves(x: Array) -> Array:
    """[2, n] of [P]; of an odd number the last one is there twice."""
    return jnp.pad(x, (0, x.size % 2), mode="edge").reshape(2, -1)


def _drawn(scene: Scene, places: Array, axes: Array, gaze: Array, rays: Rays, grey: bool) -> Array:
    """int32 [P]: red, green, blue, and the number of the shape in front, from 1 on."""
    high = _above(scene.camera, rays, gaze)
    words = [_mixed(low, top, _share(high)) for top, low in zip(*(_words(c, grey) for c in scene.sky), strict=True)]
    nearest, front = jnp.full_like(rays.x, FAR), jnp.zeros(rays.x.shape, jnp.int32)
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
    return words[0] | (0 if grey else words[1] << 8) | front << 24


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


def rays_of(camera: Camera, size: tuple[int, int]) -> Rays:
    """Through the middles of pixels, rows from above."""
    height, width = size
    pitch = 2 * camera.half / height
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    x, y = (columns + 0.5 - width / 2) * pitch, (height / 2 - rows - 0.5) * pitch
    inverse = np.ones_like(x) if camera.planar else 1 / (x**2 + y**2 + 1)
    arrays = [jnp.asarray(v, jnp.float32) for v in (x, y, inverse, np.sqrt(inverse))]
    return Rays(arrays[0], arrays[1], arrays[2], arrays[3], pitch)


def _above(camera: Camera, rays: Rays, gaze: Array) -> Array:
    """How high a ray looks, 0 to 1 from -45 to 45 degrees."""
    if camera.planar:
        return 0.5 + 0.5 * rays.y / camera.half
    rise = (gaze[2, 0] * rays.x + gaze[2, 1] * rays.y - gaze[2, 2]) * rays.short
    return jnp.clip(0.5 + rise / np.sqrt(2), 0.0, 1.0)


def _once(*small: Array) -> Any:
    """What is computed once a frame and not, fused into the loop over pixels, for each of them."""
    return lax.optimization_barrier(small)


def _along(rays: Rays, v: Array) -> Array:
    """The product of ``v`` [3] with (x, y, -1), [P]."""
    return v[0] * rays.x + v[1] * rays.y - v[2]


def _slab(distance: Array, radius: float, fine: Any) -> Array:
    """What a strip of half width ``radius`` covers of a pixel ``distance`` from its middle, of thin ones less than all;
    ``fine``: pixels per metre."""
    at, edge = distance * fine, radius * fine
    return jnp.clip(jnp.minimum(at + 0.5, edge) - jnp.maximum(at - 0.5, -edge), 0.0, 1.0)


def _side(inside: Array, width: Any) -> Array:
    """The cover of a pixel that lies ``inside`` of an edge."""
    return jnp.clip(0.5 + inside / width, 0.0, 1.0)


# ------------------------------------------------------------------------------------------------------------- round shapes


def _round(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """Spheres, capsules and cylinders: where the ray comes nearest to the axis from ``a`` to ``a + u``, at the share ``s``. A
    cylinder's side is part of one without ends. Roots and divisions are what costs time here."""
    radius, half = shape.size[0], 0.0 if shape.kind == "sphere" else shape.size[1]
    u = 2 * half * axes[:, 2]
    a = place - half * axes[:, 2]
    fine, finer = (1 / rays.pitch if planar else 1 / (rays.pitch * jnp.maximum(-end[2], TINY)) for end in (a, a + u))
    a, u, aa, au, uu, fine, more = _once(a, u, a @ a, a @ u, u @ u, jnp.asarray(fine), jnp.asarray(finer - fine))
    within = (lambda s: s) if shape.kind == "cylinder" else (lambda s: jnp.clip(s, 0.0, 1.0))
    free: Any = None
    s: Any = 0.0
    lean = None
    if planar:
        dx, dy, length = rays.x - a[0], rays.y - a[1], jnp.maximum(u[0] ** 2 + u[1] ** 2, TINY)
        if half:
            free = (dx * u[0] + dy * u[1]) * (1 / length)
            s, lean = within(free), uu / length
        away = (dx - s * u[0]) ** 2 + (dy - s * u[1]) ** 2
        depth = -a[2] - s * u[2]
    else:
        ahead = _along(rays, a)
        if half:
            slope = _along(rays, u)
            q = slope * rays.inverse
            over = 1 / jnp.maximum(uu - slope * q, TINY)
            free = (ahead * q - au) * over
            s, lean = within(free), uu * over
            ahead = ahead + s * slope
        depth = ahead * rays.inverse
        away = aa + s * (2 * au + s * uu) - ahead * depth
    away = jnp.maximum(away, 0.0)
    cover = _slab(jnp.sqrt(away), radius, fine + (s * more if half and not planar else 0.0))
    light = (AMBIENT + DIRECT) - (DIRECT / radius**4) * away**2  # about the cosine to the surface, without its root
    bulge = jnp.maximum(radius**2 - away, 0.0)
    if lean is not None:  # an axis that leans towards the camera is hit earlier
        bulge = bulge * jnp.where(s == free, jnp.minimum(lean, 1e4), 1.0)
    front = depth - jnp.sqrt(bulge) * (1.0 if planar else rays.short)
    if not planar:
        cover = jnp.where(depth > 0, cover, 0.0)
    light = jnp.maximum(light, AMBIENT)
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


def _level(c: Array, n: Array, planar: bool) -> Array:
    """[..., 3]: of planes through ``c`` with the normals ``n``, what multiplied by (x, y, -1) gives the depth where the camera
    is planar, and 1 / depth where it is not."""
    offset = (n * c).sum(-1, keepdims=True)
    if not planar:
        return n / jnp.where(jnp.abs(offset) < TINY, TINY, offset)
    n = n / jnp.where(jnp.abs(n[..., 2:]) < 1e-6, 1e-6, n[..., 2:])
    return jnp.concatenate([n[..., :2], (n * c).sum(-1, keepdims=True)], -1)


def _meet(c: Array, n: Array, rays: Rays, planar: bool) -> tuple[Array, Array, tuple[Array, Array, Array]]:
    """Where rays meet the plane through ``c`` with the normal ``n``: depth, cosine of the angle, and place [3] from ``c`` on.
    Depths behind the camera are negative."""
    level, c, n, offset = _once(_level(c, n, planar), c, n, n @ c)
    met = _along(rays, level)
    if planar:
        return met, jnp.abs(n[2]) + 0 * met, (rays.x - c[0], rays.y - c[1], -met - c[2])
    depth = 1 / jnp.where(jnp.abs(met) < TINY, TINY, met)
    return depth, jnp.abs(offset * met) * rays.short, (depth * rays.x - c[0], depth * rays.y - c[1], -depth - c[2])


def _ellipsoid(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """Its outline is the conic whose dual is the projection of the dual quadric (Hartley & Zisserman 2004, section 8.3)."""
    matrix = (axes * jnp.asarray(shape.size, jnp.float32) ** 2) @ axes.T  # p is inside: (p - place)' matrix^-1 (p - place) < 1
    if planar:
        place, flat, lean, reach = _once(place, jnp.linalg.inv(matrix[:2, :2]), matrix[2], _inverse_root(matrix))
        dx, dy = rays.x - place[0], rays.y - place[1]
        gx, gy = flat[0, 0] * dx + flat[0, 1] * dy, flat[1, 0] * dx + flat[1, 1] * dy
        level = 1 - (gx * dx + gy * dy)
        inside, inner = 0.5 * level / jnp.sqrt(gx**2 + gy**2 + TINY), level
        depth = -place[2] - gx * lean[0] - gy * lean[1]
    else:
        conic = jnp.linalg.inv(matrix - jnp.outer(place, place))
        middle = place @ conic @ place
        conic, middle = conic * jnp.sign(middle), jnp.abs(middle)  # positive inside
        scale = place @ place / jnp.maximum(middle, TINY)
        place, conic, scale, reach = _once(place, conic, scale, jnp.sqrt(matrix[2, 2]))
        kx, ky, kz = (_along(rays, conic[i]) for i in range(3))
        level = kx * rays.x + ky * rays.y - kz
        inside = 0.5 * level / jnp.sqrt(kx**2 + ky**2 + TINY)
        inner, depth = level * rays.inverse * scale, _along(rays, place) * rays.inverse
    bulge = jnp.sqrt(jnp.clip(inner, 0.0, 1.0))
    cover = jnp.where(depth > 0, _side(inside, rays.pitch), 0.0)
    return Hit(cover, depth - reach * bulge, AMBIENT + DIRECT * bulge)


def _inverse_root(matrix: Array) -> Array:
    """How far an ellipsoid reaches to a planar camera from where it is cut in half: the root of its Schur complement."""
    return 1 / jnp.sqrt(jnp.linalg.inv(matrix)[2, 2])


# -------------------------------------------------------------------------------------------------------------- flat shapes


def _lines(a: Array, b: Array, within: Array, planar: bool) -> Array:
    """The lines [n, 3] of the image through the points ``a`` and ``b`` [n, 3], positive on the side of ``within`` [3]: their
    products with (x, y, -1) are distances in the image plane."""
    if planar:
        a, b, within = (jnp.concatenate([p[..., :2], -jnp.ones_like(p[..., :1])], -1) for p in (a, b, within))
    lines = jnp.cross(a, b)
    return lines * jnp.sign(lines @ within)[:, None] / jnp.sqrt((lines[:, :2] ** 2).sum(-1, keepdims=True) + TINY)


def _least(rays: Rays, lines: Array) -> Array:
    """The least product of ``lines`` [n, 3] with (x, y, -1), [P]."""
    least = _along(rays, lines[0])
    for line in lines[1:]:
        least = jnp.minimum(least, _along(rays, line))
    return least


def _box(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """A convex body: its outline is made of the edges between a face that the camera sees and one that it does not, and the
    face in front is the last one that a ray enters by."""
    half = jnp.asarray(shape.size, jnp.float32)
    corners = place + (CORNERS * half) @ axes.T
    toward, beyond = (axes[2], jnp.zeros(3)) if planar else (-(place @ axes), half)  # the camera in the box's own axes
    visible = jnp.stack([-toward > beyond, toward > beyond])  # [below, above; axis]
    one, two = (visible[EDGES[:, k], EDGES[:, k + 1]] for k in (2, 4))
    far = jnp.array([0.0, 0.0, -FAR])
    lines = jnp.where((one != two)[:, None], _lines(corners[EDGES[:, 0]], corners[EDGES[:, 1]], place, planar), far)
    n = (jnp.where(toward > 0, 1.0, -1.0) * axes).T
    levels = jnp.where(visible.any(0)[:, None], _level(place + half[:, None] * n, n, planar), -far if planar else far)
    bright = (n[:, 2], None) if planar else ((n * (place + half[:, None] * n)).sum(-1), rays.short)
    lines, levels, facing = _once(lines, levels, jnp.abs(bright[0]))
    met = [_along(rays, level) for level in levels]
    entry, cosine = met[0], facing[0] if planar else facing[0] * met[0]
    for k in (1, 2):
        later = met[k] > entry if planar else met[k] < entry
        entry = jnp.where(later, met[k], entry)
        cosine = jnp.where(later, facing[k] if planar else facing[k] * met[k], cosine)
    if planar:
        return Hit(_side(_least(rays, lines), rays.pitch), entry, AMBIENT + DIRECT * cosine)
    cover = jnp.where(entry > 0, _side(_least(rays, lines), rays.pitch), 0.0)
    return Hit(cover, 1 / jnp.maximum(entry, TINY), AMBIENT + DIRECT * jnp.minimum(cosine * rays.short, 1.0))


def _plane(shape: Shape, place: Array, axes: Array, rays: Rays, planar: bool) -> Hit:
    """A rectangle, or a plane up to its horizon."""
    n = axes[:, 2]
    depth, cosine, rest = _meet(place, n, rays, planar)
    lines = [] if planar else [-n[None] / jnp.sqrt(n[0] ** 2 + n[1] ** 2 + TINY)]
    for k, half in enumerate(shape.size[:2]):
        if half:
            middle = place + jnp.array([[-half], [half]]) * axes[:, k]
            lines.append(_lines(middle - axes[:, 1 - k], middle + axes[:, 1 - k], place, planar))
    lines.append(jnp.array([[0.0, 0.0, -FAR]]))  # within all that has no end
    faces, edges, across, shift = _once(n[2] > 1e-6 if planar else n @ place < 0, jnp.concatenate(lines), axes, place @ axes)
    cover = jnp.where(faces & (depth > 0), _side(_least(rays, edges), rays.pitch), 0.0)
    light = AMBIENT + DIRECT * cosine
    if shape.texture is None:
        return Hit(cover, depth, light)
    width = rays.pitch * (1.0 if planar else jnp.maximum(depth, 0.0))
    u, v = (across[0, k] * rest[0] + across[1, k] * rest[1] + across[2, k] * rest[2] for k in (0, 1))
    if planar:
        return Hit(cover, depth, light, _pattern(shape.texture, (u, v), (width, width)))
    # how fast the place on the plane moves with the pixel, both ways of the image together
    (slant,) = _once(n / (n @ place))
    moves = lambda k, at: sum(jnp.abs(across[j, k] - (at + shift[k]) * slant[j]) for j in (0, 1))
    return Hit(cover, depth, light, _pattern(shape.texture, (u, v), (width * moves(0, u), width * moves(1, v))))


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
