"""Evaluation: exactly whole episodes, on environments and keys of their own, the same ones each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.base import HostVec, batch, begin
from rlx.precision import in_float32
from rlx.train.host import actor, device_state
from rlx.train.phases import info_reductions
from rlx.train.placement import Placement
from rlx.train.plan import check_eval
from rlx.train.program import Program
from rlx.train.state import data_sources, frozen_data
from rlx.types import (
    Agent,
    AgentState,
    Array,
    Eval,
    HostEnv,
    Key,
    Problem,
    PyTree,
    RunState,
    Spec,
    Step,
    VecEnv,
)

Sums = dict[str, Any]


def _start(xp: Any, spec: Spec, n: int) -> Sums:
    neutral = {"any": 0.0, "sum": 0.0, "mean": 0.0, "last": 0.0, "max": -np.inf}
    info = {name: xp.full(n, neutral[way], np.float32) for name, _, way in info_reductions(spec)}
    return {"return": xp.zeros(n, np.float32), "length": xp.zeros(n, np.int32), "info": info}


def _add(xp: Any, spec: Spec, sums: Sums, step: Step, going: Array) -> Sums:
    """One arrival added to the episodes that are still ``going`` [W]. Info leaves with axes are averaged over them first."""
    info = {}
    for name, k, way in info_reductions(spec):
        old, new = sums["info"][name], xp.asarray(step.info[k], np.float32)
        new = new.reshape(new.shape[0], -1).mean(1) if new.ndim > 1 else new
        merge = {"any": xp.maximum, "max": xp.maximum, "sum": xp.add, "mean": xp.add, "last": lambda old, new: new}
        info[name] = xp.where(going, merge[way](old, new), old)
    return {
        "return": sums["return"] + xp.where(going, step.reward, 0).astype(np.float32),
        "length": sums["length"] + going,
        "info": info,
    }


def _finish(spec: Spec, sums: Sums) -> dict[str, np.ndarray]:
    out = {"returns": np.asarray(sums["return"]), "lengths": np.asarray(sums["length"])}
    for name, _, way in info_reductions(spec):
        value = np.asarray(sums["info"][name])
        out[f"info/{name}"] = value / np.maximum(out["lengths"], 1) if way == "mean" else value
    return out


def summary(ev: Eval, episodes: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a line of metrics says of an evaluation: means over its episodes, and over those of each of its parts."""
    returns = episodes["returns"]
    means = {f"{k}_mean": v.mean(-1) for k, v in episodes.items() if k != "returns"}
    shares = np.split(returns, max(len(ev.parts), 1), -1)
    means |= {f"return/{part}": share.mean(-1) for part, share in zip(ev.parts, shares, strict=False)}
    return {"eval": ev.name, "return_mean": returns.mean(-1), "return_std": returns.std(-1), **means, "returns": returns}


