"""Rewards of stored physics: what a task would have paid for rows that were collected for another one, or for none.

::

    spin = reward_of("dmc:walker-spin")
    reward = spin(physics, action)        # [N, P], [N, A] -> float32 [N]
    reward = spin.of_episode(row)         # float32 [T] of an episode whose info holds "physics"

The reward is that of *arriving* at ``physics`` by ``action``, as in `rlx.types.Row`. Tasks whose rewards are functions over
arrays (all of ``rlx:``, and of ``dmc:`` those that rlx writes itself) take thousands of rows in milliseconds; others go through
dm_control row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import camera, control, registry, tasks
from rlx.envs.actions import Native
from rlx.envs.control.base import state_of
from rlx.envs.options import dm_control_suite
from rlx.envs.tasks.kinematics import Kinematics
from rlx.precision import exact
from rlx.types import PHYSICS, Array, Row, Spec

CHUNK = 2048  # states at once, whose arrays a processor's cache holds
STATE = ("qpos", "qvel", "act")
SURE = 20  # steps by which a reward of dm_control is proved to be one of the physics


@dataclass(frozen=True, eq=False)
class Reward:
    """Of one task: call it with ``physics`` [N, P] and ``action`` [N, A] for float32 [N].

    ``before`` [N, P]: the physics at which the action was taken, which some plants are paid by. Numpy arrays are computed in
    float64 where the task is MuJoCo's, JAX's (inside `jax.jit` and `jax.vmap` too) in float32 on their device, where
    ``traceable``.
    """

    name: str
    size: int  # P
    spec: Spec
    fn: Callable[[Array, Array, Array | None], Array]
    traceable: bool = True

    def __call__(self, physics: Array, action: Array, before: Array | None = None) -> Array:
        """Raises ValueError for arrays of other shapes, and where ``before`` is needed and is not there."""
        shapes = [np.shape(physics), np.shape(action), np.shape(physics if before is None else before)]
        n = shapes[0][:1]
        if len(n) != 1 or shapes != [(*n, self.size), (*n, *self.spec.action.shape), (*n, self.size)]:
            raise ValueError(
                f"{self.name} is paid by physics [N, {self.size}] and actions [N, {self.spec.action.shape[0]}]; got "
                f"{', '.join(map(str, map(list, shapes)))}. Was the physics stored by another environment?"
            )
        if not self.traceable and isinstance(physics, jax.core.Tracer):
            raise ValueError(f"{self.name} is paid by dm_control's own code, which takes numpy arrays outside of jax.jit.")
        return self.fn(physics, action, before)

    def of_episode(self, row: Row) -> np.ndarray:
        """The rewards [T] of one episode (rows [T, ...]), 0 at its first row.

        Raises:
            ValueError: its info holds no physics, or that of another environment.
        """
        if PHYSICS not in row.info:
            raise ValueError("the rows hold no physics: collect them with physics=True (rlx collect does where it can).")
        physics, action = (np.asarray(x) for x in (row.info[PHYSICS], row.action))
        return np.concatenate([np.zeros(1, np.float32), np.asarray(self(physics[1:], action[:-1], physics[:-1]))])


def reward_of(name: str, /, **options: Any) -> Reward:
    """What the environment ``make(name, **options)`` pays, of its stored physics; equal to what it emits but for the rounding
    of physics to float32. How it looks (``pixels``) does not matter.

    Raises:
        ValueError: an unknown name, an environment without physics, one whose reward depends on more than physics and action,
            or ``repeat`` above 1, as physics within a decision is not stored.
    """
    if options.get("repeat") not in (None, 1):
        raise ValueError(f"{name}: repeat={options['repeat']} sums rewards of steps whose physics is not stored; give 1.")
    prefix, _, task = name.partition(":")
    if prefix not in ("dmc", "rlx"):
        raise ValueError(f"{name}: rewards of stored physics are known of dmc: and rlx: tasks.")
    env = registry.make(name, **{**camera.unseen(options), "physics": True})
    size = env.spec.info[PHYSICS].shape[0]
    own = control.mujoco_task(task) if prefix == "rlx" else tasks.get(task) if task in tasks.names() else None
    if prefix == "rlx" and own is None:
        return Reward(name, size, env.spec, _of_plant(name, env))
    if own is not None:
        return Reward(name, size, env.spec, _of_fields(env.spec, own.model(), own.find, own.reward, own.fields))
    if task in tasks.PAID:
        custom = tasks.PAID[task]
        find = lambda model: SimpleNamespace(**custom.constants(model))
        return Reward(name, size, env.spec, _of_fields(env.spec, _world(custom.world)[0], find, custom.reward, custom.fields))
    return Reward(name, size, env.spec, _of_dm_control(name, task, env.spec), traceable=False)


# ------------------------------------------------------------------------------------------------------------------ plants


def _of_plant(name: str, env: Any) -> Callable[..., Array]:
    if hasattr(env, "made") or env.host:
        raise ValueError(f"{name}: leave out host=true, the reward is the same.")
    pay = env.spec.task.reward

    @jax.jit
    @exact
    def fn(physics: Array, action: Array, before: Array) -> Array:
        one = lambda new, a, old: pay(jnp, env.params, state_of(env, old), jnp.clip(a, -1.0, 1.0), state_of(env, new))
        return jnp.float32(jax.vmap(one)(physics, action, before))

    def reward(physics: Array, action: Array, before: Array | None) -> Array:
        out = fn(physics, action, jnp.full(np.shape(physics), jnp.nan) if before is None else before)
        if isinstance(out, jax.core.Tracer):
            return out
        if before is None and np.isnan(out).any():
            raise ValueError(f"{name} is paid by the physics at which the action was taken too: give it as before.")
        return out if isinstance(physics, jax.Array) else np.asarray(out)

    return reward


# ------------------------------------------------------------------------------------------------------ MuJoCo, over arrays


class _Noted(SimpleNamespace):
    """Remembers which of its fields were read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            self.__dict__.setdefault("_read", set()).add(name)
        return super().__getattribute__(name)


