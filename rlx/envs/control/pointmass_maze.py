"""A point mass in four rooms around a cross of walls: the maze of URLB and ExoRL (Laskin et al. 2021, arXiv:2110.15191;
Yarats et al. 2022, arXiv:2201.13425) in closed form, with the eight tasks that zero-shot methods are asked.

The ball (0.3 kg, radius 0.01 m) has motors of 0.1 N and a damping of 1 N s/m; where it touches nothing, a step of 0.02 s is
MuJoCo's::

    v <- v + dt (force u - damping v) / (mass + dt damping) = v + 0.0625 (0.1 u - v);    x <- x + dt v

Walls stop the motion across them where MuJoCo's ball comes to rest (within a tenth of a millimetre), and rub: what they take of
the velocity across, they take of the velocity along, times ``friction`` (Coulomb; MuJoCo's default of 1). The ends of the cross
are square here and not round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc, plant
from rlx.envs.tasks.base import tolerance
from rlx.types import Env, Leaf, Task

PARAMS = {"force": 0.1, "mass": 0.3, "damping": 1.0, "friction": 1.0, "dt": 0.02}  # N, kg, N s/m, 1, s
LIMIT, LENGTH, WIDTH, RADIUS = 0.29, 0.18, 0.02, 0.01  # m: of the centre's place; half the cross's arms; of the ball
SPEED = 0.1  # m/s, the fastest that it gets
PATH = 0.2  # m, from the middle: the sides of the square that `square` is about
ROOMS = {"top_left": (-0.15, 0.15), "top_right": (0.15, 0.15), "bottom_left": (-0.15, -0.15), "bottom_right": (0.15, -0.15)}


# ---------------------------------------------------------------------------------------------------------------- dynamics


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(position, velocity)/dt without walls: [..., 4]."""
    v = x[..., 2:]
    return xp.concatenate([v, (p["force"] * action - p["damping"] * v) / p["mass"]], -1)


def advance(p: Any, x: Any, action: Any) -> Any:
    """One step of `PARAMS`'s ``dt``; the axes one after the other, so that a ball slides along a wall."""
    place, v = x[:2], x[2:]
    v = v + p["dt"] * (p["force"] * action - p["damping"] * v) / (p["mass"] + p["dt"] * p["damping"])
    for axis in (0, 1):
        wanted = place[axis] + p["dt"] * v[axis]
        there = _stopped(place[axis], jnp.clip(wanted, -LIMIT, LIMIT), place[1 - axis])
        rubbed = jnp.abs(wanted) <= LIMIT  # the ends of the slides have no friction
        rub = jnp.where((there != wanted) & rubbed, p["friction"] * jnp.abs(v[axis]), 0.0)
        along = jnp.sign(v[1 - axis]) * jnp.maximum(jnp.abs(v[1 - axis]) - rub, 0.0)
        across = jnp.where(there == wanted, v[axis], 0.0)
        place = place.at[axis].set(there)
        v = v.at[axis].set(across).at[1 - axis].set(along)
    return jnp.concatenate([place, v])


def _stopped(old: Any, new: Any, other: Any) -> Any:
    """Where a move along one axis from ``old`` to ``new`` ends, at ``other`` on the other axis."""
    for half, thick in ((LENGTH + RADIUS, WIDTH + RADIUS), (WIDTH + RADIUS, LENGTH + RADIUS)):
        inside = (jnp.abs(new) < half) & (jnp.abs(other) < thick) & (jnp.abs(old) >= half)
        new = jnp.where(inside, jnp.sign(old) * half, new)
    return new


def free(xp: Any, place: Any) -> Any:
    """Whether positions [..., 2] are clear of the cross."""
    x, y = xp.abs(place[..., 0]), xp.abs(place[..., 1])
    long, thick = LENGTH + RADIUS, WIDTH + RADIUS
    return ~(((x < long) & (y < thick)) | ((x < thick) & (y < long)))


# ------------------------------------------------------------------------------------------------------------------- tasks

Score = Callable[[Any, Any, Any], Any]  # (xp, obs [..., 4], action [..., 2]) -> reward [...] of arriving at obs by action


def _reach(room: str, xp: Any, obs: Any, action: Any) -> Any:
    """Near the middle of a room, with little force: in [0, 1]."""
    away = xp.sqrt(((obs[..., :2] - xp.asarray(ROOMS[room])) ** 2).sum(-1))
    calm = tolerance(xp, action, margin=1, shape="quadratic", at_margin=0).mean(-1)
    return tolerance(xp, away, 0, 0.015, margin=0.09) * (calm + 4) / 5


def _reach_long(xp: Any, obs: Any, action: Any) -> Any:
    """`reach_bottom_left` by the long way round: -1 in the passage between the two rooms on the left."""
    passage = (obs[..., 0] < 0) & (xp.abs(obs[..., 1]) < 0.05)
    return _reach("bottom_left", xp, obs, action) - xp.where(passage, 1.0, 0.0)


def _around(xp: Any, obs: Any) -> Any:
    """How fast it goes round the middle clockwise, of the greatest speed: in [-1, 1]."""
    x, y, v, w = (obs[..., i] for i in range(4))
    return (y * v - x * w) / (SPEED * xp.sqrt(x**2 + y**2 + 1e-12))


