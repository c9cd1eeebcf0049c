"""Host environments in worker processes."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

import rlx.envs
from rlx import plugins
from rlx.envs.side_by_side import side_by_side
from rlx.keys import HostKey

mujoco = pytest.importorskip("mujoco")  # after rlx, which chooses its renderer where there is no screen

KEY = HostKey(np.array([[3, 4], [5, 6]], np.uint32), 3)  # two members of three streams


def play(env, ends="reset", steps=9):
    vec, rng = env.make(6, ends), np.random.default_rng(0)
    state, step = vec.reset(env.params, KEY)
    out = [step]
    for t in range(steps):
        state, step = vec.step(
            env.params, state, rng.uniform(-1, 1, (6, *env.spec.action.shape)).astype(np.float32), KEY.at(t + 1)
        )
        out.append(step)
    return out, vec, state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "workers", "options"),
    [
        ("dmc:reacher-easy", 4, {"time_limit": 4}),  # two have two streams each, two have one
        ("gym:Hopper-v5", 2, {"time_limit": 5}),
        ("dmc:ball_in_cup-catch", 2, {"time_limit": 4}),
    ],
)
@pytest.mark.parametrize("ends", ["reset", "stop"])
def test_workers_change_nothing(name, workers, options, ends):
    alone, *_ = play(rlx.envs.make(name, **options), ends)
    shared, vec, _ = play(rlx.envs.make(name, workers=workers, **options), ends)
    jax.tree.map(np.testing.assert_array_equal, alone, shared)
    vec.close()


@pytest.mark.slow
def test_workers_draw_pictures_too():
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")
    options = {"pixels": "gl", "image": 16, "distractor": {"kind": "noise", "frames": 4}, "time_limit": 4}
    alone, vec, _ = play(rlx.envs.make("dmc:cartpole-swingup", **options))
    vec.close()
    shared, vec, _ = play(rlx.envs.make("dmc:cartpole-swingup", workers=2, **options))
    vec.close()
    assert alone[0].obs["pixels"].shape == (6, 16, 16, 3) and (alone[0].obs["pixels"] != alone[1].obs["pixels"]).any()
    jax.tree.map(np.testing.assert_array_equal, alone, shared)


@pytest.mark.slow
def test_contract_save_and_load():
    assert rlx.envs.check(rlx.envs.make("dmc:cartpole-swingup", workers=2, time_limit=9), steps=30).exact_resume
    _, vec, state = play(rlx.envs.make("dmc:cartpole-swingup", workers=2))
    saved = vec.save(state)
    vec.close()
    other = rlx.envs.make("dmc:cartpole-swingup", workers=3).make(6, "reset")
    with pytest.raises(ValueError, match="saved with workers=2; go on with as many, not 3"):
        other.load(saved)
    with pytest.raises(ValueError, match="action has shape"):
        other.step(None, None, np.zeros((6, 2)), KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outside:pendulum", "gym:RlxByImport-v0"])
def test_workers_import_the_modules_that_register(name, monkeypatch):
    """By `rlx.envs.register`, or as a command's ``--import`` did."""
    monkeypatch.setattr(plugins, "imported", [])
    plugins.import_modules(["tests.envs.registered"])
    alone, *_ = play(rlx.envs.make(name))
    shared, vec, _ = play(rlx.envs.make(name, workers=1))
    jax.tree.map(np.testing.assert_array_equal, alone, shared)
    vec.close()


@pytest.mark.slow
def test_what_stops_the_main_process_leaves_workers_to_it():
    """Ctrl-C reaches all processes of a terminal, and some schedulers tell all of a job; the main one saves then."""
    _, vec, state = play(rlx.envs.make("dmc:cartpole-swingup", workers=2), steps=1)
    for process in vec._processes:
        for asked in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(asked)
    assert vec.save(state)
    vec.close()


@pytest.mark.slow
def test_one_that_cannot_start_leaves_no_worker_behind(monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **kw: started.append(popen(*a, **kw)) or started[-1])
    vec = rlx.envs.make("dmc:cartpole-swingup", workers=1).make(1, "reset")
    vec.options["threads"] = 0  # refused there
    with pytest.raises(ValueError, match="in a worker process: threads=0"):
        vec.reset(None, KEY)
    assert len(started) == 1
    assert started[0].returncode is not None
    assert started[0].stdin.closed


@pytest.mark.slow
def test_workers_close_their_environments(tmp_path):
    vec = rlx.envs.make("gym:tests.envs.gym_fixtures:RlxLeaves-v0", workers=1, folder=str(tmp_path)).make(2, "reset")
    vec.reset(None, KEY)
    before = len(list(tmp_path.iterdir()))  # the one that was looked at
    vec.close()
    assert len(list(tmp_path.iterdir())) == before + 2


@pytest.mark.slow
def test_streams_that_are_some_of_more_keep_their_numbers():
    """Blocks of one batch, each in processes of its own."""
    step = lambda env: side_by_side([env], 2).make(4, "reset").reset(None, HostKey(KEY.words, 4))[1]
    alone, shared = (step(rlx.envs.make("dmc:pendulum-swingup", **how)) for how in ({}, {"workers": 1}))
    np.testing.assert_array_equal(alone.obs, shared.obs)


def test_what_no_other_process_can_import_is_said():
    home = {"__name__": "__main__", "rlx": rlx}
    exec("rlx.envs.register('main:pendulum', lambda: rlx.envs.make('rlx:pendulum', host=True))", home)
    with pytest.raises(ValueError, match="what __main__ has registered, no other process can: register it in a module"):
        rlx.envs.make("main:pendulum", workers=2)


def test_other_parameters_are_refused():
    """A worker would go on with those that its environment was made with. None starts for this."""
    options = {"pixels": "sdf", "image": 16, "distractor": {"kind": "noise", "frames": 4}}
    env = rlx.envs.make("dmc:pendulum-swingup", workers=1, **options)
    vec = env.make(2, "reset")
    assert vec.params is env.params
    with pytest.raises(ValueError, match="leave workers out to give some"):
        vec.reset({**env.params, "bank": np.zeros_like(env.params["bank"])}, KEY)


def test_what_goes_wrong_in_a_worker_is_said():
    with pytest.raises(ValueError, match="is for environments on the host, and it is none"):
        rlx.envs.make("rlx:pendulum", workers=2)
    with pytest.raises(ValueError, match="workers=0"):
        rlx.envs.make("dmc:cartpole-swingup", workers=0)
    vec = rlx.envs.make("dmc:cartpole-swingup", workers=2).make(4, "reset")
    state, _ = vec.reset(None, KEY)
    vec._processes[1].kill()
    with pytest.raises(ChildProcessError, match="a worker process ended"):
        vec.step(None, state, np.zeros((4, 1)), KEY)
    shared = Path(vec._folder.name)
    assert shared.exists()
    vec._processes[0].stdin.close()  # what it sees of a main process that was killed
    vec._processes[0].wait(60)
    assert not shared.exists()
    vec.close()
