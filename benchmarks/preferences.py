"""Preferences: Gromov-Wasserstein in batches beside POT's loop and ott-jax, relabelling, and reward training for several seeds.

    python benchmarks/preferences.py [--part gw|relabel|seeds] [--out FILE]

"gw": 256 problems of 32 x 32, all sides with equal rounds (20 of linearisation, 50 of Sinkhorn in each, no early stop) and one
regularisation; peers that are not installed are left out (pip install POT ott-jax). POT computes in float64 by numpy, a problem
after another, and not in the log domain, which its Gromov-Wasserstein does not offer. ott-jax is mapped over the problems and
compiled. "relabel": rows/s of a Preference Transformer in chunks of windows against a call for each window. "seeds": training
the reward of 8 seeds as one program against one seed. All sides take turns; figures are medians of rounds, of the clock and of
the processor's seconds (``..._cpu``).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.preferences import learning, pairs, transport
from rlx.preferences.features import distances
from rlx.preferences.models import PreferenceTransformer, RewardMLP
from rlx.preferences.pairs import Episodes

EPS, OUTER, INNER = 5e-3, 20, 50


def by_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of (seconds, processor seconds); the first round compiles and does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for i in range(rounds + 1):
        for name, do in work.items():
            begun, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(do())
            if i:
                times[name].append((time.perf_counter() - begun, time.process_time() - cpu))
    return {name: tuple(np.median(np.array(each), 0).tolist()) for name, each in times.items()}  # type: ignore[misc]


# -------------------------------------------------------------------------------------------------------------- transport


def problems(count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances [B, n, n] of random points, and of others."""
    rng = np.random.default_rng(0)
    draw = lambda: np.stack([distances(rng.normal(size=(n, 5)) * np.linspace(0.2, 2, 5)) for _ in range(count)])
    return draw(), draw()


def pot(source: np.ndarray, target: np.ndarray) -> Callable[[], np.ndarray]:
    from ot.gromov import entropic_gromov_wasserstein

    p = np.full(source.shape[1], 1 / source.shape[1])
    how: dict[str, Any] = {"epsilon": 2 * EPS, "max_iter": OUTER, "tol": 0, "solver": "PGD", "symmetric": True}
    how |= {"numItermax": INNER, "stopThr": 0, "warn": False}
    return lambda: np.stack([entropic_gromov_wasserstein(c, d, p, p, **how) for c, d in zip(source, target, strict=True)])


def ott(source: np.ndarray, target: np.ndarray) -> Callable[[], Any]:
    from ott.geometry import geometry
    from ott.problems.quadratic import quadratic_problem
    from ott.solvers.linear import sinkhorn
    from ott.solvers.quadratic import gromov_wasserstein

    inner = sinkhorn.Sinkhorn(threshold=0.0, min_iterations=INNER, max_iterations=INNER)
    solver = gromov_wasserstein.GromovWasserstein(inner, EPS, min_iterations=OUTER, max_iterations=OUTER, threshold=0.0)
    cost = lambda c: geometry.Geometry(cost_matrix=c, epsilon=EPS)
    one = lambda c, d: solver(quadratic_problem.QuadraticProblem(cost(c), cost(d))).matrix
    run, given = jax.jit(jax.vmap(one)), (jnp.float32(source), jnp.float32(target))
    return lambda: run(*given)


