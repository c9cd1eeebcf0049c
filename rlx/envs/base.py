"""Batches of streams, the end of episodes, and the one rollout function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.border import Steps
from rlx.types import Array, Env, HostEnv, Key, PyTree, RolloutState, Row, Spec, Step, VecEnv

Starts = Literal["exact", "pool", "lockstep"]
POOL = 16  # least number of start states in a pool


def where(mask: Array, yes: PyTree, no: PyTree) -> PyTree:
    """``yes`` where ``mask`` [W], else ``no``, leaf by leaf over trailing axes. Typed keys included."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)

    return jax.tree.map(pick, yes, no)


class _State(NamedTuple):
    env: PyTree  # [W]
    step: Step  # [W], the latest
    pool: tuple[PyTree, Step] | None  # start states, leaves [P]


class Named:
    """Name, spec and parameters of a `VecEnv` are those of the environment ``env`` that it has streams of."""

    env: Env | HostEnv

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @property
    def params(self) -> PyTree:
        return self.env.params


def draw(env: Env, params: PyTree, states: PyTree, index: int) -> np.ndarray:
    """uint8 [H, W, 3]: stream ``index`` of ``states`` [W].

    Raises:
        ValueError: the environment has no picture.
    """
    if env.render is None:
        raise ValueError(f"{env.name} has no picture of itself: it was made without a render function.")
    return env.render(params, jax.tree.map(lambda x: x[index], states))


@dataclass(frozen=True)
class DeviceVec(Named):
    """`VecEnv` over a device environment: `vmap` plus what happens after a last row."""

    env: Env
    n: int
    ends: str
    starts: Starts
    params_axes: Any = None

    host = False

    def _starts(self, params: PyTree, key: Key, n: int) -> tuple[PyTree, Step]:
        axes = self.params_axes if n == self.n else None
        return jax.vmap(self.env.reset, (axes, 0))(params, _per_stream(key, n))

    def reset(self, params: PyTree, key: Key) -> tuple[_State, Step]:
        state, step = self._starts(params, key, self.n)
        return self.refresh(params, _State(state, step, None), keys.fold(key, "pool")), step

    def refresh(self, params: PyTree, state: _State, key: Key) -> _State:
        if self.ends == "stop" or self.starts != "pool":
            return state
        return state._replace(pool=self._starts(params, key, max(self.n, POOL)))

    def step(self, params: PyTree, state: _State, action: PyTree, key: Key) -> tuple[_State, Step]:
        over = state.step.last
        moved = jax.vmap(self.env.step, (self.params_axes, 0, 0, 0))(params, state.env, action, _per_stream(key, self.n))
        new: Any
        if self.ends == "stop":
            new = moved = where(over, (state.env, state.step), moved)
        else:
            new = self._restart(params, state, over, moved, keys.fold(key, "reset"))
        if self.env.view is not None:
            new = jax.vmap(self.env.view, (self.params_axes, 0, 0, 0))(params, moved[0], *new)
        return _State(new[0], new[1], state.pool), new[1]

    def _restart(self, params: PyTree, state: _State, over: Array, moved: Any, key: Key) -> Any:
        if self.starts == "pool":
            size = max(self.n, POOL)
            index = jax.random.randint(key, (self.n,), 0, size)
            return where(over, jax.tree.map(lambda x: x[index], state.pool), moved)
        if self.starts == "exact":
            return where(over, self._starts(params, key, self.n), moved)
        return jax.lax.cond(over.any(), lambda: where(over, self._starts(params, key, self.n), moved), lambda: moved)

    def save(self, state: PyTree) -> PyTree:
        return state

    def load(self, arrays: PyTree) -> PyTree:
        return arrays

    def render(self, params: PyTree, state: _State, index: int = 0) -> np.ndarray:
        return draw(self.env, params, state.env, index)

    def close(self) -> None:
        pass


class Forwarding:
    """A host `VecEnv` that hands everything on to another one, ``made``."""

    made: VecEnv

    host = True

    def reset(self, params: PyTree, key: keys.HostKey) -> tuple[Any, Step]:
        return self.made.reset(params, key)

    def step(self, params: PyTree, state: Any, action: PyTree, key: keys.HostKey) -> tuple[Any, Step]:
        return self.made.step(params, state, action, key)

    def refresh(self, params: PyTree, state: Any, key: keys.HostKey) -> Any:
        return self.made.refresh(params, state, key)

    def save(self, state: Any) -> PyTree:
        return self.made.save(state)

    def load(self, arrays: PyTree) -> Any:
        return self.made.load(arrays)

    def render(self, params: PyTree, state: Any, index: int = 0) -> np.ndarray:
        return self.made.render(params, state, index)

    def close(self) -> None:
        self.made.close()


