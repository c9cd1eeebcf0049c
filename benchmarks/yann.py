"""Explicit MPC: evaluating laws, solving for them, and learning that starts from them.

    python benchmarks/yann.py                    # all parts, about a quarter of an hour
    python benchmarks/yann.py --part law         # 7, 115 and 2 195 regions: one state (from Python, and in C), batches of 1e5
    python benchmarks/yann.py --part solve       # the 115 regions, against PPOPT's algorithms, each in a process of its own
    python benchmarks/yann.py --part training    # 50 episodes of 10 seeds as one program

Peers: PPOPT's `Solution.evaluate` (also told that regions do not overlap, and its compiled `PointLocation`), OSQP solving each
state's program (warm started, set up outside), a numpy loop over regions, and, as what explicit MPC can do at best in one
state, a binary search tree over hyperplanes in C (Tondel, Johansen and Bemporad 2003, "Evaluation of piecewise affine control
via binary search tree", Automatica 39). All solve the same program. Times leave out what else a shared machine does meanwhile:
one state, the shortest of some calls, median over states, as `rlx.export.measure_c` has it; batches, the shortest of rounds
that alternate between contestants; solving, seconds of processor time. `pip install -c constraints.txt -e '.[oracle]'` first.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import search_tree

from rlx import agents, config, export
from rlx.agents.yann import networks
from rlx.envs import make
from rlx.planning import laws, mpc, mpqp
from rlx.planning.linear import Linear, linearise
from rlx.train import Options, population
from rlx.train.compilation import compile_seconds
from rlx.types import Control, Problem

LARGE = 500  # regions from which on the big-M network, whose size grows with their square, is left out
LIMIT = 120  # seconds of processor time for a peer to solve
ALGORITHMS = ("graph", "combinatorial", "geometric")  # of PPOPT, those that run in one process


# --------------------------------------------------------------------------------------------------------------- programs


def control(n: int, x: float, r: float) -> Control:
    """One input in +-1, n states in +-x, weights 1 and r."""
    box, one = np.full(n, x), np.ones(1)
    return Control(1.0, 0 * box, 0 * one, -one, one, -box, box, np.eye(n), r * np.eye(1), lambda xp, obs: {"state": obs})


def pendulum() -> mpc.Program:
    env = make("rlx:upright-pendulum")
    facts = env.spec.task.control
    assert facts is not None
    return mpc.program(facts, linearise(env, facts), 2)


def tutorial() -> mpc.Program:
    """The double integrator over 10 decisions with limits of y = [1 2] x and a terminal set, of the YANN tutorial."""
    y, row = np.array([[1.0, 2.0]]), np.array([[0.6136, 1.6099], [-0.3742, -0.3682]])
    plant = Linear(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.0], [1.0]]), np.zeros((2, 0)))
    limits = {
        "terminal": (np.concatenate([row, -row]), np.ones(4)),
        "state_polytope": (np.concatenate([y, -y]), np.full(2, 25.0)),
    }
    return mpc.program(control(2, 10.0, 0.01), plant, 10, **limits)


def triple(horizon: int) -> mpc.Program:
    """The triple integrator with limits of inputs alone."""
    powers = [[1 / math.factorial(j - i) if j >= i else 0.0 for j in range(4)] for i in range(3)]
    plant = Linear(np.array(powers)[:, :3], np.array(powers)[:, 3:], np.zeros((3, 0)))
    return mpc.program(control(3, 10.0, 0.1), plant, horizon, state_rows=False)


def states(regions: mpqp.Regions, program: mpc.Program, count: int) -> np.ndarray:
    """Float32 parameters inside the regions."""
    n, rng = program.F.shape[1], np.random.default_rng(0)
    kept = np.zeros((0, n))
    while len(kept) < min(count, 20_000):
        z = rng.uniform(-program.th[n : 2 * n], program.th[:n], (20_000, n))
        kept = np.concatenate([kept, z[regions.locate(z) >= 0]])
    return kept[rng.permutation(count) % len(kept)].astype(np.float32)


def exact(regions: mpqp.Regions, z: np.ndarray) -> np.ndarray:
    """The first input, by a plain loop over regions."""
    i = regions.locate(z)
    return (regions.K[i, 0] * z).sum(-1) + regions.r[i, 0]


# ------------------------------------------------------------------------------------------------------------------ peers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what compiled libraries print: one that PPOPT needs says its licence."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def column(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(-1, 1)


def theirs(program: mpc.Program) -> Any:
    """The program in PPOPT's form."""
    from ppopt.mpqp_program import MPQP_Program

    p = program
    return MPQP_Program(
        p.G.copy(), column(p.w), np.zeros((len(p.H), 1)), 2 * p.F, 2 * p.H, p.Th.copy(), column(p.th), p.S.copy()
    )