def gw_part(count: int, rounds: int) -> dict[str, Any]:
    source, target = problems(count, 32)
    ours = functools.partial(transport.solve_many, source, target, eps=EPS, outer=OUTER, inner=INNER)
    work: dict[str, Callable[[], Any]] = {"rlx": lambda: [found.plan for found in ours()]}
    for name, make in {
        "pot": lambda: pot(source, target),
        "ott": lambda: ott(source, target),
    }.items():
        try:
            work[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
    found = by_turns(work, rounds)
    out: dict[str, Any] = {"gw_problems": count, "gw_rlx_s": round(found["rlx"][0], 3)}
    plans = np.stack(work["rlx"]())
    for name in list(work)[1:]:
        out |= {f"gw_{name}_s": round(found[name][0], 3)}
        out |= {f"gw_times_{name}{suffix}": round(found[name][k] / found["rlx"][k], 1) for k, suffix in ((0, ""), (1, "_cpu"))}
        apart = abs(np.asarray(work[name]()) - plans).max((1, 2)) * 32  # in units of a row's mass
        out[f"gw_apart_{name}"] = {"median": float(np.median(apart)), "most": float(apart.max())}
    return out


# ------------------------------------------------------------------------------------------------------- reward models


def rows(episodes: int, steps: int) -> Episodes:
    """Rows of Meta-World's shapes."""
    rng = np.random.default_rng(0)
    one = lambda: {
        "obs": rng.normal(size=(steps + 1, 39)),
        "action": rng.uniform(-1, 1, (steps + 1, 4)),
        "reward": rng.normal(size=steps + 1),
        "terminated": np.zeros(steps + 1, bool),
    }
    return pairs.episodes(replay.from_episodes([one() for _ in range(episodes)]))


def window_by_window(model: PreferenceTransformer, params: Any, found: Episodes, segment: int, count: int) -> np.ndarray:
    """A call of the compiled model for each of the first ``count`` rows."""
    run, out = jax.jit(model.apply), np.zeros(count)
    for row in range(count):
        begin = max(int(found.first[row]), row - segment + 1)
        short = segment - (row + 1 - begin)
        pad = lambda x, short=short: np.pad(x, ((short, 0), (0, 0)))[None]
        parts = (pad(x[begin : row + 1]) for x in (found.obs, found.action))
        out[row] = run(params, *parts, (np.arange(segment) >= short).astype(np.float32)[None]).mean[0, -1]
    return out


def relabel_part(count: int, rounds: int, width: int, segment: int) -> dict[str, Any]:
    found, few = rows(max(count // 100, 1), 99), min(count, 500)
    model = PreferenceTransformer(width, 1, 4, segment, gaussian=True, dropout=0.0)
    params = learning.init(model, jax.random.key(0), 39, 4)
    work = {
        "chunks": lambda: learning.rewards(model, params, found, segment),
        "one_by_one": lambda: window_by_window(model, params, found, segment, few),
    }
    times, n = by_turns(work, rounds), len(found.obs)
    there = np.isfinite(work["chunks"]()[:few])
    np.testing.assert_allclose(work["chunks"]()[:few][there], work["one_by_one"]()[there], rtol=1e-3, atol=1e-3)
    out = {"relabel_rows": n, "relabel_rows_one_by_one": few, "relabel_width": width, "relabel_segment": segment}
    out |= {"relabel_rows_per_s": round(n / times["chunks"][0], 1)}
    each = [times["one_by_one"][k] / few / (times["chunks"][k] / n) for k in (0, 1)]
    return out | {"relabel_times_one_by_one": round(each[0], 2), "relabel_times_one_by_one_cpu": round(each[1], 2)}


def seeds_part(members: int, steps: int, rounds: int) -> dict[str, Any]:
    found, rng = rows(100, 50), np.random.default_rng(1)
    first, second = pairs.choose(100, 500, "random", rng)
    given = pairs.preferences([first, second], found.returns[second] > found.returns[first], 50)
    model, training = RewardMLP((256, 256), gaussian=True), learning.Training(steps=steps, checks=2)
    start = lambda key: learning.init(model, key, 39, 4)
    one = lambda key: learning.fit(model, start(key), given, found, key, training).held_loss
    several = jax.random.split(jax.random.key(0), members)
    data, window = learning.windows(given, found, training.segment)
    parts = [learning.split(np.ones(500), training.held_out, key) for key in several]
    learn, held = (jnp.stack([jnp.asarray(p[k]) for p in parts]) for k in (0, 1))

    def program(params: Any, learn: Any, held: Any, key: Any) -> Any:
        none = jnp.arange(0)
        return learning.fitted(params, data, learn, held, none, key, learning.Coefs(), model=model, steps=window, how=training)

    together, params = jax.jit(jax.vmap(program)), jax.vmap(start)(several)
    times = by_turns({"one": lambda: one(several[0]), "all": lambda: together(params, learn, held, several).held_loss}, rounds)
    ratios = {suffix: times["all"][k] / times["one"][k] for k, suffix in ((0, ""), (1, "_cpu"))}
    return {"seeds": members, "seeds_steps": steps} | {f"seeds_times_one{s}": round(r, 2) for s, r in ratios.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("gw", "relabel", "seeds"), help="without: all")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256, help="of the transformer")
    parser.add_argument("--segment", type=int, default=25, help="steps of its windows")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1_000, help="of the reward's training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--out", type=Path, help="where the result goes as JSON; what it holds of other parts stays")
    args = parser.parse_args()
    if args.preset:
        args.problems, args.rows, args.width, args.segment, args.members, args.steps, args.rounds = 2, 200, 8, 5, 2, 4, 1
    warnings.filterwarnings("ignore", module="ot")
    values: dict[str, Any] = {}
    if args.part in (None, "gw"):
        values |= gw_part(args.problems, args.rounds)
    if args.part in (None, "relabel"):
        values |= relabel_part(args.rows, args.rounds, args.width, args.segment)
    if args.part in (None, "seeds"):
        values |= seeds_part(args.members, args.steps, args.rounds)
    values |= {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1), "jax": jax.__version__}
    if args.out:
        before = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps(before | values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
