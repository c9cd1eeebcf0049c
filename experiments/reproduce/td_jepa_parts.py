"""What the parts of TD-JEPA are for on the point-mass maze, and how it goes on learning one task.

    python experiments/reproduce/td_jepa_parts.py --run-dir runs/maze                      # all parts, minutes a seed
    python experiments/reproduce/td_jepa_parts.py --run-dir runs/maze --part ablations --seeds 3
    python experiments/reproduce/td_jepa_parts.py --run-dir runs/maze --preset debug       # the same path at toy size

Begins with the runs of ``td_jepa.py``, which is called for what is not there yet; give the same ``--seeds`` and ``--updates``.
``ablations``: without the regulariser, without a horizon, with one encoder, and features of other methods; `BOUNDS` says what
is expected. ``settings``: each of `SETTINGS` in place of the preset's. ``adaptation``: TD3 on one task from everything that was
learned, on the data and online. Intervals are over seeds.
``smoke``: 200 updates from pictures, with no run before it: whether all is finite and features spread, no claim about scores.
``results/td_jepa-PART.json`` has what is printed, ``results/td_jepa-PART.png`` shows it (``smoke`` has none).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tables import at_random, bars, mean_interval
from td_jepa import ENV, REPEAT, made, maze_of, parts, rlx

from rlx import keys, load
from rlx.envs.control import pointmass_maze as maze
from rlx.train import Policy, logging, stats
from rlx.types import Clock

TASKS = list(maze.SCORES)
ROOMS, FAR = TASKS[:4], TASKS[1:4]  # reach tasks; those in other rooms than that where an episode begins
FEW = 3  # seeds at most of what is trained here alone
WITHOUT = {"no regulariser": {"agent.lambda-phi": 0, "agent.lambda-psi": 0}, "no horizon": {"agent.discount": 0}}
SETTINGS = {
    "z at random alone": {"agent.goal-share": 0},
    "goals alone": {"agent.goal-share": 1},
    "no targets": {"agent.tau": 1},
    "pessimism 0.5": {"agent.pessimism": 0.5, "agent.actor-pessimism": 0.5},
    "phi linear": {"agent.phi-layers": 0},
    "phi of 4 layers": {"agent.phi-layers": 4},
    "psi linear": {"agent.psi-layers": 0},
}
ADAPTED = ("reach_top_right", "square")
PICTURES, UPDATES = 20, 200  # episodes of pictures, and updates on them
LOOK = {"pixels": "sdf", "image": 64, "state": "false"}
SEES = {"agent.batch": 32, "agent.frames": 3, "agent.pad": 2, "agent.inference": 256, "agent.eval-episodes": 1}
BOUNDS = {  # of what `ablations` finds, None: no bound
    "reach over random actions": (3.0, None),
    "reach over random features": (1.3, None),
    "directions without the regulariser": (None, 0.5),
    "off the diagonal": (0.75, 1.5),  # 1.25 was expected, 1.32 is what ten seeds have: set once by these
    "far rooms, more than no horizon": (0.0, None),
    "far rooms, more than byol": (0.0, None),
    "one encoder over two": (0.8, 1.2),
    "operations of one encoder over two": (None, 0.65),
}


# -------------------------------------------------------------------------------------------------------------------- runs


def trained(args: argparse.Namespace, name: str, seeds: int, flags: dict[str, Any]) -> Path:
    """A run on the same data, with the settings ``flags``."""
    folder = args.run_dir / f"{name.replace(' ', '-')}-{seeds}"
    if not (folder / "result.json").exists():
        flags = {"env": ENV, "repeat": REPEAT, "data": args.run_dir / "maze.npz", "preset": args.preset or "small", **flags}
        flags |= {"seed": args.seed, "seeds": seeds, "run-dir": folder}
        words = [word for k, v in flags.items() for word in (f"--{k}", v)]
        rlx("train", "td_jepa", *words, "--no-video", "--no-progress")
    return folder


def evaluations(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in logging.read(folder) if line["kind"] == "eval" and line["eval"] == name]


def returns_of(lines: list[dict[str, Any]], what: str = "return_mean") -> np.ndarray:
    """[evaluations, seeds]."""
    return np.stack([np.atleast_1d(line[what]) for line in lines])


# --------------------------------------------------------------------------------------------------------------- ablations


def looked_at(folder: Path) -> dict[str, Any]:
    """What a run has learned: returns, how its features are spread, and what an update costs."""
    last = evaluations(folder, "tasks")[-1]
    returns = {t: np.atleast_1d(last[f"return/{t}"]) for t in TASKS}
    policies = [load(folder, "last", k) for k in range(len(returns[TASKS[0]]))]
    watch, d = [p.state.learned["watch"] for p in policies], policies[0].agent.config.d_psi
    return {
        "seeds": len(policies),
        "reach": mean_interval(np.mean([returns[t] for t in ROOMS], 0)),
        "far rooms": mean_interval(np.mean([returns[t] for t in FAR], 0)),
        "all": mean_interval(np.mean(list(returns.values()), 0)),
        "directions": mean_interval([float(w.psi_participation) for w in watch]),  # of `d`, in which features lie
        "off the diagonal": mean_interval([float(w.psi_off_diagonal) / (d / 2) for w in watch]),  # 1: spread evenly
        "operations": mean_interval([operations(policies[0])]),
    }


def operations(policy: Policy) -> float:
    """Floating-point operations of one update, as XLA counts them."""
    phase, state = policy.agent.stages[0].phases[0], policy.state
    clock, key = Clock(*map(jnp.int32, (0, 0, 0))), keys.root(0)
    batch = phase.sample(state.hyper, clock, policy.problem.data, key)
    return float(jax.jit(phase.update).lower(state, clock, batch, key).compile().cost_analysis()["flops"])


def ablations(args: argparse.Namespace) -> dict[str, Any]:
    """What the regulariser, the horizon, two encoders and the features are for."""
    size = {} if args.debug else {"agent.updates": args.updates, "agent.eval-every": 2_500}
    folders = {m: made(args, m) for m in ("td_jepa", "symmetric", "byol", "random")}
    folders |= {name: trained(args, name, min(args.seeds, FEW), {**size, **flags}) for name, flags in WITHOUT.items()}
    rows = {}
    for name, folder in folders.items():
        rows[name] = looked_at(folder)
        print(name, json.dumps(rows[name]), flush=True)
    acted = float(np.mean([at_random(maze_of(room), 50).mean() for room in ROOMS]))
    held = judged(rows, acted)
    print(*(f"{k}: {v}" for k, v in held.items()), sep="\n", flush=True)
    bars(rows, ("reach", "far rooms", "all"), args.out / "td_jepa-ablations.png")
    return {"random actions, reach": round(acted, 2), "rows": rows, "found": held}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What z are drawn, targets, pessimism and depth are for."""
    size = {} if args.debug else {"agent.updates": args.updates, "agent.eval-every": 2_500}
    rows = {"td_jepa": looked_at(made(args, "td_jepa"))}
    for name, flags in SETTINGS.items():
        rows[name] = looked_at(trained(args, name, min(args.seeds, FEW), {**size, **flags}))
        print(name, json.dumps(rows[name]), flush=True)
    bars(rows, ("reach", "far rooms", "all"), args.out / "td_jepa-settings.png")
    return {"rows": rows}


