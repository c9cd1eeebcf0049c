"""What the tests of the family learn from: the maze's rows at random, a world that is seen in pictures, and one of choices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx import replay
from rlx.types import Env, Leaf, Spec, Step

PICTURES = "pictures:dot"  # an environment of images, registered when this module is imported
GRID = "grid:five"  # one whose actions are choices
SMALL = {"d_phi": 6, "d_psi": 4, "phi_hidden": 8, "psi_hidden": 8, "predictor_hidden": 8, "actor_hidden": 8}
SMALL |= {"flow_hidden": 8, "flow_layers": 2, "batch": 16, "inference": 64}
SHORT = SMALL | {"updates": 8, "eval_every": 4, "per_cycle": 2, "eval_episodes": 2}


def maze_rows(episodes: int = 6, length: int = 12, seed: int = 0):
    """Places and actions at random, not motions: enough for what is tested here."""
    rng = np.random.default_rng(seed)
    return replay.from_episodes(
        {
            "obs": rng.uniform(-0.28, 0.28, (length, 4)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "reward": rng.normal(size=length).astype(np.float32),
            "terminated": (np.arange(length) == length - 1) & (i % 2 == 0),
        }
        for i in range(episodes)
    )


def make_pictures(repeat: int = 1, time_limit: int | None = None, size: int = 64) -> Env:
    """A dot that is moved about, as a picture of ``size``."""
    limit = time_limit or 10

    def arrive(place, t, first=False):
        grid = jnp.arange(size) + 0.5
        near = lambda x: (jnp.abs(grid - (x + 1) / 2 * size) < 2).astype(jnp.uint8)
        image = (255 * near(place[0])[:, None] * near(place[1])[None])[..., None] * jnp.ones(3, jnp.uint8)
        over = jnp.bool_(False)
        return Step(image, -(place**2).sum(), over, t >= limit, jnp.bool_(first), {})

    def reset(params, key):
        place = jax.random.uniform(key, (2,), minval=-0.9, maxval=0.9)
        return (place, jnp.int32(0)), arrive(place, jnp.int32(0), True)._replace(reward=jnp.float32(0))

    def step(params, state, action, key):
        place, t = jnp.clip(state[0] + 0.1 * jnp.clip(action, -1, 1), -0.9, 0.9), state[1] + 1
        return (place, t), arrive(place, t)

    spec = Spec(Leaf((size, size, 3), np.uint8, low=0, high=255), Leaf((2,), low=-1, high=1), horizon=limit)
    return Env(PICTURES, spec, {}, reset, step)


def make_grid(repeat: int = 1, time_limit: int | None = None) -> Env:
    """Five places a side, the observation says which of the 25; choices: four moves and staying. Pays in the first."""
    moves, limit = jnp.array([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0]]), time_limit or 12

    def arrive(place, t, first=False):
        number = place[0] * 5 + place[1]
        return Step(jax.nn.one_hot(number, 25), jnp.float32(number == 0), jnp.bool_(False), t >= limit, jnp.bool_(first), {})

    def reset(params, key):
        place = jax.random.randint(key, (2,), 0, 5)
        return (place, jnp.int32(0)), arrive(place, jnp.int32(0), True)._replace(reward=jnp.float32(0))

    def step(params, state, action, key):
        place, t = jnp.clip(state[0] + moves[action], 0, 4), state[1] + 1
        return (place, t), arrive(place, t)

    return Env(GRID, Spec(Leaf((25,)), Leaf((), np.int32, low=0, high=4), horizon=limit), {}, reset, step)


rlx.envs.register(GRID, make_grid)
rlx.envs.register(PICTURES, make_pictures)
