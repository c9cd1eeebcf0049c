"""A point in a maze of unit cells, to be led to a goal cell."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc, plant
from rlx.types import Env, Leaf, Task

LAYOUTS = {
    "small": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "medium": ["########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#..#", "########"],
    "large": [
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#...#",
        "############",
    ],
}
REACH = 0.5  # m, from the goal


def _free(xp: Any, walls: Any, place: Any) -> Any:
    """Whether positions [..., 2] (column, row) lie in free cells."""
    cell = xp.floor(place).astype(int)
    return ~walls[xp.clip(cell[..., 1], 0, walls.shape[0] - 1), xp.clip(cell[..., 0], 0, walls.shape[1] - 1)]


def observe(xp: Any, p: Any, x: Any) -> Any:
    """Position and goal: [4]."""
    return x


def _near(xp: Any, x: Any) -> Any:
    return xp.sqrt(((x[..., :2] - x[..., 2:]) ** 2).sum(-1)) < REACH


def sparse(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    """1 at the goal."""
    return xp.where(_near(xp, new), 1.0, 0.0)


def dense(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    """exp(-distance to the goal), as the crow flies."""
    return xp.exp(-xp.sqrt(((new[..., :2] - new[..., 2:]) ** 2).sum(-1)))


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """Velocity, walls left out: [..., 4]."""
    return xp.concatenate([p["speed"] * action, xp.zeros_like(x[..., 2:])], -1)


def draw(walls: np.ndarray, pen: Any, size: int, x: np.ndarray) -> None:
    scale = size / max(walls.shape)
    for row, column in np.argwhere(walls):
        pen.rectangle([column * scale, row * scale, (column + 1) * scale, (row + 1) * scale], (110, 120, 130))
    disc(pen, scale * x[2], scale * x[3], 0.3 * scale, (120, 190, 120))
    disc(pen, scale * x[0], scale * x[1], 0.18 * scale, (204, 77, 77))


def make(repeat: int = 1, time_limit: int | None = None, layout: str = "medium", reward: str = "sparse") -> Env:
    """Observation [4] (position, goal), two actions (velocity, 0.2 m per decision at most), 200 decisions (large: 400).

    Start and goal are random free cells. ``info["success"]``: the goal is within 0.5 m. A wall stops the motion across it.

    Raises:
        ValueError: unknown ``layout`` or ``reward``.
    """
    if layout not in LAYOUTS or reward not in ("sparse", "dense"):
        raise ValueError(f"point-maze: layout={layout!r} of {list(LAYOUTS)}, reward={reward!r} of ['sparse', 'dense'].")
    walls = np.array([[c == "#" for c in row] for row in LAYOUTS[layout]])
    cells = np.argwhere(~walls)[:, ::-1] + 0.5
    on_device, free_cells = jnp.asarray(walls), jnp.asarray(cells, jnp.float32)

    def start(p: Any, key: Any) -> Any:
        a, b = jax.random.split(key)
        jitter = jax.random.uniform(b, (2,), minval=-0.2, maxval=0.2)
        here, there = jax.random.choice(a, free_cells, (2,), replace=False)
        return jnp.concatenate([here + jitter, there])

    def advance(p: Any, x: Any, action: Any) -> Any:
        step = p["speed"] * action
        across = x[:2] + step * jnp.array([1.0, 0.0])
        place = jnp.where(_free(jnp, on_device, across), across, x[:2])
        along = place + step * jnp.array([0.0, 1.0])
        return jnp.concatenate([jnp.where(_free(jnp, on_device, along), along, place), x[2:]])

    rows, columns = walls.shape
    high = np.array([columns, rows, columns, rows], np.float32)
    return plant(
        "rlx:point-maze",
        task=Task(observe, {"sparse": sparse, "dense": dense}[reward], drift=drift),
        obs=Leaf((4,), low=np.zeros(4, np.float32), high=high),
        actions=2,
        params={"speed": 0.2},
        start=start,
        advance=advance,
        horizon=400 if layout == "large" else 200,
        repeat=repeat,
        time_limit=time_limit,
        draw=partial(draw, walls),
        info={"success": Leaf((), bool, reduce="any")},
        tell=lambda p, x: {"success": _near(jnp, x)},
    )
