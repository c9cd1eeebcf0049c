"""Updates of TD-JEPA per second, side by side with the same update written eagerly in PyTorch, and how near the machine's
rate of matrix products they come.

    python benchmarks/td_jepa.py --peer PYTHON                  # sizes small and walker; a population against one run
    python benchmarks/td_jepa.py --size small --cores 1         # rlx alone
    python benchmarks/td_jepa.py --sweep --cores 1              # the paper's sweep at size small, one program, against one run
    python benchmarks/td_jepa.py --pictures 1000000 --cores 1   # updates from so many on disk, against a few in memory

PYTHON is an interpreter that has PyTorch (pip install torch) and need not have rlx: `td_jepa_peer.py` runs there, and again
with ``torch.compile`` where that works. Rounds go by turns, rates are medians. Both sides sample from rows in memory, in
float32. The share of the rate is the update's own multiplications and additions in products over what a chain of products of
its widest shape reaches here. ``--pictures`` writes frames of 64 x 64 x 3 (12.3 GB a million) into a folder that is gone
afterwards, and says what the process takes of memory, what the system keeps of the files not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from data import EPISODE, blocks
from side_by_side import (
    Peer,
    by_turns,
    compared,
    nothing_to_learn,
    of_update,
    parser,
    product_rate,
    report,
    standing_still,
    updates_of,
)

from rlx import agents, config
from rlx.replay import datasets
from rlx.types import Agent, Leaf, Problem

OBS, ACTIONS, LENGTH, EPISODES = 24, 6, 1_000, 200
SIZES = ("small", "walker")
POINTS = [{"lr_psi": rate, "lambda_psi": weight} for rate in (1e-4, 1e-5) for weight in (0.01, 0.1, 1.0)]  # the paper's grid
SEEDS = 5  # of each
PEER = (
    "batch",
    "d_phi",
    "d_psi",
    "phi_hidden",
    "phi_layers",
    "psi_hidden",
    "psi_layers",
    "predictor_hidden",
    "predictor_layers",
)
PEER += ("actor_hidden", "actor_layers", "heads", "discount", "lambda_psi", "tau")


def agent_of(size: str, block: int, given: Problem) -> Agent:
    """With ``block`` updates in a cycle."""
    settings = config.replace(agents.config("td_jepa"), agents.presets("td_jepa")[size])
    settings = config.replace(settings, {"per_cycle": block, "updates": 100 * block, "eval_every": 100 * block})
    return agents.make("td_jepa", settings, given)


def measured(size: str, args: argparse.Namespace, given: Problem) -> dict[str, Any]:
    block = args.block or (100 if size == "small" else 10)
    agent = agent_of(size, block, given)
    settings = agent.config
    work = {"rlx": updates_of(agent, given)}
    if args.members and size == "small":
        work[f"population_{args.members}"] = updates_of(agent, given, args.members)
    out: dict[str, Any] = {}
    peers = []
    for name, compiled in (("torch", False), ("torch_compiled", True)) if args.peer else ():
        peers.append(peer := Peer.torch(args.peer, "td_jepa_peer.py"))
        out["torch"] = peer.versions["torch"]
        found = peer.ask(make={**{k: getattr(settings, k) for k in PEER}, "obs": OBS, "actions": ACTIONS}, compile=compiled)
        if found is True:
            work[name] = lambda peer=peer: peer.ask(update=block)
        else:
            out[f"{name}_failed"] = found
    rate, rates = product_rate(settings.batch, settings.predictor_hidden), []
    times = by_turns(work, args.rounds, lambda: rates.append(rate()))
    for peer in peers:
        peer.close()
    flop = of_update(agent, agent.report.method, given)
    share = flop * block / times["rlx"][0] / float(np.median(rates))
    return out | compared(times, block) | {"gflop_per_update": round(flop / 1e9, 4), "share_of_product_rate": round(share, 3)}


def sweep(args: argparse.Namespace, given: Problem) -> dict[str, Any]:
    """All `POINTS` with all seeds as one program, as multiples of one run."""
    block, many = args.block or 100, [(seed, point) for point in POINTS for seed in range(SEEDS)]
    agent = agent_of("small", block, given)
    work = {"rlx": updates_of(agent, given), f"population_{len(many)}": updates_of(agent, given, many)}
    return compared(by_turns(work, args.rounds), block) | {"configurations": len(POINTS), "seeds": SEEDS}


def pictures(args: argparse.Namespace) -> dict[str, Any]:
    """Updates with the preset for pictures, drawn from many mapped from disk and from few in the device's memory."""
    env, few, block = standing_still(Leaf((64, 64, 3), np.uint8), ACTIONS, EPISODE), 10 * EPISODE, args.block or 2
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for where, count in (("device", few), ("disk", args.pictures)):
            with datasets.Writer(Path(folder) / where) as out:
                out.append(blocks(count))
            data = datasets.mapped(Path(folder) / where).replay(device=where == "device")
            made[where] = Problem({"train": env}, {"data": data})
        work = {"rlx": updates_of(agent_of("pixels", block, made["device"]), made["device"])}
        work["disk"] = updates_of(agent_of("pixels", block, made["disk"]), made["disk"])
        times = by_turns(work, args.rounds)
        own = anonymous_gigabytes()
    return compared(times, block) | {"frames": args.pictures, "frames_on_device": few, "process_gigabytes": round(own, 2)}


def anonymous_gigabytes() -> float:
    """What this process holds that is no copy of a file."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return int(line.split()[1]) / 1e6


def main() -> int:
    flags = parser(__doc__, SIZES)
    flags.add_argument("--sweep", action="store_true", help="lr_psi x lambda_psi x seeds, instead of sizes")
    flags.add_argument("--pictures", type=int, metavar="FRAMES", help="updates from so many on disk, instead of sizes")
    flags.add_argument("--members", type=int, default=5, help="of the population at size small; 0: none")
    args = flags.parse_args()
    if args.pictures:
        args.size = ["pictures"]
        return report(args, SIZES, lambda size: pictures(args))
    given = nothing_to_learn(OBS, ACTIONS, LENGTH, EPISODES)
    if args.sweep:
        args.size = ["sweep"]
    return report(args, SIZES, lambda size: sweep(args, given) if size == "sweep" else measured(size, args, given))


if __name__ == "__main__":
    raise SystemExit(main())
