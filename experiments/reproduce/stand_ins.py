"""Datasets that stand in for D4RL's and NeoRL's, which cannot always be downloaded: collected from agents trained by rlx.

    python experiments/reproduce/stand_ins.py --run-dir runs/stand_ins --until medium     # two hours of one core; goes on
    python experiments/reproduce/stand_ins.py --run-dir runs/stand_ins --preset debug     # the same path in minutes

For each environment: 200 000 decisions at random; then SAC is trained to one level after the other, and at each its policy is
collected (200 000 decisions, a fifth of the episodes sampled, as NeoRL's) and all that it has stored so far ("replay"), all
with the state of the physics. The point-mass maze with random starts, for zero-shot methods. And pictures (64 x 64 x 3 bytes,
stored once; samplers stack them): push-toy at random, by its script, and by the script under noise, with which it fails in a
third of the episodes.
`results/stand_ins.json` says what is there: returns, scores on D4RL's scale (of pictures: 0 at random, 100 the script), and
the checksum of each dataset's list of files; what it says of data that are not in the run folder stays. The data themselves
stay in the run folder.
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

# Levels of each environment, and the decisions after which SAC is there; the scores say how far that is. "fast" are runs of
# their own: smaller networks, ten streams, an update for two decisions; 600 000 decisions take 20 minutes of one core.
LEVELS = {
    "HalfCheetah-v4": {"fast": {"medium": 220_000, "expert": 600_000}},
    "Hopper-v4": {"single": {"low": 130_000}, "fast": {"medium": 205_000, "expert": 600_000}},
    "Walker2d-v4": {"single": {"low": 200_000}, "fast": {"medium": 400_000, "expert": 600_000}},
}
SETTINGS = {
    "single": ["--agent.eval-every", "10000"],
    "fast": ["--agent.n-envs", "10", "--agent.utd", "0.5", "--agent.hidden", "128", "128", "--agent.eval-every", "20000"],
}
ORDER = ("random", "low", "medium", "expert")
PICTURES = ["--env", "rlx:push-toy", "--env-option", "pixels=sdf", "--env-option", "image=64"]
SCRIPT = {"push-pixels-expert": 0.0, "push-pixels-noisy": 0.15}  # the standard deviation of the noise on its actions
SAC = ["--agent.eval-episodes", "5", "--no-video", "--no-progress"]


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


def pictured(folder: Path, steps: int) -> None:
    """So many frames of each behaviour, in episodes of 50 decisions."""
    collected(folder, "push-pixels-random", *PICTURES, "--mode", "random", "--steps", steps)
    for name, noise in SCRIPT.items():
        if not complete(folder / "data" / name):
            shown = ["--episodes", steps // 50, "--streams", min(100, steps // 50), "--noise", noise, "--keep-all"]
            rlx("data", "demos", *PICTURES, *shown, "--no-progress", "--out", folder / "data" / name)


def levelled(folder: Path, env: str, how: str, level: str, steps: int, toy: bool) -> None:
    """SAC trained to a level, or on from the one before; what its policy does, and all that it has stored."""
    name, run_dir = env.split("-")[0], folder / f"{env}-{how}"
    if not complete(folder / "data" / f"{name}-{level}-replay"):
        budget, prefill = LEVELS[env][how][level] // (100 if toy else 1), 500 if toy else 5_000
        small = ["--agent.hidden", "32", "32", "--episodes", "1"] if toy else []
        task = ["--env", f"gym:{env}", "--env-option", "physics=true"]  # so that the replay has it too
        rlx("train", "sac", *task, "--agent.env-steps", budget, "--agent.prefill", prefill, *SETTINGS[how], *SAC, *small,
            "--run-dir", run_dir)  # fmt: skip
    policy = ["--run-dir", run_dir, "--which", "last", "--sampled", "0.2", "--steps", steps]
    collected(folder, f"{name}-{level}", *policy)
    collected(folder, f"{name}-{level}-replay", "--run-dir", run_dir, "--mode", "replay")


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


def table(folder: Path, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of each dataset by name; of one that is not in ``folder`` the one that there was ``before``."""
    own = {path.name: row(path) for path in sorted(folder.iterdir()) if complete(path)}
    rows = {**{old["data"]: old for old in before}, **own}
    if {"push-pixels-random", "push-pixels-expert"} <= rows.keys():
        low, high = (rows[f"push-pixels-{end}"]["return_mean"] for end in ("random", "expert"))
        for name in rows.keys() & {"push-pixels-random", *SCRIPT}:
            rows[name]["score"] = round(100 * (rows[name]["return_mean"] - low) / (high - low), 2)
    return [rows[name] for name in sorted(rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="where runs and data go, and where it goes on")
    parser.add_argument("--until", choices=ORDER, default="expert", help="the last level")
    parser.add_argument("--env", choices=sorted(LEVELS), action="append", help="only this one; may be given several times")
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of each dataset")
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--out", type=Path, help="the table; default: results/stand_ins.json, with --preset in --run-dir")
    given = parser.parse_args()
    toy = given.preset == "debug"
    steps, levels = (2_000, ORDER[:3]) if toy else (given.steps, ORDER[: ORDER.index(given.until) + 1])
    folder = given.run_dir
    collected(folder, "pointmass-maze", "--env", "rlx:pointmass-maze", "--mode", "random", "--steps", steps,
                           "--env-option", "starts=uniform")  # fmt: skip
    pictured(folder, steps // 10)
    for env in given.env or LEVELS:
        name = env.split("-")[0]
        collected(folder, f"{name}-random", "--env", f"gym:{env}", "--mode", "random", "--steps", steps)
        for how, budgets in LEVELS[env].items():
            for level in (level for level in budgets if level in levels):
                levelled(folder, env, how, level, steps, toy)
    out = given.out or (folder if toy else Path(__file__).parent / "results") / "stand_ins.json"
    before = json.loads(out.read_text())["data"] if out.exists() else []
    values = {"sac": LEVELS, "cores": os.cpu_count(), "data": table(folder / "data", before)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(values, indent=1) + "\n")
    for line in values["data"]:
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
