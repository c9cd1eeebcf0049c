"""MOREC on stand-ins of D4RL's data (`stand_ins.py`), next to what it is built on and to methods without a model.

    python experiments/reproduce/morec_stand_ins.py --data data/Hopper-low-replay --env gym:Hopper-v4 --run-dir runs/hopper
    python experiments/reproduce/morec_stand_ins.py ... --method bc --method morec --seeds 3
    python experiments/reproduce/morec_stand_ins.py ... --full        # the papers' sizes: for a GPU

All seeds of a method are one program; what is there already is not trained again. Small sizes are those of MOREC's preset
`small`, the same networks and updates for all methods, so they say how methods compare there and not what they reach.
``results/morec-DATA.json`` has normalised returns of the last evaluation, rollout lengths, stop rates, and the errors of the
models along windows of the data, the same for all: after 1, 26 and 50 steps, medians over windows, of each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from tables import mean_interval

from rlx import replay
from rlx.agents import model_audit
from rlx.envs import scores
from rlx.train import logging
from rlx.train.policy import load_members

HORIZON = 50
LONG = {"starts": 200, "horizon": HORIZON}
SHORT = {"starts": 2_000, "horizon": 5}  # as many imagined decisions
# Of five times as many steps, and a generator that learns ten times as fast: at the preset's it stays far from the data.
GAME = {"scorer.game.steps": 20_000, "scorer.game.snap_every": 250, "scorer.game.generator_lr": 1e-3}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "morec (mopo)": ("morec", LONG),
    "morec (mobile)": ("morec", {"base": "mobile", "actor_by_target": True, **LONG}),
    "morec, argmax": ("morec", {"selection": "argmax", **LONG}),
    "stop only": ("morec", {"selection": "random", **LONG}),
    "no stop": ("morec", {"r_min": "-inf", **LONG}),
    "longer game": ("morec", {**GAME, **LONG}),
    "multi-step generator": ("morec", {"scorer.game.horizon": 5, **GAME, **LONG}),
    "rl generator": ("morec", {"scorer.game.horizon": 5, "scorer.game.generator_by": "rl", **LONG}),
    "long, no filter": ("morec", {"filter": "none", **LONG}),
    "whole episodes, no filter": ("morec", {"filter": "none", "starts": 20, "horizon": 1_000, "retained": 2}),
    "mopo": ("morec", {"filter": "none", **SHORT}),
    "mobile": ("morec", {"base": "mobile", "filter": "none", "deterministic_backup": True, **SHORT}),
    "iql": ("iql", {"normalize_returns": True}),
    "td3_bc": ("td3_bc", {}),
    "bc": ("bc", {}),
}
MODELS = {"dynamics.epochs": 20, "dynamics.batch": 1_024, "dynamics.lr": 2e-3}


def words(settings: dict[str, Any]) -> list[str]:
    flag = lambda k: "--agent." + k.replace("_", "-")
    spread = lambda v: [str(x) for x in v] if isinstance(v, tuple) else [str(v)]
    return [w for k, v in settings.items() for w in (flag(k), *spread(v))]


def trained(args: argparse.Namespace, method: str) -> Path:
    """The run folder of all seeds."""
    agent, own = METHODS[method]
    folder = args.run_dir / f"{method.replace(', ', '-').replace(' ', '_')}-{args.seeds}"
    if (folder / "result.json").exists():
        return folder
    learns = agent == "morec"
    if args.preset == "debug":
        size = ["--preset", "debug"]
    elif args.full:
        size = []
    else:
        each = {"updates": args.updates, "eval_every": args.updates // 2, "hidden": (64, 64)}
        size = ["--preset", "small", *words(MODELS)] if learns else []
        size += words(each)
    penalty = args.beta if own.get("base") == "mobile" else args.penalty
    given = {**({"uncertainty_penalty": penalty} if learns else {}), **own}
    call = ["train", agent, "--env", args.env, "--data", args.data, *size, *words(given), "--seeds", args.seeds]
    print("rlx", *call, flush=True)
    quiet = ["--no-video", "--no-progress", "--run-dir", folder]
    subprocess.run([sys.executable, "-m", "rlx", *map(str, [*call, *quiet])], check=True)
    return folder


def row(args: argparse.Namespace, method: str, reference: Any) -> dict[str, Any]:
    """Of the last evaluation, and of the models."""
    folder = trained(args, method)
    lines = logging.read(folder)
    last = [np.atleast_1d(np.array(line["return_mean"], float)) for line in lines if line["kind"] == "eval"][-1]
    found: dict[str, Any] = {"score": mean_interval(scores.normalised(reference, last) if reference else last, 2, "each")}
    for name in ("model/error", "scorer/gap", "rollout/length", "rollout/stopped", "rollout/score"):
        of = [line for line in lines if name in line]
        if of and (name.split("/")[0] != "scorer" or METHODS[method][1].get("filter") != "none"):
            found[name] = round(float(np.mean(of[-1][name])), 3)
    if METHODS[method][0] == "morec":
        found["errors"] = errors(folder)
    return found | {"seconds": round(float(lines[-1]["wall_s"]))}


def errors(folder: Path) -> dict[str, Any]:
    """Of the models of all seeds, as imagined episodes have them, over `model_audit.WINDOWS` windows; by the step."""
    found = []
    for policy in load_members(folder, "last").values():
        report = model_audit.of(policy.agent)
        found.append(report.audit(policy.state, replay.export(report.method.data), HORIZON).error[:, 1])
    at = (0, HORIZON // 2, HORIZON - 1)
    return {f"step {t + 1}": mean_interval(np.array(found)[:, t], 3, "each") for t in at}


def picture(rows: dict[str, dict[str, Any]], data_score: float, file: Path) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, found in enumerate(rows.values()):
        left.barh(y, found["score"]["mean"], color="C0")
        left.plot(found["score"]["interval"] or (), [y] * len(found["score"]["interval"] or ()), color="black", lw=1)
        for value in found.get("errors", {}).values():
            right.plot(value["mean"], y, "o", color="C1", ms=4)
            right.plot(value["interval"] or (), [y] * len(value["interval"] or ()), color="C1", lw=1)
    left.axvline(data_score, color="black", ls=":", lw=1)
    left.set(xlabel="score; dots: of the data", yticks=range(len(rows)), yticklabels=list(rows))
    left.invert_yaxis()
    right.set(xlabel="models' error after 1, 26, 50 steps, in std", xscale="log")
    figure.savefig(file, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--method", choices=[*METHODS], action="append", help="only these")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--penalty", type=float, default=1.0, help="of uncertainty in MOPO and its kin")
    parser.add_argument("--beta", type=float, default=0.5, help="and in MOBILE and its kin")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    reference = scores.reference(args.env)
    data = replay.from_episodes(replay.load(args.data))
    mean = replay.episode_returns(data).mean()
    args.out.mkdir(parents=True, exist_ok=True)
    penalty = "" if args.penalty == parser.get_default("penalty") else f"-penalty-{args.penalty:g}"
    file = args.out / f"morec-{args.data.name.lower()}{penalty}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    own: dict[str, Any] = {"env": args.env, "data": args.data.name, "seeds": args.seeds, "updates": args.updates}
    own |= {"penalty": args.penalty, "beta": args.beta, "cores": os.cpu_count(), "jax": jax.__version__}
    own["data_score"] = round(float(scores.normalised(reference, mean) if reference else mean), 2)
    same = {k: before.get(k) for k in own} == own
    rows: dict[str, Any] = before.get("methods", {}) if same else {}
    for method in args.method or METHODS:
        rows[method] = row(args, method, reference)
        print(method, json.dumps(rows[method]), flush=True)
        file.write_text(json.dumps({**own, "methods": rows}, indent=1) + "\n")
        picture({k: rows[k] for k in METHODS if k in rows}, own["data_score"], file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