def _of_fields(spec: Spec, model: Any, find: Any, reward: Callable[..., Array], fields: tuple[str, ...]) -> Any:
    """The reward of a task that declares which ``fields`` of MuJoCo's data it reads."""
    import mujoco

    c, kinematics, native = find(model), Kinematics(model), Native.of(spec)
    empty = {f: np.asarray(getattr(mujoco.MjData(model), f)) for f in fields}
    goal = spec.info[PHYSICS].shape[0] - model.nq - model.nv - model.na
    noted = _Noted(**{f: x.reshape(1, -1) if f in STATE else x[None] for f, x in empty.items()}, goal=np.zeros((1, goal)))
    if "xmat" in fields:
        noted.xmat = noted.xmat.reshape(1, -1, 9)
    reward(np, c, noted)
    derived = tuple(sorted(noted._read - {*STATE, "ctrl", "goal"}))

    def of(xp: Any, physics: Array, ctrl: Array) -> Array:
        ends = np.cumsum([model.nq, model.nv, model.na])
        qpos, qvel, act, aim = xp.split(physics, ends, axis=-1)
        more = kinematics(xp, qpos, qvel, derived) if derived else {}
        return reward(xp, c, SimpleNamespace(qpos=qpos, qvel=qvel, act=act, goal=aim, ctrl=ctrl, **more))

    @exact
    def traced(physics: Array, action: Array) -> Array:
        return jnp.float32(of(jnp, physics, native.traced(action)))

    fast = jax.jit(traced)

    def fn(physics: Array, action: Array, before: Array | None) -> Array:
        if isinstance(physics, jax.Array):
            return fast(physics, jnp.asarray(action))
        wide, ctrl = np.asarray(physics, np.float64), native(action)
        chunks = [of(np, wide[i : i + CHUNK], ctrl[i : i + CHUNK]) for i in range(0, max(len(wide), 1), CHUNK)]
        return np.concatenate(chunks).astype(np.float32)

    return fn


# --------------------------------------------------------------------------------------------------------- by dm_control


def _world(name: str) -> tuple[Any, Any]:
    """MuJoCo's model of a task of dm_control, and its environment."""
    domain, _, task = name.partition("-")
    env = dm_control_suite().load(domain, task, task_kwargs={"random": 0})
    return env.physics.model.ptr, env


def _of_dm_control(name: str, task: str, spec: Spec) -> Callable[..., Array]:
    """The reward by dm_control's own code, state by state."""
    import mujoco

    env, native = _world(task)[1], Native.of(spec)
    env.reset()
    model, data = env.physics.model.ptr, env.physics.data.ptr

    def fn(physics: Array, action: Array, before: Array | None) -> np.ndarray:
        out = np.zeros(len(physics), np.float32)
        for i, (state, ctrl) in enumerate(zip(np.asarray(physics, np.float64), native(action), strict=True)):
            env.physics.set_state(state)
            data.ctrl[:] = ctrl
            mujoco.mj_step1(model, data)  # what dm_control derives after a step
            out[i] = env.task.get_reward(env.physics)
        return out

    _prove(name, task, native, fn)
    return fn


def _prove(name: str, task: str, native: Native, fn: Callable[..., np.ndarray]) -> None:
    """Plays some steps of another episode and computes their rewards of physics and action alone.

    Raises:
        ValueError: they are others: a target that a reset draws, or forces, which follow from the step before.
    """
    env, rng = _world(task)[1], np.random.default_rng(1)
    model = env.physics.model.ptr
    placed = lambda: {k: getattr(model, k).copy() for k in ("body_pos", "geom_pos", "site_pos", "geom_size", "site_size")}
    env.reset()
    first = placed()
    env.reset()
    moved = [k for k, x in placed().items() if not np.array_equal(x, first[k])]
    action = rng.uniform(-1, 1, (SURE, *native.leaf.shape))
    steps = [(env.step(a).reward, env.physics.get_state()) for a in native(action)]
    reward, physics = (np.array(x) for x in zip(*steps, strict=True))
    wrong = not np.allclose(fn(physics.astype(np.float32), action, None), reward, atol=1e-4)
    if moved or wrong:
        why = f"each episode places {' and '.join(moved)} anew" if moved else "forces of the step before are part of it"
        raise ValueError(f"{name}: its reward depends on more than (qpos, qvel, act) and the action: {why}.")
