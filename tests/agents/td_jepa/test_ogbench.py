"""Rewards of OGBench's tasks for data that have none: against its own code, and on the way to z."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.envs.ogbench import Goal, goals, single_task
from rlx.replay.datasets import from_ogbench
from rlx.train import Options, run
from rlx.types import PHYSICS, Problem

from .test_agent import CLOCK, inferred
from .worlds import SHORT

RNG = np.random.default_rng(0)
MAZE = "gym:pointmaze-medium-singletask-task3-v0"


def arm_and(*objects: float) -> np.ndarray:
    return np.array([[0.0] * 14 + list(objects)])


def cube(x: float, y: float) -> list[float]:
    return [x, y, 0.02, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("told", "stored", "reward"),
    [
        ({"goal_xy": (3.0, 4.0)}, {"qpos": np.array([[3.3, 4.39, 9.0]])}, 0),
        ({"goal_xy": (3.0, 4.0)}, {"qpos": np.array([[3.3, 4.41, 9.0]])}, -1),
        ({"goal_xy": (3.0, 4.0), "ball_init_xy": 0}, {"qpos": np.array([[0.0] * 15 + [3.0, 4.2]])}, 0),
        ({"goal_xyzs": [[0.3, 0, 0.02], [0.5, 0, 0.02]]}, {"qpos": arm_and(*cube(0.33, 0), *cube(0.5, 0.05))}, -1),
        ({"goal_button_states": np.array([0, 1, 1])}, {"button_states": np.array([[0, 0, 0]])}, -2),
    ],
)
def test_conditions_that_are_met(told, stored, reward):
    found = Goal(told, 0.5).rewards(stored)
    assert found.dtype == np.float32 and found.tolist() == [reward]


def test_the_scene_has_five_conditions():
    wanted = {"block_xyzs": [[0.3, 0, 0.02]], "button_states": np.array([1, 0]), "drawer_pos": -0.16, "window_pos": 0.2}
    goal = Goal({"goal": wanted})
    assert goal.reads == ("qpos", "button_states")
    reward = lambda qpos, *buttons: goal.rewards({"qpos": qpos, "button_states": np.array([buttons])}).item()
    assert reward(arm_and(*cube(0.3, 0), 9, 9, -0.13, 0.17), 1, 0) == 0
    assert reward(arm_and(*cube(0.3, 0), 9, 9, -0.11, 0.17), 1, 1) == -2
    assert reward(arm_and(*cube(0.4, 0), 9, 9, 0.0, 0.0), 0, 1) == -5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["antmaze-medium", "antsoccer-arena", "cube-double", "scene", "puzzle-3x3"])
def test_rewards_are_those_of_ogbench(name):
    gymnasium, _ = pytest.importorskip("gymnasium"), pytest.importorskip("ogbench")
    from ogbench.relabel_utils import relabel_dataset

    found, own = goals(f"gym:{name}-singletask-task2-v0")
    assert own == 1 and len(found) == 5
    env = gymnasium.make(f"{name}-singletask-task2-v0")
    env.reset()
    told, n = found[1].info, 400
    qpos = RNG.normal(size=(n, 60))
    buttons = RNG.integers(0, 2, (n, len(told.get("goal_button_states", (0, 0)))))
    near = lambda x, size: np.asarray(x) + size * RNG.normal(size=(n, *np.shape(x)))
    for at in (0, 15):
        if "goal_xy" in told:
            qpos[:, at : at + 2] = near(told["goal_xy"], 0.5)
    places = told.get("goal_xyzs", told["goal"]["block_xyzs"] if "goal" in told else [])
    for i, place in enumerate(places):
        qpos[:, 14 + 7 * i : 17 + 7 * i] = near(place, 0.025)
    if "goal" in told:
        qpos[:, 23:25] = near([told["goal"]["drawer_pos"], told["goal"]["window_pos"]], 0.05)
    data = {"qpos": qpos, "button_states": buttons}
    ours = found[1].rewards(data)
    relabel_dataset(f"{name}-singletask-task2-v0", env, data)
    env.close()
    np.testing.assert_array_equal(ours, data["rewards"])
    assert len(set(ours.tolist())) >= 2


def maze_data(**more):
    """Places near the goal of task 3, of an environment that is cheap to make."""
    place = goals(MAZE)[0][2].info["goal_xy"] + RNG.normal(size=(60, 2)).astype("f4")
    last = np.arange(60) % 20 == 19
    actions = RNG.uniform(-1, 1, (60, 2)).astype("f4")
    given = {"observations": place.astype("f4"), "actions": actions, "terminals": last, **more}
    return replay.from_episodes(from_ogbench({k: v(place) if callable(v) else v for k, v in given.items()}))


@pytest.mark.slow
def test_data_without_rewards_are_paid_by_the_stored_state():
    pytest.importorskip("ogbench")
    data = maze_data(qpos=lambda place: place.astype("f4"))
    env = rlx.envs.make(MAZE)
    problem = Problem({"train": env}, {"data": data})
    agent = agents.make("td_jepa", None, problem, **SHORT, reward_shift=1.0)
    tasks = agent.report.method.tasks
    assert tasks.names == tuple(f"task{i}" for i in range(1, 6)) and tasks.own == 2
    assert [e.name for e in agent.evals] == ["task3"]
    obs, rewards = tasks.samples(agent.config, {"discount": np.float32(0.9)}, problem.data, jax.random.key(0))
    goal = goals(MAZE)[0][2].info["goal_xy"]
    np.testing.assert_array_equal(rewards[2], (np.linalg.norm(obs - goal, axis=-1) <= 1.0) - 1.0)  # arrival, not departure
    assert set(rewards[2]) == {0, -1} and set(rewards[0]) == {-1}
    with pytest.warns(UserWarning, match="'task1': all rewards"):
        z = inferred(agent, problem.data).learned["tasks"]
    assert np.linalg.norm(z[2]) == pytest.approx(2, rel=1e-5) and not z[0].any()

    several = Problem({"train": env, "task1": env, "task4": env}, problem.data)
    assert [e.name for e in agents.make("td_jepa", None, several, **SHORT).evals] == ["task1", "task4"]


def test_physics_stand_in_for_what_is_not_stored_and_rewards_of_the_data_come_first():
    pytest.importorskip("ogbench")
    env = rlx.envs.make(MAZE)
    names = lambda **more: (
        agents.make("td_jepa", None, Problem({"train": env}, {"data": maze_data(**more)}), **SHORT).report.method.tasks.names
    )
    assert len(names(**{PHYSICS: lambda place: np.tile(place.astype("f4"), 2)})) == 5
    paid = {"rewards": -np.ones(60, "f4"), "masks": np.ones(60, "f4")}
    assert names(qpos=lambda place: place.astype("f4"), **paid) == ("reward",)
    with pytest.warns(UserWarning, match="no rewards and, of gym:pointmaze.*, no qpos to compute them from"):
        assert names() == ("reward",)


def as_ogbench_pays():
    """The raw file with its states, and what OGBench's own code makes of it for task 3: with rewards and masks."""
    import gymnasium
    from ogbench.relabel_utils import relabel_dataset

    place = goals(MAZE)[0][2].info["goal_xy"] + np.random.default_rng(1).normal(size=(60, 2)).astype("f4")
    given = {"observations": place.astype("f4"), "terminals": np.arange(60) % 20 == 19, "qpos": place.astype("f4")}
    given["actions"] = np.random.default_rng(2).uniform(-1, 1, (60, 2)).astype("f4")
    env = gymnasium.make(MAZE.removeprefix("gym:"))
    env.reset()
    paid = dict(given)
    relabel_dataset(MAZE, env, paid)
    env.close()
    return given, paid


