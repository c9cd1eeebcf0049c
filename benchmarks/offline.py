"""Offline agents side by side with d3rlpy's, on the same rows: BC, TD3+BC and IQL, two layers of 256, batch 256.

    python benchmarks/offline.py --peer PYTHON                        # updates/s, and a population of 8 against one run
    python benchmarks/offline.py --part scores --peer PYTHON --data hopper-medium.npz --env gym:Hopper-v4 --updates 100000

PYTHON is an interpreter that has d3rlpy (pip install d3rlpy torch) and need not have rlx: `offline_peer.py` runs there. Both
sides sample from rows in memory, in float32, on as many threads. Rounds go by turns, rates are medians. On a machine that does
other things too, ``--cores 1`` gives figures that mean something: threads that wait for each other are slow there, and the
processor's seconds (``..._cpu``) are those of the work alone.

"updates" has rows of D4RL's shapes (17 numbers, 6 actions, 100 episodes of 1 000). "scores" trains with the same settings and
budget from the same file, all seeds of rlx as one program, and compares the last policies in whole episodes: normalised
returns of each seed, their mean, and its 95% interval over seeds. Settings: Adam 3e-4; IQL with cosine decay and rewards by the
range of returns; TD3+BC and BC with normalised observations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents, envs, keys, replay
from rlx.envs import batch, scores
from rlx.keys import HostKey
from rlx.train import Options, population
from rlx.train import state as states
from rlx.train.evaluate import evaluate_members
from rlx.train.host import device_state
from rlx.train.placement import Placement
from rlx.train.population import members
from rlx.train.program import Program
from rlx.train.stats import estimate
from rlx.types import Env, HostEnv, Leaf, Problem, Row, Spec, Step

AGENTS = ("bc", "td3_bc", "iql")
OBS, ACTIONS, LENGTH = 17, 6, 1_000


# ----------------------------------------------------------------------------------------------------------------- the rows


def synthetic(episodes: int) -> Problem:
    """Rows of D4RL's shapes, in which there is nothing to learn, and an environment that has the same shapes."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    one = lambda: {
        "obs": draw(LENGTH + 1, OBS),
        "action": np.tanh(draw(LENGTH + 1, ACTIONS)),
        "reward": draw(LENGTH + 1),
        "terminated": np.zeros(LENGTH + 1, bool),
    }
    arrive = lambda t, first: Step(jnp.zeros(OBS), jnp.float32(0), jnp.bool_(False), t >= LENGTH, jnp.bool_(first), {})
    env = Env(
        "bench:rows",
        Spec(Leaf((OBS,)), Leaf((ACTIONS,), low=-1, high=1), {}, LENGTH),
        (),
        lambda params, key: (jnp.int32(0), arrive(jnp.int32(0), True)),
        lambda params, t, action, key: (t + 1, arrive(t + 1, False)),
    )
    return Problem({"train": env}, {"data": replay.from_episodes([one() for _ in range(episodes)])})


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


class Peer:
    """d3rlpy in its own interpreter."""

    def __init__(self, python: str, data: dict[str, np.ndarray], threads: int):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "rows.npz"
        np.savez(path, allow_pickle=False, **data)
        script = str(Path(__file__).with_name("offline_peer.py"))
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
        pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([python, script, str(path), str(threads)], cwd=self.folder.name, env=env, **pipe)
        self.versions = self._answer()

    def ask(self, **asked: Any) -> Any:
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with exit code {self.process.wait()}: does its interpreter have d3rlpy?")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def settings_of(name: str) -> dict[str, Any]:
    """In the peer's words."""
    normalize = {"normalize_obs": name != "iql", "normalize_returns": name == "iql"}
    return {"hidden": [256, 256], "batch": 256, "lr": 3e-4, **normalize}


def agent_of(name: str, problem: Problem, **more: Any) -> Any:
    return agents.make(name, None, problem, **({"normalize_returns": True} if name == "iql" else {}), **more)


# --------------------------------------------------------------------------------------------------------------- updates/s


def ours(name: str, problem: Problem, n: int, count: int | None) -> Callable[[], Any]:
    """A function that does ``n`` updates of one run, or of each of ``count`` members."""
    agent = agent_of(name, problem, block=n)
    who: Any = keys.root(0) if count is None else members([(seed, {}) for seed in range(count)])
    placement = None if count is None else Placement.of(range(count), count)
    run = states.start(agent, problem, who, None, placement)
    program = Program(agent, problem, 0, states.frozen_data(problem), placement)
    states.enter(program, run)
    on_device = [device_state(program, run)]

    def updates() -> None:
        on_device[0] = program.phases((0,), on_device[0], run.key, 0)
        jax.block_until_ready(on_device[0])

    return updates


