"""TD-JEPA with the flow actor on OGBench's point maze and cube: success at the five tasks, next to imitation alone.

    python experiments/reproduce/td_jepa_ogbench.py --run-dir runs/ogbench                  # the maze: 20 000 updates, 3 seeds
    python experiments/reproduce/td_jepa_ogbench.py --run-dir runs/ogbench --world cube     # an arm that moves a cube
    python experiments/reproduce/td_jepa_ogbench.py --run-dir runs/ogbench --preset debug   # the same path at toy size

Stand-in data in OGBench's own form, states beside observations and no rewards. In the maze episodes of 200 decisions that go to
and fro between a place and another at most four cells away, along the way that OGBench's oracle knows, with noise of deviation
0.5: no episode shows a whole way, ways must be stitched. A decision is eight steps (``--repeat``), as in one the ball moves a
hundredth of the way. Of the cube, 1 000 decisions that bring it from place to place, by the plans that OGBench makes its own
play data with. ``imitation`` is the same agent with its actor held to the data so much that no value counts. Both are asked for
all tasks by ``rlx zero_shot --tasks all``. ``results/td_jepa-ogbench.json`` has what is printed, with intervals over seeds,
``results/td_jepa-ogbench.png`` shows it; of the cube ``td_jepa-cube``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tables import bars, mean_interval
from td_jepa import flags, rlx, seeds_of

NOISE, NEAR, IMITATION = 0.5, 4, 1e6  # of the maze's data: of actions, cells at most; the weight at which no value counts
Rows = Iterator[tuple[dict[str, Any], np.ndarray, bool]]  # what is stored of a state, the action, whether it is the last


def to_and_fro(env: Any, rng: np.random.Generator, decisions: int, repeat: int) -> Rows:
    """An episode of the maze."""
    free = [tuple(map(int, ij)) for ij in np.argwhere(env.maze_map == 0)]
    ends = [free[rng.integers(len(free))]]
    away = env.get_oracle_subgoal(env.ij_to_xy(ends[0]), env.ij_to_xy(ends[0]))[1]
    near = [ij for ij in free if 0 < away[ij] <= NEAR]
    ends.append(near[rng.integers(len(near))])
    env.set_xy(env.ij_to_xy(ends[0]) + rng.uniform(-1, 1, 2))
    for t in range(decisions + 1):
        place = env.get_xy()
        if np.linalg.norm(place - env.ij_to_xy(ends[1])) < 0.5:
            ends = ends[::-1]
        ahead = env.get_oracle_subgoal(place, env.ij_to_xy(ends[1]))[0] - place
        action = np.clip(ahead / max(np.linalg.norm(ahead), 1e-6) + NOISE * rng.normal(size=2), -1, 1)
        yield {"observations": place, "qpos": place, "qvel": 0 * place}, action, t == decisions
        for _ in range(repeat):
            env.step(action.astype(np.float32))


def played(env: Any, rng: np.random.Generator, decisions: int, repeat: int) -> Rows:
    """An episode in which the arm brings the cube to one place after another."""
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    np.random.seed(rng.integers(2**31))  # of which OGBench draws its plans
    plan = CubePlanOracle(env=env, noise=0.1, noise_smoothing=0.5)
    obs, info = env.reset(seed=int(rng.integers(2**31)))
    plan.reset(obs, info)
    for t in range(decisions + 1):
        action = np.clip(plan.select_action(obs, info), -1, 1)
        yield {"observations": obs, "qpos": info["qpos"], "qvel": info["qvel"]}, action, t == decisions
        for _ in range(repeat):
            obs, _, _, _, info = env.step(action.astype(np.float32))
        if plan.done:
            plan.reset(*env.set_new_target(return_info=True, p_stack=0.5))


class World(NamedTuple):
    """One of OGBench's environments, its data, and settings that are its own."""

    env: str
    rows: Callable[[Any, np.random.Generator, int, int], Rows]
    episodes: int
    decisions: int
    repeat: int
    limit: int  # steps of an evaluated episode, as OGBench has them
    bc: float
    discount: float
    options: dict[str, Any] = {}  # while data are made


