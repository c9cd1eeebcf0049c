"""Updates of TD-JEPA per second, side by side with the same update written eagerly in PyTorch, and how near the machine's
rate of matrix products they come.

    python benchmarks/td_jepa.py --peer PYTHON                  # sizes small and walker; a population against one run
    python benchmarks/td_jepa.py --size small --cores 1         # rlx alone

PYTHON is an interpreter that has PyTorch (pip install torch) and need not have rlx: `td_jepa_peer.py` runs there, and again
with ``torch.compile`` where that works. Rounds go by turns, rates are medians. Both sides sample from rows in memory, in
float32. The share of the rate is the update's own count of multiplications and additions, by XLA, over what a chain of products
of its widest shape reaches here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents, config, keys, replay
from rlx.train import state as states
from rlx.train.host import device_state
from rlx.train.placement import Placement
from rlx.train.population import members
from rlx.train.program import Program
from rlx.types import Clock, Env, Leaf, Problem, Row, Spec, Step

OBS, ACTIONS, LENGTH, EPISODES = 24, 6, 1_000, 200
SIZES = ("small", "walker")
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


def problem() -> Problem:
    """Rows of the walker's shapes, in which there is nothing to learn."""
    rng, n = np.random.default_rng(0), EPISODES * LENGTH
    first = np.arange(n) % LENGTH == 0
    obs, action = rng.standard_normal((n, OBS), np.float32), np.tanh(rng.standard_normal((n, ACTIONS), np.float32))
    no = np.zeros(n, bool)
    rows = Row(obs, np.zeros(n, np.float32), no, np.roll(first, -1), first, {}, action, {}, ~no)
    data = replay.Dataset(rows, np.arange(EPISODES + 1) * LENGTH).replay()
    arrive = lambda t, first: Step(jnp.zeros(OBS), jnp.float32(0), jnp.bool_(False), t >= LENGTH, jnp.bool_(first), {})
    env = Env(
        "bench:rows",
        Spec(Leaf((OBS,)), Leaf((ACTIONS,), low=-1, high=1), {}, LENGTH),
        (),
        lambda params, key: (jnp.int32(0), arrive(jnp.int32(0), True)),
        lambda params, t, action, key: (t + 1, arrive(t + 1, False)),
    )
    return Problem({"train": env}, {"data": data})


class Peer:
    """PyTorch in its own interpreter."""

    def __init__(self, python: str, threads: int) -> None:
        script, device = str(Path(__file__).with_name("td_jepa_peer.py")), "cpu" if jax.default_backend() == "cpu" else "cuda"
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([python, script, str(threads), device], env=env, **pipe)
        self.versions = self._answer()

    def ask(self, **asked: Any) -> Any:
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with exit code {self.process.wait()}: does its interpreter have torch?")
        return json.loads(line)


def ours(agent: Any, given: Problem, count: int | None) -> Callable[[], Any]:
    """A function that does one cycle of updates of one run, or of each of ``count`` members."""
    who: Any = keys.root(0) if count is None else members([(seed, {}) for seed in range(count)])
    placement = None if count is None else Placement.of(range(count), count)
    run = states.start(agent, given, who, None, placement)
    program = Program(agent, given, 0, states.frozen_data(given), placement)
    states.enter(program, run)
    on_device = [device_state(program, run)]

    def updates() -> None:
        on_device[0] = program.phases((0,), on_device[0], run.key, 0)
        jax.block_until_ready(on_device[0])

    return updates


def multiplications(agent: Any, given: Problem) -> float:
    """Multiplications and additions of one update, by XLA's own count."""
    method = agent.report.method
    state = jax.eval_shape(agent.init, jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    clock, sampler = Clock(*map(jnp.int32, (0, 0, 0))), method.features.sampler()

    def update(state: Any, key: Any) -> Any:
        return method.update(state, clock, sampler(state.hyper, clock, given.data, key), key)

    cost = jax.jit(update).lower(state, jax.random.key(0)).compile().cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["flops"])


def product_rate(batch: int, width: int, seconds: float) -> Callable[[], float]:
    """Multiplications and additions per second of a chain of products [batch, width] x [width, width]."""
    x, w = jnp.ones((batch, width)), jnp.ones((width, width)) / width
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: x @ w, x))
    chain(x).block_until_ready()

    def rate() -> float:
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            chain(x).block_until_ready()
            done += 20
        return done * 2.0 * batch * width * width / (time.perf_counter() - begun)

    return rate


def measured(size: str, args: argparse.Namespace, given: Problem) -> dict[str, Any]:
    block = args.block or (100 if size == "small" else 10)
    settings = config.replace(agents.config("td_jepa"), agents.presets("td_jepa")[size])
    settings = config.replace(settings, {"per_cycle": block, "updates": 100 * block, "eval_every": 100 * block})
    agent = agents.make("td_jepa", settings, given)
    work = {"rlx": ours(agent, given, None)}
    if args.members and size == "small":
        work[f"population_{args.members}"] = ours(agent, given, args.members)
    out: dict[str, Any] = {}
    for name, compiled in (("torch", False), ("torch_compiled", True)) if args.peer else ():
        peer = Peer(args.peer, len(os.sched_getaffinity(0)))
        out["torch"] = peer.versions["torch"]
        found = peer.ask(make={**{k: getattr(settings, k) for k in PEER}, "obs": OBS, "actions": ACTIONS}, compile=compiled)
        if found is True:
            work[name] = lambda peer=peer: peer.ask(update=block)
        else:
            out[f"{name}_failed"] = found
    rate, rates = product_rate(settings.batch, settings.predictor_hidden, 0.5), []
    times: dict[str, list[tuple[float, float]]] = {k: [] for k in work}
    for i in range(args.rounds + 1):
        rates.append(rate())
        for who, do in work.items():
            begun, cpu = time.perf_counter(), time.process_time()
            seconds = do() or (time.perf_counter() - begun, time.process_time() - cpu)
            if i:
                times[who].append(seconds)
    wall, cpus = ({who: float(np.median(np.array(v)[:, k])) for who, v in times.items()} for k in (0, 1))
    for middle, suffix in ((wall, ""), (cpus, "_cpu")):
        for who, value in middle.items():
            if who.startswith("population"):
                out[f"times_one{suffix}_{who}"] = round(value / middle["rlx"], 2)
            else:
                out[f"updates_per_s{suffix}_{who}"] = round(block / value, 1)
            if who.startswith("torch"):
                out[f"ratio{suffix}_{who}"] = round(value / middle["rlx"], 2)
    flops = multiplications(agent, given)
    share = flops * block / wall["rlx"] / float(np.median(rates))
    return out | {"gflop_per_update": round(flops / 1e9, 4), "share_of_product_rate": round(share, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="only these")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has torch; without: rlx alone")
    parser.add_argument("--block", type=int, help="updates in a round; default: 100 of small, 10 of walker")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--members", type=int, default=5, help="of the population at size small; 0: none")
    parser.add_argument("--cores", type=int, help="of both sides, one at a time; None: all that there are")
    parser.add_argument("--out", type=Path, help="where the result goes as JSON")
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    load, given = os.getloadavg()[0], problem()
    values: dict[str, Any] = {}
    for size in args.size or SIZES:
        values[size] = measured(size, args, given)
        print(json.dumps({size: values[size]}), file=sys.stderr, flush=True)
    cores, device = len(os.sched_getaffinity(0)), jax.devices()[0].device_kind
    values |= {"cores": cores, "device": device, "load_before": round(load, 2), "jax": jax.__version__}
    if args.out:
        args.out.write_text(json.dumps(values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
