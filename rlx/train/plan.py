"""Before a run: does it fit together, and what will it do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from rlx import keys
from rlx.envs.observations import same_rows
from rlx.train import processes
from rlx.train.phases import prioritised
from rlx.train.schedule import budget, streams
from rlx.train.state import check_initial
from rlx.types import Agent, AgentState, Collect, Env, Eval, HostEnv, Key, Leaf, Members, Problem, ReplayState, Update


def _need(name: str, known: Any, what: str, where: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{where} names the {what} {name!r}; there are {sorted(known)}.{hint}")


def only(agent: Agent, stages: Iterable[str]) -> Agent:
    """``agent`` with these of its stages.

    Raises:
        ValueError: it has no stage of that name.
    """
    names = list(stages)
    unknown = sorted(set(names) - {s.name for s in agent.stages})
    if unknown:
        raise ValueError(f"unknown stages {unknown}; {agent.name} has {[s.name for s in agent.stages]}.")
    return replace(agent, stages=tuple(s for s in agent.stages if s.name in names))


def as_key(key: Any) -> Key | Members:
    """What all randomness of a run comes from: of an int the key of that seed.

    Raises:
        ValueError: it is neither a seed from 0 to 2^64 - 1, nor one typed key, nor `Members`.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return keys.root(key)
    typed = jax.numpy.issubdtype(getattr(key, "dtype", bool), jax.dtypes.prng_key)
    if isinstance(key, Members) or (typed and not key.ndim):
        return key
    given = f"{key.dtype}{list(key.shape)}" if hasattr(key, "dtype") and hasattr(key, "shape") else repr(key)
    raise ValueError(
        "run takes one typed key, jax.random.key(seed), or the seed as an int, or Members(keys) for several runs; "
        f"it was given {given}."
    )


def check_eval(ev: Eval, agent: Agent, problem: Problem) -> None:
    """Raise ``ValueError`` where an evaluation cannot be done."""
    where = f"evaluation {ev.name!r}"
    if ev.env not in problem.envs:
        raise ValueError(f"{where} asks for environment {ev.env!r}; given were {sorted(problem.envs)}.")
    source = problem.envs[ev.env]
    if source.spec.horizon is None:
        raise ValueError(
            f"{where}: {source.name} has no time limit, so its episodes may never end. "
            "Make it with time_limit=N (decisions per episode)."
        )
    if ev.mode not in agent.modes:
        raise ValueError(f"{where} asks for mode {ev.mode!r}; {agent.name} has {agent.modes}.")
    if ev.episodes % max(len(ev.parts), 1):
        raise ValueError(f"{where}: {ev.episodes} episodes are no equal shares for {', '.join(ev.parts)}.")
    if ev.every < 1 or ev.episodes < 1:
        raise ValueError(f"{where}: every and episodes must be at least 1, got {ev.every} and {ev.episodes}.")


def same_shapes(trained: Env | HostEnv, given: Env | HostEnv) -> None:
    """Raise ``ValueError`` where what acts in ``trained`` cannot act in ``given``."""
    shapes = lambda spec: jax.tree.map(lambda leaf: leaf.shape, spec, is_leaf=lambda x: isinstance(x, Leaf))
    for what, word in (("obs", "observation"), ("action", "action")):
        mine, theirs = (shapes(getattr(env.spec, what)) for env in (trained, given))
        if mine != theirs:
            differ = f"its {word} has shape {mine}, there it is {theirs}"
            raise ValueError(f"a policy trained on {trained.name} cannot act on {given.name}: {differ}.")


def check_data(agent: Agent, problem: Problem) -> None:
    """Raise ``ValueError`` where the problem has data that the agent does not read, or rows of another environment."""
    for name, data in problem.data.items():
        if name not in agent.reads:
            reads = f" (it reads {', '.join(agent.reads)})" if agent.reads else ""
            raise ValueError(f"{agent.name} does not learn from the data {name!r}{reads}: leave it out.")
        if isinstance(data, ReplayState) and "train" in problem.envs:
            same_rows(data.data, problem.envs["train"], name)


