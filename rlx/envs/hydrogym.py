"""HydroGym's flow in JAX: ``hydrogym:kolmogorov``, a plane flow driven by a sine, with four more sines as actions.

Needs ``pip install 'rlx[hydrogym]'``, which brings some forty packages. Its channel flow fetches its start from the network and
is left out; its other flows need solvers that are no packages.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.options import positive, unknown
from rlx.types import Array, Env, Key, Leaf, PyTree, Spec, Step

HORIZON = 1000  # HydroGym's own episodes


def installed() -> bool:
    return importlib.util.find_spec("hydrogym") is not None


def names() -> list[str]:
    return ["kolmogorov"] if installed() else []


def make(
    name: str,
    *,
    repeat: int = 1,
    time_limit: int | None = None,
    dt: float = 1e-3,
    action_time: float = 10.0,
    energy: float = 1.0,
    **flow: Any,
) -> Env:
    """Observations are 64 speeds, means over a decision; the reward is minus ``energy`` times the mean kinetic energy of the
    turbulence, minus the sum of |action| in HydroGym's units of +-0.5. HydroGym's default for ``energy`` is 0, which pays best
    for doing nothing. Every episode begins in the same state.

    ``dt`` and ``action_time``: seconds of a step of the solver, and of a decision: with HydroGym's defaults, which are ours, a
    decision is 10 000 steps. ``flow``: settings of its flow, such as ``Re``.

    Raises:
        ValueError: an unknown environment, HydroGym is not installed, or times that its solver cannot take.
    """
    positive(repeat=repeat, time_limit=time_limit)
    if name != "kolmogorov":
        raise unknown("hydrogym", name, ["kolmogorov"])
    if not installed():
        raise ValueError("hydrogym is not installed: pip install 'rlx[hydrogym]'.")
    if not 0 < dt <= 1 or action_time < 1 or action_time != int(action_time):
        raise ValueError(f"hydrogym:{name}: dt={dt}, action_time={action_time}: give 0 < dt <= 1 and a whole action_time.")
    from hydrogym.jax.envs.kolmogorov import KolmogorovFlow

    class Flow(KolmogorovFlow):
        """Its rollout asks for these where it is, not in the params that it is given."""

        @property
        def default_params(self) -> Any:
            return super().default_params.replace(dt=dt, action_time=action_time, reward_alpha=energy)

    inner = Flow({"dt": dt}, flow)
    params = inner.default_params
    limit = time_limit or -(-HORIZON // repeat)

    def arrive(obs: Array, reward: Array, t: Array, first: bool, tke: Array) -> Step:
        no = jnp.bool_(False)
        return Step(
            obs.astype(jnp.float32), jnp.float32(reward), no, t >= limit, jnp.bool_(first), {"mean_tke": jnp.float32(tke)}
        )

    def reset(_: PyTree, key: Key) -> tuple[PyTree, Step]:
        obs, state = inner.reset_env(key, params)
        return (state, jnp.int32(0)), arrive(obs, jnp.float32(0), jnp.int32(0), True, jnp.float32(0))

    def step(_: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Step]:
        action = jnp.clip(action, -1.0, 1.0) * params.max_action

        def once(flow: PyTree, _: None) -> tuple[PyTree, tuple]:
            obs, flow, reward, _, info = inner.step_env(key, flow, action, params)
            return flow, (obs, reward, info["mean_tke"])

        flow, (obs, reward, tke) = jax.lax.scan(once, state[0], None, repeat)
        return (flow, state[1] + 1), arrive(obs[-1], reward.sum(), state[1] + 1, False, tke.mean())

    def render(_: PyTree, state: PyTree) -> np.ndarray:
        """The vorticity, 256 x 256: blue against the clock, red with it."""
        field = np.fft.irfft2(np.asarray(state[0].omega_hat), inner.flow.grid_size)
        share = np.clip(field / (np.abs(field).max() + 1e-9), -1, 1)
        red, blue = 1 - np.maximum(-share, 0), 1 - np.maximum(share, 0)
        image = np.stack([red, np.minimum(red, blue), blue], -1)
        times = -(-256 // len(image))
        return (255 * image.repeat(times, 0).repeat(times, 1)[:256, :256]).astype(np.uint8)

    spec = Spec(
        Leaf((params.obs_dim,)),
        Leaf((params.action_dim,), low=-1, high=1),
        {"mean_tke": Leaf((), reduce="mean")},
        limit,
        repeat,
    )
    return Env("hydrogym:kolmogorov", spec, (), reset, step, render, starts="pool")
