"""``rlx zero_shot --tasks``: what a finished run does at all the tasks of its world, played as one batch.

The tasks are those that the run knows, each with its z (`Spec.tasks` of the environment, OGBench's goals); of a run on ``dmc:``
those of its domain, inferred now from the physics that its dataset holds.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlx import envs, files
from rlx.agents.td_jepa import ZeroShot, relabelled
from rlx.agents.td_jepa.report import asking_nothing
from rlx.agents.td_jepa.tasks import SOURCE, arrivals, of_each
from rlx.cli import console
from rlx.config import nearest
from rlx.envs.ogbench import of_task
from rlx.envs.rewards import reward_of
from rlx.envs.side_by_side import side_by_side
from rlx.train import Policy, stats, sweeps
from rlx.train.pictures import literal
from rlx.train.policy import evaluate_all
from rlx.types import PHYSICS, Env, HostEnv, Problem, ReplayState


def answer(policies: dict[int, Policy], asked: str, episodes: int, samples: int, seed: int, folder: Path) -> dict[str, Any]:
    """Plays ``episodes`` of each task ``asked`` for ("all", or names) with each member; prints tables, and leaves ``tasks.png``
    and, with the z of each member, ``tasks.json`` in ``folder``. Warns of tasks whose z is 0. Returns what the command's result
    says.

    Raises:
        ValueError: an unknown task, or a run that knows no other than its own.
    """
    first = next(iter(policies.values()))
    known = ZeroShot(first.agent, first.state).method.tasks
    env: Env | HostEnv
    if known.names == ("reward",):
        names, played, env = _of_domain(policies, asked, episodes, samples, seed)
        numbers: Sequence[int] = range(len(names))
    else:
        names = _chosen(asked, known.names)
        numbers, played, env = [known.names.index(n) for n in names], policies, _world(first, known, names, episodes)
    z = np.stack([np.asarray(policy.state.learned["tasks"])[list(numbers)] for policy in played.values()])
    for message in asking_nothing(names, z):
        warnings.warn(f"--tasks: {message}", stacklevel=2)
    problem = Problem({**first.problem.envs, "train": env}, first.problem.data)
    played = {m: replace(policy, problem=problem, _compiled={}) for m, policy in played.items()}
    found = evaluate_all(played, of_each(names, numbers, env, episodes, "train"), seed)
    apart = {k: v.reshape(len(policies), len(names), episodes) for k, v in found.items() if k in ("returns", "info/success")}
    return _report(policies, names, apart, z, folder)


def _chosen(asked: str, names: Sequence[str]) -> tuple[str, ...]:
    if asked == "all":
        return tuple(names)
    given = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"--tasks: {', '.join(unknown)} is none of {', '.join(names)}.{nearest(unknown[0], names)}")
    return given


def _world(policy: Policy, known: Any, names: Sequence[str], episodes: int) -> Env | HostEnv:
    """Where the run's own tasks are played: its environment, or, on the host, one of each side by side."""
    own = policy.problem.envs["train"]
    if known.goals:
        goals = [of_task(own.name.removeprefix("gym:"), 1 + known.names.index(name)) for name in names]
        return side_by_side([_there(policy, f"gym:{goal}") for goal in goals], episodes)
    if isinstance(own, HostEnv):
        return side_by_side([policy.on(None, task=name).problem.envs["train"] for name in names], episodes)  # type: ignore
    return own


def _there(policy: Policy, name: str) -> Any:
    """Another environment with the options of the run's own: seen in pictures where that is."""
    options = policy.run_config.env_options if policy.run_config else {}
    return policy.on(name, **options).problem.envs["train"]