def judged(rows: dict[str, dict[str, Any]], acted: float) -> dict[str, Any]:
    """Means set side by side, and whether they lie in `BOUNDS`. ``acted``: what uniform actions earn on the reach tasks."""
    mean = lambda what, name: rows[name][what]["mean"]
    over = lambda what, a, b: mean(what, a) / mean(what, b)
    found = {
        "reach over random actions": mean("reach", "td_jepa") / acted,
        "reach over random features": over("reach", "td_jepa", "random"),
        "directions without the regulariser": over("directions", "no regulariser", "td_jepa"),
        "off the diagonal": mean("off the diagonal", "td_jepa"),
        "far rooms, more than no horizon": mean("far rooms", "td_jepa") - mean("far rooms", "no horizon"),
        "far rooms, more than byol": mean("far rooms", "td_jepa") - mean("far rooms", "byol"),
        "one encoder over two": over("all", "symmetric", "td_jepa"),
        "operations of one encoder over two": over("operations", "symmetric", "td_jepa"),
    }
    return {k: {"value": round(x, 3), "bounds": BOUNDS[k], "holds": within(x, *BOUNDS[k])} for k, x in found.items()}


def within(x: float, low: float | None, high: float | None) -> bool:
    return (low is None or x >= low) and (high is None or x <= high)


# -------------------------------------------------------------------------------------------------------------- adaptation


