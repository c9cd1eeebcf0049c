"""TD-MPC on cart-pole swing-up, MoDem-V2 and what lies between it and MoDem on pushing, and the planner in other models.

    python experiments/reproduce/modem_v2.py --run-dir runs/modem                       # all: a day on two cores
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part tdmpc --seeds 3
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part push --only modem_v2 --only v1 --seeds 5
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --preset debug        # the same path at toy size

What is there already is not trained again. Results: `results/modem-<part>.json`, and pictures beside them; what a file holds of
other variants stays. Intervals are over seeds.

- tdmpc: returns over simulation steps, to be held against the published 859 after 100 000 (four to a decision).
- push: success and violations over decisions, of the mixture that acts, of the planner and of the clone.
- planner: the same search in sparse equations, in an ensemble of networks, and in that with its predictions filtered.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rlx import envs, keys
from rlx.agents.sindy_rl.world import Rows, transitions
from rlx.dynamics import EnsembleDynamics, SparseDynamics, bootstrap, ensemble, filtered
from rlx.dynamics.filtered import by_likelihood
from rlx.dynamics.sparse import affine, fit
from rlx.envs import batch, begin, rollout
from rlx.envs.experts import known
from rlx.planning import mppi
from rlx.train import logging
from rlx.train.stats import estimate

PUBLISHED = {"cartpole-swingup": 859.0}  # TD-MPC after 100 000 simulation steps, from its authors' results
SIZES = {"rlx:push-toy": "tiny", "rlx:push-lite": "tiny"}
# name -> presets on top of the size
ROWS: dict[str, tuple[str, ...]] = {
    "modem_v2": (),
    "v1": ("v1",),
    "centering": ("centering",),
    "transition": ("transition",),
    "ensemble": ("ensemble",),
    "no_centering": ("no_centering",),
}


def rlx(*words: Any) -> None:
    print("rlx", *words, flush=True)
    subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)


def told(values: Any) -> dict[str, Any]:
    """Mean over seeds and its interval."""
    found = estimate(np.asarray(values, np.float64)[:, None])
    bounds = None if found.interval is None else [round(float(x), 3) for x in found.interval]
    return {"mean": round(float(found.value), 3), "interval": bounds}


def write(path: Path, new: dict[str, Any]) -> None:
    """Into the file what is ``new``; variants that it has already stay."""
    old = json.loads(path.read_text()) if path.exists() else {}
    variants = {**old.get("variants", {}), **new.pop("variants", {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**old, **new, "variants": variants}, indent=1) + "\n")


def evaluated(run_dir: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in logging.read(run_dir) if line["kind"] == "eval" and line["eval"] == name]


# ------------------------------------------------------------------------------------------------------------------- tdmpc


def tdmpc(given: argparse.Namespace) -> None:
    """Runs of one seed each, one after another: a host environment."""
    curves: dict[int, list[tuple[int, float]]] = {}
    for seed in range(given.seeds):
        run_dir = given.run_dir / f"tdmpc-{seed}"
        size = "debug" if given.debug else "small"
        if given.as_is and not run_dir.exists():
            continue
        if not given.as_is and not (run_dir / "result.json").exists():
            rlx("train", "tdmpc", "--env", "dmc:cartpole-swingup", "--repeat", 4, "--preset", size, "--seed", seed,
                "--no-video", "--no-progress", "--run-dir", run_dir)  # fmt: skip
        curves[seed] = [(int(line["sim_steps"]), float(line["return_mean"])) for line in evaluated(run_dir, "main")]
    last = {seed: curve[-1] for seed, curve in curves.items()}
    for seed, (steps, value) in last.items():
        print(f"seed {seed}: {value:.1f} after {steps} simulation steps")
    whole = [v for steps, v in last.values() if steps == max(s for s, _ in last.values())]
    row = {"curves": curves, "final": told(whole), "finished": len(whole), "published": PUBLISHED["cartpole-swingup"]}
    write(given.out / "modem-tdmpc.json", {"cores": os.cpu_count(), "variants": {"cartpole-swingup": row}})
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for seed, curve in curves.items():
        axes.plot(*np.transpose(curve), label=f"seed {seed}", lw=1.2)
    axes.axhline(row["published"], color="black", ls=":", lw=1, label="published at 100 000")
    axes.set(xlabel="simulation steps", ylabel="return", title="TD-MPC, cart-pole swing-up", ylim=(0, 1000))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(given.out / "modem-tdmpc.png", dpi=120)


# -------------------------------------------------------------------------------------------------------------------- push


def push(given: argparse.Namespace) -> None:
    """All seeds of a row are one program where the environment is on the device."""
    known(given.env)
    demos = given.run_dir / f"demos-{given.env.split(':')[1]}.npz"
    if not demos.exists():
        rlx("data", "demos", "--env", given.env, "--episodes", 10, "--noise", 0.1, "--out", demos, "--no-progress")
    found = {}
    for name in given.only or ROWS:
        run_dir = given.run_dir / f"{given.env.split(':')[1]}-{name}-{given.seeds}"
        sizes = ["debug"] if given.debug else [SIZES[given.env]]
        if name == "v1":
            presets = ["tiny_v1", *(["debug"] if given.debug else [])]
        else:
            presets = [*sizes, *ROWS[name]]
        own = [word for preset in presets for word in ("--preset", preset)]
        own += ["--agent.clone", "false"] if name == "v1" and given.debug else []
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", "--env", given.env, "--data", demos, *own, "--seeds", given.seeds, "--no-video",
                "--no-progress", "--log-every", 1, "--run-dir", run_dir, *given.more.split())  # fmt: skip
        found[name] = outcome(run_dir)
        print(name, json.dumps({k: v for k, v in found[name].items() if k != "curves"}))
    part = given.env.split(":")[1]
    write(given.out / f"modem-{part}.json", {"env": given.env, "cores": os.cpu_count(), "variants": found})
    everything = json.loads((given.out / f"modem-{part}.json").read_text())["variants"]
    picture(everything, given.out / f"modem-{part}.png")


def outcome(run_dir: Path) -> dict[str, Any]:
    """Of a run with members [M]: success at the end by who acts, and violations and forces while it learned."""
    row: dict[str, Any] = {"curves": {}}
    for name in ("main", "planner", "bc", "bc_noisy"):
        lines = evaluated(run_dir, name)
        if lines:
            key = "info/solved_mean" if "info/solved_mean" in lines[-1] else "return_mean"
            row[name] = told(np.atleast_1d(lines[-1][key]))
            row["curves"][name] = [(int(np.max(x["env_steps"])), np.atleast_1d(x[key]).tolist()) for x in lines]
    trained = [x for x in logging.read(run_dir) if x["kind"] == "train" and any("violation" in k for k in x)]
    if trained:
        key = next(k for k in trained[0] if "violation" in k)
        row["curves"]["violations"] = [(int(np.max(x["env_steps"])), np.atleast_1d(x[key]).tolist()) for x in trained]
        interactive = [x for x in trained if x["stage"] in ("warm", "learn")]
        row["violations, first 1600 decisions of planning"] = told(np.mean([np.atleast_1d(x[key]) for x in interactive[:2]], 0))
    return row


def picture(rows: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, row) in enumerate(rows.items()):
        for axes, what in ((left, "main"), (right, "violations")):
            curve = row["curves"].get(what)
            if curve:
                steps, values = [x for x, _ in curve], np.array([np.mean(v) for _, v in curve])
                axes.plot(steps, values, color=f"C{i}", label=name, lw=1.2)
    left.set(xlabel="decisions", ylabel="success of what acts", ylim=(0, 1))
    right.set(xlabel="decisions", ylabel="violations per decision while training")
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


# ----------------------------------------------------------------------------------------------------------------- planner


SEARCH = mppi.Search(horizon=20, samples=128, proposals=0, elites=24, iterations=3)
HOLD = 5  # simulation steps that an action is held, in the world and in the model
SETTINGS = mppi.Settings(discount=0.99, temperature=2.0, std_min=0.1, std_max=1.0)


def held(imagine: mppi.Imagination) -> mppi.Imagination:
    """Decisions of `HOLD` steps of the model."""

    def step(states: Any, action: Any, key: Any) -> Any:
        def one(states: Any, key: Any) -> Any:
            return imagine.step(states, action, key)

        states, rewards = jax.lax.scan(one, states, jax.random.split(key, HOLD))
        return states, rewards.sum(0)

    return imagine._replace(step=step)


def controller(model: Any) -> Any:
    """(params, carry, step, key) -> an action of the search in ``model``, anew after each `HOLD` steps."""

    def act(params: Any, carry: Any, step: Any, key: Any) -> Any:
        mean, action, t = carry

        def plan() -> Any:
            imagine = held(mppi.imagined(model, params))

            def one(obs: Any, mean: Any, key: Any) -> Any:
                state = mppi.imagined_state(model, params, obs, key)
                return mppi.search(imagine, SEARCH, SETTINGS, state, mean, SEARCH.horizon, 0.0, key)

            found = jax.vmap(one)(step.obs, mean, jax.random.split(key, len(t)))
            return jax.vmap(mppi.shifted)(found.mean), found.action

        mean, action = jax.lax.cond(t[0] % HOLD == 0, plan, lambda: (mean, action))
        return action, (mean, action, t + 1), {}

    return act


def played(env: Any, act: Any, carry: Any, params: Any, key: Any) -> Any:
    """Whole episodes [T, W, ...] of the streams of ``env``."""

    @jax.jit
    def whole(params: Any, key: Any) -> Any:
        begun = begin(env, env.params, carry, keys.fold(key, "reset"))
        policy = lambda carry, step, key: act(params, carry, step, key)
        return rollout(env, env.params, policy, begun, key, env.spec.horizon + 1)[1]

    rows = jax.tree.map(np.asarray, whole(params, key))
    return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(env.n)]


def fitted(kind: str, rows: Rows, seed: int) -> Any:
    """What is planned in, learned from ``rows``."""
    inputs = np.concatenate([rows.obs, rows.action], 1)
    if kind == "sparse equations":
        return fit(affine(5, 1, 2), inputs, rows.new, alpha=5e-5, threshold=7e-3, rng=np.random.default_rng(seed))
    blank = ensemble.init(keys.fold(keys.root(seed), "init"), 5, (6, 64, 64, 6), gaussian=True, elites=4)
    targets = np.concatenate([rows.new - rows.obs, rows.reward[:, None]], 1)
    model = bootstrap.fit(blank, inputs, targets, keys.fold(keys.root(seed), "fit"), epochs=40).model
    if kind == "networks":
        return model
    return {"model": model, "scorer": model, "r_min": np.float32(-np.inf), "filter_temperature": np.float32(1)}


def planner(given: argparse.Namespace) -> None:
    """8 000 random decisions, then three times: fit, an episode of planning, whose rows are added."""
    env = envs.make("rlx:cartpole-swingup")
    score = env.spec.task.score
    models = {
        "sparse equations": SparseDynamics(score),
        "networks": EnsembleDynamics(clip=20.0),
        "networks, filtered": filtered(EnsembleDynamics(clip=20.0), by_likelihood, draws=2),
    }
    first, streams, rounds = (2, 2, 1) if given.debug else (8, 5, 3)
    for kind in given.only or models:
        returns = []
        for seed in range(given.seeds):
            root = keys.root(seed)
            random = lambda params, carry, step, key: (jax.random.uniform(key, (first, 1), minval=-1.0, maxval=1.0), carry, {})
            episodes = played(batch(env, first), random, (), (), keys.fold(root, "random"))
            act, one, values = controller(models[kind]), batch(env, 1), []
            carry = lambda n: (jnp.zeros((n, SEARCH.horizon, 1)), jnp.zeros((n, 1)), jnp.zeros(n, jnp.int32))
            for i in range(rounds):
                model = fitted(kind, transitions(episodes), seed)
                episodes += played(one, act, carry(1), model, keys.fold(root, "played", i))
                values.append(round(float(episodes[-1].reward.sum()), 1))
            last = played(
                batch(env, streams), act, carry(streams), fitted(kind, transitions(episodes), seed), keys.fold(root, "end")
            )
            returns.append(float(np.mean([e.reward.sum() for e in last])))
            print(kind, seed, values, round(returns[-1], 1), flush=True)
        row = {"return": told(returns), "returns": [round(r, 1) for r in returns], "steps": (first + rounds) * env.spec.horizon}
        write(given.out / "modem-planner.json", {"env": env.name, "search": str(SEARCH), "variants": {kind: row}})


PARTS = {"tdmpc": tdmpc, "push": push, "planner": planner}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--only", action="append", help="only these variants")
    parser.add_argument("--env", choices=SIZES, default="rlx:push-toy", help="of the part push")
    parser.add_argument("--more", default="", help="words for rlx train, of the part push")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--as-is", action="store_true", help="tdmpc: train nothing, read what the run folders hold")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.debug = given.preset == "debug"
    given.run_dir.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.part or PARTS:
        PARTS[name](given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
