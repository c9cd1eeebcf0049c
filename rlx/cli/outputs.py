"""What commands leave in a run folder besides checkpoints: the result, the learning curve, a video."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import keys
from rlx.cli import console
from rlx.train import recipe as recipes
from rlx.train import video
from rlx.train.policy import Policy
from rlx.types import Env, HostEnv


def interval(returns: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap of the mean over episodes."""
    flat = np.asarray(returns, np.float64).ravel()
    rng = np.random.default_rng(0)
    means = flat[rng.integers(0, flat.size, (10_000, flat.size))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def last_line(run_dir: Path) -> dict[str, Any]:
    """The newest line of ``metrics.jsonl``."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


def write_result(run_dir: Path, values: dict[str, Any]) -> None:
    text = json.dumps({k: console.plain(v) for k, v in values.items()}, indent=2) + "\n"
    recipes.write_text(run_dir / "result.json", text)


def film(policy: Policy, env: Env | HostEnv, run_dir: Path, seed: int) -> Path | None:
    """One episode as a video in ``run_dir``. Without a renderer there is none, and a message says why."""
    key = keys.fold(jax.random.key(seed), "video")
    try:
        return video.record(policy, env, run_dir / "video", key, progress=_progress)
    except Exception as error:  # renderers fail in all ways: a video is never worth a run
        message = console.words(error).strip().splitlines() or [type(error).__name__]
        print(f"no video: {message[0]}", file=sys.stderr)
        if env.host:
            print("  MuJoCo draws through OpenGL: without a screen set MUJOCO_GL=egl or osmesa.", file=sys.stderr)
        return None


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty() and (done % 10 == 0 or done >= of):
        print(f"\rfilming {done}/{of}", end="\n" if done >= of else "", file=sys.stderr, flush=True)
