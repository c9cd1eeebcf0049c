"""Trials in processes of their own: on this machine, or on a Ray cluster.

A trial is a command that resumes: where its process dies it is started again, elsewhere if need be, and goes on from its last
checkpoint. Exit code 2 is a trial's own fault (bad input, divergence) and final.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

FINAL = (0, 2)  # exit codes after which a trial is not tried again
LOG = "log.txt"  # in a trial's folder: what it said
PARENT = "RLX_PARENT"  # environment: the process that a trial belongs to
Report = Callable[[str, int], None]  # (name, exit code) of a trial that has ended


def command(folder: Path, more: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "rlx", "train", "--run-config", str(folder / "config.json"), "--run-dir", str(folder), *more]


def execute(argv: Sequence[str], log: str, env: Mapping[str, str]) -> int:
    """Runs ``argv`` with its output appended to ``log``; its exit code. It dies with this process."""
    with open(log, "ab") as out:
        process = _start(argv, out, env)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        return process.wait()


def _start(argv: Sequence[str], out: IO[bytes], env: Mapping[str, str]) -> subprocess.Popen:
    """In a session of its own: a terminal's Ctrl-C goes to the parent alone, whose SIGTERM is then the first signal that the
    child sees. A second one would end it before it has saved."""
    own = {**os.environ, **env, PARENT: str(os.getpid())}
    return subprocess.Popen(argv, stdout=out, stderr=out, env=own, start_new_session=True)


def die_with_parent() -> None:
    """In a trial, on Linux: SIGKILL to it when the process that started it ends, so that nobody writes beside its successor."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was too late to ask
        os.kill(os.getpid(), signal.SIGKILL)


def share_devices() -> None:
    """To be called before JAX opens a device, where several processes of this machine will have the same one: each takes memory
    as it needs it, and not three quarters of all at its start. Processes started from here do so too."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def devices(workers: int) -> Iterator[dict[str, str]]:
    """What each worker's environment says of GPUs: with several visible ones, each worker takes its own in turn."""
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    for i in range(workers):
        yield {"CUDA_VISIBLE_DEVICES": visible[i % len(visible)]} if len(visible) > 1 else {}


def local(trials: Mapping[str, Path], workers: int, more: Sequence[str], report: Report, retries: int) -> None:
    """Up to ``workers`` trials at a time on this machine. Interrupted, it asks the running ones to save and stop."""
    waiting = [(name, folder, 0) for name, folder in trials.items()]
    placed = list(devices(workers))
    running: dict[int, tuple[subprocess.Popen, str, Path, int]] = {}
    try:
        while waiting or running:
            for worker in range(workers):
                if worker not in running and waiting:
                    name, folder, tried = waiting.pop(0)
                    with (folder / LOG).open("ab") as out:
                        running[worker] = _start(command(folder, more), out, placed[worker]), name, folder, tried
            time.sleep(0.1)
            for worker, (process, name, folder, tried) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[worker]
                if code not in FINAL and tried < retries:
                    waiting.append((name, folder, tried + 1))
                else:
                    report(name, code)
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.wait()


def ray(trials: Mapping[str, Path], address: str, more: Sequence[str], report: Report, retries: int) -> None:
    """Trials as tasks of the Ray cluster at ``address`` ("auto": the one that this machine belongs to), as many at a time as
    it has CPUs (GPUs, where it has any) for. The nodes see the same file system and have rlx installed.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    engine = _connect(address)
    gpus = engine.cluster_resources().get("GPU", 0)
    task = engine.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=retries)(execute)
    env = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_", "RLX_", "MUJOCO_"))}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.getcwd()]))  # for --import
    start = lambda folder: task.remote(command(folder.absolute(), more), str(folder.absolute() / LOG), env)
    running = {start(folder): (name, folder, 0) for name, folder in trials.items()}
    try:
        while running:
            done, _ = engine.wait(list(running), num_returns=1)
            name, folder, tried = running.pop(done[0])
            try:
                code = engine.get(done[0])
            except engine.exceptions.RayError:  # node after node was lost
                code = 1
            if code not in FINAL and tried < retries:
                running[start(folder)] = name, folder, tried + 1
            else:
                report(name, code)
    finally:
        for reference in running:
            engine.cancel(reference, force=True)
        engine.shutdown()


def _connect(address: str) -> Any:
    engine = reachable(address)
    try:
        engine.init(address=address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    except Exception as e:  # ConnectionError, ValueError, RuntimeError, by what is wrong
        raise _no_cluster(address, e) from e
    return engine


def reachable(address: str) -> Any:
    """The ray module, where something listens at ``address``; Ray itself would wait for minutes.

    Raises:
        ValueError: Ray is not installed, or nothing listens.
    """
    try:
        import ray as engine
    except ImportError as e:
        raise ValueError("ray is not installed: pip install 'rlx[ray]', or give --workers local:N.") from e
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit() and int(port) < 2**16:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as e:
            raise _no_cluster(address, e) from e
    elif address != "auto":
        raise ValueError(f"{address!r} is no address of a Ray cluster: give HOST:PORT, ray://HOST:PORT or auto.")
    return engine


def _no_cluster(address: str, e: Exception) -> ValueError:
    first = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return ValueError(f"no Ray cluster answers at {address!r}: start one with `ray start --head`. ({first})")
