"""Readers against small files in the published layouts, the ugly ones too."""

from __future__ import annotations

import gymnasium
import h5py
import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlx import replay
from rlx.replay import datasets
from rlx.replay.datasets import found

N = 9  # entries: an episode of 4 that terminates, of 2 and of 3 that are cut


def d4rl(**changes):
    obs = np.arange(N + 1, dtype="f8")[:, None] * [1, 10]
    following = obs[1:].copy()
    obs = obs[:-1]
    columns = {
        "observations": obs,
        "actions": np.linspace(-1, 1, N)[:, None],
        "rewards": np.arange(1.0, N + 1),
        "terminals": np.isin(np.arange(N), [3]),
        "timeouts": np.isin(np.arange(N), [5, 8]),
        "next_observations": following,
    }
    columns |= changes
    return {k: v for k, v in columns.items() if v is not None}


def write(path, columns, **attributes):
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
        file.attrs.update(attributes)
    return path


# --------------------------------------------------------------------------------------------------------------------- D4RL


def test_d4rl_in_hdf5_with_all_that_lies_in_such_files(tmp_path):
    """float64, [N, 1] rewards, metadata of strings and scalars, infos: physics is kept, the rest is left alone."""
    more = {"rewards": d4rl()["rewards"][:, None], "infos/qpos": np.arange(N)[:, None] * 2.0, "infos/qvel": np.ones((N, 1))}
    more |= {"infos/action_log_probs": np.zeros(N), "metadata/algorithm": "SAC", "metadata/policy/nonlinearity": 3}
    data = replay.load(write(tmp_path / "x.hdf5", d4rl(**more)))
    assert (data.format, len(data), data.transitions) == ("D4RL", 3, 9)
    assert data.returns.tolist() == [10, 11, 24] and data.lengths.tolist() == [4, 2, 3]
    a, b, _ = data
    assert a.obs.dtype == np.float32 and a.obs[:, 1].tolist() == [0, 10, 20, 30, 40]
    assert a.terminated.tolist() == [False] * 4 + [True] and b.truncated.tolist() == [False, False, True]
    assert a.reward.tolist() == [0, 1, 2, 3, 4] and a.action[-1] == 0
    assert set(data.rows.info) == {"qpos", "qvel"} and a.info["qpos"][:, 0].tolist() == [0, 2, 4, 6, 6]


def test_short_and_long_episodes_are_put_together_alike():
    """Scattered where episodes are short, by slices where they are long: the same rows."""
    rng, n = np.random.default_rng(0), 400
    columns = {"observations": rng.normal(size=(n, 3)), "actions": rng.uniform(-1, 1, (n, 2)), "rewards": rng.normal(size=n)}
    columns |= {"next_observations": rng.normal(size=(n, 3)), "terminals": np.zeros(n)}
    for length in (4, 100):
        ends = np.arange(1, n + 1) % length == 0
        after = np.where(ends[:, None], columns["next_observations"], np.roll(columns["observations"], -1, 0))
        data = datasets.from_d4rl({**columns, "next_observations": after, "timeouts": ends})
        for i, episode in enumerate(data):
            at = slice(i * length, (i + 1) * length)
            np.testing.assert_array_equal(episode.obs[:-1], columns["observations"][at].astype("f4"))
            np.testing.assert_array_equal(episode.obs[-1], after[(i + 1) * length - 1].astype("f4"))
            np.testing.assert_array_equal(episode.reward[1:], columns["rewards"][at].astype("f4"))
            np.testing.assert_array_equal(episode.action[:-1], columns["actions"][at].astype("f4"))


def test_terminal_and_timeout_on_one_row_and_terminals_in_a_row():
    both = np.isin(np.arange(N), [3, 5, 8])
    data = datasets.from_d4rl(d4rl(timeouts=both))
    assert [bool(e.terminated[-1]) for e in data] == [True, False, False]
    assert any("1 entries are terminal and a timeout" in note for note in data.notes)
    data = datasets.from_d4rl(d4rl(terminals=np.isin(np.arange(N), [3, 4, 5])))
    assert data.lengths.tolist() == [4, 1, 1, 3]
    assert any("2 episodes of a single step" in line for line in replay.describe(data).odd)


