"""SINDy-RL on cart-pole swing-up: refitting, imagining, one iteration, and the policy that is left.

    python benchmarks/sindy.py                    # all parts, two to five minutes
    python benchmarks/sindy.py --part refit       # 20 members from 8 000 random rows, against pysindy
    python benchmarks/sindy.py --part surrogate   # imagined steps, against pysindy's predict and vectorised numpy
    python benchmarks/sindy.py --part dyna        # a round of PPO in the model, and a refit every 10, as the agent runs them
    python benchmarks/sindy.py --part policy      # the polynomial in C, against the network that it stands for

Contestants take turns; the shortest and the median of the rounds are kept, ratios are of the shortest and above 1 where rlx is
faster. All models are of the same rows, and the contestants of `surrogate` evaluate the same coefficients.

- refit: pysindy's `EnsembleOptimizer` of `STLSQ`, told all that rlx is told; evaluating the dictionary counts on both sides.
  Each with as many threads as it takes, and with one ("_1"); the ratio is against the better of pysindy's.
- surrogate: rlx is `rlx.envs.rollout` of the environment as the agent uses it: dictionary, projection, reward, box, restarts,
  rows (and where `uncertainty_penalty` is not 0 the members' disagreement); pysindy predicts a single stream, call by call.
- dyna: seconds of the compiled phases of a cycle, and of the host's; `products` are the matrix products of an update alone.
- policy: single decisions, as `rlx.export.measure_c` has them, whose clock ticks in some 10 ns; two hidden layers of 64.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents, config, export, replay
from rlx.agents.sindy_rl.distil import CLOCK, step_at
from rlx.agents.sindy_rl.world import transitions
from rlx.dynamics.sparse import SparseModel, fit
from rlx.envs import batch, begin, make, rollout
from rlx.train import Options, run
from rlx.train import state as states
from rlx.train.host import device_state, put_back, run_phase
from rlx.train.program import Program
from rlx.types import Agent, Array, Problem, RunState

ENV = "dmc:cartpole-swingup"
PARTS = ("refit", "surrogate", "dyna", "policy")
PACKAGES = ("jax", "numpy", "pysindy", "scikit-learn", "dm_control")
PHASES = ("rollout", "ppo", "real", "refit")  # of a cycle, in order
IMAGINE, IMPROVE, REAL, REFIT = range(4)


@dataclasses.dataclass
class Begun:
    """A run up to its first fit, and in the stage after it."""

    problem: Problem
    agent: Agent
    run: RunState
    program: Program  # of the stage "dyna"
    inputs: np.ndarray  # [N, 6] float64
    targets: np.ndarray  # [N, 5]

    @property
    def world(self) -> dict[str, Any]:
        """The imagined environment's params."""
        return self.program.stage.phases[IMAGINE].params(self.run.agent, self.run.sources)

    @property
    def model(self) -> SparseModel:
        return self.world["model"]["model"]["dynamics"]


def begun(debug: bool) -> Begun:
    problem = Problem({"train": make(ENV)})
    settings = config.replace(agents.config("sindy_rl"), agents.presets("sindy_rl")["debug"] if debug else {})
    agent, key = agents.make("sindy_rl", settings, problem), jax.random.key(0)
    state = run(agent, problem, key, options=Options(progress=False), stages=("seed", "fit"))
    index = [s.name for s in agent.stages].index("dyna")
    program = Program(agent, problem, index, {})
    states.enter(program, state)
    rows = transitions(replay.export(state.sources["seed"]))
    return Begun(problem, agent, state, program, np.concatenate([rows.obs, rows.action], 1), rows.new)


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Shortest and median seconds of each, after a first call; those that take over 5 s are called 3 times."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(rounds):
        for name, call in contestants.items():
            if len(spent[name]) >= 3 and min(spent[name]) > 5:
                continue
            started = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - started)
    return {name: {"s": min(t), "median_s": float(np.median(t))} for name, t in spent.items()}


# ------------------------------------------------------------------------------------------------------------------ refit


def peer_fit(theta: np.ndarray, targets: np.ndarray, ensemble_size: int, bag: float) -> Any:
    from pysindy.optimizers import STLSQ, EnsembleOptimizer

    how = {"bagging": True, "library_ensemble": True, "n_candidates_to_drop": 1, "replace": True}
    single = STLSQ(threshold=7e-3, alpha=5e-5, unbias=False)
    optimizer = EnsembleOptimizer(single, n_models=ensemble_size, n_subset=int(bag * len(theta)), **how)
    return optimizer.fit(theta, targets)


