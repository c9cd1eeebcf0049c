"""rlx.replay against flashbax, side by side in one process: adding and sampling, in three layouts.

    python benchmarks/replay.py                  # about a minute on 2 cores
    python benchmarks/replay.py --preset debug   # the same path at toy size

Calls are jitted; `add` donates its buffer. After warm-up the two sides alternate and medians are compared: a ratio above 1
means that rlx is faster. `add` and `sample` are single calls and pay for their dispatch; `add_loop` and `sample_loop` are the
rates inside one compiled loop, as in training. rlx keeps the borders of episodes and never draws across them, which flashbax
does not: its rows have more leaves, and a single add costs more dispatch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.types import Clock, Row

# name: rows kept, shape and dtype of an observation, streams, rows per add and stream, batch, window (2: transitions)
CASES = {
    "flat": (100_000, (24,), jnp.float32, 1, 64, 256, 2),
    "wide": (2_048, (24,), jnp.float32, 64, 1, 256, 2),  # the same as flat, from 64 streams
    "sequences": (25_000, (24,), jnp.float32, 4, 16, 32, 64),
    "frames": (8_192, (64, 64, 3), jnp.uint8, 1, 64, 256, 2),
}
PRESETS = {"full": {"rounds": 200, "shrink": 1, "loop": 100}, "debug": {"rounds": 20, "shrink": 16, "loop": 10}}
CLOCK = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))
HYPER = {"discount": jnp.float32(0.99)}


def ours(rows: int, shape: tuple, dtype: Any, width: int, count: int, batch: int, window: int) -> tuple:
    """(state, block, add(state, block), sample(state, key)) of rlx."""
    flag = jnp.bool_(False)
    row = Row(jnp.ones(shape, dtype), jnp.float32(0), flag, flag, flag, {}, jnp.ones(6), {}, ~flag)
    buffer = replay.ring(rows, width)
    sampler = replay.transitions(batch) if window == 2 else replay.sequences(batch, window, cross=True)
    block = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, width, *x.shape)) + 0, row)
    block = jax.tree.map(lambda x, r: x.astype(r.dtype), block, row)
    sample = lambda state, key: sampler(HYPER, CLOCK, {"replay": state}, key)
    return buffer.init(row), block, lambda state, block: buffer.add(state, block), sample


def theirs(flashbax: Any, rows: int, shape: tuple, dtype: Any, width: int, count: int, batch: int, window: int) -> tuple:
    """The same of flashbax: [streams, time] instead of [time, streams]."""
    item = {"obs": jnp.ones(shape, dtype), "action": jnp.ones(6), "reward": jnp.float32(0), "done": jnp.bool_(False)}
    if window == 2:
        buffer = flashbax.make_flat_buffer(rows * width, batch, batch, add_sequences=True, add_batch_size=width)
    else:
        buffer = flashbax.make_trajectory_buffer(width, batch, window, 1, window, max_length_time_axis=rows)
    block = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, count, *x.shape)).astype(x.dtype), item)
    return buffer.init(item), block, buffer.add, lambda state, key: buffer.sample(state, key).experience


def prepare(state: Any, block: Any, add: Callable, sample: Callable, fills: int, loop: int) -> dict[str, Callable[[], Any]]:
    """The timed calls of one side, compiled and with the buffer full."""
    box, key = [state], jax.random.key(0)
    adding, sampling = jax.jit(add, donate_argnums=0), jax.jit(sample)
    adding_loop = jax.jit(lambda s, b: jax.lax.fori_loop(0, loop, lambda i, s: add(s, b), s), donate_argnums=0)

    def sample_many(state: Any, key: Any) -> Any:
        def one(i: Any, total: Any) -> Any:
            batch = sample(state, jax.random.fold_in(key, i))
            return total + sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(batch))  # so that all of it is read

        return jax.lax.fori_loop(0, loop, one, jnp.float32(0))

    sampling_loop = jax.jit(sample_many)

    def call(fn: Callable) -> Any:
        box[0] = fn(box[0], block)
        return box[0]

    for _ in range(fills):
        call(adding)
    return {
        "add": lambda: call(adding),
        "sample": lambda: sampling(box[0], key),
        "add_loop": lambda: call(adding_loop),
        "sample_loop": lambda: sampling_loop(box[0], key),
    }


def alternate(a: Callable[[], Any], b: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median microseconds of each, called in turns."""
    times = np.zeros((rounds, 2))
    for i in range(-3, rounds):
        for j, call in enumerate((a, b)):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i >= 0:
                times[i, j] = time.perf_counter() - start
    return tuple(1e6 * np.median(times, 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="only this layout (may be repeated)")
    parser.add_argument("--run-dir", type=Path, help="a folder for replay.json")
    flags = parser.parse_args()
    try:
        import flashbax
    except ImportError:
        print("benchmarks/replay.py compares with flashbax, which is not installed: pip install flashbax", file=sys.stderr)
        return 2
    preset, began = PRESETS[flags.preset], time.perf_counter()
    result: dict[str, Any] = {"preset": flags.preset, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
    print(f"{'microseconds, medians':24}{'rlx':>12}{'flashbax':>12}{'ratio':>8}")
    for name in flags.case or CASES:
        rows, *rest = CASES[name]
        case = (max(rows // preset["shrink"], 130), *rest)
        fills = case[0] // rest[3] + 2
        sides = [prepare(*ours(*case), fills, preset["loop"]), prepare(*theirs(flashbax, *case), fills, preset["loop"])]
        for what in ("add", "sample", "add_loop", "sample_loop"):
            looped = what.endswith("_loop")
            rounds = preset["rounds"] // (10 if looped else 1)
            mine, peer = alternate(sides[0][what], sides[1][what], rounds)
            mine, peer = (x / (preset["loop"] if looped else 1) for x in (mine, peer))
            print(f"{name + ' ' + what:24}{mine:12.1f}{peer:12.1f}{peer / mine:8.2f}", flush=True)
            result |= {f"us_rlx_{name}_{what}": round(mine, 2), f"us_flashbax_{name}_{what}": round(peer, 2)}
            result[f"ratio_flashbax_{name}_{what}"] = round(peer / mine, 3)
    result["wall_s"] = round(time.perf_counter() - began, 1)
    if flags.run_dir:
        flags.run_dir.mkdir(parents=True, exist_ok=True)
        temporary = flags.run_dir / ".replay.json"
        temporary.write_text(json.dumps(result, indent=2))
        os.replace(temporary, flags.run_dir / "replay.json")
        result["run_dir"] = str(flags.run_dir)
    print("RESULT " + json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
