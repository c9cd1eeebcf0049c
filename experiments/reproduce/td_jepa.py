"""Zero-shot returns of TD-JEPA and its family on the point-mass maze, next to TD3 trained for each task, and random actions.

    python experiments/reproduce/td_jepa.py --run-dir runs/maze                # all methods, ten seeds each: hours on two cores
    python experiments/reproduce/td_jepa.py --run-dir runs/maze --method td_jepa --method random --seeds 3 --updates 6000
    python experiments/reproduce/td_jepa.py --run-dir runs/maze --preset debug # the same path at toy size

Stand-in data: 200 000 decisions at random from anywhere, eight simulation steps each (`docs/methods/td_jepa.md` says why). All
seeds of a method are one program; what is there already is not trained again, and more ``--updates`` go on from there.
`results/td_jepa.json` holds the mean return of each task with its interval over seeds, of the last evaluation, and the mean of
all at each; rows of other methods, with as many updates on the same data, stay, and each says of what seeds it is.
`results/td_jepa.png` and `results/td_jepa-curve.png` show them.
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
from matplotlib.figure import Figure
from tables import at_random, bars, mean_interval

from rlx import envs, replay
from rlx.agents.td_jepa.config import PRESETS
from rlx.agents.td_jepa.features import METHODS
from rlx.replay import datasets
from rlx.train import logging

HERE = Path(__file__).parent
ENV, REPEAT = "rlx:pointmass-maze", 8
REACH = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")
MEANS = ("mean of reach", "mean of all")
Evaluations = list[tuple[int, dict[str, np.ndarray]]]  # after so many updates the returns of each task, [seeds]


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


def own_preset(method: str) -> list[str]:
    """What a method has for itself, to be named behind a size."""
    return ["--preset", method] if method in PRESETS else []


def seeds_of(args: argparse.Namespace) -> list[Any]:
    return ["--seed", args.seed, "--seeds", args.seeds]


def zero_shot(args: argparse.Namespace, data: Path, method: str, size: list[str]) -> Evaluations:
    run_dir, where = args.run_dir / f"{method}-{args.seeds}", ["--env", ENV, "--repeat", REPEAT, "--data", data]
    how = ["--agent.features", method, *seeds_of(args), "--no-video", "--no-progress", "--run-dir", run_dir]
    rlx("train", "td_jepa", *where, *size, *how)
    lines = [line for line in logging.read(run_dir) if line["kind"] == "eval"]
    returns = lambda line: {k.removeprefix("return/"): np.atleast_1d(v) for k, v in line.items() if k.startswith("return/")}
    return [(int(np.max(line["updates"])), returns(line)) for line in lines]


def made(args: argparse.Namespace, method: str) -> Path:
    """The run of a method with its data, for scripts that begin with it: made here where it is not there yet."""
    folder = args.run_dir / f"{method}-{args.seeds}"
    if not (folder / "result.json").exists():
        how = ["--preset", "debug"] if args.debug else [*seeds_of(args), "--updates", args.updates]
        called(__file__, "--run-dir", args.run_dir, "--method", method, *how, "--out", args.run_dir)
    return folder


def per_task(args: argparse.Namespace, data: Path, tasks: list[str], size: list[str]) -> Evaluations:
    """TD3 on the rewards of each task."""
    found: list[list[tuple[int, np.ndarray]]] = []
    for task in tasks:
        where = ["--env", ENV, "--repeat", REPEAT, "--env-option", f"task={task}", "--data", relabelled(data, task)]
        run_dir = args.run_dir / f"td3-{task}-{args.seeds}"
        found.append(td3(run_dir, *where, "--agent.discount", 0.97, *size, *seeds_of(args)))
    return [(at[0][0], {t: x for t, (_, x) in zip(tasks, at, strict=True)}) for at in zip(*found, strict=True)]


def td3(run_dir: Path, *words: Any) -> list[tuple[int, np.ndarray]]:
    """Returns [seeds] of each evaluation of TD3+BC, with next to no weight on imitation and step sizes of 1e-3, as all here."""
    how = ["--agent.alpha", 1000, "--agent.hidden", 128, 128, "--agent.actor-lr", 1e-3, "--agent.critic-lr", 1e-3]
    rlx("train", "td3_bc", *words, *how, "--no-video", "--no-progress", "--run-dir", run_dir)
    lines = [line for line in logging.read(run_dir) if line["kind"] == "eval"]
    return [(int(np.max(line["updates"])), np.atleast_1d(line["return_mean"])) for line in lines]


def maze_of(task: str) -> Any:
    return envs.make(ENV, repeat=REPEAT, task=task)


def flags(doc: str | None, seeds: int, updates: int) -> argparse.ArgumentParser:
    """What the scripts of this family have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
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
        own = {k: getattr(args, k) for k in ("seed", "seeds", "updates")}
        own = {"env": ENV, "repeat": REPEAT, **own, "cores": os.cpu_count()}
        (args.out / f"td_jepa-{name}.json").write_text(json.dumps({**own, **given[name](args)}, indent=1) + "\n")
    return 0


