"""Laws to export, and ways to run what was exported."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents, envs, export
from rlx.train.policy import Policy
from rlx.types import Problem

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def policy(name: str, env: str = "rlx:pendulum", **overrides: Any) -> Policy:
    """A fresh policy, with observation statistics where it has some."""
    problem = Problem({"train": envs.make(env)})
    agent = agents.make(name, problem=problem, **overrides)
    state = agent.init(jax.random.key(1), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    if name != "yann":  # the last layer begins small: make the comparison mean something
        *_, last = state.learned["actor"]["params"].values()
        last["kernel"] = last["kernel"] * 100
    return Policy(agent, state, problem)


def piecewise(regions: int, faces: int, n: int = 4, m: int = 2, hidden: int = 16, dtype: Any = np.float32) -> export.Law:
    """A piecewise affine law with an angle, regions of half-spaces, gains per region, and a small network per region."""
    rng = np.random.default_rng(regions)
    draw = lambda *shape: rng.standard_normal(shape)
    z = n + 1
    normals = draw(regions, faces, z)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    offsets = (normals @ draw(regions, z)[:, :, None])[..., 0] + 0.7 * z**0.5
    gains, biases = 0.3 * draw(regions, m, z), 0.3 * draw(regions, m)
    inner, inner_bias = draw(regions, z, hidden) / z**0.5, draw(regions, hidden)
    outer, outer_bias = draw(regions, hidden, m) / hidden**0.5, draw(regions, m)
    given = (normals, offsets, gains, biases, inner, inner_bias, outer, outer_bias)
    h, k, gain, bias, w1, b1, w2, b2 = (np.asarray(x, dtype) for x in given)

    def one(obs):
        z = 0.5 * jnp.concatenate([obs, jnp.arctan2(obs[1], obs[0])[None]]) + 0.1
        slack = (k - jnp.einsum("pqz,z->pq", h, z)).min(-1)
        found = (slack >= 0).any()
        i = jnp.where(found, jnp.argmax(slack >= 0), jnp.argmax(slack))
        rows = [jnp.asarray(x)[i] for x in (gain, bias, w1, b1, w2, b2)]
        u = rows[0] @ z + rows[1]
        extra = jnp.tanh(z @ rows[2] + rows[3]) @ rows[4] + rows[5]
        return 0.9 * jnp.clip(jnp.where(found, u + 0.1 * extra, u), -1.0, 1.0)

    return export.Law(jax.vmap(one), n, "piecewise", dtype)


def sindy(obs):
    """A sparse polynomial policy."""
    x, y = obs[:, 0], obs[:, 1]
    terms = jnp.stack([jnp.ones_like(x), x, y, x**2, x * y, y**3, jnp.abs(x) ** 1.5, jnp.sin(y)], -1)
    weights = np.float32([[0.1, -1.2], [0.5, 0], [0, 0.25], [-0.3, 0.2], [0, 0.7], [0.05, 0], [0.2, -0.1], [0.3, 0.3]])
    return jnp.clip(terms @ weights, -1.0, 1.0)


def run_numpy(path: Path) -> Callable[[Any], np.ndarray]:
    """``act`` of an exported file."""
    scope: dict[str, Any] = {}
    exec(path.read_text(), scope)
    return scope["act"]


def run_c(law: Any, folder: Path, name: str = "law", dtype: str = "float32", optimise: str = "-O1") -> Callable:
    """``act`` of exported C: rows [W, n] to actions [W, m]. It must compile without a warning."""
    export.to_c(law, folder, name, dtype)
    library = folder / f"{name}.so"
    command = ["gcc", *STRICT, optimise, "-shared", "-fPIC", "-o", str(library), str(folder / f"{name}.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    header = (folder / f"{name}.h").read_text()
    n, m = (int(header.split(f"{name.upper()}_{what} ")[1].split()[0]) for what in ("OBS", "ACTION"))
    call, kind = getattr(ctypes.CDLL(str(library)), f"{name}_act"), np.dtype(dtype)
    call.restype = None

    def act(obs: np.ndarray) -> np.ndarray:
        obs = np.ascontiguousarray(obs, kind)
        assert obs.shape[1] == n
        action = np.full((len(obs), m), np.nan, kind)
        for i in range(len(obs)):
            call(ctypes.c_void_p(obs[i : i + 1].ctypes.data), ctypes.c_void_p(action[i : i + 1].ctypes.data))
        return action

    return act


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference relative to the scale of what is wanted; NaN and infinities have to agree."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    plain = np.isfinite(wanted)
    assert (np.isfinite(found) == plain).all()
    np.testing.assert_array_equal(found[~plain], wanted[~plain])
    scale = max(1.0, np.abs(wanted[plain]).max(initial=0))
    return float(np.abs(found[plain] - wanted[plain]).max(initial=0)) / scale
