"""Scripted experts: how a task is done, by hand, for a few demonstrations of it.

An expert may look at more than a policy does: at the state of the physics, which `shown` puts beside the observation. So the
same script demonstrates a task whatever is observed of it, numbers or pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import meta_world_modem, wrappers
from rlx.envs.control import push_lite, push_toy
from rlx.envs.control.base import state_of
from rlx.envs.observations import described
from rlx.types import PHYSICS, Array, Env, HostEnv, Leaf, PyTree, Step

E = TypeVar("E", bound=Env | HostEnv)
Expert = Callable[[PyTree, Array], Array]  # (obs [W, ...], physics [W, P]) -> actions [W, A], to be traced
Make = Callable[[Env | HostEnv, Mapping[str, Any]], Expert]  # of an environment and the options that it was made with


def _push_toy(env: Env | HostEnv, options: Mapping[str, Any]) -> Expert:
    if isinstance(env, HostEnv):
        raise ValueError(f"the expert of {env.name} reads the state of the device environment: leave host=true out.")
    states = jax.vmap(partial(state_of, env))

    def act(obs: PyTree, physics: Array) -> Array:
        x = states(physics)
        return push_toy.expert(jnp, x.finger, x.puck)

    return act


def _push_lite(env: Env | HostEnv, options: Mapping[str, Any]) -> Expert:
    return lambda obs, physics: push_lite.expert(jnp, physics[:, :3], physics[:, 3:5])  # qpos: finger, puck


def meta_world_tasks() -> list[str]:
    """Of which there is a script. Raises ValueError where Meta-World is not installed."""
    try:
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ValueError("Meta-World's scripts need metaworld: pip install 'rlx[metaworld]'.") from error
    return sorted(ENV_POLICY_MAP)


def meta_world(task: str) -> Callable[[np.ndarray], np.ndarray]:
    """Meta-World's own script of ``task``: of observations [W, 39] actions float64 [W, 4], which may leave the box.

    Raises:
        ValueError: Meta-World is not installed, or has no script of the task.
    """
    if task not in meta_world_tasks():
        raise ValueError(f"Meta-World has no script of the task {task!r}; there are {', '.join(meta_world_tasks())}.")
    from metaworld.policies import ENV_POLICY_MAP

    made: Any = ENV_POLICY_MAP[task]  # type: ignore[abstract]
    script = made()

    def act(obs: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():  # that its actions leave the box
            warnings.simplefilter("ignore")
            return np.stack([script.get_action(row) for row in np.asarray(obs, np.float64)])

    return act


def _meta_world(env: Env | HostEnv, options: Mapping[str, Any]) -> Expert:
    """The script as it acts there, on the observation of 39 numbers, within the box."""
    script = meta_world(str(options.get("env_name", "")))
    leaf = env.spec.obs if isinstance(env.spec.obs, Leaf) else env.spec.obs.get("state")
    if not isinstance(leaf, Leaf) or leaf.shape != (39,):
        raise ValueError(
            f"Meta-World's script looks at its 39 numbers, as the observation or as its 'state'; there are "
            f"{described(env.spec.obs)}."
        )
    on_host = lambda state: np.clip(script(state), -1, 1).astype(np.float32)

    def act(obs: PyTree, physics: Array) -> Array:
        state = obs["state"] if isinstance(obs, dict) else obs
        shape = jax.ShapeDtypeStruct((state.shape[0], *env.spec.action.shape), jnp.float32)
        return jax.pure_callback(on_host, shape, state)

    return act


_EXPERTS: dict[str, Make] = {
    "rlx:push-lite": _push_lite,
    "rlx:push-toy": _push_toy,
    "gym:Meta-World/MT1": _meta_world,
    f"gym:{meta_world_modem.__name__}:{meta_world_modem.ID}": _meta_world,
}


def register(name: str, make: Make) -> None:
    """From now on ``make(env, options)`` is the expert of the environment ``name``, also for `rlx data demos`."""
    _EXPERTS[name] = make


def names() -> list[str]:
    return sorted(_EXPERTS)


def known(name: str) -> None:
    """Raises ValueError where nobody has written an expert of the environment ``name``."""
    if name not in _EXPERTS:
        raise ValueError(
            f"{name} has no scripted expert; there are those of {', '.join(names())}. Register one by "
            "rlx.envs.experts.register in a module that --import names, or collect from a trained policy by rlx collect."
        )


def of(env: Env | HostEnv, options: Mapping[str, Any]) -> Expert:
    """The expert of ``env``, which was made with ``options``.

    Raises:
        ValueError: there is none, or none for these options.
    """
    known(env.name)
    return _EXPERTS[env.name](env, options)


def shown(env: E) -> E:
    """``env`` with observations ``{"obs": its own, "physics": [P]}``; P is 0 where it does not tell its physics."""
    leaf = env.spec.info.get(PHYSICS, Leaf((0,)))
    spec = replace(env.spec, obs={"obs": env.spec.obs, PHYSICS: leaf})

    def show(xp: Any, params: PyTree, step: Step) -> Step:
        physics = step.info[PHYSICS] if PHYSICS in step.info else xp.zeros((*step.reward.shape, 0), np.float32)
        return step._replace(obs={"obs": step.obs, PHYSICS: physics})

    def view(params: PyTree, moved: PyTree, state: PyTree, step: Step) -> tuple[PyTree, Step]:
        """What a camera draws anew is the environment's own observation."""
        state, viewed = env.view(params, moved, state, step._replace(obs=step.obs["obs"]))  # type: ignore[union-attr, misc]
        return state, show(jnp, params, viewed)

    made = wrappers.map_steps(env, spec, show)
    return made if isinstance(made, HostEnv) or made.view is None else replace(made, view=view)
