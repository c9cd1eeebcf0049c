"""The border to environments that rlx did not write: what they give is read here, and held to what they promise.

One stream or a batch of Gymnasium's, dm_control's time steps, and the `Step` of any host environment come in here. What does
not keep to its form ends in one ValueError that names the environment and what it broke. The checks are a few comparisons a
step; all else happens only where one fails.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rlx.envs.actions import Native
from rlx.types import Leaf, PyTree, Spec, Step

FORMS = {
    "reset": "reset(seed=..., options=...) gives two things, (observation, info), since Gymnasium 0.26",
    "step": "step gives five things, (observation, reward, terminated, truncated, info), since Gymnasium 0.26",
}
MEND = "Mend the environment, or wrap it in one that does."
SHOWN = 400  # characters of another library's message


class NotRepeated(ValueError):
    """An episode played again from its seed and its actions did not come to where it was."""


# ------------------------------------------------------------------------------------------------- what foreign code raises


@contextlib.contextmanager
def making(name: str) -> Iterator[None]:
    """Around the making of environment ``name`` by code that is not rlx's.

    Raises:
        ValueError: for whatever goes wrong there, with the name and what to do.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and name in str(error):
            raise
        hint = ""
        if isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled":
            hint = " Install what it names, in the version that it needs."
        elif isinstance(error, TypeError):
            hint = (
                " What its maker takes are options: rlx.envs.make(name, option=value), in a command --env-option option=value."
            )
        raise ValueError(f"{name} cannot be made: {_text(error)}{hint}") from error


def raised(name: str, what: str, error: Exception) -> ValueError:
    """The error for one that environment ``name`` raised in its ``what``, reset or step; raise it ``from`` that one."""
    if isinstance(error, ValueError) and name in str(error):
        return error
    inner = traceback.extract_tb(error.__traceback__)[-1].filename
    old_form = "values to unpack" in str(error) or "'seed'" in str(error) or "passive_env_checker" in inner
    return ValueError(f"{name}: its {what} raised {_text(error)}{f' {FORMS[what]}. {MEND}' if old_form else ''}")


def close(name: str, env: Any) -> None:
    """Closes what was opened of ``name``; a fault there is told and stops nothing, as the work is done."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{name}: closing it raised {_text(error)}", stacklevel=3)


def _text(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = f"{text[:SHOWN]} ..." if len(text) > SHOWN else text
    return f"{type(error).__name__}: {text}".rstrip(". ") + "."


# ------------------------------------------------------------------------------------------------------ what they give back


@dataclass(frozen=True)
class Border:
    """Reads what resets and steps of one environment give, as the leaves of ``spec``, and says actions in its units. ``lead``:
    (n,) of a batch."""

    name: str
    spec: Spec
    lead: tuple[int, ...] = ()

    def begun(self, out: Any) -> tuple[PyTree, Mapping[str, Any]]:
        """Observation, and the info as it is, of a reset that gave ``out``."""
        if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[1], Mapping):
            raise self.broken(f"its reset gave {_kind(out)}; {FORMS['reset']}. {MEND}")
        return self.obs(out[0], "reset"), out[1]

    def moved(self, out: Any) -> tuple[PyTree, Any, Any, Any, Mapping[str, Any]]:
        """Observation, reward, terminated, truncated, and the info as it is, of a step that gave ``out``."""
        if not isinstance(out, tuple) or len(out) != 5 or not isinstance(out[4], Mapping):
            raise self.broken(f"its step gave {_kind(out)}; {FORMS['step']}. {MEND}")
        obs, reward, terminated, truncated, info = out
        if not isinstance(reward, float):
            reward = self._numbers("reward", reward, "biuf")
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        return self.obs(obs, "step"), reward, terminated, truncated, info

    def broken(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: {what}")

    def _flag(self, what: str, given: Any) -> Any:
        return bool(given) if isinstance(given, np.bool_) and not self.lead else self._numbers(what, given, "b") > 0

    def _numbers(self, what: str, given: Any, kinds: str) -> Any:
        """One number (an array of one is taken for it), or one for each stream; 0 and 1 stand for flags."""
        x = given if isinstance(given, np.ndarray) else _array(given)
        wanted = self.lead or (1,)
        flag = kinds == "b" and x.dtype.kind in "iu" and np.isin(x, (0, 1)).all()
        if not (x.dtype.kind in kinds or flag) or x.size != wanted[0]:
            word = "truth value" if kinds == "b" else "number"
            raise self.broken(
                f"its step gave {_kind(given)} as {what}; it is one {word}{' a stream' if self.lead else ''}. {MEND}"
            )
        return x.reshape(wanted) if self.lead else x.item()

    @cached_property
    def native(self) -> Native:
        """What actions stand for there."""
        return Native.of(self.spec)

    @cached_property
    def _leaves(self) -> PyTree:
        return _expected(self.spec.obs, self.lead)

    def obs(self, given: Any, what: str) -> PyTree:
        """An observation in the dtypes of the spec; ``what`` gave it.

        Raises:
            ValueError: other entries, another shape or another kind of numbers than the space declares.
        """
        return self._read(self._leaves, given, what, "")

    def _read(self, leaves: Any, given: Any, what: str, where: str) -> PyTree:
        if isinstance(leaves, dict):
            if not isinstance(given, Mapping) or len(given) != len(leaves) or any(key not in given for key in leaves):
                found = f"the entries {sorted(map(str, given))}" if isinstance(given, Mapping) else _kind(given)
                raise self.broken(
                    f"its {what} gave an observation{where} with {found}; its space declares {sorted(leaves)}. "
                    "Make them the same."
                )
            return {key: self._read(leaf, given[key], what, f"{where}[{key!r}]") for key, leaf in leaves.items()}
        shape, dtype, kinds = leaves
        x = given if isinstance(given, np.ndarray) else _array(given)
        if x.shape != shape or x.dtype.kind not in kinds:
            raise self.broken(
                f"its {what} gave an observation{where} {_kind(given)}; its space declares {dtype}{list(shape)}. "
                "Declare the space that it has, or mend what it gives."
            )
        if x.dtype is dtype and not self.lead:
            return x
        if dtype.kind == "u" and x.dtype is not dtype and ((x < 0) | (x > 255)).any():
            raise self.broken(f"its {what} gave an observation{where} with numbers from {x.min()} to {x.max()}, not 0 to 255.")
        return np.array(x, dtype)

    def info(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The leaves of `Spec.info`; 0 where an info lacks the key or has None there.

        Raises:
            ValueError: a value of another shape than the leaf's, or none of numbers.
        """
        out = {}
        for key, leaf in self.spec.info.items():
            shape = (*self.lead, *leaf.shape)
            value = given.get(key)
            x = leaf.zeros(*self.lead) if value is None else _array(value)
            if x.dtype.kind not in "biuf":
                raise self.broken(f"info[{key!r}] is {_kind(given[key])} here: only numbers can be kept.")
            if not leaf.shape and x.size == (*self.lead, 1)[0]:
                x = x.reshape(shape)  # an array of one number
            if x.shape != shape:
                raise self.broken(f"info[{key!r}] has shape {x.shape} here, at first it had {shape}.")
            out[key] = x.astype(leaf.dtype)
        return out


