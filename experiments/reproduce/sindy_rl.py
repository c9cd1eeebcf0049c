"""SINDy-RL: cart-pole swing-up against its baselines, swimmer with population-based training, and the Kuramoto-Sivashinsky
equation. How good its models are: `sindy_models.py`.

    python experiments/reproduce/sindy_rl.py                                    # all: hours on 2 cores
    python experiments/reproduce/sindy_rl.py --part swingup --only sindy_rl linear
    python experiments/reproduce/sindy_rl.py --preset debug                     # the same path at toy size

All seeds of a variant are one program; `XLA_FLAGS=--xla_force_host_platform_device_count=2` spreads them over two cores.
Results: `results/sindy-<part>.json`; what a file holds of other variants stays. Real steps of training and of evaluation are
counted apart. "Running best" is what the paper draws: the largest evaluation so far.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rlx import agents, config, envs
from rlx.envs import begin, rollout
from rlx.train import Options, logging, run, tournament
from rlx.train.origin import versions
from rlx.train.population import members
from rlx.train.stats import estimate, iqm
from rlx.types import Members, Problem

SOLVED = 800.0
# name -> agent, environment, presets that stack, changes on top
SWINGUP: dict[str, tuple[str, str, list[str], dict[str, Any]]] = {
    "sindy_rl": ("sindy_rl", "dmc:cartpole-swingup", [], {}),
    "paper": ("sindy_rl", "dmc:cartpole-swingup", ["paper"], {}),
    "linear": ("sindy_rl", "dmc:cartpole-swingup", ["linear"], {}),
    "no refit": ("sindy_rl", "dmc:cartpole-swingup", ["no_refit"], {}),
    "dyna nn": ("sindy_rl", "dmc:cartpole-swingup", ["dyna_nn"], {}),
    "mean": ("sindy_rl", "dmc:cartpole-swingup", [], {"aggregate": "mean"}),
    "a member an episode": ("sindy_rl", "dmc:cartpole-swingup", [], {"aggregate": "sample"}),
    "one member": ("sindy_rl", "dmc:cartpole-swingup", [], {"ensemble_size": 1, "bag": 0.0, "drop": 0}),
    "no projection": ("sindy_rl", "dmc:cartpole-swingup", [], {"project": False}),
    "learned reward": ("sindy_rl", "dmc:cartpole-swingup", [], {"reward": "sparse", "rewards.interact": True}),
    "caution": ("sindy_rl", "dmc:cartpole-swingup", [], {"uncertainty_penalty": 0.5}),
    "curiosity": ("sindy_rl", "dmc:cartpole-swingup", [], {"uncertainty_penalty": -0.5}),
    "gradient": ("sindy_rl", "dmc:cartpole-swingup", ["gradient"], {}),
    "ppo, real": ("ppo", "rlx:cartpole-swingup", [], {"env_steps": 2_000_000, "eval_every": 40_000, "eval_episodes": 5}),
    "sac, real": ("sac", "dmc:cartpole-swingup", ["quickstart"], {}),
}
SWIMMER = ("sindy_rl", "bred", "left alone", "whole episodes", "whole episodes, bred", "ppo, real, bred")
WHOLE = {"starts": "starts", "horizon": 0, "ppo.discount": 0.9999}  # imagined from where real ones begin to where they end
KS22 = ("sindy_rl", "short episodes", "ppo, real", "ppo, real, 10 x")
BUDGET = {"ppo.env_steps": 2_000_000, "eval_every": 20}


# ---------------------------------------------------------------------------------------------------------------- training


def made(name: str, presets: list[str], changes: dict[str, Any], problem: Problem) -> Any:
    chosen = config.replace(config.apply(agents.config(name), agents.presets(name), presets), changes)
    return agents.make(name, chosen, problem)


def ppo_like_inside() -> dict[str, Any]:
    """PPO on the real environment with the settings that it has inside the model."""
    inside = agents.config("sindy_rl").ppo
    names = "n_envs steps epochs minibatches state_std normalize_obs value_coef"
    names += " kl_coef adaptive_kl_target lr lr_decay log_std hidden"
    return {k: getattr(inside, k) for k in names.split()}


def train(
    agent: Any, problem: Problem, seeds: int, folder: Path, who: Members | None = None, **more: Any
) -> tuple[dict[str, Any], Any]:
    """All seeds as one program: evaluation returns over real steps, by name of the evaluation. A run in ``folder`` that was cut
    short goes on from its last checkpoint. ``more``: of `run`."""
    who = members([(seed, {}) for seed in range(seeds)]) if who is None else who
    state = run(agent, problem, who, folder, options=Options(progress=False), **more)
    curves: dict[str, Any] = {}
    lines = logging.read(folder)
    for line in (line for line in lines if line["kind"] == "eval"):
        point = [float(np.mean(line["env_steps"])), *np.round(np.atleast_1d(np.array(line["return_mean"], float)), 1).tolist()]
        curves.setdefault(line["eval"], []).append(point)
    counts = {k: int(np.mean(v)) for k, v in state.counts.items()}
    return {"curves": curves, "counts": counts, "train_s": round(lines[-1]["wall_s"], 1)}, state


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """IQM with intervals of the last policy and of the running best; real steps until an evaluation reaches `SOLVED`."""
    curve = np.array(found["curves"]["main"], float)
    steps, returns = curve[:, 0], curve[:, 1:]
    best = np.maximum.accumulate(np.nan_to_num(returns, nan=-np.inf), 0)
    reached = [float(steps[np.argmax(r >= SOLVED)]) if (r >= SOLVED).any() else None for r in best.T]
    middle = np.median([np.inf if x is None else x for x in reached])
    out: dict[str, Any] = {"real_steps_to_800": reached, "median_steps_to_800": None if np.isinf(middle) else float(middle)}
    last = returns[-2 if "sparse" in found["curves"] else -1]  # what is distilled is the best policy, evaluated once more
    for name, scores in (("final", last), ("best", best[-1])):
        value, (low, high), _ = estimate(scores, iqm)
        out[name] = {"iqm": round(value, 1), "low": round(low, 1), "high": round(high, 1)}
    if "sparse" in found["curves"]:
        out["polynomial"] = found["curves"]["sparse"][-1][1:]
    return out


def terms(state: Any) -> dict[str, Any]:
    """Coefficients that are not 0, of each seed: of the dynamics (None: networks) and of the distilled policy."""
    learned = state.agent.learned
    count = lambda model: [int(np.count_nonzero(c)) for c in np.asarray(model.coef)] if hasattr(model, "coef") else None
    return {"terms": count(learned["world"]["model"]["model"]["dynamics"]), "policy_terms": count(learned["sparse"])}


def contest(args: argparse.Namespace, variant: str, **more: Any) -> tuple[Any, Problem]:
    """A variant of the swing-up, with ``more`` changes: agent and problem."""
    name, env, presets, changes = SWINGUP[variant]
    repeat = {"repeat": 8} if name == "sac" else {}
    # the same equations, compiled: evaluations are far more steps than training
    evaluation = {"eval": envs.make("rlx:cartpole-swingup")} if name == "sindy_rl" else {}
    problem = Problem({"train": envs.make(env, **repeat), **evaluation})
    own = {**BUDGET, **changes} if name == "sindy_rl" else {**ppo_like_inside(), **changes} if name == "ppo" else changes
    if args.debug:
        presets, own = [*presets, "debug"], {k: v for k, v in changes.items() if name == "sindy_rl"}
    return made(name, presets, {**own, **more}, problem), problem


def swingup(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's first case and all that it is compared with."""
    rows: dict[str, Any] = known(args, "swingup").get("variants", {})
    for variant, (name, env, _, _) in SWINGUP.items():
        if args.only and variant not in args.only:
            continue
        found, state = train(*contest(args, variant), args.seeds, place(args, "swingup", variant))
        sim = 8 if name == "sac" else 1
        counted = terms(state) if name == "sindy_rl" else {}
        rows[variant] = {**stamp(args), "env": env, "simulation_steps_per_decision": sim, **found, **counted, **figures(found)}
        rows = {k: rows[k] for k in SWINGUP if k in rows}
        keep(args, "swingup", {"variants": rows})
        draw(rows, args.results / "sindy-swingup.png")
        shown = {k: rows[variant][k] for k in ("final", "best", "median_steps_to_800", "train_s")}
        print(f"swingup {variant:20} {json.dumps(shown)}", flush=True)
    return {"variants": rows}


