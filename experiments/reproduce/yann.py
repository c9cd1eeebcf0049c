"""YANN-RL's two cases and what the paper leaves out: all baselines through one loop, ten seeds as one program each.

    python experiments/reproduce/yann.py                          # everything, about an hour on 2 cores
    python experiments/reproduce/yann.py --part pendulum --only yann ddpg
    python experiments/reproduce/yann.py --preset debug           # the same path at toy size

Parts: `pendulum` and `reactor` are the paper's cases (section 5; the reactor is one of its kind, see `rlx:t2-reactor`), `cubic`
a plant on which the linear model misleads, `tracking` the three process plants with set-points, `unknown` the way from data of
an unknown plant to C code, `starts` the controller's costs from single starts. Costs are of whole episodes, undiscounted, over
64 test starts that training never sees and that are the same for all. Results: `results/yann-PART.json` and `.png`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rlx import agents, config, envs, export, keys
from rlx.agents.yann.controller import build
from rlx.agents.yann.learner import Learner
from rlx.planning.linear import identify
from rlx.planning.shooting import shooting
from rlx.train import Options, run
from rlx.train.evaluate import evaluate
from rlx.train.origin import versions
from rlx.train.placement import Placement
from rlx.train.policy import Policy
from rlx.train.population import members
from rlx.train.stats import estimate, iqm
from rlx.types import Agent, AgentState, Problem

# name -> presets that stack, and changes on top
QUIET = {"explore_sigma": 0.0}
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "yann": ([], {}),
    "no noise": ([], QUIET),
    "frozen MPC": (["frozen"], {}),
    "clipped LQR": (["lqr"], {}),
    "paper": (["paper"], {}),
    "paper, our critic": (["paper"], {"critic_P": "discounted", "critic_input": "deviation", "critic_scale": "local"}),
    "sigma 0.02": ([], {"explore_sigma": 0.02}),
    "sigma 0.05": ([], {"explore_sigma": 0.05}),
    "shared residual": ([], {"residual": "shared", **QUIET}),  # what follows differs from "no noise" by one thing
    "no safeguard": ([], {"safeguard": "none", **QUIET}),
    "mp-QP critic": ([], {"critic": "mpqp", **QUIET}),
    "twin critics": ([], {"n_critics": 2, **QUIET}),
    "safe": (["safe"], QUIET),
    "random critic": ([], {"critic": "mlp", **QUIET}),
    "random actor": ([], {"actor": "mlp"}),
    "ddpg": (["ddpg"], {}),
    "cloned ddpg": (["ddpg_cloned"], {}),
}
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "pendulum": ("rlx:upright-pendulum", [], {"outside": "zero"}),
    "reactor": ("rlx:t2-reactor", ["reactor"], {}),
}
TRACKING = {"rlx:cstr": {}, "rlx:four-tank": {"state_rows": False}, "rlx:extraction-column": {"state_rows": False}}
CUBIC = ("yann", "no noise")
FEW = 7  # variants whose ranges can be told apart in one picture
NMPC = "nonlinear MPC"
NONLINEAR: dict[str, dict[str, Any]] = {
    "rlx:t2-reactor": {"horizon": 20, "iterations": 3},
    "rlx:cstr": {"horizon": 15, "iterations": 3, "soft": None},
    "rlx:four-tank": {"horizon": 10, "iterations": 3, "soft": None},
    "rlx:extraction-column": {"horizon": 10, "iterations": 3, "soft": None},
}
ROOT = jax.random.key(2**31 - 1)
DEBUG = {"episodes": 2, "warmup": 32, "eval_every": 1, "eval_episodes": 4}


# ---------------------------------------------------------------------------------------------------------------- training


def configured(presets: list[str], changes: dict[str, Any]) -> Any:
    return config.replace(config.apply(agents.config("yann"), agents.presets("yann"), presets), changes)


def train(agent: Agent, problem: Problem, seeds: int, tests: int) -> dict[str, Any]:
    """All seeds as one program; costs of the first policy, the last and the best at evaluations, on the test starts."""
    curve: list[dict[str, Any]] = []
    note = lambda line, state: curve.append(line) if line["kind"] == "eval" else None
    who, begun = members([(seed, {}) for seed in range(seeds)]), time.perf_counter()
    first = jax.vmap(lambda k: agent.init(keys.fold(k, "init"), {n: jnp.float32(v) for n, v in agent.hyper.items()}))(who.keys)
    state = run(agent, problem, who, options=Options(progress=False), callback=note)
    seconds = time.perf_counter() - begun
    kept = state.agent._replace(learned=state.best["learned"])
    test = lambda s: tested(agent, problem, s, seeds, tests)
    out = {"initial": test(first), "last": test(state.agent), "best": test(kept)}
    broken = np.asarray(state.agent.learned["violations"])
    lines = [[int(np.mean(x["env_steps"])), *(round(-float(v), 4) for v in np.atleast_1d(x["return_mean"]))] for x in curve]
    found = {k: summary(v) for k, v in out.items()} | {"violations_in_training": broken.tolist(), "train_s": round(seconds, 1)}
    return {**found, "curve": lines, "state": state}


def tested(agent: Agent, problem: Problem, state: AgentState, seeds: int, tests: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs [M, E] and whether limits were violated [M, E], from the same starts for all members."""
    placement = Placement.of(range(seeds), seeds)
    here = placement.locate(np.arange(seeds))[placement.own]
    roots = jnp.stack([keys.fold(ROOT, "test starts")] * seeds)
    state, roots = placement.put(jax.tree.map(lambda x: x[here], (state, roots)))
    found = evaluate(agent, problem, state, roots, len(agent.stages) - 1, 0, tests, placement)
    broken = found.get("info/violation", np.zeros_like(found["returns"]))
    return -placement.by_member(found["returns"]), placement.by_member(broken) > 0


