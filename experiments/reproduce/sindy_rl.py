"""SINDy-RL: cart-pole swing-up against its baselines, swimmer with population-based training, the Kuramoto-Sivashinsky
equation, and the quality of models.

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
from rlx.agents.sindy_rl.world import transitions
from rlx.dynamics.sparse import affine, equations, fit, poly
from rlx.envs import batch, begin, rollout
from rlx.train import Options, logging, run, tournament
from rlx.train.origin import versions
from rlx.train.population import members
from rlx.train.stats import estimate, iqm
from rlx.types import Env, HostEnv, Members, Problem

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
KS22 = ("sindy_rl", "ppo, real", "ppo, real, 10 x")
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


def train(agent: Any, problem: Problem, seeds: int, folder: Path, who: Members | None = None) -> tuple[dict[str, Any], Any]:
    """All seeds as one program: evaluation returns over real steps, by name of the evaluation. A run in ``folder`` that was cut
    short goes on from its last checkpoint."""
    who = members([(seed, {}) for seed in range(seeds)]) if who is None else who
    state = run(agent, problem, who, folder, options=Options(progress=False))
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
        if name == "sindy_rl":
            world = state.agent.learned["world"]["model"]["model"]["dynamics"]
            found["terms"] = [int(np.count_nonzero(c)) for c in np.asarray(world.coef)] if hasattr(world, "coef") else None
            found["policy_terms"] = [int(np.count_nonzero(c)) for c in np.asarray(state.agent.learned["sparse"].coef)]
        sim = 8 if name == "sac" else 1
        rows[variant] = {"env": env, "simulation_steps_per_decision": sim, **found, **figures(found)}
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
        keep(args, "policy", {"variants": out})
        print(f"policy {name:28} {json.dumps(out[name])}", flush=True)
    rng = np.random.default_rng(0)
    angle, speed = 0.1 * rng.standard_normal(1_000), 0.3 * rng.standard_normal((1_000, 2))
    z = np.stack([0.1 * rng.standard_normal(1_000), np.cos(angle), np.sin(angle), *speed.T, rng.uniform(-1, 1, 1_000)], 1)
    for name, state in runs.items():
        model = state.agent.learned["world"]["model"]["model"]["dynamics"]
        variance = jax.vmap(lambda m: m.variance(jnp.asarray(z, jnp.float32)).sum(1).mean())(model)
        out[f"variance near upright, {name}"] = np.asarray(variance, float).tolist()
    return {"variants": out}


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
        rows[name] = {**found, **figures(found), **({} if agent.name == "ppo" else {"imagined": imagined(agent, state)})}
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
    """KS-22, which stands in for the paper's flows: SINDy-RL and PPO at equal real steps, and PPO at ten times as many."""
    problem, rows = Problem({"train": envs.make("rlx:ks22")}), known(args, "ks22").get("variants", {})
    inside = {"modes": 4} if args.debug else {"ppo.env_steps": 1_000_000, "eval_every": 25}
    agent = made("sindy_rl", ["ks22", *(["debug"] if args.debug else [])], inside, problem)
    own = {**ppo_like_inside(), "n_envs": 8, "steps": 125, "minibatches": 8, "eval_every": 4_000, "eval_episodes": 5}
    peer = lambda steps: made("ppo", [], {**own, "normalize_obs": True, "normalize_reward": True, "env_steps": steps}, problem)
    steps = agent.config.seed_steps + agent.config.collect * (agent.config.ppo.cycles // agent.config.refit_every)
    for name, make in zip(KS22, (lambda: agent, lambda: peer(steps), lambda: peer(10 * steps)), strict=True):
        if args.only and name not in args.only:
            continue
        found, _ = train(make(), problem, args.seeds, place(args, "ks22", name))
        rows[name] = {**found, **figures(found)}
        keep(args, "ks22", {"variants": rows})
        print(f"ks22 {name:16} final {json.dumps(rows[name]['final'])} best {json.dumps(rows[name]['best'])}", flush=True)
    return {"variants": rows}


# ----------------------------------------------------------------------------------------------------------------- models


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


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """One-step errors on cart-pole, horizons on KS-22, the swimmer's reward, and where the ensemble is uncertain."""
    rng, short = np.random.default_rng(0), 10 if args.debug else 1
    out: dict[str, Any] = {}
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
    from rlx.envs.control.spectral import pod

    data = behaviour(envs.make("rlx:ks22"), episodes + 4, 400, hold=4)
    runs = [e.obs.astype(np.float64) for e in data]
    acts = [e.action.astype(np.float64) for e in data]
    out = {}
    for modes in (8, 12):
        basis = pod(np.concatenate(runs[:episodes]), modes)
        seen = [(x - basis.mean) @ basis.basis / basis.scale for x in runs]
        for kind, library in (("linear", affine(modes, 4, 1, tensor=False)), ("quadratic", affine(modes, 4, 2, tensor=False))):
            inputs = np.concatenate([np.concatenate([x, a], 1)[:-1] for x, a in zip(seen[:episodes], acts, strict=False)])
            targets = np.concatenate([x[1:] for x in seen[:episodes]])
            model = fit(library, inputs, targets, alpha=1e-3, threshold=1e-3, rng=np.random.default_rng(0))
            held_out = zip(seen[episodes:], acts[episodes:], strict=True)
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


# ------------------------------------------------------------------------------------------------------------------ output


def place(args: argparse.Namespace, part: str, variant: str) -> Path:
    """The run folder of all seeds of a variant."""
    return args.run_dir / part / variant.replace(", ", "-").replace(" ", "-")


def known(args: argparse.Namespace, part: str) -> dict[str, Any]:
    """What the file of a part holds, if it is of as many seeds."""
    file = args.results / f"sindy-{part}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("seeds") == args.seeds else {}


def keep(args: argparse.Namespace, part: str, found: dict[str, Any]) -> None:
    record = {"seeds": args.seeds, **found, "versions": versions()}
    (args.results / f"sindy-{part}.json").write_text(json.dumps(record, indent=1) + "\n")


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


PARTS = {"quality": quality, "swingup": swingup, "policy": policy, "swimmer": swimmer, "ks22": ks22}


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