ONCE = {"distil_rounds": 1, "distil_passes": 0, "policy_degrees": (3,)}
POLYNOMIALS: dict[str, dict[str, Any]] = {
    "degrees 3 and 4, 5 rounds": {},
    "degree 3, 5 rounds": {"policy_degrees": (3,)},
    "one round, as the paper": ONCE,
    "one round without noise": {**ONCE, "distil_noise": 0.0},
    "one round, states anywhere": {**ONCE, "distil_states": "box"},
}


def policy(args: argparse.Namespace) -> dict[str, Any]:
    """The policies of the swing-up as polynomials; and how much the ensemble's members disagree near the upright state with the
    first model ("no refit") and with the last."""
    runs = {k: train(*contest(args, k), args.seeds, place(args, "swingup", k))[1] for k in ("sindy_rl", "no refit")}
    trained, out = runs["sindy_rl"], {}
    for name, changes in POLYNOMIALS.items():
        lines: list[dict[str, Any]] = []
        agent, problem = contest(args, "sindy_rl", **changes)
        who, how = members([(seed, {}) for seed in range(args.seeds)]), Options(progress=False)
        note = lambda line, state, lines=lines: lines.append(line) if line["kind"] == "eval" else None
        state = run(agent, problem, who, init_from=trained.agent, stages=["distil"], options=how, callback=note)
        returns = {line["eval"]: np.round(np.array(line["return_mean"], float), 1).tolist() for line in lines}
        coef = np.asarray(state.agent.learned["sparse"].coef)
        out[name] = {"polynomial": returns["sparse"], "network": returns["main"], "terms": [int((c != 0).sum()) for c in coef]}
        share = np.array(returns["sparse"]) / np.array(returns["main"])
        out[name] |= {"median_share": float(np.median(share)), "least_share": float(share.min())}
        keep(args, "policy", {**stamp(args), "variants": out})
        print(f"policy {name:28} {json.dumps(out[name])}", flush=True)
    rng = np.random.default_rng(0)
    angle, speed = 0.1 * rng.standard_normal(1_000), 0.3 * rng.standard_normal((1_000, 2))
    z = np.stack([0.1 * rng.standard_normal(1_000), np.cos(angle), np.sin(angle), *speed.T, rng.uniform(-1, 1, 1_000)], 1)
    for name, state in runs.items():
        model = state.agent.learned["world"]["model"]["model"]["dynamics"]
        variance = jax.vmap(lambda m: m.variance(jnp.asarray(z, jnp.float32)).sum(1).mean())(model)
        out[f"variance near upright, {name}"] = np.asarray(variance, float).tolist()
    return {**stamp(args), "variants": out}


