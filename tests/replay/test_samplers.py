from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.types import Clock
from tests.replay.coded import CLOCK, HYPER, World, chi_square, codes, fill, histogram, rewards, sample

LENGTHS = [[5, 3, 7], [4], [9, 2]]
DRAWS = 40_000
ALPHA = 1e-4  # keys are fixed: a test that passes once passes always


@pytest.fixture(scope="module")
def wrapped():
    """A ring that has gone around, with padding: rows 14 to 44 are stored, 45 is the tail."""
    world = World(LENGTHS, invalid=lambda stream, time: stream == 1 and time in (20, 33))
    _, state = fill(world, 32, [15, 15, 15], priorities=True)
    return world, state


def test_transitions_are_uniform(wrapped):
    world, state = wrapped
    cells = sorted(world.pairs(14, 45))
    counts = histogram(codes(sample(replay.transitions(DRAWS), {"replay": state}).obs), cells)
    assert chi_square(counts, np.ones(len(cells))) > ALPHA


def test_uniform_where_nearly_everything_is_refused():
    """Rejection gives up and the exact count takes over: 1 in 25 rows may begin a window."""
    world = World([[2] * 23 + [6]])
    _, state = fill(world, 64, [52])
    sampler = replay.sequences(DRAWS, 5)
    out = sample(sampler, {"replay": state})
    cells = [(0, 46), (0, 47)]
    counts = histogram(codes(out.obs)[0], cells)
    assert chi_square(counts, np.ones(2)) > ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("length", "cross"), [(1, False), (3, False), (4, True), (17, True)])
def test_sequences_are_uniform_whole_and_in_order(wrapped, length, cross):
    world, state = wrapped
    out = sample(replay.sequences(DRAWS, length, cross=cross), {"replay": state})
    found, pairs = codes(out.obs), world.pairs(14, 45)
    assert (np.diff(found, axis=0) == [0, 1]).all()
    newest = 44 if length == 1 else 45
    cells = []
    for w in range(3):
        for t in range(14, newest - length + 2):
            window = range(t, t + length)
            whole = not any(world.invalid(w, i) for i in window)
            if whole and (cross or all((w, i) in pairs for i in window[:-1])):
                cells.append((w, t))
    assert chi_square(histogram(found[0], cells), np.ones(len(cells))) > ALPHA
    np.testing.assert_array_equal(out.extras["z"], 1000 * found[..., 0] + found[..., 1])
    assert cross or not np.asarray(out.first)[1:].any()


def test_uniform_for_members_and_inside_a_loop(wrapped):
    """Two members that hold different rows, drawn under vmap in a loop."""
    world, state = wrapped
    other = World(LENGTHS)
    _, short = fill(other, 32, [3], priorities=True)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), state, short)
    sampler = replay.transitions(500)

    def run(state, key):
        def one(i, total):
            index = sampler(HYPER, CLOCK, {"replay": state}, jax.random.fold_in(key, i)).index
            return total.at[index.t, index.w].add(1)

        return jax.lax.fori_loop(0, 20, one, jnp.zeros((32, 3), jnp.int32))

    counts = np.asarray(jax.jit(jax.vmap(run))(both, jax.random.split(jax.random.key(5), 2)))
    for m, (s, allowed) in enumerate([(state, world.pairs(14, 45)), (short, other.pairs(0, 3))]):
        time, stream = np.asarray(s.data.info["t"]), np.arange(3)
        p = np.array([[(w, time[t, w]) in allowed for w in stream] for t in range(32)], float)
        p[time[:, 0] == 0] *= (np.arange(32) == 0)[time[:, 0] == 0, None]  # rows never written look like time 0
        assert chi_square(counts[m].reshape(-1), p.reshape(-1)) > ALPHA


