"""What a run was made of besides its config: versions of packages, the content of its dataset, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
from typing import Any

import jax

from rlx import _versions
from rlx._version import __version__
from rlx.replay.datasets import native
from rlx.replay.datasets.loading import paths

KEYS = ("versions", "machine", "data_digest", "earlier")  # of config.json; all else there is the run config
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "pysindy", "mujoco", "mujoco-mjx", "dm_control", "brax", "gymnasium")


def versions() -> dict[str, str]:
    """Of rlx, Python and the packages that results depend on, where they are installed."""
    found = {name: _versions.installed(name) for name in PACKAGES}
    return {"rlx": __version__, "python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def origin(data: str | None) -> dict[str, Any]:
    """What decides a run here and now; ``data``: its dataset's file.

    On the CPU, results are the same bit for bit on one number of cores only: how a sum is split over threads depends on it.
    """
    digest = _digest(data) if data else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"versions": versions(), "machine": {"cores": cores, "device": jax.default_backend()}, "data_digest": digest}


def _digest(data: str) -> str:
    """Of the content of all files of a dataset; of a folder of shards of its list, which has their checksums."""
    listed = [p / native.MANIFEST if (p / native.MANIFEST).exists() else p for p in paths(data)]
    found = [f for p in listed for f in (sorted(f for f in p.rglob("*") if f.is_file()) if p.is_dir() else [p])]
    digests = []
    for path in found:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.blake2b("".join(digests).encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any], data: str | None) -> list[str]:
    """In which `origin` a run would go on with something else; packages that are there in one of both only are not asked."""
    found = []
    if before.get("data_digest") not in (None, now["data_digest"]):
        found.append(f"{data} has another content")
    old = before.get("versions")
    old = old if isinstance(old, dict) else {}
    return found + [f"{k} {v}, not {old[k]}" for k, v in now["versions"].items() if old.get(k, v) != v]


def elsewhere(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What is to be said where the machine is another: the run goes on there, with other last bits."""
    old, new = before.get("machine"), now["machine"]
    if not isinstance(old, dict) or old == new:
        return None
    words = lambda machine: f"{machine.get('cores')} cores and {machine.get('device')}"
    return f"begun on {words(old)}, goes on on {words(new)}: the same up to the order of sums, not bit for bit"