RATES = (1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
FAR_ONES = ("ppo.discount", "ppo.gae_lambda")
BRED = {"ppo.lr": RATES, **dict.fromkeys(FAR_ONES, (0.9, 0.95, 0.99, 0.999, 0.9999, 1.0))}


def swimmer(args: argparse.Namespace) -> dict[str, Any]:
    """Gymnasium's swimmer: ten seeds of the preset, with population-based training, with the same members left alone, the first
    two with imagined episodes as long as real ones, and PPO bred on the real one for ten times the real steps."""
    problem, rows = Problem({"train": envs.make("gym:Swimmer-v5")}), known(args, "swimmer").get("variants", {})
    rng, debug = np.random.default_rng(0), ["debug"] if args.debug else []
    drawn = [{k: float(rng.choice(v)) for k, v in BRED.items()} for _ in range(args.seeds)]
    inside = {} if args.debug else {"ppo.env_steps": 1_200_000, "eval_every": 25, "distil": False}
    own = {} if args.debug else {**ppo_like_inside(), "env_steps": 720_000, "eval_every": 40_000, "eval_episodes": 5}
    short, whole = (made("sindy_rl", ["swimmer", *debug], {**inside, **more}, problem) for more in ({}, WHOLE))
    real = made("ppo", debug, own, problem)
    plan = ((short, 0), (short, 50), (short, 0), (whole, 0), (whole, 50), (real, 10))
    for name, (agent, every) in zip(SWIMMER, plan, strict=True):
        if args.only and name not in args.only:
            continue
        cut = (lambda k: k.removeprefix("ppo.")) if agent.name == "ppo" else str
        breed = tournament(0.25, (0.8, 1.2), redraw={cut(k): v for k, v in BRED.items()}, most={cut(k): 1.0 for k in FAR_ONES})
        given = drawn if every or name == "left alone" else [{} for _ in drawn]
        who = [(seed, {cut(k): v for k, v in setting.items()}) for seed, setting in enumerate(given)]
        mine = members(who, breed if every else None, 2 if args.debug else every or 1)
        found, state = train(agent, problem, args.seeds, place(args, "swimmer", name), mine)
        rows[name] = {**stamp(args), **found, **figures(found)}
        rows[name] |= {} if agent.name == "ppo" else {"imagined": imagined(agent, state)}
        rows = {k: rows[k] for k in SWIMMER if k in rows}
        keep(args, "swimmer", {"variants": rows})
        print(f"swimmer {name:20} final {json.dumps(rows[name]['final'])} best {json.dumps(rows[name]['best'])}", flush=True)
    return {"variants": rows}


def imagined(agent: Any, state: Any) -> list[float]:
    """What each member's policy without noise earns in its model in 1 000 decisions, after the last one of training."""
    vec = agent.envs["model"]

    def earned(own: Any, key: Any) -> Any:
        world = own.learned["world"]
        policy = lambda carry, step, key: agent.act(own, None, carry, step, key, "eval")
        return rollout(vec, world, policy, begin(vec, world, (), key), key, 1_000)[1].reward.sum(0).mean()

    found = jax.jit(jax.vmap(earned, (0, None)))(state.agent, jax.random.key(0))
    return np.round(np.asarray(found, float), 1).tolist()


def ks22(args: argparse.Namespace) -> dict[str, Any]:
    """KS-22, which stands in for the paper's flows: SINDy-RL, with imagined episodes as long as real ones and with short ones,
    and PPO at equal real steps and at ten times as many."""
    problem, rows = Problem({"train": envs.make("rlx:ks22")}), known(args, "ks22").get("variants", {})
    inside = {"modes": 4} if args.debug else {"ppo.env_steps": 1_000_000, "eval_every": 25}
    presets = ["ks22", *(["debug"] if args.debug else [])]
    agent, short = (made("sindy_rl", presets, {**inside, **more}, problem) for more in ({}, {"horizon": 25}))
    own = {**ppo_like_inside(), "n_envs": 8, "steps": 125, "minibatches": 8, "eval_every": 4_000, "eval_episodes": 5}
    peer = lambda steps: made("ppo", [], {**own, "normalize_obs": True, "normalize_reward": True, "env_steps": steps}, problem)
    steps = agent.config.seed_steps + agent.config.collect * (agent.config.ppo.cycles // agent.config.refit_every)
    for name, one in zip(KS22, (agent, short, peer(steps), peer(10 * steps)), strict=True):
        if args.only and name not in args.only:
            continue
        found, state = train(one, problem, args.seeds, place(args, "ks22", name))
        rows[name] = {**stamp(args), **found, **({} if one.name == "ppo" else terms(state)), **figures(found)}
        rows = {k: rows[k] for k in KS22 if k in rows}
        keep(args, "ks22", {"variants": rows})
        print(f"ks22 {name:16} final {json.dumps(rows[name]['final'])} best {json.dumps(rows[name]['best'])}", flush=True)
    return {"variants": rows}


# ------------------------------------------------------------------------------------------------------------------ output


def place(args: argparse.Namespace, part: str, variant: str) -> Path:
    """The run folder of all seeds of a variant."""
    return args.run_dir / part / variant.replace(", ", "-").replace(" ", "-")


def known(args: argparse.Namespace, part: str) -> dict[str, Any]:
    """What the file of a part holds."""
    file = args.results / f"sindy-{part}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def stamp(args: argparse.Namespace) -> dict[str, Any]:
    """What a row says of how it came about."""
    return {"seeds": args.seeds, "versions": versions()}


def keep(args: argparse.Namespace, part: str, found: dict[str, Any]) -> None:
    (args.results / f"sindy-{part}.json").write_text(json.dumps(found, indent=1) + "\n")


def draw(rows: dict[str, Any], file: Path) -> None:
    """Running best over real steps of training: IQM and its interval over seeds."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, row) in enumerate(rows.items()):
        curve = np.array(row["curves"]["main"], float)
        best = np.maximum.accumulate(curve[:, 1:], 0)
        steps = curve[:, 0] * row["simulation_steps_per_decision"]
        style = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--"}
        axes.plot(steps, [iqm(r) for r in best], label=name, **style)
        bounds = np.array([estimate(r, iqm, resamples=500).interval or (np.nan, np.nan) for r in best])
        axes.fill_between(steps, *bounds.T, color=style["color"], alpha=0.12, lw=0)
    axes.set(
        xscale="log", xlabel="real simulation steps of training", ylabel="running best of evaluations (IQM)", ylim=(0, 1_000)
    )
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


PARTS = {"swingup": swingup, "policy": policy, "swimmer": swimmer, "ks22": ks22}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--only", nargs="*", choices=sorted({*SWINGUP, *SWIMMER, *KS22}), help="variants of a part")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--run-dir", default="runs/sindy_rl_reproduce", help="of all runs, which go on where they were stopped")
    args = parser.parse_args()
    args.debug = args.preset == "debug"
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, since one seed has no interval; got {args.seeds}")
    if args.debug:
        args.seeds, args.only = min(args.seeds, 2), args.only or ["sindy_rl", "ppo, real", *SWIMMER]
    args.run_dir = Path(args.run_dir) / ("debug" if args.debug else f"{args.seeds}-seeds")
    args.results = args.run_dir / "results" if args.debug else Path(__file__).parent / "results"
    args.results.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"results": str(args.results)}
    for part in PARTS if args.part == "all" else [args.part]:
        begun = time.perf_counter()
        found = PARTS[part](args)
        keep(args, part, found)
        summary[f"{part}_s"] = round(time.perf_counter() - begun, 1)
    print("RESULT " + json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