def test_n_step_by_hand():
    """Rewards 1, 2, 4 after the actions of rows 0 to 2; discount 1/2; the episode ends at row 3."""
    for terminated in (True, False):
        episode = {"obs": np.arange(4.0)[:, None], "action": np.zeros((4, 1)), "reward": np.array([0, 1, 2, 4.0])}
        episode["terminated"] = np.array([False, False, False, terminated])
        data = replay.from_episodes([episode])
        out = sample(replay.transitions(64, n=2), {"replay": data}, hyper={"discount": jnp.float32(0.5)})
        by_start = {int(o): (float(r), float(d), float(x)) for o, r, d, x in
                    zip(out.obs[:, 0], out.reward, out.discount, out.next_obs[:, 0], strict=True)}  # fmt: skip
        end = 0.0 if terminated else 1.0
        assert by_start == {0: (2.0, 0.25, 2.0), 1: (4.0, 0.25 * end, 3.0), 2: (4.0, 0.5 * end, 3.0)}


@pytest.mark.parametrize("n", [1, 4])
def test_n_step_equals_a_plain_loop(wrapped, n):
    world, state = wrapped
    out = sample(replay.transitions(2000, n=n), {"replay": state})
    pairs, gamma = world.pairs(14, 45), 0.9
    for i, (w, t) in enumerate(codes(out.obs)):
        total, k = 0.0, 0
        while k < n and (w, t + k) in pairs:
            total += gamma**k * float(rewards(w, t + k + 1))
            k += 1
        terminated = world.flags(w, t + k)[1]
        assert codes(out.next_obs)[i].tolist() == [w, t + k]
        assert float(out.discount[i]) == pytest.approx(0.0 if terminated else gamma**k, rel=1e-5)
        assert float(out.reward[i]) == pytest.approx(total, rel=1e-4, abs=1e-5)
        assert bool(out.terminated[i]) == terminated


def test_priorities_are_drawn_in_proportion_and_weighed_by_hand(wrapped):
    world, state = wrapped
    weight = np.random.default_rng(0).uniform(0.1, 5, (32, 3)).astype(np.float32)
    weight[20] = 0
    state = state._replace(index=state.index._replace(priority=jnp.asarray(weight)))
    out = sample(replay.transitions(DRAWS, priorities=True), {"replay": state})
    time = np.asarray(state.data.info["t"])
    place = {(w, time[t, w]): (t, w) for t in range(32) for w in range(3)}
    cells = sorted(world.pairs(14, 45))
    p = np.array([weight[place[c]] for c in cells]) ** 0.7 * np.array([weight[place[c]] > 0 for c in cells])
    assert chi_square(histogram(codes(out.obs), cells), p) > ALPHA
    odds = np.array([dict(zip(cells, p / p.sum(), strict=True))[tuple(c)] for c in codes(out.obs)])
    raw = (len(cells) * odds) ** -0.5
    np.testing.assert_allclose(out.weight, raw / raw.max(), rtol=1e-4)


def test_importance_weights_by_hand():
    """Three transitions of priorities 1, 4 and 4, exponents 1/2 and 1: p = 1/5, 2/5, 2/5; N p = 3/5, 6/5; weights 1, 1/2."""
    episode = {"obs": np.arange(4.0)[:, None], "action": np.zeros((4, 1)), "reward": np.zeros(4), "terminated": np.zeros(4)}
    data = replay.from_episodes([episode])
    data = data._replace(index=data.index._replace(priority=jnp.array([[1.0], [4.0], [4.0], [100.0]])))
    hyper = {"discount": jnp.float32(1), "priority_exponent": jnp.float32(0.5), "importance_exponent": jnp.float32(1)}
    out = sample(replay.transitions(200, priorities=True), {"replay": data}, hyper=hyper)
    expected = np.array([1.0, 0.5, 0.5])[codes({"code": out.obs})[:, 0]]
    np.testing.assert_allclose(out.weight, expected, rtol=1e-6)


