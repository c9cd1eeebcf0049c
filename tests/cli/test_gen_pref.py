"""`rlx data gen-pref`: its recipes, and what transport makes of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rlx import envs, keys, replay
from rlx.cli import main
from rlx.envs import meta_world_cpl
from rlx.preferences import meta_world, pairs, stand_ins
from rlx.types import Row

from .test_commands import result_of


def test_paths_are_moved_and_pay_what_they_are_worth():
    source, target = stand_ins.toy(8, 5, 3)
    again = stand_ins.toy(8, 5, 3)[1]
    assert all((a["obs"] == b["obs"]).all() for a, b in zip(target, again, strict=True))
    found = pairs.episodes(replay.from_episodes(source))
    assert found.steps.tolist() == [5] * 8 and np.ptp(found.returns) > 0
    np.testing.assert_allclose(np.mean([x["obs"][0] for x in target], 0), stand_ins.SHIFT, atol=1.0)


def test_pushes_go_along_their_axis():
    source, target = (pairs.episodes(replay.from_episodes(x)) for x in stand_ins.point_mass(10, 30, 0))
    for axis, found in enumerate((source, target)):
        last = found.obs[found.begin + found.steps]
        pushed = np.arange(10) % 5 < 2  # much more push than noise
        assert last[pushed, axis].min() > 0.1 > abs(last[pushed, 1 - axis]).max()
        moved = np.diff(found.obs[:31, axis])  # semi-implicit: the new velocity times 0.02 s
        np.testing.assert_allclose(moved, 0.02 * found.reward[1:31], atol=1e-5)
        assert found.returns[pushed].mean() > found.returns[4::5].mean()


@pytest.mark.parametrize("recipe", stand_ins.RECIPES)
def test_labels_move_from_one_to_the_other(recipe, tmp_path, capsys):
    out = tmp_path / "pair"
    command = ["data", "gen-pref", "--recipe", recipe, "--steps", "20", "--episodes", "24", "-o", str(out)]
    assert main([*command, "--flips", "0.1"]) == 0
    told = result_of(capsys.readouterr().out)
    assert told["pairs"] == 276 and 10 < told["turned"] < 50
    given = [f"--{name}={out}/{name}.npz" for name in ("source", "target")]
    more = ["--source-labels", str(out / "labels.npz"), "--out", str(tmp_path / "labels.npz"), "--features", "flat_s"]
    assert main(["pref", "transfer", *given, *more]) == 0
    assert result_of(capsys.readouterr().out)["accuracy"] > 0.6
    assert main(command) == 2 and "is there already" in capsys.readouterr().err
    meta = replay.load(out / "target.npz").meta
    if recipe == "point-mass":  # a policy can be tried where the data are from
        assert (meta["env"], meta["env_options"], meta["time_limit"]) == ("rlx:point-mass", {"along": "y"}, 20)


@pytest.mark.slow
def test_meta_worlds_scripts_with_noise(tmp_path, capsys):
    pytest.importorskip("metaworld")
    out, tasks = tmp_path / "pair", {"source": "door-close-v3", "target": "reach-v3"}
    words = ["data", "gen-pref", "--recipe", "metaworld", "-o", str(out), "--steps", "40", "--episodes", "5", "--no-progress"]
    assert main([*words, *(w for k, v in tasks.items() for w in (f"--{k}-task", v))]) == 0
    assert result_of(capsys.readouterr().out)["pairs"] == 10
    for name, task in tasks.items():
        data = replay.load(out / f"{name}.npz")
        assert data.rows.obs.shape == (5 * 41, 39) and data.meta["env_options"] == {"env_name": task}
        assert np.abs(data.rows.action).max() <= 1 and "success" in data.rows.info
    reached = data.returns  # reach: the nearer to the goal the better
    assert min(reached[:2]) > max(reached[3:])


@pytest.mark.slow
def test_meta_world_as_contrastive_preference_learning_has_it(tmp_path):
    """Its episodes are the environment's: the actions of one, played again, give its observations and rewards."""
    pytest.importorskip("metaworld")
    out = tmp_path / "pair"
    words = ["data", "gen-pref", "--recipe", "metaworld", "--cpl", "-o", str(out), "--episodes", "5", "--steps", "20"]
    assert main([*words, "--source-task", "reach-v3", "--target-task", "reach-v3"]) == 0
    data = replay.load(out / "source.npz")
    assert data.rows.obs.shape == (5 * 21, 35) and data.lengths.tolist() == [20] * 5
    env = envs.make(data.meta["env"], **data.meta["env_options"])
    assert env.spec.obs.shape == (35,) and env.spec.horizon == 250
    vec, key = envs.batch(env, 1), keys.HostKey.of(keys.root(0), 1)
    state, step = vec.reset(vec.params, key)
    whole = envs.batch(envs.make(meta_world.ENV, env_name="reach-v3", time_limit=250, disable_env_checker=True), 1)
    other, wanted = whole.reset(whole.params, key)
    for action in data.rows.action[:3]:
        np.testing.assert_array_equal(step.obs, meta_world_cpl.shortened(wanted.obs))
        np.testing.assert_allclose(step.reward, 0.1 * wanted.reward, rtol=1e-6)
        state, step = vec.step(vec.params, state, action[None], key)
        other, wanted = whole.step(whole.params, other, action[None], key)
    vec.close(), whole.close()


