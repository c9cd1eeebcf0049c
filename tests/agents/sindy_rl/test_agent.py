"""The whole loop on small budgets: counts, stages, resuming, and what it leaves to read."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, export, replay
from rlx.agents.sindy_rl.method import Dyna, telling
from rlx.agents.sindy_rl.report import markdown, models
from rlx.config import apply, replace
from rlx.dynamics.sparse import equations
from rlx.train import Options, Policy, run
from rlx.types import AgentState, Host, Members, Out, Problem
from tests.train.toys import evaluations

QUIET = Options(progress=False)
SMALL = {
    "seed_steps": 200,
    "seed_episode": 50,
    "collect": 20,
    "refit_every": 2,
    "online": 60,
    "ensemble_size": 5,
    "horizon": 40,
}
SMALL |= {"ppo.env_steps": 768, "ppo.n_envs": 4, "ppo.steps": 32, "ppo.epochs": 2, "ppo.minibatches": 2, "ppo.hidden": (8,)}
SMALL |= {"distil_steps": 80, "distil_length": 20, "eval_every": 6, "eval_episodes": 2}


@functools.cache
def made(**more):
    """Once for all tests, as the programs stay with the agent."""
    problem = Problem({"train": rlx.envs.make("rlx:cartpole-swingup", time_limit=60)})
    return agents.make("sindy_rl", None, problem, **{**SMALL, **more}), problem


@pytest.fixture(scope="module")
def trained():
    agent, problem = made()
    return agent, run(agent, problem, jax.random.key(0), options=QUIET)


@pytest.mark.slow
def test_real_and_imagined_steps_are_counted_apart(trained):
    """Four random episodes of 50, then 20 before each of three refits; six rounds of 4 x 32 imagined."""
    agent, state = trained
    assert [s.name for s in agent.stages] == ["seed", "fit", "dyna", "distil"]
    assert state.counts["env_steps"] == 200 + 3 * 20
    assert state.counts["updates"] == 6 and 700 < state.counts["model_steps"] <= 768
    fits = {k: float(v) for k, v in state.agent.learned["fits"].items()}
    assert fits == {"done": 4, "refused_dynamics": 0, "refused_reward": 0, "rows_left_out": 0}
    kept = replay.export(state.sources["online"])
    assert sum(len(e.reward) - 1 for e in kept) == 60 == SMALL["online"]  # decisions, not rows, of which there are 63


def test_the_model_the_starts_and_the_policy_are_there(trained):
    _, state = trained
    learned = state.agent.learned
    assert set(models(state.agent)) == {"dynamics", "policy"}  # the reward is known
    world = learned["world"]
    assert world["starts"].shape == (256, 5) and np.abs(world["starts"][:, 1] + 1).max() < 0.01  # hanging
    assert len(np.unique(np.asarray(world["starts"][:, 0]))) <= 7  # those of real episodes
    assert world["exit_reward"] == 0 and world["high"].tolist() == pytest.approx([5, 1.1, 1.1, 10, 10])


def test_the_sparse_policy_acts_as_its_equation(trained):
    agent, state = trained
    env = rlx.envs.batch(rlx.envs.make("rlx:cartpole-swingup"), 3)
    _, step = env.reset(env.params, jax.random.key(5))
    action, _, _ = agent.act(state.agent, None, (), step, jax.random.key(0), "sparse")
    scope = {}
    policy = models(state.agent)["policy"]
    exec(equations(policy, ["x", "c", "s", "v", "w"], ["u"], fmt="python"), scope)
    said = [scope["model"](*map(float, obs)) for obs in step.obs]
    np.testing.assert_allclose(action[:, 0], np.clip(said, -1, 1), rtol=1e-4, atol=1e-5)


def test_a_trained_policy_is_distilled_anew_without_its_data(trained):
    agent, problem = made(distil_rounds=1)
    state = run(agent, problem, jax.random.key(1), options=QUIET, stages=["distil"], init_from=trained[1].agent)
    assert np.any(np.asarray(state.agent.learned["sparse"].coef))
    agent, problem = made(distil_states="rows")
    with pytest.raises(ValueError, match="no transitions"):
        run(agent, problem, jax.random.key(1), options=QUIET, stages=["distil"], init_from=trained[1].agent)


def test_the_sparse_policy_leaves_as_a_file(trained, tmp_path):
    agent, state = trained
    policy = Policy(agent, state.agent, made()[1], len(agent.stages) - 1)
    export.to_numpy(export.law_of(policy, "sparse"), tmp_path / "swingup.py")
    scope = {}
    exec((tmp_path / "swingup.py").read_text(), scope)
    obs = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.testing.assert_allclose(scope["act"](obs), policy.act(obs, mode="sparse", units="env")[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no mode 'spares'"):
        export.law_of(policy, "spares")


def test_the_page_says_what_was_found(trained, tmp_path):
    agent, state = trained
    page = markdown(state.agent, ("x", "cos", "sin", "v", "w", "u"))
    assert "## Dynamics" in page and "x'" in page and "+-" in page and "## Policy" in page and "u = " in page
    page, drawn = agent.report(state.agent, tmp_path)
    assert page.name == "equations.md" and drawn.read_bytes().startswith(b"\x89PNG")


def test_the_portrait_is_of_runs_as_long_as_real_ones_from_where_they_began(trained):
    agent, state = trained
    starts = np.array([[0.1, 1, 0, 0, 0], [0.2, -1, 0, 0, 0]], np.float32)
    obs, valid = agent.report.runs(state.agent, 60, starts=starts)
    assert np.isin(obs[0], starts).all()
    assert valid[:60].sum(0).max() == 60  # imagined episodes of learning end after 40


@pytest.mark.slow
def test_it_resumes_to_the_same_bits(trained, tmp_path):
    class Stop(Exception):
        pass

    def stop(line):
        raise Stop

    agent, problem = made()
    often = Options(progress=False, checkpoint_cycles=2)
    with pytest.raises(Stop):
        run(agent, problem, jax.random.key(0), tmp_path, options=often, callback=evaluations(stop))
    again = run(agent, problem, jax.random.key(0), tmp_path, options=often)
    jax.tree.map(np.testing.assert_array_equal, again.agent.learned, trained[1].agent.learned)


@pytest.mark.slow
def test_members_are_their_solo_runs(trained):
    agent, problem = made(distil=False)
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    both = run(agent, problem, Members(keys), options=QUIET)
    mine = jax.tree.map(lambda x: x[0], both.agent.learned["world"]["model"]["model"]["dynamics"])
    np.testing.assert_allclose(mine.coef, trained[1].agent.learned["world"]["model"]["model"]["dynamics"].coef, atol=1e-4)


@pytest.mark.slow
def test_modes_stand_for_many_observations():
    """64 probes of a field, seen as 4 principal components: policy, model and reward live in these."""
    problem = Problem({"train": rlx.envs.make("rlx:ks22", time_limit=50)})
    config = apply(agents.config("sindy_rl"), agents.presets("sindy_rl"), ["ks22"])
    changes = {**SMALL, "modes": 4, "starts": "rows", "distil": False, "ppo.discount": 1.0}
    agent = agents.make("sindy_rl", replace(config, changes), problem)
    state = run(agent, problem, jax.random.key(0), options=QUIET)
    found = models(state.agent)
    assert found["dynamics"].library.variables == 8 and found["reward"].library.variables == 8
    assert state.agent.learned["world"]["starts"].shape == (256, 4)
    rewards = np.concatenate([e.reward[1:] for k in ("seed", "online") for e in replay.export(state.sources[k])])
    assert state.agent.learned["world"]["exit_reward"] == pytest.approx(50 * rewards.min(), rel=1e-5)  # a real episode


def test_what_cannot_be():
    for settings, words in (
        ({"seed_steps": 1}, "seed_steps must be at least 2"),
        ({"modes": 9}, "modes=9 of 5"),
        ({"reward": "task", "modes": 3}, "can score observations"),
        ({"collect": 1, "n_envs": 2}, "streams together"),
        ({"ppo.minibatches": 7}, "do not divide"),
        ({"dynamics.degree": 0}, "dynamics.degree must be at least 1"),
        ({"distil_states": "hull", "refit_every": 0}, "need runs of the policy"),
        ({"distil_select": "online", "refit_every": 0}, "need runs of the policy"),
        ({"drop": 41}, "drop=41 of 41 terms of the dynamics"),
        ({"reward": "sparse", "drop": 10}, "drop=10 of 10 terms of the reward"),
        ({"seed_steps": 60, "dynamics.alpha": 0.0}, "36 rows for each member .* are too few for 41 terms"),
        ({"modes": 4, "seed_steps": 3, "reward": "sparse"}, "modes=4 need as many seed_steps, got 3"),
        ({"guard": 0.5}, "guard=0.5 would refuse a model as good"),
        ({"guard": float("nan")}, "guard must be"),
        ({"distil_clip": 0.5}, "distil_clip must be at least 1"),
        ({"distil_noise": -1.0}, "distil_noise must be at least 0"),
        ({"policy_drop": 55}, "policy_drop=55 of 55 terms of a policy of degree 3"),
        ({"aggregate": 5}, "aggregate=5 of ensemble_size=5 members"),
        ({"model": "mlp", "aggregate": 1}, "networks have their mean"),
        ({"model": "mlp", "bag": 0.0}, "must be at least one each"),
    ):
        with pytest.raises(ValueError, match=words):
            made(**settings)


def test_refits_beside_a_row_that_is_not_finite(trained):
    """It is left out, counted, told, and in the metrics and on the page; the refit is taken."""
    agent, state = trained
    refit = next(p.fn for s in agent.stages for p in s.phases if isinstance(p, Host) and s.name == "dyna")
    sources = jax.tree.map(np.array, {k: state.sources[k] for k in ("seed", "online")})
    sources["seed"].data.obs[3, 0, 2] = np.nan
    with pytest.warns(UserWarning, match="1 stored rows are not finite"):
        new, _ = refit(jax.tree.map(np.asarray, state.agent), sources, jax.random.key(3))
    fits = {k: float(v) for k, v in new.learned["fits"].items()}
    assert fits == {"done": 5, "refused_dynamics": 0, "refused_reward": 0, "rows_left_out": 1}
    assert np.isfinite(new.learned["world"]["model"]["model"]["dynamics"].coef).all()
    page = markdown(new, ("x", "cos", "sin", "v", "w", "u"))
    assert "5 fits, refused: 0 of the dynamics, 0 of the reward" in page and "1 stored rows were not finite" in page


def test_imagined_episodes_may_begin_where_the_task_does(trained):
    """dm_control's law: the pole within some 0.05 rad of hanging, all states of small standard deviation, no two alike."""
    agent, _ = made(starts="task", n_envs=2)
    fit = next(s.phases[0].fn for s in agent.stages if s.name == "fit")
    state, sources = jax.tree.map(np.asarray, (trained[1].agent, {"seed": trained[1].sources["seed"]}))
    for key in (0, 0, 1):
        new = np.asarray(fit(state, sources, jax.random.key(key))[0].learned["world"]["starts"])
        assert new.shape == (256, 5) and len(np.unique(new[:, 0])) == 256 and new[:, 1].max() < -0.99
        np.testing.assert_allclose(new[:, [0, 2, 3, 4]].std(0), 0.01, rtol=0.2)
    host = Dyna(agent.config, None, (), 5, None, 60, rlx.envs.make("dmc:cartpole-swingup"))
    both = [host.task_starts({}, jax.random.key(k)) for k in (0, 0)]
    assert both[0].shape == (256, 5) and len(np.unique(both[0][:, 0])) == 256
    np.testing.assert_array_equal(*both)


def test_metrics_tell_of_fits():
    learned = {"error": jnp.float32(np.inf), "fits": {"done": jnp.float32(4), "refused_reward": jnp.float32(2)}}
    told = telling(lambda state, clock: (state, Out({"actor/loss": jnp.float32(1)})))
    _, out = told(AgentState({}, learned), None)
    assert out.metrics.pop("model/error") == np.inf and not out.valid["model/error"]  # so that it stops no run
    assert out.metrics == {"actor/loss": 1, "model/fits_done": 4, "model/fits_refused_reward": 2}