WORLDS = {
    "maze": World("pointmaze-medium", to_and_fro, 500, 200, 8, 1_000, 0.3, 0.95),
    "cube": World(
        "cube-single", played, 100, 1_000, 1, 200, 3.0, 0.99, {"mode": "data_collection", "terminate_at_goal": False}
    ),
}


def stand_in(path: Path, world: World, episodes: int, decisions: int, repeat: int) -> Path:
    """The file of ``episodes`` whose actions are held for ``repeat`` steps, made where it is not there yet."""
    if path.exists():
        return path
    import gymnasium
    import ogbench  # noqa: F401 # registers its environments

    env: Any = gymnasium.make(f"{world.env}-v0", **world.options).unwrapped
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    rows = [row for _ in range(episodes) for row in world.rows(env, rng, decisions, repeat)]
    env.close()
    states, actions, last = zip(*rows, strict=True)
    given: dict[str, Any] = {name: np.float32([state[name] for state in states]) for name in states[0]}
    np.savez(path, terminals=np.array(last), actions=np.float32(actions), **given)
    return path


def asked(args: argparse.Namespace, world: World, data: Path, name: str, weight: float) -> dict[str, np.ndarray]:
    """Success in episodes of each task, [seeds, E]."""
    folder = args.run_dir / f"{args.world}-{name}-{args.repeat}-{args.seeds}"
    if not (folder / "result.json").exists():
        where = ["--env", f"gym:{world.env}-singletask-v0", "--data", data, "--repeat", args.repeat, "--time-limit", args.limit]
        size = ["--preset", "ogbench", "--preset", "debug"] if args.preset else ["--preset", "ogbench", "--preset", "small"]
        how = ["--agent.bc", weight, "--agent.discount", world.discount, "--agent.updates", args.updates]
        how += ["--agent.eval-every", args.updates, "--agent.eval-episodes", 1, *seeds_of(args)]
        rlx("train", "td_jepa", *where, *size, *how, "--run-dir", folder, "--no-video", "--no-progress")
    rlx("zero_shot", "--run-dir", folder, "--tasks", "all", "--episodes", args.episodes, "--which", "last")
    kept = json.loads((folder / "zero_shot" / "tasks.json").read_text())["tasks"]
    return {task: np.array(found["info/success"]) for task, found in kept.items()}


def main() -> int:
    parser = flags(__doc__, seeds=3, updates=20_000)
    parser.add_argument("--world", choices=WORLDS, default="maze")
    parser.add_argument("--episodes", type=int, default=20, help="of each task and seed")
    parser.add_argument("--repeat", type=int, help="steps that an action is held; of the maze 8, of the cube 1")
    args = parser.parse_args()
    world = WORLDS[args.world]
    args.repeat = args.repeat or world.repeat
    args.limit, made, decisions = world.limit // args.repeat, world.episodes, world.decisions
    if args.preset:
        args.seeds, args.updates, args.episodes, args.limit, made, decisions = 2, 20, 2, 20, 20, 40
    args.run_dir.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    data = stand_in(args.run_dir / f"{args.world}-{args.repeat}.npz", world, made, decisions, args.repeat)
    rows = {}
    for name, weight in {"TD-JEPA": world.bc, "imitation": IMITATION}.items():
        found = asked(args, world, data, name, weight)
        rows[name] = {task: mean_interval(x) for task, x in found.items()} | {
            "all": mean_interval(np.mean(list(found.values()), 0))
        }
        print(f"{name:12}", *(f"{task} {row['mean']:.2f}" for task, row in rows[name].items()))
    settings = {k: getattr(args, k) for k in ("repeat", "seed", "seeds", "updates", "episodes")}
    better = rows["TD-JEPA"]["all"]["mean"] > rows["imitation"]["all"]["mean"]
    page = {"env": world.env, **settings, "episodes of data": made, "cores": os.cpu_count(), "success": rows}
    stem = args.out / ("td_jepa-ogbench" if args.world == "maze" else f"td_jepa-{args.world}")
    page["checks"] = {"more success than imitation": better}
    stem.with_suffix(".json").write_text(json.dumps(page, indent=1) + "\n")
    bars(rows, list(rows["TD-JEPA"]), stem.with_suffix(".png"), "success")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