def _expected(leaves: PyTree, lead: tuple[int, ...]) -> Any:
    """Of each leaf the shape, the dtype, and the kinds of numbers that may become it: an image is whole numbers."""
    if isinstance(leaves, Leaf):
        dtype = np.dtype(leaves.dtype)
        return (*lead, *leaves.shape), dtype, "biuf" if dtype.kind == "f" else "biu"
    return {key: _expected(leaf, lead) for key, leaf in leaves.items()}


def _array(given: Any) -> np.ndarray:
    """``given`` as an array; of objects where it is none."""
    try:
        return np.asarray(given)
    except Exception:  # ragged lists, and objects that refuse in ways of their own
        return np.array(None)


def _kind(given: Any) -> str:
    """For messages: ``float32[3]``, ``2 things (float32[3], dict)``."""
    if isinstance(given, tuple):
        return f"{len(given)} things ({', '.join(map(_kind, given))})"
    if isinstance(given, np.ndarray):
        return f"{given.dtype}{list(given.shape)}"
    return "None" if given is None else type(given).__name__


# --------------------------------------------------------------------------------------------------- steps of whole batches


class Steps:
    """Holds each `Step` [n] of a host environment to its spec: leaves, shapes and dtypes as promised."""

    def __init__(self, name: str, spec: Spec, n: int):
        flag, number = Leaf((), np.bool_), Leaf()
        self.name = name
        self.wanted = _expected(spec.obs, (n,)), *(_expected(x, (n,)) for x in (number, flag, flag, flag, spec.info))

    def __call__(self, what: str, out: Any) -> tuple[Any, Step]:
        """``out``, what its ``what`` (reset or step) gave, if it is a state and a sound step.

        Raises:
            ValueError: it is not; says which part.
        """
        if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[1], Step):
            raise ValueError(f"{self.name}: its {what} gave {_kind(out)}; it gives a state and an rlx.types.Step.")
        step = out[1]
        if not self._sound(step):
            fields = ((f, w, x) for f, w, x in zip(Step._fields, self.wanted, step, strict=True) if not _is(w, x))
            field, wanted, given = next(fields)
            raise ValueError(f"{self.name}: its {what} gave {field} as {_tree(given)}; its Spec promises {_promise(wanted)}.")
        return out

    def _sound(self, step: Step) -> bool:
        for wanted, given in zip(self.wanted, step, strict=True):
            if type(wanted) is tuple and type(given) is np.ndarray:
                if given.shape != wanted[0] or given.dtype is not wanted[1] and given.dtype != wanted[1]:
                    return False
            elif (wanted or given != {}) and not _is(wanted, given):
                return False
        return True


def _is(wanted: Any, given: Any) -> bool:
    if type(wanted) is tuple:
        shape: Any = getattr(given, "shape", None)
        return shape == wanted[0] and given.dtype == wanted[1]
    return isinstance(given, dict) and given.keys() == wanted.keys() and all(_is(w, given[k]) for k, w in wanted.items())


def _tree(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"{{{', '.join(f'{k}: {_tree(x)}' for k, x in given.items())}}}"
    return _kind(given)


def _promise(wanted: Any) -> str:
    if isinstance(wanted, dict):
        return f"{{{', '.join(f'{k}: {_promise(x)}' for k, x in wanted.items())}}}"
    return f"{wanted[1]}{list(wanted[0])}"
