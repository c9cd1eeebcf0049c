"""MoDem-V2's planner and update against a plain PyTorch writing of them (`modem_v2_peer.py`), and against the machine.

    python benchmarks/modem_v2.py --peer PYTHON                           # tiny and official sizes; PYTHON has torch
    python benchmarks/modem_v2.py --peer PYTHON --size official --rounds 3 --updates 3    # four minutes on two cores

Observations are vectors: what is measured are plans for 1, 16 and 64 streams, updates, and the ensemble of five against one.
Rounds alternate between the contestants; times are medians, in ms, by the clock and of the processor: the latter tells more
where other work goes on beside it. What the file of results holds of other sizes stays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents.modem_v2.config import Config
from rlx.agents.modem_v2.method import Method
from rlx.config import hyper, replace
from rlx.replay import Index, Sequences
from rlx.types import AgentState, Clock, Leaf, Spec, Step

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"latent": 24, "hidden": 96, "encoder_hidden": 96, "members": 3, "horizon": 3, "samples": 66, "elites": 16,
             "batch": 64},
    "official": {"latent": 50, "hidden": 512, "encoder_hidden": 256, "members": 5, "horizon": 5, "samples": 510, "elites": 64,
                 "batch": 256},
}  # fmt: skip
Times = tuple[float, float]  # by the clock, of the processor
STATE, ACTIONS, STREAMS = 23, 5, (1, 16, 64)
LATE = Clock(*map(jnp.int32, (0, 10**6, 10**6)))  # the horizon has grown


class Ours:
    """The same functions that the runner compiles."""

    def __init__(self, sizes: dict[str, int]):
        spec = Spec(Leaf((STATE,)), Leaf((ACTIONS,), low=-1, high=1), horizon=50)
        self.method = own = Method.of(replace(Config(), sizes), spec, 100)
        h = {k: jnp.float32(v) for k, v in hyper(own.config).items()}
        enter = lambda state, stage: own.begins(stage)(state, {}, jax.random.key(0))
        self.state: AgentState = enter(enter(own.copied(jax.jit(own.init)(jax.random.key(0), h), {}, h), "warm"), "learn")
        self.plan_of = jax.jit(
            lambda state, step, key: own.act(state, LATE, own.carry(state, len(step.first)), step, key, "planner")[0]
        )
        self.updates_of = jax.jit(self.updates, static_argnums=2)
        self.count = 0

    def updates(self, state: AgentState, batch: Sequences, n: int) -> AgentState:
        one = lambda i, state: self.method.update(
            state, LATE._replace(updates=i), batch, jax.random.fold_in(jax.random.key(1), i)
        )[0]
        return jax.lax.fori_loop(0, n, one, state)

    def plan(self, streams: int) -> Times:
        self.count += 1
        rng, no = np.random.default_rng(self.count), np.zeros(streams, bool)
        step = Step(rng.normal(size=(streams, STATE)).astype(np.float32), np.zeros(streams, np.float32), no, no, no, {})
        return self.timed(lambda: self.plan_of(self.state, step, jax.random.key(self.count)))

    def update(self, n: int) -> Times:
        c, rng = self.method.config, np.random.default_rng(0)
        rows = c.horizon + 1
        draw = lambda *shape: jnp.asarray(rng.normal(size=(rows, c.batch, *shape)), jnp.float32)
        no, index = jnp.zeros((rows, c.batch), bool), Index(jnp.zeros(c.batch, jnp.int32), jnp.zeros(c.batch, jnp.int32))
        batch = Sequences(draw(STATE), draw(), no, no, no, {}, jnp.tanh(draw(ACTIONS)), {}, ~no, jnp.ones(c.batch), index)
        return self.timed(lambda: self.updates_of(self.state, batch, n))

    def timed(self, fn: Any) -> Times:
        begun, worked = time.perf_counter(), time.process_time()
        jax.block_until_ready(fn())
        return time.perf_counter() - begun, time.process_time() - worked


class Peer:
    """PyTorch in another interpreter."""

    def __init__(self, python: str, sizes: dict[str, int]):
        script = Path(__file__).with_name("modem_v2_peer.py")
        self.process = subprocess.Popen(
            [python, script, str(len(os.sched_getaffinity(0)))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask({"make": {**sizes, "state": STATE, "actions": ACTIONS}})

    def ask(self, what: dict[str, Any]) -> Times:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the peer's process has ended; what it said stands above.")
        wall, cpu = json.loads(answer)
        return float(wall), float(cpu)

    def plan(self, streams: int) -> Times:
        return self.ask({"plan": streams})

    def update(self, n: int) -> Times:
        return self.ask({"update": n})

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@jax.jit
def product(x: jax.Array) -> jax.Array:
    return x @ x * 1e-3


def products() -> float:
    """GFLOP/s of the machine's float32 matrix products; the first call compiles."""
    x, begun = jnp.ones((1024, 1024)), time.perf_counter()
    for _ in range(10):
        x = product(x)
    jax.block_until_ready(x)
    return 10 * 2 * 1024**3 / (time.perf_counter() - begun) / 1e9


