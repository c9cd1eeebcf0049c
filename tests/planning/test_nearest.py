"""The nearest point of a polyhedron, against points worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlx.planning.nearest import nearest

S = 1 / np.sqrt(2)
CORNER = jnp.array([[1.0, 0.0], [0.0, 1.0], [S, S], [-1.0, 0.0]])  # x <= a, y <= b, (x + y) / sqrt 2 <= c, x >= -d


def found(centre, room, active=None):
    return jax.jit(nearest)(CORNER, jnp.array(room), jnp.array(centre), None if active is None else jnp.array(active))


def test_points_by_hand():
    """Inside; on one side; in a corner, where the slanted side first becomes active and then leaves; without an inside."""
    room = [[1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 2.2, 9.0], [1.0, 1.0, S, 9.0], [1.0, 1.0, 9.0, -2.0]]
    centre = [[0.5, -3.0], [2.0, 0.5], [3.0, 4.0], [2.0, 2.0], [0.0, 0.0]]
    out = found(centre, room)
    np.testing.assert_allclose(out.point[:4], [[0.5, -3.0], [1.0, 0.5], [1.0, 1.0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_array_equal(out.solved, [True] * 4 + [False])  # x <= 1 and x >= 2
    no, one = [False] * 4, lambda *rows: [i in rows for i in range(4)]
    np.testing.assert_array_equal(out.active[:4], [no, one(0), one(0, 1), one(2)])
    single = found(centre[3], room[3])
    assert single.point.shape == (2,) and single.solved.shape == ()


def test_rows_to_begin_from_may_be_wrong_or_dependent():
    """All four at once in a plane, of which two can be taken and one then leaves."""
    for active in ([True] * 4, [False, False, False, True], [True, False, False, True]):
        out = found([2.0, 0.5], [1.0, 1.0, 9.0, 9.0], active)
        np.testing.assert_allclose(out.point, [1.0, 0.5], atol=1e-6)
        assert out.solved and out.active.tolist() == [True, False, False, False]


def test_what_is_not_a_number_is_no_solution():
    out = found([[np.nan, 0.0], [2.0, 0.5]], [[1.0, 1.0, 9.0, 9.0]] * 2)
    assert out.solved.tolist() == [False, True] and np.isnan(out.point[0]).any()


def test_no_rows_leave_the_point_where_it_is():
    out = nearest(jnp.zeros((0, 2)), jnp.zeros((3, 0)), jnp.ones((3, 2)))
    assert out.solved.all() and (out.point == 1).all() and out.active.shape == (3, 0)


def test_the_slope_is_that_of_the_projection():
    slope = jax.jacobian(lambda x: found(x, [1.0, 1.0, 9.0, 9.0]).point)
    np.testing.assert_allclose(jax.jit(slope)(jnp.array([2.0, 0.5])), [[0, 0], [0, 1]], atol=1e-6)
