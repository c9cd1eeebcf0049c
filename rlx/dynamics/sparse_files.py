"""Dictionaries and sparse models as data: JSON, which other programs read too, and ``.npz``. No code is stored, none is run.

::

    {"format": "rlx.sparse_model", "version": 1, "variables": 2, "terms": [[0], [1], [0, 1]],      # z0, z1, z0 z1
     "dtype": "float32", "continuous": false, "coef": [[1.0, 0.1, 0.0]], "members": [[[1.0, 0.1, 0.0]]]}

A dictionary alone is ``"rlx.dictionary"``, without the last four. Numbers are written so that every bit of them is read back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from rlx.dynamics.dictionary import Dictionary
from rlx.dynamics.sparse_model import SparseModel

DICTIONARY, MODEL = "rlx.dictionary", "rlx.sparse_model"
KEYS = {DICTIONARY: {"format", "version", "variables", "terms"}}
KEYS[MODEL] = KEYS[DICTIONARY] | {"dtype", "continuous", "coef", "members"}
LARGEST = 100_000  # variables: more would be no dictionary, but a mistake


def to_json(thing: Dictionary | SparseModel) -> str:
    """A dictionary or a model as JSON.

    Raises:
        ValueError: a coefficient is not finite, or of another type than float32 and float64.
    """
    library = thing if isinstance(thing, Dictionary) else thing.library
    tree: dict[str, Any] = {"format": DICTIONARY, "version": 1, "variables": library.variables, "terms": library.factors}
    if isinstance(thing, SparseModel):
        coef, members = np.asarray(thing.coef), np.asarray(thing.members)
        if coef.dtype != members.dtype or coef.dtype not in (np.float32, np.float64):
            raise ValueError(f"coefficients must be float32 or float64, got {coef.dtype} and {members.dtype}.")
        if not (np.isfinite(coef).all() and np.isfinite(members).all()):
            raise ValueError("JSON has no numbers that are not finite; this model has some.")
        tree |= {"format": MODEL, "dtype": str(coef.dtype), "continuous": thing.continuous}
        tree |= {"coef": coef.tolist(), "members": members.tolist()}
    return json.dumps(tree, allow_nan=False)


def from_json(text: str) -> Dictionary | SparseModel:
    """What `to_json` wrote. Coefficients of float64 are numpy's where JAX is not told to have float64.

    Raises:
        ValueError: anything else, with what is wrong.
    """
    try:
        tree = json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("no sparse model: it is nested without end.") from None
    kind = tree.get("format") if isinstance(tree, dict) else None
    if not isinstance(kind, str) or kind not in KEYS or set(tree) != KEYS[kind] or tree["version"] != 1:
        raise ValueError(
            f"no sparse model: it must have the keys {sorted(KEYS[MODEL])} (a dictionary the first four), version 1."
        )
    variables, terms = tree["variables"], tree["terms"]
    if not _is_int(variables) or not 0 < variables <= LARGEST:
        raise ValueError(f"variables must be 1 to {LARGEST}, got {variables!r}.")
    if not isinstance(terms, list) or not all(isinstance(t, list) and all(map(_is_int, t)) and t == sorted(t) for t in terms):
        raise ValueError("terms must be lists of the indices of their variables, ascending.")
    library = Dictionary(variables, tuple(map(tuple, terms)))
    if kind == DICTIONARY:
        return library
    if tree["dtype"] not in ("float32", "float64") or not isinstance(tree["continuous"], bool):
        raise ValueError(
            f"dtype must be float32 or float64 and continuous a bool, got {tree['dtype']!r}, {tree['continuous']!r}."
        )
    coef, members = (_array(name, tree[name], tree["dtype"], axes) for name, axes in (("coef", 2), ("members", 3)))
    if not members.size or members.shape[1:] != coef.shape or coef.shape[1] != len(library):
        raise ValueError(
            f"members [E, q, d] and coef [q, d] do not fit {len(library)} terms: they are {list(members.shape)} and "
            f"{list(coef.shape)}."
        )
    put = jnp.asarray if jax.dtypes.canonicalize_dtype(tree["dtype"]) == tree["dtype"] else np.asarray
    return SparseModel(put(members), put(coef), library, tree["continuous"])


def _is_int(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no coefficient.")


def _array(name: str, value: Any, dtype: str, axes: int) -> np.ndarray:
    """Nested lists of numbers, of equal lengths, as an array."""

    def numbers(x: Any, depth: int) -> bool:
        if depth:
            return isinstance(x, list) and all(numbers(y, depth - 1) for y in x)
        return _is_int(x) or isinstance(x, float)

    if not numbers(value, axes):
        raise ValueError(f"{name} must be numbers in lists, {axes} deep.")
    try:
        with np.errstate(over="ignore"):
            array = np.array(value, np.float64).astype(dtype)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None
    if array.ndim != axes or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a full array of {axes} axes of finite numbers.")
    return array


def save(model: SparseModel, path: str | os.PathLike) -> Path:
    """The model as ``.npz``, plain arrays, or where ``path`` ends so as ``.json``."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    tree = {"variables": model.library.variables, "factors": model.library.factors, "continuous": model.continuous}
    try:
        if path.suffix == ".json":
            part.write_text(to_json(model), encoding="utf-8")
        else:
            with part.open("wb") as file:
                text = np.array(json.dumps(tree))
                np.savez(file, members=np.asarray(model.members), coef=np.asarray(model.coef), library=text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike) -> SparseModel:
    """What `save` wrote.

    Raises:
        ValueError: no such file, or another kind of file. Pickles are refused: loading one runs code.
    """
    try:
        if Path(path).suffix == ".json":
            model = from_json(Path(path).read_text(encoding="utf-8"))
            if not isinstance(model, SparseModel):
                raise ValueError("it is a dictionary without coefficients")
            return model
        with np.load(path, allow_pickle=False) as file:
            tree: Any = json.loads(str(file["library"]))
            library = Dictionary(int(tree["variables"]), tuple(tuple(map(int, term)) for term in tree["factors"]))
            arrays = jnp.asarray(file["members"]), jnp.asarray(file["coef"])
            return SparseModel(*arrays, library, bool(tree.get("continuous", False)))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no sparse model: {error}. Give an .npz or .json that rlx.dynamics.sparse.save wrote; pickled models of "
            "other packages are not read, since loading them runs code."
        ) from None