def row_of(evaluations: Evaluations) -> dict[str, Any]:
    """Of a method: each task's last returns, their means, and the mean of all on the way."""
    last = evaluations[-1][1]
    row: dict[str, Any] = {t: mean_interval(x, 2) for t, x in last.items()}
    for name, of in zip(MEANS, (REACH, tuple(last)), strict=True):
        row[name] = mean_interval(np.mean([last[t] for t in of], 0), 2)
    return row | {"curve": [{"updates": n, **mean_interval(np.mean(list(x.values()), 0), 2)} for n, x in evaluations]}


def draw_curve(rows: dict[str, dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, (name, row) in enumerate((name, row) for name, row in rows.items() if "curve" in row):
        at, means = zip(*((point["updates"], point["mean"]) for point in row["curve"]), strict=True)
        if len(at) == 1:
            ax.axhline(means[0], color="black", lw=0.8, ls="--", label=name)
            continue
        [line] = ax.plot(at, means, ["-", "--"][i // 10], color=f"C{i % 10}", label=name)
        bounds = [point["interval"] or [point["mean"]] * 2 for point in row["curve"]]
        ax.fill_between(at, *np.transpose(bounds), alpha=0.1, color=line.get_color(), lw=0)
    ax.set(xlabel="updates", ylabel="mean return of all tasks")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = flags(__doc__, seeds=10, updates=15_000)
    parser.add_argument("--method", choices=[*METHODS, "td3"], action="append", help="only these; td3 is trained per task")
    parser.add_argument("--steps", type=int, default=200_000, help="decisions of data")
    parser.add_argument("--episodes", type=int, default=20, help="of each task and seed")
    given = parser.parse_args()
    debug = given.preset == "debug"
    if debug:
        given.seeds, given.updates, given.steps, given.episodes = 2, 40, 20_000, 2
    each = ["--agent.updates", given.updates, "--agent.eval-every", 20 if debug else 1_000]
    each += ["--agent.eval-episodes", given.episodes]
    for folder in (given.run_dir, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    data, path, tasks = maze_data(given.run_dir, given.steps), given.out / "td_jepa.json", list(envs.make(ENV).spec.tasks)
    own = {"env": ENV, "repeat": REPEAT, "updates": given.updates, "steps": given.steps, "cores": os.cpu_count()}
    old = json.loads(path.read_text()) if path.exists() else {}
    rows = old["returns"] if {k: old.get(k) for k in own} == own else {}
    for method in ("random actions", *(given.method or [*METHODS, "td3"])):
        settings: list[str] = []
        if method == "random actions":
            found = [(0, {t: at_random(maze_of(t), max(given.episodes, 10)) for t in tasks})]
        elif method == "td3":
            found = per_task(given, data, tasks, each)
        else:
            settings = ["--preset", "debug"] if debug else ["--preset", "small", *own_preset(method)]
            found = zero_shot(given, data, method, [*settings, *each])
        name = "td3, per task" if method == "td3" else method
        asked = {k: getattr(given, k) for k in ("seed", "seeds", "episodes")}
        rows[name] = {**asked, "presets": settings[1::2], **row_of(found)}
        print(f"{name:16}", *(f"{t} {rows[name][t]['mean']:.1f}" for t in (*tasks, *MEANS)), flush=True)
        path.write_text(json.dumps({**own, "returns": rows}, indent=1) + "\n")
    bars(rows, [*tasks, *MEANS], given.out / "td_jepa.png")
    draw_curve(rows, given.out / "td_jepa-curve.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
