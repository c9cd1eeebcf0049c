"""dm_control's tasks on a device, through MJX: ``mjx:cartpole-swingup``. And MuJoCo Playground's names, where installed.

The tasks are those of ``dmc:``, text for text. Elsewhere than on NVIDIA's devices MJX runs its JAX implementation.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import tasks
from rlx.envs.brax_like import from_brax
from rlx.envs.options import positive, unknown
from rlx.envs.tasks.base import MujocoTask
from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step

_KINEMATIC = {"qpos", "qvel", "ctrl", "xpos", "xmat", "xipos", "geom_xpos"}


def implementation() -> str:
    """ "warp" where a CUDA device computes, else "jax"."""
    return "warp" if jax.default_backend() in ("gpu", "cuda") else "jax"


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
    """``impl``: MJX's implementation, "jax" or "warp" (NVIDIA only); None chooses.

    Raises:
        ValueError: unknown task.
    """
    positive(repeat=repeat, time_limit=time_limit)
    if name in tasks.names():
        return _own(name, tasks.get(name), repeat, time_limit, impl or implementation())
    if name in _playground_names():
        return _playground(name, repeat, time_limit, impl or implementation())
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

    def view(data: Any, goal: Array) -> SimpleNamespace:
        arrays = {f: getattr(data, f) for f in task.fields}
        if "xmat" in arrays:
            arrays["xmat"] = arrays["xmat"].reshape(*arrays["xmat"].shape[:-2], 9)
        return SimpleNamespace(**arrays, goal=goal)

    def arrive(state: dict[str, Any], reward: Array, first: bool) -> Step:
        obs = task.observe(jnp, c, view(state["data"], state["goal"])).astype(jnp.float32)
        no = jnp.bool_(False)
        return Step(obs, reward.astype(jnp.float32), no, state["t"] >= limit, jnp.bool_(first), {})

    # what the task reads follows from the positions alone, or needs all of a forward pass (which compiles much longer)
    derive = mjx.kinematics if set(task.fields) <= _KINEMATIC else mjx.forward

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
        state = {"data": data, "goal": goal.astype(jnp.float32), "t": jnp.int32(0)}
        return state, arrive(state, jnp.float32(0), True)

    def step(params: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        del key
        model = params["model"]
        data = state["data"].replace(ctrl=low + (jnp.clip(action, -1.0, 1.0) + 1.0) * (high - low) / 2)

        def once(carry: tuple, _: None) -> tuple[tuple, None]:
            data, total = carry
            data = settle(model, data, substeps) if substeps > 1 else mjx.step(model, data)
            data = derive(model, data)  # for the new state, as native MuJoCo has it after mj_step1
            return (data, total + task.reward(jnp, c, view(data, state["goal"])).astype(jnp.float32)), None

        (data, total), _ = jax.lax.scan(once, (data, jnp.float32(0)), None, repeat)
        state = {**state, "data": data, "t": state["t"] + 1}
        return state, arrive(state, total, False)

    size = jax.eval_shape(lambda k: reset({"model": model}, k)[1].obs, jax.random.key(0)).shape
    range_ = Leaf((native.nu,), np.float32, *native.actuator_ctrlrange.T)
    spec = Spec(Leaf(size), Leaf((native.nu,), low=-1, high=1), {}, limit, repeat, task.contract, range_)
    return Env(f"mjx:{name}", spec, {"model": model}, reset, step, _renderer(native), starts="pool")


def _renderer(native: Any) -> Any:
    def render(params: PyTree, state: PyTree) -> np.ndarray:
        import mujoco

        data = mujoco.MjData(native)
        data.qpos[:] = np.asarray(state["data"].qpos)
        mujoco.mj_forward(native, data)
        try:
            with mujoco.Renderer(native, 256, 256) as renderer:
                renderer.update_scene(data, camera=0)
                return renderer.render()
        except Exception as e:
            raise ValueError(f"cannot draw: {e}. Without a screen, install EGL and set MUJOCO_GL=egl.") from e

    return render


def _playground(name: str, repeat: int, time_limit: int | None, impl: str) -> Env:
    from mujoco_playground import registry

    config = registry.get_default_config(name)
    if "impl" in config:
        config.impl = impl
    inner = registry.load(name, config=config)
    limit = time_limit or -(-int(config.episode_length) // repeat)
    return from_brax(f"mjx:{name}", inner, limit, repeat)
