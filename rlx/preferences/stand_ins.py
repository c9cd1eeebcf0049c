"""Two tasks to see preferences move from one to the other, without files of others: what ``rlx data gen-pref`` writes.

"toy": paths in the plane of graded quality; the target's are rotated, scaled and shifted (`toy_quality`), and a decision
pays how good its path is. There is no environment of it.

"point-mass": the source's task is to get far along x, the target's along y (`rlx:point-mass` with ``along``). Behaviour is of
graded quality: a push that way, and noise that is 0.1, 0.5, 1 or 2 of it, or noise alone, by turns. One compiled program rolls
out all episodes.

"metaworld" and "metaworld-mixed" are those of `rlx.preferences.meta_world`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs import make
from rlx.preferences.features import Trajectories
from rlx.preferences.toy import toy_quality
from rlx.types import Array, Env, Key

NOISE = (0.1, 0.5, 1.0, 2.0)  # of pushes; every fifth episode is noise alone
ROTATION, SCALE, SHIFT = 1.1, 3.0, (5.0, -2.0)  # of the toy's target
Episodes = list[dict[str, np.ndarray]]


def toy(count: int, steps: int, seed: int = 0) -> tuple[Episodes, Episodes]:
    """Source and target of ``count`` episodes of ``steps`` decisions each; one generator draws both."""
    rng = np.random.default_rng(seed)
    source = _with_rewards(*toy_quality(rng, count, steps + 1))
    return source, _with_rewards(*toy_quality(rng, count, steps + 1, ROTATION, SCALE, SHIFT))


def _with_rewards(paths: Trajectories, quality: np.ndarray) -> Episodes:
    each = lambda obs, action, q: {
        "obs": obs.astype(np.float32),
        "action": action.astype(np.float32),
        "reward": np.r_[0.0, np.full(len(obs) - 1, q)].astype(np.float32),
        "terminated": np.zeros(len(obs), bool),
    }
    return [each(obs, action, q) for (obs, action), q in zip(paths, quality, strict=True)]


def point_mass(count: int, steps: int, seed: int = 0) -> tuple[Episodes, Episodes]:
    """Source (along x) and target (along y), from the middle of the square."""
    root = keys.root(seed)
    source, target = (_pushed(count, steps, i, keys.fold(root, name)) for i, name in enumerate(("source", "target")))
    return source, target


def _pushed(count: int, steps: int, axis: int, key: Key) -> Episodes:
    env, way = make("rlx:point-mass", along="xy"[axis], time_limit=steps), jnp.eye(2)[axis]
    assert isinstance(env, Env)
    noise = jnp.array([*NOISE, 1.0])[jnp.arange(count) % (len(NOISE) + 1)]
    push = (jnp.arange(count) % (len(NOISE) + 1) < len(NOISE)).astype(jnp.float32)

    def episode(key: Key, noise: Array, push: Array) -> tuple[Array, Array, Array]:
        def step(carry: tuple, t: Array) -> tuple[tuple, tuple[Array, Array, Array]]:
            state, now = carry
            random = noise * jax.random.normal(keys.fold(key, "noise", t), (2,))
            action = jnp.clip(0.5 * push * way + 0.5 * random, -1.0, 1.0)
            state, after = env.step(env.params, state, action, keys.fold(key, "step", t))
            return (state, after), (now.obs, action, now.reward)

        (_, last), (obs, action, reward) = jax.lax.scan(step, env.reset(env.params, keys.fold(key, "reset")), jnp.arange(steps))
        joined = lambda x, end: jnp.concatenate([x, end[None]])
        return joined(obs, last.obs), joined(action, jnp.zeros(2)), joined(reward, last.reward)

    each = jax.vmap(lambda i, *how: episode(keys.fold(key, "episode", i), *how))
    obs, action, reward = (np.asarray(x) for x in jax.jit(each)(jnp.arange(count), noise, push))
    return [
        {"obs": o, "action": a, "reward": r, "terminated": np.zeros(steps + 1, bool)}
        for o, a, r in zip(obs, action, reward, strict=True)
    ]


RECIPES = {"toy": toy, "point-mass": point_mass}
