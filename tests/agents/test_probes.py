"""Every agent finds what there is to find in each probe environment, in seconds, on the device and on the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import ppo, sac, td3
from rlx.envs.probes import PROBES
from rlx.nn import mlp, normalize
from rlx.train import Options, run
from rlx.types import Problem, Step

DISCOUNT = 0.8
OFF = {
    "env_steps": 1_200,
    "prefill": 400,
    "collect": 20,
    "n_envs": 4,
    "utd": 1.0,
    "batch": 64,
    "hidden": (32, 32),
    "eval_every": 10**6,
}
OFF |= {"eval_episodes": 4, "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.05, "discount": DISCOUNT}
SETTINGS = {
    "sac": OFF | {"alpha": 1e-3, "alpha_lr": 0.0},
    "td3": OFF,
    "ppo": {"env_steps": 8_192, "n_envs": 8, "steps": 32, "minibatches": 4, "hidden": (32,), "lr": 3e-3, "discount": DISCOUNT}
    | {"eval_every": 10**6, "eval_episodes": 4, "normalize_obs": True, "value_coef": 1.0},
}


def trained(name: str, probe: str, host: bool):
    problem = Problem({"train": rlx.envs.make(f"rlx:probe-{probe}", host=host)})
    agent = agents.make(name, None, problem, **SETTINGS[name])
    return agent, run(agent, problem, jax.random.key(3), options=Options(progress=False))


def value(name: str, state, obs, action):
    """What the agent believes the value of acting so at ``obs`` to be."""
    learned = state.agent.learned
    if name == "sac":
        return jnp.minimum(*sac.q_values(learned["critics"], obs, action))
    if name == "td3":
        return jnp.minimum(*td3.q_values(learned["critics"], obs, action))
    return mlp.apply(learned["critic"], normalize.apply(learned["seen"], obs), "tanh")[..., 0]


@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", SETTINGS)
def test_agent_solves_probe(name, probe, host):
    agent, state = trained(name, probe, host)
    truth = PROBES[probe]
    signs = np.array([-1.0, 1.0] if truth.signs else [0.0], np.float32)
    obs = jnp.stack([jnp.asarray(signs), jnp.zeros(len(signs))], -1)
    no = jnp.zeros(len(signs), bool)
    step = Step(obs, jnp.zeros(len(signs)), no, no, ~no, {})
    action, _, _ = agent.act(state.agent, None, (), step, jax.random.key(0), "eval")
    if truth.action is not None:
        np.testing.assert_allclose(action[:, 0], truth.action(signs), atol=0.2)
    expected = truth.value(signs, DISCOUNT)
    np.testing.assert_allclose(value(name, state, obs, action), expected, atol=0.15 * max(1.0, np.abs(expected).max()))


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
