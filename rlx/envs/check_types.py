"""The first part of `rlx.envs.check`: types, seen on one traced reset and step, before anything is compiled."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.keys import HostKey
from rlx.types import Env, HostEnv, Leaf, PyTree, Step, VecEnv

_PLAIN = {"reward": "float32", "terminated": "bool", "truncated": "bool", "first": "bool"}


@dataclass(frozen=True)
class _Kind:
    """What is seen of an array, or of what stands where one should be."""

    python: str  # the type's name where it is no array
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"a Python {self.python}" if self.python else f"{self.dtype}{list(self.shape)}"


def _kind(x: Any) -> _Kind:
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        number = isinstance(x, bool | int | float | complex)
        return _Kind(type(x).__name__, str(jnp.result_type(x)) if number else "", ())
    return _Kind("", str(x.dtype), tuple(x.shape))


def _kinds(step: Step) -> Step:
    plain = {name: _kind(getattr(step, name)) for name in _PLAIN}
    return Step(obs=jax.tree.map(_kind, step.obs), info=jax.tree.map(_kind, step.info), **plain)  # type: ignore[arg-type]


def faults_of_types(env: Env | HostEnv, vec: VecEnv) -> list[str]:
    """What is wrong with the spec's action, with the types of what reset and step return, and with how they are written.
    ``vec``: streams of ``env``."""
    faults: list[str] = []
    _action(env.spec.action, faults)
    if isinstance(env, HostEnv):
        _host(vec, faults)
    else:
        _device(env, faults)
    return faults


def _action(action: Leaf, faults: list[str]) -> None:
    if np.issubdtype(action.dtype, np.integer):
        if action.choices is None or np.dtype(action.dtype) != np.int32 or action.low != 0:
            faults.append(
                f"Spec.action is {action}. One of n choices is Leaf((), np.int32, low=0, high=n - 1); "
                "rlx takes no other integers."
            )
    elif np.dtype(action.dtype) != np.float32 or np.any(action.low != -1) or np.any(action.high != 1):
        faults.append("Spec.action must be float32 from -1 to 1: rescale to the plant's own range inside step.")


def _device(env: Env, faults: list[str]) -> None:
    key = jax.random.key(0)
    begun = _traced("reset", env.reset, faults, env.params, key)
    if begun is None:
        return
    state, kinds = begun
    _step_kinds("reset", kinds[1], (), faults)
    action = jax.ShapeDtypeStruct(env.spec.action.shape, env.spec.action.dtype)
    moved = _traced("step", env.step, faults, env.params, state, action, key)
    if moved is None:
        return
    _step_kinds("step", moved[1][1], (), faults)
    for what, before, after in (("the state", kinds[0], moved[1][0]), ("obs", kinds[1].obs, moved[1][1].obs)):
        _same(what, before, after, faults)


def _traced(what: str, fn: Callable, faults: list[str], *args: Any) -> tuple[PyTree, tuple[PyTree, Step]] | None:
    """The state that ``fn`` gives, as shapes, and the kinds of all that it gives; None where it cannot be traced."""
    returned: list[Any] = []

    def spy(*args: Any) -> PyTree:
        out = fn(*args)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Step)):
            faults.append(f"{what} must return (state, Step), it returned {type(out).__name__}.")
            return ()
        returned.append((jax.tree.map(_kind, out[0]), _kinds(out[1])))
        return out[0]

    try:
        state = jax.eval_shape(spy, *args)
    except jax.errors.TracerBoolConversionError as e:
        faults.append(
            f"{what} decides by a Python if, while, and, or or on a traced value{_where(e)}. "
            "Write jnp.where, jax.lax.cond, & and |."
        )
    except jax.errors.TracerIntegerConversionError as e:
        faults.append(
            f"{what} counts by a traced value, or indexes a list by it{_where(e)}. Write jax.lax.fori_loop, index jnp arrays."
        )
    except jax.errors.NonConcreteBooleanIndexError as e:
        faults.append(f"{what} picks by a traced mask, so the size is not known{_where(e)}. Write jnp.where.")
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as e:
        faults.append(
            f"{what} makes a number or numpy array of a traced value{_where(e)}. Write jnp for np, leave out float() and int()."
        )
    return (state, returned[0]) if returned else None


def _where(error: Exception) -> str:
    """``" (mine.py, line 7)"``: where the environment's own code last was."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if not {"jax", "numpy"} & set(Path(f.filename).parts)]
    own = [f for f in own if f.filename != __file__]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _step_kinds(what: str, step: Step, lead: tuple[int, ...], faults: list[str]) -> None:
    for name, dtype in _PLAIN.items():
        kind = getattr(step, name)
        if kind.python:
            faults.append(f"{what} gives {name} as {kind}: give an array of {dtype}.")
        elif kind.dtype != dtype or kind.shape != lead:
            faults.append(f"{what} gives {name} as {kind}, it must be {dtype}{list(lead)}.")
    for name, tree in (("obs", step.obs), ("info", step.info)):
        for path, kind in _paths(tree):
            if kind.python:
                faults.append(f"{what} gives {name}{path} as {kind}: give an array.")


def _paths(tree: PyTree) -> list[tuple[str, _Kind]]:
    return [(jax.tree_util.keystr(path), kind) for path, kind in jax.tree_util.tree_leaves_with_path(tree)]


def _same(what: str, before: PyTree, after: PyTree, faults: list[str]) -> None:
    """A compiled loop carries the state, so its arrays may not change their kind."""
    a, b = dict(_paths(before)), dict(_paths(after))
    if list(a) != list(b):
        faults.append(f"{what} has the arrays {list(a)} after reset and {list(b)} after step. Make them the same.")
        return
    for path, kind in a.items():
        if (kind.dtype, kind.shape) != (b[path].dtype, b[path].shape):
            faults.append(f"{what}{path} is {kind} after reset and {b[path]} after step. Loops carry it: make them the same.")


def _host(vec: VecEnv, faults: list[str]) -> None:
    key = HostKey.of(jax.random.key(0), vec.n)
    state, step = vec.reset(vec.params, key)
    _step_kinds("reset", _kinds(step), (vec.n,), faults)
    _, step = vec.step(vec.params, state, vec.spec.action.zeros(vec.n), key.at(1))
    _step_kinds("step", _kinds(step), (vec.n,), faults)