def test_a_part_of_an_episode_at_the_end_is_cut_there():
    data = datasets.from_d4rl(d4rl(timeouts=np.isin(np.arange(N), [5])))
    assert data.lengths.tolist() == [4, 2, 3] and data[2].truncated[-1]


def test_timeouts_that_come_late_or_are_missing():
    late = d4rl(timeouts=np.isin(np.arange(N), [6, 8]))
    late["observations"][6] += 5  # a reset after entry 5
    with pytest.raises(ValueError, match=r"after entry 5 comes another observation.*\(1 such entries\).*ignore=timeouts"):
        datasets.from_d4rl(late)
    data = datasets.from_d4rl({k: v for k, v in late.items() if k != "timeouts"})
    assert data.lengths.tolist() == [4, 2, 3] and "no timeouts" in data.notes[0]


def test_files_without_borders_name_the_largest_jump_and_ask(tmp_path):
    bare = d4rl(timeouts=None, next_observations=None)
    bare["observations"][6:] += 50
    path = write(tmp_path / "x.hdf5", bare)
    with pytest.raises(ValueError, match=r"x.hdf5: .*horizon=STEPS.*horizon=0.*jump.* 60, after entry 5 \(half are below 10\)"):
        replay.load(path)
    with pytest.warns(UserWarning, match="1 of 9 transitions"):
        data = replay.load(path, horizon=0)
    assert data.lengths.tolist() == [4, 4] and "60" in data.notes[0]
    with pytest.warns(UserWarning, match="4 of 9"):
        assert replay.load(path, horizon=2).lengths.tolist() == [1, 2, 1, 1]
    cut = datasets.from_d4rl(d4rl(), horizon=3, ignore=("timeouts",))
    assert cut.lengths.tolist() == [3, 1, 3, 2]


def test_dones_are_asked_about(tmp_path):
    dones = d4rl(terminals=None, timeouts=None, dones=np.isin(np.arange(N), [3, 5, 8]))
    path = write(tmp_path / "x.hdf5", dones)
    with pytest.raises(ValueError, match="dones=terminated, dones=truncated, or dones=both"):
        replay.load(path)
    ends = lambda **options: [bool(e.terminated[-1]) for e in replay.load(path, **options)]
    assert ends(dones="terminated") == [True] * 3
    assert ends(dones="truncated") == [False] * 3
    assert ends(dones="both", horizon=4) == [False, True, True]
    with pytest.raises(ValueError, match="dones=both needs horizon"):
        replay.load(path, dones="both")


def test_actions_beyond_their_bounds_say_so_and_can_be_scaled_or_cut(tmp_path):
    wide = d4rl(actions=np.linspace(-2, 4, N)[:, None])
    path = write(tmp_path / "x.hdf5", wide)
    with pytest.raises(ValueError, match="goes to 4, in row 8.*bounds=LOW,HIGH.*bounds=data.*bounds=clip"):
        replay.load(path)
    first = lambda bounds: replay.load(path, bounds=bounds).rows.action[[0, -2], 0].tolist()
    assert first("-2,4") == [-1, 1] and first("data") == [-1, 1] and first("clip") == [-1, 1]
    assert replay.load(path, bounds="-4,4")[0].action[0, 0] == -0.5
    for wrong, message in (("4", "is none"), ("1,2,3", "3 numbers"), ("a,b", "no two numbers")):
        with pytest.raises(ValueError, match=message):
            replay.load(path, bounds=wrong)


def test_choices_stay_whole_numbers():
    data = datasets.from_d4rl(d4rl(actions=np.arange(N) % 3))
    assert data.rows.action.dtype.kind == "i" and data.rows.action.max() == 2


# ------------------------------------------------------------------------------------------------------------- NeoRL, OGBench


