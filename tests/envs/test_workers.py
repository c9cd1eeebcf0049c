"""Host environments in worker processes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import rlx.envs
from rlx import plugins
from rlx.keys import HostKey

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


def test_what_no_other_process_can_import_is_said():
    home = {"__name__": "__main__", "rlx": rlx}
    exec("rlx.envs.register('main:pendulum', lambda: rlx.envs.make('rlx:pendulum', host=True))", home)
    with pytest.raises(ValueError, match="what __main__ has registered, no other process can: register it in a module"):
        rlx.envs.make("main:pendulum", workers=2)


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
