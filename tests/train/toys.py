"""An agent whose every number can be foretold."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.envs import batch, make
from rlx.train import Options
from rlx.types import Agent, AgentState, Collect, Eval, Out, Problem, Stage, Update

QUIET = Options(progress=False, log_every=1)


def evaluations(fn):
    """A callback that shows ``fn`` the lines of evaluations."""

    def callback(line, state):
        if line["kind"] == "eval":
            fn(line)

    return callback


def toy(blow_up_at=10**9, cycles=6, stages=None, **more) -> tuple[Agent, Problem]:
    """Learns by adding ``rate`` to a number; its metric is NaN from one update on."""
    problem = Problem({"train": make("rlx:pendulum", time_limit=5)})

    def init(key, hyper):
        return AgentState(hyper, {"x": jnp.float32(0), "noise": jax.random.normal(key)})

    def act(state, clock, carry, step, key, mode):
        return jnp.full((step.reward.shape[0], 1), 0.1), carry, {}

    def update(state, clock, rows, key):
        x = state.learned["x"] + state.hyper["rate"]
        noise = state.learned["noise"] + jax.random.normal(key)
        loss = jnp.where(x > blow_up_at, jnp.nan, x)
        return state._replace(learned={"x": x, "noise": noise}), Out({"toy/loss": loss})

    phases = Collect("train", 4, "replay"), Update(2, replay.transitions(4), update)
    agent = Agent(
        "toy", None, {"rate": 1.0, "discount": 0.9}, init, act, stages or (Stage("learn", cycles, phases),),
        envs={"train": batch(problem.envs["train"], 2)}, buffers={"replay": replay.ring(64, 2)},
        evals=(Eval("main", "train", 2, every=2),), **more,
    )  # fmt: skip
    return agent, problem