def nonlinear(env: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What the controller costs that knows the plant's equations, from the same test starts. It learns nothing: one seed."""
    problem, law = Problem({"train": env}), shooting(env, **NONLINEAR[env.name])

    def act(state: Any, clock: Any, plan: Any, step: Any, key: Any, mode: str) -> tuple[Any, Any, dict]:
        plan = jnp.where(step.first[:, None, None], law.start(), plan)
        return *jax.vmap(law)(law.control.measure(jnp, step.obs), plan), {}

    plans = lambda state, n, context=None: jnp.tile(law.start(), (n, 1, 1))
    agent = replace(agents.make("yann", configured(["lqr"], args.size), problem), act=act, carry=plans)
    state = jax.vmap(lambda k: agent.init(k, {n: jnp.float32(v) for n, v in agent.hyper.items()}))(jax.random.split(ROOT, 1))
    begun = time.perf_counter()
    found = summary(tested(agent, problem, state, 1, args.tests))
    row = {"cost": found["cost"], "violating": found["violating"], **NONLINEAR[env.name]}
    print(f"{env.name:22} {NMPC} {row}  {time.perf_counter() - begun:.0f} s", flush=True)
    return row


def summary(found: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Mean over starts and seeds, and the 95% interval of the IQM over seeds."""
    costs, broken = found
    each = costs.mean(1)
    low, high = estimate(each, iqm).interval
    numbers = {"cost": each.mean(), "low": low, "high": high, "violating": broken.mean()}
    return {**{k: round(float(v), 4) for k, v in numbers.items()}, "seeds": [round(float(v), 4) for v in each]}


# ------------------------------------------------------------------------------------------------------------------- parts


def case(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One of the paper's cases with all variants, or with those named; what the file has of the others stays."""
    env, base, changes = CASES[name]
    problem, before = Problem({"train": envs.make(env)}), known(args, name)
    rows: dict[str, Any] = before.get("variants", {})
    wanted = env in NONLINEAR and (not args.only or NMPC in args.only)
    best = nonlinear(problem.envs["train"], args) if wanted else before.get(NMPC)
    for variant, (presets, more) in VARIANTS.items():
        if args.only and variant not in args.only:
            continue
        chosen = configured([*base, *presets], {**changes, **more, **args.size})
        found = train(agents.make("yann", chosen, problem), problem, args.seeds, args.tests)
        rows[variant] = {k: v for k, v in found.items() if k != "state"}
        rows = {k: rows[k] for k in VARIANTS if k in rows}
        say(name, variant, rows[variant])
        keep(args, name, {"env": env, NMPC: best, "variants": rows})
        draw_curves(name, rows, args.results / f"yann-{name}.png")
    return {"env": env, NMPC: best, "variants": rows}


def known(args: argparse.Namespace, part: str) -> dict[str, Any]:
    """What the file of a part holds, if it is of as many seeds and test starts."""
    file = args.results / f"yann-{part}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return found if (found.get("seeds"), found.get("tests")) == (args.seeds, args.tests) else {}


def keep(args: argparse.Namespace, part: str, found: dict[str, Any]) -> None:
    record = {"seeds": args.seeds, "tests": args.tests, **found, "versions": versions()}
    (args.results / f"yann-{part}.json").write_text(json.dumps(record, indent=1) + "\n")


def tracking(args: argparse.Namespace) -> dict[str, Any]:
    """Set-points and measurement noise: the frozen controller, YANN, DDPG; and the controller that knows the equations."""
    before = known(args, "tracking")
    rows, best = before.get("variants", {}), before.get(NMPC, {})
    for env, changes in TRACKING.items():
        problem = Problem({"train": envs.make(env, schedule="random")})
        if not args.only or NMPC in args.only:
            best[env] = nonlinear(problem.envs["train"], args)
        for variant in [name for name in args.only or ("frozen MPC", "yann", "ddpg") if name in VARIANTS]:
            presets, more = VARIANTS[variant]
            chosen = configured(presets, {**changes, **more, **args.size})
            found = train(agents.make("yann", chosen, problem), problem, args.seeds, args.tests)
            rows[f"{env} {variant}"] = {k: v for k, v in found.items() if k != "state"}
            say(env, variant, found)
            keep(args, "tracking", {NMPC: best, "variants": rows})
    return {NMPC: best, "variants": rows}


def cubic(args: argparse.Namespace) -> dict[str, Any]:
    """Discounted costs from 13 starts: the linear law, the optimum by dynamic programming, and what learning makes of it."""
    problem = Problem({"train": envs.make("rlx:cubic", time_limit=100)})
    linear, best, rows = None, cubic_optimum(), known(args, "cubic").get("variants", {})
    for variant in [name for name in CUBIC if not args.only or name in args.only]:
        presets, more = VARIANTS[variant]
        agent = agents.make("yann", configured(presets, {**more, **args.size}), problem)
        found = train(agent, problem, args.seeds, args.tests)
        learner, kept = Learner(agent.config, build(agent.config, problem)), found.pop("state").best["learned"]["actor"]
        linear = cubic_cost(lambda x, learner=learner: learner.known.law(x).u)
        actors = [jax.tree.map(lambda p, m=m: p[m], kept) for m in range(args.seeds)]
        costs = [cubic_cost(lambda x, actor=actor, of=learner: of.inputs(actor, x)) for actor in actors]
        closed = [(linear - c) / (linear - best) for c in costs]
        low, high = estimate(np.array(closed), iqm).interval
        share = {"closed": float(np.mean(closed)), "closed_low": float(low), "closed_high": float(high)}
        rows[variant] = {"learned": costs, **share, "closed_seeds": closed, "training": found}
        print(
            f"cubic: linear law {linear:.3f}, optimum {best:.3f}, {variant} {np.mean(costs):.3f}; {share['closed']:.0%} of the "
            f"gap closed [{low:.0%}, {high:.0%}]",
            flush=True,
        )
        keep(args, "cubic", {"linear": linear, "optimum": best, "variants": rows})
    draw_curves("cubic", {k: v["training"] for k, v in rows.items()}, args.results / "yann-cubic.png")
    return {"linear": linear, "optimum": best, "variants": rows}


def cubic_cost(policy: Callable[[Any], Any], c3: float = -4.0, discount: float = 0.99, steps: int = 200) -> float:
    """Mean discounted cost from 13 starts in [-1.2, 1.2]."""

    def once(x: Any, k: Any) -> tuple[Any, Any]:
        u = jnp.clip(policy(x), -5.0, 5.0)
        return jnp.clip(x + 0.1 * (x + c3 * x**3 + u), -2.0, 2.0), discount**k * (x**2 + u**2)[:, 0]

    return float(jax.lax.scan(once, jnp.linspace(-1.2, 1.2, 13)[:, None], jnp.arange(steps))[1].sum(0).mean())


def cubic_optimum(c3: float = -4.0, discount: float = 0.99) -> float:
    """The same of the best policy, by dynamic programming on a grid."""
    x, u = np.linspace(-2, 2, 401), np.linspace(-5, 5, 401)
    ahead = np.clip(x[:, None] + 0.1 * (x[:, None] + c3 * x[:, None] ** 3 + u), -2, 2)
    stage, value = x[:, None] ** 2 + u**2, np.zeros_like(x)
    for _ in range(1000):
        new = (stage + discount * np.interp(ahead, x, value)).min(1)
        if np.abs(new - value).max() < 1e-8:
            break
        value = new
    return float(np.interp(np.linspace(-1.2, 1.2, 13), x, value).mean())


def starts(args: argparse.Namespace) -> dict[str, Any]:
    """The pendulum's controller from single angles at rest, where its law is 0 outside its domain and where it is not."""
    out: dict[str, Any] = {}
    env = envs.make("rlx:upright-pendulum")
    for outside in ("zero", "nearest"):
        learner = Learner(c := configured(["frozen"], {"outside": outside}), build(c, Problem({"train": env})))
        for angle in (0.1, 0.2, 0.3, 0.35, 0.4, 0.45):
            state, step = env.reset({**env.params, "start_range": 0.0}, jax.random.key(0))
            x = jnp.array([angle, 0.0], jnp.float32)
            state = state._replace(x=state.x._replace(x=x))

            def once(carry: Any, _: Any, learner: Learner = learner) -> tuple[Any, Any]:
                state, obs = carry
                u = jnp.clip(learner.known.law(learner.known.see(obs)).u, learner.low, learner.high)
                state, step = env.step(env.params, state, learner.known.action(u), jax.random.key(0))
                return (state, step.obs), step.reward

            rewards = jax.lax.scan(once, (state, env.spec.task.observe(jnp, env.params, state.x)), None, 200)[1]
            out[f"{outside} {angle}"] = round(-float(rewards.sum()), 4)
    print("starts:", out)
    return {"costs": out}


def unknown(args: argparse.Namespace) -> dict[str, Any]:
    """Data of an unknown plant -> linear model -> mp-QP -> YANN -> C code, on the reactor."""
    env = envs.make("rlx:t2-reactor")
    x, u, after = random_data(env, episodes=8 if args.preset == "debug" else 40)
    model = identify(x, u, after)
    base = configured(["reactor"], {**QUIET, **args.size})
    problem = Problem({"train": env}, {"model": {"A": model.A, "B": model.B}})
    agent = agents.make("yann", base, problem)
    found = train(agent, problem, args.seeds, args.tests)
    true = build(base, Problem({"train": env})).model
    shown = jax.tree.map(lambda leaf: leaf[0], found["state"].agent._replace(learned=found["state"].best["learned"]))
    policy = Policy(agent, shown, problem, len(agent.stages) - 1)
    folder = args.results / "c" if args.preset == "debug" else Path(args.run_dir) / "c"
    folder.mkdir(parents=True, exist_ok=True)
    header, source = export.to_c(policy, folder, "reactor")
    timing = export.measure_c(policy)
    row = {k: v for k, v in found.items() if k != "state"}
    say("unknown", "yann", row)
    return {
        "rows": len(x),
        "model_error": float(np.abs(model.A - true.A).max()),
        "training": row,
        "c_lines": len(source.read_text().splitlines()),
        "c_median_ns": timing.median,
        "c_worst_ns": timing.worst,
    }


def random_data(env: Any, episodes: int) -> tuple[np.ndarray, ...]:
    """Deviations of states, inputs and next states, near the operating point, under random inputs held for three decisions."""
    control = env.spec.task.control
    step = jax.jit(jax.vmap(env.step, (None, 0, 0, 0)))
    roots = jax.random.split(jax.random.key(7), episodes)
    state, _ = jax.vmap(env.reset, (None, 0))(env.params, roots)
    rng = np.random.default_rng(7)
    rows: list[tuple] = []
    for t in range(30):
        if t % 3 == 0:
            action = rng.uniform(-0.3, 0.3, (episodes, len(control.u)))
        before = np.asarray(state.x.x, np.float64)
        state, _ = step(env.params, state, jnp.asarray(action, jnp.float32), roots)
        u = (action + 1) / 2 * (control.u_high - control.u_low) + control.u_low - control.u
        rows.append((before - control.x, u, np.asarray(state.x.x, np.float64) - control.x))
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))


