"""Keys of seeds; random orders: permutations that are fair, also of a traced number of numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from rlx import agents, keys
from rlx.train.plan import as_key
from rlx.train.population import members
from rlx.train.run_config import RunConfig, keep, read

EDGES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1]


def words(key) -> list:
    return np.asarray(jax.random.key_data(key)).tolist()


def test_a_seed_is_the_words_of_its_key_whoever_asks():
    """High and low 32 bits. Alone, as a member and by number a run has the same key; those below 2^32 are as JAX has them."""
    by_hand = [[0, 0], [0, 1], [0, 2**31 - 1], [0, 2**31], [0, 2**32 - 1], [1, 0], [1, 1], [2**31 - 1, 2**32 - 1]]
    by_hand += [[2**31, 0], [2**32 - 1, 2**32 - 1]]
    assert words(keys.roots(EDGES)) == by_hand == [words(keys.root(seed)) for seed in EDGES]
    assert words(members([(seed, {}) for seed in EDGES]).keys) == by_hand == [words(as_key(np.uint64(s))) for s in EDGES]
    alone = [RunConfig("ppo", "rlx:pendulum", agents.config("ppo"), seed=seed).key() for seed in EDGES]
    assert [words(key) for key in alone] == by_hand
    some = RunConfig("ppo", "rlx:pendulum", agents.config("ppo"), seed=2**32 - 1, seeds=2)
    assert words(some.key().keys) == [[0, 2**32 - 1], [1, 0]]
    for seed in (s for s in EDGES if s < 2**32):
        ours, theirs = keys.root(seed), jax.random.key(seed)
        assert words(ours) == words(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape == ()
        assert jax.random.normal(ours) == jax.random.normal(theirs)


def test_a_seed_survives_the_run_folder(tmp_path):
    for seed in (2**32, 2**64 - 1):
        keep(RunConfig("ppo", "rlx:pendulum", agents.config("ppo"), seed=seed), tmp_path / str(seed))
        assert read(tmp_path / str(seed)).seed == seed


def test_seeds_that_share_their_lower_half_differ_on_hosts_too():
    drawn = [keys.HostKey.of(keys.fold(keys.root(seed), "reset"), 1).seed(0) for seed in EDGES]
    assert len(set(drawn)) == len(EDGES)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_keys_of_seeds_for_each_of_jaxs_generators(generator):
    with jax.default_prng_impl(generator):
        assert words(keys.root(7)) == words(jax.random.key(7)) and words(keys.root(2**32)) != words(keys.root(0))


@pytest.mark.parametrize("seed", [-1, 2**64, 0.0, True, "0", None])
def test_no_seed(seed):
    for take in (keys.root, lambda s: keys.roots([0, s]), lambda s: members([(s, {})])):
        with pytest.raises(ValueError, match="from 0 to 18446744073709551615"):
            take(seed)
    with pytest.raises(ValueError, match="from 0 to 18446744073709551615"):
        RunConfig("ppo", "rlx:pendulum", None, seed=seed)


def test_seeds_of_a_run_that_pass_the_largest():
    RunConfig("ppo", "rlx:pendulum", None, seed=2**64 - 2, seeds=2)
    with pytest.raises(ValueError, match="seeds=3 from seed=18446744073709551614"):
        RunConfig("ppo", "rlx:pendulum", None, seed=2**64 - 2, seeds=3)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_permutations_are_such_and_each_place_is_as_likely(n):
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: keys.permutation(k, n)))(jax.random.split(jax.random.key(0), 4_000)))
    assert (np.sort(drawn, 1) == np.arange(n)).all()
    if n > 1:
        for i in (0, n - 1):  # where the first and the last number come to lie
            places = np.bincount(np.argmax(drawn == i, 1), minlength=n)
            assert stats.chisquare(places).pvalue > 1e-4


@pytest.mark.parametrize("packed", [2**18, 4])
def test_permutations_of_what_counts_come_before_the_rest(packed, monkeypatch):
    monkeypatch.setattr(keys, "MOST_PACKED", packed)
    each = jax.jit(jax.vmap(lambda k: keys.permutation(k, 9, 6)))
    draws = np.asarray(each(jax.random.split(jax.random.key(0), 3_000)))
    assert (np.sort(draws[:, :6]) == np.arange(6)).all() and (np.sort(draws[:, 6:]) == [6, 7, 8]).all()
    where = np.stack([(draws == k).mean(0)[:6] for k in range(6)])
    np.testing.assert_allclose(where, 1 / 6, atol=0.03)
