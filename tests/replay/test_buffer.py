from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.replay.buffer import grow, stored
from rlx.types import Row
from tests.replay.coded import HYPER, World, codes, example, fill, sample

LENGTHS = [[5, 3, 7], [4], [9, 2]]


PAIRS = replay.transitions(2000)


def drawn_pairs(state):
    """(stream, time) of all transitions there are, and 2000 draws of them: enough to see each."""
    out = sample(PAIRS, {"replay": state})
    return {tuple(c) for c in codes(out.obs)}, out


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [[6], [6, 5], [6, 5, 9, 1, 1, 7], [15] * 7])
@pytest.mark.parametrize("tail", [True, False])
def test_every_transition_and_no_other_is_there(blocks, tail):
    world = World(LENGTHS)
    capacity = 16
    _, state = fill(world, capacity, blocks, tail)
    total = sum(blocks)
    stored = min(total, capacity - 1)
    assert int(state.index.size) == stored and int(state.index.head) == total % capacity
    newest = total if tail else total - 1
    pairs, out = drawn_pairs(state)
    assert pairs == world.pairs(total - stored, newest)
    assert (codes(out.next_obs) - codes(out.obs) == [0, 1]).all()  # the same stream, one step on


def test_rows_are_kept_bit_for_bit_with_their_dtypes():
    world = World(LENGTHS)
    _, state = fill(world, 12, [7, 6])
    assert state.data.obs["frame"].dtype == np.uint8 and state.data.info["t"].dtype == np.int32
    expected = world.rows(2, 12)  # rows 2 to 12 and the tail, 13
    order = np.asarray((state.index.head - state.index.size + jnp.arange(12)) % 12)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[order], y), stored(state), expected)


@pytest.mark.parametrize("blocks", [[5], [7, 6], [11]])  # with room to spare, wrapped, and just full
@pytest.mark.parametrize("tail", [True, False])
def test_a_ring_that_grows_is_one_that_had_the_room(blocks, tail):
    buffer, state = fill(World(LENGTHS), 12, blocks, tail, device=False, priorities=True)
    grown = grow(state, 20)
    total, kept = sum(blocks), min(sum(blocks), 11)
    assert (int(grown.index.size), int(grown.index.head), bool(grown.index.tail)) == (kept, kept, tail)
    expected = World(LENGTHS).rows(total - kept, kept + tail)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[: kept + tail], y), stored(grown), expected)
    assert grown.index.flags.shape == grown.index.priority.shape == (20, 3) and not grown.index.flags[kept + tail :].any()
    two = jax.tree.map(lambda x: np.stack([x, x]), state)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), grow(two, 20), grown)


def test_nbytes_is_what_init_allocates():
    row, buffer = example(World(LENGTHS)), replay.ring(12, 3, priorities=True)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), row)
    arrays = jax.tree.leaves(buffer.init(shapes))
    assert buffer.nbytes(row) == buffer.nbytes(shapes) == sum(x.nbytes for x in arrays if x.ndim)
    assert all((np.asarray(x) == 0).all() for x in arrays)


def test_close_completes_and_cuts():
    world = World([[100], [4]])
    buffer, state = fill(world, 16, [3])  # stream 1 has its tail at a terminal row
    state = jax.jit(buffer.close)(state)
    assert int(state.index.size) == 4 and not bool(state.index.tail)
    assert np.asarray(stored(state).truncated[3]).tolist() == [True, False]
    assert np.asarray(stored(state).last[3]).tolist() == [True, True]
    again = buffer.close(state)
    jax.tree.map(np.testing.assert_array_equal, state, again)  # nothing pending: nothing changes
    world.time = 50  # what comes next follows nothing
    fresh = world.rows(50, 5)._replace(first=np.eye(5, 2, dtype=bool)[:, :1].repeat(2, 1), valid=np.ones((5, 2), bool))
    pairs, out = drawn_pairs(buffer.add(again, fresh))
    assert (0, 2) in pairs and (0, 3) not in pairs and (1, 3) not in pairs
    assert (codes(out.next_obs) - codes(out.obs) == [0, 1]).all()


