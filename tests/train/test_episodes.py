"""Training lines say what the episodes that ended came to."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.envs import batch, make
from rlx.train import Stop, run
from rlx.train.logging import read
from rlx.train.phases import follow
from rlx.types import Collect, Members, RolloutState, Row, Stage
from tests.train.toys import QUIET, toy


def rows(reward, first, last, valid=None):
    """[T, W] from one string or list per stream."""
    of = lambda text: np.array([[c == "x" for c in stream] for stream in text]).T
    reward, no = np.array(reward, np.float32).T, np.zeros(np.shape(of(last)), bool)
    valid = ~no if valid is None else of(valid)
    return Row(reward, reward, of(last), no, of(first), {}, no, {}, valid)


def so_far(returns, lengths):
    nothing = np.zeros(len(returns), bool)
    return RolloutState((), (), (), nothing, np.array(returns, np.float32), np.array(lengths, np.int32))


@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
def test_by_hand(xp):
    """Of 10 in 4 decisions the first stream adds 1 and ends; then a first row, 2 + 3, an end; a first row, and 7 goes on. The
    second adds 1 to 0.5 four times and goes on, the third was over from the start."""
    r = rows(
        [[1, 0, 2, 3, 0, 7], [1, 1, 1, 1, 0, 0], [9, 9, 9, 9, 9, 9]],
        [".x..x.", "......", "......"],
        ["x..x..", "......", "xxxxxx"],
        ["xxxxxx", "xxxx..", "......"],
    )
    before = so_far([10, 0.5, 3], [4, 1, 2])
    after, ended = follow(before, before, jax.tree.map(xp.asarray, r))
    assert (int(ended.count), float(ended.returns), int(ended.lengths)) == (2, 11 + 5, 5 + 2)
    assert after.episode_return.tolist() == [7, 4.5, 3] and after.episode_length.tolist() == [1, 5, 2]
    assert ended.returns.dtype == np.float32 and after.episode_length.dtype == np.int32


def test_by_hand_with_members():
    one = rows([[1, 2], [0, 1]], ["..", "x."], ["x.", ".."])
    both = jax.tree.map(lambda x: np.stack([x, x[::-1]]), one)  # [M, T, W]
    before = jax.tree.map(lambda x: np.stack([x, x]), so_far([0, 0], [0, 0]))
    after, ended = follow(before, before, both)
    assert ended.count.tolist() == [1, 1] and ended.returns.tolist() == [1, 3] and ended.lengths.tolist() == [1, 2]
    assert after.episode_return.tolist() == [[2, 1], [0, 1]]


def collecting(env):
    """Two streams, four decisions in each of six cycles, all rows kept."""
    agent, problem = toy(stages=(Stage("learn", 6, (Collect("train", 4, "replay"),)),))
    return replace(agent, envs={"train": batch(make(env, time_limit=5), 2)}, evals=()), problem


def lines_of(folder):
    keys = ("episodes", "episode_return", "episode_length")
    return [[line.get(k) for k in keys] for line in read(folder) if line["kind"] == "train"]


@pytest.mark.parametrize("env", ["rlx:pendulum", "gym:Pendulum-v1"])
def test_lines_agree_with_the_rows(tmp_path, env):
    """Episodes are 6 rows, 5 of them decisions: they end in cycles 2, 3, 5 and 6."""
    agent, problem = collecting(env)
    state = run(agent, problem, jax.random.key(0), tmp_path / "run", options=QUIET)
    found = lines_of(tmp_path / "run")
    assert [n for n, _, _ in found] == [None, 2, 2, None, 2, 2] and [x for _, _, x in found] == [None, 5, 5, None, 5, 5]
    whole = [e.reward.sum() for e in replay.export(state.sources["replay"]) if e.last[-1] and e.first[0]]
    returns = np.array(whole).reshape(2, 4).mean(0)  # of both streams, in the order in which they end
    np.testing.assert_allclose([r for _, r, _ in found if r], returns, rtol=1e-5)

    def stop(line, state):
        if line["cycle"] == 4:
            raise Stop

    run(agent, problem, jax.random.key(0), tmp_path / "twice", options=QUIET, callback=stop)
    run(agent, problem, jax.random.key(0), tmp_path / "twice", options=QUIET)
    assert lines_of(tmp_path / "twice") == found  # what an episode had got so far was kept


@pytest.mark.parametrize("env", ["rlx:pendulum", "gym:Pendulum-v1"])
def test_each_member_has_its_own(tmp_path, env):
    agent, problem = collecting(env)
    everyone = jax.random.split(jax.random.key(0), 2)
    run(agent, problem, Members(everyone), tmp_path / "both", options=QUIET)
    both = lines_of(tmp_path / "both")
    for m in range(2):
        run(agent, problem, everyone[m], tmp_path / f"{m}", options=QUIET)
        mine = [[x and x[m] for x in line] for line in both]
        alone = lines_of(tmp_path / f"{m}")
        assert [x[0] for x in mine] == [x[0] for x in alone] and [x[2] for x in mine] == [x[2] for x in alone]
        np.testing.assert_allclose([x[1] for x in mine if x[1]], [x[1] for x in alone if x[1]], rtol=1e-5)
