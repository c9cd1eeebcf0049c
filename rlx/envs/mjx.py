"""dm_control's tasks on a device, through MJX: ``mjx:cartpole-swingup``. And MuJoCo Playground's names, where installed.

The tasks are those of ``dmc:``, text for text. MJX runs its Warp implementation on NVIDIA's devices, where Warp is installed,
else its JAX implementation.
"""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import tasks
from rlx.envs.brax_like import from_brax
from rlx.envs.options import positive, unknown
from rlx.envs.tasks.base import MujocoTask
from rlx.envs.tasks.kinematics import Kinematics
from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step

_KINEMATIC = {"qpos", "qvel", "ctrl", "xpos", "xmat", "xipos", "geom_xpos"}
EXTRA = {"subtree_angmom"}  # what MJX has not among its public arrays
# What decides the future. All else follows, and is not kept: some of Warp's arrays belong to all streams together.
_STATE = ("qpos", "qvel", "act", "time", "qacc_warmstart")


IMPLEMENTATIONS = ("jax", "warp")
GET_WARP = "pip install 'rlx[warp]'"


def implementation(backend: str, warp: bool, asked: str | None = None) -> str:
    """What MJX runs where JAX computes on ``backend`` and ``warp`` is installed or not: what was ``asked`` for; else "warp" on
    CUDA where it is there, and "jax".

    Raises:
        ValueError: what was asked for is unknown, or is not there.
    """
    cuda = backend in ("gpu", "cuda")
    if asked is None:
        return "warp" if cuda and warp else "jax"
    if asked not in IMPLEMENTATIONS:
        raise ValueError(f"mjx: impl={asked!r} is unknown; give 'jax' or 'warp', or leave it out.")
    if asked == "warp" and not (cuda or backend == "cpu"):
        raise ValueError(
            f"mjx: impl='warp' runs on NVIDIA devices and CPUs, not on {backend}. Give impl='jax', or leave it out."
        )
    if asked == "warp" and not warp:
        raise ValueError(
            f"mjx: impl='warp' needs Warp, which is not installed: {GET_WARP}. Or give impl='jax', or leave it out."
        )
    return asked


def _chosen(asked: str | None) -> str:
    backend, warp = jax.default_backend(), find_spec("warp") is not None
    found = implementation(backend, warp, asked)
    if asked is None and found == "jax" and implementation(backend, True) == "warp":
        _say_once()
    return found


@cache
def _say_once() -> None:
    message = f"mjx: runs MJX's JAX implementation, as Warp, which is faster on NVIDIA devices, is not installed: {GET_WARP}."
    warnings.warn(message, stacklevel=2)


def names() -> list[str]:
    return [*tasks.names(), *_playground_names()]


@lru_cache
def _playground_names() -> tuple[str, ...]:
    try:
        from mujoco_playground import registry
    except ImportError:
        return ()
    return tuple(registry.ALL_ENVS)


def make(name: str, *, repeat: int = 1, time_limit: int | None = None, impl: str | None = None) -> Env:
    """``impl``: MJX's implementation, "jax" or "warp"; None chooses (`implementation`).

    Raises:
        ValueError: unknown task, or an implementation that cannot be had.
    """
    positive(repeat=repeat, time_limit=time_limit)
    if name in tasks.names():
        return _own(name, tasks.get(name), repeat, time_limit, _chosen(impl))
    if name in _playground_names():
        if impl not in (None, "jax"):
            raise ValueError(f"mjx:{name} is of MuJoCo Playground, which here runs with impl='jax' alone; {impl!r} was given.")
        return _playground(name, repeat, time_limit)
    if name[:1].isupper() and not _playground_names():
        raise ValueError(f"mjx:{name} looks like a name of MuJoCo Playground: pip install 'rlx[playground]'.")
    raise unknown("mjx", name, names())