class Around(Forwarding):
    """One with the streams of ``made``, under its name."""

    @property
    def name(self) -> str:
        return self.made.name

    @property
    def n(self) -> int:
        return self.made.n

    @property
    def ends(self) -> str:
        return self.made.ends


@dataclass(frozen=True)
class HostVec(Named, Forwarding):
    """`VecEnv` over a host environment, built when it is first used. ``members`` runs of ``per`` streams each are one batch,
    so that a population steps its native environments together. What comes from outside is held to its spec here."""

    env: HostEnv
    per: int
    ends: str
    members: int = 1

    @cached_property
    def made(self) -> VecEnv:  # type: ignore[override]
        return self.env.make(self.n, self.ends)

    @property
    def n(self) -> int:
        return self.per * self.members

    @cached_property
    def _sound(self) -> Steps:
        return Steps(self.name, self.spec, self.n)

    def reset(self, params: PyTree, key: keys.HostKey) -> tuple[Any, Step]:
        return self._sound("reset", self.made.reset(params, key))

    def step(self, params: PyTree, state: Any, action: PyTree, key: keys.HostKey) -> tuple[Any, Step]:
        return self._sound("step", self.made.step(params, state, action, key))

    def close(self) -> None:
        """What was opened; another reset opens it anew."""
        if "made" in self.__dict__:
            self.__dict__.pop("made").close()


