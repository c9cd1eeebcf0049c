"""Laws with a search tree: it leaves out no region that holds a parameter, and the law answers as without it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from rlx import export
from rlx.export import c_source
from rlx.planning import laws, mpc, mpqp, search
from rlx.planning.mpqp import Regions
from rlx.planning.polytopes import corners, reach

from .problems import box, facet_points, random_program, solved

NAMES = ("tutorial", "random")  # 115 regions of 2 parameters, 125 of 4
NO_NUMBERS = np.float32([[np.nan, 0.0, 0.0, 0.0], [0.1, np.nan, 0.0, 0.0], [0.0, np.inf, 0.0, 0.0]])


@functools.cache
def both(name: str, compressed: bool = False) -> tuple[mpc.Program, Regions, laws.PiecewiseLaw, laws.PiecewiseLaw]:
    """A program, its regions, its law without and with a tree."""
    if name == "random":
        program = random_program(1, 4, 1, 5)
        regions = mpqp.solve(program, cache=False)
    else:
        program, regions = solved(name)
    made = [laws.piecewise(regions, program, compressed=compressed, many=many) for many in (10_000, 0)]
    assert made[0].tree is None and made[1].tree is not None
    return program, regions, *made


def points(name: str, count: int = 3000) -> np.ndarray:
    """Float32 parameters all over the box and beyond, on facets and hardly off them, and centres."""
    program, regions, *_ = both(name)
    low, high = (np.asarray(x) for x in box(program))
    rng = np.random.default_rng(0)
    wide = rng.uniform(low - 0.05 * (high - low), high + 0.05 * (high - low), (count, len(low)))
    facets = np.array([z for _, _, z in facet_points(regions)])
    near = [facets + size * regions.scale * rng.standard_normal(facets.shape) for size in (0, 1e-6, 1e-5, 1e-3)]
    return np.concatenate([wide, *near, regions.centre, 0 * low[None]]).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compressed"), [("tutorial", True), ("random", False)])
def test_answers_are_those_of_all_regions(name, compressed):
    """At points all over, on facets and outside, in a batch and one by one; where rounding may decide, both are right."""
    _, _, plain, law = both(name, compressed)
    z = points(name)
    slack = np.asarray(jax.jit(plain.slacks)(z))
    sure = (np.abs(slack + law.tolerance) > 1.5e-6).all(1)  # else rounding may decide
    region, outside = (np.asarray(x) for x in jax.jit(law.locate)(np.concatenate([z, NO_NUMBERS[:, : z.shape[1]]])))
    assert outside[-3:].all()
    region, outside = region[:-3], outside[:-3]
    inside = slack >= -law.tolerance
    assert sure.mean() > 0.6 and 0.05 < outside.mean() < 0.95
    np.testing.assert_array_equal(outside[sure], ~inside.any(1)[sure])
    np.testing.assert_array_equal(region[sure & ~outside], inside.argmax(1)[sure & ~outside])
    chosen = np.take_along_axis(slack, region[:, None], 1)[:, 0]
    assert (chosen[outside] >= slack.max(1)[outside] - 1e-5).all() and (chosen[~outside] >= -law.tolerance - 1e-6).all()
    one = jax.jit(law.locate)
    assert all(bool(one(x)[1]) for x in NO_NUMBERS[:, : z.shape[1]])
    some = np.random.default_rng(1).choice(len(z), 100, replace=False)
    for i in some[sure[some]]:
        which, out = one(z[i])
        assert bool(out) == outside[i] and (outside[i] or int(which) == region[i])
        assert slack[i, int(which)] >= chosen[i] - 1e-5


def test_moves_mapped_and_with_gradients():
    """A centre lies in its region, in groups, one by one, and where members of a population have a batch each."""
    _, regions, _, law = both("tutorial")
    z = jnp.asarray(regions.centre[:60], jnp.float32)
    wanted = np.einsum("bn,bn->b", law.K[:60, 0], z) + law.r[:60, 0]

    @jax.jit
    def moves(z):
        move = lambda z: (law(z).u.sum(), law(z))
        (_, batch), slope = jax.value_and_grad(move, has_aux=True)(z)
        return jax.vmap(law)(z), jax.vmap(law)(z.reshape(3, 20, 2)), batch, slope

    *found, slope = moves(z)
    for move in found:
        np.testing.assert_array_equal(move.region.reshape(-1), np.arange(60))
        np.testing.assert_allclose(move.u.reshape(-1), wanted, atol=1e-5)
        assert not move.outside.any() and move.region.dtype == jnp.int32
    np.testing.assert_allclose(slope, law.K[:60, 0], atol=1e-6)


def test_a_law_with_a_tree_exports_as_without():
    """From a row each, where a tree saves C nothing: the same text."""
    _, _, plain, law = both("tutorial")
    texts = [c_source.code(export.Law(lambda z, one=one: one(z).u, 2)).source for one in (plain, law)]
    assert texts[0] == texts[1]


# --------------------------------------------------------------------------------------------------------------- candidates


@pytest.mark.parametrize("name", NAMES)
def test_candidates_lack_none_that_holds(name):
    """In float64 and with the tolerance, also next to facets; and they are few."""
    _, regions, _, law = both(name)
    z = points(name)
    few, sure = (np.asarray(x) for x in jax.jit(law.tree.candidates)(z))
    holds = (regions.b - np.einsum("pqn,bn->bpq", regions.A, z.astype(float))).min(-1) >= -law.tolerance - 2e-7
    listed = np.zeros_like(holds)
    np.put_along_axis(listed, few, True, 1)
    assert not (holds & ~listed)[sure].any()
    assert sure[:3000].mean() > 0.99 and few.shape[1] <= 4 and (np.diff(few, axis=1) >= 0).all()
    assert (holds.sum(1) > 1).any() and not holds.all(1).any()  # some of these points are on facets


def test_the_tree_of_three_intervals():
    """|z| <= 1, 1 <= z <= 4, -4 <= z <= -1: two cuts at 1 and -1 tell them apart; 4 in a third one tells nothing apart."""
    program, regions = solved("scalar")
    law = laws.piecewise(regions, program, many=2)
    assert laws.piecewise(regions, program, many=3).tree is None and laws.piecewise(regions, program).tree is None
    tree = law.tree
    assert tree.depth == 2 and tree.lists.shape == (3, 1) and sorted(tree.lists[:, 0].tolist()) == [0, 1, 2]
    assert sorted(np.abs(tree.bounds[:2] / tree.rows[:2, 0]).tolist()) == [1, 1]
    by = {float(c): int(i) for c, i in zip(regions.centre[:, 0], range(3), strict=True)}
    z = jnp.array([[-2.5], [0.0], [2.5], [1.0], [-1.0], [1 + 1e-4], [9.0]])
    few, sure = tree.candidates(z)
    assert few[:3, 0].tolist() == [by[-2.5], by[0.0], by[2.5]] and few[5, 0] == by[2.5]
    assert sure.tolist() == [True] * 3 + [False] * 2 + [True] * 2
    region, outside = jax.jit(law.locate)(z)
    assert region.tolist() == [by[-2.5], 0, by[2.5], 0, 0, by[2.5], by[2.5]] and outside.tolist() == [False] * 6 + [True]
    assert float(tree.margin) < 1e-5


def test_nodes_and_depth_have_ends(monkeypatch):
    """Where they run out lists are longer, and lack none either."""
    _, regions, _, _ = both("tutorial")
    z = points("tutorial")
    holds = (regions.b - np.einsum("pqn,bn->bpq", regions.A, z.astype(float))).min(-1) >= -1e-6
    for name, most, size in (("NODES", 0.2, 24), ("DEPTH", 3, 8)):
        with monkeypatch.context() as patch:
            patch.setattr(search, name, most)
            tree = search.tree(regions, 1e-6)
        assert tree.lists.shape[0] == size and len(tree.rows) == 2 * size - 1 and tree.lists.shape[1] > 5
        assert tree.depth == 3 or name == "NODES"
        few, sure = (np.asarray(x) for x in jax.jit(tree.candidates)(z))
        listed = np.zeros_like(holds)
        np.put_along_axis(listed, few, True, 1)
        assert not (holds & ~listed)[sure].any()


def test_many_parameters_have_no_tree():
    A, b = np.concatenate([np.eye(7), -np.eye(7)])[None], np.ones((1, 14))
    regions = Regions(np.zeros((1, 1, 7)), np.zeros((1, 1)), A, b, np.zeros((1, 2), bool), np.zeros((1, 7)), np.ones(7))
    assert search.tree(regions, 1e-6) is None


# ------------------------------------------------------------------------------------------------------------------- pieces


def test_only_those_that_are_left_are_asked(monkeypatch):
    """Many at a time, then few: everyone who is left gets an answer, nobody else; nobody is asked where none is left."""
    monkeypatch.setattr(search, "CHUNKS", (40, 8))
    asked: list[int] = []

    def ask(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda z: asked.append(len(z)), z)
        return z.sum(-1), z[:, 0].astype(jnp.int32)

    z = jnp.stack([jnp.arange(203.0), jnp.ones(203)], 1)
    settled = jax.jit(lambda left: search.settle(ask, z, (jnp.full(203, -1.0), jnp.full(203, -7)), left))
    for share in (0.0, 0.03, 0.6, 1.0):
        left = np.random.default_rng(0).random(203) < share
        asked.clear()
        score, region = settled(left)
        jax.effects_barrier()
        np.testing.assert_array_equal(score, np.where(left, np.arange(203) + 1, -1))
        np.testing.assert_array_equal(region, np.where(left, np.arange(203), -7))
        many, few = asked.count(40), asked.count(8)
        assert left.sum() <= 40 * many + 8 * few < left.sum() + 48 and few <= 2 and (share > 0) == bool(asked)


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_how_far_a_polytope_reaches(d):
    """Against linear programs; a simplex that is cut has the corners that it should have."""
    rng = np.random.default_rng(d)
    A = rng.standard_normal((6 * d, d))
    A = np.concatenate([A / np.linalg.norm(A, axis=1, keepdims=True), np.eye(d), -np.eye(d)])
    inside = rng.standard_normal(d) / 10
    b = np.concatenate([rng.uniform(0.5, 1.5, 6 * d), np.full(2 * d, 2.0)]) + A @ inside
    ways = rng.standard_normal((5, d))
    wanted = [-linprog(-way, A, b, bounds=[(None, None)] * d).fun for way in ways]
    np.testing.assert_allclose(reach(A, b, inside, ways), wanted, atol=1e-9)
    found = corners(A, b, inside)
    assert (found is None) == (d == 7)
    if found is not None:
        room = b - found @ A.T
        assert room.min() > -1e-9 and ((np.abs(room) < 1e-9).sum(1) >= d).all()


def test_corners_of_a_triangle():
    A = np.array([[-1.0, 0.0], [0.0, -1.0], [0.5**0.5, 0.5**0.5]])
    found = corners(A, np.array([0.0, 0.0, 0.5**0.5]), np.array([0.2, 0.2]))
    assert sorted(map(tuple, np.round(found, 9) + 0.0)) == [(0, 0), (0, 1), (1, 0)]
    flat = corners(np.array([[1.0], [-1.0], [1.0]]), np.array([2.0, 1.0, 5.0]), np.zeros(1))
    assert flat.tolist() == [[-1.0], [2.0]]