def one_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """With the linear algebra on one thread: where others use the cores too, the threads of pysindy's wait for each other."""
    from threadpoolctl import threadpool_limits

    def alone() -> Any:
        with threadpool_limits(1):
            return call()

    return alone


def refit_part(begun: Begun, rounds: int) -> dict[str, Any]:
    settings = begun.agent.config
    library, inputs, targets = begun.model.library, begun.inputs, begun.targets
    how: dict[str, Any] = {"alpha": 5e-5, "threshold": 7e-3, "ensemble_size": settings.ensemble_size, "bag": 0.6, "drop": 1}
    ours = lambda: fit(library, inputs, targets, rng=np.random.default_rng(0), **how)
    theirs = lambda: peer_fit(library(inputs), targets, settings.ensemble_size, 0.6)
    calls = {"rlx": ours, "pysindy": theirs} | {"rlx_1": one_thread(ours), "pysindy_1": one_thread(theirs)}
    np.random.seed(0)
    took = alternate(calls, rounds)
    off = lambda coef: (library(inputs) @ np.asarray(coef, float).T - targets) / targets.std(0)
    error = lambda coef: float(np.sqrt((off(coef) ** 2).mean()))
    found = {"rlx": np.asarray(ours().coef), "pysindy": theirs().coef_}
    out: dict[str, Any] = {"rows": len(inputs), "terms": len(library), "members": settings.ensemble_size}
    out |= {f"{name}_{k}": v for name, t in took.items() for k, v in t.items()}
    out |= {f"{name}_error": error(coef) for name, coef in found.items()}  # one step, in standard deviations of the data
    out |= {f"{name}_coefficients": int(np.count_nonzero(coef)) for name, coef in found.items()}
    return out | {"ratio_pysindy": min(took[k]["s"] for k in ("pysindy", "pysindy_1")) / took["rlx"]["s"]}


# -------------------------------------------------------------------------------------------------------------- surrogate


def imagined(begun: Begun, start: np.ndarray, actions: np.ndarray) -> Callable[[], Any]:
    """Observations [T, W, 5] of rlx, from ``start`` [W, 5] on by ``actions`` [T, W, 1]."""
    vec = batch(begun.agent.envs["model"].env, len(start))
    rollout_state = begin(vec, begun.world, jnp.int32(0), jax.random.key(0))
    given, at = jnp.asarray(actions), jnp.asarray(start)
    state = rollout_state.env._replace(env=rollout_state.env.env._replace(obs=at))
    rollout_state = rollout_state._replace(env=state, step=rollout_state.step._replace(obs=at))

    @jax.jit
    def roll(params: Any, rollout_state: Any, actions: Array) -> Any:
        policy: Any = lambda t, step, key: (actions[t], t + 1, {})
        return rollout(vec, params, policy, rollout_state, jax.random.key(1), len(actions))[1]

    return lambda: jax.block_until_ready(roll(begun.world, rollout_state, given)).obs


def by_numpy(begun: Begun, start: np.ndarray, actions: np.ndarray) -> Callable[[], Any]:
    """The same in numpy, all streams at once; who leaves the box begins again."""
    model, world, task = begun.model, jax.tree.map(np.asarray, begun.world), begun.problem.envs["train"].spec.task
    coef, low, high = np.asarray(model.coef).T.copy(), world["low"], world["high"]
    obs = np.zeros((*actions.shape[:2], start.shape[1]), np.float32)
    reward, out = np.zeros(obs.shape[:2], np.float32), np.zeros(obs.shape[:2], bool)

    def call() -> Any:
        x = start
        for t, u in enumerate(actions):
            obs[t] = x
            x = task.project(np, model.library(np.concatenate([x, u], 1)) @ coef)
            reward[t] = task.score(np, x, u)
            out[t] = ((x <= low) | (x >= high)).any(1)
            x = np.where(out[t, :, None], start, x)
        return obs

    return call