def validate(agent: Agent, problem: Problem, key: Key | Members, init_from: AgentState | None = None) -> None:
    """Raise ``ValueError`` where agent, problem, key and what the agent begins with do not fit together."""
    if isinstance(key, Members):
        count = key.keys.shape[0] if key.keys.ndim else 0
        if count < 1:
            raise ValueError("Members needs keys of shape [M] with M >= 1, such as jax.random.split(key, M).")
        for name, values in key.hypers.items():
            if np.shape(values) != (count,):
                raise ValueError(f"Members.hypers[{name!r}] must have shape ({count},), got {np.shape(values)}.")
    if processes.count() > 1:
        _check_job(agent, key)
    check_data(agent, problem)
    if not agent.stages:
        raise ValueError(f"{agent.name} has no stages to run.")
    names = [ev.name for ev in agent.evals]
    if len(set(names)) < len(names):
        raise ValueError(f"the evaluations of {agent.name} need a name each; they are called {names}.")
    for ev in agent.evals:
        check_eval(ev, agent, problem)
    fed: dict[str, str] = {}
    for stage in agent.stages:
        for j, phase in enumerate(stage.phases):
            where = f"stage {stage.name!r} phase {j}"
            if phase.every < 1:
                raise ValueError(f"{where}: every must be at least 1, got {phase.every}.")
            if isinstance(phase, Collect):
                _check_collect(agent, problem, phase, where, fed)
            if isinstance(phase, Update):
                if phase.n < 1:
                    raise ValueError(f"{where}: an Update needs n >= 1, got {phase.n}.")
                for source in phase.sample.sources:
                    _need(source, {*agent.buffers, *problem.data}, "source", where)
                _check_priorities(agent, problem, phase, where)
    if init_from is not None:
        check_initial(agent, problem, init_from, key.keys.shape[0] if isinstance(key, Members) else None)
    total = np.sum([budget(agent, s) for s in agent.stages], 0)
    if total.max() >= 2**31:
        raise ValueError(f"the plan has {total.max():.3g} env steps or updates; the clock counts to 2147483647.")


def _check_job(agent: Agent, key: Any) -> None:
    """Several processes share members on devices, nothing else."""
    if not isinstance(key, Members):
        raise ValueError("several processes share the members of a population: give --seeds N or --grid.")
    on_host = [e.name for e in agent.envs.values() if e.host] + [
        f"buffer {k}" for k, b in agent.buffers.items() if not b.device
    ]
    if on_host:
        raise ValueError(
            f"several processes need device environments and buffers, and {', '.join(on_host)} live on the host: train on one "
            "machine, or spread runs over machines with `rlx sweep`."
        )


def _check_collect(agent: Agent, problem: Problem, phase: Collect, where: str, fed: dict[str, str]) -> None:
    _need(phase.env, agent.envs, "environment", where)
    _need(phase.mode, agent.modes, "mode", where)
    if phase.steps < 1:
        raise ValueError(f"{where}: a Collect needs steps >= 1, got {phase.steps}.")
    if phase.into is None:
        return
    if phase.into in problem.data:
        raise ValueError(f"{where} collects into {phase.into!r}, which is shared data; give the agent a buffer of its own.")
    _need(phase.into, agent.buffers, "buffer", where)
    other = fed.setdefault(phase.into, phase.env)
    if other != phase.env and not phase.fresh:
        raise ValueError(
            f"{where}: buffer {phase.into!r} is fed from both {other!r} and {phase.env!r}. An interaction that continues "
            "would be joined to rows of the other; use fresh=True or a buffer each."
        )


def _check_priorities(agent: Agent, problem: Problem, phase: Update, where: str) -> None:
    rows = {k for k, v in problem.data.items() if isinstance(v, ReplayState)}
    for name in prioritised(phase):
        _need(name, {*agent.buffers, *rows}, "source of priorities", where)
        if name in agent.buffers and not agent.buffers[name].priorities:
            raise ValueError(f"{where} gives priorities to buffer {name!r}, which keeps none: make it with priorities=True.")


def plan(agent: Agent, problem: Problem, key: Any) -> list[tuple[str, str]]:
    """What will be done, as (what, how much) rows for people."""
    members = key.keys.shape[0] if isinstance(key, Members) else None
    rows = [("agent", agent.name), ("environment", ", ".join(e.name for e in problem.envs.values()) or "none")]
    if members:
        rows.append(("members", str(members)))
    for stage in agent.stages:
        env_steps, updates = budget(agent, stage)
        what = [f"{stage.cycles} cycles"] + [f"{n:,} {u}" for n, u in ((env_steps, "env steps"), (updates, "updates")) if n]
        rows.append((f"stage {stage.name}", ", ".join(what)))
    for name, env in agent.envs.items():
        kind = "host threads" if env.host else jax.default_backend()
        rows.append((f"streams {name}", f"{streams(env)} x {env.name} on {kind}, repeat {env.spec.repeat}"))
    for ev in agent.evals:
        rows.append((f"evaluation {ev.name}", f"{ev.episodes} episodes every {ev.every} cycles"))
    for name, data in problem.data.items():
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(data if not isinstance(data, ReplayState) else data.data))
        rows.append((f"data {name}", f"{size / 2**20:.1f} MiB"))
    rows.append(("devices", ", ".join(str(d) for d in jax.local_devices())))
    return rows
