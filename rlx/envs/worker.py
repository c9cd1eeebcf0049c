"""A worker process of `rlx.envs.workers`: ``python -m rlx.envs.worker`` holds some streams of an environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import plugins
from rlx.envs.border import NotRepeated
from rlx.envs.registry import make
from rlx.envs.workers import blocks_of, step_of
from rlx.keys import HostKey


def _serve(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Answers to the lines of the main process. When there are no more, the folder that all share goes: the main process would
    take it away, unless it was killed."""
    job = json.loads(next(lines))
    folder = Path(job["folder"])
    try:
        yield from _answers(job, folder, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(job: dict[str, Any], folder: Path, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    start, stop = job["start"], job["stop"]
    plugins.import_modules(job["imports"], f"{job['name']} in a worker process needs")
    env = make(job["name"], **job["options"])
    blocks = {k: x[start:stop] for k, x in blocks_of(folder / "block", env.spec, job["n"]).items()}
    file, shown = folder / f"{os.getpid()}.npz", step_of(blocks, env.spec)
    states: dict[int, Any] = {}
    with contextlib.closing(env.make(stop - start, job["ends"])) as vec:  # type: ignore[union-attr]
        yield {}
        for line in lines:
            message = json.loads(line)
            do, number = message["do"], message.get("state")
            for old in message["drop"]:
                states.pop(old, None)
            answer: dict[str, Any] = {}
            if "key" in message:
                words, per, at, begin, first = message["key"]
                key = HostKey(np.array(words, np.uint32), per, at, begin + start, first)
            if do in ("reset", "step"):
                if do == "reset":
                    states[number], step = vec.reset(env.params, key)
                else:
                    states[number], step = vec.step(env.params, states[number], np.array(blocks["action"]), key)
                jax.tree.map(lambda block, x: block.__setitem__(..., x), shown, step)
            elif do == "save":
                arrays = vec.save(states[number])
                answer["saved"] = arrays is not None
                if arrays is not None:
                    np.savez(file, **arrays)
            elif do == "load":
                with np.load(file) as arrays:
                    try:
                        states[number] = vec.load(dict(arrays))
                    except NotRepeated as e:
                        answer["not_repeated"] = str(e)
            elif do == "render":
                answer["drawn"] = start <= message["index"] < stop
                if answer["drawn"]:
                    np.savez(file, picture=vec.render(env.params, states[number], message["index"] - start))
            yield answer


def main() -> None:
    """Serves one main process until it closes the line. What the environment prints goes to standard error. Signals that ask a
    whole group of processes to stop are the main process's: it still saves, which needs the streams."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, lambda *_: None)  # what an environment starts does not inherit this, as it would SIG_IGN
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serving = _serve(iter(sys.stdin.readline, ""))
    while True:
        try:
            answer = next(serving)
        except StopIteration:
            return
        except Exception as e:  # told to the main process, which raises it
            answer = {"error": str(e), "kind": type(e).__name__}
        out.write(json.dumps(answer) + "\n")
        out.flush()
        if "error" in answer:
            return


if __name__ == "__main__":
    main()
