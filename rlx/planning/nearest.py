"""The point of a polyhedron that is nearest to another, for any batch and inside compiled code: what a quadratic program is in
coordinates where its Hessian is the identity.

The dual active set method of Goldfarb and Idnani (1983, "A numerically stable dual method for solving strictly convex quadratic
programs", Mathematical Programming 27): from the point without limits, the row that is violated most becomes active, and rows
with multipliers that would fall below 0 leave. After finitely many steps it ends at the exact solution, or with the proof that
there is none, and it begins as well from the active rows of a problem nearby.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx.precision import exact
from rlx.types import Array


class Found(NamedTuple):
    """The solution [..., v], and which rows are active there [..., rows]. ``solved`` bool [...]: that it is one."""

    point: Array
    active: Array
    solved: Array


class _State(NamedTuple):
    point: Array  # [v]
    rows: Array  # int32 [v], of the active ones, where ``on``
    on: Array  # bool [v]
    inverse: Array  # [v, v] of the active rows' N N', 0 where not ``on``
    price: Array  # [v] multipliers of |x - centre|^2 / 2
    row: Array  # int32: on its way to become active, -1 for none
    row_price: Array
    over: Array  # bool
    solved: Array  # bool
    left: Array  # int32, steps


@exact
def nearest(G: Array, room: Array, centre: Array, active: Array | None = None, steps: int = 0) -> Found:
    """The point x with ``G x <= room`` that is nearest to ``centre``.

    Args:
        G: [rows, v], each row of unit norm.
        room: [..., rows].
        centre: [..., v].
        active: bool [..., rows]: rows that may be active at the solution, from which to begin. None: none.
        steps: at most so many changes of the active set; 0: 10 (v + 1), which is far more than is needed.

    The derivative is that of the solution with its active rows held fixed, which is exact but where they change.
    """
    v, q = centre.shape[-1], len(G)
    lead = jnp.broadcast_shapes(room.shape[:-1], centre.shape[:-1])
    room, centre = jnp.broadcast_to(room, (*lead, q)), jnp.broadcast_to(centre, (*lead, v))
    begun = jnp.zeros((*lead, q), bool) if active is None else jnp.broadcast_to(active, (*lead, q))
    if not q:
        return Found(centre, begun, jnp.isfinite(centre).all(-1))

    def one(room: Array, centre: Array, begun: Array) -> Found:
        fixed = jax.lax.stop_gradient((G, room, centre))
        s = _search(*fixed, jax.lax.stop_gradient(begun), steps or 10 * (v + 1))
        there = _at(s, G, room, centre)[0]
        rows = jnp.zeros(q, bool).at[jnp.where(s.on, s.rows, q)].set(True, mode="drop")
        return Found(jnp.where(s.solved, there, s.point), rows, s.solved)

    for _ in lead:
        one = jax.vmap(one)
    return one(room, centre, begun)


def _search(G: Array, room: Array, centre: Array, begun: Array, steps: int) -> _State:
    v, dtype = centre.shape[-1], centre.dtype
    eps = 8 * jnp.finfo(dtype).eps
    size = 1 + jnp.abs(centre).max()
    no, none = jnp.bool_(False), jnp.int32(-1)
    nothing = jnp.zeros(v, dtype)
    start = _State(
        centre, jnp.zeros(v, jnp.int32), jnp.zeros(v, bool), jnp.zeros((v, v), dtype), nothing, none, nothing[0], no, no,
        jnp.int32(steps),
    )  # fmt: skip
    given = jnp.argsort(~begun)[:v].astype(jnp.int32)  # the first of them

    def take(i: Array, s: _State) -> _State:
        way, _, rest = _ways(s, G, G[given[i]])
        fine = begun[given[i]] & (rest > 1e-3)
        return jax.tree.map(lambda a, b: jnp.where(fine, a, b), _with(s, given[i], way, rest, nothing[0]), s)

    def step(s: _State) -> _State:
        point, price = _at(s, G, room, centre)
        fresh = s.row < 0
        s = s._replace(point=jnp.where(fresh, point, s.point), price=jnp.where(fresh, price, s.price))
        least = jnp.argmin(jnp.where(s.on, s.price, jnp.inf))
        wrong = fresh & s.on[least] & (s.price[least] < -eps * size)  # a row to begin from that holds nothing back
        gap = G @ s.point - room
        held = jnp.zeros(len(G), bool).at[jnp.where(s.on, s.rows, len(G))].set(True, mode="drop")
        worst = jnp.argmax(jnp.where(held, -jnp.inf, gap)).astype(jnp.int32)
        done = fresh & ~wrong & ~(jnp.where(held, -jnp.inf, gap).max() > eps * size)
        row, row_price = jnp.where(fresh, worst, s.row), jnp.where(fresh, 0, s.row_price)
        way, ahead, rest = _ways(s, G, G[row])
        ratio = jnp.where(s.on & (way > eps), s.price / way, jnp.inf)
        first = jnp.argmin(ratio)
        reach = jnp.where(rest > 1e-6, gap[row] / rest, jnp.inf)
        far = jnp.minimum(ratio[first], reach)
        moved = s._replace(
            point=s.point - jnp.where(jnp.isfinite(reach), far, 0) * ahead, price=s.price - far * way, row=row,
            row_price=row_price + far,
        )  # fmt: skip
        added = _with(moved, row, way, rest, moved.row_price)._replace(row=none)
        dropped = _without(moved, first)
        new = jax.tree.map(lambda a, b: jnp.where(reach <= ratio[first], a, b), added, dropped)
        lost = ~jnp.isfinite(far)  # no step is long enough: the rows contradict each other
        new = jax.tree.map(lambda a, b: jnp.where(lost, a, b), s, new)
        new = jax.tree.map(lambda a, b, c: jnp.where(wrong, a, jnp.where(done, b, c)), _without(s, least), s, new)
        return new._replace(over=done | (lost & ~wrong), solved=done & jnp.isfinite(new.point).all(), left=s.left - 1)

    s = jax.lax.fori_loop(0, v, take, start) if v else start
    return jax.lax.while_loop(lambda s: ~s.over & (s.left > 0), step, s)


def _rows(s: _State, G: Array) -> Array:
    return jnp.where(s.on[:, None], G[s.rows], 0)


def _at(s: _State, G: Array, room: Array, centre: Array) -> tuple[Array, Array]:
    """The point nearest to ``centre`` on the active rows, and their multipliers; corrected once for rounding."""
    N, bound = _rows(s, G), jnp.where(s.on, room[s.rows], 0)
    price = jnp.zeros_like(centre)
    for _ in range(3):
        price = price + s.inverse @ (N @ (centre - N.T @ price) - bound)
    return centre - N.T @ price, price


def _ways(s: _State, G: Array, row: Array) -> tuple[Array, Array, Array]:
    """Of ``row`` [v]: its part along the active rows as multiples of them, the rest, and the rest's square."""
    N = _rows(s, G)
    way = s.inverse @ (N @ row)
    ahead = row - N.T @ way
    more = s.inverse @ (N @ ahead)  # rounding
    ahead = ahead - N.T @ more
    return way + more, ahead, ahead @ ahead


def _with(s: _State, row: Array, way: Array, rest: Array, price: Array) -> _State:
    """One row more, in the first place that is free."""
    place = jnp.argmin(s.on)
    side = -way.at[place].set(-1)
    inverse = s.inverse + jnp.outer(side, side) / jnp.where(rest > 0, rest, 1)
    return s._replace(
        rows=s.rows.at[place].set(row), on=s.on.at[place].set(True), inverse=inverse, price=s.price.at[place].set(price)
    )


def _without(s: _State, place: Array) -> _State:
    column, corner = s.inverse[:, place], s.inverse[place, place]
    inverse = s.inverse - jnp.outer(column, column) / jnp.where(corner > 0, corner, 1)
    inverse = inverse.at[place].set(0).at[:, place].set(0)
    return s._replace(on=s.on.at[place].set(False), inverse=inverse, price=s.price.at[place].set(0))
