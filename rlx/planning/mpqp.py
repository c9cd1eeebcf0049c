"""Multi-parametric quadratic programs solved once for all parameters: an affine law on each of finitely many regions.

For an active set ``a`` (rows that hold with equality) the optimality conditions are linear (Bemporad et al. 2002, "The explicit
linear quadratic regulator for constrained systems", Automatica 38, theorem 2):

    lambda(z) = -T (w_a + S_a z + G_a H^-1 F z),  T = (1/2 G_a H^-1 G_a')^-1        U(z) = -H^-1 F z - 1/2 H^-1 G_a' lambda(z)
    region    = {z : G_i U(z) <= w_i + S_i z for i not in a;  lambda(z) >= 0;  Th z <= th}

Candidates are tried many at a time with batched linear algebra; a linear program is solved for those alone whose region is not
ruled out by their bounding box. Float64, on the host, kept in a file by the hash of the program.
"""

from __future__ import annotations

import hashlib
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import linprog, nnls

from rlx import files
from rlx.planning.mpc import Program
from rlx.planning.polytopes import FLAT, distinct, extent, facets, largest_ball

Method = Literal["auto", "combinatorial", "graph"]
Set = tuple[int, ...]
_FORMAT = 2  # of the files; a new number forgets the old ones


@dataclass(frozen=True)
class Regions:
    """U(z) = K_i z + r_i where A_i z <= b_i. Sorted by active set, so that region 0 has the fewest active rows.

    Rows of ``A`` have unit norm in z / ``scale``, so that slacks b - A z of states with different units can be compared.
    """

    K: np.ndarray  # [p, v, nz]
    r: np.ndarray  # [p, v]
    A: np.ndarray  # [p, q, nz], padded by rows of 0
    b: np.ndarray  # [p, q], padded by inf
    active: np.ndarray  # bool [p, rows of the program]
    centre: np.ndarray  # [p, nz] of the largest ball
    scale: np.ndarray  # [nz]

    @property
    def rows(self) -> np.ndarray:
        """Facets of each region [p]."""
        return np.isfinite(self.b).sum(1)

    def locate(self, z: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
        """The first region that holds each of ``z`` [B, nz], -1 where there is none. By a plain loop over regions."""
        found = np.full(len(z), -1)
        for i in range(len(self.A)):
            held = (self.b[i] - z @ self.A[i].T).min(1) >= -tolerance
            found[(found < 0) & held] = i
        return found


def solve(program: Program, method: Method = "auto", cache: bool = True) -> Regions:
    """All regions of ``program``.

    Args:
        method: "combinatorial" tries all active sets, "graph" goes from region to region across facets; "auto": the first
            for up to 4 variables and 20 rows.
        cache: look in, and add to, ``$XDG_CACHE_HOME/rlx/mpqp`` (``RLX_CACHE=off``: never).

    Raises:
        ValueError: no parameter admits a solution, or parameters are unbounded.
    """
    if method not in ("auto", "combinatorial", "graph"):
        raise ValueError(f"method={method!r} is unknown; give 'auto', 'combinatorial' or 'graph'.")
    file = _file(program, method) if cache else None
    if file is not None and (kept := _read(file)) is not None:
        return kept
    search = _Search(program)
    small = program.H.shape[0] <= 4 and len(program.G) <= 20
    if method == "combinatorial" or (method == "auto" and small):
        search.all_sets()
    else:
        search.across_facets()
    found = search.result()
    if file is not None:
        _write(file, found)
    return found


class _Search:
    """Works in zeta with z = middle + scale zeta, where the parameters' bounding box is [-1, 1]."""

    def __init__(self, program: Program):
        Th, th = _unit(program.Th, program.th)
        low, high = extent(Th, th)
        self.middle, self.scale = (low + high) / 2, (high - low) / 2
        if self.scale.min() <= 0:
            raise ValueError("the set of parameters is flat: some parameter has one value only.")
        self.size, self.kept = len(program.G), _distinct_rows(program, self.scale)
        self.program = program = replace(program, **{name: getattr(program, name)[self.kept] for name in ("G", "w", "S")})
        norm = np.linalg.norm(program.G, axis=1)
        empty = norm < 1e-12  # rows that no input can change only bound z
        self.bounds = _unit(
            np.concatenate([program.Th, -program.S[empty]]) * self.scale,
            np.concatenate([program.th, program.w[empty]]) - np.concatenate([program.Th, -program.S[empty]]) @ self.middle,
        )
        norm = np.where(empty, 1.0, norm)
        self.usable = np.flatnonzero(~empty)
        self.G, S, w = (x / norm[:, None] if x.ndim > 1 else x / norm for x in (program.G, program.S, program.w))
        F = program.F
        self.unlimited = -np.linalg.solve(program.H, F)  # the law where nothing is active
        self.HG = np.linalg.solve(program.H, self.G.T)  # [v, rows]
        self.GHG = self.G @ self.HG
        slope = S - self.G @ self.unlimited  # S + G H^-1 F
        self.slack = np.concatenate([(w + slope @ self.middle)[:, None], slope * self.scale], 1)  # [rows, 1 + nz], 1 and zeta
        self.found: dict[Set, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}  # rows, A, b, centre

    # ------------------------------------------------------------------------------------------------ optimality conditions

    def conditions(self, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of active sets [c, k]: all rows as const + slope zeta >= 0, [c, rows, 1 + nz], multipliers where active, slacks where
        not; and whether the active rows are independent [c]."""
        c, k = sets.shape
        rows = np.broadcast_to(self.slack, (c, *self.slack.shape)).copy()
        if not k:
            return rows, np.ones(c, bool)
        M = self.GHG[sets[:, :, None], sets[:, None, :]]
        size = np.sqrt(np.einsum("ckk->ck", M))
        least = np.linalg.eigvalsh(M / (size[:, :, None] * size[:, None, :]))[:, 0]
        good = least > 1e-9
        M = np.where(good[:, None, None], M, np.eye(k))
        multiplier = -2 * np.linalg.solve(M, self.slack[sets])  # [c, k, 1 + nz]
        rows += 0.5 * self.GHG[:, sets].transpose(1, 0, 2) @ multiplier
        rows[np.arange(c)[:, None], sets] = multiplier
        return rows, good

    def add(self, sets: Sequence[Set]) -> list[Set]:
        """Those of ``sets`` (all of one size) that have a region with an inside, which is kept. Also marks dependent ones."""
        k = len(sets[0])
        rows, good = self.conditions(np.array(sets, int).reshape(len(sets), k))
        self.dependent = {a for a, ok in zip(sets, good, strict=True) if not ok}
        reach = rows[..., 0] + np.abs(rows[..., 1:]).sum(-1)  # the most that each row can be in the box
        some = good & (reach[:, self.usable].min(1, initial=np.inf) > -1e-9)  # 0 where a row only just holds everywhere
        return [sets[i] for i in np.flatnonzero(some).tolist() if self._keep(sets[i], rows[i])]

    def _keep(self, active: Set, rows: np.ndarray) -> bool:
        A, b = -rows[self.usable, 1:], rows[self.usable, 0]
        norm = np.linalg.norm(A, axis=1)
        flat = norm < 1e-10
        if (b[flat] < -1e-9).any():
            return False
        some = ~flat & (b < np.abs(A).sum(1))  # the others hold in the whole box
        index = np.concatenate([self.usable[some], np.full(len(self.bounds[1]), -1)])
        A = np.concatenate([A[some] / norm[some, None], self.bounds[0]])
        b = np.concatenate([b[some] / norm[some], self.bounds[1]])
        ball = largest_ball(A, b)
        if ball.radius <= FLAT:
            return False
        sides = facets(A, b, ball.centre)
        self.found[active] = index[sides], A[sides], b[sides], ball.centre
        return True

    # ------------------------------------------------------------------------------------------------------ two ways to go

    def all_sets(self) -> None:
        """Breadth first; supersets of sets that are dependent, or that no parameter admits, are left out."""
        level: list[Set] = [()]
        while level:
            kept = set(self.add(level))
            alive = {a for a in level if a in kept or (a not in self.dependent and self._admitted(a))}
            if len(level[0]) == self.program.H.shape[0]:
                break
            singles = [int(i) for i in self.usable]
            longer = {(*a, i) for a in alive for i in singles if not a or i > a[-1]}
            level = sorted(a for a in longer if all(a[:j] + a[j + 1 :] in alive for j in range(len(a))))

    def _admitted(self, active: Set) -> bool:
        """Whether inputs and a parameter exist for which these rows are active."""
        program, v, rows = self.program, self.program.H.shape[0], list(active)
        wide = np.concatenate([program.G, -program.S], 1)
        bounds = np.concatenate([np.zeros((len(program.Th), v)), program.Th], 1)
        found = linprog(
            np.zeros(wide.shape[1]),
            np.concatenate([wide, bounds]),
            np.concatenate([program.w, program.th]),
            wide[rows] if rows else None,
            program.w[rows] if rows else None,
            bounds=[(None, None)] * wide.shape[1],
            method="highs",
        )
        return found.status == 0

    def across_facets(self) -> None:
        """From region to region. Points of the parameter set that belong to none found start again from their own region, which
        reaches what degenerate facets cut off."""
        seen: set[Set] = set()
        rng = np.random.default_rng(0)
        seeds = self._seeds(np.concatenate([np.zeros((1, len(self.scale))), self._inside(), self._random(rng, 64)]))
        while seeds:
            self._spread(seeds, seen)
            seeds = [a for a in self._seeds(self._random(rng, 512)) if a not in seen]

    def _spread(self, seeds: Iterable[Set], seen: set[Set]) -> None:
        front = {a for a in seeds if a not in seen}
        while front:
            seen |= front
            kept: list[Set] = []
            for _, group in itertools.groupby(sorted(front, key=lambda a: (len(a), a)), key=len):
                kept += self.add(list(group))
            front = {b for a in kept for b in self._neighbours(a)} - seen

    def _neighbours(self, active: Set) -> Iterable[Set]:
        """Across each facet one row becomes active, or stops being so; in place of another one, where all cannot be."""
        for i in self.found[active][0]:
            if i < 0:
                continue
            if int(i) in active:
                yield tuple(j for j in active if j != i)
                continue
            more = tuple(sorted((*active, int(i))))
            if self._independent(more):
                yield more
            else:
                yield from (tuple(j for j in more if j != out) for out in active)

    def _independent(self, active: Set) -> bool:
        return len(active) <= self.program.H.shape[0] and bool(self.conditions(np.array([active], int))[1][0])

    def _inside(self) -> np.ndarray:
        """A parameter well inside the set of those that have a solution [1, nz], or none [0, nz]."""
        program, v = self.program, self.program.H.shape[0]
        wide = np.concatenate([program.G, -program.S * self.scale], 1)
        bounds = np.concatenate([np.zeros((len(self.bounds[0]), v)), self.bounds[0]], 1)
        rows = np.concatenate([wide, bounds])
        right = np.concatenate([program.w + program.S @ self.middle, self.bounds[1]])
        rows = np.concatenate([rows, np.linalg.norm(rows, axis=1, keepdims=True)], 1)
        price = np.append(np.zeros(rows.shape[1] - 1), -1.0)
        found = linprog(price, rows, right, bounds=[(None, None)] * (len(price) - 1) + [(None, 1.0)], method="highs")
        if found.status != 0 or found.x[-1] < -1e-9:
            raise ValueError("no parameter admits a solution: the limits of inputs and states contradict each other.")
        return found.x[None, v:-1]

    def _random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        zeta = rng.uniform(-1, 1, (count, len(self.scale)))
        return zeta[(zeta @ self.bounds[0].T <= self.bounds[1]).all(1)]

    def _seeds(self, zeta: np.ndarray) -> list[Set]:
        """Active sets at the parameters [B, nz] that lie in no region found so far and have a solution."""
        for _, A, b, _ in self.found.values():
            zeta = zeta[(b - zeta @ A.T).min(1) < -FLAT]
        found = [active_set(self.program, self.middle + self.scale * point) for point in zeta]
        return sorted({a for a in found if a is not None}, key=lambda a: (len(a), a))

    # -------------------------------------------------------------------------------------------------------------- result

    def result(self) -> Regions:
        if not self.found:
            raise ValueError("no parameter admits a solution: the limits of inputs and states contradict each other.")
        sets = sorted(self.found, key=lambda a: (len(a), a))
        v, nz = self.unlimited.shape
        q = max(len(self.found[a][2]) for a in sets)
        out = Regions(
            K=np.zeros((len(sets), v, nz)),
            r=np.zeros((len(sets), v)),
            A=np.zeros((len(sets), q, nz)),
            b=np.full((len(sets), q), np.inf),
            active=np.zeros((len(sets), self.size), bool),
            centre=np.array([self.middle + self.scale * self.found[a][3] for a in sets]),
            scale=self.scale,
        )
        for i, a in enumerate(sets):
            _, A, b, _ = self.found[a]
            out.A[i, : len(b)] = A / self.scale
            out.b[i, : len(b)] = b + (A / self.scale) @ self.middle
            out.active[i, self.kept[list(a)]] = True
            rows = self.conditions(np.array([a], int).reshape(1, len(a)))[0][0]
            multiplier = rows[list(a)]
            slope, const = multiplier[:, 1:] / self.scale, multiplier[:, 0]
            const = const - slope @ self.middle
            out.K[i] = self.unlimited - 0.5 * self.HG[:, list(a)] @ slope
            out.r[i] = -0.5 * self.HG[:, list(a)] @ const
        return out


def _distinct_rows(program: Program, scale: np.ndarray) -> np.ndarray:
    """Indices of the rows that are not another one, or its multiple, with a looser bound: such rows would only give regions
    twice."""
    norm = np.linalg.norm(program.G, axis=1)
    norm = np.where(norm < 1e-12, 1.0, norm)
    return distinct(np.concatenate([program.G, program.S * scale], 1) / norm[:, None], program.w / norm)


def _unit(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norm = np.linalg.norm(A, axis=1)
    if (b[norm < 1e-12] < -1e-9).any():
        raise ValueError("the set of parameters is empty: its bounds contradict each other.")
    some = norm >= 1e-12
    return A[some] / norm[some, None], b[some] / norm[some]


def optimum(program: Program, z: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """U [v] and which rows are active [rows] at one parameter, None where it has no solution: by non-negative least squares
    (Lawson and Hanson 1974, least distance programming)."""
    L = np.linalg.cholesky(program.H)
    free = -np.linalg.solve(program.H, program.F @ z)
    to = np.linalg.solve(L, program.G.T).T  # [rows, v]: G in coordinates where H is 1
    room = program.w + program.S @ z - program.G @ free
    size = np.linalg.norm(to, axis=1)
    flat = size < 1e-12
    if (room[flat] < -1e-9).any():
        return None
    size = np.where(flat, 1.0, size)
    E = np.concatenate([-(to / size[:, None]).T, -(room / size)[None]])
    E[:, flat] = 0
    try:
        x, _ = nnls(E, np.append(np.zeros(len(free)), 1.0), maxiter=30 * E.shape[1])
    except RuntimeError:  # it cycles, at degenerate parameters
        return None
    rest = E @ x - np.append(np.zeros(len(free)), 1.0)
    if np.linalg.norm(rest) < 1e-9:
        return None
    return free + np.linalg.solve(L.T, -rest[:-1] / rest[-1]), x > 0


def active_set(program: Program, z: np.ndarray) -> Set | None:
    """The active rows at one parameter, None where it has no solution."""
    found = optimum(program, z)
    return None if found is None else tuple(int(i) for i in np.flatnonzero(found[1]))


# ------------------------------------------------------------------------------------------------------------------- files


def _file(program: Program, method: str) -> Path | None:
    digest = hashlib.sha256(f"{_FORMAT} {method}".encode())
    for field in fields(program):
        value = np.ascontiguousarray(getattr(program, field.name))
        digest.update(f"{field.name} {value.shape} {value.dtype}".encode())
        digest.update(value.tobytes())
    folder = files.cache_folder("mpqp")
    return None if folder is None else folder / f"{digest.hexdigest()[:32]}.npz"


def _read(file: Path) -> Regions | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            return Regions(**{field.name: kept[field.name] for field in fields(Regions)})
    except (
        OSError,
        KeyError,
        ValueError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ):  # not there, or damaged: it is computed anew
        return None


def _write(file: Path, regions: Regions) -> None:
    try:
        with files.replacing(file) as part:
            np.savez(part, **{field.name: getattr(regions, field.name) for field in fields(Regions)})
    except OSError:  # a cache that cannot be written is none
        return