def neorl(**changes):
    one = d4rl()
    columns = {"obs": one["observations"], "next_obs": one["next_observations"], "action": one["actions"].astype("f4")}
    columns |= {
        "reward": one["rewards"][:, None],
        "done": one["terminals"][:, None].astype("f4"),
        "index": np.array([4.0, 6, 9]),
    }
    return columns | changes


def test_neorl(tmp_path):
    np.savez(tmp_path / "x.npz", **neorl())
    data = replay.load(tmp_path / "x.npz")
    assert (data.format, data.lengths.tolist()) == ("NeoRL", [4, 2, 3])
    assert [bool(e.terminated[-1]) for e in data] == [True, False, False]
    np.savez(tmp_path / "y.npz", **neorl(index=np.array([4.0, 60])))
    with pytest.raises(ValueError, match="index does not say where trajectories end among 9 entries"):
        replay.load(tmp_path / "y.npz")


@pytest.mark.parametrize("visual", [False, True])
def test_ogbench_as_its_loader_gives_it(visual, tmp_path):
    """A file as downloaded, and the forms in which OGBench's own loader returns it, saved: the same episodes."""
    from ogbench.utils import load_dataset

    rng, n = np.random.default_rng(0), 12
    terminals = np.isin(np.arange(n), [4, 11])
    obs = rng.integers(0, 255, (n, 64, 64, 3), dtype=np.uint8) if visual else rng.normal(size=(n, 3)).astype("f4")
    raw = {"observations": obs, "actions": rng.uniform(-1, 1, (n, 2)).astype("f4"), "terminals": terminals}
    more = {"qpos": rng.normal(size=(n, 2)).astype("f4"), "qvel": rng.normal(size=(n, 2)).astype("f4")}
    more |= {"button_states": rng.integers(0, 2, (n, 4))}
    np.savez(tmp_path / "maze-v0.npz", **raw, **more)
    plain = replay.load(tmp_path / "maze-v0.npz")
    assert plain.format == "OGBench" and plain.lengths.tolist() == [4, 6] and plain.rows.obs.dtype == obs.dtype
    np.testing.assert_array_equal(plain.rows.obs, obs)
    for name, values in more.items():
        np.testing.assert_array_equal(plain.rows.info[name], values)
    for compact, info in ((False, False), (True, False), (False, True), (True, True)):
        options = {"compact_dataset": compact, "add_info": info}
        np.savez(tmp_path / "loaded.npz", **load_dataset(str(tmp_path / "maze-v0.npz"), ob_dtype=obs.dtype, **options))
        loaded = replay.load(tmp_path / "loaded.npz")
        assert set(loaded.rows.info) == (set(more) if info else set())
        np.testing.assert_array_equal(loaded.offsets, plain.offsets)
        np.testing.assert_array_equal(loaded.rows.obs, plain.rows.obs)
        np.testing.assert_array_equal(loaded.rows.action, plain.rows.action)
        assert not loaded.rows.terminated.any()


def test_ogbench_single_tasks_as_its_loader_gives_them(tmp_path):
    """Transition by transition: rewards, and masks that are 0 where the task is solved, as OGBench computes them of a file."""
    import ogbench  # noqa: F401 # registers its environments
    from ogbench.relabel_utils import relabel_dataset
    from ogbench.utils import load_dataset

    env = gymnasium.make("pointmaze-medium-singletask-v0")
    env.reset()
    rng, n = np.random.default_rng(0), 40
    xy = (env.unwrapped.cur_goal_xy + rng.normal(size=(n, 2))).astype("f4")
    raw = {"observations": xy, "actions": rng.uniform(-1, 1, (n, 2)).astype("f4"), "terminals": np.arange(n) % 20 == 19}
    np.savez(tmp_path / "raw.npz", **raw, qpos=xy, qvel=np.zeros_like(xy))
    given = load_dataset(str(tmp_path / "raw.npz"), add_info=True)
    relabel_dataset("pointmaze-medium-singletask-v0", env, given)
    assert 0 < given["masks"].sum() < 38
    np.savez(tmp_path / "task.npz", **given)
    data = replay.load(tmp_path / "task.npz")
    for name, ours in {
        "observations": [e.obs[:-1] for e in data],
        "next_observations": [e.obs[1:] for e in data],
        "actions": [e.action[:-1] for e in data],
        "rewards": [e.reward[1:] for e in data],
        "masks": [~e.terminated[1:] for e in data],
    }.items():
        np.testing.assert_array_equal(np.concatenate(ours), given[name], err_msg=name)


