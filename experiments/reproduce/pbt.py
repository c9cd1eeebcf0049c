"""Population-based training of PPO against the same members left alone: eight learning rates, four seeds, one budget.

    python experiments/reproduce/pbt.py                  # about four minutes on 2 cores
    python experiments/reproduce/pbt.py --preset debug   # the same path at toy size

Both populations begin alike, as one program each. In the second the worst quarter goes on from the best one every few cycles,
with learning rates moved by 0.8 or 1.25. Results: `results/pbt-ppo.json` (settings, returns of each member, learning rates that
are left, versions) and `results/pbt-ppo.png` (returns and learning rates over decisions).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from rlx import agents
from rlx.envs import make
from rlx.train import Options, logging, population, tournament
from rlx.train.origin import versions
from rlx.train.stats import estimate, iqm
from rlx.types import Problem

ENV, REPEAT = "rlx:cartpole-swingup", 4
RATES = [float(f"{x:.2g}") for x in np.geomspace(1e-5, 1e-1, 8)]
FULL = {"env_steps": 409_600, "eval_every": 20_480, "eval_episodes": 5}
DEBUG = {"env_steps": 8_192, "eval_every": 4_096, "eval_episodes": 2, "hidden": (16,)}


def train(changes: dict[str, Any], seeds: int, every: int, breed: bool, folder: Path) -> dict[str, Any]:
    """Trains one population in ``folder``; what it did."""
    problem = Problem({"train": make(ENV, repeat=REPEAT)})
    agent = agents.make("ppo", None, problem, **changes)
    begun = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    more: dict[str, Any] = {"exchange": tournament(0.25), "every": every} if breed else {}
    found = population(agent, problem, seeds, {"lr": RATES}, folder, options=Options(progress=False), **more)
    lines_of_run = logging.read(folder)
    lines = [x for x in lines_of_run if x["kind"] == "eval"]
    rates = [np.repeat(RATES, seeds), *(x["hyper/lr"] for x in lines_of_run if x.get("event") == "exchange")]
    return {
        "decisions": [int(np.max(x["env_steps"])) for x in lines],
        "returns": np.array([np.array(x["return_mean"], float) for x in lines]),  # [K, M]
        "rates": np.array(rates),  # [exchanges + 1, M]
        "left": np.asarray(found.state.agent.hyper["lr"]),
        "wall_s": time.perf_counter() - begun,
    }


def figures(run: dict[str, Any]) -> dict[str, Any]:
    """The result of one population: diverged members count as the worst return that was seen."""
    last = run["returns"][-1]
    last = np.where(np.isfinite(last), last, np.nanmin(run["returns"]))
    value, bounds, _ = estimate(last, iqm)
    over = f"{last.size} members of one population; not an interval of the method"
    middle = {"iqm": round(value, 1), "ci": [round(x, 1) for x in bounds], "ci_over": over, "best": round(float(last.max()), 1)}
    each = {"returns": np.round(last, 1).tolist(), "learning_rates": [float(f"{x:.3g}") for x in run["left"]]}
    return {**middle, "worst": round(float(last.min()), 1), **each, "wall_s": round(run["wall_s"], 1)}


def draw(runs: dict[str, dict[str, Any]], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    thousands = {name: np.array(run["decisions"]) / 1_000 for name, run in runs.items()}
    for (name, run), colour in zip(runs.items(), ("#444444", "#0072b2"), strict=True):
        left.plot(thousands[name], run["returns"], color=colour, alpha=0.15, linewidth=0.8)
        middle = [iqm(r[np.isfinite(r)]) for r in run["returns"]]
        left.plot(thousands[name], middle, color=colour, linewidth=2, label=f"{name}: IQM")
    rates = runs["exchanged"]["rates"]
    right.plot(np.linspace(0, thousands["exchanged"][-1], len(rates)), rates, color="#0072b2", alpha=0.4, linewidth=0.8)
    left.set(xlabel="thousand decisions of each member", ylabel="evaluation return", title="members and their IQM")
    right.set(xlabel="thousand decisions of each member", ylabel="learning rate", yscale="log", title="learning rates")
    figure.legend(loc="outside lower left", ncols=2)
    figure.savefig(file, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/reproduce-pbt"), help="where the run folders go")
    args = parser.parse_args()
    full = args.preset == "full"
    changes, seeds, every = (FULL, 4, 10) if full else (DEBUG, 1, 2)
    results = Path(__file__).parent / "results" if full else args.run_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = {"left alone": False, "exchanged": True}
    runs = {name: train(changes, seeds, every, breed, args.run_dir / name.replace(" ", "-")) for name, breed in names.items()}
    settings = {"env": ENV, "repeat": REPEAT, **changes, "seeds": seeds, "rates": RATES, "exchange_every_cycles": every}
    out = {"settings": settings, **{name: figures(run) for name, run in runs.items()}, "versions": versions()}
    (results / "pbt-ppo.json").write_text(json.dumps(out, indent=1) + "\n")
    draw(runs, results / "pbt-ppo.png")
    flat = {f"{k}_{name.split()[-1]}": out[name][k] for name in names for k in ("iqm", "best", "worst", "wall_s")}
    print("RESULT " + json.dumps({"results": str(results), "members": seeds * len(RATES), **flat}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
