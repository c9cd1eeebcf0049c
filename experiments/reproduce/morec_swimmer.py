"""Does MOREC's filter lift SINDy-RL's swimmer? Policies learned in the sparse ensemble of `gym:Swimmer-v5` with and without it.

    python experiments/reproduce/morec_swimmer.py
    python experiments/reproduce/morec_swimmer.py --part once-25 --seeds 5
    python experiments/reproduce/morec_swimmer.py --preset debug --out runs/x

Parts: ``once-25`` and ``once-whole`` learn in one model of 12 000 random decisions, which stays as it is, in imagined episodes
of 25 decisions and in whole ones. ``refit-25`` has SINDy-RL's refits on what the policy does; after every fourth the dynamics
reward is learned anew on all data, where anything is filtered. Seeds draw data, models, rewards and policies anew; settings
share data, first model and first reward. All seeds of a setting are one program. ``results/morec-swimmer_policy.json`` has what
is printed, the picture of the same name shows it. Settings that are finished, and runs that were cut short, are kept in
``--run-dir``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sindy_rl import made, train
from tables import bars, mean_interval

from rlx import envs
from rlx.agents.sindy_rl.config import Filter
from rlx.agents.sindy_rl.world import transitions
from rlx.envs import batch, begin, rollout
from rlx.train.collect import Behaviour, collect
from rlx.types import Problem

INF, R_MIN = float("inf"), Filter().r_min
EPOCHS = 10  # passes over the rows of a round, in place of thirty: three times as many rounds in the same time
SETTINGS: dict[str, dict[str, Any]] = {
    "the median": {"filter.selection": "random", "filter.r_min": -INF},
    "softmax, stop": {"filter.selection": "softmax"},
    "median, stop": {"filter.selection": "random"},
    "argmax, stop": {"filter.selection": "argmax"},
    "any member": {"filter.selection": "softmax", "filter.temperature": INF, "filter.r_min": -INF},
}
UNFILTERED = ("the median", "any member")
ONCE = {"refit_every": 0}
WHOLE = {"horizon": 0, "ppo.discount": 0.9999}
PARTS: dict[str, dict[str, Any]] = {
    "once-25": ONCE,
    "once-whole": {**ONCE, **WHOLE},
    "refit-25": {"filter.game_every": 4},
}
STREAMS, DECISIONS = 4, 1_000  # of an imagined evaluation, the episodes of each
COLUMNS = (
    "outside",
    "model",
    "median model",
    "decisions in it",
    "stopped",
    "score in it",
    "score outside",
    "real steps below r_min",
)


def make(part: str, setting: str, rounds: int, debug: bool) -> tuple[Any, Problem]:
    problem = Problem({"train": envs.make("gym:Swimmer-v5")})
    own = {**PARTS[part], **SETTINGS[setting], "distil": False}
    if "filter.game_every" in own and setting in UNFILTERED:
        own["filter.game_every"] = 0
    if not debug:
        own |= {"ppo.env_steps": 4_000 * rounds, "eval_every": rounds, "ppo.epochs": EPOCHS}
    return made("sindy_rl", ["swimmer", *(["debug"] if debug else [])], own, problem), problem


@functools.cache
def begun(folder: Path, seeds: int, debug: bool) -> Any:
    """The learned state of all seeds after the first fit: random decisions, a model of them, a dynamics reward of them."""
    agent, problem = make("once-25", "the median", 1, debug)
    return train(agent, problem, seeds, folder / "begun", stages=["seed", "fit"])[1].agent


# --------------------------------------------------------------------------------------------------------------- evaluations


def inside(agent: Any, learned: Any, debug: bool) -> dict[str, np.ndarray]:
    """Of whole imagined episodes of all seeds' policies, as ``agent`` has them: returns, decisions in them, the share that
    stopped, and the mean dynamics reward, [seeds] each."""
    report = agent.report
    vec, steps = batch(report.imagined, STREAMS, ends="stop"), 100 if debug else DECISIONS

    def earned(own: Any, key: Any) -> Any:
        params = report.params(own, {})
        policy = lambda carry, step, key: agent.act(own, None, carry, step, key, "eval")
        rows = rollout(vec, params, policy, begin(vec, params, (), key), key, steps)[1]
        arrived = rows.valid & ~rows.first
        stopped = (rows.info["stopped"] & arrived).any(0).mean()
        score = (rows.info["score"] * arrived).sum() / arrived.sum()
        return (rows.reward * arrived).sum(0).mean(), arrived.sum(0).mean(), stopped, score

    found = jax.jit(jax.vmap(earned, (0, None)))(learned, jax.random.key(0))
    return dict(zip(("model", "decisions in it", "stopped", "score in it"), map(np.asarray, found), strict=True))


def doubted(agent: Any, state: Any, env: Any, seeds: int, debug: bool) -> dict[str, list[float]]:
    """Of real transitions of each policy: the mean dynamics reward, and the share that it would stop at, [seeds] each."""
    found = []
    for seed in range(seeds):
        own = jax.tree.map(lambda x, seed=seed: x[seed], state.agent)
        act = Behaviour(
            lambda n, own=own: own, lambda own, step, key: (agent.act(own, None, (), step, key, "eval")[0], own, {})
        )
        rows = transitions(collect(act, env, 100 if debug else DECISIONS, 1, seed))
        score = own.learned["scorer"](*(jnp.asarray(x, jnp.float32) for x in (rows.obs, rows.action, rows.new)))
        found.append((float(score.mean()), float((score < R_MIN).mean())))
    return dict(zip(("score outside", "real steps below r_min"), map(list, zip(*found, strict=True)), strict=True))


def tried(part: str, setting: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """One setting, all seeds: `COLUMNS`, [seeds] each."""
    agent, problem = make(part, setting, args.rounds, args.debug)
    plain = make(part, "the median", args.rounds, args.debug)[0]
    more: dict[str, Any] = {}
    if part.startswith("once"):
        more = {"init_from": begun(args.folder, args.seeds, args.debug), "stages": ["dyna"]}
    found, state = train(agent, problem, args.seeds, args.folder / part / slug(setting), **more)
    hyper = {**state.agent.hyper, "filter.r_min": jnp.full(args.seeds, -INF)}
    columns = {"outside": found["curves"]["main"][-1][1:], **inside(agent, state.agent, args.debug)}
    columns["median model"] = inside(plain, state.agent._replace(hyper=hyper), args.debug)["model"]
    columns |= doubted(agent, state, problem.envs["train"], args.seeds, args.debug)
    return {k: np.round(np.asarray(columns[k], float), 3).tolist() for k in COLUMNS}


# ------------------------------------------------------------------------------------------------------------------- output


def slug(setting: str) -> str:
    return setting.replace(", ", "-").replace(" ", "-")


def table(found: dict[str, dict[str, dict[str, list[float]]]], args: argparse.Namespace) -> dict[str, Any]:
    """What the settings of each part come to; and by how much more each earns outside than the median of the same seed."""
    out: dict[str, Any] = {"seeds": args.seeds, "rounds": args.rounds, "cores": os.cpu_count(), "jax": jax.__version__}
    for part, settings in found.items():
        out[part] = {}
        for setting, columns in settings.items():
            row = {k: mean_interval(v, 3, "seeds") for k, v in columns.items()}
            if "the median" in settings:
                row["more than the median"] = mean_interval(
                    np.subtract(columns["outside"], settings["the median"]["outside"]), 3
                )
            out[part][setting] = row
    return out


def draw(out: dict[str, Any], path: Path) -> None:
    """Returns outside and in the model, of each setting that all parts have."""
    parts = [p for p in PARTS if p in out]
    names = [s for s in SETTINGS if all(s in out[p] for p in parts)]
    label = {"outside": "real", "model": "in its model"}
    bars({f"{p}, {label[c]}": {n: out[p][n][c] for n in names} for p in parts for c in label}, names, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS], action="append", help="only these")
    parser.add_argument("--only", nargs="*", choices=[*SETTINGS], help="settings")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=60, help="of 4 000 imagined decisions and an update")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/morec_swimmer"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    args.debug = args.preset == "debug"
    if args.debug:
        args.seeds, args.part = 2, args.part or ["once-25", "refit-25"]
        args.only = args.only or ["the median", "softmax, stop"]
    args.folder = args.run_dir / ("debug" if args.debug else f"{args.seeds}-seeds-{args.rounds}-rounds")
    for place in (args.out, args.folder):
        place.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for part in PARTS:
        for setting in SETTINGS:
            file, start = args.folder / f"{part}-{slug(setting)}.json", time.monotonic()
            wanted = part in (args.part or PARTS) and setting in (args.only or SETTINGS)
            if wanted and not file.exists():
                file.write_text(json.dumps(tried(part, setting, args)))
            if not file.exists():
                continue
            found.setdefault(part, {})[setting] = json.loads(file.read_text())
            out = table(found, args)
            (args.out / "morec-swimmer_policy.json").write_text(json.dumps(out, indent=1) + "\n")
            draw(out, args.out / "morec-swimmer_policy.png")
            shown = {k: (v["mean"], v["interval"]) for k, v in out[part][setting].items()}
            print(f"{part}, {setting}: {time.monotonic() - start:.0f} s", json.dumps(shown), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