# --------------------------------------------------------------------------------------------------------------------- Minari


def minari(path, episodes=2, empty=False):
    with h5py.File(path, "w") as file:
        for i in [10, 2][:episodes]:
            group, n = file.create_group(f"episode_{i}"), 3
            group["observations/position"] = np.full((n + 1, 2), float(i))
            group["observations/pair/_index_0"] = np.arange(n + 1)[:, None]
            group["observations/pair/_index_1"] = np.ones((n + 1, 1, 2), np.uint8)
            group["actions"], group["rewards"] = np.zeros((n, 1), "f4"), np.arange(n, dtype="f8")
            group["terminations"], group["truncations"] = np.array([0, 0, i == 2], bool), np.array([0, 0, i != 2], bool)
            group.create_group("infos")
        if empty:
            group = file.create_group("episode_11")
            group["observations/position"] = np.zeros((1, 2))
            group["observations/pair/_index_0"] = np.zeros((1, 1))
            group["observations/pair/_index_1"] = np.ones((1, 1, 2), np.uint8)
            group["actions"], group["rewards"] = np.zeros((0, 1), "f4"), np.zeros(0)
            group["terminations"], group["truncations"] = np.zeros(0, bool), np.zeros(0, bool)
        file.attrs["env_spec"] = '{"id": "PointMaze_UMaze-v3"}'
    return path


def test_minari_folders_nested_tuples_and_episodes_of_no_steps(tmp_path):
    folder = tmp_path / "pointmaze" / "data"
    folder.mkdir(parents=True)
    minari(folder / "main_data.hdf5", empty=True)
    data = replay.load(tmp_path / "pointmaze")
    assert (data.format, data.meta["env"], len(data)) == ("Minari", "PointMaze_UMaze-v3", 2)
    assert data[0].obs["position"][0, 0] == 2 and data[1].obs["position"][0, 0] == 10  # by number, not by name
    assert data[0].obs["pair"]["0"][:, 0].tolist() == [0, 1, 2, 3] and data[0].obs["pair"]["1"].dtype == np.uint8
    assert data[0].terminated[-1] and data[1].truncated[-1] and data[0].reward.tolist() == [0, 0, 1, 2]
    assert "1 episodes of no steps are left out" in data.notes


class Nested(gymnasium.Env):
    """Observations and actions of dicts and tuples within one another."""

    box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    pair = spaces.Tuple((spaces.Box(0, 255, (4, 4, 3), np.uint8), spaces.Dict({"x": box})))
    observation_space = spaces.Dict({"goal": box, "pair": pair})
    action_space = spaces.Dict({"move": spaces.Box(-1, 1, (2,), np.float32)})

    def observe(self):
        draw = self.np_random
        image = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        return {"goal": draw.normal(size=2), "pair": (image, {"x": draw.normal(size=2)})}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        self.time += 1
        return self.observe(), float(self.np_random.normal()), self.np_random.random() < 0.3, self.time == 4, {}