def _per_stream(key: Key, n: int) -> Key:
    """Keys [n]; stream ``i``'s key does not depend on ``n``."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def batch(
    env: Env | HostEnv,
    n: int,
    ends: Literal["reset", "stop"] = "reset",
    starts: Starts | None = None,
    params_axes: PyTree = None,
) -> VecEnv:
    """``n`` streams of ``env`` in lockstep.

    ``starts`` says where the next episode of a device environment comes from: ``"exact"`` computes a fresh reset at every
    step (right for cheap resets), ``"pool"`` draws from start states redrawn once per Collect (right for expensive ones),
    ``"lockstep"`` computes resets only at steps where some stream ended (right where all end together). None: the
    environment's own choice. ``params_axes``: vmap axes of ``params``, for randomised domains; each stream then starts by its
    own, ``"lockstep"`` where the environment's choice is a pool, which belongs to all streams.

    Raises:
        ValueError: ``n`` < 1, unknown ``ends`` or ``starts``, or a pool with ``params_axes``.
    """
    if n < 1:
        raise ValueError(f"batch of {env.name!r} was asked for n={n} streams; give at least 1.")
    if ends not in ("reset", "stop"):
        raise ValueError(f"ends={ends!r} is unknown; give 'reset' (next episode) or 'stop' (stay at the end).")
    if isinstance(env, HostEnv):
        return HostVec(env, n, ends)
    if starts == "pool" and params_axes is not None:
        raise ValueError("starts='pool' is one pool for all streams, which params_axes tell apart; give 'exact' or 'lockstep'.")
    own = "lockstep" if env.starts == "pool" and params_axes is not None else env.starts
    if (starts or own) not in ("exact", "pool", "lockstep"):
        raise ValueError(f"starts={starts!r} is unknown; give 'exact', 'pool' or 'lockstep'.")
    return DeviceVec(env, n, ends, starts or own, params_axes)


# --------------------------------------------------------------------------------------------------------------- rollout

Policy = Callable[[PyTree, Step, Any], tuple[PyTree, PyTree, dict[str, Array]]]


def begin(env: VecEnv, params: PyTree, carry: PyTree, key: Any, members: int | None = None) -> RolloutState:
    """A new interaction: every stream at a first row. ``carry`` is the policy's, for all streams."""
    state, step = env.reset(params, keys.HostKey.of(key, env.n // (members or 1)) if env.host else key)
    if not env.host:
        return RolloutState(state, step, carry, *(jnp.zeros(env.n, t) for t in (bool, jnp.float32, jnp.int32)))
    step = jax.tree.map(np.array, step)
    none = tuple(np.zeros(env.n, t) for t in (bool, np.float32, np.int32))
    return RolloutState(state, *_split((step, carry, *none), (0, 2, 3, 4), members))


def _split(parts: tuple, which: tuple[int, ...], members: int | None) -> tuple:
    """Streams [M * W, ...] to [M, W, ...] in the parts named."""
    if members is None:
        return parts
    split = lambda x: x.reshape(members, -1, *x.shape[1:])
    return tuple(jax.tree.map(split, p) if i in which else p for i, p in enumerate(parts))


def to_row(step: Step, action: PyTree, extras: dict[str, Array], valid: Array) -> Row:
    """The row of ``step`` [W]: the action zeroed where the episode is over."""
    xp = np if isinstance(step.reward, np.ndarray) else jnp
    rest = xp.logical_not(step.last)
    mask = lambda a: a * rest.reshape(rest.shape + (1,) * (a.ndim - rest.ndim)).astype(a.dtype)
    return Row(*step, action=jax.tree.map(mask, action), extras=extras, valid=valid)


def rollout(
    env: VecEnv, params: PyTree, policy: Policy, rollout_state: RolloutState, key: Any, steps: int, members: int | None = None
) -> tuple[RolloutState, Row, Row]:
    """Act for ``steps`` decisions: `lax.scan` for device environments, a Python loop for host ones.

    ``policy(carry, step, key) -> (action [W, ...], carry, extras)`` sees ``step`` without info. On the host it is a jitted
    function, ``key`` is the step's raw key data (uint32 ``[2]``, or ``[M, 2]`` with members), and all arrays have a leading
    member axis where ``members`` is given.

    Returns:
        The state to go on with, rows ``[T, W, ...]`` (``[M, T, W, ...]``), and the tail ``[W, ...]``: the pending step as a
        row whose action is not known yet.
    """
    roll = _rollout_host if env.host else _rollout_device
    return roll(env, params, policy, rollout_state, key, steps, members)


def _rollout_device(
    env: VecEnv, params: PyTree, policy: Policy, rollout_state: RolloutState, key: Key, steps: int, members: int | None
) -> tuple[RolloutState, Row, Row]:
    if members is not None:
        raise ValueError("rollout on the device takes no members: vmap it instead.")
    rollout_state = rollout_state._replace(env=env.refresh(params, rollout_state.env, keys.fold(key, "refresh")))

    def one(rollout_state: RolloutState, t: Array) -> tuple[RolloutState, Row]:
        now = keys.fold(key, t)
        action, carry, extras = policy(rollout_state.carry, rollout_state.step._replace(info={}), keys.fold(now, "act"))
        row = to_row(rollout_state.step, action, extras, ~rollout_state.done)
        done = rollout_state.done | (rollout_state.step.last if env.ends == "stop" else False)
        state, step = env.step(params, rollout_state.env, row.action, keys.fold(now, "env"))
        return rollout_state._replace(env=state, step=step, carry=carry, done=done), row

    rollout_state, rows = jax.lax.scan(one, rollout_state, jnp.arange(steps))
    return rollout_state, rows, _tail(rollout_state, rows)


def _tail(rollout_state: RolloutState, rows: Row) -> Row:
    host = isinstance(rows.reward, np.ndarray)
    blank = jax.tree.map(lambda x: (np if host else jnp).zeros_like(x[0]), (rows.action, rows.extras))
    return Row(*rollout_state.step, action=blank[0], extras=blank[1], valid=~rollout_state.done)


@jax.jit
def _step_keys(key: Key, steps: Array) -> Array:
    """Raw data of the keys of each step, [T, 2] or [T, M, 2]: the same ones as on the device."""
    make = lambda k, t: jax.random.key_data(keys.fold(k, t, "act"))
    if key.ndim:
        make = jax.vmap(make, (0, None))
    return jax.vmap(make, (None, 0))(key, steps)


def _rollout_host(
    env: VecEnv, params: PyTree, policy: Policy, rollout_state: RolloutState, key: Key, steps: int, members: int | None
) -> tuple[RolloutState, Row, Row]:
    act_keys = np.asarray(_step_keys(key, np.arange(steps)))
    random = keys.HostKey.of(key, env.n // (members or 1))
    state = env.refresh(params, rollout_state.env, random)
    step, carry, done = rollout_state.step, rollout_state.carry, rollout_state.done
    rows: Any = None  # a Row with room for all steps, once the first is there
    axis = 0 if members is None else 1
    for t in range(steps):
        action, carry, extras = policy(carry, step._replace(info={}), act_keys[t])
        action, extras = jax.tree.map(np.asarray, (action, extras))
        row = to_row(step, action, extras, ~done)
        if rows is None:
            rows = jax.tree.map(lambda x: np.empty((*x.shape[:axis], steps, *x.shape[axis:]), x.dtype), row)
        jax.tree.map(lambda r, x, t=t: r.__setitem__((slice(None), t) if axis else t, x), rows, row)
        if env.ends == "stop":
            done = done | step.last
        flat = row.action if members is None else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), row.action)
        state, step = env.step(params, state, flat, random.at(t + 1))
        (step,) = _split((step,), (0,), members)
    rollout_state = rollout_state._replace(env=state, step=jax.tree.map(np.array, step), carry=carry, done=done)
    tail = _tail(rollout_state, rows if not axis else jax.tree.map(lambda x: np.swapaxes(x, 0, 1), rows))
    return rollout_state, rows, tail