def test_padding_is_never_drawn():
    world = World(LENGTHS, invalid=lambda stream, time: stream == 1 and time >= 6 or (stream, time) == (2, 4))
    _, state = fill(world, 32, [10, 8])
    assert drawn_pairs(state)[0] == world.pairs(0, 18)
    out = sample(replay.sequences(500, 3, cross=True), {"replay": state})
    assert np.asarray(out.valid).all()


def test_evict_removes_whole_oldest_trajectories():
    world = World([[5], [8]])
    buffer, state = fill(world, 32, [20])
    state = jax.jit(buffer.evict)(state, 10)
    # decisions in stream 0: 4 in each of the episodes from rows 0, 5, 10, 15. In stream 1: 7 from rows 0 and 8, then 4 from 16.
    allowed = {(w, t) for w, t in world.pairs(0, 20) if t >= (10, 16)[w]}
    assert drawn_pairs(state)[0] == allowed
    kept = {(int(e.obs["code"][0, 0]), len(e.reward)) for e in buffer.export(state)}
    assert kept == {(0, 5), (1, 5)}  # the tail of stream 1, row 20, belongs to its last episode; that of stream 0 stands alone
    small = drawn_pairs(buffer.evict(state, 3))[0]
    assert small == {(w, t) for w, t in allowed if t >= (16, 17)[w]}  # the newest 3 decisions of the newest trajectories


@pytest.mark.parametrize(
    ("lengths", "left"),
    [((4, 3, 3, 2), [4, 3, 3, 2]), ((4, 3, 3, 2, 7), [3, 2, 7]), ((12,), [11]), ((2, 12), [11]), ((5, 5, 3), [5, 5, 3])],
)
def test_evict_to_ten_decisions(lengths, left):
    """Trajectories of so many rows, each with a decision less."""
    buffer = replay.ring(64, 1)
    yes, no, zero = np.bool_(True), np.bool_(False), np.float32(0)

    def row(i, first, last):
        return Row(np.float32(i), zero, np.bool_(last), no, np.bool_(first), {}, np.zeros(1, np.float32), {}, yes)

    state, i = buffer.init(row(0, True, False)), 0
    for n in lengths:
        episode = [row(i + k, k == 0, k == n - 1) for k in range(n)]
        i += n
        state = buffer.add(state, jax.tree.map(lambda *xs: np.stack(xs)[:, None], *episode))
        state = buffer.evict(state, 10)
    kept = buffer.export(state)
    assert [len(e.reward) for e in kept] == left
    assert kept[-1].obs[-1] == i - 1  # the newest row is always there


def test_export_gives_the_episodes_back():
    world = World(LENGTHS)
    buffer, state = fill(world, 64, [11, 20])
    episodes = buffer.export(state)
    assert [int(e.obs["code"][0, 0]) for e in episodes] == sorted(int(e.obs["code"][0, 0]) for e in episodes)
    for e in episodes:
        w, t = codes(e.obs)[0]
        jax.tree.map(lambda x, y, w=w: np.testing.assert_array_equal(x, y[:, w]), e, world.rows(t, len(e.reward)))
    pairs = {tuple(c) for e in episodes for c in codes(e.obs)[:-1]}
    assert pairs == world.pairs(0, 31)


@pytest.mark.parametrize("device", [True, False])
def test_a_dataset_of_exported_episodes_has_the_same_transitions(device):
    world = World(LENGTHS)
    buffer, state = fill(world, 64, [31])
    data = replay.from_episodes(buffer.export(state), device=device)
    assert isinstance(data.data.reward, jax.Array if device else np.ndarray)
    assert drawn_pairs(jax.tree.map(jnp.asarray, data))[0] == world.pairs(0, 31)


