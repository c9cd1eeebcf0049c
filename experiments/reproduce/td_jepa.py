"""Zero-shot returns of TD-JEPA and its family on the point-mass maze, next to TD3 trained for each task, and random actions.

    python experiments/reproduce/td_jepa.py --run-dir runs/maze                # all methods, ten seeds each: hours on two cores
    python experiments/reproduce/td_jepa.py --run-dir runs/maze --method td_jepa --method random --seeds 3 --updates 6000
    python experiments/reproduce/td_jepa.py --run-dir runs/maze --preset debug # the same path at toy size

Stand-in data: 200 000 decisions at random from anywhere, eight simulation steps each (`docs/methods/td_jepa.md` says why). All
seeds of a method are one program; what is there already is not trained again, and more ``--updates`` go on from there.
`results/td_jepa.json` holds the mean return of each task with its interval over seeds, of the last evaluation;
`results/td_jepa.png` shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rlx import envs, keys, replay
from rlx.agents.td_jepa.features import METHODS
from rlx.replay import datasets
from rlx.train import logging, stats
from rlx.train.collect import collect, random

ENV, REPEAT = "rlx:pointmass-maze", 8
REACH = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")


def rlx(*words: Any) -> None:
    print("rlx", *words, flush=True)
    subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)


def maze_data(folder: Path, steps: int) -> Path:
    out = folder / "maze.npz"
    if not out.exists():
        where = ["--env", ENV, "--repeat", REPEAT, "--time-limit", 50, "--env-option", "starts=uniform", "--no-physics"]
        rlx("collect", *where, "--mode", "random", "--steps", steps, "--streams", 400, "--out", out, "--no-progress")
    return out


def paid(data: Path, task: str) -> Path:
    """The same rows with the rewards of ``task``."""
    out = data.with_name(f"maze-{task}.npz")
    if not out.exists():
        env = envs.make(ENV, repeat=REPEAT)
        score, whole = env.spec.tasks[task].score, replay.load(data)
        rows = whole.rows
        before = np.concatenate([np.zeros_like(rows.action[:1]), rows.action[:-1]])  # rewards belong to the arrival
        reward = np.where(rows.first, 0, np.broadcast_to(score(np, rows.obs, before), rows.reward.shape)).astype(np.float32)
        whole = datasets.Dataset(rows._replace(reward=reward), whole.offsets, meta=whole.meta)
        datasets.write(out, whole, {**whole.meta, "task": task})
    return out


def zero_shot(folder: Path, data: Path, method: str, seeds: int, size: list[str]) -> dict[str, np.ndarray]:
    """Returns of each task, [seeds], at the last evaluation."""
    run_dir, where = folder / f"{method}-{seeds}", ["--env", ENV, "--repeat", REPEAT, "--data", data]
    how = ["--agent.features", method, "--seeds", seeds, "--no-video", "--no-progress", "--run-dir", run_dir]
    rlx("train", "td_jepa", *where, *size, *how)
    last = [line for line in logging.read(run_dir) if line["kind"] == "eval"][-1]
    return {k.removeprefix("return/"): np.atleast_1d(v) for k, v in last.items() if k.startswith("return/")}


def per_task(folder: Path, data: Path, task: str, seeds: int, updates: int) -> np.ndarray:
    """TD3 on the rewards of one task, [seeds]: TD3+BC with next to no weight on imitation."""
    run_dir = folder / f"td3-{task}-{seeds}"
    where = ["--env", ENV, "--repeat", REPEAT, "--env-option", f"task={task}", "--data", paid(data, task)]
    how = ["--agent.alpha", 1000, "--agent.discount", 0.97, "--agent.hidden", 128, 128, "--agent.updates", updates]
    each = ["--agent.eval-every", min(updates, 2_500), "--seeds", seeds, "--no-video", "--no-progress", "--run-dir", run_dir]
    rlx("train", "td3_bc", *where, *how, *each)
    last = [line for line in logging.read(run_dir) if line["kind"] == "eval"][-1]
    return np.atleast_1d(last["return_mean"])


def at_random(task: str, seeds: int) -> np.ndarray:
    """Returns of uniform actions on the task, [seeds]."""
    env = envs.make(ENV, repeat=REPEAT, task=task)
    found = collect(random(env.spec), env, seeds * env.spec.horizon, seeds, keys.root(0))
    return np.array([float(e.reward.sum()) for e in found[:seeds]])


def picture(rows: dict[str, dict[str, Any]], path: Path) -> None:
    tasks = list(next(iter(rows.values())))
    figure, axes = plt.subplots(figsize=(11, 4), layout="constrained")
    for i, (name, row) in enumerate(rows.items()):
        at = np.arange(len(tasks)) + 0.8 * (i / len(rows) - 0.5)
        values = np.array([row[t]["mean"] if t in row else np.nan for t in tasks])
        axes.bar(at, values, 0.8 / len(rows), label=name)
        for x, t in zip(at, tasks, strict=True):
            if t in row and row[t]["interval"]:
                axes.plot([x, x], row[t]["interval"], color="black", lw=0.8)
    axes.set_xticks(np.arange(len(tasks)), tasks, rotation=15)
    axes.set_ylabel("return")
    axes.legend(frameon=False, fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--method", choices=[*METHODS, "td3"], action="append", help="only these; td3 is trained per task")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=15_000)
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of data")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    debug = given.preset == "debug"
    seeds, updates, steps = (2, 40, 20_000) if debug else (given.seeds, given.updates, given.steps)
    each = [] if debug else ["--agent.updates", updates, "--agent.eval-every", 2_500]
    size = ["--preset", "debug" if debug else "small", *each]
    given.run_dir.mkdir(parents=True, exist_ok=True)
    data = maze_data(given.run_dir, steps)
    tasks = list(envs.make(ENV).spec.tasks)
    found: dict[str, dict[str, np.ndarray]] = {"random actions": {t: at_random(t, max(seeds, 10)) for t in tasks}}
    for method in given.method or [*METHODS, "td3"]:
        if method == "td3":
            found["td3, per task"] = {t: per_task(given.run_dir, data, t, seeds, updates) for t in tasks}
        else:
            found[method] = zero_shot(given.run_dir, data, method, seeds, size)
    told = lambda e: {"mean": round(e.value, 2), "interval": e.interval and [round(float(x), 2) for x in e.interval]}
    rows = {name: {t: told(stats.estimate(row[t][:, None])) for t in tasks} for name, row in found.items()}
    for name, row in found.items():
        rows[name]["mean of reach"] = told(stats.estimate(np.mean([row[t] for t in REACH], 0)[:, None]))
        rows[name]["mean of all"] = told(stats.estimate(np.mean([row[t] for t in tasks], 0)[:, None]))
        print(f"{name:16}", *(f"{t} {v['mean']:.1f}" for t, v in rows[name].items()))
    given.out.mkdir(parents=True, exist_ok=True)
    own = {"env": ENV, "repeat": REPEAT, "seeds": seeds, "updates": updates, "steps": steps, "cores": os.cpu_count()}
    (given.out / "td_jepa.json").write_text(json.dumps({**own, "returns": rows}, indent=1) + "\n")
    picture(rows, given.out / "td_jepa.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