def _own(name: str, task: MujocoTask, repeat: int, time_limit: int | None, impl: str) -> Env:
    import mujoco
    from mujoco import mjx

    native = task.model()
    native.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)  # not in MJX; it only reports
    c, substeps, steps = task.find(native), task.substeps(native), task.horizon(native)
    limit = time_limit or -(-steps // repeat)
    model = mjx.put_model(native, impl=impl)
    low, high = (jnp.asarray(x, jnp.float32) for x in native.actuator_ctrlrange.T)
    uniforms, normals = task.draws(native)
    kinematics = Kinematics(native)

    def view(data: Any, goal: Array) -> SimpleNamespace:
        arrays = {f: getattr(data, f) for f in task.fields if f not in EXTRA}
        if EXTRA & set(task.fields):
            more = kinematics(jnp, data.qpos[None], data.qvel[None], tuple(EXTRA & set(task.fields)))
            arrays |= {f: x[0] for f, x in more.items()}
        if "xmat" in arrays:
            arrays["xmat"] = arrays["xmat"].reshape(*arrays["xmat"].shape[:-2], 9)
        return SimpleNamespace(**arrays, goal=goal)

    def arrive(data: Any, goal: Array, t: Array, reward: Array, first: bool) -> tuple[dict[str, Any], Step]:
        obs = task.observe(jnp, c, view(data, goal)).astype(jnp.float32)
        state = {**{name: getattr(data, name) for name in _STATE}, "goal": goal, "t": t}
        return state, Step(obs, reward.astype(jnp.float32), jnp.bool_(False), t >= limit, jnp.bool_(first), {})

    # what the task reads follows from the positions alone, or needs all of a forward pass (which compiles much longer)
    derive = mjx.kinematics if set(task.fields) <= _KINEMATIC | EXTRA else mjx.forward

    def settle(model: Any, data: Any, count: int) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, d: mjx.step(model, d), data)

    def reset(params: PyTree, key: Key) -> tuple[PyTree, Step]:
        model = params["model"]
        a, b = jax.random.split(key)
        u, z = jax.random.uniform(a, (max(uniforms, 1),))[:uniforms], jax.random.normal(b, (max(normals, 1),))[:normals]
        qpos, qvel, goal = task.init(jnp, c, u, z)
        data = mjx.make_data(native, impl=impl).replace(qpos=qpos.astype(jnp.float32), qvel=qvel.astype(jnp.float32))
        if task.settle:
            data = settle(model, data, task.settle).replace(time=jnp.float32(0))
        data = derive(model, data)
        goal = jnp.zeros(task.goal or (0,)) if goal is None else goal
        return arrive(data, goal.astype(jnp.float32), jnp.int32(0), jnp.float32(0), True)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        del key
        model = params["model"]
        ctrl = low + (jnp.clip(action, -1.0, 1.0) + 1.0) * (high - low) / 2
        data = mjx.make_data(native, impl=impl).replace(**{name: state[name] for name in _STATE}, ctrl=ctrl)

        def once(carry: tuple, _: None) -> tuple[tuple, None]:
            data, total = carry
            data = settle(model, data, substeps) if substeps > 1 else mjx.step(model, data)
            data = derive(model, data)  # for the new state, as native MuJoCo has it after mj_step1
            return (data, total + task.reward(jnp, c, view(data, state["goal"])).astype(jnp.float32)), None

        (data, total), _ = jax.lax.scan(once, (data, jnp.float32(0)), None, repeat)
        return arrive(data, state["goal"], state["t"] + 1, total, False)

    size = jax.eval_shape(lambda k: reset({"model": model}, k)[1].obs, jax.random.key(0)).shape
    range_ = Leaf((native.nu,), np.float32, *native.actuator_ctrlrange.T)
    spec = Spec(Leaf(size), Leaf((native.nu,), low=-1, high=1), {}, limit, repeat, task.contract, range_)
    return Env(f"mjx:{name}", spec, {"model": model}, reset, step, _renderer(native), starts="pool")


def _renderer(native: Any) -> Any:
    def render(params: PyTree, state: PyTree) -> np.ndarray:
        import mujoco

        data = mujoco.MjData(native)
        data.qpos[:] = np.asarray(state["qpos"])
        mujoco.mj_forward(native, data)
        try:
            with mujoco.Renderer(native, 256, 256) as renderer:
                renderer.update_scene(data, camera=0)
                return renderer.render()
        except Exception as e:
            raise ValueError(f"cannot draw: {e}. Without a screen, install EGL and set MUJOCO_GL=egl.") from e

    return render


def _playground(name: str, repeat: int, time_limit: int | None) -> Env:
    from mujoco_playground import registry

    config = registry.get_default_config(name)
    if "impl" in config:
        config.impl = "jax"  # the states of its environments hold what Warp shares between streams
    inner = registry.load(name, config=config)
    limit = time_limit or -(-int(config.episode_length) // repeat)
    return from_brax(f"mjx:{name}", inner, limit, repeat)
