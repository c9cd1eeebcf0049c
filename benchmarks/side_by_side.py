"""What benchmarks share that compare rlx with a peer in another interpreter: the peer's process, data of given shapes, updates
as the runner compiles them, rounds by turns, and how fast the machine is at matrix products."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys, replay
from rlx.train import state as states
from rlx.train.host import device_state, put_back, run_phase
from rlx.train.placement import Placement
from rlx.train.population import members
from rlx.train.program import Program
from rlx.types import Agent, Clock, Env, Leaf, Problem, Row, Spec, Step, Update

Work = Callable[[], Any]  # does a round; gives its seconds and the processor's, or None: then they are taken here


class Peer:
    """A script beside this one, in an interpreter of its own: commands go as lines of JSON, answers come as such."""

    def __init__(self, python: str, script: str, *given: str, cwd: str | None = None, env: dict[str, str] | None = None):
        path = str(Path(__file__).with_name(script))
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (env or {})
        pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([python, path, *given], cwd=cwd, env=env, **pipe)
        self.versions = self._answer()

    @staticmethod
    def torch(python: str, script: str) -> Peer:
        """One that is served by `torch_peer.py`, on as many threads as there are here."""
        return Peer(python, script, str(len(os.sched_getaffinity(0))), "cpu" if jax.default_backend() == "cpu" else "cuda")

    def ask(self, **asked: Any) -> Any:
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with exit code {self.process.wait()}: has its interpreter what it imports?")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def nothing_to_learn(obs: int, actions: int, length: int, episodes: int) -> Problem:
    """Rows of such shapes as data, drawn at random, and an environment that has the same shapes."""
    rng, n = np.random.default_rng(0), episodes * (length + 1)
    first, no = np.arange(n) % (length + 1) == 0, np.zeros(n, bool)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    rows = Row(draw(n, obs), draw(n), no, np.roll(first, -1), first, {}, np.tanh(draw(n, actions)), {}, ~no)
    data = replay.Dataset(rows, np.arange(episodes + 1) * (length + 1)).replay()
    return Problem({"train": standing_still(Leaf((obs,)), actions, length)}, {"data": data})


def standing_still(obs: Leaf, actions: int, length: int) -> Env:
    """An environment that shows zeros and pays nothing."""
    blank = jnp.zeros(obs.shape, obs.dtype)
    arrive = lambda t, first: Step(blank, jnp.float32(0), jnp.bool_(False), t >= length, jnp.bool_(first), {})
    return Env(
        "bench:rows",
        Spec(obs, Leaf((actions,), low=-1, high=1), {}, length),
        (),
        lambda params, key: (jnp.int32(0), arrive(jnp.int32(0), True)),
        lambda params, t, action, key: (t + 1, arrive(t + 1, False)),
    )


def updates_of(agent: Agent, problem: Problem, many: int | Sequence[tuple[int, Mapping[str, float]]] | None = None) -> Work:
    """One cycle of the updates of the agent's last stage, of one run or of ``many`` members (so many seeds, or seeds and traced
    values), as training compiles it. Stages before it have run."""
    many = [(seed, {}) for seed in range(many)] if isinstance(many, int) else many
    who: Any = keys.root(0) if many is None else members(many)
    placement = None if many is None else Placement.of(range(len(many)), len(many))
    run = states.start(agent, problem, who, None, placement)
    for stage in range(len(agent.stages)):
        program = Program(agent, problem, stage, states.frozen_data(problem), placement)
        states.enter(program, run)
        on_device = [device_state(program, run)]
        if stage < len(agent.stages) - 1:
            put_back(program, run, program.chunk(on_device[0], run.key, 0, agent.stages[stage].cycles)[0])
    which = tuple(j for j, phase in enumerate(agent.stages[-1].phases) if isinstance(phase, Update))

    def read_here() -> None:
        for j in which:
            run_phase(program, run, j)
        jax.block_until_ready(run.agent)

    def updates() -> None:
        on_device[0] = program.phases(which, on_device[0], run.key, 0)
        jax.block_until_ready(on_device[0])

    return read_here if any(program.on_host[j] for j in which) else updates


def by_turns(work: dict[str, Work], rounds: int, between: Callable[[], Any] = lambda: None) -> dict[str, tuple[float, float]]:
    """Seconds of a round by the clock and of the processor, medians; a first round compiles and does not count."""
    times: dict[str, list[tuple[float, float]]] = {k: [] for k in work}
    for i in range(rounds + 1):
        between()
        for who, do in work.items():
            begun, cpu = time.perf_counter(), time.process_time()
            seconds = do() or (time.perf_counter() - begun, time.process_time() - cpu)
            if i:
                times[who].append(seconds)
    return {who: tuple(map(float, np.median(np.array(v), 0))) for who, v in times.items()}


def compared(times: dict[str, tuple[float, float]], block: int) -> dict[str, float]:
    """What a round of ``block`` updates took, as rates, and as ratios of "rlx"; of "population..." as multiples."""
    out: dict[str, float] = {}
    for k, suffix in enumerate(("", "_cpu")):
        for who, seconds in times.items():
            if who.startswith("population"):
                out[f"times_one{suffix}_{who}"] = round(seconds[k] / times["rlx"][k], 2)
                continue
            out[f"updates_per_s{suffix}_{who}"] = float(f"{block / seconds[k]:.4g}")
            if who != "rlx":
                out[f"ratio{suffix}_{who}"] = round(seconds[k] / times["rlx"][k], 2)
    return out


# ---------------------------------------------------------------------------------------------------------------- products


def product_rate(rows: int, width: int, seconds: float = 0.5) -> Callable[[], float]:
    """Multiplications and additions per second of a chain of products [rows, width] x [width, width]."""
    x, w = jnp.ones((rows, width)), jnp.ones((width, width)) / width
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: x @ w, x))
    chain(x).block_until_ready()

    def rate() -> float:
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            chain(x).block_until_ready()
            done += 20
        return done * 2.0 * rows * width * width / (time.perf_counter() - begun)

    return rate


def multiplications(fn: Callable, *args: Any) -> float:
    """Multiplications and additions in the products and convolutions of ``fn``, of loops those of all their turns where their
    number is known, of others those of one."""
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def of_update(agent: Agent, method: Any, problem: Problem) -> float:
    """`multiplications` of one update of the agent's last stage."""
    phase = next(phase for phase in agent.stages[-1].phases if isinstance(phase, Update))
    state, rows = states.outline(agent, problem)
    clock = Clock(*map(jnp.int32, (0, 0, 0)))
    sources = {**problem.data, **{k: jax.eval_shape(agent.buffers[k].init, row) for k, row in rows.items()}}

    def update(state: Any, sources: Any, key: Any) -> Any:
        return method.update(state, clock, phase.sample(state.hyper, clock, sources, key), key)

    return multiplications(update, state, sources, jax.random.key(0))


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (over, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in over)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        inner = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple) else (value,))]
        bodies = [x.jaxpr if hasattr(x, "jaxpr") else x for x in inner if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        total += eqn.params.get("length", 1) * sum(map(_count, bodies))
    return total


# ----------------------------------------------------------------------------------------------------------- command lines


def parser(doc: str | None, sizes: tuple[str, ...], needs: str = "torch") -> argparse.ArgumentParser:
    """The flags that such benchmarks have in common."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=sizes, action="append", help="only these")
    made.add_argument("--peer", metavar="PYTHON", help=f"an interpreter that has {needs}; without: rlx alone")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--block", type=int, help="updates in a round")
    made.add_argument("--cores", type=int, help="of both sides, one at a time; None: all that there are")
    made.add_argument("--out", type=Path, help="where the result goes as JSON; sizes that it has and that are not run stay")
    return made


def report(args: argparse.Namespace, sizes: tuple[str, ...], measured: Callable[[str], dict[str, Any]]) -> int:
    """Runs the sizes that were asked for, prints what they give, and writes it."""
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    load = os.getloadavg()[0]
    values: dict[str, Any] = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    machine = {"cores": len(os.sched_getaffinity(0)), "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for size in args.size or sizes:
        values[size] = measured(size) | {"load_before": round(load, 2)}
        print(json.dumps({size: values[size]}), flush=True)
    values |= machine
    if args.out:
        args.out.write_text(json.dumps(values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0