@functools.cache
def adapting(**settings):
    """(agent, problem, data as the host phase leaves them) of an adaptation to rows without rewards."""
    data = replay.from_episodes(from_ogbench(as_ogbench_pays()[0]))
    problem = Problem({"train": rlx.envs.make(MAZE, time_limit=6)}, {"data": data})
    agent = agents.make("td_jepa", None, problem, **{**SHORT, "adapt": 4, "reward_shift": 1.0, **settings})
    host = [stage.phases[0].fn for stage in agent.stages if stage.name == "relabel"][0]
    sources = host(None, jax.tree.map(np.asarray, problem.data), None)[1]
    return agent, problem, sources


@pytest.mark.slow
def test_an_adaptation_to_data_without_rewards_sees_what_ogbench_pays():
    pytest.importorskip("ogbench")
    agent, _, sources = adapting(updates=0)
    assert [stage.name for stage in agent.stages] == ["relabel", "adapt"]
    sampler = replay.transitions(400, source="data")
    drawn = sampler({"discount": np.float32(0.9)}, CLOCK, sources, jax.random.key(0))
    raw, paid = as_ogbench_pays()
    entry = {tuple(o): i for i, o in enumerate(raw["observations"])}
    at = [entry[tuple(o)] for o in np.asarray(drawn.obs)]
    assert len(set(at)) == 57  # all transitions, those behind a solved state too
    np.testing.assert_array_equal(drawn.reward, paid["rewards"][at])
    np.testing.assert_allclose(drawn.discount, np.float32(0.9) * paid["masks"][at])
    assert {0, -1} == set(np.asarray(drawn.reward).tolist())