def test_relabel_is_an_overlay():
    world = World(LENGTHS)
    _, state = fill(world, 32, [20])
    new = replay.relabel(state, lambda rows: {"reward": rows.reward + 100, "extras/z": -rows.extras["z"]})
    assert new.data is state.data
    old_out, out = (sample(replay.transitions(64), {"replay": s}) for s in (state, new))
    np.testing.assert_array_equal(out.reward, np.asarray(old_out.reward) + 100)
    np.testing.assert_array_equal(out.extras["z"], -np.asarray(old_out.extras["z"]))
    np.testing.assert_array_equal(out.action, old_out.action)
    ended = replay.relabel(state, lambda rows: {"terminated": rows.terminated | (rows.reward > 0)})
    fewer, all_of_them = (drawn_pairs(s) for s in (ended, state))
    assert fewer[0] == all_of_them[0]  # another value of the ends, no other borders
    np.testing.assert_array_equal(fewer[1].discount == 0, fewer[1].terminated | (fewer[1].reward > 0))
    keyed = replay.relabel(state, lambda rows, key: {"reward": jax.random.normal(key, rows.reward.shape)}, jax.random.key(1))
    np.testing.assert_array_equal(keyed.overlay["reward"], jax.random.normal(jax.random.key(1), (32, 3)))


def test_add_inside_while_loop_under_vmap_equals_one_by_one():
    """Members with heads of their own; donated buffers."""
    world = World(LENGTHS)
    buffer = replay.ring(16, 3)
    blocks = [world.next(5) for _ in range(7)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *blocks)
    expected = []
    for start in (0, 2):
        state = buffer.init(example(world))
        for rows, tail in blocks[start:]:
            state = buffer.add(state, rows, tail)
        expected.append(state)

    def body(carry):
        i, state = carry
        return i + 1, buffer.add(state, *jax.tree.map(lambda x: x[i], stacked))

    def run(start, state):
        return jax.lax.while_loop(lambda c: c[0] < 7, body, (start, state))[1]

    both = jax.tree.map(lambda x: jnp.stack([x, x]), buffer.init(example(world)))
    out = jax.jit(jax.vmap(run), donate_argnums=1)(jnp.array([0, 2]), both)
    for m in range(2):
        jax.tree.map(lambda x, y, m=m: np.testing.assert_array_equal(x[m], y), out, expected[m])


def test_a_donated_add_copies_nothing():
    """Neither as a call nor in a loop does the compiled code need room of the order of the ring."""
    world = World(LENGTHS)
    buffer = replay.ring(100_000, 3)
    row = example(world)
    state = jax.eval_shape(buffer.init, row)
    rows, tail = world.next(8)
    add = jax.jit(buffer.add, donate_argnums=0)
    loop = jax.jit(lambda s, r, t: jax.lax.fori_loop(0, 9, lambda i, s: buffer.add(s, r, t), s), donate_argnums=0)
    for fn in (add, loop):
        memory = fn.lower(state, rows, tail).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 100_000, memory.temp_size_in_bytes
        assert memory.alias_size_in_bytes >= buffer.nbytes(row)


@pytest.mark.slow
def test_host_memory_is_changed_in_place_and_draws_the_same():
    states = {}
    for device in (True, False):
        _, states[device] = fill(World(LENGTHS), 16, [6, 5, 9, 1, 7], device=device)
    host, device = states[False], states[True]
    assert isinstance(host.data.obs["code"], np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, host, device)
    goals = replay.goals(32, future=0.5, random=0.5)
    for sampler in (replay.transitions(64, n=3, stack=2), replay.sequences(16, 4, cross=True), goals, replay.segments(16, 3)):
        draw = jax.jit(lambda s, key, draw=sampler.draw: draw(s, HYPER, None, key))
        drawn = [draw({"replay": s._replace(data=None)}, jax.random.key(3)) for s in (host, device)]
        jax.tree.map(np.testing.assert_array_equal, *drawn)
        batch = sampler.read({"replay": jax.tree.map(np.asarray, host)}, jax.tree.map(np.asarray, drawn[0]))
        assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(batch))
        for x, y in zip(
            jax.tree.leaves(batch), jax.tree.leaves(jax.jit(sampler.read)({"replay": device}, drawn[1])), strict=True
        ):
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6)  # n-step sums: XLA may fuse a product and a sum
    buffer = replay.ring(16, 3, device=False)
    rows = host.data.obs["code"]
    closed = buffer.close(buffer.add(host, *World(LENGTHS).next(2)))
    assert closed.data.obs["code"] is rows  # no copy was made


