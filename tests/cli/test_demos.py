"""`rlx data demos`: what scripted experts show, and what is said where they cannot."""

from __future__ import annotations

import json

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.cli import data as command
from rlx.envs import experts
from rlx.envs.rewards import reward_of
from rlx.envs.stills import still_of
from rlx.replay import datasets
from rlx.train.demonstrations import demonstrate, successes
from rlx.types import Problem

PUSH = ["demos", "--env", "rlx:push-toy"]


def ran(capsys, *words):
    assert command.main([*PUSH, "--no-progress", *words]) == 0
    return json.loads(capsys.readouterr().out.rsplit("RESULT ", 1)[1])


def refused(capsys, *words):
    assert command.main([*words, "--no-progress"]) == 2
    return capsys.readouterr().err


def test_ten_episodes_that_end_in_success(tmp_path, capsys):
    out = tmp_path / "push.npz"
    told = ran(capsys, "-o", str(out), "--noise", "0.1")
    data = replay.load(out)
    assert told["episodes"] == len(data) == 10 and told["transitions"] == 500
    assert all(successes(e) >= 5 for e in data) and told["played"] >= 10
    assert told["return_mean"] == pytest.approx(data.returns.mean())
    np.testing.assert_array_equal(data.returns, [successes(e) for e in data])
    assert data.meta["env"] == "rlx:push-toy" and data.meta["noise"] == 0.1 and data.meta["generator"] == "scripted expert"
    assert data.rows.info["physics"].shape == (510, 8)
    np.testing.assert_array_equal(reward_of("rlx:push-toy").of_episode(data[0]), data[0].reward)
    again = tmp_path / "again.npz"
    ran(capsys, "-o", str(again), "--noise", "0.1", "--no-physics")
    np.testing.assert_array_equal(replay.load(again).rows.action, data.rows.action)
    assert "physics" not in replay.load(again).rows.info


def test_the_expert_acts_on_the_state_whatever_is_observed(tmp_path, capsys):
    out = tmp_path / "seen"
    ran(
        capsys,
        "-o",
        str(out),
        "--episodes",
        "2",
        "--streams",
        "2",
        "--env-option",
        "observe=proprio",
        "--env-option",
        "discs=8",
    )
    rows = replay.load(out).rows
    assert rows.obs["pixels"].shape == (102, 8, 8, 3) and rows.obs["state"].shape == (102, 4)
    p = rows.info["physics"]  # finger, puck, command, the rest
    expected = np.array(experts.push_toy.expert(np, p[:, :2], p[:, 2:4]))
    expected[rows.last] = 0
    np.testing.assert_allclose(rows.action, expected, atol=1e-6)


def test_a_file_of_demonstrations_is_what_its_environment_learns_from(tmp_path, capsys):
    """In HDF5 of the field's names, written over as files are, and read as the environment has it. And from any other file."""
    look = {"observe": "proprio", "discs": 24}
    words = ["--episodes", "2", "--streams", "2", *(w for k, v in look.items() for w in ("--env-option", f"{k}={v}"))]
    (tmp_path / "demos.h5").touch()
    for out in ("demos.npz", "demos.h5"):
        ran(capsys, "-o", str(tmp_path / out), *words)
    with h5py.File(tmp_path / "demos.h5") as file:
        assert {k: v for k, v in file.attrs.items() if k in ("env_id", "seed", "action_repeat", "cameras", "generator")} == {
            "env_id": "rlx:push-toy", "seed": 0, "action_repeat": 1, "cameras": '["pixels"]', "generator": "scripted expert"
        }  # fmt: skip
        assert len(file) == 2 and file["ep_00001/rgb_pixels"].shape == (51, 24, 24, 3)
        assert file["ep_00001/proprio"].shape == (51, 4) and file["ep_00001/success"].shape == (50,)
        np.testing.assert_array_equal(file["ep_00001/force"], file["ep_00001/info/contact_force"][1:])
    own, demos = (replay.load(tmp_path / name) for name in ("demos.npz", "demos.h5"))
    jax.tree.map(np.testing.assert_array_equal, own.rows, demos.rows)
    assert {k: demos.meta[k] for k in own.meta} == own.meta
    converted = tmp_path / "converted.hdf5"
    assert command.main(["convert", str(tmp_path / "demos.npz"), "--out", str(converted), "--no-progress"]) == 0
    jax.tree.map(np.testing.assert_array_equal, replay.load(converted).rows, own.rows)
    env, tiny = rlx.envs.make("rlx:push-toy", **look), {"env_steps": 0, "latent": 4, "hidden": 8}
    data = {"data": datasets.replay_of(tmp_path / "demos.h5", repeat=1)}
    agent = agents.make("modem_v2", None, Problem({"train": env}, data), **tiny)
    assert [stage.name for stage in agent.stages] == ["bc"]
    with pytest.raises(ValueError, match="was made with --repeat 1, and here it is 2"):
        datasets.replay_of(tmp_path / "demos.h5", repeat=2)


