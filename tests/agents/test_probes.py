"""Every agent finds what there is to find in each probe environment, in seconds, on the device and on the host."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import ppo
from rlx.envs.probes import PROBES
from rlx.envs.wrappers import on_host
from rlx.train import Options, run
from rlx.types import Agent, AgentState, Clock, Collect, Env, Members, Problem, Step

from .settings import AGENTS, DISCOUNT

CLOCK = Clock(*[jnp.int32(0)] * 3)
PROBED = [name for name, settings in AGENTS.items() if settings.probes is not None]


def all_probes() -> Env:
    """The probe that ``params`` names, by its place in `PROBES`: so one program trains an agent on all of them."""
    envs = [rlx.envs.make(f"rlx:probe-{name}") for name in PROBES]
    longest = max(e.spec.horizon for e in envs)

    def reset(params, key):
        return jax.lax.switch(params, [lambda k, e=e: e.reset(e.params, k) for e in envs], key)

    def step(params, state, action, key):
        return jax.lax.switch(params, [lambda s, a, k, e=e: e.step(e.params, s, a, k) for e in envs], state, action, key)

    return Env("rlx:probe-all", dataclasses.replace(envs[0].spec, horizon=longest), jnp.int32(0), reset, step)


def by_member(agent: Agent) -> Agent:
    """``agent`` in the probe that its ``hyper["probe"]`` names: in a population each member in one of its own."""
    which = lambda state, sources: state.hyper["probe"].astype(jnp.int32)
    moved = lambda phase: dataclasses.replace(phase, params=which) if isinstance(phase, Collect) else phase
    stages = tuple(dataclasses.replace(s, phases=tuple(map(moved, s.phases))) for s in agent.stages)
    evals = tuple(dataclasses.replace(e, params=which) for e in agent.evals)
    return dataclasses.replace(agent, hyper={**agent.hyper, "probe": 0.0}, stages=stages, evals=evals)


@functools.cache
def made(name: str, host: bool) -> tuple[Agent, Problem]:
    """Once for all probes, so that all runs share programs; which of them is ``hyper["probe"]``."""
    problem = Problem({"train": on_host(all_probes()) if host else all_probes()})
    return by_member(agents.make(name, None, problem, **AGENTS[name].probes)), problem


@functools.cache
def population(name: str) -> AgentState:
    """On the device: a member for each probe."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(len(PROBES)))
    members = Members(keys, {"probe": jnp.arange(len(PROBES), dtype=jnp.float32)})
    return run(*made(name, False), members, options=Options(progress=False)).agent


def trained(name: str, probe: str, host: bool) -> tuple[Agent, AgentState]:
    (agent, problem), index = made(name, host), list(PROBES).index(probe)
    if host:
        agent.hyper["probe"] = float(index)
        return agent, run(agent, problem, jax.random.key(3), options=Options(progress=False)).agent
    return agent, jax.tree.map(lambda x: x[index], population(name))


@pytest.mark.slow
@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", PROBED)
def test_agent_solves_probe(name, probe, host):
    agent, state = trained(name, probe, host)
    truth = PROBES[probe]
    signs = np.array([-1.0, 1.0] if truth.signs else [0.0], np.float32)
    obs = jnp.stack([jnp.asarray(signs), jnp.zeros(len(signs))], -1)
    no = jnp.zeros(len(signs), bool)
    step = Step(obs, jnp.zeros(len(signs)), no, no, ~no, {})
    action, _, _ = agent.act(state, CLOCK, agent.carry(state, len(signs)), step, jax.random.key(0), "eval")
    if truth.action is not None:
        np.testing.assert_allclose(action[:, 0], truth.action(signs), atol=0.2)
    expected = truth.value(signs, DISCOUNT)
    value = AGENTS[name].value(state, AGENTS[name].probes["hidden"], obs, action)
    np.testing.assert_allclose(value, expected, atol=0.15 * max(1.0, np.abs(expected).max()))


def test_ppo_and_others_refuse_what_cannot_be():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum")})
    with pytest.raises(ValueError, match="do not divide"):
        agents.make("ppo", None, problem, minibatches=7)
    with pytest.raises(ValueError, match="prefill"):
        agents.make("sac", None, problem, prefill=10**6)
    with pytest.raises(ValueError, match="critic_lr"):
        agents.make("sac", None, problem, critic_rl=1.0)
    with pytest.raises(ValueError, match="unknown agent"):
        agents.make("sack", None, problem)
    assert isinstance(agents.config("ppo"), ppo.Config)
