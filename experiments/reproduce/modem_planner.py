"""MoDem-V2's search in other learned models, on cart-pole swing-up: in SINDy-RL's sparse equations, in networks in their place,
and in networks whose predictions MOREC's learned reward of transitions chooses among.

    python experiments/reproduce/modem_planner.py --run-dir runs/planner                    # five seeds of each; hours
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --only "sparse equations" --seeds 3
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --preset debug     # the same path at toy size

All are SINDy-RL with its mode "planner": 8 000 random decisions; then in a hundred rounds of PPO in the model ten times 500
decisions of plans, after each of which it is fitted anew. Beside the planner stands the policy of PPO in the same run. Each
seed is a run. What ``results/modem-planner.json`` holds of other variants stays.
"""

from __future__ import annotations

import json

from modem_v2 import evaluated, flags, rlx, settled, write
from tables import mean_interval

ENV = "rlx:cartpole-swingup"
NETWORKS = ("--agent.model", "mlp", "--agent.ensemble-size", 5)
VARIANTS = {
    "sparse equations": (),
    "sparse equations, alone": ("--agent.planner.proposals", 0, "--agent.planner.no-value"),
    "networks": NETWORKS,
    # each prediction of each plan is judged: few discriminators, and an episode an evaluation
    "networks, by a learned reward": (*NETWORKS, "--agent.filter.selection", "softmax", "--agent.filter.snapshots", 3,
                                      "--agent.eval-episodes", 1, "--episodes", 1),
}  # fmt: skip
OFTEN = ("--agent.eval-every", 50)  # rounds


def main() -> int:
    given = settled(flags(__doc__))
    size = ("--preset", "debug", "--agent.eval-every", 1) if given.debug else OFTEN
    for name in given.only or VARIANTS:
        curves: dict[str, list] = {"planner": [], "main": []}
        for seed in range(given.seeds):
            run_dir = given.run_dir / f"planner-{name.replace(' ', '-').replace(',', '')}-{seed}"
            if not (run_dir / "result.json").exists():
                rlx("train", "sindy_rl", "--env", ENV, "--preset", "planner", *VARIANTS[name], *size, "--seed", seed,
                    "--no-video", "--no-progress", "--run-dir", run_dir)  # fmt: skip
            for who, curve in curves.items():
                lines = evaluated(run_dir, who)
                curve.append([(int(x["env_steps"]), round(float(x["return_mean"]), 1)) for x in lines])
        row = {who: {"return": mean_interval([c[-1][1] for c in each], 3), "curves": each} for who, each in curves.items()}
        print(name, json.dumps({who: found["return"] for who, found in row.items()}), flush=True)
        write(given.out / "modem-planner.json", {"env": ENV, "variants": {name: row}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
