"""A policy as serialized StableHLO, which any later JAX loads without rlx and without the agent's code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx.export import law

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(policy: Any, path: str | os.PathLike, batch: int | None = None) -> Path:
    """Writes the deterministic law of ``policy`` as `jax.export` serializes it; gives its path. Beside it stands a file
    ``path`` with the ending .json: sizes, and ``low`` and ``high`` of the actions, which are in the environment's own units.

    It takes observations [W, n] and gives actions [W, m], both float32. ``batch`` None: W is any number, where the law allows
    it, else it is ``batch``. Runs on CPU, GPU and TPU.

    Raises:
        ValueError: the policy is not a memoryless, deterministic law from one vector to another, it cannot be traced for any
            W (then give ``batch``), or ``batch`` is not positive.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, or None for any; got {batch}.")
    found = law.law_of(policy)
    rows: Any = batch or jax.export.symbolic_shape("B")[0]
    spec = jax.ShapeDtypeStruct((rows, found.size), np.dtype(found.dtype))
    try:
        exported = jax.export.export(jax.jit(found.act), platforms=PLATFORMS)(spec)
    except Exception as error:  # whatever the law's code makes of a size without a value
        hint = "" if batch else " Perhaps it needs a known number of rows: give batch."
        raise ValueError(f"the law of {found.name} cannot be exported: {str(error).splitlines()[0]}{hint}") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(exported.serialize()))
    bounds = {k: None if x is None else x.astype(float).tolist() for k, x in (("low", found.low), ("high", found.high))}
    sizes = {"law": found.name, "observation": found.size, "action": exported.out_avals[0].shape[1], **bounds}
    path.with_suffix(".json").write_text(json.dumps({**sizes, "about": found.range()}, indent=2) + "\n")
    return path


def from_stablehlo(path: str | os.PathLike) -> Callable[[Any], np.ndarray]:
    """``act(obs) -> action`` of a file of `to_stablehlo`: obs [n] or [W, n], the action with the same leading axes.

    Raises:
        ValueError: the file is not there or holds something else; and ``act`` does, for another shape or number of rows.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such file: {path}.")
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        (spec,) = exported.in_avals
    except Exception as error:  # bytes of something else end in errors of any kind
        raise ValueError(f"{path} holds no StableHLO of rlx.export.to_stablehlo.") from error
    rows, n = spec.shape
    call = jax.jit(exported.call)

    def act(obs: Any) -> np.ndarray:
        x = np.asarray(obs, spec.dtype)
        single = x.ndim == 1
        x = x[None] if single else x
        if x.ndim != 2 or x.shape[1] != n:
            raise ValueError(f"an observation has shape [{n}], or [W, {n}] a batch of them; got {list(np.shape(obs))}.")
        if isinstance(rows, int) and len(x) != rows:
            raise ValueError(f"this file was written for {rows} rows at a time; got {len(x)}.")
        action = np.asarray(call(x))
        return action[0] if single else action

    return act
