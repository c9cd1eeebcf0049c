"""TD-MPC on cart-pole swing-up, MoDem-V2 and what lies between it and MoDem on pushing, and the planner in other models.

    python experiments/reproduce/modem_v2.py --run-dir runs/modem                       # all: a day on two cores
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part tdmpc --seeds 3
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --part push --only modem_v2 --only v1 --seeds 5
    python experiments/reproduce/modem_v2.py --run-dir runs/modem --preset debug        # the same path at toy size

What is there already is not trained again. Results: `results/modem-<part>.json`, and pictures beside them; what a file holds of
other variants stays. Runs and results of the toy size lie in the folder `debug` of the run folder. Intervals are over seeds.

- tdmpc: returns over simulation steps, to be held against the published 859 after 100 000 (four to a decision).
- push: success and violations over decisions, of the mixture that acts, of the planner and of the clone; and which rows violate
  most. ``--env rlx:push-lite`` is the same in MuJoCo, ``--pixels`` the toy in pictures, beside what the finger knows of itself.
- oversampling: how many of the decisions that succeed the reward head finds soon after the warm-up, with and without a share of
  demonstrations in each batch.
- planner: the same search in sparse equations, in an ensemble of networks, and in that with its predictions chosen among, by
  their likelihood or by MOREC's learned reward of transitions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tables import told

from rlx import envs, keys, replay
from rlx.agents.modem_v2.method import Method
from rlx.agents.sindy_rl.world import Rows, transitions
from rlx.dynamics import EnsembleDynamics, SparseDynamics, adversary, bootstrap, ensemble, filtered, scorer
from rlx.dynamics.filtered import by_likelihood, by_reward
from rlx.dynamics.sparse import affine, fit
from rlx.envs import batch, begin, rollout
from rlx.envs.experts import known
from rlx.planning import mppi
from rlx.train import logging
from rlx.train.policy import load_members

PUBLISHED = {"cartpole-swingup": 859.0}  # TD-MPC after 100 000 simulation steps, from its authors' results
# words behind the preset tiny; MuJoCo's clone asks for wider networks and more updates, and is then at the goal sooner
SIZES: dict[str, tuple[Any, ...]] = {
    "push-toy": (),
    "push-toy-pixels": ("--agent.env-steps", 4_800),
    "push-lite": ("--agent.hidden", 160, "--agent.encoder-hidden", 160, "--agent.latent", 32, "--agent.bc-updates", 4_000,
                  "--agent.env-steps", 7_200),
}  # fmt: skip
PIXELS = ("observe=proprio", "discs=32")  # finger, puck and goal as a channel each; the puck is in pictures alone
ROWS: dict[str, tuple[str, ...]] = {  # presets on top of the size
    "modem_v2": (),
    "v1": ("v1",),
    "v1_as_in_v2": ("v1_as_in_v2",),
    "torque_penalty": ("torque_penalty",),  # of MoDem; the toy has no actuators
    "centering": ("centering",),
    "transition": ("transition",),
    "ensemble": ("ensemble",),
    "no_centering": ("no_centering",),
}
MODEM = ("v1", "torque_penalty")  # by its own preset of this size
OWN = dict.fromkeys(("v1_as_in_v2", "no_centering"), ("--agent.samples", 63))  # and 3 of policies: 66, as the others have


def rlx(*words: Any) -> None:
    print("rlx", *words, flush=True)
    subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)


def write(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Into the file what is ``new``; variants that it has already stay. All of them are returned."""
    old = json.loads(path.read_text()) if path.exists() else {}
    variants = {**old.get("variants", {}), **new.pop("variants", {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**old, **new, "variants": variants}, indent=1) + "\n")
    return variants


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
        curve = [(int(line["sim_steps"]), float(line["return_mean"])) for line in evaluated(run_dir, "main")]
        curves |= {seed: curve} if curve else {}
    if not curves:
        raise SystemExit(f"{given.run_dir} holds no evaluation of TD-MPC yet: leave out --as-is, or wait for the first.")
    last = {seed: curve[-1] for seed, curve in curves.items()}
    for seed, (steps, value) in last.items():
        print(f"seed {seed}: {value:.1f} after {steps} simulation steps")
    whole = [v for steps, v in last.values() if steps == max(s for s, _ in last.values())]
    row = {"curves": curves, "final": told(whole, 3), "finished": len(whole), "published": PUBLISHED["cartpole-swingup"]}
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
    part = given.env.split(":")[1] + ("-pixels" if given.pixels else "")
    seen = [word for option in (PIXELS if given.pixels else ()) for word in ("--env-option", option)]
    demos = demonstrations(given.run_dir / f"demos-{part}.npz", "--env", given.env, *seen)
    found = {}
    for name in given.only or [row for row in ROWS if row != "torque_penalty" or given.env != "rlx:push-toy"]:
        run_dir = given.run_dir / "-".join([part, name, str(given.seeds), *re.findall(r"[\w.]+", given.more)])
        small = ["debug"] if given.debug else []
        size = ["tiny_v1", *small] if name in MODEM else small or ["tiny"]
        presets = [*size, *(ROWS[name] if name != "v1" else ())]
        own = [word for preset in presets for word in ("--preset", preset)]
        own += (*OWN.get(name, ()), *(() if given.debug else SIZES[part]))
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", "--env", given.env, *seen, "--data", demos, *own, "--seeds", given.seeds, "--no-video",
                "--no-progress", "--log-every", 1, "--run-dir", run_dir, *given.more.split())  # fmt: skip
        found[name] = {"more": given.more, **outcome(run_dir)}
        print(name, json.dumps({k: v for k, v in found[name].items() if k != "curves"}))
    path = given.out / f"modem-{part}.json"
    rows = write(path, {"env": given.env, "options": seen[1::2], "cores": os.cpu_count(), "variants": found})
    write(path, {"violations": ordered(rows)})
    picture(rows, path.with_suffix(".png"))


