"""Cycles of a stage: whole chunks of them on the device, or one whose phases take turns with the host."""

from __future__ import annotations

import numpy as np

from rlx.train import processes
from rlx.train.host import device_state, put_back, run_phase
from rlx.train.program import Program
from rlx.train.schedule import due
from rlx.types import RunState


def over(program: Program, run: RunState) -> bool:
    """Whether the stage ends here: its cycles are done, or `Stage.stop` said stop to all members."""
    if run.cycle >= program.stage.cycles or program.stage.stop is None:
        return run.cycle >= program.stage.cycles
    return not processes.agree(running=int(np.asarray(run.reports["running"]).any()))["running"]


def chunk(program: Program, run: RunState, n: int) -> int:
    """Up to ``n`` cycles in one call; the number done. Where a stage stops early, all processes stop together."""
    state, done = program.chunk(device_state(program, run), run.key, run.cycle, n)
    if program.stage.stop is not None:
        most = processes.agree(done=done)["done"]
        if most > done:
            state, more = program.chunk(state, run.key, run.cycle + done, most - done, ignore_stop=True)
            done += more
    put_back(program, run, state)
    run.cycle += done
    return done


def mixed(program: Program, run: RunState) -> int:
    """One cycle with host work: runs of device phases compiled together, host phases one by one."""
    waiting: list[int] = []

    def flush() -> None:
        if waiting:
            put_back(program, run, program.phases(tuple(waiting), device_state(program, run), run.key, run.cycle))
            waiting.clear()

    for j, phase in enumerate(program.stage.phases):
        if not due(phase, run.cycle):
            continue
        if program.on_host[j]:
            flush()
            run_phase(program, run, j)
        else:
            waiting.append(j)
    flush()
    if program.stage.stop is not None:
        put_back(program, run, program.jit("stop", program.ask_stop, (0,), donate_argnums=0)(device_state(program, run)))
    run.cycle += 1
    return 1
