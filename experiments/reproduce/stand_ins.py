"""Datasets that stand in for D4RL's and NeoRL's, which cannot always be downloaded: collected from agents trained by rlx.

    python experiments/reproduce/stand_ins.py --run-dir runs/stand_ins --until medium     # hours on two cores; goes on
    python experiments/reproduce/stand_ins.py --run-dir runs/stand_ins --preset debug     # the same path in minutes

For each environment: 200 000 decisions at random; then SAC is trained to one level after the other, and at each its policy is
collected (200 000 decisions, a fifth of the episodes sampled, as NeoRL's) and all that it has stored so far ("replay"). And the
point-mass maze with random starts, for zero-shot methods. `results/stand_ins.json` says what is there: returns, scores on
D4RL's scale, and the checksum of each dataset's list of files; the data themselves stay in the run folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlx.envs import scores
from rlx.replay.datasets import mapped

# Levels of each environment, and the decisions after which SAC is there; the scores say how far that is
LEVELS = {
    "HalfCheetah-v4": {"medium": 130_000, "expert": 1_000_000},
    "Hopper-v4": {"low": 130_000, "medium": 300_000, "expert": 1_000_000},
    "Walker2d-v4": {"low": 200_000, "medium": 400_000, "expert": 1_000_000},
}
ORDER = ("random", "low", "medium", "expert")
SAC = ["--agent.prefill", "5000", "--agent.eval-every", "10000", "--agent.eval-episodes", "5", "--no-video", "--no-progress"]


def rlx(*words: Any) -> None:
    print("rlx", *words, flush=True)
    subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)


def collected(folder: Path, name: str, *words: Any) -> Path:
    """The dataset ``name``, collected unless it is there."""
    out = folder / "data" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    if not complete(out):
        rlx("collect", *words, "--out", out, "--no-progress")
    return out


def complete(path: Path) -> bool:
    manifest = path / "dataset.json"
    return manifest.exists() and json.loads(manifest.read_text())["complete"]


def row(path: Path) -> dict[str, Any]:
    """What the table says of a dataset."""
    data = mapped(path)
    reference = scores.reference(str(data.meta["env"]))
    mean = float(np.mean(data.returns))
    digest = hashlib.blake2b((path / "dataset.json").read_bytes()).hexdigest()[:32]
    score = None if reference is None else round(float(scores.normalised(reference, mean)), 2)
    own = {
        "data": path.name,
        "transitions": data.transitions,
        "episodes": len(data),
        "return_mean": round(mean, 2),
        "score": score,
    }
    return own | {"blake2b": digest}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="where runs and data go, and where it goes on")
    parser.add_argument("--until", choices=ORDER, default="expert", help="the last level")
    parser.add_argument("--env", choices=sorted(LEVELS), action="append", help="only this one; may be given several times")
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of each dataset")
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stand_ins.json")
    given = parser.parse_args()
    toy = given.preset == "debug"
    steps, levels = (2_000, ORDER[:3]) if toy else (given.steps, ORDER[: ORDER.index(given.until) + 1])
    folder = given.run_dir
    collected(folder, "pointmass-maze", "--env", "rlx:pointmass-maze", "--mode", "random", "--steps", steps,
                           "--env-option", "starts=uniform")  # fmt: skip
    for env in given.env or LEVELS:
        name, run_dir = env.split("-")[0], folder / env
        collected(folder, f"{name}-random", "--env", f"gym:{env}", "--mode", "random", "--steps", steps)
        for level, budget in LEVELS[env].items():
            if level not in levels:
                continue
            if not complete(folder / "data" / f"{name}-{level}-replay"):
                small = ["--agent.hidden", "32", "32", "--episodes", "1"] if toy else []
                rlx("train", "sac", "--env", f"gym:{env}", "--agent.env-steps", budget // (100 if toy else 1), *SAC, *small,
                    *(["--agent.prefill", "500"] if toy else []), "--run-dir", run_dir)  # fmt: skip
            policy = ["--run-dir", run_dir, "--which", "last", "--sampled", "0.2", "--steps", steps]
            collected(folder, f"{name}-{level}", *policy)
            collected(folder, f"{name}-{level}-replay", "--run-dir", run_dir, "--mode", "replay")
    there = [path for path in sorted((folder / "data").iterdir()) if complete(path)]
    values = {"sac": LEVELS, "cores": os.cpu_count(), "data": [row(path) for path in there]}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(values, indent=1) + "\n")
    for line in values["data"]:
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