gymnasium.register("rlx-tests/Nested-v0", f"{__name__}:Nested")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_minari_that_minari_wrote(nested, tmp_path, monkeypatch):
    minari_package = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = "rlx-tests/Nested-v0" if nested else "CartPole-v1"
    env = minari_package.DataCollector(gymnasium.make(name))
    env.action_space.seed(0)
    for seed in range(3):
        env.reset(seed=seed)
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    written = env.create_dataset("made/test-v0", algorithm_name="none", author="x", author_email="x", code_permalink="x")
    data = replay.load(tmp_path / "made" / "test-v0")
    assert data.meta["env"] == name and len(data) == 3

    def same(ours, theirs):  # leaf by leaf, in one order: tuples are dicts of "0", "1", ...
        ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b.astype("f4") if b.dtype == np.float64 else b)

    for ours, theirs in zip(data, written.iterate_episodes(), strict=True):
        same(ours.obs, theirs.observations)
        same(jax.tree.map(lambda x: x[:-1], ours.action), theirs.actions)
        same(ours.reward[1:], theirs.rewards)
        assert ours.terminated[-1] == theirs.terminations[-1] and ours.truncated[-1] == (not theirs.terminations[-1])
    if nested:
        assert data.rows.obs["pair"]["0"].shape[1:] == (4, 4, 3) and set(data.rows.obs["pair"]["1"]) == {"x"}
    for a, b in zip(datasets.from_minari(written), data, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


# --------------------------------------------------------------------------------------------------------- ExoRL, robomimic


def exorl(path, start, steps=5, **changes):
    t = np.arange(steps + 1, dtype="f4")
    columns = {
        "observation": start + t[:, None],
        "action": t[:, None] / 8,
        "reward": t[:, None],
        "discount": np.ones((steps + 1, 1)),
    }
    columns |= {"physics": np.zeros((steps + 1, 4))} | changes
    np.savez(path, **columns)


def test_exorl_folders_in_natural_order_with_actions_that_led_there(tmp_path):
    """T16 of the zero-shot methods: with action[t] = t the transition at t carries action t + 1."""
    for i in (0, 2, 10):
        exorl(tmp_path / f"episode_{i}_5.npz", 100 * i)
    data = replay.load(tmp_path)
    assert data.format == "ExoRL" and [e.obs[0, 0] for e in data] == [0, 200, 1000]
    assert data[0].action[:, 0].tolist() == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 0] and data[0].reward.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert data.rows.info["physics"].shape == (18, 4) and not data.rows.terminated.any()
    assert len(replay.load(tmp_path, episodes=2)) == 2 and len(replay.load(str(tmp_path / "*_5.npz"))) == 3
    assert [e.obs[0, 0] for e in replay.load([tmp_path / "episode_10_5.npz", tmp_path / "episode_0_5.npz"])] == [1000, 0]


def test_exorl_ends_images_and_several_rewards(tmp_path):
    pixels = np.arange(6 * 3 * 4 * 4, dtype=np.uint8).reshape(6, 3, 4, 4)
    ends = np.ones((6, 1))
    ends[-1] = 0
    exorl(tmp_path / "a.npz", 0, discount=ends, pixels=pixels)
    data = replay.load(tmp_path / "a.npz")
    assert data[0].terminated[-1] and data.rows.obs["pixels"].shape == (6, 4, 4, 3)
    assert data.rows.obs["pixels"][1, 2, 3, 1] == pixels[1, 1, 2, 3]
    assert replay.load(tmp_path / "a.npz", keys="pixels").rows.obs.shape == (6, 4, 4, 3)
    exorl(tmp_path / "b.npz", 0, reward=np.ones((6, 4)))
    with pytest.raises(ValueError, match="those of several tasks at once: with ignore=reward"):
        replay.load(tmp_path / "b.npz")
    assert not replay.load(tmp_path / "b.npz", ignore="reward").rows.reward.any()


def robomimic(path, after=True, done=True):
    with h5py.File(path, "w") as file:
        for i in (1, 0, 10):
            demo, n = file.create_group(f"data/demo_{i}"), 3
            demo["actions"], demo["rewards"] = np.full((n, 7), 0.5), np.array([0, 0, 1.0])
            demo["dones"], demo["states"] = np.array([0, 0, int(done)]), np.full((n, 5), float(i))
            for where, shift in (("obs", 0), ("next_obs", 1))[: 1 + after]:
                demo[f"{where}/object"] = np.full((n, 10), i) + shift
                demo[f"{where}/robot0_eef_pos"] = np.arange(n)[:, None] + np.zeros(3) + shift
                demo[f"{where}/agentview_image"] = np.full((n, 8, 8, 3), i + shift, np.uint8)
                demo[f"{where}/extra"] = np.zeros((n, 2))
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["data"].attrs["env_args"] = '{"env_name": "Lift"}'
    return path


