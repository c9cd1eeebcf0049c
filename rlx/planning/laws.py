"""Base laws as data: ``law(z) -> Move`` for any batch of parameters z, inside compiled code.

A law is a pytree whose arrays may be traced, so laws of one shape share a program. z and inputs are deviations from the
operating point (`rlx.planning.mpc`). All products are exact: rounded ones put states into wrong regions.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rlx.planning.linear import Linear
from rlx.planning.mpc import Program, action_value_of_z, cost_to_go
from rlx.planning.mpqp import Regions
from rlx.planning.nearest import nearest
from rlx.planning.search import FAR, Tree, entries, room, settle, tree
from rlx.precision import exact
from rlx.types import Array, Control

MANY = 500  # regions: with more a search tree is worth its while
Outside = Literal["nearest", "zero"]


class Move(NamedTuple):
    """What a law decides for z [..., nz]."""

    u: Array  # [..., m]
    region: Array  # int32 [...], 0 where the law has no regions
    outside: Array  # bool [...]: z is not where the law holds


class BaseLaw(Protocol):
    def __call__(self, z: Array) -> Move: ...


def _static(default: Any = dataclasses.MISSING) -> Any:
    return field(metadata={"static": True}, default=default)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AffineLaw:
    """u = clip(K z + r): the clipped linear-quadratic regulator, for one."""

    K: Array  # [m, nz]
    r: Array  # [m]
    low: Array  # [m]
    high: Array  # [m]

    @exact
    def __call__(self, z: Array) -> Move:
        u = jnp.clip(jnp.einsum("mn,...n->...m", self.K, z) + self.r, self.low, self.high)
        return Move(u, jnp.zeros(z.shape[:-1], jnp.int32), ~jnp.isfinite(z).all(-1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PiecewiseLaw:
    """A piecewise affine law: u = K_i z + r_i in the first region i with A_i z <= b_i + tolerance (YANN-RL, Fig. 3, without the
    big-M layers). Where there is none: in the nearest by slack, clipped to the input's bounds; or 0, as the paper's network.

    Where compressed, ``rows`` [q, nz] and ``bounds`` [q] hold each hyperplane once, and ``pick`` [p, q_i] says which of them
    bound region i: row j by j, negated by ``~j``.

    With a ``tree`` of these very regions few of them are looked at, and all only for those z that it leaves open, as it does
    outside. The answers are the same.
    """

    K: Array  # [p, m, nz]
    r: Array  # [p, m]
    rows: Array  # [p, q_i, nz] padded by 0
    bounds: Array  # [p, q_i] padded by FAR
    low: Array  # [m]
    high: Array  # [m]
    pick: Any = None  # int32
    tolerance: float = _static(1e-6)
    outside: Outside = _static("nearest")
    tree: Tree | None = None

    @property
    def regions(self) -> int:
        return self.K.shape[0]

    @property
    def facets(self) -> int:
        """Rows of a region, padding among them."""
        return (self.bounds if self.pick is None else self.pick).shape[1]

    def slacks(self, z: Array) -> Array:
        """How far z is inside each region [..., p]: the least of b - A z over its rows."""
        slack = room(self.rows, self.bounds, entries(z, self.bounds.ndim))
        if self.pick is None:
            return slack.min(-1)
        return jnp.concatenate([slack, -slack[..., ::-1]], -1)[..., self.pick].min(-1)  # ~j counts from the end

    def locate(self, z: Array) -> tuple[Array, Array]:
        """The region int32 [...] that rules z, and whether z is outside all of them."""
        law, z = jax.lax.stop_gradient((self, z))
        if _many(z):
            score, region = law._search(z) if self.tree is None else law._descend_many(z)
        elif self.tree is None or z.ndim > 1:  # also what is exported: C computes both sides of a choice, a tree saves nothing
            score, region = law._compare(z)
        else:
            score, region = law._descend(z)
        return region, ~((score > 0) & jnp.isfinite(z).all(-1))

    def _score(self, slack: Array, region: Array) -> Array:
        """Largest for the region that rules: 1 or more where z is inside, the more the earlier; else the slack, below 0."""
        return jnp.where(slack >= -self.tolerance, (self.regions - region).astype(slack.dtype), slack)

    def _higher(self, best: tuple[Array, Array], slack: Array, region: Array) -> tuple[Array, Array]:
        """Of two scores and their regions the higher, or else the former."""
        score = self._score(slack, region)
        up = score > best[0]
        return jnp.where(up, score, best[0]), jnp.where(up, region, best[1])

    def _compare(self, z: Array) -> tuple[Array, Array]:
        """The highest score [...] and its region, of all scores at once: what one state wants, and what becomes short C."""
        score = self._score(self.slacks(z), jnp.arange(self.regions))
        return score.max(-1), jnp.argmax(score, -1).astype(jnp.int32)

    def _search(self, z: Array) -> tuple[Array, Array]:
        """The same from region to region: no more than the best so far is kept, and states lie side by side in memory."""
        rows, bounds = self._sides(slice(None))
        parts = entries(z, 0)
        least = jnp.full(z.shape[:-1], -jnp.inf, jnp.result_type(rows, z))
        short = min(1.0, 32 / rows[0].size)  # longer programs are no faster, and compiling them takes its time

        def narrow(slack: Array, side: tuple[Array, Array]) -> tuple[Array, None]:
            return jnp.minimum(slack, room(*side, parts)), None

        def look(best: tuple[Array, Array], one: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            i, rows, bounds = one
            slack, _ = jax.lax.scan(narrow, -least, (rows, bounds), unroll=max(1, int(short * len(bounds))))
            return self._higher(best, slack, i), None

        regions = (jnp.arange(self.regions, dtype=jnp.int32), rows, bounds)
        nothing = (least, jnp.zeros(least.shape, jnp.int32))
        return jax.lax.scan(look, nothing, regions, unroll=4 if least.size >= 4096 and short == 1 else 1)[0]

    def _sides(self, region: Any, row: Any = slice(None)) -> tuple[Array, Array]:
        """Rows [..., q_i, nz] and bounds [..., q_i] of regions; or a ``row`` of each."""
        if self.pick is None:
            return self.rows[region, row], self.bounds[region, row]
        both = (jnp.concatenate([x, -x[::-1]]) for x in (self.rows, self.bounds))
        rows, bounds = (x[self.pick[region, row]] for x in both)
        return rows, bounds

    def _descend(self, z: Array) -> tuple[Array, Array]:
        """By the tree, or by comparing all where that leaves z [nz] open."""
        assert self.tree is not None
        few, sure = self.tree.candidates(z)
        score = self._score(room(*self._sides(few), entries(z, 2)).min(-1), few)
        region = jnp.take_along_axis(few, jnp.argmax(score, -1)[..., None], -1)[..., 0]
        score = jnp.where(sure, score.max(-1), -jnp.inf)
        return jax.lax.cond(score > 0, lambda: (score, region), lambda: self._compare(z))

    def _descend_many(self, z: Array) -> tuple[Array, Array]:
        """By the tree, and then from region to region for those that it leaves open."""
        assert self.tree is not None
        flat = z.reshape(-1, z.shape[-1])
        few, sure = self.tree.candidates(flat)
        parts, least = entries(flat, 0), jnp.full(len(flat), -jnp.inf, jnp.result_type(self.rows, z))

        def look(best: tuple[Array, Array], region: Array) -> tuple[tuple[Array, Array], None]:
            narrow = lambda slack, row: (jnp.minimum(slack, room(*self._sides(region, row), parts)), None)
            slack, _ = jax.lax.scan(narrow, -least, jnp.arange(self.facets))
            return self._higher(best, slack, region), None

        (score, region), _ = jax.lax.scan(look, (least, few[:, 0]), few.T)
        score, region = settle(self._search, flat, (score, region), ~(sure & (score > 0)))
        return score.reshape(z.shape[:-1]), region.reshape(z.shape[:-1])

    @exact
    def affine(self, z: Array, region: Array) -> Array:
        """K_i z + r_i [..., m], not clipped."""
        return jnp.einsum("...mn,...n->...m", self.K[region], z) + self.r[region]

    def __call__(self, z: Array) -> Move:
        region, outside = self.locate(z)
        return Move(self.bounded(self.affine(z, region), outside), region, outside)

    def bounded(self, u: Array, outside: Array) -> Array:
        """``u`` as it is inside; outside clipped, or 0. What is not a number stays so."""
        there = 0 * u if self.outside == "zero" else jnp.clip(u, self.low, self.high)
        return jnp.where(outside[..., None], there, u)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuadraticLaw:
    """Solves the program for each z, where it has too many regions to list: exactly, by a dual active set method
    (`rlx.planning.nearest`). What rounding leaves in float32 is below 1e-4 of the input's range. ``outside``: z is not a
    parameter of the program, or no input keeps its rows; u is then what the search ended with, within the bounds.

    In coordinates V = L'U with H = LL', where the objective is |V|^2 + 2 V'f(z), and rows have unit norm.
    """

    back: Array  # [m, v]: V to the input now
    f: Array  # [v, nz]
    G: Array  # [rows, v]
    w: Array  # [rows]
    S: Array  # [rows, nz]
    Th: Array  # [th rows, nz], those that z alone must keep
    th: Array  # [th rows]
    low: Array
    high: Array
    steps: int = _static(0)  # changes of the active set, at most; 0: as many as are needed

    def __call__(self, z: Array) -> Move:
        return self.follow(z)[0]

    @exact
    def follow(self, z: Array, active: Array | None = None) -> tuple[Move, Array]:
        """The move, and which rows bool [..., rows] are active at the solution: with them as ``active`` the search for the
        next z begins where this one ended, which is near where the plant moves little."""
        dot = lambda M, x: jnp.einsum("ij,...j->...i", M, x)
        found = nearest(self.G, self.w + dot(self.S, z), -dot(self.f, z), active, self.steps)
        off = ~found.solved | (dot(self.Th, z) > self.th + 1e-6).any(-1)
        u = jnp.clip(dot(self.back, found.point), self.low, self.high)
        return Move(u, jnp.zeros(z.shape[:-1], jnp.int32), off | ~jnp.isfinite(z).all(-1)), found.active


def regulator(control: Control, model: Linear, discount: float = 1.0, clipped: bool = True) -> AffineLaw:
    """The linear-quadratic regulator u = u_r - K (s - s_r), within the input's bounds (``clipped``)."""
    W = action_value_of_z(control, model, cost_to_go(control, model, discount).W)
    nz = len(W) - len(control.u)
    K = -np.linalg.solve(W[nz:, nz:], W[nz:, :nz])
    low, high = control.u_low - control.u, control.u_high - control.u
    if not clipped:
        low, high = np.full_like(low, -FAR), np.full_like(high, FAR)
    return AffineLaw(*map(_single, (K, np.zeros(len(K)), low, high)))