class Evaluator:
    """The evaluation ``table`` row ``ev``, with its environment and compiled policy kept between calls."""

    def __init__(self, program: Program, ev: Eval):
        agent, problem = program.agent, program.problem
        check_eval(ev, agent, problem)
        source = problem.envs[ev.env]
        self.program, self.ev = program, ev
        self.width = ev.episodes if not isinstance(source, HostEnv) or source.light else _width(agent, ev.episodes)
        streams = self.width * ((program.members or 1) if source.host else 1)
        self.env: VecEnv = batch(source, streams, ends="stop", params_axes=ev.params_axes)

    def __call__(self, run: RunState) -> dict[str, np.ndarray]:
        """Returns ``returns`` and ``lengths`` [E] (``[M, E]``), and ``info/<leaf>`` reduced as the spec says."""
        program, ev = self.program, self.ev
        make = program.jit(("eval key", ev.name), lambda k: keys.fold(k, "eval", ev.name), (0,))
        key, clock = make(run.key), program.clock(run.cycle, 0)
        if self.env.host:
            return self._on_host(run, key, clock)
        fn = program.jit(("eval", ev.name), self._on_device, (0, 0, None, 0, None))
        return _finish(self.env.spec, fn(run.agent, device_state(program, run).sources, program.shared, key, clock))

    def _on_device(self, state: Any, sources: Any, frozen: PyTree, key: Key, clock: Any) -> Sums:
        env, ev, agent = self.env, self.ev, self.program.agent
        full = {**frozen, **{k: s._replace(data=frozen[k]) if k in frozen else s for k, s in sources.items()}}
        params = ev.params(state, full) if ev.params else env.params
        rollout_state = begin(env, params, agent.carry(state, env.n, ev.context), keys.fold(key, "reset"))

        def going(carry: tuple) -> Array:
            return (carry[0] < env.spec.horizon) & ~carry[1].done.all()

        def one(carry: tuple) -> tuple:
            t, rollout_state, sums = carry
            now = keys.fold(key, t)
            action, policy, _ = agent.act(
                state, clock, rollout_state.carry, rollout_state.step._replace(info={}), keys.fold(now, "act"), ev.mode
            )
            env_state, step = env.step(params, rollout_state.env, action, keys.fold(now, "env"))
            sums = _add(jnp, env.spec, sums, step, ~rollout_state.done)
            return (
                t + 1,
                rollout_state._replace(env=env_state, step=step, carry=policy, done=rollout_state.done | step.last),
                sums,
            )

        return jax.lax.while_loop(going, one, (0, rollout_state, _start(jnp, env.spec, env.n)))[2]

    def _on_host(self, run: RunState, key: Key, clock: Any) -> dict[str, np.ndarray]:
        """As many rounds as it takes; which streams play an episode does not change how it starts."""
        rounds = [self._round(run, key, clock, i) for i in range(-(-self.ev.episodes // self.width))]
        return jax.tree.map(lambda *x: np.concatenate(x, -1)[..., : self.ev.episodes], *rounds)

    def _round(self, run: RunState, key: Key, clock: Any, i: int) -> dict[str, np.ndarray]:
        env, ev, program, members = self.env, self.ev, self.program, self.program.members
        lead = () if members is None else (members,)
        params = ev.params(run.agent, run.sources) if ev.params else env.params
        how = actor(program)
        carry = how.carry(run.agent, self.width, ev.context)
        random = replace(keys.HostKey.of(key, self.width), first=i * self.width)
        state, step = env.reset(params, random)
        done, sums = np.zeros(env.n, bool), _start(np, env.spec, env.n)
        split = lambda x: x.reshape(*lead, -1, *x.shape[1:])
        for t in range(env.spec.horizon or 0):
            words = random.words ^ np.array([t, i], np.uint32)
            stepped = jax.tree.map(split, step._replace(info={}))
            action, carry, _ = how.act(run.agent, clock, carry, stepped, words if lead else words[0], ev.mode)
            flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[len(lead) + 1 :]), action)
            state, step = env.step(params, state, flat, random.at(t + 1))
            sums = _add(np, env.spec, sums, step, ~done)
            done = done | step.last
            if done.all():
                break
        return jax.tree.map(split, _finish(env.spec, sums))


def _width(agent: Agent, episodes: int) -> int:
    """How many streams of an environment that may be dear (licences, ports, processes) are open beside those that train: no
    more than those, and as few as do the episodes in as many rounds."""
    trained = max((env.per for env in agent.envs.values() if isinstance(env, HostVec)), default=1)
    rounds = -(-episodes // trained)
    return -(-episodes // rounds)


class Evaluations:
    """Evaluators, kept as long as the same members are trained."""

    def __init__(self) -> None:
        self.evaluators: dict[tuple[str, int], Evaluator] = {}

    def __call__(self, run: RunState, program: Program, evals: Sequence[Eval]) -> dict[str, dict[str, np.ndarray]]:
        """What each of ``evals`` found, by name; their steps are counted."""
        report = {}
        for e in evals:
            where = (e.name, program.index)
            if where not in self.evaluators:
                self.evaluators[where] = Evaluator(program, e)
            report[e.name] = self.evaluators[where](run)
            run.counts["eval_steps"] = run.counts["eval_steps"] + report[e.name]["lengths"].sum(-1)
        return report

    def close(self) -> None:
        for evaluator in self.evaluators.values():
            evaluator.env.close()
        self.evaluators = {}


@in_float32
def evaluate(
    agent: Agent,
    problem: Problem,
    state: AgentState,
    key: Key,
    stage: int,
    cycle: int,
    episodes: int | Eval,
    placement: Placement | None = None,
) -> dict[str, np.ndarray]:
    """Whole episodes of what is learned in ``state`` (with ``placement`` by place, as ``key``): what an `Evaluator` returns. So
    many of them on `Problem.evaluated`, or those that an `Eval` says.

    Raises:
        ValueError: the environment has no time limit.
    """
    program = Program(agent, problem, stage, frozen_data(problem), placement)
    lead = () if placement is None else (placement.per_process,)
    reports = {"tally": None, "running": None}
    run = RunState(key, stage, cycle, state, {}, data_sources(agent, problem, placement), {}, {}, np.ones(lead, bool), reports)
    final = episodes if isinstance(episodes, Eval) else Eval("final", problem.evaluated, episodes=episodes)
    evaluator = Evaluator(program, final)
    try:
        return evaluator(run)
    finally:
        evaluator.env.close()


def evaluate_members(
    agent: Agent, problem: Problem, states: AgentState, roots: Key, stage: int, cycle: int, episodes: int | Eval
) -> dict[str, np.ndarray]:
    """`evaluate` of ``states`` [M] with a key each, ``roots`` [M], all at once on all devices: everything [M, E]."""
    count = len(roots)
    placement = Placement.of(range(count), count)
    here = placement.locate(np.arange(count))[placement.own]
    states, roots = placement.put(jax.tree.map(lambda x: x[here], (states, roots)))
    found = evaluate(agent, problem, states, roots, stage, cycle, episodes, placement)
    return {k: placement.by_member(v) for k, v in found.items()}