def test_before_a_camera_expert_reward_and_still_are_what_they_are_without():
    look = {"pixels": "sdf", "image": 8}
    env = rlx.envs.make("rlx:push-toy", physics=True, **look)
    found, _ = demonstrate(experts.of(env, look), env, 2, streams=2)
    episode = found[0]
    assert episode.obs["pixels"].shape == (51, 8, 8, 3) and episode.obs["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(reward_of("rlx:push-toy", **look).of_episode(episode), episode.reward)
    assert episode.reward.sum() >= 5
    draw, plain = still_of("rlx:push-toy", physics=True, **look), still_of("rlx:push-toy")
    np.testing.assert_array_equal(draw(episode.info["physics"][9]), plain(episode.info["physics"][9]))


def test_a_folder_is_whole_or_not_there(tmp_path, capsys):
    out = tmp_path / "push"
    words = ["-o", str(out), "--episodes", "2", "--streams", "2"]

    def ended(self, rows):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.Writer, "_shard", ended)
        assert command.main([*PUSH, *words, "--no-progress"]) == 130
    assert list(tmp_path.iterdir()) == []
    part = tmp_path / ".push.part"  # and what a kill leaves
    part.mkdir()
    (part / "dataset.json").write_text("{}")
    ran(capsys, *words)
    assert len(replay.load(out)) == 2 and list(tmp_path.iterdir()) == [out]


def test_the_expert_of_a_task_in_mujoco(tmp_path, capsys):
    words = ["demos", "--env", "rlx:push-lite", "--episodes", "2", "--streams", "2", "-o", str(tmp_path / "lite.npz")]
    assert command.main([*words, "--env-option", "observe=proprio"]) == 0
    told = json.loads(capsys.readouterr().out.rsplit("RESULT ", 1)[1])["outcomes"]
    data = replay.load(tmp_path / "lite.npz")
    assert data.rows.obs.shape == (102, 9) and all(successes(e) >= 5 for e in data)
    np.testing.assert_array_equal(reward_of("rlx:push-lite").of_episode(data[0]), data[0].reward)
    of = lambda name: np.stack([e.info[name][1:] for e in data])  # [2, 50]
    assert told["success"] == told["solved"] == 1 and told["violation"] == of("violation").mean() == 0
    assert told["contact_force_max"] == pytest.approx(of("contact_force").max(1).mean())
    assert told["torque_mean"] == pytest.approx(of("torque").mean()) and 0.01 < told["torque_mean"] < 300


def test_noise_is_clipped_and_failures_are_kept_on_request():
    env = rlx.envs.make("rlx:push-toy", physics=True)
    still = lambda obs, physics: jnp.zeros((obs.shape[0], 2))
    found, played = demonstrate(still, env, 3, noise=0.1, least=0, streams=4)
    actions = np.concatenate([e.action[:-1] for e in found])
    assert len(found) == 3 and played == 4 and np.abs(actions).max() <= 0.3 + 1e-6
    assert actions.std() == pytest.approx(0.1, rel=0.1)
    with pytest.raises(ValueError, match="none of 10 episodes"):
        demonstrate(still, env, 1, streams=10)


def test_what_cannot_be_demonstrated_is_one_message(tmp_path, capsys):
    out = ["-o", str(tmp_path / "x.npz")]
    assert "rlx:push-toy" in refused(capsys, "demos", *out)
    assert "no scripted expert" in refused(capsys, "demos", "--env", "rlx:pendulum", *out)
    assert "--out" in refused(capsys, *PUSH)
    assert "host=true" in refused(capsys, *PUSH, *out, "--env-option", "host=true")
    assert "of 20 episodes" in refused(capsys, *PUSH, *out, "--episodes", "2", "--streams", "2", "--noise", "1")
    with pytest.raises(ValueError, match="does not say"):
        demonstrate(lambda obs, physics: obs, rlx.envs.make("rlx:pendulum"), 1)


def test_an_expert_from_outside(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experts, "_EXPERTS", dict(experts._EXPERTS))
    experts.register("rlx:point-maze", lambda env, options: lambda obs, physics: -obs[:, :2])
    told = refused(
        capsys, "demos", "--env", "rlx:point-maze", "--episodes", "1", "--time-limit", "4", "-o", str(tmp_path / "m.npz")
    )
    assert "of 10 episodes" in told
    assert command.main(["demos", "--env", "rlx:point-maze", "--episodes", "3", "--time-limit", "4", "--keep-all",
                         "-o", str(tmp_path / "m.npz")]) == 0  # fmt: skip
    assert len(replay.load(tmp_path / "m.npz")) == 3


@pytest.mark.slow
def test_meta_worlds_scripts(tmp_path, capsys):
    pytest.importorskip("metaworld")
    out = tmp_path / "drawer.npz"
    words = ["--env", "gym:Meta-World/MT1", "--repeat", "2", "--time-limit", "60", "--episodes", "2", "--streams", "2"]
    assert "env name" in refused(capsys, "demos", *words, "-o", str(out), "--env-option", "env_name=reach-v2")
    assert command.main(["demos", *words, "-o", str(out), "--env-option", "env_name=reach-v3"]) == 0
    data = replay.load(out)
    assert len(data) == 2 and data.rows.obs.shape == (122, 39) and all(successes(e) >= 5 for e in data)
