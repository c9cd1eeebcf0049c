"""Offline agents side by side with d3rlpy's, on the same rows: BC, TD3+BC and IQL, two layers of 256, batch 256.

    python benchmarks/offline.py --peer PYTHON                        # updates/s, and a population of 8 against one run
    python benchmarks/offline.py --part scores --peer PYTHON --data hopper-medium.npz --env gym:Hopper-v4 --updates 100000

PYTHON is an interpreter that has d3rlpy (pip install d3rlpy torch) and need not have rlx: `offline_peer.py` runs there. Both
sides sample from rows in memory, in float32, on as many threads. Rounds go by turns, rates are medians. On a machine that does
other things too, ``--cores 1`` gives figures that mean something: threads that wait for each other are slow there, and the
processor's seconds (``..._cpu``) are those of the work alone.

"updates" has rows of D4RL's shapes (17 numbers, 6 actions, 100 episodes of 1 000). "scores" trains with the same settings and
budget from the same file, all seeds of rlx as one program, and compares the last policies in whole episodes: normalised
returns of each seed, their mean, and its 95% interval over seeds. With --out it goes on where it was stopped. Settings: Adam
3e-4; IQL with cosine decay and rewards by the range of returns; TD3+BC and BC with normalised observations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from side_by_side import Peer, Work, by_turns, compared, nothing_to_learn, updates_of

from rlx import agents, envs, keys, replay
from rlx.envs import batch, scores
from rlx.files import write_text
from rlx.keys import HostKey
from rlx.train import Options, population
from rlx.train.evaluate import evaluate_members
from rlx.train.stats import estimate
from rlx.types import Env, HostEnv, Problem, Row

AGENTS = ("bc", "td3_bc", "iql")
OBS, ACTIONS, LENGTH = 17, 6, 1_000


# ----------------------------------------------------------------------------------------------------------------- the rows


def columns(episodes: list[Row]) -> dict[str, np.ndarray]:
    """Episodes as d3rlpy takes them: a reward stands with the action that it is for, a terminal observation is left out, and
    the last observation of a cut episode stays as a step with a timeout."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("obs", "action", "reward", "terminal", "timeout")}
    for e in episodes:
        over = bool(e.terminated[-1])
        steps = len(e.reward) - over
        last = np.arange(steps) == steps - 1
        parts["obs"].append(e.obs[:steps])
        parts["action"].append(e.action[:steps])
        parts["reward"].append(np.append(e.reward[1:], 0)[:steps])
        parts["terminal"].append(np.float32(last & over))
        parts["timeout"].append(np.float32(last & (not over)))
    return {name: np.concatenate(part) for name, part in parts.items()}


class D3rlpy(Peer):
    """d3rlpy in its own interpreter, with the rows in a file."""

    def __init__(self, python: str, data: Any):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "rows.npz"
        np.savez(path, allow_pickle=False, **columns(replay.export(data)))
        threads = str(len(os.sched_getaffinity(0)))
        super().__init__(python, "offline_peer.py", str(path), threads, cwd=self.folder.name, env={"CUDA_VISIBLE_DEVICES": ""})

    def close(self) -> None:
        super().close()
        self.folder.cleanup()


def settings_of(name: str) -> dict[str, Any]:
    """In the peer's words."""
    normalize = {"normalize_obs": name != "iql", "normalize_returns": name == "iql"}
    return {"hidden": [256, 256], "batch": 256, "lr": 3e-4, **normalize}


def agent_of(name: str, problem: Problem, **more: Any) -> Any:
    return agents.make(name, None, problem, **({"normalize_returns": True} if name == "iql" else {}), **more)


# --------------------------------------------------------------------------------------------------------------- updates/s


def updates_part(args: argparse.Namespace) -> dict[str, Any]:
    problem = nothing_to_learn(OBS, ACTIONS, LENGTH, 2 if args.preset else 100)
    peer = D3rlpy(args.peer, problem.data["data"]) if args.peer else None
    out: dict[str, Any] = dict(peer.versions) if peer else {}
    for name in AGENTS:
        agent = agent_of(name, problem, block=args.block)
        many = f"population_{args.members}"
        work: dict[str, Work] = {"rlx": updates_of(agent, problem), many: updates_of(agent, problem, args.members)}
        if peer:
            peer.ask(make=name, seed=0, updates=10**6, settings=settings_of(name))
            work["d3rlpy"] = lambda: peer.ask(update=args.block)
        out[name] = compared(by_turns(work, args.rounds), args.block)
        print(json.dumps({name: out[name]}), file=sys.stderr, flush=True)
    if peer:
        peer.close()
    return out


# ------------------------------------------------------------------------------------------------------------------ scores


def returns_of(env: Env | HostEnv, act: Callable[[np.ndarray], Any], episodes: int, seed: int) -> np.ndarray:
    """Whole episodes of a policy that lives elsewhere, [E]."""
    vec = batch(env, episodes, ends="stop")
    if vec.host:
        key: Any = HostKey(np.array([[0, seed]], np.uint32), episodes)
        after = key.at
        step = vec.step
    else:
        key, after, step = jax.random.key(seed), lambda t: jax.random.fold_in(key, t), jax.jit(vec.step)
    state, now = vec.reset(vec.params, key)
    total, going, t = np.zeros(episodes), np.ones(episodes, bool), 0
    while going.any():
        t += 1
        state, now = step(vec.params, state, np.float32(act(np.asarray(now.obs))), after(t))
        total += np.where(going, now.reward, 0)
        going &= ~np.asarray(now.last)
    vec.close()
    return total


