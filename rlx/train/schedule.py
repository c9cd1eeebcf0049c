"""What is due in which cycle, and where the clock stands then: functions of the plan alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import HostVec
from rlx.replay.buffer import in_host_memory
from rlx.train.options import Options
from rlx.types import Agent, Clock, Collect, Eval, Host, Members, Phase, Problem, Stage, Update, VecEnv

# ----------------------------------------------------------------------------------------------------------------- clocks


def due(phase: Phase, cycle: Any) -> Any:
    return (cycle + 1) % phase.every == 0


def streams(env: VecEnv) -> int:
    """Streams per member."""
    return env.per if isinstance(env, HostVec) else env.n


def amount(agent: Agent, phase: Phase) -> tuple[int, int]:
    """(env steps, updates) of one run of a phase. Imagined steps are not counted."""
    if isinstance(phase, Collect):
        return (phase.steps * streams(agent.envs[phase.env]) if phase.counts == "real" else 0), 0
    return (0, phase.n) if isinstance(phase, Update) else (0, 0)


def budget(agent: Agent, stage: Stage) -> tuple[int, int]:
    """(env steps, updates) of a whole stage."""
    sizes = [[a * (stage.cycles // p.every) for a in amount(agent, p)] for p in stage.phases]
    env_steps, updates = zip(*sizes, strict=True) if sizes else ((0,), (0,))
    return sum(env_steps), sum(updates)


def clock_at(agent: Agent, stage_index: int, cycle: Any, before: int) -> Clock:
    """The clock in ``cycle`` of a stage, before its phase number ``before``."""
    stage = agent.stages[stage_index]
    past = [budget(agent, s) for s in agent.stages[:stage_index]]
    total = [sum(p[0] for p in past), sum(p[1] for p in past)]
    for j, phase in enumerate(stage.phases):
        times = cycle // phase.every + (due(phase, cycle) * 1 if j < before else 0)
        for k, a in enumerate(amount(agent, phase)):
            total[k] = total[k] + a * times
    whole = lambda x: jnp.asarray(x, jnp.int32) if isinstance(x, jax.Array) else np.asarray(x, np.int32)
    return Clock(whole(cycle), whole(total[0]), whole(total[1]))


# ------------------------------------------------------------------------------------------------------------- host's work


def on_host(agent: Agent, problem: Problem, phase: Phase) -> bool:
    """Whether a phase runs on the host, or touches an environment or rows that are there."""
    if isinstance(phase, Host):
        return True
    if isinstance(phase, Collect):
        into = agent.buffers.get(phase.into) if phase.into else None
        return agent.envs[phase.env].host or (into is not None and not into.device)
    away = {name for name, buffer in agent.buffers.items() if not buffer.device}
    away |= {name for name, data in problem.data.items() if in_host_memory(data)}
    return not away.isdisjoint(phase.sample.sources)


@dataclass(frozen=True)
class Due:
    """What there is to do after a cycle."""

    evals: tuple[Eval, ...]
    log: bool
    save: bool
    exchange: bool


@dataclass(frozen=True)
class Schedule:
    """When a stage needs the host. Each ``..._every`` is in cycles, None for never."""

    stage: Stage
    evals: tuple[Eval, ...]
    host: tuple[bool, ...]  # by phase: does it run on the host
    log_every: int
    save_every: int | None = None
    exchange_every: int | None = None

    @staticmethod
    def of(agent: Agent, problem: Problem, index: int, options: Options, members: Members | None = None) -> Schedule:
        """That of stage ``index``. Logs are some 100 lines per stage where ``options`` say nothing else."""
        stage = agent.stages[index]
        return Schedule(
            stage,
            tuple(e for e in agent.evals if not e.stages or stage.name in e.stages),
            tuple(on_host(agent, problem, p) for p in stage.phases),
            options.log_every or max(1, stage.cycles // 100),
            options.checkpoint_cycles,
            members.every if members and members.exchange else None,
        )

    def host_due(self, cycle: int) -> bool:
        """Whether some phase of this cycle runs on the host."""
        return any(h and due(p, cycle) for h, p in zip(self.host, self.stage.phases, strict=True))

    def distance(self, cycle: int) -> int:
        """Cycles from ``cycle`` on, at least 1, until the host has something to do."""
        every = [self.log_every, *(e.every for e in self.evals)]
        every += [n for n in (self.save_every, self.exchange_every) if n]
        distances = [self.stage.cycles - cycle, *(n - cycle % n for n in every)]
        distances += [p.every - 1 - cycle % p.every for p, h in zip(self.stage.phases, self.host, strict=True) if h]
        return max(1, min(distances))

    def after(self, cycle: int, over: bool) -> Due:
        """With ``cycle`` cycles done. ``over``: the stage ends here, when all evaluations and a line are due."""
        at = lambda n: bool(n and cycle % n == 0)
        evals = tuple(e for e in self.evals if over or at(e.every))
        return Due(evals, over or at(self.log_every), at(self.save_every), at(self.exchange_every))
