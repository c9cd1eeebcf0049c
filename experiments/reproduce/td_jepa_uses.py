"""What is asked of TD-JEPA on the point-mass maze once it has learned: goals, preferences, a sparse expression, C.

    python experiments/reproduce/td_jepa.py --run-dir runs/maze --method td_jepa --method random
    python experiments/reproduce/td_jepa_uses.py --run-dir runs/maze                       # all parts
    python experiments/reproduce/td_jepa_uses.py --run-dir runs/maze --part goals --seeds 3
    python experiments/reproduce/td_jepa_uses.py --run-dir runs/maze --preset debug        # the same path at toy size

The runs are those of ``td_jepa.py``, which is called for what is not there yet; give the same ``--seeds`` and ``--updates``.
``goals``: 100 of them anywhere, from anywhere. ``pictures``: goals that are pictures, of three seeds that see nothing else.
``preferences``: pairs of segments, labelled by what they earned. ``composition``: rewards as SINDy-RL's regression finds them,
asked for as they stand; the policy of one of them in C. Intervals are over seeds.
``results/td_jepa-PART.json`` has what is printed, ``results/td_jepa-PART.png`` shows it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tables import bars, mean_interval
from td_jepa import ENV, REPEAT, made, parts, rlx, seeds_of

from rlx import envs, export, keys, load, replay
from rlx.agents.td_jepa import ZeroShot
from rlx.dynamics.sparse import SparseModel, equations, fit, poly
from rlx.envs.control import pointmass_maze as maze
from rlx.envs.expressions import parse, quantities
from rlx.envs.tasks.base import tolerance
from rlx.train import Policy
from rlx.train.collect import random
from rlx.types import PHYSICS

EPISODES, LENGTH = 10, 50  # LENGTH: decisions of an episode of the data
TASKS = list(maze.SCORES)
RADII = (0.015, 0.05)  # m: where the reach tasks pay in full; half of a room's way to its corner
SIDE, SEEN = 24, {"agent.batch": 128, "agent.pad": 0, "agent.updates": 5_000, "agent.eval-every": 5_000}  # of pictures
FEW = 3  # seeds of what learns from pictures
WRITTEN = "reach_top_right"  # the task whose policy becomes C
UNITS = np.array([0.3, 0.3, 0.05, 0.05])  # m and m/s, in which the sparse regression sees observations


# -------------------------------------------------------------------------------------------------------------------- runs


class Asked(NamedTuple):
    """Seeds of one method, to be asked."""

    policy: Policy
    asks: list[ZeroShot]


def asked(folder: Path, seeds: int) -> Asked:
    policies = [load(folder, "last", k) for k in range(seeds)]
    agent = policies[0].agent  # one for all, so that its functions are compiled once
    return Asked(policies[0], [ZeroShot(agent, p.state) for p in policies])


class Played(NamedTuple):
    place: np.ndarray  # [T, N, 2]
    returns: np.ndarray  # [N]


def player(agent: Any, n: int, tasks: bool = True, **options: Any) -> Callable[..., Played]:
    """(state, z [n, d], numbers of tasks [n]) -> `Played`: whole episodes of the maze with ``options``, the same ones for all.
    ``agent`` None: at random."""
    env = envs.make(ENV, repeat=REPEAT, physics=True, **options)
    vec = envs.batch(env, n, ends="stop", params_axes={k: 0 if k == "task" else None for k in env.params} if tasks else None)
    uniform = random(env.spec).act

    @jax.jit
    def play(state: Any, z: Any, task: Any) -> Any:
        params, key = {**env.params, "task": task} if tasks else env.params, keys.root(0)
        act = uniform if agent is None else lambda carry, step, now: agent.act(state, None, carry, step, now, "eval")
        begun = envs.begin(vec, params, () if agent is None else agent.carry(state, n, z), keys.fold(key, "begin"))
        _, rows, tail = envs.rollout(vec, params, act, begun, key, env.spec.horizon)
        place = jnp.concatenate([rows.info[PHYSICS], tail.info[PHYSICS][None]])[..., :2]
        return place, rows.reward.sum(0) + tail.reward

    def played(state: Any, z: Any, task: Any = 0) -> Played:
        z = None if z is None else jnp.asarray(z, jnp.float32)
        return Played(*map(np.asarray, play(state, z, jnp.broadcast_to(jnp.int32(task), (n,)))))

    return played


def of_tasks(play: Callable[..., Played], state: Any, z: dict[str, np.ndarray] | None) -> np.ndarray:
    """Returns [task] of a z for each of `TASKS`, means over `EPISODES`."""
    wide = None if z is None else np.repeat(np.stack([z[t] for t in TASKS]), EPISODES, 0)
    return play(state, wide, np.repeat(np.arange(len(TASKS)), EPISODES)).returns.reshape(len(TASKS), EPISODES).mean(1)


class Rows(NamedTuple):
    """Transitions of the data."""

    obs: np.ndarray  # [N, 4], arrived at
    action: np.ndarray  # [N, 2]


def episodes(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Whole ones of the data: observations [E, T + 1, 4] and actions [E, T, 2]."""
    made(args, "td_jepa")
    data = replay.load(args.run_dir / "maze.npz")
    whole = [e for e in data if len(e.reward) == LENGTH + 1]
    return np.stack([e.obs for e in whole]), np.stack([e.action[:-1] for e in whole])


