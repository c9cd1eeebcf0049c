"""Observations that are dicts: their leaves on the way into replay, and vectors made of them."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.envs.observations import as_vectors, described, named
from rlx.envs.wrappers import as_vector, flatten_observation, normalize_observation
from rlx.keys import HostKey
from rlx.nn import normalize
from rlx.replay import datasets
from rlx.train import Options, run
from rlx.train.run_config import RunConfig
from rlx.types import Agent, AgentState, Collect, Leaf, Problem, Spec, Stage
from tests.envs.gym_fixtures import LENGTH

MODULE = "gym:tests.envs.gym_fixtures:"
KEY = HostKey(np.array([[3, 4]], np.uint32), 2)


def play(vec, steps=7):
    rng = np.random.default_rng(0)
    state, step = vec.reset(vec.params, KEY)
    out = [step]
    for t in range(steps):
        action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        state, step = vec.step(vec.params, state, action, KEY.at(t + 1))
        out.append(step)
    vec.close()
    return jax.tree.map(lambda *x: np.stack(x), *out)


def test_leaves_keep_their_names_shapes_and_dtypes():
    spec = rlx.envs.make(f"{MODULE}RlxCamera-v0").spec
    wanted = {"goal": ((1,), "float32"), "arm/position": ((2,), "float32"), "arm/velocity": ((2,), "float32")}
    wanted |= {"camera": ((4, 6, 3), "uint8")}
    assert {k: (x.shape, np.dtype(x.dtype).name) for k, x in named(spec.obs).items()} == wanted
    assert spec.obs["camera"].high.max() == 255 and spec.obs["arm"]["velocity"].low.tolist() == [-9, -9]


@pytest.mark.parametrize("how", [{"workers": 2}, {"vectorize": "sync"}])
def test_every_way_to_step_gives_the_same_dicts(how):
    steps = play(rlx.envs.make(f"{MODULE}RlxCamera-v0").make(2, "reset"))
    assert steps.obs["camera"].dtype == np.uint8 and steps.obs["camera"].shape == (8, 2, 4, 6, 3)
    assert steps.obs["camera"][:, 0, 0, 0, 0].tolist() == [200, 201, 202, 203, 204, 205, 200, 201]
    others = play(rlx.envs.make(f"{MODULE}RlxCamera-v0", **how).make(2, "reset"))
    rows = LENGTH + 1 if "vectorize" in how else 8  # Gymnasium's autoreset seeds later episodes by itself
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:rows], b[:rows]), steps, others)
    assert others.obs["camera"].dtype == np.uint8


def test_the_contract_holds_for_dicts():
    assert rlx.envs.check(rlx.envs.make(f"{MODULE}RlxCamera-v0"), steps=30).exact_resume


def looker(env) -> Agent:
    """Acts by the image and stores what it sees."""

    def act(state, clock, carry, step, key, mode):
        bright = step.obs["camera"].astype(jnp.float32).mean((1, 2, 3)) / 255 - 0.5
        return jnp.stack([bright, step.obs["arm"]["position"][:, 0] * 0], -1), carry, {}

    return Agent(
        "looker",
        None,
        {},
        lambda key, hyper: AgentState(hyper, {}),
        act,
        (Stage("look", 2, (Collect("train", 6, "replay"),)),),
        envs={"train": rlx.envs.batch(env, 2)},
        buffers={"replay": replay.ring(14, 2)},
    )


def test_images_and_floats_go_into_replay_as_they_are():
    env = rlx.envs.make(f"{MODULE}RlxCamera-v0")
    state = run(looker(env), Problem({"train": env}), jax.random.key(0), options=Options(progress=False))
    stored = state.sources["replay"].data.obs
    assert stored["camera"].dtype == np.uint8 and stored["camera"].shape == (14, 2, 4, 6, 3)
    assert {str(x.dtype) for x in jax.tree.leaves({**stored, "camera": stored["goal"]})} == {"float32"}
    times = [200 + t % (LENGTH + 1) for t in range(12)]
    assert np.asarray(stored["camera"])[:12, 1, 3, 5, 2].tolist() == times
    moved = np.diff(np.asarray(stored["arm"]["position"])[:6, 0, 0])
    np.testing.assert_allclose(moved, 2 * ((np.arange(200, 205) / 255) - 0.5), rtol=1e-5)
    sample = replay.transitions(4, n=1)(
        {"discount": jnp.float32(0.9)}, None, {"replay": state.sources["replay"]}, jax.random.key(1)
    )
    assert sample.obs["camera"].dtype == np.uint8 and sample.obs["arm"]["velocity"].shape == (4, 2)


# ----------------------------------------------------------------------------------------------------------------- vectors


def test_dicts_of_floats_become_vectors_in_the_order_of_their_names():
    env = rlx.envs.make(f"{MODULE}RlxArm-v0")
    vector = as_vector(env)
    assert vector.spec.obs.shape == (5,) and vector.spec.native_obs == env.spec.obs and as_vector(vector) is vector
    np.testing.assert_array_equal(vector.spec.obs.high, [99, 99, 9, 9, 1])
    tree, flat = play(env.make(2, "reset")).obs, play(vector.make(2, "reset")).obs
    parts = [tree["arm"]["position"], tree["arm"]["velocity"], tree["goal"]]
    np.testing.assert_array_equal(flat, np.concatenate(parts, -1))
    assert flat.dtype == np.float32 and rlx.envs.check(vector, steps=30).exact_resume


def test_what_is_no_vector_is_refused_by_name():
    with pytest.raises(ValueError, match="RlxCamera-v0 has observations .*camera uint8.*these are none: camera"):
        as_vector(rlx.envs.make(f"{MODULE}RlxCamera-v0"))
    plain = rlx.envs.make("rlx:pendulum")
    assert as_vector(plain) is plain
    image = replace(plain, spec=replace(plain.spec, obs=Leaf((8, 8, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"uint8\[8, 8, 3\], which are no vector"):
        as_vector(image)
    whole = replace(plain, spec=replace(plain.spec, obs={"count": Leaf((2,), np.int32), "x": Leaf((3,))}))
    with pytest.raises(ValueError, match="these are none: count"):
        flatten_observation(whole)
    assert described({"a": {"b": Leaf((2,))}}) == "a/b float32[2]" and described(Leaf((), bool)) == "bool[]"


def test_agents_see_vectors_unless_they_say_otherwise(monkeypatch):
    env = rlx.envs.make(f"{MODULE}RlxArm-v0")
    assert agents.seen_by("sac", env).spec.obs.shape == (5,)
    with pytest.raises(ValueError, match="^sac takes observations that are vectors: .*camera"):
        agents.seen_by("sac", rlx.envs.make(f"{MODULE}RlxCamera-v0"))
    monkeypatch.setattr("rlx.agents.sac.OBSERVATIONS", "any", raising=False)
    assert agents.seen_by("sac", env) is env


def test_a_normalised_vector_is_not_what_the_environment_emits():
    env = normalize_observation(as_vector(rlx.envs.make(f"{MODULE}RlxArm-v0")), normalize.init((5,)))
    assert env.spec.native_obs is None


# -------------------------------------------------------------------------------------------------- modules, keys of the infos


def test_ids_are_written_as_gymnasium_does():
    name = f"{MODULE}RlxArm-v0"
    env = rlx.envs.make(name, time_limit=3)
    assert env.name == name and env.spec.horizon == 3 and "RlxArm-v0" in gymnasium.registry
    with pytest.raises(ValueError, match="needs the module 'no.such', which cannot be imported"):
        rlx.envs.make("gym:no.such:Env-v0")
    with pytest.raises(ValueError, match="tests.envs.gym_fixtures was imported and does not register it"):
        rlx.envs.make(f"{MODULE}RlxLeg-v0")


@pytest.mark.parametrize("how", [{}, {"vectorize": "sync"}, {"workers": 2}])
def test_keys_of_the_infos_become_leaves(how):
    keys = {"effort": "sum", "place": "last"}
    env = rlx.envs.make(f"{MODULE}RlxArm-v0", info_keys=keys, **how)
    told = {"success": Leaf((), reduce="any"), "effort": Leaf((), reduce="sum"), "place": Leaf((2,))}
    assert env.spec.info == told | dict.fromkeys(("solved", "solved_sticky"), Leaf((), bool, reduce="any"))
    steps = play(env.make(2, "reset"))
    np.testing.assert_array_equal(steps.info["place"][steps.first], steps.obs["arm"]["position"][steps.first])
    np.testing.assert_array_equal(steps.info["place"][~steps.first], steps.obs["arm"]["position"][~steps.first])
    assert (steps.info["effort"][~steps.first] > 0).all() and not steps.info["effort"][steps.first].any()
    np.testing.assert_array_equal(steps.info["success"] > 0, steps.truncated)


def test_infos_of_several_steps_become_one_by_their_reduction():
    keys = {"effort": "sum", "place": "last"}
    one, two = (rlx.envs.make(f"{MODULE}RlxArm-v0", repeat=r, info_keys=keys).make(1, "reset") for r in (1, 2))
    key, action = HostKey(np.array([[3, 4]], np.uint32), 1), np.array([[0.5, -0.2]], np.float32)
    (s1, _), (s2, _) = one.reset(None, key), two.reset(None, key)
    _, both = two.step(None, s2, action, key)
    total = 0.0
    for _ in range(2):
        s1, step = one.step(None, s1, action, key)
        total += step.info["effort"][0]
    assert both.info["effort"][0] == pytest.approx(total) and total > 0
    np.testing.assert_array_equal(both.info["place"], step.info["place"])


def test_a_key_may_be_reduced_in_several_ways():
    """Of two steps in one decision the first way counts: the greatest."""
    env = rlx.envs.make(f"{MODULE}RlxArm-v0", info_keys={"effort": ["max", "mean"]}, repeat=2)
    assert env.spec.info["effort"].reduces == {"_max": "max", "_mean": "mean"}
    single = rlx.envs.make(f"{MODULE}RlxArm-v0", info_keys={"effort": "max"}, repeat=2)
    a, b = (play(e.make(2, "reset")).info["effort"] for e in (env, single))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("RlxArm-v0", {"effort": ["max", "median"]}, r"has \('max', 'median'\) for 'effort'"),
        ("RlxArm-v0", {"speed": "last"}, "asks for 'speed'; the infos of this environment have place, effort, word, success"),
        ("RlxArm-v0", {"effort": "median"}, "has 'median' for 'effort'.*any, sum, max, mean, last"),
        ("RlxArm-v0", {"word": "last"}, "'word', which holds 'arm': only numbers"),
    ],
)
def test_keys_that_cannot_be_kept_are_refused(task, keys, message):
    with pytest.raises(ValueError, match=message):
        rlx.envs.make(f"{MODULE}{task}", info_keys=keys)


def test_an_info_that_changes_its_shape_is_refused():
    with pytest.raises(ValueError, match=r"info\['place'\] has shape \(3,\) here, at first it had \(2,\)"):
        play(rlx.envs.make(f"{MODULE}RlxShifty-v0", info_keys={"place": "last"}).make(2, "reset"))


def test_a_spec_says_what_its_vector_was_made_of():
    assert Spec(Leaf((3,)), Leaf((1,))).native_obs is None


def test_dicts_of_a_dataset_become_vectors_as_those_of_the_environment_do(tmp_path, monkeypatch):
    """Positions, velocities, goal: in the order of their names. A relative path holds from wherever the run is read."""
    obs = {"goal": np.full((4, 1), 9), "arm": {"velocity": np.full((4, 2), 3), "position": np.full((4, 2), 1)}}
    episode = {"obs": jax.tree.map(np.float32, obs), "action": np.zeros((4, 2)), "reward": np.zeros(4)}
    monkeypatch.chdir(tmp_path)
    rows = replay.from_episodes([{**episode, "terminated": np.zeros(4, bool)}])
    datasets.write(tmp_path / "arm.npz", replay.export(rows))
    chosen = RunConfig("bc", f"{MODULE}RlxArm-v0", None, time_limit=LENGTH, data="arm.npz")
    monkeypatch.chdir("/")
    problem = chosen.problem()
    assert problem.envs["train"].spec.obs.shape == (5,)
    np.testing.assert_array_equal(problem.data["data"].data.obs, np.tile([1, 1, 3, 3, 9], (4, 1, 1)))
    with pytest.raises(ValueError, match=r"obs of the data 'data' is arm/position float32\[2\].*RlxCamera-v0 is arm"):
        as_vectors(rows, rlx.envs.make(f"{MODULE}RlxCamera-v0"), "data")