def adaptation(args: argparse.Namespace) -> dict[str, Any]:
    """TD3 on one task from everything that was learned: on the data alone, and online."""
    base, updates = made(args, "td_jepa"), 40 if args.debug else 3_000
    each = updates // 10
    own = {"init-from": base, "agent.updates": 0, "agent.adapt": updates, "agent.eval-every": each}
    own["agent.per-cycle"] = min(50, each)  # decisions, and updates, by turns
    online = {"agent.adapt-online": True, "agent.adapt-prefill": 40 if args.debug else 5_000}
    found: dict[str, dict[str, np.ndarray]] = {}
    for task in ADAPTED:
        lines = evaluations(base, "tasks")
        best = returns_of(lines).argmax(0)  # what --init-from takes of each seed
        found[task] = {"zero-shot": np.take_along_axis(returns_of(lines, f"return/{task}"), best[None], 0)}
        for how, more in (("offline", {}), ("online", online)):
            flags = {"env-option": f"task={task}", **own, **more}
            found[task][how] = returns_of(evaluations(trained(args, f"{task}-{how}", args.seeds, flags), "adapt"))
        # online there is an evaluation before the first update: as before, but for the length of z
        found[task]["z scaled"], found[task]["online"] = np.split(found[task]["online"], [1])
        print(task, *(f"{k} {mean_interval(v[-1])}" for k, v in found[task].items()), flush=True)
    draw_curves(found, each, args.out / "td_jepa-adaptation.png")
    last = {task: {k: mean_interval(v[-1]) for k, v in rows.items()} for task, rows in found.items()}
    return {"updates of adapting": updates, "returns": last}


def draw_curves(found: dict[str, dict[str, np.ndarray]], each: int, path: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.2), layout="constrained")
    for ax, (task, rows) in zip(axes, found.items(), strict=True):
        for name, returns in rows.items():
            points = [stats.estimate(r[:, None]) for r in returns] * (10 if len(returns) == 1 else 1)
            x, bounds = each * np.arange(1, len(points) + 1), np.array([e.interval or (e.value, e.value) for e in points])
            [line] = ax.plot(x, [e.value for e in points], ls="--" if len(returns) == 1 else "-", label=name)
            ax.fill_between(x, *bounds.T, alpha=0.15, color=line.get_color(), lw=0)
        ax.set(title=task, xlabel="updates", ylabel="return")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------------------------------------- smoke


def smoke(args: argparse.Namespace) -> dict[str, Any]:
    """A few updates of both encoders from pictures: every line is finite, and what regularisers hold down falls."""
    data, folder = args.run_dir / "smoke.npz", args.run_dir / "smoke"
    look = {**LOOK, "image": 24} if args.debug else LOOK
    where = ["--env", ENV, "--repeat", REPEAT, *(word for k, v in look.items() for word in ("--env-option", f"{k}={v}"))]
    args.run_dir.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        many = ["--time-limit", 50, "--streams", PICTURES, "--steps", PICTURES * 50]
        rlx("collect", *where, "--env-option", "starts=uniform", "--mode", "random", *many, "--out", data, "--no-progress")
    if not (folder / "result.json").exists():
        updates = 20 if args.debug else UPDATES
        size = {"preset": args.preset or "small", **SEES, "agent.updates": updates, "agent.eval-every": updates}
        size |= {"agent.per-cycle": 1, "log-every": 1, "episodes": 1, "data": data, "run-dir": folder}
        words = (word for k, v in size.items() for word in (f"--{k}", v))
        rlx("train", "td_jepa", *where, *words, "--no-video", "--no-progress")
    lines = [line for line in logging.read(folder) if line["kind"] in ("train", "eval")]
    numbers = [x for line in lines for x in line.values() if not isinstance(x, str) or x in ("nan", "inf", "-inf")]
    whole, train = all(np.isfinite(np.float64(x)).all() for x in numbers), [line for line in lines if line["kind"] == "train"]
    parts_of = {"first tenth": train[: len(train) // 10], "last tenth": train[-(len(train) // 10) :]}
    mean = lambda name, part: round(float(np.mean([line[name] for line in part])), 3)
    found = {name: {k: mean(name, part) for k, part in parts_of.items()} for name in ("psi/off_diagonal", "phi/off_diagonal")}
    print(f"{len(lines)} lines, all finite: {whole}", json.dumps(found), flush=True)
    own = {"seeds": 1, "updates": len(train), "episodes": PICTURES, "look": look, "settings": SEES}
    return {**own, "lines": len(lines), "all finite": bool(whole), "found": found}


PARTS = {f.__name__: f for f in (ablations, settings, adaptation, smoke)}


if __name__ == "__main__":
    raise SystemExit(parts(__doc__, PARTS))
