"""`rlx zero_shot`, from collecting and training on: what it finds, leaves and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents.td_jepa import ZeroShot, relabelled
from rlx.cli import all_tasks, main
from rlx.cli.zero_shot import Flags, _goal, _stacked
from rlx.envs import side_by_side
from rlx.envs.control import pointmass_maze as maze
from rlx.replay.datasets import from_ogbench
from rlx.train import Policy
from rlx.train.collect import collect, random
from rlx.train.run_config import RunConfig
from rlx.types import Leaf, Problem
from tests.agents.td_jepa.worlds import SHORT

from .test_commands import result_of

ENV = ["--env", "rlx:pointmass-maze", "--time-limit", "20"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero_shot")
    data = str(folder / "maze.npz")
    uniform = ["--env-option", "starts=uniform"]
    assert main(["collect", *ENV, *uniform, "--mode", "random", "--steps", "600", "--out", data, "--no-progress"]) == 0
    more = ["--preset", "debug", "--run-dir", str(folder / "run"), "--no-progress", "--no-video"]
    assert main(["train", "td_jepa", *ENV, "--data", data, *more]) == 0
    return folder / "run"


def ask(run_dir, *more: str) -> int:
    return main(["zero_shot", "--run-dir", str(run_dir), "--preset", "debug", *more])


@pytest.mark.slow
def test_a_reward_is_answered(run_dir, capsys):
    assert ask(run_dir, "--reward", "exp(-norm(pos - [0.1, 0.1]) / 0.05)", "--video") == 0
    found = result_of(capsys.readouterr().out)
    assert 0 <= found["mean"] <= 1 and found["seconds"] < 1 and found["video"]
    z = json.loads((run_dir / "zero_shot" / "z.json").read_text())
    assert np.linalg.norm(z) == pytest.approx(2, rel=1e-5)
    assert json.loads((run_dir / "tasks.json").read_text())["features"] == "td_jepa"


@pytest.mark.slow
def test_a_goal_is_answered(run_dir, capsys):
    assert ask(run_dir, "--goal", "0.1, 0.1, 0, 0") == 0
    assert result_of(capsys.readouterr().out)["mean"] <= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "one of --reward, --goal and --tasks"),
        (["--reward", "x", "--tasks", "all"], "one of --reward, --goal and --tasks"),
        (["--tasks", "loop,left"], "left is none of reach_top_left, "),
        (["--reward", "pos.shape"], "attributes are not allowed"),
        (["--reward", "norm(place)"], "no such quantity"),
        (["--reward", "x ** 99"], "a power is a number of at most 8"),
        (["--reward", "0 * x"], "all rewards are 0"),
        (["--reward", "1 / (0 * x)"], "rewards are not finite"),
        (["--goal", "0.1, 0.1"], "--goal has 2 numbers; an observation here has 4"),
        (["--goal", "left"], "give 4 numbers"),
    ],
)
@pytest.mark.filterwarnings("error:divide by zero")
def test_bad_questions(run_dir, capsys, given, words):
    assert ask(run_dir, *given) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_all_tasks_are_one_batch(run_dir, capsys):
    assert ask(run_dir, "--tasks", "all") == 0
    every = result_of(capsys.readouterr().out)
    assert every["members"] == [0] and (run_dir / "zero_shot" / "tasks.png").stat().st_size > 1_000
    kept = json.loads((run_dir / "zero_shot" / "tasks.json").read_text())["tasks"]
    assert list(kept) == list(maze.TASKS) and np.shape(kept["loop"]["returns"]) == (1, 2)
    z = json.loads((run_dir / "tasks.json").read_text())["tasks"]
    assert {name: kept[name]["z"] for name in kept} == {name: [pytest.approx(z[name])] for name in z}
    assert every["return_loop"] == pytest.approx(np.mean(kept["loop"]["returns"]))
    assert ask(run_dir, "--tasks", "fast_slow,loop") == 0
    assert set(json.loads((run_dir / "zero_shot" / "tasks.json").read_text())["tasks"]) == {"fast_slow", "loop"}


TASKS = np.arange(10, dtype=np.float32).reshape(5, 2) / 10
TASKS[3] = 0  # nothing is asked


def policy_of(name: str, data, tasks=None, env_options=None, **more) -> Policy:
    """Untrained, with ``tasks`` as its z, on an environment of six decisions."""
    options = env_options or {}
    problem = Problem({"train": rlx.envs.make(name, time_limit=6, **options)}, {"data": data})
    agent = agents.make("td_jepa", None, problem, **{**SHORT, "d_psi": 2, **more})
    state = agent.init(jax.random.key(0), {k: jax.numpy.float32(v) for k, v in agent.hyper.items()})
    state = state if tasks is None else state._replace(learned={**state.learned, "tasks": jax.numpy.asarray(tasks)})
    run_config = RunConfig("td_jepa", name, agent.config, time_limit=6, seeds=2, data="read.once", env_options=options)
    return Policy(agent, state, problem, run_config=run_config)


@pytest.mark.slow
def test_tasks_that_are_environments_of_their_own_are_played_side_by_side(tmp_path, monkeypatch, capsys):
    """OGBench's five, of two members: each stream acts by the z of its task and member."""
    pytest.importorskip("ogbench")
    name = "gym:pointmaze-medium-singletask-task3-v0"
    place = np.random.default_rng(0).normal(size=(30, 2)).astype("f4")
    rows = {"observations": place, "actions": 0 * place, "terminals": np.arange(30) == 29, "qpos": place}
    data, taken, names = replay.from_episodes(from_ogbench(rows)), [], []
    by_z = lambda state, clock, carry, step, key, mode: (carry.z, carry, {})
    policies = {}
    for member, tasks in enumerate((TASKS, -TASKS)):
        policy = policy_of(name, data, tasks)
        policies[member] = replace(policy, agent=replace(policies[0].agent if member else policy.agent, act=by_z))
    whole = side_by_side._Beside.step

    def note(self, params, state, action, key):
        taken.append(np.array(action))
        names.append(self.name)
        return whole(self, params, state, action, key)

    monkeypatch.setattr(side_by_side._Beside, "step", note)
    with pytest.warns(UserWarning, match="'task4': all rewards in the sample are 0") as said:
        found = all_tasks.answer(policies, "all", 2, 10, 0, tmp_path)
    assert len(said) == 1
    kept = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    for i, task in enumerate(kept.values()):
        np.testing.assert_array_equal(task["z"], np.float64([TASKS[i], -TASKS[i]]))
    assert names[0].split(" | ") == [name.replace("task3", f"task{i}") for i in range(1, 6)]
    wide = np.repeat(TASKS, 2, 0)
    np.testing.assert_array_equal(taken[0], np.concatenate([wide, -wide]))
    assert len(taken) == 6 and found["return_task1"] == -6 and "task5, success" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tasks_of_a_domain_are_inferred_from_stored_physics(tmp_path):
    pytest.importorskip("dm_control")
    env = rlx.envs.make("dmc:walker-walk", time_limit=20, physics=True)
    data = replay.from_episodes(collect(random(env.spec), env, 60, 3))
    policy = policy_of("dmc:walker-walk", data)
    names, known, world = all_tasks._of_domain({0: policy}, "all", 1, 50, 0)
    assert set(names) == {"stand", "walk", "run", "spin"} and "dmc:walker-spin" in world.name
    t, w = relabelled(data, {}, 50)["index"]
    ask, rows = ZeroShot(policy.agent, policy.state), data.data
    paid = ask.infer_reward(np.asarray(rows.obs)[t + 1, w], np.asarray(rows.reward)[t + 1, w])
    np.testing.assert_allclose(known[0].state.learned["tasks"][names.index("walk")], paid, rtol=1e-3)
    assert set(all_tasks.answer({0: policy}, "spin,run", 2, 50, 0, tmp_path)) >= {"return_spin", "return_run"}
    kept = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    np.testing.assert_allclose(kept["run"]["z"], known[0].state.learned["tasks"][[names.index("run")]], rtol=1e-5)
    with pytest.raises(ValueError, match="this run knows one task, the rewards of its dataset"):
        bare = data._replace(data=data.data._replace(info={}))
        all_tasks.answer({0: policy_of("dmc:walker-walk", bare)}, "all", 1, 50, 0, tmp_path)