def ppopt_of(program: mpc.Program, regions: mpqp.Regions) -> Any:
    """PPOPT's solution made of our regions, flagged as overlapping as its own solver flags what it finds."""
    from ppopt.critical_region import CriticalRegion
    from ppopt.solution import Solution

    found = []
    for K, r, A, b, active in zip(regions.K, regions.r, regions.A, regions.b, regions.active, strict=True):
        on = np.isfinite(b)
        none = np.zeros((0, A.shape[1])), np.zeros((0, 1))  # multipliers, which evaluating does not need
        found.append(CriticalRegion(K, column(r), *none, A[on], column(b[on]), np.flatnonzero(active).tolist()))
    return Solution(theirs(program), found, is_overlapping=True)


def osqp_of(program: mpc.Program) -> Callable[[np.ndarray], float]:
    import osqp
    from scipy import sparse

    solver, p = osqp.OSQP(), program
    free = np.full(len(p.w), -np.inf)
    matrices = sparse.csc_matrix(2 * p.H), np.zeros(len(p.H)), sparse.csc_matrix(p.G), free, p.w
    solver.setup(*matrices, verbose=False, eps_abs=1e-5, eps_rel=1e-5, warm_starting=True)

    def solve(z: np.ndarray) -> float:
        solver.update(q=2 * p.F @ z, u=p.w + p.S @ z)
        return float(solver.solve().x[0])

    return solve


# ------------------------------------------------------------------------------------------------------------------- laws


def bigm_of(law: laws.PiecewiseLaw, box: tuple[np.ndarray, np.ndarray]) -> Callable[[jax.Array], jax.Array]:
    """The paper's network without its residual."""
    corners = np.stack(np.meshgrid(*zip(*box, strict=True)), -1).reshape(-1, len(box[0]))
    net, every = networks.bigm_init(law, corners), jnp.arange(law.regions)

    def act(z: jax.Array) -> jax.Array:
        return networks.bigm_output(net, networks.bigm_gates(net, z)[1], law.affine(z[..., None, :], every))

    return act


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The shortest seconds of each, after a first call; those that take over 5 s are called 3 times."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(rounds):
        for name, call in contestants.items():
            if len(spent[name]) >= 3 and max(spent[name]) > 5:
                continue
            begun = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - begun)
    return {name: min(times) for name, times in spent.items()}


def one_by_one(call: Callable[[int], Any], count: int, calls: int = 5) -> float:
    """Median microseconds over states of the shortest of some calls."""
    call(0)
    least = []
    for i in range(count):
        spent = []
        for _ in range(calls):
            begun = time.perf_counter()
            call(i)
            spent.append(time.perf_counter() - begun)
        least.append(min(spent))
    return 1e6 * float(np.median(least))


def acts_of(regions: mpqp.Regions, program: mpc.Program) -> dict[str, Callable]:
    n = program.F.shape[1]
    plain, pressed = (laws.piecewise(regions, program, compressed=c) for c in (False, True))
    acts: dict[str, Callable] = {"gated": lambda z: plain(z).u, "compressed": lambda z: pressed(z).u}
    if len(regions.K) <= LARGE:
        acts["bigm"] = bigm_of(plain, (-program.th[n : 2 * n], program.th[:n]))
    return acts