def by_pysindy(begun: Begun, start: np.ndarray, actions: np.ndarray) -> Callable[[], Any]:
    """The same with pysindy's predictions of a single stream."""
    import pysindy

    world, task, inputs = jax.tree.map(np.asarray, begun.world), begun.problem.envs["train"].spec.task, begun.inputs
    states_of = pysindy.PolynomialLibrary(degree=2, include_bias=False)
    own, acting = list(range(start.shape[1])), [start.shape[1]]
    both = [states_of, pysindy.PolynomialLibrary(degree=1, include_bias=False)]
    library = pysindy.feature_library.GeneralizedLibrary(both, tensor_array=[[1, 1]], inputs_per_library=[own, acting])
    model = pysindy.DiscreteSINDy(pysindy.STLSQ(threshold=7e-3, alpha=5e-5, unbias=False), library)
    model.fit(inputs[:, :-1], t=1, x_next=begun.targets, u=inputs[:, -1:])
    model.optimizer.coef_ = np.asarray(begun.model.coef, float)  # those of the ensemble
    low, high = world["low"], world["high"]

    def call() -> Any:
        x = start.astype(float)
        obs, reward, out = [], [], []
        for u in actions[:, 0].astype(float):
            obs.append(x)
            x = task.project(np, np.asarray(model.predict(x, u=u[None])))
            reward.append(task.score(np, x, u[None]))
            out.append(((x <= low) | (x >= high)).any(1))
        return np.stack(obs)

    return call


def surrogate_part(begun: Begun, rounds: int, debug: bool) -> dict[str, Any]:
    wide, narrow, length, few = (64, 8, 50, 20) if debug else (1_024, 40, 1_000, 100)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (length, wide, 1)).astype(np.float32)
    start = np.asarray(begun.world["starts"])[rng.integers(len(begun.world["starts"]), size=wide)]
    runs = {
        f"rlx_{wide}": (imagined, wide, length),
        f"rlx_{narrow}": (imagined, narrow, length),
        f"numpy_{wide}": (by_numpy, wide, few),
        f"numpy_{narrow}": (by_numpy, narrow, length),
        "pysindy_1": (by_pysindy, 1, few),
    }
    calls = {name: how(begun, start[:w], actions[:steps, :w]) for name, (how, w, steps) in runs.items()}
    first = np.asarray(calls[f"rlx_{wide}"]())[:20]
    for name, call in calls.items():  # one model, one run
        np.testing.assert_allclose(np.asarray(call())[:20], first[:, : runs[name][1]], atol=1e-3, err_msg=name)
    took = alternate(calls, rounds)
    out: dict[str, Any] = {}
    for name, (_, width, steps) in runs.items():
        out |= {f"{name}_steps_per_s": width * steps / took[name]["s"]}
        out |= {f"{name}_median_steps_per_s": width * steps / took[name]["median_s"]}
    rate = lambda name: out[f"{name}_steps_per_s"]
    for width in (wide, narrow):
        out |= {f"ratio_{peer}_{width}": rate(f"rlx_{width}") / rate(name) for peer, name in
                (("numpy", f"numpy_{width}"), ("pysindy", "pysindy_1"))}  # fmt: skip
    return out


# ------------------------------------------------------------------------------------------------------------------- dyna


