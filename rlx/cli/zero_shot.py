"""``rlx zero_shot --run-dir DIR --reward TEXT``: asks a zero-shot agent for a task that it was never told of, and films it.

With ``--tasks all``: what it does at every task of its world, as one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlx import config, files, keys
from rlx.agents.td_jepa import ZeroShot
from rlx.agents.td_jepa.tasks import transitions_of
from rlx.cli import all_tasks, console, outputs
from rlx.cli.console import MOST_STREAMS
from rlx.envs.expressions import parse, quantities
from rlx.train import Policy, load
from rlx.train.collect import acting, collect
from rlx.train.policy import load_members
from rlx.types import Array, ReplayState

EXAMPLE = 'rlx zero_shot --run-dir runs/maze --reward "exp(-norm(pos - [0.1, 0.1]) / 0.05)"'
OTHERS = 8  # directions at random that the answer is compared with


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder
    reward: str = ""  # an expression over the environment's quantities; an unknown name lists them
    goal: str = ""  # instead: an observation to be at, such as "0.1, 0.1, 0, 0", or the file of a picture
    tasks: str = ""  # instead: all, or names with commas between them: what all members do at each, as one batch
    samples: int = config.size(10_000, least=1)  # transitions of the run's dataset that the reward is regressed on
    episodes: int = config.size(10, least=1, most=MOST_STREAMS)  # of the answer, and of directions at random beside it
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    which: Literal["best", "last"] = "best"
    member: int | None = config.size(None, least=0)  # of a run with several; None: the first, and of --tasks all
    video: bool = True  # film one episode into the run folder


PRESETS = {"debug": {"episodes": 2, "samples": 200, "video": False}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx zero_shot", description=(__doc__ or "").strip())
    if not flags.run_dir or sum(map(bool, (flags.reward, flags.goal, flags.tasks))) != 1:
        config.stop(f"give --run-dir and one of --reward, --goal and --tasks, as in: {EXAMPLE}")
    if flags.tasks:
        return _at_tasks(flags)
    policy = load(flags.run_dir, flags.which, flags.member or 0)
    ask = ZeroShot(policy.agent, policy.state)
    score = _score(flags, policy, ask)
    obs, action = _samples(flags, policy)
    ask.features(obs)  # compiles, which is no part of an answer
    begun = time.perf_counter()
    z = ask.infer_reward(obs, score(np, obs, action)) if flags.reward else ask.infer_goal(_goal(flags, policy))
    seconds = time.perf_counter() - begun
    asked = lambda z: replace(policy, agent=ask.agent_for(z), _compiled={})
    found = _played(asked(z), score, flags.episodes, flags.seed)
    free = ask.sample_z(keys.fold(keys.root(flags.seed), "others"), OTHERS)
    others = [_played(asked(one), score, -(-flags.episodes // OTHERS), flags.seed).mean() for one in free]
    folder = Path(flags.run_dir) / "zero_shot"
    folder.mkdir(exist_ok=True)
    files.write_text(folder / "z.json", "[" + ", ".join(f"{float(x):.9g}" for x in z) + "]\n")
    rows = [
        ("asked for", flags.reward or f"to be at {flags.goal}"),
        ("found in", f"{seconds:.3f} s, from {len(obs):,} transitions"),
        ("per decision", console.number(found.mean())),
        (f"{OTHERS} directions at random", f"{console.number(np.mean(others))}, the best {console.number(np.max(others))}"),
    ]
    console.table("Zero-shot", rows)
    film = outputs.film(asked(z), policy.problem.envs["train"], folder, flags.seed) if flags.video else None
    values = {"run_dir": flags.run_dir, "reward": flags.reward, "goal": flags.goal, "seconds": seconds, "video": film}
    console.result({**values, "mean": float(found.mean()), "random_mean": float(np.mean(others)), "z": folder / "z.json"})


def _at_tasks(flags: Flags) -> None:
    one = lambda m: {m: load(flags.run_dir, flags.which, m)}
    policies = load_members(flags.run_dir, flags.which) if flags.member is None else one(flags.member)
    if not policies:
        raise ValueError(f"all members of {flags.run_dir} diverged: name one with --member to see it nevertheless.")
    folder = Path(flags.run_dir) / "zero_shot"
    found = all_tasks.answer(policies, flags.tasks, flags.episodes, flags.samples, flags.seed, folder)
    console.result({"run_dir": flags.run_dir, "which": flags.which, "episodes": flags.episodes, **found})


Score = Callable[[Any, Array, Array], Array]


def _score(flags: Flags, policy: Policy, ask: ZeroShot) -> Score:
    """What is paid: the reward that was written; for a goal minus the distance of features, which means something for images
    too."""
    if flags.reward:
        return parse(flags.reward, quantities(policy.spec))
    there = ask.features(_goal(flags, policy)[None])[0]
    return lambda xp, obs, action: -np.linalg.norm(ask.features(obs) - there, axis=-1)


def _goal(flags: Flags, policy: Policy) -> np.ndarray:
    leaf, frames = policy.spec.obs, policy.agent.config.frames
    if len(leaf.shape) == 1:
        try:
            goal = np.array([float(x) for x in flags.goal.strip("[] ").split(",")], np.float32)
        except ValueError:
            raise ValueError(f"--goal {flags.goal!r}: give {leaf.shape[0]} numbers, as in 0.1, 0.1, 0, 0.") from None
        if goal.shape != leaf.shape or not np.isfinite(goal).all():
            raise ValueError(f"--goal has {goal.size} numbers; an observation here has {leaf.shape[0]}, all finite.")
        return goal
    from PIL import Image

    with Image.open(flags.goal) as picture:
        image = np.asarray(picture.convert("L" if leaf.shape[-1] == 1 else "RGB").resize(leaf.shape[1::-1]), np.uint8)
    return np.concatenate([image.reshape(*leaf.shape[:2], -1)] * frames, -1)


def _stacked(obs: np.ndarray, frames: int) -> np.ndarray:
    """Pictures of an episode [T, H, W, C], each with those before it, the newest last; others as they are."""
    at = np.maximum(np.arange(len(obs)) - np.arange(frames)[::-1, None], 0)
    return np.concatenate(list(obs[at]), -1) if frames > 1 else obs


def _samples(flags: Flags, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Observations of arrival and actions out of the run's dataset."""
    data = policy.problem.data.get("data")
    if not isinstance(data, ReplayState):
        raise ValueError(f"{flags.run_dir} has no dataset to regress a reward on: it was trained without --data.")
    key = keys.fold(keys.root(flags.seed), "samples")
    drawn = transitions_of(data, flags.samples, policy.agent.config.frames, policy.state.hyper, key)
    return drawn.next_obs, drawn.action


def _played(policy: Policy, score: Score, episodes: int, seed: int) -> np.ndarray:
    """What is paid per decision in whole episodes [E]."""
    env = policy.problem.envs["train"]
    steps = episodes * (env.spec.horizon or 1000)
    rows = collect(acting(policy), env, steps, episodes, keys.fold(keys.root(seed), "zero_shot"))
    stacked = lambda r: _stacked(np.asarray(r.obs), policy.agent.config.frames)[1:]
    return np.array([np.asarray(score(np, stacked(r), np.asarray(r.action)[:-1])).mean() for r in rows])
