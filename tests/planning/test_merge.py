"""Regions in one: the same law with fewer of them, and none where two together are not convex."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import ConvexHull, HalfspaceIntersection

import rlx.envs
from rlx.agents.yann import Config
from rlx.agents.yann.controller import build
from rlx.agents.yann.learner import Learner
from rlx.planning import mpqp
from rlx.planning.merge import merged
from rlx.planning.mpqp import Regions
from rlx.planning.polytopes import facets, largest_ball
from rlx.types import Problem

from .problems import draws, random_program, solved


def cells(*boxes: tuple[tuple[float, float], ...], law: list[float] | None = None) -> Regions:
    """Boxes as regions, of u = law_i; each is ((low, high), ...) by axis."""
    A, b = [], []
    for box in boxes:
        low, high = np.array(box).T
        A.append(np.concatenate([np.eye(len(box)), -np.eye(len(box))]))
        b.append(np.concatenate([high, -low]))
    p, n = len(boxes), len(boxes[0])
    r = np.array(law if law is not None else [1.0] * p)
    centre = np.array(boxes, float).mean(-1)
    return Regions(np.zeros((p, 2, n)), np.stack([r, np.arange(p)], 1), np.array(A), np.array(b), np.eye(p, 5, dtype=bool),
                   centre, np.full(n, 2.0))  # fmt: skip


def unit(regions: Regions) -> Regions:
    """The same with rows of unit norm in z / scale, as they are solved for."""
    size = np.linalg.norm(regions.A * regions.scale, axis=-1)
    return dataclasses.replace(regions, A=regions.A / size[..., None], b=regions.b / size)


def extent(regions: Regions, i: int) -> list[tuple[float, float]]:
    """Of a region that is a box."""
    found = [[0.0, 0.0] for _ in regions.scale]
    for row, bound in zip(regions.A[i], regions.b[i], strict=True):
        if np.isfinite(bound):
            axis = int(np.abs(row).argmax())
            found[axis][int(row[axis] > 0)] = bound / row[axis]
    return [tuple(np.round(x, 9)) for x in found]


def test_boxes_in_a_row_become_one():
    regions = merged(unit(cells(((0, 1), (0, 1)), ((1, 3), (0, 1)), ((3, 4), (0, 1)))), 1)
    assert len(regions.K) == 1 and regions.K.shape == (1, 1, 2) and regions.r.tolist() == [[1.0]]
    assert extent(regions, 0) == [(0, 4), (0, 1)]
    assert not regions.active.any()  # none is active in all three
    np.testing.assert_allclose(np.linalg.norm(regions.A * regions.scale, axis=-1), 1)
    assert (regions.b - regions.A @ regions.centre[0]).min() > 0


def test_an_l_is_not_convex():
    """Three of four squares: two of them become one, all three do not; four do."""
    squares = [((0, 1), (0, 1)), ((1, 2), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (1, 2))]
    three = merged(unit(cells(*squares[:3])), 1)
    assert sorted(extent(three, i) for i in range(len(three.K))) == [[(0, 1), (1, 2)], [(0, 2), (0, 1)]]
    assert len(merged(unit(cells(*squares)), 1).K) == 1
    assert len(merged(unit(cells(squares[0], squares[3])), 1).K) == 2  # a corner in common
    assert len(merged(unit(cells(squares[0], ((1, 2), (0, 1.01)))), 1).K) == 2  # one side is longer
    assert len(merged(unit(cells(squares[0], ((1.01, 2), (0, 1)))), 1).K) == 2  # a gap


def test_other_laws_stay_apart_and_later_moves_do_not_matter():
    row = [((0, 1), (0, 1)), ((1, 2), (0, 1)), ((2, 3), (0, 1)), ((3, 4), (0, 1))]
    regions = merged(unit(cells(*row, law=[1.0, 2.0, 2.0, 1.0])), 1)
    assert [extent(regions, i)[0] for i in range(3)] == [(0, 1), (1, 3), (3, 4)] and regions.r[:, 0].tolist() == [1, 2, 1]
    assert np.array_equal(regions.active, np.eye(4, 5, dtype=bool)[[0, 1, 3]] & [[1] * 5, [0] * 5, [1] * 5])
    assert len(merged(unit(cells(*row, law=[1.0] * 4)), 2).K) == 4  # the second move is the index here


def test_in_many_dimensions_too():
    """Eight of them: by linear programs."""
    box = [(0.0, 1.0)] * 8
    regions = merged(unit(cells(tuple(box), ((1.0, 2.0), *box[1:]), ((0.0, 1.0), (1.0, 2.0), *box[2:]))), 1)
    assert len(regions.K) == 2 and extent(regions, 0)[:2] == [(0, 2), (0, 1)]


@pytest.mark.parametrize("name", ["double_integrator", "tutorial", "random"])
def test_the_law_is_the_same_inside(name):
    if name == "random":
        program = random_program(1, 3, 1, 3)
        regions = mpqp.solve(program, cache=False)
    else:
        program, regions = solved(name)
    m, few = program.m, merged(regions, program.m)
    z = draws(program, 5000)
    before, after = regions.locate(z, 1e-8), few.locate(z, 1e-8)
    np.testing.assert_array_equal(before >= 0, after >= 0)
    there = before >= 0
    wanted = np.einsum("bmn,bn->bm", regions.K[before, :m], z) + regions.r[before, :m]
    found = np.einsum("bmn,bn->bm", few.K[after], z) + few.r[after]
    assert np.abs(found - wanted)[there].max() < 1e-9
    held = (few.b - np.einsum("pqn,bn->bpq", few.A, z)).min(-1) > 1e-6
    assert (held.sum(1) <= 1).all()  # regions still do not overlap
    assert {"double_integrator": len(few.K) == 3, "tutorial": len(few.K) < 100, "random": len(few.K) < len(regions.K)}[name]


def test_what_is_left_cannot_be_joined():
    """By another test: two are convex together exactly if their hull is no larger than both."""
    few = merged(solved("tutorial")[1], 1)
    law = np.round(np.concatenate([few.K[:, 0], few.r], 1), 6)
    points = []
    for A, b, centre in zip(few.A, few.b, few.centre, strict=True):
        on = np.isfinite(b)
        points.append(HalfspaceIntersection(np.concatenate([A[on], -b[on, None]], 1), centre).intersections)
    area = [ConvexHull(x).volume for x in points]
    pairs = [(i, j) for i, j in itertools.combinations(range(len(area)), 2) if (law[i] == law[j]).all()]
    gaps = [ConvexHull(np.concatenate([points[i], points[j]])).volume / (area[i] + area[j]) - 1 for i, j in pairs]
    assert len(pairs) > 100 and min(gaps) > 1e-4


def test_regions_are_described_in_full():
    """Rows are facets, centres those of the largest balls."""
    regions = merged(solved("tutorial")[1], 1)
    for i, count in enumerate(regions.rows):
        A, b = regions.A[i, :count] * regions.scale, regions.b[i, :count]
        centre = regions.centre[i] / regions.scale
        np.testing.assert_array_equal(facets(A, b, centre), np.arange(count))
        assert (b - A @ centre).min() == pytest.approx(largest_ball(A, b).radius, abs=1e-9)


def test_the_agent_may_have_fewer_regions():
    """And as many nets; its controller and the program's value are the same."""
    made = []
    for merge in (False, True):
        config = Config(merge=merge, critic="mpqp", width=4)
        made.append(Learner(config, build(config, Problem({"train": rlx.envs.make("rlx:double-integrator")}))))
    plain, few = (one.known for one in made)
    assert few.count == few.law.regions < plain.count
    assert jax.eval_shape(made[1].actor_init, jax.random.key(0))["params"]["Dense_2"]["kernel"].shape == (few.count, 4, 1)
    low, high = plain.z_low, plain.z_high
    z = jnp.asarray(np.random.default_rng(0).uniform(low, high, (2000, 2)), jnp.float32)
    a, b = (jax.jit(known.law.__call__)(z) for known in (plain, few))
    assert 0.1 < np.asarray(a.outside).mean() < 0.9
    np.testing.assert_array_equal(a.outside, b.outside)
    np.testing.assert_allclose(a.u[~a.outside], b.u[~a.outside], atol=1e-5)
    assert few.value.law.regions == plain.count
    assert Config().merge is False
