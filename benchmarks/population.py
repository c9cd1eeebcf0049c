"""Many seeds as one program, side by side with what people do instead.

    python benchmarks/population.py                  # 16 seeds of PPO on rlx:cartpole-swingup: one program, 16 processes, rejax
    python benchmarks/population.py --part members   # time of 1, 4, 16, 64, 256 members of SAC, and how many a device holds;
                                                     # beside rejax and sbx on the same device, where they are installed

All contestants collect and learn alike: 16 streams x 128 decisions, 4 epochs of 8 minibatches, two networks of 64 x 64, no
evaluation. Processes run two at a time on two cores, each with a warm cache of compiled programs. rejax trains the same
environment through gymnax's interface, its seeds under one `jax.vmap`. Whole wall-clock time, compiling included and apart;
and the processor's time, which other jobs on the machine move less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import agents, config
from rlx.envs import make
from rlx.train import Options, memory, population
from rlx.train.compilation import compile_seconds
from rlx.types import Problem

ENV = "rlx:cartpole-swingup"
STREAMS, STEPS, EPOCHS, PARTS, WIDTH = 16, 128, 4, 8, 64


def agent_of(name: str, env_steps: int, **more: Any) -> tuple[Any, Problem]:
    problem = Problem({"train": make(ENV)})
    agent = agents.make(name, config.replace(agents.config(name), {"env_steps": env_steps, **more}), problem)
    return replace(agent, evals=()), problem


def ours(seeds: list[int], steps: int) -> dict[str, float]:
    agent, problem = agent_of(
        "ppo", steps, n_envs=STREAMS, steps=STEPS, epochs=EPOCHS, minibatches=PARTS, hidden=(WIDTH, WIDTH)
    )
    begun, compiled, cpu = time.perf_counter(), compile_seconds(), time.process_time()
    found = population(agent, problem, seeds, options=Options(progress=False))
    jax.block_until_ready(found.state.agent)
    wall = time.perf_counter() - begun
    return {"wall": wall, "compile": compile_seconds() - compiled, "cpu": time.process_time() - cpu}


def processes(seeds: int, steps: int, at_once: int = 2) -> float:
    """Seconds until as many processes of one seed each have ended."""
    begun, running, waiting = time.perf_counter(), [], list(range(seeds))
    while running or waiting:
        while waiting and len(running) < at_once:
            argv = [sys.executable, __file__, "--part", "solo", "--seed", str(waiting.pop(0)), "--steps", str(steps)]
            running.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        time.sleep(0.02)
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise RuntimeError(f"a process of one seed ended with exit code {process.returncode}.")
    return time.perf_counter() - begun


def gymnax_env() -> Any:
    """The same environment as rejax takes it. Raises ImportError where gymnax is not installed."""
    from gymnax.environments import environment, spaces

    inner = make(ENV)
    spec = inner.spec

    class Gymnax(environment.Environment):
        @property
        def default_params(self) -> Any:
            return environment.EnvParams(max_steps_in_episode=spec.horizon)

        def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple:
            state, step = inner.step(inner.params, state, action.reshape(spec.action.shape), key)
            return step.obs, state, step.reward, step.last, {}

        def reset_env(self, key: Any, params: Any) -> tuple:
            state, step = inner.reset(inner.params, key)
            return step.obs, state

        def observation_space(self, params: Any) -> Any:
            return spaces.Box(-np.inf, np.inf, spec.obs.shape)

        def action_space(self, params: Any = None) -> Any:
            return spaces.Box(-1.0, 1.0, spec.action.shape)

    return Gymnax()


def rejax(seeds: int, steps: int) -> dict[str, float] | None:
    """The same by rejax; None where it is not installed. The second run is without compiling."""
    try:
        from rejax import PPO

        env = gymnax_env()
    except ImportError:
        return None
    algorithm = PPO.create(
        env=env, env_params=env.default_params, num_envs=STREAMS, num_steps=STEPS, num_epochs=EPOCHS, num_minibatches=PARTS,
        total_timesteps=steps, eval_freq=steps, normalize_observations=True, max_grad_norm=0.5, learning_rate=3e-4,
        agent_kwargs={"hidden_layer_sizes": (WIDTH, WIDTH), "activation": "tanh"}, skip_initial_evaluation=True,
    )  # fmt: skip
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, rng: ())
    train = jax.jit(jax.vmap(PPO.train, in_axes=(None, 0)))
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), seeds))  # it knows raw keys only
    seconds, cpu = [], time.process_time()
    for _ in range(2):
        begun = time.perf_counter()
        jax.block_until_ready(train(algorithm, keys))
        seconds.append((time.perf_counter() - begun, time.process_time() - cpu))
    return {"wall": seconds[0][0], "compile": seconds[0][0] - seconds[1][0], "cpu": seconds[0][1]}


def seeds_part(seeds: int, steps: int, rounds: int) -> dict[str, Any]:
    """Rounds alternate between the contestants; figures are medians."""
    ours([0], steps)  # fills the cache of compiled programs for the processes
    walls: dict[str, list[float]] = {"ours": [], "processes": [], "rejax": []}
    compiles: dict[str, list[float]] = {"ours": [], "rejax": []}
    cpus: dict[str, list[float]] = {"ours": [], "rejax": []}
    for _ in range(rounds):
        jax.clear_caches()
        mine = ours(list(range(seeds)), steps)
        theirs = rejax(seeds, steps)
        walls["processes"].append(processes(seeds, steps))
        for name, values in (("ours", mine), ("rejax", theirs)):
            for kind, into in (("wall", walls), ("compile", compiles), ("cpu", cpus)) if values else ():
                into[name].append(values[kind])
    middle = {k: float(np.median(v)) for k, v in walls.items() if v}
    out: dict[str, Any] = {"seeds": seeds, "env_steps_each": steps, **{f"{k}_s": round(v, 2) for k, v in middle.items()}}
    out |= {f"{k}_compile_s": round(float(np.median(v)), 2) for k, v in compiles.items() if v}
    out |= {f"{k}_cpu_s": round(float(np.median(v)), 2) for k, v in cpus.items() if v}
    out |= {f"ratio_{k}": round(middle[k] / middle["ours"], 2) for k in middle if k != "ours"}
    if "rejax" in middle:
        run = {k: middle[k] - float(np.median(compiles[k])) for k in ("ours", "rejax")}
        out["ratio_rejax_without_compiling"] = round(run["rejax"] / run["ours"], 2)
        out["ratio_rejax_cpu"] = round(out["rejax_cpu_s"] / out["ours_cpu_s"], 2)
    return out


def rejax_members(count: int, updates: int) -> float | None:
    """Seconds of rejax for what `members_part` times, after a first run of the same; None where it is not installed."""
    try:
        from rejax import SAC

        env = gymnax_env()
    except ImportError:
        return None
    steps = 1_000 + updates
    algorithm = SAC.create(
        env=env, env_params=env.default_params, num_envs=1, num_epochs=1, batch_size=256, buffer_size=100_000,
        fill_buffer=1_000,
        total_timesteps=steps, eval_freq=steps, learning_rate=3e-4, polyak=0.995, skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": (256, 256)},
    )  # fmt: skip
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, rng: ())
    train = jax.jit(jax.vmap(SAC.train, in_axes=(None, 0)))
    keys, seconds = jax.random.key_data(jax.random.split(jax.random.key(0), count)), []
    for _ in range(2):
        begun = time.perf_counter()
        jax.block_until_ready(train(algorithm, keys))
        seconds.append(time.perf_counter() - begun)
    return seconds[1]


def sbx(updates: int) -> float | None:
    """Seconds of sbx for the updates of one run, which is all that a process of it trains; None where it is not installed."""
    if find_spec("sbx") is None:
        return None
    from sac import peer

    once = peer("sbx", updates)
    once()
    begun = time.perf_counter()
    once()
    return time.perf_counter() - begun


def members_part(counts: list[int], updates: int) -> dict[str, Any]:
    """Seconds for so many updates of SAC (batch 256, 2 x 256) in each of so many members, after a first run of the same; and of
    peers on the same device."""
    device = jax.devices()[0]
    out: dict[str, Any] = {"device": getattr(device, "device_kind", device.platform), "updates": updates}
    agent, problem = agent_of("sac", 1_000 + updates, capacity=100_000)
    out["members_that_fit"] = memory.most(agent, problem, [device])
    for count in counts:
        seconds = []
        for _ in range(2):
            begun, compiled = time.perf_counter(), compile_seconds()
            found = population(agent, problem, count, options=Options(progress=False), devices=[device])
            jax.block_until_ready(found.state.agent)
            seconds.append(time.perf_counter() - begun - (compile_seconds() - compiled))
        out[f"seconds_{count}"] = round(min(seconds), 2)
        out[f"times_one_{count}"] = round(min(seconds) / out[f"seconds_{counts[0]}"], 2)
        theirs = rejax_members(count, updates)
        if theirs is not None:
            out |= {f"rejax_seconds_{count}": round(theirs, 2), f"ratio_rejax_{count}": round(theirs / min(seconds), 2)}
        print(json.dumps(out), file=sys.stderr, flush=True)
    out["memory_bytes"] = memory.peak()
    alone = sbx(updates)
    return out if alone is None else {**out, "sbx_seconds_1": round(alone, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("seeds", "members", "solo"), default="seeds")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of --part solo")
    parser.add_argument("--steps", type=int, default=204_800, help="decisions of each seed")
    parser.add_argument("--updates", type=int, default=1_000, help="of each member in --part members")
    parser.add_argument("--members", default="1,4,16,64,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--run-dir", type=Path, help="where result.json goes")
    args = parser.parse_args()
    if args.preset:
        args.seeds, args.steps, args.rounds, args.updates, args.members = 2, 4_096, 1, 20, "1,2"
    if args.part == "solo":
        ours([args.seed], args.steps)
        return 0
    if args.part == "seeds":
        values = seeds_part(args.seeds, args.steps, args.rounds)
    else:
        values = members_part([int(m) for m in args.members.split(",")], args.updates)
    values["cores"] = os.cpu_count()
    if args.run_dir:
        args.run_dir.mkdir(parents=True, exist_ok=True)
        (args.run_dir / "result.json").write_text(json.dumps(values, indent=4) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