class Scores:
    """What `scores_part` has found, in the file ``out`` after each run, so that the same command goes on where it was stopped.

    Raises:
        SystemExit: the file holds scores of other rows or settings.
    """

    def __init__(self, out: Path | None, settings: dict[str, Any]):
        self.out = out
        self.values: dict[str, Any] = json.loads(out.read_text()) if out and out.exists() else dict(settings)
        other = [k for k, v in settings.items() if self.values.get(k) != v]
        if other:
            raise SystemExit(f"{out} holds scores with other {', '.join(other)}: give another --out")

    def done(self, name: str, who: str) -> int:
        """Seeds that there are: 0 up to this."""
        return len(self.values.get(f"{name}_{who}", {"each": []})["each"])

    def add(self, name: str, who: str, scores: Any, seconds: float) -> None:
        mine = self.values.setdefault(f"{name}_{who}", {"each": [], "seconds": 0.0})
        mine["each"] += [round(float(x), 2) for x in scores]
        mine["seconds"] = round(mine["seconds"] + seconds, 1)
        found = estimate(np.array(mine["each"]))
        mine |= {"mean": round(found.value, 2), "interval": found.interval and [round(x, 2) for x in found.interval]}
        bounds = [self.values.get(f"{name}_{k}", {}).get("interval") for k in ("rlx", "d3rlpy")]
        if all(bounds):
            self.values[f"{name}_overlap"] = max(low for low, _ in bounds) <= min(high for _, high in bounds)
        print(json.dumps({f"{name}_{who}": mine}), file=sys.stderr, flush=True)
        if self.out:
            write_text(self.out, json.dumps(self.values, indent=1) + "\n")


def scores_part(args: argparse.Namespace) -> dict[str, Any]:
    """rlx first, all seeds as one program, then d3rlpy, seed by seed of all agents."""
    env = envs.make(args.env)
    rows = replay.load(args.data)
    data = replay.from_episodes(rows)
    problem = Problem({"train": env}, {"data": data})
    scale = scores.reference(args.env)
    score = lambda returns: np.asarray(returns) if scale is None else scores.normalised(scale, returns)
    settings: dict[str, Any] = {"env": args.env, "data": Path(args.data).name, "transitions": rows.transitions}
    settings |= {"data_mean": round(float(score(replay.episode_returns(data)).mean()), 2)}
    settings |= {"updates": args.updates, "episodes": args.episodes, "normalised_by": scale and scale.source}
    found = Scores(args.out, settings)
    for name in args.agent or AGENTS:
        if seeds := range(found.done(name, "rlx"), args.seeds):
            begun = time.perf_counter()
            agent = agent_of(name, problem, updates=args.updates, eval_every=args.updates)
            state = population(agent, problem, list(seeds), options=Options(progress=False, keep_best=False)).state.agent
            roots = jax.vmap(lambda k: keys.fold(k, "final evaluation"))(keys.roots(seeds))
            cycles = agent.stages[-1].cycles
            last = evaluate_members(agent, problem, state, roots, 0, cycles, args.episodes)["returns"]
            found.add(name, "rlx", score(last.mean(1)), time.perf_counter() - begun)
    if args.peer:
        peer = D3rlpy(args.peer, data)
        found.values |= peer.versions
        for seed, name in itertools.product(range(args.seeds), args.agent or AGENTS):
            if seed < found.done(name, "d3rlpy"):
                continue
            begun = time.perf_counter()
            peer.ask(make=name, seed=seed, updates=args.updates, settings=settings_of(name))
            peer.ask(update=args.updates)
            returns = returns_of(env, lambda obs: peer.ask(act=obs.tolist()), args.episodes, seed)
            found.add(name, "d3rlpy", [score(returns.mean())], time.perf_counter() - begun)
        peer.close()
    return found.values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("updates", "scores"), default="updates")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has d3rlpy; without: rlx alone")
    parser.add_argument("--updates", type=int, default=100_000, help="of each run in scores")
    parser.add_argument("--block", type=int, default=200, help="updates in a round of updates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, help="of both sides, one at a time; None: all that there are")
    parser.add_argument("--members", type=int, default=8, help="of the population in updates")
    parser.add_argument("--data", help="of scores: a dataset")
    parser.add_argument("--env", help="of scores: where policies are compared")
    parser.add_argument("--agent", choices=AGENTS, action="append", help="of scores: only these")
    parser.add_argument("--seeds", type=int, default=10, help="of scores")
    parser.add_argument("--episodes", type=int, default=10, help="of scores, of each seed")
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--out", type=Path, help="where the result goes as JSON")
    args = parser.parse_args()
    if args.part == "scores" and not (args.data and args.env):
        parser.error("scores need --data FILE and --env NAME")
    if args.preset:
        args.updates, args.block, args.rounds, args.seeds, args.episodes, args.members = 200, 10, 1, 2, 2, 2
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    load = os.getloadavg()[0]
    values = (updates_part if args.part == "updates" else scores_part)(args)
    values |= {"cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2), "jax": jax.__version__}
    if args.out:
        args.out.write_text(json.dumps(values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