def law_part(program: mpc.Program, batch: int, sample: int, rounds: int) -> dict[str, Any]:
    """Microseconds per state: "one" of one state at a time, "many" in a batch; and the largest error against the regions."""
    regions = mpqp.solve(program)
    acts = acts_of(regions, program)
    z = states(regions, program, batch)
    few = z[:sample].astype(np.float64)
    jitted = {name: jax.jit(act) for name, act in acts.items()}
    run = lambda name, at: jax.block_until_ready(jitted[name](at))
    on_device = jnp.asarray(z)
    with quiet():
        from ppopt.upop.point_location import PointLocation

        solution = ppopt_of(program, regions)
        disjoint = ppopt_of(program, regions)
        disjoint.is_overlapping = False
        fast = PointLocation(disjoint)
    osqp = osqp_of(program)
    columns = [column(x) for x in few]
    singles: dict[str, Callable] = {
        "ppopt": lambda i: solution.evaluate(columns[i]),
        "ppopt_disjoint": lambda i: disjoint.evaluate(columns[i]),
        "ppopt_compiled": lambda i: fast.evaluate(columns[i]),
        "osqp": lambda i: osqp(few[i]),
        "numpy_loop": lambda i: exact(regions, few[i : i + 1]),
    }
    singles |= {f"{name}_python": lambda i, name=name: run(name, z[i : i + 1]) for name in acts}
    out: dict[str, Any] = {"regions": len(regions.K), "rows": int(regions.rows.sum()), "states": program.F.shape[1]}
    with tempfile.TemporaryDirectory() as place, quiet():
        tree, made = search_tree.compiled(regions, Path(place))
        groups: dict[str, Callable] = {name: lambda name=name: run(name, on_device) for name in acts}
        part = z[: batch // 10]
        groups |= {"numpy_loop": lambda: exact(regions, part), "tree_c": lambda: tree(z)}
        took = alternate(groups, rounds)
        many = {k: 1e6 * v / (len(part) if k == "numpy_loop" else batch) for k, v in took.items()}
        alone = {name: one_by_one(call, sample) for name, call in singles.items()}
        wanted = exact(regions, few)
        answers = {name: np.asarray(run(name, z[:sample]))[:, 0] for name in acts} | {"tree_c": tree(z[:sample])}
    answers |= {"ppopt": np.array([solution.evaluate(x)[0, 0] for x in columns]), "osqp": np.array([osqp(x) for x in few])}
    for name, act in acts.items():
        for dtype in ("float32", "float64") if name == "gated" else ("float32",):
            timing = export.measure_c(export.Law(act, z.shape[1]), few, dtype)
            label = f"{name}_c" + ("" if dtype == "float32" else "_float64")
            alone[label], answers[label] = timing.median / 1e3, timing.actions[:, 0]
    alone["tree_c"] = many["tree_c"]
    out |= {"one_us": alone, "many_us": many, **made}
    out["error"] = {k: float(np.abs(v - wanted).max()) for k, v in answers.items()}
    out["ratio_many_ppopt"] = alone["ppopt"] / many["gated"]
    out["ratio_many_osqp"] = alone["osqp"] / many["gated"]
    out["ratio_one_c_ppopt"] = alone["ppopt"] / alone["gated_c"]
    out["ratio_one_c_best_ppopt"] = min(alone[k] for k in alone if k.startswith("ppopt")) / alone["gated_c"]
    out["ratio_one_c_osqp"], out["ratio_one_c_tree"] = (alone[k] / alone["gated_c"] for k in ("osqp", "tree_c"))
    return out


# -------------------------------------------------------------------------------------------------------- solve, training


def peer_solves(horizon: int, algorithm: str) -> None:
    """Prints the seconds that PPOPT's algorithm takes for the tutorial's program; ended by the system at the limit."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT + 10, LIMIT + 10))
    with quiet():
        from ppopt.mp_solvers.solve_mpqp import mpqp_algorithm, solve_mpqp

        program = theirs(tutorial() if horizon == 10 else pendulum())
        begun = time.process_time()
        solution = solve_mpqp(program, mpqp_algorithm[algorithm])
        seconds = time.process_time() - begun
    print(json.dumps({"seconds": seconds, "regions": len(solution)}))


def solve_part(debug: bool) -> dict[str, Any]:
    program, horizon = (pendulum(), 2) if debug else (tutorial(), 10)
    out: dict[str, Any] = {}
    ours: list[float] = []
    for algorithm in ALGORITHMS[: 1 if debug else None]:
        begun = time.process_time()
        found = mpqp.solve(program, cache=False)
        ours.append(time.process_time() - begun)
        argv = [sys.executable, __file__, "--part", "peer", "--algorithm", algorithm, "--horizon", str(horizon)]
        try:
            printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            result = json.loads(printed.splitlines()[-1])
            out |= {f"ppopt_{algorithm}_s": result["seconds"], f"ppopt_{algorithm}_regions": result["regions"]}
        except subprocess.CalledProcessError as error:
            if error.returncode != -signal.SIGXCPU and error.returncode != -signal.SIGKILL:
                raise
            out[f"ppopt_{algorithm}_s"] = None  # not within the limit
    out |= {"rlx_s": float(np.median(ours)), "regions": len(found.K), "rows": int(found.rows.sum()), "limit_s": LIMIT}
    ended = [v for k, v in out.items() if k.startswith("ppopt") and k.endswith("_s") and v]
    out["ratio_graph"] = (out["ppopt_graph_s"] or math.nan) / out["rlx_s"]
    out["ratio_best"] = min(ended, default=math.nan) / out["rlx_s"]
    if not debug:
        begun = time.process_time()
        large = mpqp.solve(triple(30), cache=False)
        out |= {"rlx_large_s": time.process_time() - begun, "large_regions": len(large.K)}
    return out


def training_part(debug: bool) -> dict[str, Any]:
    """Seconds of 50 episodes of all seeds, compiling and solving for the law included, no cache in use: by the clock, and of
    both processors together."""
    os.environ["RLX_CACHE"] = "off"
    out: dict[str, Any] = {"seeds": 2 if debug else 10}
    plants = {"rlx:upright-pendulum": (), "rlx:t2-reactor": ("reactor",)}
    for name, presets in list(plants.items())[: 1 if debug else None]:
        overrides: dict[str, Any] = {k: v for p in presets for k, v in agents.presets("yann")[p].items()}
        overrides |= dict(agents.presets("yann")["debug"]) if debug else {}
        begun, used, compiled = time.perf_counter(), time.process_time(), compile_seconds()
        problem = Problem({"train": make(name)})
        agent = agents.make("yann", config.replace(agents.config("yann"), overrides), problem)
        found = population(agent, problem, out["seeds"], options=Options(progress=False))
        jax.block_until_ready(found.state.agent)
        label = name.removeprefix("rlx:")
        out |= {f"{label}_s": time.perf_counter() - begun, f"{label}_processor_s": time.process_time() - used}
        out[f"{label}_compile_s"] = compile_seconds() - compiled
        print(json.dumps(rounded(out)), file=sys.stderr, flush=True)
    return out


def rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return float(f"{x:.4g}") if isinstance(x, float) and math.isfinite(x) else None if isinstance(x, float) else x


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("law", "solve", "training", "all", "peer"), default="all")
    parser.add_argument("--preset", choices=("debug",), help="the same path at toy size")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--run-dir", type=Path, help="where result.json goes")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="graph", help="of --part peer: PPOPT alone")
    parser.add_argument("--horizon", type=int, default=10, help=argparse.SUPPRESS)
    args = parser.parse_args()
    debug = args.preset == "debug"
    wanted = {"law": ("ppopt", "osqp"), "solve": ("ppopt",), "peer": ("ppopt",), "training": ()}
    parts = ("law", "solve", "training") if args.part == "all" else (args.part,)
    missing = sorted({name for part in parts for name in wanted[part] if importlib.util.find_spec(name) is None})
    if missing:
        print(f"Not installed: {', '.join(missing)}. pip install -c constraints.txt -e '.[oracle]'", file=sys.stderr)
        return 2
    if args.part == "peer":
        peer_solves(args.horizon, args.algorithm)
        return 0
    values: dict[str, Any] = {"cores": os.cpu_count()}
    if "law" in parts:
        cases = [pendulum()] if debug else [pendulum(), tutorial(), triple(30)]
        for program in cases:
            found = law_part(program, *((2_000, 20, 2) if debug else (100_000, 100, args.rounds)))
            values[f"law_{found['regions']}"] = found
            print(json.dumps(rounded(found)), file=sys.stderr, flush=True)
    if "solve" in parts:
        values["solve"] = solve_part(debug)
    if "training" in parts:
        values["training"] = training_part(debug)
    if args.run_dir:
        args.run_dir.mkdir(parents=True, exist_ok=True)
        (args.run_dir / "result.json").write_text(json.dumps(rounded(values), indent=1) + "\n")
    print("RESULT " + json.dumps(rounded(values)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