def test_state_survives_flattening_to_numpy_and_back():
    """What a checkpoint does: the state goes on exactly as the one that was never saved."""
    world = World(LENGTHS)
    buffer, state = fill(world, 16, [9, 4], priorities=True)
    leaves, structure = jax.tree.flatten(state)
    restored = jax.tree.unflatten(structure, [jnp.asarray(np.array(x)) for x in leaves])
    rows, tail = world.next(6)
    jax.tree.map(np.testing.assert_array_equal, buffer.add(state, rows, tail), buffer.add(restored, rows, tail))


def test_update_priorities_takes_the_largest_of_several_and_leaves_out_others():
    _, state = fill(World(LENGTHS), 16, [6], priorities=True)
    assert (np.asarray(state.index.priority[:7]) == 1).all()
    index = replay.Index(jnp.array([2, 2, 4, -1]), jnp.array([1, 1, 0, 2]))
    state = jax.jit(replay.update_priorities)(state, index, jnp.array([5.0, 3.0, 0.5, 99.0]))
    weight = np.asarray(state.index.priority)
    assert weight[2, 1] == 5 and weight[4, 0] == 0.5 and weight.max() == 5


def test_new_rows_get_the_largest_priority():
    world = World(LENGTHS)
    buffer, state = fill(world, 16, [6], priorities=True)
    state = replay.update_priorities(state, replay.Index(jnp.array([2]), jnp.array([1])), jnp.array([7.0]))
    state = buffer.add(state, *world.next(3))
    np.testing.assert_array_equal(state.index.priority[6:10], np.full((4, 3), 7.0))


def test_the_last_rows_of_an_episode_do_not_say_what_new_ones_get():
    """They begin no sample, so theirs would stay at what was the largest priority when they came."""
    for ends in (1, 3):
        world = World([[8]])  # rows 0 to 7, of which the last has no action; then 8 to 15
        buffer, state = fill(world, 64, [12], priorities=True, ends=ends)
        drawn = np.r_[0 : 8 - ends, 8:13]
        at = replay.Index(jnp.asarray(drawn), jnp.zeros(len(drawn), jnp.int32))
        state = replay.update_priorities(state, at, jnp.linspace(0.1, 0.2, len(drawn)))
        assert float(state.index.priority[7, 0]) == 1
        state = buffer.add(state, *world.next(3))
        np.testing.assert_allclose(state.index.priority[12:16, 0], 0.2, rtol=1e-6)


def test_errors_say_what_to_do():
    world = World(LENGTHS)
    buffer, state = fill(world, 8, [3])
    rows, tail = world.next(3)
    with pytest.raises(ValueError, match="capacity >= 2"):
        replay.ring(1, 1)
    with pytest.raises(ValueError, match="give capacity >= 10"):
        buffer.add(state, world.rows(0, 9))
    with pytest.raises(ValueError, match="streams=2"):
        buffer.add(state, jax.tree.map(lambda x: x[:, :2], rows))
    with pytest.raises(ValueError, match=r"\.action has rows of float32\(2,\)"):
        buffer.add(state, rows._replace(action=np.zeros((3, 3, 2), np.float32)))
    with pytest.raises(ValueError, match="extras"):
        buffer.add(state, rows._replace(extras={}))
    with pytest.raises(ValueError, match="priorities=True"):
        buffer.update_priorities(state, replay.Index(jnp.array([0]), jnp.array([0])), jnp.ones(1))
    with pytest.raises(ValueError, match="it has obs/<code|frame>"):
        replay.relabel(state, lambda rows: {"rewards": rows.reward})
    with pytest.raises(ValueError, match="must be float32"):
        replay.relabel(state, lambda rows: {"reward": rows.reward[:2]})
    with pytest.raises(ValueError, match="where episodes lie"):
        replay.relabel(state, lambda rows: {"first": rows.first})
    host = replay.ring(8, 3, device=False)
    with pytest.raises(ValueError, match="host memory"):
        jax.jit(lambda r, t: host.add(host.init(example(world)), r, t).index)(rows, tail)
    assert isinstance(rows, Row)
