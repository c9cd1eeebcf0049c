"""MoDem-V2's search in other learned models, on cart-pole swing-up: in SINDy-RL's sparse equations, in networks in their place,
and in networks whose predictions MOREC's learned reward of transitions chooses among.

    python experiments/reproduce/modem_planner.py --run-dir runs/planner                    # five seeds of each; hours
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --only "sparse equations" --seeds 3
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --preset debug     # the same path at toy size

All are SINDy-RL with its mode "planner": 8 000 random decisions; then in a hundred rounds of PPO in the model ten times 500
decisions of plans, after each of which it is fitted anew. All seeds of a variant are one program. Beside the planner stands the
policy of PPO in the same run. What ``results/modem-planner.json`` holds of other variants stays.
"""

from __future__ import annotations

import json

import numpy as np
from modem_v2 import evaluated, flags, rlx, settled, write
from tables import told

ENV = "rlx:cartpole-swingup"
NETWORKS = ("--agent.model", "mlp", "--agent.ensemble-size", 5)
ALONE = ("--agent.planner.proposals", 0, "--agent.planner.no-value")  # nothing but the model
VARIANTS = {
    "sparse equations": (),
    "sparse equations, alone": ALONE,
    "networks": NETWORKS,
    "networks, alone": (*NETWORKS, *ALONE),
    "networks, by a learned reward": (*NETWORKS, "--agent.filter.selection", "softmax"),
}
OFTEN = ("--agent.eval-every", 50)  # rounds


def main() -> int:
    given = settled(flags(__doc__))
    for name in given.only or VARIANTS:
        run_dir = given.run_dir / f"planner-{name.replace(' ', '-').replace(',', '')}-{given.seeds}"
        if not (run_dir / "result.json").exists():
            size = ("--preset", "debug", "--agent.eval-every", 1) if given.debug else OFTEN
            rlx("train", "sindy_rl", "--env", ENV, "--preset", "planner", *VARIANTS[name], *size, "--seeds", given.seeds,
                "--no-video", "--no-progress", "--run-dir", run_dir)  # fmt: skip
        row = {}
        for who in ("planner", "main"):
            lines = evaluated(run_dir, who)
            curve = [(int(np.max(x["env_steps"])), np.round(np.atleast_1d(x["return_mean"]), 1).tolist()) for x in lines]
            row[who] = {"return": told(curve[-1][1], 3), "curve": curve}
        print(name, json.dumps({who: found["return"] for who, found in row.items()}), flush=True)
        write(given.out / "modem-planner.json", {"env": ENV, "seeds": given.seeds, "variants": {name: row}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