def test_priorities_stay_exact_among_a_million_rows():
    """A plain float32 cumulative sum is off by percents here: its last digit is worth a sixteenth of a row."""
    size = 2**20
    episode = {k: np.zeros((size, 1)) for k in ("obs", "action")}
    data = replay.from_episodes([{**episode, "reward": np.zeros(size), "terminated": np.zeros(size)}])
    weight = jnp.ones((size, 1)).at[size // 2 :: 3].set(3.0)
    data = data._replace(index=data.index._replace(priority=weight))
    hyper = {**HYPER, "priority_exponent": jnp.float32(1)}
    out = sample(replay.transitions(DRAWS, priorities=True), {"replay": data}, hyper=hyper)
    t = np.asarray(out.index.t)
    p = np.asarray(weight)[:-1, 0].astype(np.float64)
    classes = np.where(np.arange(size - 1) < size // 2, 0, 1 + (np.arange(size - 1) - size // 2) % 3)
    assert chi_square(np.bincount(classes[t], minlength=4), np.bincount(classes, p)) > ALPHA
    _, places = np.unique(np.asarray(out.weight).round(5), return_counts=True)
    assert len(places) == 2


def test_frames_are_stacked_within_the_episode(wrapped):
    world, state = wrapped
    out = sample(replay.transitions(3000, stack=4), {"replay": state})
    oldest, pairs = 14, world.pairs(14, 45)

    def history(w, t):
        back = [t]
        for _ in range(3):
            back.append(back[-1] - 1 if back[-1] > oldest and (w, back[-1] - 1) in pairs else back[-1])
        return back[::-1]

    for obs in (out.obs, out.next_obs):
        assert obs["frame"].dtype == np.uint8 and obs["frame"].shape == (3000, 4)
        stream, time = np.asarray(obs["code"]).reshape(-1, 4, 2)[:, -1].astype(int).T
        expected = np.array([history(w, t) for w, t in zip(stream, time, strict=True)])
        np.testing.assert_array_equal(obs["frame"], expected)
    windows = sample(replay.sequences(300, 5, stack=3, cross=True), {"replay": state})
    code = np.asarray(windows.obs["code"]).reshape(5, 300, 3, 2).astype(int)
    for i in range(5):
        for w, t, frames in zip(code[i, :, -1, 0], code[i, :, -1, 1], code[i, :, :, 1], strict=True):
            assert frames.tolist() == history(w, t)[1:]


def remaining(world, w, t, newest):
    k = 0
    while (w, t + k) in world.pairs(14, newest):
        k += 1
    return k


@pytest.mark.parametrize("geometric", [True, False])
def test_future_goals_follow_their_distribution(geometric):
    """An episode of 12 rows; from row t: P(k) = (1 - g) g^(k - 1), and all the rest at its last row; or uniform."""
    episode = {"obs": np.arange(12.0)[:, None], "action": np.zeros((12, 1)), "reward": np.zeros(12), "terminated": np.zeros(12)}
    data = replay.from_episodes([episode, {**episode, "obs": episode["obs"] + 100}])
    hyper = {"discount": jnp.float32(0.8)}
    out = sample(replay.goals(DRAWS, geometric=geometric), {"replay": data}, hyper=hyper)
    cells, p = [], []
    for t in range(11):
        left = 11 - t
        law = 0.2 * 0.8 ** np.arange(left)
        law[-1] = 0.8 ** (left - 1)
        for k in range(left):
            cells += [(t, t + k + 1), (100 + t, 100 + t + k + 1)]
            p += [law[k] if geometric else 1 / left] * 2
    found = np.stack([np.asarray(out.obs)[:, 0], np.asarray(out.goal)[:, 0]], -1).astype(int)
    assert chi_square(histogram(found, cells), np.array(p)) > ALPHA
    np.testing.assert_array_equal(out.reached, found[:, 1] == found[:, 0] + 1)
    assert not np.asarray(out.here).any()


def test_goals_reach_the_end_of_long_episodes():
    length = 1000
    episode = {"obs": np.arange(length)[:, None], "action": np.zeros((length, 1)), "reward": np.zeros(length)}
    data = replay.from_episodes([{**episode, "terminated": np.zeros(length)}])
    out = sample(replay.goals(200), {"replay": data}, hyper={"discount": jnp.float32(1.0)})
    assert (np.asarray(out.goal) == length - 1).all()


@pytest.mark.slow
def test_kinds_of_goals(wrapped):
    world, state = wrapped
    out = sample(replay.goals(DRAWS, future=0.5, random=0.3, current=0.2), {"replay": state})
    here = np.asarray(out.here)
    ours, goal = codes(out.obs), codes(out.goal)
    stored = [(w, t) for w in range(3) for t in range(14, 45) if not world.invalid(w, t)]
    # current, or random by chance
    assert chi_square(np.bincount(here, minlength=2), np.array([1, 0]) + np.array([-1, 1]) * (0.2 + 0.3 / len(stored))) > ALPHA
    only = sample(replay.goals(DRAWS, future=0, random=1), {"replay": state})
    assert chi_square(histogram(codes(only.goal), stored), np.ones(len(stored))) > ALPHA
    same = (ours[:, 0] == goal[:, 0]) & (goal[:, 1] >= ours[:, 1])
    assert same.mean() > 0.7
    now = sample(replay.goals(64, future=0, current=1), {"replay": state})
    assert np.asarray(now.here).all()
    stacked = sample(replay.goals(64, stack=2), {"replay": state})
    assert stacked.goal["frame"].shape == stacked.obs["frame"].shape == (64, 2)


@pytest.mark.slow
def test_segments_are_masked_behind_the_end(wrapped):
    world, state = wrapped
    out = sample(replay.segments(2000, 4, discount="discount"), {"replay": state})
    mask, found = np.asarray(out.mask), codes(out.rows.obs)
    for i, (w, t) in enumerate(found[0]):
        left = remaining(world, w, t, 45)
        assert mask[:, i].tolist() == [k <= left for k in range(4)]
        assert (found[: min(left + 1, 4), i, 1] == t + np.arange(min(left + 1, 4))).all()
        expected = sum(0.9**k * float(rewards(w, t + k + 1)) for k in range(min(left, 4)))
        assert float(out.returns[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    cells = sorted(world.pairs(14, 45))
    many = sample(replay.segments(DRAWS, 4), {"replay": state})
    assert chi_square(histogram(codes(many.rows.obs)[0], cells), np.ones(len(cells))) > ALPHA


def test_items_are_uniform():
    data = {"a": jnp.arange(7), "b": jnp.arange(14.0).reshape(7, 2)}
    out = sample(replay.items(DRAWS, "pairs"), {"pairs": data})
    assert chi_square(np.bincount(out.items["a"], minlength=7), np.ones(7)) > ALPHA
    np.testing.assert_array_equal(out.items["b"][:, 0], 2 * np.asarray(out.index))


def test_mixtures_have_the_scheduled_counts(wrapped):
    _, state = wrapped
    other = state._replace(data=state.data._replace(obs={**state.data.obs, "code": state.data.obs["code"] + 1000}))
    sources = {"replay": state, "demos": other}
    share = lambda hyper, clock: hyper["share"] / (1 + clock.updates)
    for make in (replay.transitions, lambda n, **source: replay.sequences(n, 3, **source)):
        sampler = replay.mix((make(16, source="demos"), make(16)), share)
        assert sampler.sources == ("demos", "replay")
        for updates, count in ((0, 12), (1, 6), (2, 4)):  # 0.75, 0.375, 0.25 of 16
            clock = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(updates))
            out = sample(sampler, sources, hyper={**HYPER, "share": jnp.float32(0.75)}, clock=clock)
            first = codes(out.obs)[..., 0] >= 1000
            np.testing.assert_array_equal(first, np.broadcast_to(np.arange(16) < count, first.shape))
            for name, mine in (("demos", np.arange(16) < count), ("replay", np.arange(16) >= count)):
                np.testing.assert_array_equal(np.asarray(out.index[name].t) >= 0, mine)


def test_priorities_of_a_mixture_go_back_to_their_own_rows(wrapped):
    _, state = wrapped
    sources = {"replay": state, "a": state, "b": state}
    sampler = replay.mix(
        [replay.transitions(12, source=s, priorities=s == "replay") for s in ("a", "replay", "b")], [0.25, 0.5, 0.25]
    )
    assert sampler.prioritised
    out = sample(sampler, sources)
    new = 10.0 + np.arange(12)
    weight = np.asarray(replay.update_priorities(state, out.index["replay"], jnp.asarray(new)).index.priority)
    expected = np.asarray(state.index.priority).copy()
    for i in range(3, 9):
        expected[out.index["replay"].t[i], out.index["replay"].w[i]] = new[i]
    np.testing.assert_array_equal(weight, expected)


def test_nothing_to_draw_is_loud():
    """An empty replay gives NaN rewards and t = -1: an update on nothing must not pass silently."""
    buffer = replay.ring(8, 2)
    state = buffer.init(jax.tree.map(lambda x: x[0, 0], World([[5], [5]]).rows(0, 1)))
    for sampler in (replay.transitions(4), replay.sequences(4, 3)):
        out = sample(sampler, {"replay": state})
        assert np.isnan(np.asarray(out.reward)).all() and (np.asarray(out.index.t) == -1).all()
    assert np.isnan(np.asarray(sample(replay.segments(4, 3), {"replay": state}).returns)).all()


def test_a_draw_is_a_function_of_key_index_and_hyper_alone(wrapped):
    _, state = wrapped
    sampler = replay.transitions(64, n=3)
    bare = {"replay": state._replace(data=None)}
    a, b = (sampler.draw(s, HYPER, CLOCK, jax.random.key(1)) for s in (bare, {"replay": state}))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_errors_say_what_to_do(wrapped):
    _, state = wrapped
    sources = {"replay": state._replace(index=state.index._replace(priority=jnp.zeros((0, 0)))), "table": {"x": jnp.zeros(3)}}
    cases = [
        (lambda: replay.transitions(0), "batch=0"),
        (lambda: replay.transitions(4, n=0), "n=0"),
        (lambda: replay.sequences(4, 0), "length=0"),
        (lambda: replay.goals(4, future=0.5), "sum to 1"),
        (lambda: replay.mix([replay.transitions(4)], 0.5), "two or more"),
        (lambda: replay.mix([replay.transitions(4), replay.transitions(4)], 0.5), "different sources"),
        (lambda: replay.mix([replay.transitions(4, source=s) for s in "ab"], [0.1, 0.2, 0.7]), "one share"),
        (lambda: sample(replay.sequences(4, 33), sources), "room for 32"),
        (lambda: sample(replay.transitions(4, source="reply"), sources), "'replay', 'table'"),
        (lambda: sample(replay.transitions(4, source="table"), sources), "use items"),
        (lambda: sample(replay.transitions(4, discount="gamma"), sources), "needs the traced value 'gamma'"),
        (lambda: sample(replay.transitions(4, priorities=True), sources), "priorities=True"),
        (lambda: sample(replay.items(4, "tabel"), sources), "one leading length"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    odd = replay.mix([replay.transitions(4), replay.sequences(4, 2, source="b")], 0.5)
    with pytest.raises(ValueError, match="one kind"):
        sample(odd, {**sources, "b": state})
    sizes = replay.mix([replay.transitions(4), replay.transitions(5, source="b")], 0.5)
    with pytest.raises(ValueError, match="one batch size"):
        sample(sizes, {**sources, "b": state})
