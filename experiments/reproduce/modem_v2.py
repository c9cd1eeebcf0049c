"""TD-MPC on cart-pole swing-up, MoDem-V2 and what lies between it and MoDem on pushing, and MoDem-V2 on a task of Meta-World.

    python experiments/reproduce/modem_v2.py --run-dir runs/modem                       # all: a day on two cores
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part tdmpc --seeds 3
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part push --only modem_v2 --only v1 --seeds 5
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --preset debug        # the same path at toy size

What is there already is not trained again. Results: `results/modem-<part>.json`, and pictures beside them; what a file holds of
other variants stays. Runs and results of the toy size lie in the folder `debug` of the run folder. Intervals are over seeds.
What reward head, critics and clone know: `modem_parts.py`. The same search in other models: `modem_planner.py`.

- tdmpc: returns over simulation steps, to be held against the published 859 after 100 000 (four to a decision).
- push: success and violations over decisions, of the mixture that acts, of the planner and of the clone; and which rows violate
  most. ``--env rlx:push-lite`` is the same in MuJoCo, ``--pixels`` the toy in pictures, beside what the finger knows of itself.
- meta-world: success over decisions on a task of Meta-World from pictures, a seed after another.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tables import mean_interval

from rlx.envs.experts import known
from rlx.train import logging

PUBLISHED = {"cartpole-swingup": 859.0}  # TD-MPC after 100 000 simulation steps, from its authors' results
# words behind the preset tiny; MuJoCo's clone asks for wider networks and more updates, and is then at the goal sooner
SIZES: dict[str, tuple[Any, ...]] = {
    "push-toy": (),
    "push-toy-pixels": ("--agent.env-steps", 4_800),
    "push-lite": ("--agent.hidden", 160, "--agent.encoder-hidden", 160, "--agent.latent", 32, "--agent.bc-updates", 4_000,
                  "--agent.env-steps", 7_200),
}  # fmt: skip
SAFETY = {"violation": "violations", "contact_force_max": "peak force", "contact_force_mean": "mean force",
          "saturation": "saturation", "jerk_mean": "jerk"}  # of decisions  # fmt: skip
MODES = ("main", "planner", "bc", "bc_noisy")  # of evaluations
PIXELS = ("observe=proprio", "discs=32")  # finger, puck and goal as a channel each; the puck is in pictures alone
ROWS: dict[str, tuple[str, ...]] = {  # presets on top of the size
    "modem_v2": (),
    "v1": ("v1",),
    "v1_as_in_v2": ("v1_as_in_v2",),
    "torque_penalty": ("torque_penalty",),  # of MoDem; the toy has no actuators
    "centering": ("centering",),
    "transition": ("transition",),
    "ensemble": ("ensemble",),
    "no_centering": ("no_centering",),
}
MODEM = ("v1", "torque_penalty")  # by its own preset of this size
OWN = dict.fromkeys(("v1_as_in_v2", "no_centering"), ("--agent.samples", 63))  # and 3 of policies: 66, as the others have


def rlx(*words: Any) -> None:
    print("rlx", *words, flush=True)
    subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)


def write(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Into the file what is ``new``; variants that it has already stay. All of them are returned."""
    old = json.loads(path.read_text()) if path.exists() else {}
    variants = {**old.get("variants", {}), **new.pop("variants", {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**old, **new, "variants": variants}, indent=1) + "\n")
    return variants


def evaluated(run_dir: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in logging.read(run_dir) if line["kind"] == "eval" and line["eval"] == name]


# ------------------------------------------------------------------------------------------------------------------- tdmpc


