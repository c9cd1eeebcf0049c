"""PEARL: how often labels carried from task to task are right, and what policies learned from them are worth.

    python experiments/reproduce/pearl.py --run-dir runs/pearl                              # all parts: an hour on one core
    python experiments/reproduce/pearl.py --run-dir runs/pearl --part policies --draws 5
    python experiments/reproduce/pearl.py --run-dir runs/pearl --part oppo --stand-ins runs/stand_ins/data
    python experiments/reproduce/pearl.py --run-dir runs/pearl --preset debug --out runs/x  # the same path at toy size

- alignment: labels of transport (CPA) and of the nearest trajectory, on paths in the plane and on pushes of a point mass.
- votes: labels of three sources, of which one is like the target.
- metaworld: the same over eight pairs of Meta-World's tasks.
- rewards: how right rewards are that are learned from labels of which a fifth is wrong, on one of these tasks.
- unlabelled: how right rewards are that also learn from pairs without a label, on pushes of the point mass.
- policies: returns of policies on the point mass, by where labels came from; beside them IQL on true rewards.
- robots: the same on two tasks of Meta-World.
- flips: Preference Transformer against its Gaussian form, where a share of the source's labels is wrong, and where the target
  has labels of its own of which a share is.
- heron: HERON on a pendulum, by the factors that it is given, and PPO on true rewards.
- oppo: OPPO and IQL on the same labels, on Hopper data of `stand_ins.py`.

A draw is new data with new labels, ``seeds`` of it are one program; intervals are over draws, and over seeds where the data are
fixed (oppo). What is there already is not run again. ``results/pearl-PART.json`` has what is printed, beside it lies a picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pearl_labels import align, collected, metaworld, picture, rewards, sizes, turned, unlabelled, votes, write
from scipy.stats import spearmanr
from tables import mean_interval

from rlx import agents, envs, replay
from rlx.agents.oppo.method import scripted
from rlx.agents.pearl.method import model_of
from rlx.preferences import labels, learning, meta_world, pairs, stand_ins
from rlx.preferences.labels import Source
from rlx.preferences.pairs import Episodes
from rlx.train import Options, logging, population
from rlx.types import Problem, ReplayState

SMALL = {
    "hidden": (64, 64),
    "batch": 128,
    "block": 500,
    "eval_episodes": 1,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "value_lr": 1e-3,
}
MLP = {"model.kind": "mlp", "model.hidden": (64, 64), "model.batch": 32, "model.segment": 25, "model.steps": 2_000}
KINDS = {"oracle": "oracle", "CPA": "cpa", "nearest": "dis", "most similar": "sim", "random": "random"}
ALONG_Y = "return on the point mass, along y"
FLIPS = (0.0, 0.1, 0.2, 0.3)


# ----------------------------------------------------------------------------------------------------------------- policies


def trained(
    folder: Path, name: str, env: Any, data: dict[str, Any], settings: dict[str, Any], seeds: list[int]
) -> dict[str, list[list[float]]]:
    """Returns of all evaluations [evaluations, seeds], and of PEARL how right labels and rewards are [1, seeds]."""
    path = folder.with_suffix(".json")
    if not path.exists():
        begun, problem = time.process_time(), Problem({"train": env}, data)
        agent = agents.make(name, None, problem, **settings)
        state = population(agent, problem, seeds, run_dir=folder, options=Options(progress=False)).state
        lines = [line for line in logging.read(folder) if line["kind"] == "eval"]
        found = {"returns": [np.atleast_1d(line["return_mean"]).tolist() for line in lines]}
        if name == "pearl":
            members = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), state.agent.learned) for i in range(len(seeds))]
            found |= judged(agent.config, members, pairs.episodes(data["data"]))
        path.write_text(json.dumps(found))
        print(folder.name, np.round(found["returns"][-1], 1), f"{time.process_time() - begun:.0f} s of processor", flush=True)
    return json.loads(path.read_text())


def judged(config: Any, members: list[Any], found: Episodes) -> dict[str, list[list[float]]]:
    """Of the labels that count, and of the returns by learned rewards; labels of a file are not of whole episodes."""
    model, right, ranks = model_of(config), [], []
    for learned in members:
        given = learned["pairs"]
        there = given.weight > 0
        right.append(learning.agreement(labels.by_returns(found, *given.episode)[there], given.label[there]))
        steps = learning.window_length(given, config.model.segment)
        each = np.nan_to_num(learning.rewards(model, learned["reward"], found, steps))
        ranks.append(float(spearmanr(np.add.reduceat(each, found.begin), found.returns)[0]))
    return {"rank correlation of returns": [ranks]} | ({} if config.labels.endswith(".npz") else {"labels right": [right]})


def numbers(draw: int, seeds: int) -> list[int]:
    return list(range(draw * seeds, (draw + 1) * seeds))


def table_of(runs: list[dict[str, list[list[float]]]]) -> dict[str, Any]:
    """Of the draws of one variant: the last and the best evaluation, and what else is known, over draws."""
    row = {"last": mean_interval([r["returns"][-1] for r in runs], 3, "each")}
    row |= {"best": mean_interval([np.max(r["returns"], 0) for r in runs], 3, "each")}
    return row | {k: mean_interval([r[k][0] for r in runs], 3) for k in runs[0] if k != "returns"}


def print_row(name: str, row: dict[str, Any]) -> None:
    print(f"{name:20}", {k: (v["mean"], v["interval"]) for k, v in row.items()}, flush=True)


def point_mass(draw: int, flips: float = 0.0) -> tuple[Any, ReplayState, Source]:
    """The environment, data of the target, and the labelled source."""
    source, target = (replay.from_episodes(x) for x in stand_ins.point_mass(40, 50, draw))
    given = labels.source_of(pairs.episodes(source))
    z = turned(np.asarray(given.preferred), flips, np.random.default_rng(draw)).astype(np.float32)
    return envs.make("rlx:point-mass", along="y", time_limit=50), target, given._replace(preferred=z)


def by_labels(
    given: argparse.Namespace, part: str, make: Callable[[int], Any], own: dict[str, Any], learned: dict[str, Any], label: str
) -> None:
    """Policies by where labels come from, in ``make(draw)``: an environment, data of the target, and a source."""
    rows: dict[str, Any] = {}
    for name in ("true rewards", *KINDS):
        runs = []
        for draw in range(given.draws):
            env, data, source = make(draw)
            folder = given.run_dir / part / f"{name.replace(' ', '-')}-{draw}"
            agent, of, settings = "pearl", {"data": data, "source": source}, {**own, **learned, "labels": KINDS.get(name)}
            if name == "true rewards":  # in the unit of learned ones
                unit = env.spec.horizon / float(np.ptp(pairs.episodes(data).returns))
                agent, of, settings = "iql", {"data": data}, {**own, "reward_scale": unit}
            runs.append(trained(folder, agent, env, of, settings, numbers(draw, given.seeds)))
        rows[name] = table_of(runs)
        print_row(name, rows[name])
    data = [pairs.episodes(make(draw)[1]).returns for draw in range(given.draws)]
    for what, of in (("mean", np.mean), ("best", np.max)):
        rows[f"the data, {what}"] = {"last": mean_interval([of(x) for x in data], 3)}
    order = [rows[k]["last"]["mean"] for k in ("oracle", "CPA", "nearest", "random")]
    checks = {"oracle >= CPA >= nearest >= random": bool(np.all(np.diff(order) <= 0))}
    checks["CPA at least .8 of oracle"] = order[1] >= 0.8 * order[0]
    checks["random at most .4 of oracle"] = order[3] <= 0.4 * order[0]
    print(checks)
    head = {"draws": given.draws, "seeds": given.seeds, "updates": own["updates"]}
    write(given.out / f"pearl-{part}.json", {**head, "rows": rows, "checks": checks})
    picture(rows, ("last", "best"), label, given.out / f"pearl-{part}.png")


def policies(given: argparse.Namespace) -> None:
    updates = 1_000 if given.debug else given.updates
    own = {**SMALL, "updates": updates, "eval_every": max(500, updates // 10)}
    learned = {**MLP, "reward_lr": 1e-3, "weight_decay": 0.0} | ({"model.steps": 40} if given.debug else {})
    by_labels(given, "policies", point_mass, own, learned, ALONG_Y)


def robots(given: argparse.Namespace) -> None:
    """On the data of the part metaworld, of which each draw has 32 episodes of its own."""
    updates = 500 if given.debug else given.updates // 2
    own = {**SMALL, "hidden": (128, 128), "updates": updates, "eval_every": max(500, updates // 2), "eval_episodes": 5}
    own |= {"normalize_obs": True}
    learned = {**MLP, "model.hidden": (128, 128), "model.batch": 16, "reward_lr": 3e-4, "weight_decay": 0.0}
    learned |= {"align.entries": meta_world.FRAME, "align.outer": 30, "align.inner": 60}
    draws, each, steps = sizes(given.debug)
    learned |= {"model.steps": 40 if given.debug else 1_000}
    for source, target in (("button-press-v3", "drawer-open-v3"), ("faucet-close-v3", "door-close-v3")):
        both = [collected(given.run_dir, task, draws * each, steps) for task in (source, target)]

        def make(draw: int, both: Any = both, target: str = target) -> tuple[Any, ReplayState, Source]:
            some, data = (replay.from_episodes(x[i] for i in range(draw * each, (draw + 1) * each)) for x in both)
            env = envs.make(meta_world.ENV, env_name=target, time_limit=steps, disable_env_checker=True)
            return env, data, labels.source_of(pairs.episodes(some))

        by_labels(given, target[:-3], make, own, learned, f"return on {target[:-3]}")


def own_labels(path: Path, data: ReplayState, share: float, draw: int) -> Path:
    """True labels of the target's own pairs, a ``share`` of them turned round."""
    rng = np.random.default_rng(draw)
    made = labels.label("oracle", pairs.episodes(data), rng, count=500).pairs
    wrong = rng.uniform(size=len(made.label)) < share
    path.parent.mkdir(parents=True, exist_ok=True)
    return pairs.write(path, pairs.flipped(made, wrong))