def work(s: dict[str, int]) -> float:
    """GFLOP of one decision's plan, products alone."""
    z, h, m, n = s["latent"], s["hidden"], s["members"], s["samples"]
    pair, net = z + ACTIONS, lambda i, o: i * h + h * h + h * o
    ahead = n * s["horizon"] * (net(z, ACTIONS) + net(pair, z) + net(pair, 1))
    return 2 * (ahead + n * m * net(z, ACTIONS) + n * m * max(m - 1, 1) * 2 * net(pair, 1)) / 1e9


def measured(contestants: dict[str, Any], rounds: int, updates: int) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Medians by task and contestant, by the clock and of the processor, and of the machine's products."""
    tasks = {**{f"plan {w}": ("plan", w, 1) for w in STREAMS}, "update": ("update", updates, updates)}
    times: dict[str, dict[str, list[Times]]] = {task: {name: [] for name in contestants} for task in tasks}
    rates = []
    for i in range(rounds + 1):
        rates.append(products())
        for task, (what, size, count) in tasks.items():
            for name, contestant in contestants.items():
                took = getattr(contestant, what)(size)
                if i:  # the first compiles, or warms up
                    times[task][name].append((1e3 * took[0] / count, 1e3 * took[1] / count))
    median = lambda k: {
        task: {name: round(float(np.median([t[k] for t in taken])), 3) for name, taken in row.items()}
        for task, row in times.items()
    }
    return median(0), median(1), float(np.median(rates[1:]))


def torch_of(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES], action="append")
    parser.add_argument("--peer", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="in one round")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "modem_v2.json")
    given = parser.parse_args()
    there = torch_of(given.peer)
    if not there:
        print(
            f"{given.peer} has no torch, so there is nothing to compare with: give --peer PYTHON, an interpreter that has it."
        )
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.size or SIZES:
        sizes = SIZES[name]
        contestants: dict[str, Any] = {"rlx": Ours(sizes), "one": Ours({**sizes, "members": 1})}
        if there:
            contestants["torch"] = Peer(given.peer, sizes)
        load = round(os.getloadavg()[0], 1)
        times, work_of, rate = measured(contestants, given.rounds, given.updates)
        row = {
            "cores": len(os.sched_getaffinity(0)),
            "load before": load,
            "rounds": given.rounds,
            "ms": times,
            "processor, ms": work_of,
            "products, GFLOP/s": round(rate, 1),
            "plan 16, GFLOP": round(16 * work(sizes), 3),
        }
        row["plan 16, share of products"] = round(16 * work(sizes) / rate / (times["plan 16"]["rlx"] / 1e3), 3)
        row["members against one"] = {k: round(v["rlx"] / v["one"], 2) for k, v in work_of.items()}
        if there:
            ratios = lambda table: {k: round(v["torch"] / v["rlx"], 2) for k, v in table.items()}
            row |= {"torch / rlx": ratios(times), "torch / rlx, processor": ratios(work_of)}
            contestants["torch"].close()
        found[name] = row
        print(name, json.dumps(row, indent=1), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
