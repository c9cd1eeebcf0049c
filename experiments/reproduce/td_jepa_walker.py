"""Zero-shot returns of TD-JEPA and its family on walker: stand, walk, run and spin, out of data of exploration without rewards.

    python experiments/reproduce/td_jepa_walker.py --run-dir runs/walker                # all methods, three seeds each
    python experiments/reproduce/td_jepa_walker.py --run-dir runs/walker --method td_jepa --method random
    python experiments/reproduce/td_jepa_walker.py --run-dir runs/walker --preset debug # the same path at toy size

Data: what random network distillation stored while it explored for 100 000 decisions of ``dmc:walker-walk``, with the physics,
of which the rewards of all four tasks are computed; ExoRL's have 5 000 000 or more. A decision is four steps (``--repeat``).
All seeds of a method are one program, are asked for all tasks by ``rlx zero_shot --tasks``, and are not trained again where
they are there. ``td3`` is trained for each task on its rewards. Returns with intervals over seeds are in
``results/td_jepa-walker.json``, of what ran and of what it held of the same settings; ``td_jepa-walker.png`` shows them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from tables import at_random, bars, mean_interval
from td_jepa import flags, own_preset, rlx, seeds_of, td3, write_relabelled

from rlx import envs, replay
from rlx.agents.td_jepa.features import METHODS
from rlx.envs.rewards import reward_of
from rlx.types import PHYSICS

TASKS = ("stand", "walk", "run", "spin")
QUIET = ["--no-video", "--no-progress"]


def explored(args: argparse.Namespace) -> Path:
    """The data, made where they are not there yet."""
    out, run_dir = args.run_dir / f"walker-{args.repeat}.npz", args.run_dir / f"rnd-{args.repeat}"
    if not out.exists():
        where = ["--env", "dmc:walker-walk", "--repeat", args.repeat, "--env-option", "physics=true"]
        size = ["--preset", "debug"] if args.debug else []
        how = ["--agent.env-steps", args.steps, "--agent.eval-every", args.steps, "--agent.utd", 0.5, "--agent.n-envs", 4]
        rlx("train", "rnd", *where, *size, *how, "--run-dir", run_dir, *QUIET)
        rlx("collect", "--mode", "replay", "--run-dir", run_dir, "--out", out, "--no-progress")
    return out


def relabelled(data: Path, task: str) -> Path:
    """The same rows with the rewards of ``task``."""
    out = data.with_name(f"{data.stem}-{task}.npz")
    if not out.exists():
        whole = replay.load(data)
        rows, before = whole.rows, np.maximum(np.arange(len(whole.rows.reward)) - 1, 0)  # rewards belong to the arrival
        physics = rows.info[PHYSICS]
        write_relabelled(
            out, whole, np.asarray(reward_of(f"dmc:walker-{task}")(physics, rows.action[before], physics[before])), task
        )
    return out


def zero_shot(data: Path, method: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Returns of each task, [seeds], means over episodes."""
    run_dir = args.run_dir / f"{method}-{args.repeat}-{args.seeds}"
    size = ["--preset", "debug"] if args.debug else ["--preset", "small", "--agent.discount", 0.98]
    own = [] if args.debug else own_preset(method)
    if not (run_dir / "result.json").exists():
        how = ["--agent.features", method, "--agent.updates", args.updates, "--agent.eval-every", args.updates]
        how += ["--agent.eval-episodes", 1, *seeds_of(args)]
        where = ["--env", "dmc:walker-walk", "--repeat", args.repeat, "--data", data]
        rlx("train", "td_jepa", *where, *size, *own, *how, "--run-dir", run_dir, *QUIET)
    asked = ["--tasks", ",".join(TASKS), "--episodes", args.episodes, "--which", "last"]
    rlx("zero_shot", "--run-dir", run_dir, *asked)
    kept = json.loads((run_dir / "zero_shot" / "tasks.json").read_text())["tasks"]
    return {task: np.mean(kept[task]["returns"], 1) for task in TASKS}


def per_task(data: Path, task: str, args: argparse.Namespace) -> np.ndarray:
    """TD3 on the rewards of one task, [seeds]."""
    where = ["--env", f"dmc:walker-{task}", "--repeat", args.repeat, "--data", relabelled(data, task), "--agent.discount", 0.98]
    how = ["--agent.updates", args.updates, "--agent.eval-every", args.updates, "--agent.eval-episodes", args.episodes]
    return td3(args.run_dir / f"td3-{task}-{args.repeat}-{args.seeds}", *where, *how, *seeds_of(args))[-1][1]


def main() -> int:
    parser = flags(__doc__, seeds=3, updates=10_000)
    parser.add_argument("--method", choices=[*METHODS, "td3"], action="append", help="only these; td3 is trained per task")
    parser.add_argument("--steps", type=int, default=100_000, help="decisions of data")
    parser.add_argument("--episodes", type=int, default=10, help="of each task and seed")
    parser.add_argument("--repeat", type=int, default=4, help="steps of the simulation in a decision")
    args = parser.parse_args()
    args.debug = args.preset == "debug"
    if args.debug:
        args.seeds, args.updates, args.steps, args.episodes = 2, 20, 4_000, 2
    args.run_dir.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    data, path = explored(args), args.out / "td_jepa-walker.json"
    own = {k: getattr(args, k) for k in ("repeat", "seed", "seeds", "updates", "steps", "episodes")}
    own["cores"] = os.cpu_count()
    old = json.loads(path.read_text()) if path.exists() else {}
    rows = old["returns"] if {k: old.get(k) for k in own} == own else {}
    for method in ("random actions", *(args.method or [*METHODS, "td3"])):
        if method == "random actions":
            found = {task: at_random(envs.make(f"dmc:walker-{task}", repeat=args.repeat), args.episodes) for task in TASKS}
        elif method == "td3":
            found = {task: per_task(data, task, args) for task in TASKS}
        else:
            found = zero_shot(data, method, args)
        rows[method] = {task: mean_interval(x, 2) for task, x in found.items()} | {
            "all": mean_interval(np.mean(list(found.values()), 0), 2)
        }
        print(f"{method:16}", *(f"{task} {row['mean']:.1f}" for task, row in rows[method].items()), flush=True)
        path.write_text(json.dumps({**own, "returns": rows}, indent=1) + "\n")
    bars(rows, [*TASKS, "all"], path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