def flips(given: argparse.Namespace) -> None:
    updates = 1_000 if given.debug else given.updates // 2
    own: dict[str, Any] = {**SMALL, "updates": updates, "eval_every": max(500, updates // 5), "labels": "cpa"}
    own |= {"model.width": 32, "model.heads": 2, "model.batch": 32, "model.segment": 25, "model.dropout": 0.0}
    own |= {"model.steps": 40 if given.debug else 400, "model.checks": 10}
    rows: dict[str, Any] = {}
    for whose, share in [(w, x) for w in ("carried", "own") for x in FLIPS]:
        for name, head in (("PT", "deterministic"), ("RPT", "gaussian")):
            runs, kind = [], f"{name}, {share:.0%}" + (" of its own" if whose == "own" else "")
            for draw in range(given.draws):
                env, data, source = point_mass(draw, share)
                folder, all_of = given.run_dir / "flips" / f"{name}-{share:.0%}-{draw}", {"data": data, "source": source}
                settings = {**own, "head": head}
                if whose == "own":
                    folder, all_of = folder.with_name(f"{folder.name}-own"), {"data": data}
                    settings["labels"] = str(own_labels(folder.with_name(f"{share:.0%}-{draw}.npz"), data, share, draw))
                runs.append(trained(folder, "pearl", env, all_of, settings, numbers(draw, given.seeds)))
            rows[kind] = table_of(runs)
            print_row(kind, rows[kind])
    own = {"draws": given.draws, "seeds": given.seeds, "updates": updates}
    write(given.out / "pearl-flips.json", {**own, "rows": rows})
    picture(rows, ("last", "best"), ALONG_Y, given.out / "pearl-flips.png")


def heron(given: argparse.Namespace) -> None:
    """What HERON's policies earn of a reward that they see as a factor or not at all; the seeds are one program."""
    own: dict[str, Any] = {"n_envs": 16, "steps": 128, "epochs": 10, "lr": 1e-3, "discount": 0.95, "eval_episodes": 10}
    own |= {"env_steps": 8_192 if given.debug else 131_072, "eval_every": 4_096 if given.debug else 16_384}
    learned = {"reward_hidden": (64, 64)}
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "PPO, true rewards": ("ppo", {}),
        "HERON, the reward": ("heron", {**learned, "factors": ("reward",)}),
        "HERON, the reward, margin 0": ("heron", {**learned, "factors": ("reward",), "margins": (0.0,)}),
        "HERON, height": ("heron", {**learned, "factors": ("obs/0",)}),
        "HERON, height, margin 0": ("heron", {**learned, "factors": ("obs/0",), "margins": (0.0,)}),
    }
    env, seeds, rows = envs.make("rlx:pendulum"), 2 if given.debug else 5, {}
    for i, (name, (agent, more)) in enumerate(variants.items()):
        found = trained(given.run_dir / "heron" / f"{agent}-{i}", agent, env, {}, {**own, **more}, list(range(seeds)))
        rows[name] = table_of([{"returns": [[line[k]] for line in found["returns"]]} for k in range(seeds)])
        print_row(name, rows[name])
    write(given.out / "pearl-heron.json", {"seeds": seeds, "env_steps": own["env_steps"], "rows": rows})


def oppo(given: argparse.Namespace) -> None:
    """The same pairs of windows for both: which earns more over 200 steps."""
    name, seeds = "Hopper-low-replay", 2 if given.debug else max(given.seeds, 3)
    data = replay.load(given.stand_ins / name).replay()
    labelled = scripted("oracle", pairs.episodes(data), 10_000, 20, 200, np.random.default_rng(0))
    file = pairs.write(given.run_dir / "hopper-labels.npz", labelled)
    env, few = envs.make("gym:Hopper-v4"), 40 if given.debug else 0
    shared: dict[str, Any] = {"labels": str(file), "eval_episodes": 5}
    small = {"width": 64, "layers": 2, "segment": 20, "batch": 16, "warmup": 300.0, "actor_lr": 5e-4, "block": 20}
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "OPPO": ("oppo", {**shared, **small, "updates": few or 3_000, "eval_every": few or 600}),
        "IQL, learned rewards": ("pearl", {**shared, **MLP, "head": "deterministic", "model.segment": 20, "reward_shift": 0.5}),
        "IQL, true rewards": ("iql", {"eval_episodes": 5, "normalize_returns": True}),
    }
    rows = {}
    for kind, (agent, settings) in variants.items():
        if agent != "oppo":
            settings |= {"hidden": (128, 128), "batch": 128, "normalize_obs": True}
            settings |= {"updates": few or 10_000, "block": few or 200, "eval_every": few or 2_000}
        folder = lambda seed, agent=agent: given.run_dir / "oppo" / f"{agent}-{seed}"
        rows[kind] = table_of([trained(folder(i), agent, env, {"data": data}, settings, [i]) for i in range(seeds)])
        print_row(kind, rows[kind])
    rows["the data, mean"] = {"last": {"mean": round(float(np.mean(pairs.episodes(data).returns)), 1), "interval": None}}
    write(given.out / "pearl-oppo.json", {"data": name, "seeds": seeds, "rows": rows})
    picture(rows, ("last", "best"), "return of Hopper", given.out / "pearl-oppo.png")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "alignment": align,
    "votes": votes,
    "metaworld": metaworld,
    "rewards": rewards,
    "unlabelled": unlabelled,
    "policies": policies,
    "robots": robots,
    "flips": flips,
    "heron": heron,
    "oppo": oppo,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="of policies and data; what is there is not made again")
    parser.add_argument("--part", choices=PARTS, action="append", help="only these")
    parser.add_argument("--draws", type=int, default=5, help="of data and labels, of policies, robots and flips")
    parser.add_argument("--seeds", type=int, default=1, help="of each draw; of oppo at least three")
    parser.add_argument("--updates", type=int, default=5_000, help="of policies on the point mass")
    parser.add_argument("--stand-ins", type=Path, default=Path("runs/stand_ins/data"), help="of oppo: data of stand_ins.py")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.debug = given.preset == "debug"
    if given.debug:
        given.draws, given.seeds = 2, 1
    given.run_dir.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for part in given.part or PARTS:
        begun = time.process_time()
        PARTS[part](given)
        print(f"{part}: {time.process_time() - begun:.0f} s of processor time", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
