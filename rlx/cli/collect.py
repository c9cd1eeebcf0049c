"""``rlx collect``: the rollouts of a policy, or of random actions, as a dataset file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from rlx import config, envs, keys
from rlx.cli import console
from rlx.cli.console import MOST, MOST_STREAMS
from rlx.envs import actions
from rlx.envs.base import batch, begin, rollout
from rlx.envs.options import parsed
from rlx.replay import datasets
from rlx.replay.buffer import Replay
from rlx.train import load, stats
from rlx.train.policy import Policy
from rlx.types import Env, HostEnv, Key, Row

BLOCK = 1000  # steps of each stream per call of a rollout


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder of the policy
    env: str = ""  # another environment than the run's; with --mode random no run is needed
    steps: int = config.size(10_000, least=1, most=MOST)  # transitions, at least
    out: str = ""  # the file to write, such as data.npz
    mode: str = "eval"  # a mode of the agent, such as explore or eval, or: random
    streams: int = config.size(10, least=1, most=MOST_STREAMS)  # episodes side by side
    seed: int = config.size(0, least=0, most=keys.MOST_SEED)
    which: Literal["best", "last"] = "best"
    member: int = config.size(0, least=0)  # of a run with several: seeds first, then settings
    repeat: int | None = config.size(None, least=1, most=MOST)  # without a run: simulation steps per decision
    time_limit: int | None = config.size(None, least=1, most=MOST)  # without a run: decisions per episode
    env_options: console.ENV_OPTIONS = config.size((), console.ENV_OPTIONS_HELP)
    imports: console.IMPORTS = config.size((), console.IMPORTS_HELP)


PRESETS = {"debug": {"steps": 200, "streams": 2}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="rlx collect", description=(__doc__ or "").strip())
    policy, env = _who_and_where(flags)
    out = Path(flags.out)
    episodes = collect(policy, env, flags.steps, flags.streams, flags.mode, keys.root(flags.seed))
    datasets.write(out, episodes)
    returns = np.array([float(e.reward.sum()) for e in episodes])
    whole = np.array([bool(e.terminated[-1]) or len(e.reward) - 1 == env.spec.horizon for e in episodes])
    transitions = sum(len(e.reward) - 1 for e in episodes)
    rows: list[tuple[str, Any]] = [("environment", env.name), ("mode", flags.mode), ("transitions", f"{transitions:,}")]
    rows += [("episodes", len(episodes)), ("file", f"{out}, {console.size(out.stat().st_size)}")]
    if whole.any():
        rows.append(("return, mean of whole episodes", console.estimate(stats.estimate(returns[None, whole]))))
    console.table("Dataset", rows)
    values = {"out": out, "run_dir": flags.run_dir or None, "env": env.name, "mode": flags.mode}
    mean = returns[whole].mean() if whole.any() else None
    console.result({**values, "transitions": transitions, "episodes": len(episodes), "return_mean": mean})


def _who_and_where(flags: Flags) -> tuple[Policy | None, Env | HostEnv]:
    """The policy (None: random actions) and the environment. Refuses what does not go together, before anything runs."""
    if not flags.run_dir and (flags.mode != "random" or not flags.env):
        config.stop("whose rollouts? Give --run-dir, or for random actions --mode random --env ENV")
    if not flags.out:
        config.stop("where to? Give --out, such as --out data.npz")
    out = Path(flags.out)
    if out.is_dir() or not out.parent.is_dir():
        config.stop(f"--out {out} is to be a file in a folder that exists")
    options = parsed(flags.env_options)
    if not flags.run_dir:
        given: dict[str, Any] = {"repeat": flags.repeat, "time_limit": flags.time_limit}
        return None, envs.make(flags.env, **{k: v for k, v in given.items() if v is not None}, **options)
    policy = load(flags.run_dir, flags.which, flags.member)
    if flags.env or flags.env_options:
        policy = policy.on(flags.env or None, **options)
    if flags.mode != "random" and flags.mode not in policy.agent.modes:
        known = [*policy.agent.modes, "random"]
        config.stop(f"{policy.agent.name} has no mode {flags.mode!r}.{config.nearest(flags.mode, known)}")
    return (None if flags.mode == "random" else policy), policy.problem.envs["train"]


def collect(policy: Policy | None, env: Env | HostEnv, steps: int, streams: int, mode: str, key: Key) -> list[Row]:
    """At least ``steps`` transitions as episodes (numpy rows [T, ...]); the last of each stream may be cut."""
    vec = batch(env, streams)
    act = _random(vec) if policy is None else policy.actor(mode)
    rollout_state = begin(vec, vec.params, () if policy is None else policy.carry(streams), keys.fold(key, "begin"))
    if vec.host:
        fast = jax.jit(lambda carry, step, data: act(carry, step, jax.random.wrap_key_data(data)))
        roll = lambda rollout_state, key, n: rollout(vec, vec.params, fast, rollout_state, key, n)
    else:
        roll = jax.jit(lambda rollout_state, key, n: rollout(vec, vec.params, act, rollout_state, key, n), static_argnums=2)
    blocks: list[Row] = []
    taken = 0
    try:
        while taken < steps:
            n = min(BLOCK, -(-(steps - taken) // streams))
            rollout_state, rows, tail = roll(rollout_state, keys.fold(key, "collect", len(blocks)), n)
            blocks.append(jax.tree.map(np.asarray, rows))
            taken += int(np.sum(rows.valid & ~rows.last))
    finally:
        vec.close()
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *blocks)
    if env.spec.action.choices is None:
        whole = whole._replace(action=np.clip(whole.action, -1, 1))  # as the environment did
    buffer = Replay(len(whole.reward) + 2, streams, device=False)
    state = buffer.init(jax.tree.map(lambda x: x[0, 0], whole))
    return buffer.export(buffer.close(buffer.add(state, whole, jax.tree.map(np.asarray, tail))))


def _random(vec: Any) -> Any:
    """A policy that acts uniformly at random."""
    return lambda carry, step, key: (actions.sample(vec.spec, key, vec.n), carry, {})
