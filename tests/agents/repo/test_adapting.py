"""The agent that adapts RePo's encoder: what changes and what stays, what calibration compares, what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import agents, replay
from rlx.agents.repo import adapting, world
from rlx.agents.repo.networks import Net
from rlx.dynamics.rssm import Filtered, Latent
from rlx.nn.mlp import MLP
from rlx.train import Options, run
from rlx.types import Clock, Problem

from ..settings import dataset
from .worlds import SMALL, make

CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))
QUIET = Options(progress=False, log_every=1)
SIZES = {f"repo.{k}": v for k, v in SMALL.items() if k not in ("batch", "chunk")}
SHORT = SIZES | {
    "env_steps": 36, "n_envs": 2, "pairs": 24, "collect": 6, "updates": 2, "batch": 3, "chunk": 4, "head_updates": 2,
    "hidden": 8, "latent": 3, "head_hidden": 8, "eval_every": 10**6, "eval_episodes": 2,
}  # fmt: skip


@functools.cache
def learned():
    """What RePo begins with, as if it had learned, and rows of a world without a second dot."""
    clean = make(paired=True, second=0.0)
    agent = agents.make("repo", None, Problem({"train": clean}), **SMALL | {"env_steps": 48, "prefill": 12})
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    state.learned["told"]["updates"] = jnp.int32(7)
    return jax.tree.map(np.asarray, state), dataset(clean, episodes=3, length=7)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def only_the_encoder_moved(before, after):
    for name in before["params"]:
        assert same(before["params"][name], after["params"][name]) == (name != "encoder"), name
    assert same(before["params"]["encoder"], after["source"]) and same(after["params"]["encoder"], after["adapt"].encoder)


@pytest.mark.slow
def test_a_run_goes_through_all_stages_and_changes_the_encoder_alone():
    state, data = learned()
    problem = Problem({"train": make(paired=True, second=0.8)}, {"data": data})
    agent = agents.make("repo_adapt", None, problem, how="support", calibration="pair", **SHORT)
    assert [stage.name for stage in agent.stages] == ["check", "calibrate", "head", "adapt"]
    lines = []
    done = run(agent, problem, 1, options=QUIET, init_from=state, callback=lambda line, s: lines.append(line))
    only_the_encoder_moved(state.learned, done.agent.learned)
    last = [x for x in lines if x["kind"] == "train"][-1]
    said = {"critic/loss", "critic/kl", "encoder/alignment", "encoder/calibration", "weight/mean"}
    assert said <= set(last) and all(np.isfinite(last[k]) for k in said)
    rows = replay.buffer.stored(done.sources["pairs"])
    assert (np.asarray(rows.obs["pixels"]) != np.asarray(rows.obs["clean"])).any()
    assert [x["stage"] for x in lines if x["kind"] == "eval"] == ["calibrate", "adapt"]  # before, and after


@pytest.mark.parametrize(
    ("how", "calibration", "said"),
    [
        ("support", "simple", {"critic/loss", "critic/kl", "critic/price", "weight/mean", "weight/multiplier"}),
        ("distribution", "none", {"critic/loss", "critic/kl", "critic/price"}),
        ("none", "simple", set()),
        ("finetune", "none", {"encoder/reward_loss", "encoder/kl", "dual/beta"}),
    ],
)
def test_an_update_says_what_it_does(how, calibration, said):
    state, data = learned()
    agent = agents.make("repo_adapt", None, Problem({"train": make(paired=True)}, {"data": data}), how=how,
                        calibration=calibration, **SHORT)  # fmt: skip
    stage = agent.stages[-1]
    sources = {name: data for name in ("data", "replay", "pairs")}
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    begun = stage.enter(state._replace(hyper=hyper), sources, jax.random.key(3))
    batch = stage.phases[1].sample(hyper, CLOCK, sources, jax.random.key(4))
    after, out = jax.jit(stage.phases[1].update)(begun, CLOCK, batch, jax.random.key(5))
    only_the_encoder_moved(state.learned, after.learned)
    more = {"encoder/calibration"} if how != "finetune" else set()
    more |= {"encoder/alignment"} if how in ("support", "distribution") else set()
    assert set(out.metrics) == said | more and all(np.isfinite(x) for x in out.metrics.values())
    assert same(state.learned["log_beta"], after.learned["log_beta"]) == (how != "finetune")


def test_what_calibration_costs_is_of_the_source_without_distractor_and_of_the_target_with_it():
    state, data = learned()
    agent = agents.make("repo_adapt", None, Problem({"train": make(paired=True)}, {"data": data}), how="none", **SHORT)
    stage, sources = agent.stages[-1], {name: data for name in ("data", "replay", "pairs")}
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    begun = stage.enter(state._replace(hyper=hyper), sources, jax.random.key(3))
    batch = stage.phases[1].sample(hyper, CLOCK, sources, jax.random.key(4))
    update = jax.jit(stage.phases[1].update)
    with_pairs = lambda **obs: {**batch, "pairs": batch["pairs"]._replace(obs={**batch["pairs"].obs, **obs})}

    same_picture = with_pairs(clean=batch["pairs"].obs["pixels"])  # minus the density of a unit Gaussian at its mean
    after, out = update(begun, CLOCK, same_picture, jax.random.key(5))
    np.testing.assert_allclose(out.metrics["encoder/calibration"], 0.5 * np.log(2 * np.pi), rtol=1e-5)
    assert same(after.learned["adapt"].encoder, begun.learned["source"])

    adapt, other = begun.learned["adapt"], with_pairs(clean=255 - batch["pairs"].obs["pixels"])
    elsewhere = adapt._replace(encoder=jax.tree.map(lambda x: 1.1 * x, adapt.encoder))
    moved = begun._replace(learned={**begun.learned, "adapt": elsewhere})
    net = Net.of(agent.config.repo, make(paired=True).spec)
    seen = lambda params, name: np.asarray(net.embed({"encoder": params}, other["pairs"].obs[name]), np.float64)
    source, target = seen(begun.learned["source"], "clean"), seen(elsewhere.encoder, "pixels")
    cost = update(moved, CLOCK, other, jax.random.key(5))[1].metrics["encoder/calibration"]
    np.testing.assert_allclose(cost, (0.5 * (source - target) ** 2).mean() + 0.5 * np.log(2 * np.pi), rtol=1e-5)


def test_calibration_acts_by_the_picture_without_distractor():
    state, data = learned()
    env = make(paired=True, second=0.8)
    agent = agents.make("repo_adapt", None, Problem({"train": env}, {"data": data}), **SHORT)
    step = jax.tree.map(lambda x: x[None], env.reset({}, jax.random.key(0))[1])
    own = state._replace(hyper={k: jnp.float32(v) for k, v in agent.hyper.items()})
    act = lambda obs, mode: agent.act(own, None, agent.carry(own, 1), step._replace(obs=obs), jax.random.key(1), mode)[0]
    other = step.obs | {"pixels": step.obs["clean"]}
    assert np.array_equal(act(step.obs, "source"), act(other, "eval")) and not np.array_equal(
        act(step.obs, "eval"), act(other, "eval")
    )


def test_the_model_of_actions_reads_where_they_were_taken_and_where_they_led():
    """One layer of weights 1 on one number each: of the belief 1, the state 2 and the next belief 4 the mean is 7, of deviation
    softplus(0) + 0.1 = 0.793."""
    head = MLP((2,))
    kernel = jnp.stack([jnp.ones(3), jnp.zeros(3)], 1)
    params = {"params": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(2)}}}
    latent = lambda h, s: Filtered(Latent(jnp.float32(h)[:, None, None], jnp.float32(s)[:, None, None]), None, None)
    before, after = latent([1, 5, 9], [2, 6, 0]), latent([0, 4, 3], [0, 0, 0])
    action = jnp.float32([50, 7.5, 40])[:, None, None]
    w = world.Window(action, None, None, jnp.array([[True], [True], [False]]), None)
    std = np.log(2) + 0.1
    expected = 0.5 * (0.5 / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)
    assert adapting.inverse_loss(head, params, before, after, w) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_adapted_is_one_message():
    _, data = learned()
    env = make(paired=True)
    given = lambda **more: agents.make("repo_adapt", None, Problem({"train": env}, {"data": data}), **SHORT | more)
    with pytest.raises(ValueError, match="nothing to do"):
        given(how="none", calibration="none")
    with pytest.raises(ValueError, match="chunk=9 rows, and collect="):
        given(chunk=9)
    with pytest.raises(ValueError, match="pairs=2 over n_envs="):
        given(pairs=2)
    with pytest.raises(ValueError, match="capacity=4 over n_envs="):
        given(capacity=4)
    assert "pairs" not in given(pairs=2, how="finetune").buffers  # which takes none
    with pytest.raises(ValueError, match="--data"):
        agents.make("repo_adapt", None, Problem({"train": env}), **SHORT)
    with pytest.raises(ValueError, match="paired=true"):
        agents.make("repo_adapt", None, Problem({"train": make()}, {"data": data}), **SHORT)
    agent = given(how="none")
    with pytest.raises(ValueError, match="--init-from"):
        run(agent, Problem({"train": env}, {"data": data}), 0, options=QUIET)


def test_a_batch_of_each():
    """`rlx.replay.beside`: every sampler draws from its own source."""
    data = learned()[1]
    one = lambda source, n: replay.sequences(n, 2, source=source)
    sampler = replay.beside(long=one("a", 5), short=one("b", 3))
    batch = sampler({}, None, {"a": data, "b": data}, jax.random.key(0))
    assert sampler.sources == ("a", "b") and not sampler.prioritised
    assert batch["long"].reward.shape == (2, 5) and batch["short"].reward.shape == (2, 3)


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on_bit_for_bit(tmp_path):
    """While it adapts, with all that adapting has learned: encoder, critic, weights, their optimisers, the pairs."""
    state, data = learned()
    problem = Problem({"train": make(paired=True, second=0.8)}, {"data": data})
    agent = agents.make("repo_adapt", None, problem, **SHORT)
    options = Options(progress=False, log_every=1, checkpoint_cycles=1)

    class Stop(Exception):
        pass

    def stop(line, now):
        if line["kind"] == "train" and line["stage"] == "adapt" and line["cycle"] == 2:
            raise Stop

    whole = run(agent, problem, 1, options=QUIET, init_from=state)
    with pytest.raises(Stop):
        run(agent, problem, 1, tmp_path / "cut", options=options, init_from=state, callback=stop)
    resumed = run(agent, problem, 1, tmp_path / "cut", options=options, init_from=state)
    assert int(resumed.counts["updates"]) == int(whole.counts["updates"]) > 0
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole.agent.learned), jax.tree.leaves(resumed.agent.learned), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert same(whole.sources["pairs"].data, resumed.sources["pairs"].data)
