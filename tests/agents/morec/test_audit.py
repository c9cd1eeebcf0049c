"""The audit of models: errors by hand, on models whose errors are known, and what a run and the command say of them."""

from __future__ import annotations

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import Prediction
from rlx.dynamics.audit import MOST, Audit, audit, draw, windows


class Drifts(NamedTuple):
    """s' = s + a + what it is wrong by."""

    def begin(self, params, key):
        return ()

    def predict(self, params, episode, obs, action, key):
        return Prediction(obs + action + params, jnp.float32(0))

    def disagreement(self, params, obs, action):
        return jnp.abs(obs).max()


class Episode(NamedTuple):
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray


def walk(n: int, seed: int) -> Episode:
    action = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return Episode(np.concatenate([np.zeros((1, 2)), np.cumsum(action, 0)[:-1]]), action, np.zeros(n))


def test_errors_add_up_along_the_windows():
    obs, action = windows([walk(9, 0), walk(5, 1)], 4, 100, jax.random.key(0))
    assert obs.shape == (5 + 1, 5, 2) and action.shape == (6, 4, 2)  # (9 - 4) + (5 - 4)
    np.testing.assert_allclose(obs[:, 1:], obs[:, :-1] + action, atol=1e-6)
    score = lambda scorer, obs, action, new: -jnp.abs(new - obs - action).sum(-1) + scorer
    found = audit(Drifts(), jnp.array([0.3, 0.0]), obs, action, np.array([1.0, 2.0]), jax.random.key(1), score, jnp.float32(7))
    expected = np.sqrt(((0.3 * np.arange(1, 5)) ** 2) / 2)  # the second entry is right
    for q in range(3):
        np.testing.assert_allclose(found.error[:, q], expected, rtol=1e-5)
    np.testing.assert_allclose(found.score, 6.7, rtol=1e-5)
    np.testing.assert_allclose(found.real_score, 7.0, rtol=1e-5)
    unsure = np.abs(obs[:, :1] + np.concatenate([np.zeros((6, 1, 2)), np.cumsum(action, 1)[:, :-1]], 1)
                    + 0.3 * np.arange(4)[:, None] * np.array([1, 0])).max(-1)  # fmt: skip
    np.testing.assert_allclose(found.disagreement, np.quantile(unsure, (0.1, 0.5, 0.9), axis=0).T, rtol=1e-4)


def test_a_model_that_leaves_the_numbers_counts_as_far_off():
    obs, action = windows([walk(9, 0)], 4, 3, jax.random.key(0))
    found = audit(Drifts(), jnp.array([jnp.nan, 0.0]), obs, action, np.ones(2), jax.random.key(1))
    assert (found.error == MOST).all() and found.score is None and np.isfinite(found.disagreement).all()
    assert len(draw(found).axes) == 2
    scores = np.full((4, 3), 0.7)
    assert len(draw(Audit(found.error, found.disagreement, scores, scores), 0.6).axes) == 3


def test_wrong_windows_are_named():
    with pytest.raises(ValueError, match="no episode has 9 transitions, the longest has 8"):
        windows([walk(9, 0)], 9, 3, jax.random.key(0))
    with pytest.raises(ValueError, match="are to be"):
        audit(Drifts(), jnp.zeros(2), np.zeros((2, 4, 2)), np.zeros((2, 4, 2)), np.ones(2), jax.random.key(0))


@pytest.mark.slow
def test_a_run_and_the_command_tell_of_the_model(tmp_path, monkeypatch, capsys):
    from rlx.cli import data as command
    from rlx.cli import train
    from rlx.replay import datasets
    from tests.agents.morec.test_runs import problem

    monkeypatch.chdir(tmp_path)
    episodes = datasets_of(problem())
    datasets.write("box.npz", episodes, {"env": "rlx:thermobox"})
    far = [e._replace(obs=e.obs + np.float32(30.0)) for e in episodes[:2]]
    datasets.write("mixed.npz", [*episodes[:4], *far], {"env": "rlx:thermobox"})
    words = ["morec", "--env", "rlx:thermobox", "--data", "box.npz", "--preset", "debug", "--run-dir", "run", "--no-video"]
    assert train.main([*words, "--agent.stop", "truncate", "--no-progress"]) == 0
    told = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (tmp_path / "run" / "model.png").stat().st_size > 5_000
    assert told["horizon"] == 5 and told["error_last"] >= 0 and 0.31 <= told["real_score_first"] <= 1.32
    capsys.readouterr()
    assert command.main(["score", "mixed.npz", "--model", "run", "--horizon", "10"]) == 0
    out = json.loads(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("RESULT "))
    assert out["horizon"] == 10 and (tmp_path / out["picture"]).exists()
    assert set(out["worst"][:2]) == {4, 5}  # what lies where the model has seen nothing
    assert command.main(["score", "mixed.npz", "--model", "run", "--horizon", "1000"]) == 2
    assert "the longest has 30" in capsys.readouterr().err
    assert command.main(["score", "mixed.npz", "--model", "run", "--member", "1"]) == 2
    assert "has 1 member(s), counted from 0; there is no member 1" in capsys.readouterr().err


def test_what_is_not_learned_yet_is_not_looked_at():
    from tests.agents.morec.test_runs import made, problem

    agent, episodes = made(), datasets_of(problem())
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    for done, stage in (({}, "model"), ({"model/epochs": jnp.float32(3)}, "scorer")):
        own = {**state.learned, "told": {**state.learned["told"], **done}}
        for look in (agent.report.audit, agent.report.scores):
            with pytest.raises(ValueError, match=f"the stage '{stage}' of this run is not done: let it go on"):
                look(state._replace(learned=own), episodes)


def datasets_of(problem):
    from rlx import replay

    return replay.export(problem.data["data"])