@pytest.mark.slow
def test_tasks_of_a_domain_are_seen_as_the_run_sees_its_own(tmp_path, monkeypatch, capsys):
    """In pictures; and where no task's reward can be had of the physics that is said."""
    pytest.importorskip("dm_control")
    seen = {"pixels": "gl", "image": 16, "state": False}
    name = "dmc:pendulum-swingup"
    env = rlx.envs.make(name, time_limit=4, physics=True, **seen)
    data = replay.from_episodes(collect(random(env.spec), env, 8, 2))
    policy = policy_of(name, data, env_options=seen, frames=2)
    names, known, world = all_tasks._of_domain({0: policy}, "all", 1, 5, 0)
    assert names == ("swingup",) and world.spec.obs.shape == (16, 16, 3)
    assert np.isfinite(known[0].state.learned["tasks"]).all()

    monkeypatch.setattr(all_tasks, "reward_of", lambda name: lambda physics, action, before: np.zeros(len(physics)))
    with pytest.warns(UserWarning, match="'swingup': all rewards in the sample are 0, so its z is 0"):
        all_tasks.answer({0: policy}, "all", 1, 5, 0, tmp_path)

    def forces(name):
        raise ValueError(f"{name}: forces of the step before are part of it.")

    monkeypatch.setattr(all_tasks, "reward_of", forces)
    with pytest.raises(ValueError, match="what tasks of dmc:pendulum pay cannot be computed"):
        all_tasks._of_domain({0: policy}, "all", 1, 5, 0)
    assert "left out: dmc:pendulum-swingup: forces" in capsys.readouterr().err


def test_pictures_of_an_episode_lie_behind_those_before_them():
    pictures = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    assert _stacked(pictures, 3)[:, 0, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert _stacked(pictures, 1) is pictures


def test_a_picture_is_a_goal_in_the_size_and_frames_of_the_run(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "goal.png")

    def goal(shape, frames=1):
        agent = SimpleNamespace(config=SimpleNamespace(frames=frames))
        policy = SimpleNamespace(spec=SimpleNamespace(obs=Leaf(shape, np.uint8)), agent=agent)
        return _goal(Flags(goal=str(tmp_path / "goal.png")), policy)

    np.testing.assert_array_equal(goal((16, 20, 3), 3), np.concatenate([picture] * 3, -1))
    grey = goal((16, 20, 1))
    assert grey.shape == (16, 20, 1) and np.abs(grey[..., 0] - picture @ [0.299, 0.587, 0.114]).max() <= 1
    assert goal((8, 10, 3)).shape == (8, 10, 3)
