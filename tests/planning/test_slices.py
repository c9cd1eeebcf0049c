"""Plane sections of polytopes: exact polygons."""

from __future__ import annotations

import numpy as np
import pytest

from rlx import envs
from rlx.planning import mpc
from rlx.planning.linear import linearise
from rlx.planning.mpqp import solve
from rlx.planning.slices import area, polygon, sections

UNIT = np.zeros(2), np.ones(2)


def test_a_corner_of_the_box_is_cut_off():
    corners = polygon(np.array([[1.0, 1.0]]), np.array([0.5]), *UNIT)
    assert area(corners) == pytest.approx(0.125)
    assert {tuple(c) for c in corners} == {(0, 0), (0.5, 0), (0, 0.5)}


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
def test_nothing_is_left_of_what_lies_outside(row):
    assert polygon(np.array([row]), np.array([-0.1]), *UNIT).shape == (0, 2)


def test_rows_that_hold_in_the_whole_box_and_padding_change_nothing():
    assert area(polygon(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([5.0, np.inf]), *UNIT)) == 1


def test_corners_are_counter_clockwise():
    rng = np.random.default_rng(0)
    for _ in range(20):
        A = rng.standard_normal((5, 2))
        x, y = polygon(A, A @ [0.5, 0.5] + 0.2, *UNIT).T
        assert x @ np.roll(y, -1) - y @ np.roll(x, -1) > 0


def test_sections_of_a_cube_through_its_middle_and_past_it():
    A, b = np.concatenate([np.eye(3), -np.eye(3)])[None], np.ones((1, 6))
    low, high = np.full(2, -2.0), np.full(2, 2.0)
    for height, size in ((0.0, 4), (0.99, 4), (1.01, None)):
        found = sections(A, b, np.array([9.0, height, 9.0]), (0, 2), low, high)
        assert [area(corners) for _, corners in found] == ([] if size is None else [pytest.approx(size)])


@pytest.mark.parametrize("name", ["double-integrator", "t2-reactor"])
def test_regions_fill_the_plane_without_overlap_and_each_corner_belongs_to_its_region(name):
    env = envs.make(f"rlx:{name}")
    control = env.spec.task.control
    program = mpc.program(control, linearise(env), 3, state_rows=False)
    regions = solve(program, cache=False)
    low, high = mpc.parameter_box(control, mpc.layout(control, linearise(env)))
    point, axes = np.zeros(len(low)), (0, len(low) - 1)
    window = low[list(axes)] * 0.9, high[list(axes)] * 0.9
    found = sections(regions.A, regions.b, point, axes, *window)
    assert sum(area(corners) for _, corners in found) == pytest.approx(np.prod(window[1] - window[0]), rel=1e-9)
    for index, corners in found:
        inside = np.tile(point, (len(corners) + 1, 1))
        inside[:, list(axes)] = np.concatenate([corners, corners.mean(0, keepdims=True)])
        room = regions.b[index] - inside @ regions.A[index].T
        assert room.min() > -1e-9 and regions.locate(inside[-1:])[0] == index
