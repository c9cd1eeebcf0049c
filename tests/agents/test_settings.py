"""What settings come to: budgets that do not divide, room for rows, traced values, and words for what cannot be."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import offpolicy, ppo, sac, td3
from rlx.config import hyper
from rlx.train import run_config as run_configs
from rlx.types import Clock, Collect, Problem, Update

from .settings import AGENTS, problem

CLOCK = Clock(*[jnp.int32(0)] * 3)


def made(name, preset=None, **settings):
    return agents.make(name, None, problem(name, preset), **settings)


def test_every_agent_has_its_settings_for_tests():
    assert set(AGENTS) == set(agents.list())


def test_budgets_are_rounded_up():
    config = sac.Config(env_steps=1_000, prefill=101, n_envs=2, collect=7, utd=0.5)
    assert (config.prefill_steps, config.cycles, config.updates) == (51, 65, 7)  # 101 / 2, 899 / 14, 14 / 2
    assert config.rows == 51 + 65 * 7
    assert sac.Config(collect=1, utd=0.1).updates == 1 and sac.Config(collect=10, utd=0.3).updates == 3
    assert sac.Config(collect=3, utd=0.5).updates == 2
    assert sac.Config(collect=100, utd=1.1).updates == 110  # though the product is 110.00000000000001
    prefill, learn = made("sac", env_steps=1_000, prefill=101, n_envs=2, collect=7, utd=0.5, eval_every=100).stages
    assert prefill.cycles == 1 and prefill.phases == (Collect("train", 51, "replay", mode="random"),)
    assert learn.cycles == 65 and learn.phases[0].steps == 7 and learn.phases[1].n == 7
    assert ppo.Config(env_steps=1_000, n_envs=4, steps=64).cycles == 4


def test_replay_has_room_for_what_it_is_asked_to_keep_and_no_more():
    assert made("sac", env_steps=1_000, prefill=100, collect=10).buffers["replay"].capacity == 1_000 + 1  # one for the tail
    assert made("td3", env_steps=1_000, prefill=100, capacity=301, n_envs=2).buffers["replay"].capacity == 151 + 1
    assert made("ppo", n_envs=3, steps=8, minibatches=2).buffers["rollout"].capacity >= 8 + 1


def test_evaluations_happen_on_the_environment_meant_for_them():
    for name in agents.list():
        given = problem(name, eval=rlx.envs.make(AGENTS[name].env, time_limit=9))
        assert {e.env for e in agents.make(name, None, given).evals} == {"eval"}
        assert {e.env for e in made(name).evals} == {"train"}
    assert made("sac", eval_every=100, collect=10, n_envs=2, eval_episodes=3).evals[0].every == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, settings in AGENTS.items() if settings.update is not None])
def test_traced_values_are_not_compiled_in(name):
    """One program serves all values of every traced setting, and the ones an update reads make a difference to it."""
    agent = made(name, **AGENTS[name].update)
    assert set(agent.hyper) - AGENTS[name].fixed == set(hyper(agents.config(name)))
    assert all(isinstance(v, float) for v in agent.hyper.values())
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Update)]
    traces = []

    @jax.jit
    def update(state, batch):
        traces.append(1)
        return phase.update(state, CLOCK, batch, jax.random.key(0))[0].learned

    start = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    batch = AGENTS[name].batch()
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    base, moved = flat(update(start, batch)), set()
    for key, old in start.hyper.items():
        new = flat(update(start._replace(hyper={**start.hyper, key: old * 0.5 + 0.01}), batch))
        moved |= {key} if not np.array_equal(base, new) else set()
    assert len(traces) == 1
    assert moved >= AGENTS[name].felt


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sac", {"init_temperature": 0.0}, "init_temperature must be above 0, got 0.0"),
        ("sac", {"utd": 0.0}, "utd must be above 0, got 0.0"),
        ("sac", {"batch": 0}, "batch must be at least 1"),
        ("td3", {"capacity": 500}, "capacity=500 .* at least 1000"),
        ("td3", {"policy_delay": 0}, "policy_delay"),
        ("td3", {"hidden": "wide"}, "td3: hidden is 'wide'"),
        ("td3", {"hiden": (3,)}, "'hidden'"),
        ("ppo", {"activation": "rulu"}, "relu"),
        ("ppo", {"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_bad_settings_are_named(name, settings, words):
    with pytest.raises(ValueError, match=words):
        made(name, **settings)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sac", "alpha", "init_temperature"),
        ("sac", "alpha_lr", "temperature_lr"),
        ("sac", "entropy", "target_entropy"),
        ("ppo", "max_norm", "max_grad_norm"),
        ("ppo", "kl_goal", "adaptive_kl_target"),
        ("ppo", "target_kl", "early_stop_kl"),
        ("ppo", "error_bound", "value_error_clip"),
        ("modem_v2", "members", "ensemble_size"),
        ("sindy_rl", "members", "ensemble_size"),
        ("sindy_rl", "caution", "uncertainty_penalty"),
        ("sindy_rl", "policy_degree", "policy_degrees"),
        ("sindy_rl", "ppo.max_norm", "ppo.max_grad_norm"),
        ("sindy_rl", "network.max_norm", "network.max_grad_norm"),
    ],
)
def test_old_names_are_answered_with_the_new_ones(name, old, new):
    with pytest.raises(ValueError, match=f"It is called '{new}' now"):
        made(name, **{old: 1.0})


def test_a_stored_config_with_an_old_name_says_the_new_one(tmp_path):
    """A run folder from before the field was renamed, read as whatever goes on with it or loads it."""
    run_configs.keep(run_configs.RunConfig("modem_v2", "rlx:push-toy", agents.config("modem_v2")), tmp_path)
    path = tmp_path / run_configs.FILE
    path.write_text(path.read_text().replace('"ensemble_size"', '"members"'))
    with pytest.raises(ValueError, match="of this version.*.*'config.members'.* It is called 'config.ensemble_size' now"):
        run_configs.read(tmp_path)


def test_bad_problems_and_configs_are_named():
    with pytest.raises(ValueError, match="'train'"):
        agents.make("sac", None, Problem())
    with pytest.raises(ValueError, match=r"rlx.agents.sac.Config, got rlx.agents.td3.Config"):
        agents.make("sac", td3.Config(), Problem({"train": rlx.envs.make("rlx:pendulum")}))
    with pytest.raises(ValueError, match="Did you mean 'td3'"):
        agents.make("td4", None, Problem())


@pytest.mark.parametrize("name", agents.list())
def test_presets_fit(name):
    for preset, settings in agents.presets(name).items():
        made(name, preset, **settings)
    assert "debug" in agents.presets(name)
    assert isinstance(agents.config(name), offpolicy.OffPolicyConfig) == AGENTS[name].off_policy


@pytest.mark.parametrize("name", agents.list())
def test_old_names_of_fields_lead_to_fields_that_there_are(name):
    def walk(own):
        known = {field.name for field in dataclasses.fields(own)}
        for kind in type(own).__mro__:
            renamed = vars(kind).get("RENAMED", {})
            assert set(renamed.values()) <= known and not set(renamed) & known
        for value in vars(own).values():
            if dataclasses.is_dataclass(value):
                walk(value)

    walk(agents.config(name))