def test_robomimic(tmp_path):
    path = robomimic(tmp_path / "low_dim.hdf5")
    with pytest.raises(ValueError, match="low_dim.hdf5: dones mark.*dones=terminated or dones=truncated"):
        replay.load(path)
    data = replay.load(path, dones="terminated")
    assert (data.format, len(data), data.meta["env"]) == ("robomimic", 3, "robosuite:Lift")
    assert [e.obs["state"][0, 0] for e in data] == [0, 1, 10] and data[0].terminated[-1]
    assert (
        data[1].obs["state"].shape == (4, 13)
        and data[1].obs["state"][-1, 0] == 2
        and data[1].obs["agentview_image"].shape == (4, 8, 8, 3)
    )
    assert data[1].reward.tolist() == [0, 0, 0, 1] and data[1].info["states"][0, 0] == 1
    assert [e.obs["state"][0, 0] for e in replay.load(path, dones="truncated", split="train")] == [0, 10]
    vector = replay.load(path, dones="truncated", keys="extra,robot0_eef_pos")
    assert vector.rows.obs.shape == (12, 5) and vector[0].truncated[-1]
    with pytest.raises(ValueError, match="no such mask; it has train"):
        replay.load(path, dones="truncated", split="valid")
    short = replay.load(robomimic(tmp_path / "short.hdf5", after=False), dones="truncated")
    assert short.lengths.tolist() == [2, 2, 2]  # what the last action led to is unknown
    assert replay.load(robomimic(tmp_path / "open.hdf5", done=False)).lengths.tolist() == [3, 3, 3]


def test_robomimic_that_goes_on_after_it_is_done_and_demonstrations_of_no_steps(tmp_path):
    path = robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_1/dones"][:] = [0, 1, 1]
        empty = file.create_group("data/demo_11")
        for name, values in (("actions", np.zeros((0, 7))), ("rewards", np.zeros(0)), ("dones", np.zeros(0))):
            empty[name] = values
        for where in ("obs", "next_obs"):
            empty[f"{where}/object"] = np.zeros((0, 10))
    data = replay.load(path, dones="terminated")
    assert data.lengths.tolist() == [3, 2, 3] and all(e.terminated[-1] for e in data)
    assert data[1].obs["state"][:, 0].tolist() == [1, 1, 2] and data[1].reward.tolist() == [0, 0, 0]
    assert data.notes == (
        "demo_1 goes on after it is done at step 1: that is left out",
        "demo_11 has no whole transition and is left out",
        "observations that are left out, as keys= does not name them: extra",
    )
    assert replay.load(path, dones="truncated").lengths.tolist() == [3, 3, 3]
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/object"]
        file["data/demo_0/obs/object"] = np.zeros((4, 10))
    with pytest.raises(ValueError, match=r"all arrays must have one length.*'demo_0/obs/object': 4"):
        replay.load(path, dones="truncated")


# ----------------------------------------------------------------------------------------------------------------- the border