def sampled(args: argparse.Namespace, n: int = 10_000) -> Rows:
    obs, action = episodes(args)
    which = np.random.default_rng(0).choice(obs.shape[0] * LENGTH, n, replace=obs.shape[0] * LENGTH < n)
    return Rows(obs[:, 1:].reshape(-1, 4)[which], action.reshape(-1, 2)[which])


def rewards(task: str, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.broadcast_to(maze.SCORES[task](np, obs, action), obs.shape[:-1])


def by_task(returns: Any) -> dict[str, Any]:
    """Of returns [seeds, task]."""
    returns = np.asarray(returns)
    return {**{t: mean_interval(returns[:, i]) for i, t in enumerate(TASKS)}, "mean of all": mean_interval(returns.mean(1))}


# ------------------------------------------------------------------------------------------------------------------- goals


def goals(args: argparse.Namespace) -> dict[str, Any]:
    """From anywhere to anywhere, with the z of a goal and with that of the reward of being near it."""
    rng, count = np.random.default_rng(0), 100
    places = rng.uniform(-maze.LIMIT, maze.LIMIT, (10 * count, 2))
    places = places[maze.free(np, places)][:count].astype(np.float32)
    states = np.concatenate([places, np.zeros_like(places)], 1)  # at rest
    rows, paths = sampled(args), {}
    near = tolerance(np, np.linalg.norm(rows.obs[None, :, :2] - places[:, None], axis=-1), 0, RADII[0], margin=0.09)
    ways: dict[str, Callable[[ZeroShot], Any]] = {
        "goal": lambda ask: np.stack([ask.infer_goal(s, False) for s in states]),
        "goal, scaled": lambda ask: np.stack([ask.infer_goal(s, True) for s in states]),
        "reward": lambda ask: ask.method.inferred(ask.features(rows.obs), near),
    }
    for method in ("td_jepa", "random"):
        runs = asked(made(args, method), args.seeds)
        play = player(runs.policy.agent, count, starts="uniform")
        paths |= {f"{method}, {way}": np.stack([play(a.state, z(a)).place for a in runs.asks]) for way, z in ways.items()}
    paths["random actions"] = player(None, count, starts="uniform")(None, None).place[None]
    out = {name: reached(name, path, places) for name, path in paths.items()}
    shown = {k: np.linalg.norm(v[:, -1] - places, axis=-1).mean(0) for k, v in paths.items() if "scaled" not in k}
    draw_goals(shown, places, args.out / "td_jepa-goals.png")
    return {"goals": count, "radii": RADII, "rows": out}


def reached(name: str, path: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """Of paths [seeds, T, goals, 2]: shares of the goals, and the median distance in m."""
    away = np.linalg.norm(path - places, axis=-1)
    out = {f"there at the end, {r} m": mean_interval((away[:, -1] <= r).mean(1)) for r in RADII}
    out |= {f"there once, {r} m": mean_interval((away.min(1) <= r).mean(1)) for r in RADII}
    out["distance at the end"] = mean_interval(np.median(away[:, -1], 1))
    print(name, json.dumps(out), flush=True)
    return out


def pictures(args: argparse.Namespace) -> dict[str, Any]:
    """Goals that are pictures: one encoder learns from pictures alone, and is shown 100 of the data, each to be reached."""
    look = {"pixels": "sdf", "image": SIDE, "grey": True, "state": False}
    options = [word for k, v in look.items() for word in ("--env-option", f"{k}={str(v).lower()}")]
    where = ["--env", ENV, "--repeat", REPEAT, *options]
    count, seeds = 100, min(args.seeds, FEW)
    data, folder = args.run_dir / "pictures.npz", args.run_dir / f"pictures-{seeds}"
    if not data.exists():
        many = 5_000 if args.debug else 100_000
        how = ["--time-limit", LENGTH, "--env-option", "starts=uniform", "--mode", "random", "--streams", 100, "--steps", many]
        rlx("collect", *where, *how, "--out", data, "--no-progress")
    if not (folder / "result.json").exists():
        size = (
            ["--preset", "debug"]
            if args.debug
            else ["--preset", "small", *(word for k, v in SEEN.items() for word in (f"--{k}", v))]
        )
        how = [*size, "--agent.features", "symmetric", "--data", data, "--no-video", "--no-progress"]
        rlx("train", "td_jepa", *where, *how, *seeds_of(args)[:2], "--seeds", seeds, "--run-dir", folder)
    asks, rows = asked(folder, seeds).asks, replay.load(data).rows
    which = np.random.default_rng(0).choice(len(rows.reward), count, replace=False)
    places = rows.info[PHYSICS][which, :2]
    ways = {"goal": False, "goal, scaled": True}
    play = player(asks[0].agent, count, False, starts="uniform", **look)
    z = lambda ask, scaled: np.stack([ask.infer_goal(rows.obs[i], scaled) for i in which])
    paths = {f"symmetric, {way}": np.stack([play(a.state, z(a, s)).place for a in asks]) for way, s in ways.items()}
    paths["random actions"] = player(None, count, starts="uniform")(None, None).place[None]
    draw_goals(
        {k: np.linalg.norm(v[:, -1] - places, axis=-1).mean(0) for k, v in paths.items()},
        places,
        args.out / "td_jepa-pictures.png",
    )
    found = {name: reached(name, path, places) for name, path in paths.items()}
    return {
        "seeds": seeds,
        "updates": SEEN["agent.updates"],
        "goals": count,
        "radii": RADII,
        "side": SIDE,
        "settings": SEEN,
        "rows": found,
    }


def draw_goals(shown: dict[str, np.ndarray], places: np.ndarray, path: Path) -> None:
    figure, axes = plt.subplots(1, len(shown), figsize=(2.9 * len(shown), 3.1), layout="constrained")
    for ax, (name, away) in zip(axes, shown.items(), strict=True):
        for half, thick in ((maze.LENGTH, maze.WIDTH), (maze.WIDTH, maze.LENGTH)):
            ax.add_patch(plt.Rectangle((-half, -thick), 2 * half, 2 * thick, color="0.7", lw=0))
        dots = ax.scatter(*places.T, c=away, s=22, vmin=0, vmax=0.3, cmap="viridis_r")
        ax.set(title=name, xlim=(-0.3, 0.3), ylim=(-0.3, 0.3), aspect="equal", xticks=[], yticks=[])
        ax.title.set_fontsize(9)
    figure.colorbar(dots, ax=axes, label="m from the goal at the end", shrink=0.8)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------------------------------- preferences


def preferences(args: argparse.Namespace) -> dict[str, Any]:
    """z of so many pairs of segments, labelled by which earned more, beside z of the reward itself."""
    counts, steps = (25, 100, 400), 10
    runs = asked(made(args, "td_jepa"), args.seeds)
    play = player(runs.policy.agent, len(TASKS) * EPISODES)
    obs, action = episodes(args)
    returns: dict[str, list[np.ndarray]] = {"reward": [], **{f"{n} pairs": [] for n in counts}}
    for seed, ask in enumerate(runs.asks):
        returns["reward"].append(of_tasks(play, ask.state, ask.tasks))
        rng = np.random.default_rng(seed)
        which, begin = rng.integers(len(obs), size=(2, max(counts))), rng.integers(LENGTH - steps, size=(2, max(counts)))
        at = begin[..., None] + np.arange(steps)
        arrivals, done = obs[which[..., None], at + 1], action[which[..., None], at]  # [2, P, T, ...], arrivals
        for n in counts:
            z = {}
            for task in TASKS:
                earned = rewards(task, arrivals, done).sum(-1)[:, :n]
                labels = 0.5 * (1 + np.sign(earned[1] - earned[0]))
                z[task] = ask.infer_preferences((arrivals[0, :n], arrivals[1, :n]), labels)
            returns[f"{n} pairs"].append(of_tasks(play, ask.state, z))
    at_random = player(None, len(TASKS) * EPISODES)
    returns["random actions"] = [of_tasks(at_random, None, None)]
    rows = {name: by_task(values) for name, values in returns.items()}
    share = np.mean(returns["100 pairs"], 1) / np.mean(returns["reward"], 1)
    print(*(f"{k}: {v['mean of all']}" for k, v in rows.items()), sep="\n", flush=True)
    bars(rows, [*TASKS, "mean of all"], args.out / "td_jepa-preferences.png")
    return {"segment": steps, "returns": rows, "share of the reward's at 100 pairs": mean_interval(share)}


# ------------------------------------------------------------------------------------------------------------- composition


def sparse_reward(rows: Rows, task: str) -> tuple[SparseModel, float]:
    """What SINDy-RL's regression finds of a task's rewards: a polynomial of what was arrived at, and its share of variance."""
    reward, library = rewards(task, rows.obs, rows.action), poly(4, 4, bias=True)
    rng = np.random.default_rng(0)
    model = fit(library, rows.obs / UNITS, reward[:, None], alpha=1e-3, threshold=0.1, rng=rng, names=[task])
    scale = np.prod(UNITS**library.exponents, axis=1)
    model = dataclasses.replace(model, coef=model.coef / scale, members=model.members / scale)  # in m and m/s
    off = np.asarray(model(jnp.asarray(rows.obs)))[:, 0] - reward
    return model, float(1 - (off**2).mean() / reward.var())


def as_text(model: SparseModel) -> str:
    """As `rlx zero_shot --reward` takes it."""
    text = equations(model, maze.NAMES[:4], ["r"], digits=3).partition(" = ")[2]
    return re.sub(r"(?<=[\w)]) (?=[a-z])", "*", text.replace("^", "**"))


def composition(args: argparse.Namespace) -> dict[str, Any]:
    """Rewards as sparse expressions, their z, and the policy of one of them in C."""
    runs, rows = asked(made(args, "td_jepa"), args.seeds), sampled(args)
    play, found = player(runs.policy.agent, len(TASKS) * EPISODES), {}
    z: list[dict[str, np.ndarray]] = [{} for _ in runs.asks]
    for task in TASKS:
        model, explained = sparse_reward(rows, task)
        text = as_text(model)
        found[task] = {"terms": model.terms, "variance explained": round(explained, 3), "expression": text}
        reward = parse(text, quantities(runs.policy.spec))(np, rows.obs, rows.action)
        for own, ask in zip(z, runs.asks, strict=True):
            own[task] = ask.infer_reward(rows.obs, reward)
        print(f"{task}: {json.dumps(found[task])}", flush=True)
    returns = {
        "reward": [of_tasks(play, ask.state, ask.tasks) for ask in runs.asks],
        "sparse expression": [of_tasks(play, ask.state, own) for ask, own in zip(runs.asks, z, strict=True)],
        "random actions": [of_tasks(player(None, len(TASKS) * EPISODES), None, None)],
    }
    table = {name: by_task(values) for name, values in returns.items()}
    print(*(f"{k}: {json.dumps(v)}" for k, v in table.items()), sep="\n", flush=True)
    bars(table, [*TASKS, "mean of all"], args.out / "td_jepa-composition.png")
    exported = in_c(runs, z[0][WRITTEN], rows.obs[:1000], args.run_dir / "c")
    return {"expressions": found, "returns": table, "c": {"task": WRITTEN, **exported}}


def in_c(runs: Asked, z: np.ndarray, obs: np.ndarray, folder: Path) -> dict[str, Any]:
    """The policy of ``z`` as C: how far its actions at ``obs`` are from JAX's, and how long one takes."""
    ask = runs.asks[0]
    policy = dataclasses.replace(runs.policy, state=ask.state, agent=ask.agent_for(z), _compiled={})
    source = export.to_c(policy, folder, WRITTEN)[1]
    timing = export.measure_c(policy, obs, compiler="gcc")
    off = np.abs(timing.actions - ask.act(obs, z))
    out = {"observations": len(obs), "largest difference": float(off.max()), "bytes of source": source.stat().st_size}
    print("C:", json.dumps(out | {"nanoseconds": round(timing.median), "flags": timing.flags}), flush=True)
    return out | {"nanoseconds": round(timing.median), "flags": timing.flags}


PARTS = {f.__name__: f for f in (goals, pictures, preferences, composition)}


if __name__ == "__main__":
    raise SystemExit(parts(__doc__, PARTS))