@pytest.mark.slow
def test_z_of_an_adaptation_is_scaled_to_what_is_paid_where_nothing_solves_the_task():
    """First rows, whose reward is 0 as nothing was done, do not count."""
    pytest.importorskip("ogbench")
    assert adapting(updates=0)[0].stages[-1].enter.__self__.most == 0
    far = {**as_ogbench_pays()[0], "qpos": np.full((60, 2), -50, "f4")}
    problem = Problem({"train": rlx.envs.make(MAZE)}, {"data": replay.from_episodes(from_ogbench(far))})
    with pytest.warns(UserWarning, match="the largest reward in the data is -1; adapting scales z to it"):
        agent = agents.make("td_jepa", None, problem, **SHORT, adapt=4)
    assert agent.stages[-1].enter.__self__.most == -1


@pytest.mark.slow
def test_a_run_adapts_to_data_without_rewards_online_too():
    pytest.importorskip("ogbench")
    agent, problem, _ = adapting(updates=0, adapt_online=True, adapt_prefill=4)
    lines = []
    state = run(agent, problem, 0, options=Options(progress=False), callback=lambda line, state: lines.append(dict(line)))
    assert [stage.name for stage in agent.stages] == ["relabel", "prefill", "adapt"]
    assert [line["eval"] for line in lines if line["kind"] == "eval"] == ["adapt", "adapt"]
    assert np.isfinite(state.agent.learned["adapted"]).all() and int(state.counts["updates"]) == 4
    np.testing.assert_array_equal(
        state.sources["data"].overlay["reward"], agent.report.method.tasks.decision_rewards(problem.data["data"])
    )


@pytest.mark.slow
def test_rewards_of_one_task_are_regressed_on_the_states_that_they_are_of():
    pytest.importorskip("ogbench")
    raw, paid = as_ogbench_pays()
    del paid["qpos"]
    problem = Problem({"train": rlx.envs.make(MAZE)}, {"data": replay.from_episodes(from_ogbench(paid))})
    agent = agents.make("td_jepa", None, problem, **SHORT)
    obs, rewards = agent.report.method.tasks.samples(agent.config, {"discount": 0.9}, problem.data, jax.random.key(0))
    entry = {tuple(o): i for i, o in enumerate(raw["observations"])}
    np.testing.assert_array_equal(rewards, [paid["rewards"][[entry[tuple(o)] for o in obs]]])


def test_an_environment_of_one_task_pays_for_the_state_of_the_decision():
    """Row by row: what a file of such states is given by OGBench's code, and rlx reads of it, is what its environment pays."""
    gymnasium, _ = pytest.importorskip("gymnasium"), pytest.importorskip("ogbench")
    from ogbench.relabel_utils import relabel_dataset

    env = gymnasium.make(MAZE.removeprefix("gym:"))
    env.reset()
    inner, goal = env.unwrapped, np.asarray(env.unwrapped.cur_goal_xy)
    inner.set_xy(goal + [-1.5, 0.0])
    seen, paid = [inner.get_ob()], []
    for _ in range(5):
        ob, reward, terminated, *_ = env.step(np.array([1.0, 0.0], np.float32))
        seen.append(ob)
        paid.append((reward, terminated))
    states = np.array(seen, np.float32)
    data = {"observations": states, "actions": np.zeros((6, 2), "f4"), "terminals": np.arange(6) == 5, "qpos": states}
    relabel_dataset(MAZE, env, data)
    env.close()
    assert {r for r, _ in paid} == {-1, 0}
    arrivals = [row for episode in from_ogbench(data) for row in zip(episode.reward[1:], episode.terminated[1:], strict=True)]
    assert [(float(r), bool(t)) for r, t in arrivals] == [(float(r), bool(t)) for r, t in paid]
    ids = [name for name in gymnasium.registry if single_task(f"gym:{name}")]
    assert len(ids) > 100 and {gymnasium.registry[name].kwargs["success_timing"] for name in ids} == {"pre"}


def test_other_environments_have_no_such_goals():
    for name in ("rlx:pointmass-maze", "gym:Pendulum-v1"):
        assert goals(name) == ((), 0)