def updates_part(python: str | None, n: int, rounds: int, episodes: int, population_of: int) -> dict[str, Any]:
    problem = synthetic(episodes)
    peer = Peer(python, columns(replay.export(problem.data["data"])), len(os.sched_getaffinity(0))) if python else None
    out: dict[str, Any] = dict(peer.versions) if peer else {}
    for name in AGENTS:
        work = {"rlx": ours(name, problem, n, None), f"population_{population_of}": ours(name, problem, n, population_of)}
        if peer:
            peer.ask(make=name, seed=0, updates=10**6, settings=settings_of(name))
            work["d3rlpy"] = lambda peer=peer: peer.ask(update=n)
        times: dict[str, list[tuple[float, float]]] = {k: [] for k in work}
        for i in range(rounds + 1):
            for who, do in work.items():
                begun, cpu = time.perf_counter(), time.process_time()
                seconds = do() or (time.perf_counter() - begun, time.process_time() - cpu)
                if i:
                    times[who].append(seconds)
        wall, cpus = ({who: float(np.median(np.array(v)[:, k])) for who, v in times.items()} for k in (0, 1))
        for middle, suffix in ((wall, ""), (cpus, "_cpu")):
            one = middle["rlx"]
            out |= {f"{name}_updates_per_s{suffix}_{who}": round(n / middle[who], 1) for who in middle if "popul" not in who}
            out[f"{name}_times_one{suffix}_population"] = round(middle[f"population_{population_of}"] / one, 2)
            out |= {f"{name}_ratio{suffix}_d3rlpy": round(middle["d3rlpy"] / one, 2)} if peer else {}
        print(json.dumps(out), file=sys.stderr, flush=True)
    if peer:
        peer.close()
    return out | {"members": population_of}


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


def scores_part(args: argparse.Namespace) -> dict[str, Any]:
    env = envs.make(args.env)
    data = replay.from_episodes(replay.load(args.data))
    problem = Problem({"train": env}, {"data": data})
    peer = Peer(args.peer, columns(replay.export(data)), len(os.sched_getaffinity(0))) if args.peer else None
    scale = scores.reference(args.env)
    score = lambda returns: np.asarray(returns) if scale is None else scores.normalised(scale, returns)
    out: dict[str, Any] = {"env": args.env, "data": Path(args.data).name, "updates": args.updates, "seeds": args.seeds}
    out["normalised_by"] = None if scale is None else scale.source
    out["data_mean"] = round(float(score(replay.episode_returns(data)).mean()), 2)
    for name in AGENTS:
        agent = agent_of(name, problem, updates=args.updates, eval_every=args.updates)
        begun = time.perf_counter()
        found = population(agent, problem, args.seeds, options=Options(progress=False, keep_best=False))
        seconds = {"rlx": time.perf_counter() - begun}
        roots = jax.vmap(lambda k: keys.fold(k, "final evaluation"))(keys.roots(range(args.seeds)))
        cycles = agent.stages[-1].cycles
        last = evaluate_members(agent, problem, found.state.agent, roots, 0, cycles, args.episodes)["returns"]
        results = {"rlx": score(last.mean(1))}
        if peer:
            begun, theirs = time.perf_counter(), []
            for seed in range(args.seeds):
                peer.ask(make=name, seed=seed, updates=args.updates, settings=settings_of(name))
                peer.ask(update=args.updates)
                act = lambda obs: peer.ask(act=obs.tolist())
                theirs.append(returns_of(env, act, args.episodes, seed).mean())
            results["d3rlpy"], seconds["d3rlpy"] = score(theirs), time.perf_counter() - begun
        for who, values in results.items():
            found_by = estimate(values)
            out[f"{name}_{who}"] = {
                "mean": round(found_by.value, 2),
                "interval": found_by.interval and [round(x, 2) for x in found_by.interval],
                "each": [round(float(x), 2) for x in values],
                "seconds": round(seconds[who], 1),
            }
        print(json.dumps(out), file=sys.stderr, flush=True)
    if peer:
        peer.close()
    return out


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
    if args.part == "updates":
        values = updates_part(args.peer, args.block, args.rounds, 2 if args.preset else 100, args.members)
    else:
        values = scores_part(args)
    values |= {"cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2), "jax": jax.__version__}
    if args.out:
        args.out.write_text(json.dumps(values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