def products(begun: Begun) -> Callable[[], Any]:
    """The matrix products of an update, forward and backward, in as many steps; each moves the weights, so that it counts."""
    c, learned = begun.agent.config.ppo, begun.run.agent.learned
    kernels = lambda name: [jnp.array(layer["kernel"]) for layer in learned[name]["params"].values()]
    layers = [kernels(name) for name in ("actor", "critic")]
    obs = jax.random.normal(jax.random.key(0), (c.n_envs * c.steps // c.minibatches, len(layers[0][0])))

    def one(layers: Any, _: Any) -> Any:
        new = []
        for weights in layers:
            x = [obs]
            for w in weights:
                x.append(x[-1] @ w)
            back, moved = x.pop(), []
            for w in weights[::-1]:
                moved.append(w - 1e-9 * (x.pop().T @ back))
                back = back @ w.T if x else back
            new.append(moved[::-1])
        return new, None

    compiled = jax.jit(lambda layers: jax.lax.scan(one, layers, None, c.epochs * c.minibatches)[0])
    return lambda: jax.block_until_ready(compiled(layers))


def cycles(begun: Begun, n: int) -> None:
    """Imagined cycles as the runner has them between two refits: one call."""
    program, state = begun.program, begun.run
    on_device, _ = program.chunk(device_state(program, state), state.key, state.cycle, n)
    put_back(program, state, jax.block_until_ready(on_device))
    state.cycle += n


def dyna_part(begun: Begun, rounds: int) -> dict[str, Any]:
    program, state, settings = begun.program, begun.run, begun.agent.config

    def device(j: int) -> None:
        on_device = program.phases((j,), device_state(program, state), state.key, state.cycle)
        put_back(program, state, jax.block_until_ready(on_device))

    def host(j: int) -> None:
        run_phase(program, state, j)
        jax.block_until_ready((state.agent, state.sources))
        state.cycle += j == REFIT

    every = settings.refit_every
    calls: dict[str, Callable[[], Any]] = {name: lambda j=j: (device if j < REAL else host)(j) for j, name in enumerate(PHASES)}
    took = alternate(calls | {"cycles": lambda: cycles(begun, every - 1), "products": products(begun)}, rounds)
    rows = sum(len(e.obs) - 1 for k in ("seed", "online") for e in replay.export(state.sources[k]))
    minibatches = settings.ppo.epochs * settings.ppo.minibatches
    out: dict[str, Any] = {"minibatches": minibatches, "rows_at_the_end": rows, "refit_every": every}
    for kind in ("s", "median_s"):
        each = {name: took[name][kind] / (every if name in PHASES[REAL:] else 1) for name in PHASES}
        out |= {f"{name}_{kind}": took[name][kind] for name in PHASES}
        whole = took["cycles"][kind] / (every - 1) + each["real"] + each["refit"]
        out |= {f"iteration_{kind}": whole, f"minibatch_{kind}": took["ppo"][kind] / minibatches}
        out |= {f"products_{kind}": took["products"][kind] / minibatches}
        if kind == "s":
            out |= {f"share_{name}": part / sum(each.values()) for name, part in each.items()}
            out |= {"share_products": took["products"][kind] / took["ppo"][kind]}  # of the update
    return out


# ----------------------------------------------------------------------------------------------------------------- policy


def policy_part(begun: Begun, debug: bool) -> dict[str, Any]:
    """After some cycles in the first model. `distil_s` includes compiling the runs of the policy."""
    agent, state = begun.agent, begun.run
    cycles(begun, 1 if debug else 30)
    distil = agent.stages[-1].phases[0].fn
    started = time.perf_counter()
    sparse = distil(state.agent, state.sources, jax.random.key(0))[0].learned["sparse"]
    seconds = time.perf_counter() - started
    act = lambda obs: agent.act(state.agent, CLOCK, (), step_at(obs), jax.random.key(0), "eval")[0]
    laws = {"network": act, "polynomial": lambda obs: jnp.clip(sparse(obs), -1.0, 1.0)}
    obs = begun.targets[np.random.default_rng(0).permutation(len(begun.targets))[: 20 if debug else 2_000]].astype(np.float32)
    ns = {k: export.measure_c(export.Law(law, obs.shape[1]), obs, calls=5 if debug else 50).median for k, law in laws.items()}
    size = sum(x.size for x in jax.tree.leaves(state.agent.learned["actor"]))
    out: dict[str, Any] = {f"{name}_ns": time for name, time in ns.items()} | {"network_coefficients": size}
    out |= {"polynomial_terms": sparse.coef.size, "polynomial_coefficients": sparse.terms, "distil_s": seconds}
    return out | {"ratio_network": ns["network"] / max(ns["polynomial"], 1)}


# ------------------------------------------------------------------------------------------------------------------- main


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {"cores": os.cpu_count(), "processor": (names or [platform.machine()])[0], "device": jax.devices()[0].device_kind}
    return {**found, "load": os.getloadavg()[0], "python": platform.python_version(), **{k: version(k) for k in PACKAGES}}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return float(f"{x:.4g}") if isinstance(x, float) and math.isfinite(x) else None if isinstance(x, float) else x


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--run-dir", type=Path, help="where result.json goes")
    args = parser.parse_args()
    debug, parts = args.preset == "debug", PARTS if args.part == "all" else (args.part,)
    rounds, values, here = 2 if debug else args.rounds, {"machine": machine()}, begun(debug)
    how: dict[str, Callable[[], dict[str, Any]]] = {
        "refit": lambda: refit_part(here, rounds),
        "surrogate": lambda: surrogate_part(here, rounds, debug),
        "dyna": lambda: dyna_part(here, rounds),
        "policy": lambda: policy_part(here, debug),
    }
    for part in parts:
        values[part] = how[part]()
        print(json.dumps({part: rounded(values[part])}), file=sys.stderr, flush=True)
    if args.run_dir:
        args.run_dir.mkdir(parents=True, exist_ok=True)
        (args.run_dir / "result.json").write_text(json.dumps(rounded(values), indent=1) + "\n")
    print("RESULT " + json.dumps(rounded(values)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
