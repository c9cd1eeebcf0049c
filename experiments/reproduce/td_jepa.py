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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tables import bars, mean_interval

from rlx import envs, keys, replay
from rlx.agents.td_jepa.features import METHODS
from rlx.replay import datasets
from rlx.train import logging
from rlx.train.collect import collect, random

HERE = Path(__file__).parent
ENV, REPEAT = "rlx:pointmass-maze", 8
REACH = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")


def called(*words: Any) -> None:
    """Python with these words, such as a script's name and its flags."""
    print(*words, flush=True)
    subprocess.run([sys.executable, *map(str, words)], check=True)


def rlx(*words: Any) -> None:
    called("-m", "rlx", *words)


def maze_data(folder: Path, steps: int) -> Path:
    out = folder / "maze.npz"
    if not out.exists():
        where = ["--env", ENV, "--repeat", REPEAT, "--time-limit", 50, "--env-option", "starts=uniform", "--no-physics"]
        rlx("collect", *where, "--mode", "random", "--steps", steps, "--streams", 400, "--out", out, "--no-progress")
    return out


def relabelled(data: Path, task: str) -> Path:
    """The same rows with the rewards of ``task``."""
    out = data.with_name(f"maze-{task}.npz")
    if not out.exists():
        env = envs.make(ENV, repeat=REPEAT)
        score, whole = env.spec.tasks[task].score, replay.load(data)
        rows = whole.rows
        before = np.concatenate([np.zeros_like(rows.action[:1]), rows.action[:-1]])  # rewards belong to the arrival
        write_relabelled(out, whole, np.broadcast_to(score(np, rows.obs, before), rows.reward.shape), task)
    return out


def write_relabelled(out: Path, whole: datasets.Dataset, reward: np.ndarray, task: str) -> None:
    """``whole`` with ``reward`` [N] for arriving at each row, as a file."""
    rows = whole.rows._replace(reward=np.where(whole.rows.first, 0, reward).astype(np.float32))
    datasets.write(out, datasets.Dataset(rows, whole.offsets), {**whole.meta, "task": task})


def zero_shot(folder: Path, data: Path, method: str, seeds: int, size: list[str]) -> dict[str, np.ndarray]:
    """Returns of each task, [seeds], at the last evaluation."""
    run_dir, where = folder / f"{method}-{seeds}", ["--env", ENV, "--repeat", REPEAT, "--data", data]
    how = ["--agent.features", method, "--seeds", seeds, "--no-video", "--no-progress", "--run-dir", run_dir]
    rlx("train", "td_jepa", *where, *size, *how)
    last = [line for line in logging.read(run_dir) if line["kind"] == "eval"][-1]
    return {k.removeprefix("return/"): np.atleast_1d(v) for k, v in last.items() if k.startswith("return/")}


def made(args: argparse.Namespace, method: str) -> Path:
    """The run of a method with its data, for scripts that begin with it: made here where it is not there yet."""
    folder = args.run_dir / f"{method}-{args.seeds}"
    if not (folder / "result.json").exists():
        how = ["--preset", "debug"] if args.debug else ["--seeds", args.seeds, "--updates", args.updates]
        called(__file__, "--run-dir", args.run_dir, "--method", method, *how, "--out", args.run_dir)
    return folder


def per_task(folder: Path, data: Path, task: str, seeds: int, updates: int) -> np.ndarray:
    """TD3 on the rewards of one task, [seeds]."""
    where = ["--env", ENV, "--repeat", REPEAT, "--env-option", f"task={task}", "--data", relabelled(data, task)]
    how = ["--agent.discount", 0.97, "--agent.updates", updates, "--agent.eval-every", min(updates, 2_500), "--seeds", seeds]
    return td3(folder / f"td3-{task}-{seeds}", *where, *how)


def td3(run_dir: Path, *words: Any) -> np.ndarray:
    """Returns of the last evaluation, [seeds], of TD3+BC with next to no weight on imitation."""
    how = ["--agent.alpha", 1000, "--agent.hidden", 128, 128, "--no-video", "--no-progress"]
    rlx("train", "td3_bc", *words, *how, "--run-dir", run_dir)
    last = [line for line in logging.read(run_dir) if line["kind"] == "eval"][-1]
    return np.atleast_1d(last["return_mean"])


def at_random(env: Any, episodes: int) -> np.ndarray:
    """Returns of uniform actions, [episodes]."""
    found = collect(random(env.spec), env, episodes * env.spec.horizon, episodes, keys.root(0))
    return np.array([float(e.reward.sum()) for e in found[:episodes]])


def maze_of(task: str) -> Any:
    return envs.make(ENV, repeat=REPEAT, task=task)


def flags(doc: str | None, seeds: int, updates: int) -> argparse.ArgumentParser:
    """What the scripts of this family have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--updates", type=int, default=updates)
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser


def parts(doc: str | None, given: dict[str, Callable[[argparse.Namespace], dict[str, Any]]]) -> int:
    """The command line of scripts that begin with such runs: some of the ``given`` parts, each with a file of results."""
    parser = flags(doc, seeds=10, updates=15_000)
    parser.add_argument("--part", choices=given, action="append", help="only these")
    args = parser.parse_args()
    args.debug = args.preset == "debug"
    args.seeds = 2 if args.debug else args.seeds
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.part or given:
        own = {"env": ENV, "repeat": REPEAT, "seeds": args.seeds, "updates": args.updates, "cores": os.cpu_count()}
        (args.out / f"td_jepa-{name}.json").write_text(json.dumps({**own, **given[name](args)}, indent=1) + "\n")
    return 0


def main() -> int:
    parser = flags(__doc__, seeds=10, updates=15_000)
    parser.add_argument("--method", choices=[*METHODS, "td3"], action="append", help="only these; td3 is trained per task")
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of data")
    given = parser.parse_args()
    debug = given.preset == "debug"
    seeds, updates, steps = (2, 40, 20_000) if debug else (given.seeds, given.updates, given.steps)
    each = [] if debug else ["--agent.updates", updates, "--agent.eval-every", 2_500]
    size = ["--preset", "debug" if debug else "small", *each]
    given.run_dir.mkdir(parents=True, exist_ok=True)
    data = maze_data(given.run_dir, steps)
    tasks = list(envs.make(ENV).spec.tasks)
    found: dict[str, dict[str, np.ndarray]] = {"random actions": {t: at_random(maze_of(t), max(seeds, 10)) for t in tasks}}
    for method in given.method or [*METHODS, "td3"]:
        if method == "td3":
            found["td3, per task"] = {t: per_task(given.run_dir, data, t, seeds, updates) for t in tasks}
        else:
            found[method] = zero_shot(given.run_dir, data, method, seeds, size)
    rows = {name: {t: mean_interval(row[t], 2) for t in tasks} for name, row in found.items()}
    for name, row in found.items():
        rows[name]["mean of reach"] = mean_interval(np.mean([row[t] for t in REACH], 0), 2)
        rows[name]["mean of all"] = mean_interval(np.mean([row[t] for t in tasks], 0), 2)
        print(f"{name:16}", *(f"{t} {v['mean']:.1f}" for t, v in rows[name].items()))
    given.out.mkdir(parents=True, exist_ok=True)
    own = {"env": ENV, "repeat": REPEAT, "seeds": seeds, "updates": updates, "steps": steps, "cores": os.cpu_count()}
    (given.out / "td_jepa.json").write_text(json.dumps({**own, "returns": rows}, indent=1) + "\n")
    bars(rows, list(rows["random actions"]), given.out / "td_jepa.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
