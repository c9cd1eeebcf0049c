"""SAC on one environment of each kind: trains, and writes what it reached as small files beside this script.

    python experiments/reproduce/sac.py                      # all, about a quarter of an hour on 2 cores
    python experiments/reproduce/sac.py --only rlx:pendulum
    python experiments/reproduce/sac.py --preset debug       # the same path at toy size

One seed each: these show that every kind of environment trains, not how well SAC does. Results: `results/sac-<env>.json`
(settings, returns over steps, versions) and `results/sac-<env>.png` (the learning curve).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from rlx.cli.train import main as train
from rlx.train import logging

FAST = ["--agent.actor-lr", "1e-3", "--agent.critic-lr", "1e-3", "--agent.temperature-lr", "1e-3"]
RUNS: dict[str, list[str]] = {
    "rlx:pendulum": ["--agent.env-steps", "6000", "--agent.eval-every", "500", *FAST],
    "dmc:walker-walk": ["--repeat", "2", "--agent.env-steps", "16000", "--agent.eval-every", "2000"],
    "gym:HalfCheetah-v5": ["--agent.env-steps", "14000", "--agent.eval-every", "2000"],
    "brax:inverted_pendulum": ["--agent.env-steps", "10000", "--agent.eval-every", "500", *FAST],
    "mjx:cartpole-swingup": ["--repeat", "8", "--agent.env-steps", "5000", "--agent.eval-every", "1000", *FAST],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RUNS, help="one environment instead of all")
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", default="runs/reproduce-sac", help="where the run folders go")
    args = parser.parse_args()
    results = Path(__file__).parent / "results" if args.preset == "full" else Path(args.run_dir) / "results"
    results.mkdir(parents=True, exist_ok=True)
    reached = {}
    for env, flags in RUNS.items():
        if args.only not in (None, env):
            continue
        name = "sac-" + env.replace(":", "-")
        folder = Path(args.run_dir) / name
        size = ["--preset", "debug", *flags[: 2 * (flags[0] == "--repeat")]] if args.preset == "debug" else flags
        code = train(["sac", "--env", env, *size, "--no-video", "--agent.collect", "25", "--run-dir", str(folder)])
        if code:
            return code
        result = json.loads((folder / "result.json").read_text())
        lines = [x for x in logging.read(folder) if x["kind"] == "eval"]
        curve = [[x["env_steps"], round(x["return_mean"], 2)] for x in lines]
        config = json.loads((folder / "config.json").read_text())
        keep = ("return_mean", "return_ci", "return_best", "env_steps", "updates", "wall_s", "compile_s", "episodes")
        summary = {"command": ["train.py", "sac", "--env", env, *size], **{k: result[k] for k in keep}, "curve": curve}
        (results / f"{name}.json").write_text(json.dumps({**summary, "versions": config["versions"]}, indent=1) + "\n")
        shutil.copy(folder / "curve.png", results / f"{name}.png")
        reached[env] = [curve[0][1], round(result["return_mean"], 2)]
    for env, (first, final) in reached.items():
        print(f"{env:24} first evaluation {first:9.1f}   best agent at the end {final:9.1f}")
    print("RESULT " + json.dumps({"results": str(results), **{f"return_{k}": v[1] for k, v in reached.items()}}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