def demonstrations(path: Path, *words: Any, episodes: int = 10) -> Path:
    """Those of the script under noise, made unless they are there."""
    if not path.exists():
        rlx("data", "demos", *words, "--episodes", episodes, "--noise", 0.1, "--out", path, "--no-progress")
    return path


def ordered(rows: dict[str, Any]) -> dict[str, Any]:
    """Violations per decision of all that was done up to where the shortest row ends, the most violent row first. A line counts
    as often as it has decisions: the first one is all of seeding."""
    curves = {name: row["curves"].get("violations while training", ()) for name, row in rows.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    until = min((curve[-1][0] for curve in curves.values()), default=0)
    each = {}
    for name, curve in curves.items():
        steps, values = zip(*[line for line in curve if line[0] <= until], strict=True)
        each[name] = told(np.average(values, 0, np.diff(steps, prepend=0)), 4)
    return {"until": until, "rows": dict(sorted(each.items(), key=lambda item: -item[1]["mean"]))}


def outcome(run_dir: Path) -> dict[str, Any]:
    """Of a run with members [M]: what the last evaluation of each mode says, how far what acts was ever below the clone, and
    violations while it learned."""
    each = lambda lines, key: [(int(np.max(x["env_steps"])), np.round(np.atleast_1d(x[key]), 4).tolist()) for x in lines]
    row: dict[str, Any] = {"curves": {}}
    for name in ("main", "planner", "bc", "bc_noisy"):
        lines = evaluated(run_dir, name)
        if lines:
            shown = ("solved", "violation", "contact_force_max")
            last = {k: told(np.atleast_1d(lines[-1][f"info/{k}_mean"]), 3) for k in shown}
            row[name] = last | {"return": told(np.atleast_1d(lines[-1]["return_mean"]), 3)}
            row["curves"][name] = each(lines, "info/solved_mean")
            row["curves"][f"{name}, violations"] = each(lines, "info/violation_mean")
    for clone in ("bc", "bc_noisy"):
        over = [np.subtract(v, row["curves"][clone][0][1]) for _, v in row["curves"].get("main", ())]
        if over:
            row[f"least solved over {clone}, mean of seeds"] = round(float(np.mean(over, 1).min()), 3)
    lines = [x for x in logging.read(run_dir) if x["kind"] == "train" and "decisions/violation" in x]
    planned = [x for x in lines if x["stage"] in ("warm", "learn")]
    for key, what in (("violation", "violations"), ("contact_force_max", "peak force")):
        row["curves"][f"{what} while training"] = each(lines, f"decisions/{key}")
    if planned:
        values = np.array([np.atleast_1d(x["decisions/violation"]) for x in planned])
        row["violations per decision, first 1600 after seeding"] = told(values[:2].mean(0), 3)
        row["violations per decision, all after seeding"] = told(values.mean(0), 3)
    return row


def picture(rows: dict[str, Any], path: Path) -> None:
    """Success of what acts, and violations while training, over decisions; bands are intervals over seeds."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, row) in enumerate(rows.items()):
        for axes, what in ((left, "main"), (right, "violations while training")):
            curve = row["curves"].get(what, ())
            if not curve:
                continue
            steps, found = [x for x, _ in curve], [told(v, 3) for _, v in curve]
            axes.plot(steps, [x["mean"] for x in found], color=f"C{i}", label=name, lw=1.3)
            bounds = [x["interval"] or [x["mean"]] * 2 for x in found]
            axes.fill_between(steps, *np.transpose(bounds), color=f"C{i}", alpha=0.12, lw=0)
    clones = [np.mean(row["curves"][k][0][1]) for k in ("bc", "bc_noisy") for row in list(rows.values())[:1]]
    for value, style, name in zip(clones, ("--", ":"), ("the clone", "the clone, with noise"), strict=True):
        left.axhline(value, color="black", ls=style, lw=1, label=name)
    left.set(xlabel="decisions", ylabel="solved, by what acts", ylim=(0, 1.02))
    right.set(xlabel="decisions", ylabel="violations per decision while training")
    right.set_yscale("symlog", linthresh=1e-3)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------------------------------ oversampling


def oversampling(given: argparse.Namespace) -> None:
    """Trained until one episode after the warm-up; the reward head is asked about demonstrations that it did not learn from."""
    task = ("--env", "rlx:push-toy")
    demos = demonstrations(given.run_dir / "demos-push-toy.npz", *task)
    others = replay.load(demonstrations(given.run_dir / "demos-others.npz", *task, "--seed", 1, episodes=20))
    rows, found = transitions(list(others)), {}
    obs, action, success = np.float32(rows.obs), np.float32(rows.action), rows.reward > 0.5
    size, until = ("debug", ()) if given.debug else ("tiny", ("--agent.env-steps", 3_200))
    for name, presets in (("with demonstrations", ()), ("without", ("no_oversampling",))):
        run_dir = given.run_dir / f"oversampling-{name.split()[0]}-{given.seeds}"
        own = [word for preset in (size, *presets) for word in ("--preset", preset)]
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", *task, "--data", demos, *own, *until, "--seeds", given.seeds, "--no-video",
                "--no-progress", "--run-dir", run_dir)  # fmt: skip
        policies = list(load_members(run_dir, "last").values())
        net = Method.of(policies[0].agent.config, policies[0].spec, 1).net
        learned = [p.state.learned["params"] for p in policies]
        said = np.array([net.rewards(x["reward"], net.encode(x["encoder"], obs), action) for x in learned]) > 0.5
        found[name] = {
            "recall": told(said[:, success].mean(1), 3, "each"),
            "false alarms": told(said[:, ~success].mean(1), 3, "each"),
        }
        print(name, found[name], flush=True)
    counts = {"successes": int(success.sum()), "others": int((~success).sum())}
    write(given.out / "modem-oversampling.json", {"env": task[1], **counts, "cores": os.cpu_count(), "variants": found})


# ----------------------------------------------------------------------------------------------------------------- planner


SEARCH = mppi.Search(horizon=20, samples=128, proposals=0, elites=24, iterations=3)
HOLD = 5  # simulation steps that an action is held, in the world and in the model
SNAPSHOTS = 5  # of the discriminators that say how likely a prediction is real
GAME = adversary.Game(steps=5_000, snap_every=500)
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


def played(env: Any, act: Any, carry: Any) -> Any:
    """(params, key) -> whole episodes of the streams of ``env``, compiled once."""

    @jax.jit
    def whole(params: Any, key: Any) -> Any:
        begun = begin(env, env.params, carry, keys.fold(key, "reset"))
        policy = lambda carry, step, key: act(params, carry, step, key)
        return rollout(env, env.params, policy, begun, key, env.spec.horizon + 1)[1]

    def episodes(params: Any, key: Any) -> Any:
        rows = jax.tree.map(np.asarray, whole(params, key))
        return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(env.n)]

    return episodes


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
    chosen = {"model": model, "scorer": model, "r_min": np.float32(-np.inf), "filter_temperature": np.float32(1)}
    if kind.endswith("likelihood"):
        return chosen
    unlearned = scorer.blank(keys.fold(keys.root(seed), "scorer"), 5, 1, SNAPSHOTS, (64, 64))
    learned = adversary.learn(unlearned, rows.obs, rows.action, rows.new, keys.fold(keys.root(seed), "game"), GAME)
    print("gap of the logits", learned.gap.round(2).tolist(), flush=True)
    return {**chosen, "scorer": learned.scorer, "filter_temperature": np.float32(0.1)}


def planned(kind: str, model: Any, env: Any, seed: int, first: int, streams: int, rounds: int) -> tuple[list[float], float]:
    """Returns of the episodes while it learned, and the mean of ``streams`` in the end."""
    root = keys.root(seed)
    random = lambda params, carry, step, key: (jax.random.uniform(key, (first, 1), minval=-1.0, maxval=1.0), carry, {})
    blank = lambda n: (jnp.zeros((n, SEARCH.horizon, 1)), jnp.zeros((n, 1)), jnp.zeros(n, jnp.int32))
    episodes, act = played(batch(env, first), random, ())((), keys.fold(root, "random")), controller(model)
    one, returns = played(batch(env, 1), act, blank(1)), []
    for i in range(rounds):
        episodes += one(fitted(kind, transitions(episodes), seed), keys.fold(root, "played", i))
        returns.append(round(float(episodes[-1].reward.sum()), 1))
    last = played(batch(env, streams), act, blank(streams))(fitted(kind, transitions(episodes), seed), keys.fold(root, "end"))
    return returns, round(float(np.mean([e.reward.sum() for e in last])), 1)


def planner(given: argparse.Namespace) -> None:
    """8 000 random decisions, then three times: fit, an episode of planning, whose rows are added. A seed that has its file in
    the run folder is not run again."""
    env = envs.make("rlx:cartpole-swingup")
    models = {
        "sparse equations": SparseDynamics(env.spec.task.score),
        "networks": EnsembleDynamics(clip=20.0),
        "networks, by likelihood": filtered(EnsembleDynamics(clip=20.0), by_likelihood, draws=1),
        "networks, by a learned reward": filtered(EnsembleDynamics(clip=20.0), by_reward, draws=1),
    }
    sizes = (2, 2, 1) if given.debug else (8, 5, 3)
    for kind in given.only or models:
        ends = []
        for seed in range(given.seeds):
            path = given.run_dir / f"planner-{kind.replace(' ', '-').replace(',', '')}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(planned(kind, models[kind], env, seed, *sizes)))
            returns, end = json.loads(path.read_text())
            ends.append(end)
            print(kind, seed, returns, end, flush=True)
        row = {"return": told(ends, 3), "returns": ends, "steps": (sizes[0] + sizes[2]) * env.spec.horizon}
        write(given.out / "modem-planner.json", {"env": env.name, "search": str(SEARCH), "variants": {kind: row}})


PARTS = {"tdmpc": tdmpc, "push": push, "oversampling": oversampling, "planner": planner}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--only", action="append", help="only these variants")
    parser.add_argument("--env", choices=("rlx:push-toy", "rlx:push-lite"), default="rlx:push-toy", help="of the part push")
    parser.add_argument("--pixels", action="store_true", help="of the part push: rlx:push-toy from pictures")
    parser.add_argument("--more", default="", help="words for rlx train, of the part push")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--as-is", action="store_true", help="tdmpc: train nothing, read what the run folders hold")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, help="default: results/ beside this script, with --preset in the run folder")
    given = parser.parse_args()
    if given.pixels and given.env != "rlx:push-toy":
        parser.error(f"--pixels is for rlx:push-toy, and --env is {given.env}: leave one of them out.")
    given.debug = given.preset == "debug"
    given.run_dir /= "debug" if given.debug else ""
    given.out = given.out or (given.run_dir if given.debug else Path(__file__).parent / "results")
    given.run_dir.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.part or PARTS:
        PARTS[name](given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
