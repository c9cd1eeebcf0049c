"""Overhead of the runner: a chunk of 1 000 updates of a tiny network, against the same chunk written by hand as one scan.

    python benchmarks/dispatch.py [--preset debug]

Both draw the same kind of batch from the same replay with the same sampler and apply the same update; the hand-written scan
splits its keys as one would by hand. Rounds alternate; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.envs import batch, make
from rlx.nn.mlp import MLP
from rlx.train import state as states
from rlx.train.host import device_state
from rlx.train.program import Program
from rlx.types import Agent, AgentState, Clock, Collect, Out, Problem, Stage, Update


def tiny(problem: Problem, cycles: int, updates: int) -> Agent:
    net = MLP((32, 1))

    def init(key, hyper):
        return AgentState(hyper, net.init(key, jnp.zeros(3)))

    def act(state, clock, carry, step, key, mode):
        return jax.random.uniform(key, (step.reward.shape[0], 1), minval=-1, maxval=1), carry, {}

    def loss(params, rows):
        return ((net.apply(params, rows.obs)[..., 0] - rows.reward) ** 2).mean()

    def update(state, clock, rows, key):
        value, grads = jax.value_and_grad(loss)(state.learned, rows)
        learned = jax.tree.map(lambda p, g: p - state.hyper["lr"] * g, state.learned, grads)
        return state._replace(learned=learned), Out({"loss": value})

    stages = (
        Stage("fill", 1, (Collect("train", 500, "replay"),)),
        Stage("learn", cycles, (Update(updates, replay.transitions(32), update),)),
    )
    envs, buffers = {"train": batch(problem.envs["train"], 2)}, {"replay": replay.ring(600, 2)}
    return Agent("tiny", None, {"lr": 1e-3, "discount": 0.99}, init, act, stages, envs=envs, buffers=buffers)


def measure(cycles: int, updates: int, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a chunk of ``cycles`` x ``updates``: by rlx, and by hand."""
    key, problem = jax.random.key(0), Problem({"train": make("rlx:pendulum")})
    agent = tiny(problem, cycles, updates)
    run = states.start(agent, problem, key)
    program = Program(agent, problem, 0, {}, None)
    states.enter(program, run)
    on_device, _ = program.chunk(device_state(program, run), key, 0, 1)
    run.agent, run.rollouts, run.sources = on_device.agent, on_device.rollouts, on_device.sources
    program = Program(agent, problem, 1, {}, None)
    states.enter(program, run)

    phase = agent.stages[1].phases[0]
    clock = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))

    @jax.jit
    def by_hand(state, sources, key):
        def one(state, k):
            a, b = jax.random.split(k)
            rows = phase.sample(state.hyper, clock, sources, a)
            state, out = phase.update(state, clock, rows, b)
            return state, out.metrics

        return jax.lax.scan(one, state, jax.random.split(key, cycles * updates))

    on_device, state = device_state(program, run), jax.tree.map(jnp.copy, run.agent)
    sources = jax.tree.map(jnp.copy, on_device.sources)
    ours, theirs = [], []
    for i in range(rounds + 2):
        begun = time.perf_counter()
        on_device, _ = program.chunk(on_device, key, 0, cycles)
        jax.block_until_ready(on_device)
        middle = time.perf_counter()
        jax.block_until_ready(by_hand(state, sources, key))
        if i >= 2:
            ours.append(middle - begun)
            theirs.append(time.perf_counter() - middle)
    return 1e3 * float(np.median(ours)), 1e3 * float(np.median(theirs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    rounds = 3 if parser.parse_args().preset == "debug" else 31
    result = {}
    for cycles, updates in ((1, 1_000), (10, 100), (1_000, 1)):
        ours, theirs = measure(cycles, updates, rounds)
        print(f"{cycles} cycles of {updates} updates: rlx {ours:.2f} ms, by hand {theirs:.2f} ms, ratio {ours / theirs:.3f}")
        result |= {f"chunk_ms_{cycles}x{updates}": ours, f"ratio_scan_{cycles}x{updates}": ours / theirs}
    result["ratio_scan"] = result["ratio_scan_1x1000"]
    print("RESULT " + json.dumps({k: round(v, 4) for k, v in result.items()}))


if __name__ == "__main__":
    main()
