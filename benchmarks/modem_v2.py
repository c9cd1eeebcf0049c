"""MoDem-V2's planner and update against a plain PyTorch writing of them (`modem_v2_peer.py`), and against the machine.

    python benchmarks/modem_v2.py --peer PYTHON                           # all sizes; PYTHON has torch
    python benchmarks/modem_v2.py --peer PYTHON --size official --rounds 3 --block 3

What is measured are plans for 1, 16 and 64 streams, updates, and the ensemble of five against one, with vectors for
observations; and updates from two stacked pictures. Rounds alternate between the contestants; times are medians, in ms, by the
clock and of the processor: the latter tells more where other work goes on beside it.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import Peer, by_turns, parser, product_rate, report

from rlx.agents.modem_v2.config import Config
from rlx.agents.modem_v2.method import Method
from rlx.config import hyper, replace
from rlx.replay import Index, Sequences
from rlx.types import AgentState, Clock, Leaf, Spec, Step

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"latent": 24, "hidden": 96, "encoder_hidden": 96, "ensemble_size": 3, "horizon": 3, "samples": 66,
             "elites": 16, "batch": 64},
    "official": {"latent": 50, "hidden": 512, "encoder_hidden": 256, "ensemble_size": 5, "horizon": 5, "samples": 510,
                 "elites": 64, "batch": 256},
}  # fmt: skip
SIZES |= {"tiny, 32 pixels": {**SIZES["tiny"], "side": 32}, "tiny, 64 pixels": {**SIZES["tiny"], "side": 64}}
FRAMES = 2  # of three channels
Times = tuple[float, float]  # by the clock, of the processor
STATE, ACTIONS, STREAMS = 23, 5, (1, 16, 64)
LATE = Clock(*map(jnp.int32, (0, 10**6, 10**6)))  # the horizon has grown


class Ours:
    """The same functions that the runner compiles."""

    def __init__(self, sizes: dict[str, int]):
        sizes = dict(sizes)
        self.side = side = sizes.pop("side", 0)
        obs = Leaf((side, side, 3), np.uint8) if side else Leaf((STATE,))
        spec = Spec(obs, Leaf((ACTIONS,), low=-1, high=1), horizon=50)
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
        shape = (rows, c.batch, self.side, self.side, 3 * FRAMES)
        obs = jnp.asarray(rng.integers(0, 256, shape, np.uint8)) if self.side else draw(STATE)
        batch = Sequences(obs, draw(), no, no, no, {}, jnp.tanh(draw(ACTIONS)), {}, ~no, jnp.ones(c.batch), index)
        return self.timed(lambda: self.updates_of(self.state, batch, n))

    def timed(self, fn: Any) -> Times:
        begun, worked = time.perf_counter(), time.process_time()
        jax.block_until_ready(fn())
        return time.perf_counter() - begun, time.process_time() - worked


def work(s: dict[str, int]) -> float:
    """GFLOP of one decision's plan, products alone."""
    z, h, m, n = s["latent"], s["hidden"], s["ensemble_size"], s["samples"]
    pair, net = z + ACTIONS, lambda i, o: i * h + h * h + h * o
    ahead = n * s["horizon"] * (net(z, ACTIONS) + net(pair, z) + net(pair, 1))
    return 2 * (ahead + n * m * net(z, ACTIONS) + n * m * max(m - 1, 1) * 2 * net(pair, 1)) / 1e9


def measured(size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Medians in ms of each task by contestant, by the clock and of the processor, and what they come to."""
    sizes, block = SIZES[size], args.block or 10
    own = {"rlx": Ours(sizes), "one": Ours({**sizes, "ensemble_size": 1})}
    out: dict[str, Any] = {"rounds": args.rounds}
    peer = None
    if args.peer:
        peer = Peer.torch(args.peer, "modem_v2_peer.py")
        out |= peer.versions
        peer.ask(make={"side": 0, **sizes, "state": STATE, "actions": ACTIONS, "channels": 3 * FRAMES})
    rate, rates, ms = product_rate(1024, 1024), [], {}
    streams = () if "side" in sizes else STREAMS  # plans look at one picture each
    for task, n in (*((f"plan {w}", w) for w in streams), ("update", block)):
        what = task.split()[0]
        turns = {who: partial(getattr(one, what), n) for who, one in own.items()}
        if peer:
            turns["torch"] = partial(peer.ask, **{what: n})
        times = by_turns(turns, args.rounds, lambda: rates.append(rate()))
        each = 1e3 / (block if task == "update" else 1)
        ms[task] = {who: [round(each * x, 3) for x in both] for who, both in times.items()}
    if peer:
        peer.close()
    products = float(np.median(rates)) / 1e9
    out |= {"ms, by the clock and of the processor": ms, "products, GFLOP/s": round(products, 1)}
    out["GFLOP of a decision"] = round(work(sizes), 3)
    out["share of products"] = {
        f"plan {w}": round(w * work(sizes) / products / (ms[f"plan {w}"]["rlx"][0] / 1e3), 2) for w in streams
    }
    ratio = lambda who, of: {k: [round(a / b, 2) for a, b in zip(v[who], v[of], strict=True)] for k, v in ms.items()}
    out["several actor-critics / one"] = ratio("rlx", "one")
    return out | ({"torch / rlx": ratio("torch", "rlx")} if peer else {})


def main() -> int:
    args = parser(__doc__, tuple(SIZES)).parse_args()
    args.out = args.out or Path(__file__).parent / "results" / "modem_v2.json"
    return report(args, tuple(SIZES), lambda size: measured(size, args))


if __name__ == "__main__":
    raise SystemExit(main())
