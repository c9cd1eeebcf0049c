"""Updates of RePo per second, of world model and behaviour together, side by side with the same update written eagerly in
PyTorch, and how near the machine's rate of matrix products they come.

    python benchmarks/repo.py --peer PYTHON                  # preset tiny, with and without its probe; and the paper's sizes
    python benchmarks/repo.py --size tiny                    # rlx alone

PYTHON is an interpreter that has PyTorch (pip install torch) and need not have rlx: `repo_peer.py` runs there. Rounds go by
turns, rates are medians. Both sides sample from frames in memory, in float32. The share of the rate is the update's own
multiplications and additions in products and convolutions over what a chain of products of 1024 x 1024 reaches here.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from side_by_side import Peer, by_turns, compared, of_update, parser, product_rate, report, updates_of

from rlx import agents, config, envs
from rlx.nn.pictures import decoder_kernels
from rlx.types import Problem

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"preset": "tiny", "image": 32, "grey": True, "block": 20},
    "tiny without probe": {"preset": "tiny", "image": 32, "grey": True, "block": 20, "probe.enabled": False},
    "paper": {"preset": "paper", "image": 64, "grey": False, "block": 1},
    "paper without probe": {"preset": "paper", "image": 64, "grey": False, "block": 1, "probe.enabled": False},
}
PEER = ("batch", "chunk", "channels", "embedding", "belief", "state", "hidden", "head_layers", "actor_layers", "horizon")
PEER += ("entropy_nodes", "target_kl")


def measured(size: str, args: argparse.Namespace) -> dict[str, Any]:
    given = SIZES[size]
    env = envs.make("rlx:cartpole-swingup", repeat=2, pixels="sdf", image=given["image"], grey=given["grey"], state=False)
    problem, block = Problem({"train": env}), args.block or given["block"]
    settings = config.replace(agents.config("repo"), agents.presets("repo")[given["preset"]])
    few = {"n_envs": 4, "prefill": 2_000, "collect": 25, "capacity": 10_000, "updates": block, "env_steps": 2_200}
    few |= {k: given[k] for k in ("probe.enabled",) if k in given}
    agent = agents.make("repo", config.replace(settings, few), problem)
    work, out = {"rlx": updates_of(agent, problem)}, {}
    if args.peer:
        peer, (side, _, colours) = Peer.torch(args.peer, "repo_peer.py"), env.spec.obs.shape
        sizes = {k: getattr(agent.config, k) for k in PEER} | {"side": side, "colours": colours, "actions": 1}
        peer.ask(make={**sizes, "kernels": decoder_kernels(side), "probe": agent.config.probe.enabled})
        work["torch"], out = lambda: peer.ask(update=block), peer.versions
    rate, rates = product_rate(1024, 1024), []
    times = by_turns(work, args.rounds, lambda: rates.append(rate()))
    if args.peer:
        peer.close()
    flop, peak = of_update(agent, agent.report.method, problem), float(np.median(rates))
    share = flop * block / times["rlx"][0] / peak
    return out | compared(times, block) | {"gflop_per_update": round(flop / 1e9, 4), "share_of_product_rate": round(share, 3)}


def main() -> int:
    args = parser(__doc__, tuple(SIZES)).parse_args()
    return report(args, tuple(SIZES), lambda size: measured(size, args))


if __name__ == "__main__":
    raise SystemExit(main())
