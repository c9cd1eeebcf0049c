"""How good the sparse models of SINDy-RL are that see random behaviour alone, on cart-pole, KS-22 and the swimmer.

    python experiments/reproduce/sindy_models.py                   # about a minute
    python experiments/reproduce/sindy_models.py --preset debug    # the same path from less data

Results: `results/sindy-quality.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import envs
from rlx.agents.sindy_rl.world import transitions
from rlx.dynamics.sparse import affine, equations, fit, poly
from rlx.envs import batch, begin, rollout
from rlx.envs.control.spectral import pod
from rlx.train.origin import versions
from rlx.types import Env, HostEnv


def behaviour(env: Env | HostEnv, streams: int, steps: int, hold: int = 1, seed: int = 0) -> list[Any]:
    """Random behaviour, actions held for ``hold`` decisions: rows of each stream."""
    vec = batch(env, streams)
    size = env.spec.action.shape[0]

    def policy(carry: Any, step: Any, key: Any) -> Any:
        key = jax.random.wrap_key_data(key) if env.host else key
        new = jax.random.uniform(key, (streams, size), minval=-1.0, maxval=1.0)
        count, held = carry
        action = jnp.where(count % hold == 0, new, held)
        return action, (count + 1, action), {}

    start = begin(vec, vec.params, (jnp.int32(0), jnp.zeros((streams, size))), jax.random.key(seed))
    roll = lambda start, key: rollout(vec, vec.params, jax.jit(policy) if env.host else policy, start, key, steps)[1]
    rows = jax.tree.map(np.asarray, (roll if env.host else jax.jit(roll))(start, jax.random.key(seed + 1)))
    vec.close()
    return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(streams)]


def quality(debug: bool) -> dict[str, Any]:
    """One-step errors on cart-pole, horizons on KS-22, the swimmer's reward, and where the ensemble is uncertain."""
    rng, short = np.random.default_rng(0), 10 if debug else 1
    out: dict[str, Any] = {"versions": versions()}
    rows = transitions(behaviour(envs.make("dmc:cartpole-swingup"), 8, 1_000 // short + 1))
    z = np.concatenate([rows.obs, rows.action], 1)
    model = fit(affine(5, 1, 2), z, rows.new, alpha=5e-5, threshold=7e-3, rng=rng)
    prediction = np.asarray(model(jnp.asarray(z, jnp.float32)))
    rms = lambda x: np.round(np.sqrt((x**2).mean(0)), 6).tolist()
    low, high = np.array([-5, -1.1, -1.1, -10, -10]), np.array([5, 1.1, 1.1, 10, 10])
    anywhere = np.concatenate([rng.uniform(low, high, (4_000, 5)), rng.uniform(-1, 1, (4_000, 1))], 1)
    disagreement = lambda x: float(np.asarray(model.variance(jnp.asarray(x, jnp.float32))).sum(1).mean())
    out["cartpole"] = {
        "one_step_rms": rms(prediction - rows.new),
        "persistence_rms": rms(rows.obs - rows.new),
        "terms": model.terms,
        "equations": equations(model, ["x", "cos", "sin", "v", "w", "u"]).splitlines(),
        "variance_anywhere_over_data": disagreement(anywhere) / disagreement(z),
    }
    print("quality cartpole", json.dumps(out["cartpole"]), flush=True)
    out["ks22"] = ks_horizons(20 // short)
    print("quality ks22", json.dumps(out["ks22"]), flush=True)
    rows = transitions(behaviour(envs.make("gym:Swimmer-v5"), 4, 3_000 // short))
    reward = fit(poly(8, 2, interact=False), rows.new, rows.reward[:, None], alpha=1e-5, threshold=5e-2, rng=rng)
    error = np.asarray(reward(jnp.asarray(rows.new, jnp.float32)))[:, 0] - rows.reward
    names = ["angle", "joint1", "joint2", "vx", "vy", "rate", "rate1", "rate2"]
    out["swimmer"] = {"reward": equations(reward, names, ["r"]), "r2": float(1 - error.var() / rows.reward.var())}
    print("quality swimmer", json.dumps(out["swimmer"]), flush=True)
    return out


def ks_horizons(episodes: int) -> dict[str, Any]:
    """Decisions until a model of KS-22, in principal components, is off by half of the state: medians over held-out runs."""
    data = behaviour(envs.make("rlx:ks22"), episodes + 4, 400, hold=4)
    runs = [e.obs.astype(np.float64) for e in data]
    acts = [e.action.astype(np.float64) for e in data]
    out = {}
    for modes in (8, 12):
        basis = pod(np.concatenate(runs[:episodes]), modes)
        reduced = [(x - basis.mean) @ basis.basis / basis.scale for x in runs]
        for kind, library in (("linear", affine(modes, 4, 1, tensor=False)), ("quadratic", affine(modes, 4, 2, tensor=False))):
            inputs = np.concatenate([np.concatenate([x, a], 1)[:-1] for x, a in zip(reduced[:episodes], acts, strict=False)])
            targets = np.concatenate([x[1:] for x in reduced[:episodes]])
            model = fit(library, inputs, targets, alpha=1e-3, threshold=1e-3, rng=np.random.default_rng(0))
            held_out = zip(reduced[episodes:], acts[episodes:], strict=True)
            out[f"{kind} {modes}"] = float(np.median([h for x, a in held_out for h in horizons(model, x, a)]))
    return out


def horizons(model: Any, x: np.ndarray, a: np.ndarray, limit: float = 0.5) -> list[int]:
    coef, out = np.asarray(model.coef, np.float64), []
    for begin_at in range(0, len(x) - 150, 50):
        state = x[begin_at]
        for t in range(149):
            state = model.library(np.concatenate([state, a[begin_at + t]])) @ coef.T
            true = x[begin_at + t + 1]
            if not np.linalg.norm(state - true) <= limit * np.linalg.norm(true):
                break
        out.append(t + 1)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/sindy_models"), help="where a debug run's result goes")
    args = parser.parse_args()
    debug = args.preset == "debug"
    results = args.run_dir / "results" if debug else Path(__file__).parent / "results"
    results.mkdir(parents=True, exist_ok=True)
    found = quality(debug)
    (results / "sindy-quality.json").write_text(json.dumps(found, indent=1) + "\n")
    print("RESULT " + json.dumps({"results": str(results)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