# ------------------------------------------------------------------------------------------------------------------ output


def say(case: str, variant: str, found: dict[str, Any]) -> None:
    first, last, best = (found[k] for k in ("initial", "last", "best"))
    broken = found["violations_in_training"]
    words = [f"{case:22} {variant:20} initial {first['cost']:10.3f}"]
    words += [f"last {last['cost']:10.3f} [{last['low']:.3f}, {last['high']:.3f}]", f"best {best['cost']:10.3f}"]
    words += [f"violations in training {sum(broken)} in {sum(b > 0 for b in broken)} of {len(broken)} seeds"]
    print("   ".join([*words, f"{found['train_s']:.0f} s"]), flush=True)


def draw_curves(title: str, rows: dict[str, Any], file: Path) -> None:
    """Evaluation cost over decisions: mean and, of few variants, range over seeds, each with starts of its own; how many seeds
    broke limits."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, row) in enumerate(rows.items()):
        curve = np.array(row["curve"])
        steps, costs = curve[:, 0], curve[:, 1:]
        broken = sum(v > 0 for v in row["violations_in_training"])
        label = f"{name}{f' ({broken} seeds violated)' if broken else ''}"
        axes.plot(steps, costs.mean(1), color=f"C{i % 10}", ls="-" if i < 10 else "--", label=label)
        if len(rows) <= FEW:
            axes.fill_between(steps, costs.min(1), costs.max(1), color=f"C{i % 10}", alpha=0.1, lw=0)
    costs = np.concatenate([np.ravel(np.array(row["curve"])[:, 1:]) for row in rows.values()])
    wide = costs.max() > 50 * costs.min() > 0
    axes.set(yscale="log" if wide else "linear", xlabel="decisions", ylabel="cost of an episode", title=title)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


PARTS = {
    "starts": starts,
    "cubic": cubic,
    "pendulum": lambda args: case("pendulum", args),
    "reactor": lambda args: case("reactor", args),
    "unknown": unknown,
    "tracking": tracking,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--only", nargs="*", choices=[*VARIANTS, NMPC], help="variants of the cases with several")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", default="runs/yann", help="where what is too large for results goes")
    args = parser.parse_args()
    debug = args.preset == "debug"
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, since one seed has no interval; got {args.seeds}")
    args.size, args.tests = (DEBUG, 4) if debug else ({}, 64)
    args.seeds = min(args.seeds, 2) if debug else args.seeds
    if debug and not args.only:
        args.only = ["yann", "ddpg"]
    args.results = Path(args.run_dir) / "results" if debug else Path(__file__).parent / "results"
    args.results.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"results": str(args.results)}
    for part in PARTS if args.part == "all" else [args.part]:
        begun = time.perf_counter()
        found = PARTS[part](args)
        seconds = round(time.perf_counter() - begun, 1)
        keep(args, part, found)
        summary[f"{part}_s"] = seconds
    print("RESULT " + json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