def tdmpc(given: argparse.Namespace) -> None:
    """Runs of one seed each, one after another: a host environment."""
    curves: dict[int, list[tuple[int, float]]] = {}
    for seed in range(given.seeds):
        run_dir = given.run_dir / f"tdmpc-{seed}"
        size = "debug" if given.debug else "small"
        if given.as_is and not run_dir.exists():
            continue
        if not given.as_is and not (run_dir / "result.json").exists():
            rlx("train", "tdmpc", "--env", "dmc:cartpole-swingup", "--repeat", 4, "--preset", size, "--seed", seed,
                "--no-video", "--no-progress", "--run-dir", run_dir)  # fmt: skip
        curve = [(int(line["sim_steps"]), float(line["return_mean"])) for line in evaluated(run_dir, "main")]
        curves |= {seed: curve} if curve else {}
    if not curves:
        raise SystemExit(f"{given.run_dir} holds no evaluation of TD-MPC yet: leave out --as-is, or wait for the first.")
    last = {seed: curve[-1] for seed, curve in curves.items()}
    for seed, (steps, value) in last.items():
        print(f"seed {seed}: {value:.1f} after {steps} simulation steps")
    whole = [v for steps, v in last.values() if steps == max(s for s, _ in last.values())]
    final, published = mean_interval(whole, 3), PUBLISHED["cartpole-swingup"]
    row = {"curves": curves, "final": final, "finished": len(whole), "published": published}
    write(given.out / "modem-tdmpc.json", {"cores": os.cpu_count(), "variants": {"cartpole-swingup": row}})
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for seed, curve in curves.items():
        axes.plot(*np.transpose(curve), label=f"seed {seed}", lw=1.2)
    axes.axhline(row["published"], color="black", ls=":", lw=1, label="published at 100 000")
    axes.set(xlabel="simulation steps", ylabel="return", title="TD-MPC, cart-pole swing-up", ylim=(0, 1000))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(given.out / "modem-tdmpc.png", dpi=120)


# -------------------------------------------------------------------------------------------------------------------- push


def push(given: argparse.Namespace) -> None:
    """All seeds of a row are one program where the environment is on the device."""
    known(given.env)
    part = given.env.split(":")[1] + ("-pixels" if given.pixels else "")
    seen = [word for option in (PIXELS if given.pixels else ()) for word in ("--env-option", option)]
    demos = demonstrations(given.run_dir / f"demos-{part}.npz", "--env", given.env, *seen)
    found = {}
    for name in given.only or [row for row in ROWS if row != "torque_penalty" or given.env != "rlx:push-toy"]:
        run_dir = given.run_dir / "-".join([part, name, str(given.seeds), *re.findall(r"[\w.]+", given.more)])
        small = ["debug"] if given.debug else []
        size = ["tiny_v1", *small] if name in MODEM else small or ["tiny"]
        presets = [*size, *(ROWS[name] if name != "v1" else ())]
        own = [word for preset in presets for word in ("--preset", preset)]
        own += (*OWN.get(name, ()), *(() if given.debug else SIZES[part]))
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", "--env", given.env, *seen, "--data", demos, *own, "--seeds", given.seeds, "--no-video",
                "--no-progress", "--log-every", 1, "--run-dir", run_dir, *given.more.split())  # fmt: skip
        label = f"{name} {given.more}".strip()
        found[label] = {"more": given.more, **outcome(run_dir)}
        print(label, json.dumps({k: v for k, v in found[label].items() if k != "curves"}))
    path = given.out / f"modem-{part}.json"
    rows = write(path, {"env": given.env, "options": seen[1::2], "cores": os.cpu_count(), "variants": found})
    write(path, {"violations": ordered(rows)})
    picture(rows, path.with_suffix(".png"))


def demonstrations(path: Path, *words: Any, episodes: int = 10, noise: float = 0.1) -> Path:
    """Those of the script under noise, made unless they are there."""
    if not path.exists():
        rlx("data", "demos", *words, "--episodes", episodes, "--noise", noise, "--out", path, "--no-progress")
    return path


