"""Several processes as one job, through `jax.distributed`: who is there, agreeing, gathering."""

from __future__ import annotations

import os
import sys
import threading

import jax
import numpy as np


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None, wait: int = 300) -> None:
    """Joins the job; to be called before anything touches a device. SLURM, Open MPI, Kubernetes and TPU pods are recognised
    by JAX; elsewhere ``coordinator`` (HOST:PORT of process 0), ``count`` and ``index`` must be given. ``wait``: in seconds.

    Where nobody answers for so long the process ends with a message and exit code 2, since JAX would abort it without one.

    Raises:
        ValueError: no cluster is recognised, or the flags are incomplete.
    """
    given = (coordinator, count, index)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError("a job by hand needs all of --coordinator HOST:PORT, --processes N and --process I.")
    if index is not None and count is not None and not 0 <= index < count:
        raise ValueError(f"process {index} of {count}: processes are counted from 0 to {count - 1}.")

    def give_up() -> None:
        print(
            f"error: process {index} of {count} found no complete job at {coordinator} within {wait} s: see that process 0 "
            f"runs there, that all {count} processes were started, and that the port is open.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    alarm = threading.Timer(wait, give_up)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(coordinator, count, index, initialization_timeout=wait + 60, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError, TypeError) as e:
        raise ValueError(
            "no cluster is recognised here (SLURM, Open MPI, Kubernetes, TPU pod): give --coordinator HOST:PORT, "
            f"--processes N and --process I. JAX says: {_first(e)}"
        ) from e
    finally:
        alarm.cancel()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def is_process_zero() -> bool:
    """Whether this process writes what all have in common."""
    return index() == 0


class Gone(RuntimeError):
    """Another process of the job does not answer any more."""


def gather(array: np.ndarray) -> np.ndarray:
    """Arrays [S, ...] of one shape and dtype from all processes in turn: [P * S, ...]. All must call it."""
    if count() == 1:
        return array
    from jax.experimental import multihost_utils

    raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)  # 64-bit numbers stay what they are
    try:
        everyone = multihost_utils.process_allgather(raw, tiled=False)
    except Exception as e:  # the transport's own errors differ from one to the next
        raise Gone(f"another process of this job is gone ({_first(e)}).") from e
    parts = [np.frombuffer(np.asarray(x).tobytes(), array.dtype).reshape(array.shape) for x in everyone]
    return np.concatenate([p[None] if not array.ndim else p for p in parts])


def agree(**values: int) -> dict[str, int]:
    """The largest of each value over all processes. All must call it."""
    if count() == 1:
        return values
    everyone = gather(np.array([list(values.values())], np.int64))
    return {k: int(v) for k, v in zip(values, everyone.max(0), strict=True)}


def wait() -> None:
    """Returns when all processes are here."""
    agree(here=1)