def _of_domain(
    policies: dict[int, Policy], asked: str, episodes: int, samples: int, seed: int
) -> tuple[tuple[str, ...], dict[int, Policy], HostEnv]:
    """Names, policies that know the z of each, and where they play."""
    first = next(iter(policies.values()))
    data = first.problem.data.get(SOURCE)
    prefix, _, own = first.problem.envs["train"].name.partition(":")
    if prefix != "dmc" or not isinstance(data, ReplayState) or PHYSICS not in data.data.info:
        raise ValueError(
            "--tasks: this run knows one task, the rewards of its dataset. Others are known of environments that name them, of "
            "OGBench's files without rewards, and of dmc: data with physics (as rlx collect stores it)."
        )
    domain = own.partition("-")[0]
    others = [name.removeprefix(f"dmc:{domain}-") for name in envs.names("dmc") if name.startswith(f"dmc:{domain}-")]
    rewards, worlds = {}, []
    for name in _chosen(asked, others):
        try:
            rewards[name] = reward_of(f"dmc:{domain}-{name}")
            worlds.append(_there(first, f"dmc:{domain}-{name}"))
        except ValueError as error:
            rewards.pop(name, None)
            if asked != "all":
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not rewards:
        raise ValueError(f"--tasks: what tasks of dmc:{domain} pay cannot be computed from the physics in the dataset.")
    given = relabelled(data, rewards, samples, seed)
    t, w = given["index"]
    obs = arrivals(data, t, w, first.agent.config.frames)
    reward = np.stack([given["rewards"][name] for name in rewards])
    knowing = {m: _knowing(policy, obs, reward) for m, policy in policies.items()}
    return tuple(rewards), knowing, side_by_side(worlds, episodes)


def _knowing(policy: Policy, obs: np.ndarray, reward: np.ndarray) -> Policy:
    """With the z of rewards ``reward`` [K, N] for arriving at ``obs`` [N, ...] as those of its tasks."""
    ask = ZeroShot(policy.agent, policy.state)
    z = ask.method.inferred(ask.features(obs), reward + float(policy.state.hyper["reward_shift"]))
    return replace(policy, state=policy.state._replace(learned={**policy.state.learned, "tasks": np.float32(z)}))


def _report(
    policies: dict[int, Policy], names: Sequence[str], found: dict[str, np.ndarray], z: np.ndarray, folder: Path
) -> dict[str, Any]:
    """Of ``found`` [M, K, E] by name, with the ``z`` [M, K, d] that were played."""
    settings: dict[str, list[int]] = {}
    for place, (member, policy) in enumerate(policies.items()):
        point = policy.run_config.who()[member][1] if policy.run_config else {}
        settings.setdefault(sweeps.label(point), []).append(place)
    of = lambda what, places, k: stats.estimate(found[what][places, k])
    bars = {s: [of("returns", places, k) for k in range(len(names))] for s, places in settings.items()}
    for setting, places in settings.items():
        rows = [(name, console.estimate(e)) for name, e in zip(names, bars[setting], strict=True)]
        rows.append(("all", console.estimate(stats.estimate(found["returns"][places].mean(1)))))
        if "info/success" in found:
            rows += [(f"{name}, success", console.estimate(of("info/success", places, k))) for k, name in enumerate(names)]
        console.table(f"{found['returns'].shape[-1]} episodes of each task {setting}".strip(), rows)
    folder.mkdir(exist_ok=True)
    kept = {name: {what: x[:, k].tolist() for what, x in {**found, "z": z}.items()} for k, name in enumerate(names)}
    files.write_text(folder / "tasks.json", json.dumps({"members": list(policies), "tasks": kept}, indent=1) + "\n")
    _draw(names, bars, folder / "tasks.png")
    means = {f"return_{name}": found["returns"][:, k].mean() for k, name in enumerate(names)}
    return {**means, "return_mean": found["returns"].mean(), "members": list(policies), "picture": folder / "tasks.png"}


def _draw(names: Sequence[str], bars: dict[str, list[stats.Estimate]], path: Path) -> None:
    """The return of each task with its interval, a bar for each setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.2 + 0.35 * len(names) * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, width = figure.subplots(), 0.8 / len(bars)
    for i, (setting, found) in enumerate(bars.items()):
        value = np.array([e.value for e in found])
        bounds = np.array([e.interval or (e.value, e.value) for e in found])
        away = np.maximum(np.abs(bounds.T - value), 0)
        axes.barh(np.arange(len(names)) + i * width, value, width, xerr=away, label=literal(setting) or None, alpha=0.7)
    axes.set_yticks(np.arange(len(names)) + 0.4 - width / 2, [literal(name) for name in names])
    axes.invert_yaxis()
    over = next(iter(bars.values()))[0].over
    axes.set(xlabel="return of an episode")
    axes.set_title(f"mean and 95% interval over {over}", fontsize="medium")
    axes.legend() if len(bars) > 1 else None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(path, picture.getvalue())