def ordered(rows: dict[str, Any]) -> dict[str, Any]:
    """Violations per decision of all that was done up to where the shortest row ends, the most violent row first. A line counts
    as often as it has decisions: the first one is all of seeding."""
    curves = {name: row["curves"].get("violations while training", ()) for name, row in rows.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    until = min((curve[-1][0] for curve in curves.values()), default=0)
    each = {}
    for name, curve in curves.items():
        steps, values = zip(*[line for line in curve if line[0] <= until], strict=True)
        each[name] = mean_interval(np.average(values, 0, np.diff(steps, prepend=0)), 4)
    return {"until": until, "rows": dict(sorted(each.items(), key=lambda item: -item[1]["mean"]))}


def outcome(run_dir: Path) -> dict[str, Any]:
    """Of a run with members [M]: what the last evaluation of each mode says, how far what acts was ever below the clone, and
    violations while it learned."""
    each = lambda lines, key: [(int(np.max(x["env_steps"])), np.round(np.atleast_1d(x[key]), 4).tolist()) for x in lines]
    row: dict[str, Any] = {"curves": {}}
    for name in MODES:
        lines = evaluated(run_dir, name)
        if lines:
            shown = [k for k in ("solved", *SAFETY) if f"info/{k}_mean" in lines[-1]]
            last = {k: mean_interval(np.atleast_1d(lines[-1][f"info/{k}_mean"]), 3) for k in shown}
            row[name] = last | {"return": mean_interval(np.atleast_1d(lines[-1]["return_mean"]), 3)}
            row["curves"][name] = each(lines, "info/solved_mean")
            row["curves"][f"{name}, violations"] = each(lines, "info/violation_mean")
    for clone in ("bc", "bc_noisy"):
        over = [np.subtract(v, row["curves"][clone][0][1]) for _, v in row["curves"].get("main", ())]
        if over:
            row[f"least solved over {clone}, mean of seeds"] = round(float(np.mean(over, 1).min()), 3)
    lines = [x for x in logging.read(run_dir) if x["kind"] == "train" and "decisions/violation" in x]
    planned = [x for x in lines if x["stage"] in ("warm", "learn")]
    for key, what in SAFETY.items():
        if lines and f"decisions/{key}" in lines[0]:
            row["curves"][f"{what} while training"] = each(lines, f"decisions/{key}")
    row["curves"]["critics' mean"] = each([x for x in lines if "critic/q_mean" in x], "critic/q_mean")
    if planned:
        values = np.array([np.atleast_1d(x["decisions/violation"]) for x in planned])
        row["violations per decision, first 1600 after seeding"] = mean_interval(values[:2].mean(0), 3)
        row["violations per decision, all after seeding"] = mean_interval(values.mean(0), 3)
    return row


def picture(rows: dict[str, Any], path: Path) -> None:
    """Success of what acts, and violations while training, over decisions; bands are intervals over seeds."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, row) in enumerate(rows.items()):
        for axes, what in ((left, "main"), (right, "violations while training")):
            curve = row["curves"].get(what, ())
            if not curve:
                continue
            steps, found = [x for x, _ in curve], [mean_interval(v, 3) for _, v in curve]
            axes.plot(steps, [x["mean"] for x in found], color=f"C{i}", label=name, lw=1.3)
            bounds = [x["interval"] or [x["mean"]] * 2 for x in found]
            axes.fill_between(steps, *np.transpose(bounds), color=f"C{i}", alpha=0.12, lw=0)
    clones = [np.mean(row["curves"][k][0][1]) for k in ("bc", "bc_noisy") for row in list(rows.values())[:1]]
    for value, style, name in zip(clones, ("--", ":"), ("the clone", "the clone, with noise"), strict=True):
        left.axhline(value, color="black", ls=style, lw=1, label=name)
    left.set(xlabel="decisions", ylabel="solved, by what acts", ylim=(0, 1.02))
    right.set(xlabel="decisions", ylabel="violations per decision while training")
    right.set_yscale("symlog", linthresh=1e-3)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


# -------------------------------------------------------------------------------------------------------------- meta-world

META_WORLD = ("env_name={}", "pixels=gl", "camera=corner2", "image=48")
# four steps to a decision, so that the drawer is open after 22 of an episode's 50
FEW = ("--agent.n-envs", 4, "--agent.batch", 32, "--agent.seed-steps", 800, "--agent.env-steps", 6_000,
       "--agent.bc-updates", 2_000, "--agent.handover.steps", 4_000, "--agent.demo-steps", 4_000,
       "--agent.horizon-steps", 1_600, "--agent.eval-episodes", 10)  # fmt: skip


def meta_world(given: argparse.Namespace) -> None:
    """A run for each seed, one after another: a host environment."""
    options = [word for option in META_WORLD for word in ("--env-option", option.format(given.task))]
    task = ["--env", "gym:rlx.envs.meta_world_modem:MetaWorldMoDem-v0", "--repeat", 4, *options]
    demos = demonstrations(given.run_dir / f"demos-{given.task}.npz", *task, episodes=5, noise=0.0)
    size = ("--preset", "debug", "--agent.seed-steps", 100) if given.debug else ("--preset", "tiny", *FEW)
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for seed in range(given.seeds):
        run_dir = given.run_dir / f"{given.task}-{seed}"
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", *task, "--data", demos, "--preset", "metaworld", *size, "--seed", seed, "--no-video",
                "--no-progress", "--run-dir", run_dir)  # fmt: skip
        for name in MODES:
            lines = evaluated(run_dir, name)
            curves.setdefault(name, []).append([(int(x["env_steps"]), round(float(x["info/solved_mean"]), 3)) for x in lines])
    row = {name: mean_interval([curve[-1][1] for curve in each], 3) for name, each in curves.items()} | {"curves": curves}
    print(given.task, json.dumps({k: v for k, v in row.items() if k != "curves"}))
    own = {"size": " ".join(map(str, size)), "cores": os.cpu_count()}
    write(given.out / "modem-meta-world.json", {**own, "variants": {given.task: row}})
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, label) in enumerate({"main": "what acts", "planner": "the planner alone"}.items()):
        for curve in curves[name]:
            axes.plot(*np.transpose(curve), color=f"C{i}", lw=1.3, label=label)
            label = "_"
    axes.axhline(row["bc"]["mean"], color="black", ls="--", lw=1, label="the clone")
    axes.set(xlabel="decisions", ylabel="solved", title=given.task, ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(given.out / "modem-meta-world.png", dpi=120)


PARTS = {"tdmpc": tdmpc, "push": push, "meta-world": meta_world}


def flags(doc: str | None) -> argparse.ArgumentParser:
    """What the scripts of this method have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--only", action="append", help="only these variants")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, help="default: results/ beside this script, with --preset in the run folder")
    return parser


def settled(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags as given, with the folders that they name."""
    given = parser.parse_args()
    given.debug = given.preset == "debug"
    given.run_dir /= "debug" if given.debug else ""
    given.out = given.out or (given.run_dir if given.debug else Path(__file__).parent / "results")
    given.run_dir.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def main() -> int:
    parser = flags(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--env", choices=("rlx:push-toy", "rlx:push-lite"), default="rlx:push-toy", help="of the part push")
    parser.add_argument("--pixels", action="store_true", help="of the part push: rlx:push-toy from pictures")
    parser.add_argument("--more", default="", help="words for rlx train, of the part push")
    parser.add_argument("--task", default="drawer-open-v3", help="of the part meta-world")
    parser.add_argument("--as-is", action="store_true", help="tdmpc: train nothing, read what the run folders hold")
    given = settled(parser)
    if given.pixels and given.env != "rlx:push-toy":
        parser.error(f"--pixels is for rlx:push-toy, and --env is {given.env}: leave one of them out.")
    for name in given.part or PARTS:
        PARTS[name](given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
