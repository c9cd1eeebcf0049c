"""A finger that pushes a puck to a goal on a small table: contact-rich manipulation in closed form, for methods that learn from
a few demonstrations and are judged by their contact forces too.

The action is where the finger is to go. A command follows it by halves, the finger goes there, or to a wall, and the puck, of
radius r, is pushed out of its way in four moves::

    u = clip(action, finger - 0.3, finger + 0.3);  command <- (u + command) / 2
    finger goes to clip(command, -0.8, 0.8); on each quarter x of the way:
        n = (puck - x) / |puck - x|;  depth = max(r - |puck - x|, 0);  puck <- clip(puck + depth n, -0.8, 0.8)
    force = 1000 |command beyond the walls| + 150 sum of the depths

A force above 50 is a violation. The reward is 1 where the puck's middle is in the goal, else 0; nothing ends an episode early.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc, plant
from rlx.envs.options import positive
from rlx.envs.outcomes import ENOUGH, leaves
from rlx.types import Array, Env, Leaf, PyTree, Task

GOAL, RADIUS = np.array([0.0, -0.5], np.float32), 0.15  # of the puck, and of the goal for its middle
PARAMS: dict[str, Any] = {"goal": GOAL, "radius": RADIUS, "reach": 0.3, "wall": 1000.0, "contact": 150.0, "limit": 50.0}
EDGE = 0.8  # the walls
MOVES = 4  # along the finger's way in one decision
SINCE = 4096  # counts two things in one number, which a float32 holds too
FINGER = 0.05  # radius of the finger in pictures: in the dynamics it is a point
VIEW = 0.9  # half the side of what pictures show


class Table(NamedTuple):
    finger: Array  # [2]
    puck: Array  # [2]
    command: Array  # [2]
    force: Array  # the greatest of the decision
    successes: Array  # int32: decisions in success so far, and `SINCE` for each from the first of them on


def start(p: Any, key: Any) -> Table:
    u = jax.random.uniform(key, (3,))
    finger = jnp.array([0.1 * u[0] - 0.05, 0.75])
    puck = jnp.array([0.6 * u[1] - 0.3, 0.1 + 0.2 * u[2]])
    return Table(finger, puck, finger, jnp.float32(0), jnp.int32(0))


def renew(p: Any, x: Table, key: Any) -> Table:
    return x._replace(force=jnp.float32(0))


def advance(p: Any, x: Table, action: Any) -> Table:
    aim = jnp.clip(action, x.finger - p["reach"], x.finger + p["reach"])
    command = 0.5 * aim + 0.5 * x.command
    finger, puck, pressed = jnp.clip(command, -EDGE, EDGE), x.puck, jnp.float32(0)
    for move in range(1, MOVES + 1):
        away = puck - (x.finger + (finger - x.finger) * (move / MOVES))
        distance = jnp.linalg.norm(away)
        depth = jnp.maximum(p["radius"] - distance, 0.0)
        puck = jnp.clip(puck + depth * away / jnp.maximum(distance, 1e-6), -EDGE, EDGE)
        pressed = pressed + depth
    beyond = jnp.linalg.norm(jnp.maximum(jnp.abs(command) - EDGE, 0.0))
    force = jnp.maximum(x.force, p["wall"] * beyond + p["contact"] * pressed)
    there = _there(jnp, p, puck)
    return Table(finger, puck, command, force, x.successes + there + SINCE * (there | (x.successes > 0)))


def _there(xp: Any, p: Any, puck: Any) -> Any:
    """Whether the puck [..., 2] is in the goal."""
    return ((puck - p["goal"]) ** 2).sum(-1) < p["radius"] ** 2


def reward(xp: Any, p: Any, x: Table, action: Any, new: Table) -> Any:
    return xp.asarray(_there(xp, p, new.puck), np.float32)


def tell(p: Any, x: Table) -> dict[str, Array]:
    solved = {"solved": x.successes % SINCE >= ENOUGH, "solved_sticky": x.successes // SINCE >= ENOUGH}
    return {"success": _there(jnp, p, x.puck), **solved, "contact_force": x.force, "violation": x.force > p["limit"]}


# ------------------------------------------------------------------------------------------------------------------ observing


def proprio(xp: Any, p: Any, x: Table) -> Any:
    """What a robot knows of itself: finger and command, [4]."""
    return xp.concatenate([x.finger, x.command], -1)


def privileged(xp: Any, p: Any, x: Table) -> Any:
    """`proprio` and the puck: [6]."""
    return xp.concatenate([x.finger, x.command, x.puck], -1)


STATES = {"proprio": (proprio, 4), "privileged": (privileged, 6)}


def picture(p: Any, x: Table, size: int) -> Array:
    """Finger, puck and goal as soft discs, a channel each: uint8 [size, size, 3], the goal at the bottom."""
    at = VIEW * ((jnp.arange(size) + 0.5) * 2 / size - 1)
    places = jnp.stack([x.finger, x.puck, jnp.asarray(p["goal"])])
    radii = jnp.stack([jnp.float32(FINGER), *[jnp.asarray(p["radius"], jnp.float32)] * 2])
    away = jnp.sqrt((at[None, :, None] - places[:, 0]) ** 2 + (-at[:, None, None] - places[:, 1]) ** 2)
    covered = jnp.clip(0.5 + (radii - away) * size / (2 * VIEW), 0.0, 1.0)  # of a pixel, near enough
    return jnp.round(255 * covered).astype(jnp.uint8)


# ---------------------------------------------------------------------------------------------------------------- the expert


def expert(xp: Any, finger: Array, puck: Array, goal: Array = GOAL) -> Array:
    """The script that demonstrates: where the finger [..., 2] is to go, [..., 2]. It goes behind the puck [..., 2], pushes
    it towards the goal, and stays where it is once the puck lies there. It solves every start."""
    way = goal - puck
    left = xp.sqrt((way**2).sum(-1, keepdims=True))
    u = way / xp.maximum(left, 1e-6)
    along = ((finger - puck) * u).sum(-1, keepdims=True)
    aside = xp.sqrt(((finger - puck - along * u) ** 2).sum(-1, keepdims=True))
    behind = xp.where((aside < 0.07) & (along < 0), 0.07, 0.21)
    return xp.clip(xp.where(left < 0.08, finger, puck - behind * u), -0.78, 0.78)


# -------------------------------------------------------------------------------------------------------------- environment


def draw(pen: Any, size: int, x: Table) -> None:
    scale = size / (2 * VIEW)

    def at(place: Any) -> tuple[float, float]:
        return size / 2 + scale * float(place[0]), size / 2 - scale * float(place[1])

    pen.rectangle([*at((-EDGE, EDGE)), *at((EDGE, -EDGE))], outline=(90, 90, 90), width=size // 128)
    for place, radius, colour in (
        (GOAL, RADIUS, (190, 220, 190)),
        (x.puck, RADIUS, (90, 120, 170)),
        (x.finger, FINGER, (204, 77, 77)),
    ):
        disc(pen, *at(place), radius * scale, colour)


def make(repeat: int = 1, time_limit: int | None = None, observe: str = "privileged", discs: int | None = None) -> Env:
    """Two actions (where the finger is to go), 50 decisions, reward 0 or 1.

    ``observe``: "proprio", finger and command [4], or "privileged", with the puck [6]. ``discs``: the side d of pictures in
    which finger, puck and goal are soft discs, a channel each; observations are then ``{"pixels": uint8 [d, d, 3], "state"}``.

    ``info``, as in `rlx.envs.outcomes`: ``success`` (the puck is in the goal), ``solved`` (it has been so in five decisions),
    ``solved_sticky`` (in five from the first such one on), ``contact_force`` (in no unit), ``violation`` (of the limit of 50).

    Raises:
        ValueError: unknown ``observe``, ``discs`` that are no size.
    """
    if observe not in STATES:
        raise ValueError(f"push-toy: observe={observe!r} is unknown; give {' or '.join(map(repr, STATES))}.")
    positive(discs=discs)
    known, count = STATES[observe]
    bounds = np.array([EDGE, EDGE, 1, 1, EDGE, EDGE], np.float32)[:count]
    vector = Leaf(bounds.shape, low=-bounds, high=bounds)

    def observation(xp: Any, p: PyTree, x: Table) -> PyTree:
        return {"pixels": picture(p, x, discs), "state": known(xp, p, x)} if discs else known(xp, p, x)

    return plant(
        "rlx:push-toy",
        task=Task(observation, reward),
        obs={"pixels": Leaf((discs, discs, 3), np.uint8, 0, 255), "state": vector} if discs else vector,
        actions=2,
        params=dict(PARAMS),
        start=start,
        advance=advance,
        renew=renew,
        horizon=50,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
        info=leaves("success", "solved", "solved_sticky", "contact_force", "violation"),
        tell=tell,
    )