def test_hdf5_links_claims_and_damage(tmp_path):
    good = write(tmp_path / "good.hdf5", d4rl())
    with h5py.File(tmp_path / "links.hdf5", "w") as file:
        for name in d4rl():
            file[name] = h5py.ExternalLink("good.hdf5", name)
    with pytest.raises(ValueError, match="of no layout that is known; it holds nothing"):
        replay.load(tmp_path / "links.hdf5")
    minari(tmp_path / "minari.hdf5")
    with h5py.File(tmp_path / "minari.hdf5", "a") as file:
        file["episode_0"], file["episode_3"] = file["episode_2"], h5py.ExternalLink("elsewhere.hdf5", "/secret")
    with pytest.raises(
        ValueError, match="minari.hdf5: episode_3 is a link to /secret in elsewhere.hdf5, which is not followed"
    ):
        replay.load(tmp_path / "minari.hdf5")
    robomimic(tmp_path / "soft.hdf5")
    with h5py.File(tmp_path / "soft.hdf5", "a") as file:
        del file["data/demo_1/obs"]
        file["data/demo_1/obs"] = h5py.SoftLink("/data/demo_0/obs")
    with pytest.raises(ValueError, match="soft.hdf5: data/demo_1/obs is a link to /data/demo_0/obs, which is not followed"):
        replay.load(tmp_path / "soft.hdf5", dones="truncated")
    with h5py.File(tmp_path / "laugh.hdf5", "w") as file:  # 10^15 paths to one array
        inner = file.create_group("0")
        for i in range(1, 15):
            outer = file.create_group(f"g{i}")
            for k in range(10):
                outer[str(k)] = inner
            inner = outer
        file["0/x"] = np.zeros(3)
    with pytest.raises(ValueError, match="of no layout that is known"):
        replay.load(tmp_path / "laugh.hdf5")
    with h5py.File(tmp_path / "virtual.hdf5", "w") as file:
        for name, values in d4rl().items():
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(good), name, values.shape)
            file.create_virtual_dataset(name, layout)
    with pytest.raises(ValueError, match="virtual.hdf5: .* lies in another file, which is not followed"):
        replay.load(tmp_path / "virtual.hdf5")
    columns = d4rl()
    columns.pop("observations")
    path = write(tmp_path / "claims.hdf5", columns)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (10**9, 1000), "f4", chunks=(1000, 1000))
    with pytest.raises(ValueError, match="claims 4000000000000 bytes and stores 0: the file was never filled"):
        replay.load(path)
    half = tmp_path / "half.hdf5"
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(ValueError, match="half.hdf5 is HDF5 that cannot be read: only a part of it is there"):
        replay.load(half)
    with h5py.File(tmp_path / "text.hdf5", "w") as file:
        for name, values in d4rl(rewards=None).items():
            file[name] = values
        file["rewards"] = ["one"] * N
    with pytest.raises(ValueError, match="text.hdf5: rewards holds text"):
        replay.load(tmp_path / "text.hdf5")
    with h5py.File(tmp_path / "text.hdf5", "a") as file:
        del file["rewards"]
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((N,)))
    with pytest.raises(ValueError, match="text.hdf5: rewards holds structures"):
        replay.load(tmp_path / "text.hdf5")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.hdf5", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*git lfs pull"),
        ("x.npz", b"<html>", "web page"),
        ("x.hdf5", b"", "is empty, 0 bytes"),
        ("x.npy", b"\x93NUMPY\x01\x00", "one array"),
        ("x.h5", b"\x1f\x8b123", "gunzip"),
    ],
)
def test_what_is_no_dataset_is_one_message(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        replay.load(tmp_path / name)


def test_names_do_not_matter_and_nothing_is_named(tmp_path):
    write(tmp_path / "data.npz", d4rl())  # HDF5 by another name
    assert replay.load(tmp_path / "data.npz").format == "D4RL"
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "a folder without data"), (tmp_path / "none", "there is no dataset")):
        with pytest.raises(ValueError, match=message):
            replay.load(path)
    with pytest.raises(ValueError, match="nothing is there"):
        replay.load(str(tmp_path / "*.none"))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="of no layout that is known; it holds x. Known are"):
        replay.load(tmp_path / "other.npz")


def test_unlike_files_do_not_join(tmp_path):
    write(tmp_path / "a.hdf5", d4rl())
    write(tmp_path / "b.hdf5", d4rl(observations=np.zeros((N, 3)), next_observations=np.zeros((N, 3))))
    with pytest.raises(ValueError, match=r"b.hdf5 does not go with .*a.hdf5: obs is float32\[3\] there, float32\[2\] here"):
        replay.load([tmp_path / "a.hdf5", tmp_path / "b.hdf5"])
    write(tmp_path / "b.hdf5", d4rl())
    both = replay.load(str(tmp_path / "*.hdf5"))
    assert len(both) == 6 and both.returns.tolist() == [10, 11, 24] * 2


def test_options_are_checked():
    assert found.reading(ignore="a,b", keys="c").ignore == ("a", "b")
    with pytest.raises(ValueError, match="horizn"):
        found.reading(horizn=3)