@pytest.mark.slow
def test_meta_worlds_scripts_mixed():
    pytest.importorskip("metaworld")
    found = meta_world.mixed("reach-v3", 5, 60, keys.root(0))
    assert [len(e.reward) for e in found] == [61] * 5  # so much noise lets nobody stay at the goal
    returns = [float(e.reward.sum()) for e in found]
    assert min(returns[0], returns[4]) > max(returns[2:4])  # the script; uniform actions and another task's script
    assert (found[0].obs[0, 36:39] != found[4].obs[0, 36:39]).any()  # another layout
    assert pairs.episodes(replay.from_episodes(found)).steps.tolist() == [60] * 5


def test_an_episode_ends_when_the_task_has_been_done_for_a_while():
    success = np.r_[np.zeros(4), np.ones(10), np.zeros(3), np.ones(40)].astype(np.float32)
    rows = len(success)
    zero = np.zeros(rows)
    row = Row(zero[:, None], zero, zero > 0, zero > 0, np.arange(rows) == 0, {"success": success}, zero[:, None], {}, zero == 0)
    cut = meta_world.until_done(row)
    assert len(cut.reward) == 4 + 10 + 3 + 15 and cut.info["success"].sum() == meta_world.ENOUGH == 25
    short = meta_world.until_done(row._replace(info={"success": zero}))
    assert len(short.reward) == rows


def test_what_the_hand_did_before_can_be_left_out(tmp_path, capsys):
    assert meta_world_cpl.shortened(np.arange(39)[None]).tolist() == [[*range(18), *range(22, 39)]]
    assert main(["data", "gen-pref", "--cpl", "-o", str(tmp_path / "pair")]) == 2
    assert "--cpl is a form of Meta-World's episodes, and --recipe toy has none" in capsys.readouterr().err


def test_a_layout_that_is_another_leaves_the_hand():
    mistaken = meta_world.elsewhere(np.arange(39.0), -np.arange(39.0))
    hand = [0, 1, 2, 3, 18, 19, 20, 21]
    assert np.flatnonzero(mistaken > 0).tolist() == hand[1:] and (mistaken[4:18] == -np.arange(4, 18)).all()


def test_without_meta_world_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "metaworld.policies", None)
    assert main(["data", "gen-pref", "--recipe", "metaworld", "-o", str(tmp_path / "pair"), "--no-progress"]) == 2
    assert "pip install 'rlx[metaworld]'" in capsys.readouterr().err and not (tmp_path / "pair").exists()
    with pytest.raises(ValueError, match=r"need metaworld: pip install 'rlx\[metaworld\]'"):
        meta_world.graded("reach-v3", 2, 5, keys.root(0))


def test_a_task_without_script_is_named(monkeypatch):
    monkeypatch.setattr(envs.experts, "meta_world_tasks", lambda: ["reach-v3"])
    with pytest.raises(ValueError, match="no script of the task 'reach-v2'; there are reach-v3"):
        envs.experts.meta_world("reach-v2")
