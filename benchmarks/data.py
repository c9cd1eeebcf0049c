"""Datasets: how fast files load next to h5py's own reading, and how fast a million images are sampled from memory and disk.

    python benchmarks/data.py files              # 1M rows of D4RL's layout, plain and compressed: about a minute
    python benchmarks/data.py frames             # 1M frames of 64 x 64 x 3: 12.3 GB of disk, and of memory for --in memory
    python benchmarks/data.py files frames --preset debug   # the same paths at toy size

`files`: medians of alternating calls. `peer` is h5py reading the same columns into arrays; `load` gives a checked dataset,
`replay` that where agents sample it. `frames`: what one batch of 256 transitions with 3 stacked frames costs, next to copying
that many bytes once (`copy`), and the memory of the process while it is sampled.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from rlx import keys, replay
from rlx.replay import datasets
from rlx.replay.dataset import Dataset, from_rows
from rlx.types import Clock

PRESETS = {"full": {"rows": 1_000_000, "frames": 1_000_000, "rounds": 5, "batches": 40}}
PRESETS["debug"] = {"rows": 20_000, "frames": 2_000, "rounds": 2, "batches": 3}
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
BATCH, STACK, EPISODE = 256, 3, 500


def seconds(fn: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    fn()
    return time.perf_counter() - begun


# -------------------------------------------------------------------------------------------------------------------- files


def write_d4rl(path: Path, rows: int, lengths: int, compression: str | None) -> None:
    """Rows of a HalfCheetah's size, episodes of ``lengths`` steps."""
    rng, ends = np.random.default_rng(0), np.arange(1, rows + 1) % lengths == 0
    obs = rng.normal(size=(rows + 1, 17)).astype("f4")
    after = obs[1:].copy()
    columns = {
        "observations": obs[:-1],
        "next_observations": after,
        "actions": np.tanh(rng.normal(size=(rows, 6))).astype("f4"),
    }
    columns |= {"rewards": rng.normal(size=rows).astype("f4"), "terminals": np.zeros(rows, bool), "timeouts": ends}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression=compression)


def by_h5py(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in COLUMNS}


def files(rows: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    found = []
    for lengths in (1000, 25):
        for compression in (None, "gzip"):
            path = folder / "data.hdf5"
            write_d4rl(path, rows, lengths, compression)
            placed = lambda path: jax.block_until_ready(datasets.replay_of(path))  # copying to a device goes on by itself
            calls = {"peer": by_h5py, "load": datasets.load, "replay": placed}
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds + 1):
                for name, call in calls.items():
                    times[name].append(seconds(functools.partial(call, path)))
            middle = {name: float(np.median(values[1:])) for name, values in times.items()}
            ratio = {f"{name}_over_peer": middle[name] / middle["peer"] for name in ("load", "replay")}
            found.append({"rows": rows, "episode": lengths, "compression": compression, **middle, **ratio})
            print(json.dumps(found[-1]), flush=True)
    return found


# ------------------------------------------------------------------------------------------------------------------- frames


def blocks(frames: int) -> Any:
    """Episodes of images, made as they are asked for."""
    rng = np.random.default_rng(0)
    for begin in range(0, frames, EPISODE):
        n = min(EPISODE, frames - begin)
        ends = np.arange(n) == n - 1
        image = rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
        yield {"obs": image, "action": np.zeros((n, 6), "f4"), "reward": np.zeros(n, "f4"), "terminated": ends & False}


def in_memory(frames: int) -> Dataset:
    """The same rows in one array, without a second copy while it is made."""
    images = np.empty((frames, 64, 64, 3), np.uint8)
    for i, episode in enumerate(blocks(frames)):
        images[i * EPISODE : i * EPISODE + len(episode["reward"])] = episode["obs"]
    offsets = np.unique([*range(0, frames, EPISODE), frames])
    rows = from_rows(images, np.zeros((frames, 6), "f4"), np.zeros(frames, "f4"), np.zeros(frames, bool), offsets)
    return Dataset(*rows)


def sampled(data: Dataset, batches: int, where: str) -> dict[str, Any]:
    state = data.replay(device=False)
    sampler = replay.transitions(BATCH, source="data", stack=STACK)
    alone = {"data": state._replace(data=None)}
    draw = jax.jit(lambda key: sampler.draw(alone, {"discount": 0.99}, Clock(0, 0, 0), key))
    rows = {"data": jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, state)}
    index = [jax.tree.map(np.asarray, draw(keys.root(i))) for i in range(batches)]
    batch = sampler.read(rows, index[0])
    ms = [1e3 * seconds(lambda i=i: sampler.read(rows, i)) for i in index]
    copy = [1e3 * seconds(lambda: (batch.obs.copy(), batch.next_obs.copy())) for _ in range(batches)]
    size = batch.obs.nbytes + batch.next_obs.nbytes
    found = {"in": where, "frames": len(data.rows.reward), "ms_per_batch": float(np.median(ms)), "worst_ms": float(np.max(ms))}
    found |= {"ms_copy": float(np.median(copy)), "megabytes_per_batch": size / 1e6}
    return found | {"process_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def frames(count: int, batches: int, folder: Path, places: list[str]) -> list[dict[str, Any]]:
    found = []
    if "disk" in places:
        path = folder / "frames"
        with datasets.Writer(path) as out:
            out.append(blocks(count))
        found.append(sampled(datasets.mapped(path), batches, "disk"))
        print(json.dumps(found[-1]), flush=True)
    if "memory" in places:
        found.append(sampled(in_memory(count), batches, "memory"))
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("files", "frames"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--in", dest="places", choices=("memory", "disk"), action="append", help="frames: where they lie")
    parser.add_argument("--run-dir", type=Path, help="a folder for data.json")
    given = parser.parse_args()
    size = PRESETS[given.preset]
    values: dict[str, Any] = {
        "preset": given.preset,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "jax": jax.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        if "files" in given.parts:
            values["files"] = files(size["rows"], size["rounds"], Path(folder))
        if "frames" in given.parts:
            values["frames"] = frames(size["frames"], size["batches"], Path(folder), given.places or ["disk", "memory"])
    values["load"] = os.getloadavg()[0]
    print("RESULT " + json.dumps(values))
    if given.run_dir:
        given.run_dir.mkdir(parents=True, exist_ok=True)
        (given.run_dir / "data.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
