"""TD-JEPA with the flow actor on OGBench's point maze: success at its five tasks, next to imitation alone.

    python experiments/reproduce/td_jepa_ogbench.py --run-dir runs/pointmaze                  # 20 000 updates, three seeds
    python experiments/reproduce/td_jepa_ogbench.py --run-dir runs/pointmaze --preset debug   # the same path at toy size

Stand-in data in OGBench's own form, states beside observations and no rewards: episodes of 200 decisions that go to and fro
between a place and another at most four cells of the maze away, along the way that OGBench's oracle knows, with noise of
deviation 0.5. No episode shows a whole way; ways must be stitched. A decision is eight steps (``--repeat``), as in one the ball
moves a hundredth of the way. ``imitation`` is the same agent with its actor held to the data so much that no value counts. Both
are asked for all tasks by ``rlx zero_shot --tasks all``. ``results/td_jepa-ogbench.json`` has what is printed, with intervals
over seeds, ``results/td_jepa-ogbench.png`` shows it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tables import bars, mean_interval
from td_jepa import flags, rlx, seeds_of

MAZE, NOISE, NEAR, DECISIONS, LIMIT = "pointmaze-medium", 0.5, 4, 200, 1_000  # the limit is in steps, as OGBench has it
ACTORS = {"TD-JEPA": 0.3, "imitation": 1e6}  # weight of imitation


def stand_in(path: Path, episodes: int, repeat: int) -> Path:
    """The file of ``episodes`` whose actions are held for ``repeat`` steps, made where it is not there yet."""
    if path.exists():
        return path
    import gymnasium
    import ogbench  # noqa: F401 # registers its environments

    env: Any = gymnasium.make(f"{MAZE}-v0").unwrapped
    rng, rows = np.random.default_rng(0), []
    env.reset(seed=0)
    free = [tuple(map(int, ij)) for ij in np.argwhere(env.maze_map == 0)]
    for _ in range(episodes):
        ends = [free[rng.integers(len(free))]]
        away = env.get_oracle_subgoal(env.ij_to_xy(ends[0]), env.ij_to_xy(ends[0]))[1]
        near = [ij for ij in free if 0 < away[ij] <= NEAR]
        ends.append(near[rng.integers(len(near))])
        env.set_xy(env.ij_to_xy(ends[0]) + rng.uniform(-1, 1, 2))
        for t in range(DECISIONS + 1):
            place = env.get_xy()
            if np.linalg.norm(place - env.ij_to_xy(ends[1])) < 0.5:
                ends = ends[::-1]
            ahead = env.get_oracle_subgoal(place, env.ij_to_xy(ends[1]))[0] - place
            action = np.clip(ahead / max(np.linalg.norm(ahead), 1e-6) + NOISE * rng.normal(size=2), -1, 1)
            rows.append((place, action, t == DECISIONS))
            for _ in range(repeat):
                env.step(action.astype(np.float32))
    env.close()
    places, actions, last = (np.array(x) for x in zip(*rows, strict=True))
    given = {"observations": places, "actions": actions, "qpos": places, "qvel": 0 * places}
    np.savez(path, terminals=last, **{k: v.astype(np.float32) for k, v in given.items()})  # type: ignore[arg-type]
    return path


def asked(args: argparse.Namespace, data: Path, name: str, weight: float) -> dict[str, np.ndarray]:
    """Success in episodes of each task, [seeds, E]."""
    folder = args.run_dir / f"{name}-{args.repeat}-{args.seeds}"
    if not (folder / "result.json").exists():
        where = ["--env", f"gym:{MAZE}-singletask-v0", "--data", data, "--repeat", args.repeat, "--time-limit", args.limit]
        size = ["--preset", "ogbench", "--preset", "debug"] if args.preset else ["--preset", "ogbench", "--preset", "small"]
        how = ["--agent.bc", weight, "--agent.discount", 0.95, "--agent.updates", args.updates]
        how += ["--agent.eval-every", args.updates, "--agent.eval-episodes", 1, *seeds_of(args)]
        rlx("train", "td_jepa", *where, *size, *how, "--run-dir", folder, "--no-video", "--no-progress")
    rlx("zero_shot", "--run-dir", folder, "--tasks", "all", "--episodes", args.episodes, "--which", "last")
    kept = json.loads((folder / "zero_shot" / "tasks.json").read_text())["tasks"]
    return {task: np.array(found["info/success"]) for task, found in kept.items()}


def main() -> int:
    parser = flags(__doc__, seeds=3, updates=20_000)
    parser.add_argument("--episodes", type=int, default=20, help="of each task and seed")
    parser.add_argument("--repeat", type=int, default=8, help="steps of the maze that an action is held")
    args = parser.parse_args()
    args.limit, made = LIMIT // args.repeat, 500
    if args.preset:
        args.seeds, args.updates, args.episodes, args.limit, made = 2, 20, 2, 20, 20
    args.run_dir.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    data = stand_in(args.run_dir / f"stitch-{args.repeat}.npz", made, args.repeat)
    rows = {}
    for name, weight in ACTORS.items():
        found = asked(args, data, name, weight)
        rows[name] = {task: mean_interval(x) for task, x in found.items()} | {
            "all": mean_interval(np.mean(list(found.values()), 0))
        }
        print(f"{name:12}", *(f"{task} {row['mean']:.2f}" for task, row in rows[name].items()))
    settings = {k: getattr(args, k) for k in ("repeat", "seed", "seeds", "updates", "episodes")}
    better = rows["TD-JEPA"]["all"]["mean"] > rows["imitation"]["all"]["mean"]
    own = {"env": MAZE, **settings, "cores": os.cpu_count()}
    page = {**own, "success": rows, "checks": {"more success than imitation": better}}
    (args.out / "td_jepa-ogbench.json").write_text(json.dumps(page, indent=1) + "\n")
    bars(rows, list(rows["TD-JEPA"]), args.out / "td_jepa-ogbench.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