def piecewise(
    regions: Regions,
    program: Program,
    outside: Outside = "nearest",
    tolerance: float = 1e-6,
    compressed: bool = False,
    many: int = MANY,
) -> PiecewiseLaw:
    """The first move of the solved program, in float32 where JAX computes in that.

    Args:
        tolerance: by which z may violate the rows of a region, in parts of the parameters' half-widths.
        compressed: each hyperplane is kept once.
        many: with more regions than that the law has a search tree, which takes the host seconds (`rlx.planning.search`).
    """
    m = program.m
    rows, bounds, pick = regions.A, np.where(np.isfinite(regions.b), regions.b, FAR), None
    if compressed:
        rows, bounds, picked = compress(regions)
        pick = jnp.asarray(picked, jnp.int32)
    K, r, rows, bounds, low, high = map(
        _single, (regions.K[:, :m], regions.r[:, :m], rows, bounds, program.u_low, program.u_high)
    )
    found = tree(regions, tolerance) if len(regions.K) > many else None
    return PiecewiseLaw(K, r, rows, bounds, low, high, pick, tolerance, outside, found)


def compress(regions: Regions, tolerance: float = 1e-6, signs: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each hyperplane once: rows [q, nz], bounds [q], and which bound each region [p, q_i], ``~j`` where negated (``signs``
    False: rows are merged that are equal, not those that are opposite). The last row is none, for padding."""
    unit = np.concatenate([regions.A * regions.scale, np.where(np.isfinite(regions.b), regions.b, 0.0)[..., None]], -1)
    kept, count = np.zeros((np.isfinite(regions.b).sum() + 1, unit.shape[-1])), 0
    pick = np.full(regions.b.shape, -1)
    for i, j in np.argwhere(np.isfinite(regions.b)):
        row = unit[i, j]
        for sign in (1, -1) if signs else (1,):
            same = np.flatnonzero(np.abs(kept[:count] - sign * row).max(1) <= tolerance)
            if len(same):
                pick[i, j] = same[0] if sign > 0 else ~same[0]
                break
        else:
            kept[count], pick[i, j] = row, count
            count += 1
    rows = kept[: count + 1]
    rows[-1, -1] = FAR
    pick[~np.isfinite(regions.b)] = count
    return rows[:, :-1] / regions.scale, rows[:, -1], pick


def quadratic(program: Program, steps: int = 0) -> QuadraticLaw:
    """The program itself as a law. ``steps`` bounds the search where time is short; what it leaves unsolved is outside."""
    L = np.linalg.cholesky(program.H)
    to = np.linalg.inv(L).T  # U = to V
    G = program.G @ to
    size = np.linalg.norm(G, axis=1, keepdims=True)
    some = size[:, 0] > 1e-12
    Th, th = np.concatenate([program.Th, -program.S[~some]]), np.concatenate([program.th, program.w[~some]])
    G, w, S = G[some] / size[some], program.w[some] / size[some, 0], program.S[some] / size[some]
    arrays: Any = (to[: program.m], to.T @ program.F, G, w, S, Th, th, program.u_low, program.u_high)
    return dataclasses.replace(QuadraticLaw(*map(_single, arrays)), steps=steps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PiecewiseValue:
    """The program's optimal value: V_i(z) = z'M_i z + c_i'z + d_i in region i, of the nearest region outside all."""

    law: PiecewiseLaw
    M: Array  # [p, nz, nz]
    c: Array  # [p, nz]
    d: Array  # [p]

    @exact
    def __call__(self, z: Array) -> Array:
        region, _ = self.law.locate(z)
        M, c, d = self.M[region], self.c[region], self.d[region]
        square = jnp.einsum("...i,...ij,...j->...", z, M, z)
        return square + (c * z).sum(-1) + d


def piecewise_value(regions: Regions, program: Program, law: PiecewiseLaw) -> PiecewiseValue:
    """M_i = Y + K'HK + K'F + F'K, c_i = 2 K'Hr + 2 F'r, d_i = r'Hr, with the laws of the whole horizon."""
    K, r, H, F = regions.K, regions.r, program.H, program.F
    KF = K.transpose(0, 2, 1) @ F
    M = program.Y + K.transpose(0, 2, 1) @ H @ K + KF + KF.transpose(0, 2, 1)
    c = 2 * np.einsum("pvn,vw,pw->pn", K, H, r) + 2 * r @ F
    d = np.einsum("pv,vw,pw->p", r, H, r)
    return PiecewiseValue(law, *map(_single, (M, c, d)))


def _many(z: Array) -> bool:
    """Whether z are several parameters, so many that is known."""
    sizes = z.shape[:-1]
    return all(isinstance(n, int) for n in sizes) and math.prod(sizes) > 1


def _single(x: np.ndarray) -> Array:
    """As JAX computes by default: in float32, or in float64 where that was asked for."""
    return jnp.asarray(np.asarray(x, np.float64))
