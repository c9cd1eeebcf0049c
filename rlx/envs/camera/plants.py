"""Planar pictures of the environments of ``rlx:``, each a `Scene` and where its shapes are at a state ``x`` of the plant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlx.envs.camera.scene import Camera, Poses, Scene, Shape, Texture
from rlx.envs.control import maze, pointmass_maze, push_toy
from rlx.envs.control.cartpole import RAIL
from rlx.envs.control.point import PARAMS as POINT
from rlx.types import Array

RED, GREEN, BROWN, BLUE, DARK, WALL = (
    (0.8, 0.3, 0.3), (0.35, 0.65, 0.35), (0.8, 0.47, 0.24), (0.27, 0.35, 0.47), (0.15, 0.15, 0.15), (0.43, 0.47, 0.51)
)  # fmt: skip
FLOOR, FLOOR_TOO = (0.62, 0.66, 0.72), (0.55, 0.6, 0.67)
Where = Callable[[Any], list[tuple[Any, Any, float, Any]]]  # x -> of each shape (x, y, height towards the camera, angle)
LYING = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)  # the axis of a capsule along x of the picture


def _poses(scene: Scene, where: Where, x: Any) -> Poses:
    """``angle`` 0: capsules lie along x, other shapes as the picture has them; it turns them to the left."""
    place, turned = [], []
    for shape, (right, up, out, angle) in zip(scene.shapes, where(x), strict=True):
        c, s = jnp.cos(jnp.float32(angle)), jnp.sin(jnp.float32(angle))
        turn = jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        place.append(jnp.array([right, up, out], jnp.float32))
        turned.append(turn @ LYING if shape.kind == "capsule" else turn)
    return Poses(jnp.stack(place), jnp.stack(turned), jnp.array([0.0, 0.0, 10.0]), jnp.eye(3))


def _board(half: float, side: float) -> Shape:
    """The ground under everything, checked so that places can be told apart."""
    return Shape("plane", (half, half, 0.0), FLOOR, Texture("checks", FLOOR_TOO, side, (-half, -half)), backdrop=True)


def _cartpole(env: Any) -> tuple[Scene, Where]:
    # all of the rail; it lies below the middle, as the pole is looked for above
    rail = 0.4
    shapes = (
        _board(3.0, 0.5),
        Shape("capsule", (0.025, RAIL + 0.2), WALL),
        Shape("box", (0.25, 0.15, 0.1), BLUE),
        Shape("capsule", (0.08, 0.5), BROWN),
    )

    def where(x: Array) -> list:
        place, angle = x[0], x[1]
        tip = (place + 0.5 * jnp.sin(angle), 0.5 * jnp.cos(angle) - rail)
        return [(0, 0, 0, 0), (0, -rail, 0.1, 0), (place, -rail, 0.3, 0), (*tip, 0.6, jnp.pi / 2 - angle)]

    return Scene(shapes, Camera(2.1, planar=True)), where


def _pendulum(env: Any) -> tuple[Scene, Where]:
    shapes = (_board(2.0, 0.5), Shape("capsule", (0.12, 0.5), RED), Shape("sphere", (0.06,), DARK))
    where = lambda x: [
        (0, 0, 0, 0),
        (0.5 * jnp.sin(x[0]), 0.5 * jnp.cos(x[0]), 0.2, jnp.pi / 2 - x[0]),
        (0, 0, 0.4, 0),
    ]
    return Scene(shapes, Camera(1.35, planar=True)), where


def _point(env: Any) -> tuple[Scene, Where]:
    half = POINT["size"]
    shapes = (_board(half, half / 2), Shape("sphere", (0.1,), GREEN), Shape("sphere", (0.1,), RED))
    where = lambda x: [(0, 0, 0, 0), (0, 0, 0.2, 0), (x[0], x[1], 0.5, 0)]
    return Scene(shapes, Camera(1.2 * half, planar=True)), where


def _cross(env: Any) -> tuple[Scene, Where]:
    m = pointmass_maze
    half = m.LIMIT + m.RADIUS
    arms = [Shape("box", (a, b, 0.01), WALL) for a, b in ((m.LENGTH, m.WIDTH), (m.WIDTH, m.LENGTH))]
    rooms = [Shape("sphere", (0.02,), GREEN) for _ in m.ROOMS]
    shapes = (_board(half, half / 3), *arms, *rooms, Shape("sphere", (2 * m.RADIUS,), RED))
    fixed = [(0, 0, 0, 0), (0, 0, 0.1, 0), (0, 0, 0.1, 0), *((*at, 0.1, 0) for at in m.ROOMS.values())]
    return Scene(shapes, Camera(half + 0.02, planar=True)), lambda x: [*fixed, (x[0], x[1], 0.5, 0)]


def _maze(env: Any) -> tuple[Scene, Where]:
    """Rows count downwards, as in the layout."""
    high = np.asarray(env.spec.obs.high)
    columns, rows = int(high[0]), int(high[1])
    layout = next(x for x in maze.LAYOUTS.values() if (len(x[0]), len(x)) == (columns, rows))
    half, across = max(columns, rows) / 2, lambda c, r: (c - columns / 2, rows / 2 - r)
    runs = [(r, *run) for r, row in enumerate(layout) for run in _runs(row)]
    walls = [Shape("box", ((b - a) / 2, 0.5, 0.1), WALL) for _, a, b in runs]
    shapes = (_board(half, 1.0), *walls, Shape("sphere", (0.4,), GREEN), Shape("sphere", (0.3,), RED))
    fixed = [(0, 0, 0, 0), *((*across((a + b) / 2, r + 0.5), 0.1, 0) for r, a, b in runs)]
    where = lambda x: [*fixed, (*across(x[2], x[3]), 0.3, 0), (*across(x[0], x[1]), 1.0, 0)]
    return Scene(shapes, Camera(half, planar=True)), where


def _push(env: Any) -> tuple[Scene, Where]:
    """The puck in front of the goal, the finger in front of both."""
    m = push_toy
    table = Shape("plane", (m.EDGE, m.EDGE, 0.0), FLOOR, Texture("checks", FLOOR_TOO, 0.4, (-m.EDGE, -m.EDGE)), backdrop=True)
    shapes = (table, Shape("sphere", (m.RADIUS,), GREEN), Shape("sphere", (m.RADIUS,), BLUE), Shape("sphere", (m.FINGER,), RED))
    goal = (*m.GOAL.tolist(), 0.2, 0)
    where = lambda x: [(0, 0, 0, 0), goal, (x.puck[0], x.puck[1], 0.6, 0), (x.finger[0], x.finger[1], 1.0, 0)]
    return Scene(shapes, Camera(m.VIEW, planar=True)), where


def _runs(row: str) -> list[tuple[int, int]]:
    """Where walls of a row begin and end."""
    marks = np.diff([0, *(c == "#" for c in row), 0])
    return list(zip(np.flatnonzero(marks > 0).tolist(), np.flatnonzero(marks < 0).tolist(), strict=True))


VIEWS = {
    "cartpole-swingup": _cartpole,
    "pendulum": _pendulum,
    "upright-pendulum": _pendulum,
    "point-mass": _point,
    "point-maze": _maze,
    "pointmass-maze": _cross,
    "push-toy": _push,
}


def view(env: Any) -> tuple[Scene, Callable[[Any], Poses]]:
    """The scene of ``env``, an environment of ``rlx:``, and its poses at one of its states.

    Raises:
        ValueError: it has none.
    """
    name = env.name.partition(":")[2]
    if name not in VIEWS:
        raise ValueError(f"{env.name} has no pixels: of rlx: there are pictures of {', '.join(VIEWS)}.")
    scene, where = VIEWS[name](env)
    return scene, lambda state: _poses(scene, where, getattr(state.x, "x", state.x))
