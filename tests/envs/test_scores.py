"""Reference returns, and returns on their scale."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlx.envs import scores
from rlx.envs.scores import Reference, extend, normalised, of_run, reference


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A file of one's own for each test."""
    path = tmp_path / "own" / "references.json"
    monkeypatch.setenv("RLX_REFERENCES", str(path))
    return path


def test_scores_by_hand():
    # (5000 + 280.178953) / (12135 + 280.178953) = 5280.178953 / 12415.178953
    np.testing.assert_allclose(normalised("gym:HalfCheetah-v4", [-280.178953, 12135.0, 5000.0]), [0, 100, 42.530027], atol=1e-5)
    # (3000 + 20.272305) / (3234.3 + 20.272305) = 3020.272305 / 3254.572305
    assert normalised("gym:Hopper-v4", 3000.0) == pytest.approx(92.80090, abs=1e-4)
    assert normalised("gym:Walker2d-v3", 2572.0) == pytest.approx(50.0)  # NeoRL: 1 and 5143
    assert normalised("antmaze-large-play-v2", 0.25) == pytest.approx(25.0)
    assert normalised(Reference(0.0, 2.0, ""), np.float32([[1.0]])).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gym:HalfCheetah-v4", "D4RL's halfcheetah"),
        ("gym:Ant-v5", "D4RL's ant"),
        ("gym:HalfCheetah-v3", "NeoRL's halfcheetah"),
        ("HalfCheetah-v3-low-100", "NeoRL's halfcheetah"),
        ("hopper-medium-replay-v2", "D4RL's hopper"),
        ("gym:AdroitHandDoor-v1", "D4RL's door"),
        ("pen-human-v1", "D4RL's pen"),
        ("maze2d-umaze-dense-v1", "D4RL's maze2d-umaze-dense"),
        ("antmaze-umaze-diverse-v0", "D4RL's antmaze"),
        ("kitchen-mixed-v0", "D4RL's kitchen"),
    ],
)
def test_names_find_their_references(name, source):
    found = reference(name)
    assert found is not None and found.source == source and found.expert > found.random


@pytest.mark.parametrize(
    "name",
    [
        "dmc:walker-walk",  # at most 1000 is no reference
        "dmc:hopper-hop",
        "brax:halfcheetah",  # another world of the same name
        "rlx:pendulum",
        "gym:antmaze-large-navigate-v0",  # OGBench's, which pays otherwise
        "gym:AdroitHandDoorSparse-v1",
        "gym:Humanoid-v4",
    ],
)
def test_what_nobody_has_measured_has_none(name):
    assert reference(name) is None
    with pytest.raises(ValueError, match="no reference returns"):
        normalised(name, 1.0)


def test_tables_are_the_published_ones():
    assert scores.D4RL["halfcheetah"] == (-280.178953, 12135.0) and scores.D4RL["walker2d"] == (1.629008, 4592.3)
    assert scores.NEORL["hopper"] == (5.0, 3294.0)
    assert all(low < high for low, high in [*scores.D4RL.values(), *scores.NEORL.values()])


def test_settings_that_change_returns_have_no_score():
    assert of_run("gym:Hopper-v4", None, {"physics": True}) is not None
    assert of_run("gym:Hopper-v4", 100, {}) is None
    assert of_run("gym:Hopper-v4", None, {"forward_reward_weight": 2.0}) is None


def test_own_references_are_kept_and_come_first(own):
    extend("dmc:walker-walk", random=40.0, how="rlx collect, 100 episodes")
    assert reference("dmc:walker-walk") is None  # half of it
    extend("dmc:walker-walk", expert=960.0)
    assert reference("dmc:walker-walk") == Reference(40.0, 960.0, "own: rlx collect, 100 episodes")
    assert normalised("dmc:walker-walk", 500.0) == pytest.approx(50.0)
    extend("gym:Hopper-v4", random=0.0, expert=1000.0)
    assert normalised("gym:Hopper-v4", 500.0) == pytest.approx(50.0)
    assert set(json.loads(own.read_text())) == {"dmc:walker-walk", "gym:Hopper-v4"}


@pytest.mark.parametrize("given", [{}, {"random": np.nan}, {"random": 5.0, "expert": 5.0}])
def test_senseless_references_are_refused(given, own):
    with pytest.raises(ValueError, match="references of dmc:x"):
        extend("dmc:x", **given)
    assert not own.exists()


@pytest.mark.parametrize("text", ["[]", '{"dmc:x": 3}', '{"dmc:x": {"random": "low"}}', "{"])
def test_a_damaged_file_is_named(text, own):
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(ValueError, match="references.json"):
        reference("dmc:x")
