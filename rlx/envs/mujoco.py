"""dm_control's tasks on native MuJoCo, batched over CPU threads: ``dmc:walker-walk``.

One persistent ``MjData`` per stream, stepped in dm_control's order (``mj_step2``, ``mj_step(n - 1)``, ``mj_step1``), so that
all derived quantities belong to the current state; ``mujoco.rollout`` steps a little faster, but its sensors lag.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.envs import tasks
from rlx.envs.actions import Native, box
from rlx.envs.dm_control import make as dm_control_make
from rlx.envs.options import cores, dm_control_suite, positive, unknown
from rlx.envs.tasks.base import MujocoTask
from rlx.keys import HostKey
from rlx.types import PHYSICS, HostEnv, Leaf, PyTree, Spec, Step

if TYPE_CHECKING:
    import mujoco

_quiet = threading.Lock()
STATE = ("qpos", "qvel", "act")  # what stored physics is made of
LIGHT = 25e-6  # s per control step, below which one thread is faster than two


def names() -> list[str]:
    """Tasks with batched functions here, then all others of dm_control (the slow path)."""
    own = tasks.names()
    try:
        from dm_control import suite
    except ImportError:
        return own
    return own + sorted({*tasks.PAID, *(f"{d}-{t}" for d, t in suite.ALL_TASKS)} - set(own))


def make(
    name: str,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    action_bounds: Any = None,
    physics: bool = False,
) -> HostEnv:
    """``repeat`` control steps per decision; ``time_limit`` in decisions; ``threads``: one per core unless given, or one alone
    where the physics is so light that threads would only wait for the interpreter. They never change a result.

    Raises:
        ValueError: unknown task, or dm_control is not installed.
    """
    positive(repeat=repeat, time_limit=time_limit, threads=threads)
    given: dict[str, Any] = dict(repeat=repeat, time_limit=time_limit, threads=threads, action_bounds=action_bounds)
    if name not in tasks.names():
        if name in names():
            return dm_control_make(name, **given, physics=physics)
        dm_control_suite()  # raises where it is missing: then its tasks are unknown here for that reason
        raise unknown("dmc", name, names())
    return native(f"dmc:{name}", tasks.get(name), **given, physics=physics)


def native(
    name: str,
    task: MujocoTask,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    threads: int | None = None,
    action_bounds: Any = None,
    physics: bool = False,
) -> HostEnv:
    """The environment ``name`` of a ``task``; the options are those of `make`."""
    model = task.model()
    limit = time_limit or -(-task.horizon(model) // repeat)
    control_steps = min(limit * repeat, task.horizon(model)) if time_limit is None else limit * repeat
    task = replace(task, fields=tuple(dict.fromkeys(task.fields + STATE))) if physics else task
    sim = _Sim(task, model, repeat, control_steps, physics)
    size = sim.observation_size
    low, high = model.actuator_ctrlrange.T
    action, units = box(name, (model.nu,), np.float64, low, high, action_bounds)
    physics_info = {PHYSICS: Leaf((model.nq + model.nv + model.na + sum(task.goal or ()),))} if physics else {}
    spec = Spec(Leaf((size,)), action, {**task.info, **physics_info}, limit, repeat, task.contract, units)
    workers = threads or sim.threads()
    return HostEnv(name, spec, lambda n, ends: MujocoVec(name, spec, n, ends, sim, workers), light=True)


@dataclass(frozen=True)
class _Sim:
    """A task with its model and counts. ``limit``: control steps per episode."""

    task: MujocoTask
    model: mujoco.MjModel
    repeat: int
    limit: int
    tells: bool = False  # its physics in the info of each step

    @cached_property
    def c(self) -> SimpleNamespace:
        return self.task.find(self.model)

    @cached_property
    def substeps(self) -> int:
        return self.task.substeps(self.model)

    @cached_property
    def runge_kutta(self) -> bool:
        import mujoco

        return self.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4

    @cached_property
    def observation_size(self) -> int:
        import mujoco

        fields = {f: np.asarray(getattr(mujoco.MjData(self.model), f))[None] for f in self.task.fields}
        return self.task.observe(np, self.c, self.physics(fields, np.zeros((1, *(self.task.goal or ()))))).shape[-1]

    def physics(self, fields: dict[str, np.ndarray], goal: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(**fields, goal=goal)

    def stepper(self, count: int) -> Callable[[mujoco.MjData], None]:
        """A function that takes ``count`` physics steps; what is derived belongs to the new state, as in dm_control."""
        from mujoco import mj_step, mj_step1, mj_step2

        model = self.model

        def runge_kutta(data: mujoco.MjData) -> None:
            mj_step(model, data, count)
            mj_step1(model, data)

        def euler(data: mujoco.MjData) -> None:
            mj_step2(model, data)
            if count > 1:
                mj_step(model, data, count - 1)
            mj_step1(model, data)

        return runge_kutta if self.runge_kutta else euler

    def threads(self) -> int:
        """How many threads pay: between two physics calls a thread needs the interpreter, which the others wait for."""
        import mujoco

        data = mujoco.MjData(self.model)
        self.begin(data, np.random.default_rng(0))
        begun = time.perf_counter()
        still = data.ctrl.copy()
        for _ in range(20):
            self.move(data, still)
        return cores() if (time.perf_counter() - begun) / 20 > LIGHT else 1

    @cached_property
    def move(self) -> Callable[[mujoco.MjData, np.ndarray], tuple[float, ...]]:
        """One control step under an action in the environment's units; gives the values of the task's info."""
        model, own, advance = self.model, self.task.move, self.stepper(self.substeps)
        if own is not None:
            return lambda data, action: own(model, data, action)

        def move(data: mujoco.MjData, action: np.ndarray) -> tuple[float, ...]:
            data.ctrl[:] = action
            advance(data)
            return ()

        return move

    def begin(self, data: mujoco.MjData, rng: np.random.Generator) -> np.ndarray | None:
        """A new episode in ``data``; returns its goal."""
        import mujoco

        uniforms, normals = self.task.draws(self.model)
        u, z = rng.random(uniforms), rng.standard_normal(normals)
        mujoco.mj_resetData(self.model, data)
        data.qpos[:], data.qvel[:], goal = self.task.init(np, self.c, u, z)
        if self.task.settle:
            # dm_control lets the body fall from data as mj_resetData left it: derived quantities of the zero state,
            # of whose inertia MuJoCo would warn at each episode
            with _quiet:
                warn = mujoco.get_mju_user_warning()
                mujoco.set_mju_user_warning(lambda message: None)
                try:
                    self.stepper(self.task.settle)(data)
                finally:
                    mujoco.set_mju_user_warning(warn)
            data.time = 0.0
        if self.task.ready is not None:
            self.task.ready(data)
        mujoco.mj_forward(self.model, data)
        return goal


class _State:
    """The streams: MuJoCo data, views of the fields read, batch arrays filled from them."""

    def __init__(self, sim: _Sim, n: int):
        import mujoco

        self.data = [mujoco.MjData(sim.model) for _ in range(n)]
        self.views = [[getattr(d, f) for f in sim.task.fields] for d in self.data]
        self.fields = {f: np.zeros((n, *np.shape(getattr(self.data[0], f)))) for f in sim.task.fields}
        self.buffers = list(self.fields.values())
        self.goal = np.zeros((n, *(sim.task.goal or ())))
        self.t = np.zeros(n, np.int64)  # control steps in this episode
        self.told = np.zeros((n, len(sim.task.info)))  # the values of the task's info
        self.obs = np.zeros((n, sim.observation_size), np.float32)
        self.reward = np.zeros(n, np.float32)
        self.first = np.ones(n, bool)
        self.over = np.zeros(n, bool)


@dataclass(frozen=True)
class MujocoVec:
    """`rlx.types.VecEnv`; the state is changed in place."""

    name: str
    spec: Spec
    n: int
    ends: str
    sim: _Sim
    threads: int

    host = True
    params: PyTree = None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    @cached_property
    def _native(self) -> Native:
        return Native.of(self.spec)

    def _each(self, fn: Callable[..., None], *args: Any) -> None:
        """``fn(streams, *args)`` for slices of the streams, one to a thread."""
        workers = min(self.threads, self.n)
        if workers == 1:
            fn(slice(0, self.n), *args)
            return
        edges = np.linspace(0, self.n, workers + 1).astype(int).tolist()
        jobs = [self._pool.submit(fn, slice(a, b), *args) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        for job in jobs:
            job.result()

    # ------------------------------------------------------------------------------------------------------------ streams

    def _gather(self, state: _State, i: int) -> None:
        for buffer, view in zip(state.buffers, state.views[i], strict=True):
            buffer[i] = view

    def _physics(self, state: _State, which: slice) -> SimpleNamespace:
        return self.sim.physics({f: x[which] for f, x in state.fields.items()}, state.goal[which])

    def _begin(self, which: slice, state: _State, streams: np.ndarray, key: HostKey) -> None:
        for i in range(which.start, which.stop):
            if streams[i]:
                goal = self.sim.begin(state.data[i], key.rng(i))
                if goal is not None:
                    state.goal[i] = goal
                state.t[i], state.told[i] = 0, 0
                self._gather(state, i)
        self._look(which, state)

    def _look(self, which: slice, state: _State) -> None:
        state.obs[which] = self.sim.task.observe(np, self.sim.c, self._physics(state, which))

    def _advance(self, which: slice, state: _State, action: np.ndarray, moving: np.ndarray, key: HostKey) -> None:
        """One decision of a slice of streams: those that have ended begin anew (or stay), the others move."""
        sim, streams, move = self.sim, range(which.start, which.stop), self.sim.move
        data, views, buffers = state.data, state.views, state.buffers
        total = np.zeros(len(streams))
        state.told[which][moving[which]] = 0
        for _ in range(sim.repeat):
            going = moving[which] & (state.t[which] < sim.limit)
            for i, go in zip(streams, going.tolist(), strict=True):
                if go:
                    values = move(data[i], action[i])
                    if values:
                        state.told[i] = np.maximum(state.told[i], values)
                    for buffer, view in zip(buffers, views[i], strict=True):
                        buffer[i] = view
            state.t[which] += going
            total += np.where(going, sim.task.reward(np, sim.c, self._physics(state, which)), 0.0)
        state.reward[which] = total
        if self.ends == "reset" and not moving[which].all():
            self._begin(which, state, ~moving, key)
        else:
            self._look(which, state)

    def _step_of(self, state: _State) -> Step:
        state.over = state.t >= self.sim.limit
        no = np.zeros(self.n, bool)
        leaves = self.sim.task.info.items()
        info = {name: state.told[:, k].astype(leaf.dtype) for k, (name, leaf) in enumerate(leaves)}
        if self.sim.tells:
            parts = [state.fields[f] for f in STATE] + ([state.goal] if self.sim.task.goal else [])
            info[PHYSICS] = np.concatenate(parts, 1).astype(np.float32)
        return Step(state.obs.copy(), state.reward.copy(), no, state.over.copy(), state.first.copy(), info)

    # ----------------------------------------------------------------------------------------------------------- contract

    def reset(self, params: PyTree, key: HostKey) -> tuple[_State, Step]:
        state = _State(self.sim, self.n)
        self._each(self._begin, state, np.ones(self.n, bool), key)
        return state, self._step_of(state)

    def step(self, params: PyTree, state: _State, action: np.ndarray, key: HostKey) -> tuple[_State, Step]:
        if np.shape(action) != (self.n, *self.spec.action.shape):
            raise ValueError(
                f"{self.name}: action has shape {np.shape(action)}; {self.n} streams need {(self.n, *self.spec.action.shape)}."
            )
        moving = ~state.over
        before = state.reward.copy()
        self._each(self._advance, state, self._native(action), moving, key)
        if self.ends == "stop":
            state.reward = np.where(moving, state.reward, before)
            state.first = state.first & ~moving
        else:
            state.reward = np.where(moving, state.reward, 0).astype(np.float32)
            state.first = ~moving
        return state, self._step_of(state)

    def refresh(self, params: PyTree, state: _State, key: HostKey) -> _State:
        return state

    def save(self, state: _State) -> dict[str, np.ndarray]:
        """MuJoCo's integration state (with it ``mj_step1`` restores all that the next step reads) and the counters."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.zeros((self.n, mujoco.mj_stateSize(self.sim.model, kind)))
        for i, data in enumerate(state.data):
            mujoco.mj_getState(self.sim.model, data, physics[i], kind)
        names = ("goal", "t", "told", "obs", "reward", "first", "over")
        return {
            "physics": physics,
            **{k: getattr(state, k).copy() for k in names},
            **{f"field/{k}": v for k, v in state.fields.items()},
        }

    def load(self, arrays: dict[str, np.ndarray]) -> _State:
        import mujoco

        state = _State(self.sim, self.n)
        for i, data in enumerate(state.data):
            mujoco.mj_setState(self.sim.model, data, arrays["physics"][i], mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_step1(self.sim.model, data)
        for k in ("goal", "t", "told", "obs", "reward", "first", "over"):
            setattr(state, k, np.array(arrays[k]))
        for k, buffer in state.fields.items():
            buffer[:] = arrays[f"field/{k}"]
        return state

    def render(self, params: PyTree, state: _State, index: int = 0) -> np.ndarray:
        """uint8 [256, 256, 3] from the task's first camera.

        Raises:
            ValueError: no OpenGL to draw with, with what to install.
        """
        renderer, data = self._renderer, state.data[index]
        if self.sim.task.goal_geom:
            import mujoco

            self._picture_model.geom(self.sim.task.goal_geom).pos[:2] = state.goal[index]
            shown = mujoco.MjData(self._picture_model)
            shown.qpos[:] = data.qpos
            mujoco.mj_forward(self._picture_model, shown)
            data = shown
        renderer.update_scene(data, camera=self.sim.task.camera)
        return renderer.render()

    @cached_property
    def _picture_model(self) -> mujoco.MjModel:
        return self.sim.task.model() if self.sim.task.goal_geom else self.sim.model

    @cached_property
    def _renderer(self) -> mujoco.Renderer:
        import mujoco

        try:
            return mujoco.Renderer(self._picture_model, 256, 256)
        except Exception as e:  # the GL back-ends raise errors of many kinds
            raise ValueError(
                f"{self.name} cannot be drawn: {e}. Without a screen, install EGL (Debian: apt-get install libegl1 libgl1) and "
                "set MUJOCO_GL=egl, or OSMesa (libosmesa6) with MUJOCO_GL=osmesa."
            ) from e

    def close(self) -> None:
        if "_pool" in self.__dict__:
            self.__dict__.pop("_pool").shutdown()
        if "_renderer" in self.__dict__:
            self.__dict__.pop("_renderer").close()
