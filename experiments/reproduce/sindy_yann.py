"""A controller of data alone, random behaviour near upright -> sparse model -> its Jacobian -> mp-QP -> YANN -> C.

    python experiments/reproduce/sindy_yann.py                  # a few minutes
    python experiments/reproduce/sindy_yann.py --preset debug   # the same path at toy size

No equation of the plant is used: the model is found from observations of `dmc:cartpole-balance` (native MuJoCo), the weights of
the controller are the curvature of the task's own reward. Results: `results/sindy-yann.json`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlx
from rlx import agents, config, export
from rlx.agents.sindy_rl.world import transitions
from rlx.dynamics.sparse import SparseModel, affine, equations, fit
from rlx.envs import batch, begin, rollout
from rlx.planning.linear import Linear, linearise
from rlx.train import Options, run
from rlx.train.evaluate import evaluate
from rlx.train.origin import versions
from rlx.train.policy import Policy
from rlx.types import Array, Control, Env, HostEnv, Key, Problem, Step

NAMES = ("x", "angle", "v", "w", "u")
REACH = np.array([1.0, 0.35, 2.0, 3.0])  # the box of states where a law is wanted


def observed(s: Array) -> Array:
    """Observations [5] of the state (place, angle, speed, rate)."""
    return jnp.stack([s[0], jnp.cos(s[1]), jnp.sin(s[1]), s[2], s[3]])


def state_of(xp: Any, obs: Any) -> Any:
    return xp.stack([obs[..., 0], xp.arctan2(obs[..., 2], obs[..., 1]), obs[..., 3], obs[..., 4]], -1)


def data(env: HostEnv, streams: int, steps: int) -> list[Any]:
    """Random behaviour from near upright, for as long as the pole is not far."""
    vec = batch(env, streams)
    rng = np.random.default_rng(0)
    policy = lambda carry, step, key: (rng.uniform(-1, 1, (streams, 1)).astype(np.float32), carry, {})
    start = begin(vec, vec.params, (), jax.random.key(0))
    rows = rollout(vec, vec.params, policy, start, jax.random.key(1), steps)[1]
    vec.close()
    return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(streams)]


def jacobian(model: SparseModel, project: Any) -> Linear:
    """The sparse model's linearisation upright and at rest, in states."""
    ahead = lambda s, u: state_of(jnp, project(jnp, model(jnp.concatenate([observed(s), u]))))
    A, B = jax.jacfwd(ahead, (0, 1))(jnp.zeros(4), jnp.zeros(1))
    return Linear(np.asarray(A, np.float64), np.asarray(B, np.float64), np.zeros((4, 0)))


def control_of(score: Any) -> Control:
    """The task as a controller knows it: its weights are those of 1 - reward for small deviations from upright."""
    small = 0.05
    cost = lambda v: float(1 - score(jnp, observed(v[:4]), v[4:]))
    curvature = np.array([cost(small * jnp.eye(5)[i]) for i in range(5)]) / small**2
    q = np.diag(np.maximum(curvature[:4], 1e-3))
    box = {"u_low": -np.ones(1), "u_high": np.ones(1), "x_low": -REACH, "x_high": REACH}
    measure = lambda xp, obs: {"state": state_of(xp, obs)}
    return Control(dt=0.01, x=np.zeros(4), u=np.zeros(1), **box, q=q, r=np.diag(curvature[4:]), measure=measure, names=NAMES)


def upright(control: Control) -> Env:
    """Cart-pole on the device that begins near upright, with the reward less 1: a cost of 0 where all is well."""
    env = rlx.envs.make("rlx:cartpole-swingup", time_limit=500)

    def reset(params: Any, key: Key) -> tuple[Any, Step]:
        state, step = env.reset(params, key)
        x = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0) * jnp.array([0.3, 0.15, 0.3, 0.3])
        return state._replace(x=x), step._replace(obs=observed(x))

    def step(params: Any, state: Any, action: Array, key: Key) -> tuple[Any, Step]:
        state, arrived = env.step(params, state, action, key)
        return state, arrived._replace(reward=arrived.reward - 1)

    return replace(env, spec=replace(env.spec, task=replace(env.spec.task, control=control)), reset=reset, step=step)


def returns(agent: Any, problem: Problem, state: Any, episodes: int) -> np.ndarray:
    return evaluate(agent, problem, state, jax.random.key(99), len(agent.stages) - 1, 0, episodes)["returns"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/sindy_yann"), help="where the C code goes")
    args = parser.parse_args()
    debug = args.preset == "debug"
    native = rlx.envs.make("dmc:cartpole-balance")
    task = native.spec.task
    rows = transitions(data(native, 40, 50), np.array([-5, 0.8, -1, -10, -10]), np.array([5, 2, 1, 10, 10]))
    inputs = np.concatenate([rows.obs, rows.action], 1)
    model = fit(affine(5, 1, 2), inputs, rows.new, alpha=5e-5, threshold=1e-3, rng=np.random.default_rng(0))
    found, control = jacobian(model, task.project), control_of(task.score)
    env = upright(control)
    true = linearise(rlx.envs.make("rlx:cartpole-swingup"), control)
    print(equations(model, ["x", "cos", "sin", "v", "w", "u"]))
    chosen = config.replace(agents.config("yann"), {"horizon": 3, "eval_episodes": 16, "state_rows": False})
    chosen = config.replace(chosen, {"episodes": 3 if debug else 20, "eval_every": 1 if debug else 5, "explore_sigma": 0.05})
    problem = Problem({"train": env}, {"model": {"A": found.A, "B": found.B}})
    agent = agents.make("yann", chosen, problem)
    truth = Problem({"train": replace(native, spec=replace(native.spec, task=replace(task, control=control)))}, problem.data)
    first = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    before = returns(agents.make("yann", chosen, truth), truth, first, 10)
    state = run(agent, problem, jax.random.key(0), options=Options(progress=False))
    best = state.agent._replace(learned=state.best["learned"])
    after = returns(agents.make("yann", chosen, truth), truth, best, 10)
    policy = Policy(agent, best, problem, len(agent.stages) - 1)
    folder = args.run_dir / "c"
    folder.mkdir(parents=True, exist_ok=True)
    export.to_c(policy, folder, "balance")
    timing = export.measure_c(policy)
    out = {
        "rows": len(rows.obs),
        "terms": model.terms,
        "A_error": float(np.abs(found.A - true.A).max()),
        "B_error": float(np.abs(found.B - true.B).max()),
        "regions": int(agent.report.learner.known.count),
        "return_controller": round(float(before.mean()), 1),
        "return_learned": round(float(after.mean()), 1),
        "worst_learned": round(float(after.min()), 1),
        "c_median_ns": timing.median,
    }
    results = args.run_dir / "results" if debug else Path(__file__).parent / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "sindy-yann.json").write_text(json.dumps({**out, "versions": versions()}, indent=1) + "\n")
    print("RESULT " + json.dumps(out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
