"""Streams of a host environment in processes of their own: ``make("dmc:cheetah-run", workers=4)``.

Threads of one Python process take turns between two physics calls; processes do not. Each worker makes the environment by its
name and holds a slice of the streams; actions and steps go through memory that all of them map. Which worker has which stream
never changes a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx.envs.border import NotRepeated
from rlx.envs.options import cores
from rlx.keys import HostKey
from rlx.types import HostEnv, Leaf, PyTree, Spec, Step

PATIENCE = 60.0  # seconds in which a worker closes its environments


def in_processes(env: HostEnv, name: str, options: dict[str, Any], workers: int, imports: Sequence[str] = ()) -> HostEnv:
    """``env`` = ``make(name, **options)``, stepped by ``workers`` processes, which import the modules ``imports`` first.

    Raises:
        ValueError: options that cannot be told to another process.
    """
    try:
        json.dumps(options)
    except TypeError as e:
        raise ValueError(f"{name}: workers={workers} needs options that JSON can say ({e}); got {options}.") from e
    make_vec = lambda n, ends: WorkersVec(name, options, env.spec, n, ends, min(workers, n), tuple(imports), env.params)
    return replace(env, make=make_vec)


def blocks_of(path: Path, spec: Spec, n: int) -> dict[str, np.ndarray]:
    """The mapped arrays [n, ...] by name: ``action`` and the leaves of a `Step`."""
    is_leaf = lambda x: isinstance(x, Leaf)
    flag, number = Leaf((), np.bool_), Leaf()
    step = Step(spec.obs, number, flag, flag, flag, spec.info)
    leaves = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(step, is_leaf=is_leaf)}
    at, out = 0, {}
    for name, leaf in {"action": spec.action, **leaves}.items():
        shape = (n, *leaf.shape)
        size = int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize
        out[name] = (at, shape, leaf.dtype)
        at += -(-size // 64) * 64
    if path.stat().st_size < at:
        os.truncate(path, at)
    return {k: np.memmap(path, dtype, "r+", offset, shape) for k, (offset, shape, dtype) in out.items()}


def step_of(blocks: dict[str, np.ndarray], spec: Spec) -> Step:
    """The mapped `Step`, not copied."""
    leaf = lambda x: isinstance(x, Leaf)
    shape = Step(spec.obs, Leaf(), Leaf(), Leaf(), Leaf(), spec.info)
    return jax.tree_util.tree_map_with_path(lambda path, _: blocks[jax.tree_util.keystr(path)], shape, is_leaf=leaf)


@dataclass
class _State:
    """A handle: workers keep the states themselves, by number."""

    number: int
    dropped: list[int]

    def __del__(self) -> None:
        self.dropped.append(self.number)


@dataclass(frozen=True)
class WorkersVec:
    """`rlx.types.VecEnv` over worker processes, which start when they are first needed."""

    remake: str
    options: dict[str, Any]
    spec: Spec
    n: int
    ends: str
    workers: int
    imports: tuple[str, ...] = ()
    params: PyTree = None  # those that the workers' environments are made with
    dropped: list[int] = field(default_factory=list)
    counter: list[int] = field(default_factory=lambda: [0])

    host = True

    @property
    def name(self) -> str:
        return self.remake

    @cached_property
    def _folder(self) -> Any:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        return tempfile.TemporaryDirectory(prefix="rlx-workers-", dir=memory)

    @cached_property
    def _mapped(self) -> dict[str, np.ndarray]:
        path = Path(self._folder.name) / "block"
        path.touch()
        return blocks_of(path, self.spec, self.n)

    @cached_property
    def _processes(self) -> list[subprocess.Popen]:
        self._mapped  # noqa: B018  (sizes the file that the workers map)
        edges = np.linspace(0, self.n, self.workers + 1).astype(int).tolist()
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "RLX_CORES": str(max(1, cores() // self.workers))}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # modules are found there as they are here
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "rlx.envs.worker"]
        job = {"name": self.remake, "options": self.options, "n": self.n, "ends": self.ends, "folder": self._folder.name}
        job["imports"] = self.imports
        started: list[subprocess.Popen] = []
        try:
            for a, b in pairwise(edges):
                started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True))
                self._send(started[-1], {**job, "start": a, "stop": b})
            for process in started:
                self._answer(process)
        except BaseException:
            _end(started)
            raise
        return started

    def _send(self, process: subprocess.Popen, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the missing answer says it better
            process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

    def _answer(self, process: subprocess.Popen) -> dict[str, Any]:
        line = process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise ChildProcessError(
                f"{self.name}: a worker process ended with code {process.wait()}; what it said stands above."
            )
        answer = json.loads(line)
        if "error" in answer:
            kinds: dict[str, type[Exception]] = {"ValueError": ValueError}
            raise kinds.get(answer["kind"], RuntimeError)(f"in a worker process: {answer['error']}")
        return answer

    def _ask(self, do: str, state: _State | None = None, key: HostKey | None = None, **more: Any) -> list[dict[str, Any]]:
        """One message to all workers, and their answers."""
        message: dict[str, Any] = {"do": do, "drop": [self.dropped.pop() for _ in range(len(self.dropped))], **more}
        if state is not None:
            message["state"] = state.number
        if key is not None:
            message["key"] = [key.words.tolist(), key.per, key.step, key.start, key.first]
        for process in self._processes:
            self._send(process, message)
        return [self._answer(process) for process in self._processes]

    def _new(self) -> _State:
        self.counter[0] += 1
        return _State(self.counter[0], self.dropped)

    def _step(self) -> Step:
        return jax.tree.map(np.array, step_of(self._mapped, self.spec))

    def _only_own(self, params: PyTree) -> None:
        """Raises ValueError for other parameters: the workers would go on with theirs without a word."""
        given, own = jax.tree.leaves(params), jax.tree.leaves(self.params)
        if len(given) != len(own) or any(a is not b for a, b in zip(given, own, strict=True)):
            raise ValueError(
                f"{self.name}: its workers have the parameters that it was made with and no others: leave workers out to give "
                "some."
            )

    def reset(self, params: PyTree, key: HostKey) -> tuple[_State, Step]:
        self._only_own(params)
        state = self._new()
        self._ask("reset", state, key)
        return state, self._step()

    def step(self, params: PyTree, state: _State, action: np.ndarray, key: HostKey) -> tuple[_State, Step]:
        if np.shape(action) != (self.n, *self.spec.action.shape):
            raise ValueError(f"{self.name}: action has shape {np.shape(action)}, not {(self.n, *self.spec.action.shape)}.")
        self._only_own(params)
        self._mapped["action"][:] = action
        self._ask("step", state, key)
        return state, self._step()

    def refresh(self, params: PyTree, state: _State, key: HostKey) -> _State:
        return state

    def save(self, state: _State) -> PyTree:
        """By worker: a run goes on bit for bit with as many workers as it had."""
        if not all(answer["saved"] for answer in self._ask("save", state)):
            return None
        saved: dict[str, np.ndarray] = {}
        for i, process in enumerate(self._processes):
            with np.load(self._file(process)) as arrays:
                saved |= {f"{i}/{k}": arrays[k] for k in arrays.files}
        return saved

    def load(self, arrays: PyTree) -> _State:
        count = len({k.split("/")[0] for k in arrays})
        if count != self.workers:
            raise ValueError(f"{self.name} was saved with workers={count}; go on with as many, not {self.workers}.")
        for i, process in enumerate(self._processes):
            np.savez(self._file(process), **{k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{i}/")})
        state = self._new()
        for answer in self._ask("load", state):
            if "not_repeated" in answer:
                raise NotRepeated(answer["not_repeated"])
        return state

    def _file(self, process: subprocess.Popen) -> Path:
        return Path(self._folder.name) / f"{process.pid}.npz"

    def render(self, params: PyTree, state: _State, index: int = 0) -> np.ndarray:
        for process, answer in zip(self._processes, self._ask("render", state, index=index), strict=True):
            if answer["drawn"]:
                with np.load(self._file(process)) as arrays:
                    return arrays["picture"]
        raise ValueError(f"{self.name} has no stream {index}.")

    def close(self) -> None:
        _end(self.__dict__.pop("_processes", []))
        if "_folder" in self.__dict__:
            self.__dict__.pop("_mapped", None)
            self.__dict__.pop("_folder").cleanup()


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Workers end when nobody writes to them any more; one that hangs in its environment is killed."""
    for process in processes:
        with contextlib.suppress(BrokenPipeError):  # of one that has died
            process.stdin.close()  # type: ignore[union-attr]
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
