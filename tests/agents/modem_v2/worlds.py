"""Small agents of the method, and what they are tried on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx import replay
from rlx.agents.modem_v2.config import Config
from rlx.agents.modem_v2.method import Method
from rlx.config import hyper, replace
from rlx.replay import Index, Sequences
from rlx.types import AgentState, Clock, Leaf, Problem, ReplayState, Spec, Step

SIZES: dict[str, Any] = {
    "env_steps": 1_000,
    "n_envs": 2,
    "seed_steps": 100,
    "latent": 5,
    "hidden": 8,
    "encoder_hidden": 8,
    "horizon": 2,
    "ensemble_size": 3,
    "samples": 12,
    "elites": 4,
    "batch": 6,
    "utd": 0.1,
}
VECTOR = Spec(Leaf((4,)), Leaf((2,), low=-1, high=1), horizon=50)
PICTURES = Spec({"pixels": Leaf((32, 32, 3), np.uint8), "state": Leaf((4,))}, Leaf((2,), low=-1, high=1), horizon=50)
CAMERAS = Spec({**PICTURES.obs, "pixels": Leaf((32, 32, 6), np.uint8)}, PICTURES.action, horizon=50)  # type: ignore[dict-item]
SPECS = {"vector": VECTOR, "pictures": PICTURES, "cameras": CAMERAS}


def clock(env_steps: int = 0, cycle: int = 0, updates: int = 0) -> Clock:
    return Clock(*map(jnp.int32, (cycle, env_steps, updates)))


def config(**settings: Any) -> Config:
    return replace(Config(), {**SIZES, **settings})


@functools.cache
def method(spec: str = "vector", **settings: Any) -> Method:
    return Method.of(config(**settings), SPECS[spec], 200)


def begun(own: Method, seed: int = 3, values: bool = False) -> AgentState:
    """As its ``init`` gives it, but for parameters, which are drawn by numpy: no program is compiled. Rewards and critics are
    0 unless ``values``."""
    h = {k: jnp.float32(v) for k, v in hyper(own.config).items()}
    shapes, rng = jax.eval_shape(own.init, jax.random.key(0), h).learned, np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
    learned = {k: jax.tree.map(draw if k in ("params", "clone", "target") else lambda x: jnp.zeros(x.shape, x.dtype), v)
               for k, v in shapes.items()}  # fmt: skip
    nothing = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    params, target = learned["params"], learned["target"]
    critics = (tree["critics"]["params"]["MLP_0"]["Dense_1"] for tree in (params, target))
    for last in () if values else (params["reward"]["params"]["Dense_2"], *critics):
        last |= nothing(last)
    return AgentState(h, learned)


def at(obs: Any, first: bool = True) -> Step:
    n = jax.tree.leaves(obs)[0].shape[0]
    no = jnp.zeros(n, bool)
    return Step(obs, jnp.zeros(n), no, no, jnp.full(n, first), {})


def windows(own: Method, seed: int = 1) -> Sequences:
    """What its sampler would draw."""
    rng, rows, b = np.random.default_rng(seed), own.config.horizon + 1, own.config.batch
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    obs: Any = draw(rows, b, 4)
    if own.sight.images:
        channels = own.spec.obs["pixels"].shape[-1] * own.frames  # type: ignore[index]
        images = rng.integers(0, 255, (rows, b, 32, 32, channels)).astype(np.uint8)
        obs = {"pixels": jnp.asarray(images), "state": draw(rows, b, 4 * own.frames)}
    no = jnp.zeros((rows, b), bool)
    index = Index(jnp.zeros(b, jnp.int32), jnp.zeros(b, jnp.int32))
    info = {"torque": jnp.abs(draw(rows, b))}
    return Sequences(obs, draw(rows, b), no, no, no, info, jnp.tanh(draw(rows, b, 2)), {}, ~no, jnp.ones(b), index)


def demonstrations(
    length: int = 50, episodes: int = 3, paid: float = 1.0, obs: int = 6, told: dict[str, tuple[int, ...]] | None = None
) -> ReplayState:
    """``told``: shapes of what the info says, all of it 1."""
    rng = np.random.default_rng(0)
    one = lambda: {
        "obs": rng.normal(size=(length, obs)).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "reward": np.full(length, paid, np.float32) * (np.arange(length) > length // 2),
        "terminated": np.zeros(length, bool),
        "info": {k: np.ones((length, *shape), np.float32) for k, shape in (told or {}).items()},
    }
    return replay.from_episodes([one() for _ in range(episodes)])


def problem(**data: Any) -> Problem:
    return Problem({"train": rlx.envs.make("rlx:push-toy")}, {"data": demonstrations(**data)})