def _loop(xp: Any, obs: Any, action: Any) -> Any:
    """Round the middle through all rooms, clockwise and fast: in [0, 1]."""
    return xp.clip(_around(xp, obs), 0.0, 1.0)


def _square(xp: Any, obs: Any, action: Any) -> Any:
    """The same along the sides of a square: in [0, 1]."""
    side = xp.maximum(xp.abs(obs[..., 0]), xp.abs(obs[..., 1]))
    return tolerance(xp, side, PATH - 0.02, PATH + 0.02, margin=0.05) * _loop(xp, obs, action)


def _fast_slow(xp: Any, obs: Any, action: Any) -> Any:
    """Fast in the upper rooms, slow but moving in the lower ones: in [0, 1]."""
    speed = xp.sqrt((obs[..., 2:] ** 2).sum(-1) + 1e-12)
    fast = tolerance(xp, speed, 0.9 * SPEED, np.inf, margin=0.9 * SPEED, shape="linear", at_margin=0)
    slow = tolerance(xp, speed, 0.2 * SPEED, 0.4 * SPEED, margin=0.2 * SPEED, shape="linear", at_margin=0)
    return xp.where(obs[..., 1] > 0, fast, slow)


SCORES: dict[str, Score] = {f"reach_{room}": partial(_reach, room) for room in ROOMS}
SCORES |= {"reach_bottom_left_long": _reach_long, "loop": _loop, "square": _square, "fast_slow": _fast_slow}
NAMES = ("x", "y", "vx", "vy", "ux", "uy")
TASKS = {name: Task(score=score, names=NAMES) for name, score in SCORES.items()}


def observe(xp: Any, p: Any, x: Any) -> Any:
    """Position and velocity: [4]."""
    return x


def reward(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    """Of the task whose number is ``p["task"]``."""
    every = xp.stack([xp.broadcast_to(score(xp, new, action), new.shape[:-1]) for score in SCORES.values()], -1)
    return xp.take(every, p["task"], axis=-1)


# ------------------------------------------------------------------------------------------------------------- environment


def _in_first_room(p: Any, key: Any) -> Any:
    away = jax.random.uniform(key, (2,), minval=0.15, maxval=LIMIT)
    return jnp.concatenate([away * jnp.array([-1.0, 1.0]), jnp.zeros(2)])


def _anywhere(p: Any, key: Any) -> Any:
    """Uniform over what is free: of so many tries the first that is; that none is has odds of 1e-28."""
    tries = jax.random.uniform(key, (32, 2), minval=-LIMIT, maxval=LIMIT)
    return jnp.concatenate([tries[jnp.argmax(free(jnp, tries))], jnp.zeros(2)])


STARTS = {"task": _in_first_room, "uniform": _anywhere}


def draw(pen: Any, size: int, x: np.ndarray) -> None:
    scale = size / (2 * (LIMIT + RADIUS) + 0.02)

    def at(x: float, y: float) -> tuple[float, float]:
        return size / 2 + scale * x, size / 2 - scale * y

    edge = LIMIT + RADIUS
    pen.rectangle([*at(-edge, edge), *at(edge, -edge)], outline=(90, 90, 90), width=size // 128)
    for half, thick in ((LENGTH, WIDTH), (WIDTH, LENGTH)):
        pen.rectangle([*at(-half, thick), *at(half, -thick)], (110, 120, 130))
    for room in ROOMS.values():
        middle = at(*room)
        disc(pen, middle[0], middle[1], 0.015 * scale, (120, 190, 120))
    ball = at(x[0], x[1])
    disc(pen, ball[0], ball[1], RADIUS * scale, (204, 77, 77))


def make(repeat: int = 1, time_limit: int | None = None, task: str = "reach_top_left", starts: str = "task") -> Env:
    """Observation [4] (position, velocity), two actions (forces), 1000 decisions.

    ``task``: ``reach_top_left``, ``reach_top_right``, ``reach_bottom_left`` and ``reach_bottom_right`` pay as in ExoRL. Of the
    four others the literature has the names; what they pay is defined here: ``reach_bottom_left_long`` (-1 in the short
    passage), ``loop`` (round the middle, clockwise), ``square`` (so along a square), ``fast_slow`` (fast above, slow below).
    All of them are ``spec.tasks``. ``starts``: "task", at rest in the outer part of the room on the top left, or "uniform", at
    rest anywhere, for data that cover all rooms.

    Raises:
        ValueError: unknown ``task`` or ``starts``.
    """
    if task not in TASKS or starts not in STARTS:
        raise ValueError(f"pointmass-maze: task={task!r} of {list(TASKS)}, starts={starts!r} of {list(STARTS)}.")
    return plant(
        "rlx:pointmass-maze",
        task=Task(observe, reward, drift=drift, score=SCORES[task], names=NAMES),
        obs=Leaf((4,)),
        actions=2,
        params={**PARAMS, "task": np.int32(list(TASKS).index(task))},
        start=STARTS[starts],
        advance=advance,
        horizon=1000,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
        tasks=TASKS,
    )
