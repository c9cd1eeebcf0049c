"""Plants and programs whose laws are known, for the tests of planners and of what starts from them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import rlx.envs
from rlx.planning import mpc, mpqp
from rlx.planning.linear import Linear, linearise
from rlx.types import Control

EQUATION_12 = np.array([[1.0188, 0.0503], [0.7547, 1.0188]]), np.array([[0.0038], [0.1509]])  # arXiv 2508.16474, as printed


def linear(A: Any, B: Any, E: Any = None) -> Linear:
    A, B = np.atleast_2d(np.asarray(A, float)), np.asarray(B, float)
    B = B.reshape(len(A), -1)
    return Linear(A, B, np.zeros((len(A), 0)) if E is None else np.asarray(E, float).reshape(len(A), -1))


def held(model: Linear, q: Any = 1.0, r: Any = 1.0, u: Any = 1.0, x: Any = 1.0, **more: Any) -> Control:
    """Facts of a plant that is held at 0, with inputs in +-``u`` and states in +-``x``; numbers stand for all entries."""
    n, m = model.B.shape
    wide = lambda value, size: np.broadcast_to(np.asarray(value, float), (size,)).copy()
    weight = lambda value, size: np.asarray(value, float) if np.ndim(value) == 2 else np.diag(wide(value, size))
    facts: dict[str, Any] = {
        "dt": 1.0,
        "x": np.zeros(n),
        "u": np.zeros(m),
        "u_low": -wide(u, m),
        "u_high": wide(u, m),
        "x_low": -wide(x, n),
        "x_high": wide(x, n),
        "q": weight(q, n),
        "r": weight(r, m),
        "measure": lambda xp, obs: {"state": obs},
        "model": (model.A, model.B),
    }
    return Control(**{**facts, **more})


def scalar() -> mpc.Program:
    """x+ = x + u, weights 1, one step, |u| <= 0.5, |x| <= 4: u = clip(-x / 2, +-0.5)."""
    model = linear(1, 1)
    return mpc.program(held(model, u=0.5, x=4.0), model, 1, terminal_weight=np.eye(1), state_rows=False)


def double_integrator() -> mpc.Program:
    """The example of PPOPT's documentation."""
    model = linear([[1, 1], [0, 1]], [0.5, 1])
    return mpc.program(held(model, x=4.0), model, 3, terminal_weight=np.eye(2))


def pendulum(model: Linear | None = None) -> mpc.Program:
    """Of arXiv 2508.16474, section 5.1: with the matrices as printed, unless others are given."""
    model = model or linear(*EQUATION_12)
    return mpc.program(held(model, q=[1, 0.1], r=0.001, u=2.0, x=[2.0, 8.0]), model, 2)


def reactor(name: str, state_rows: bool) -> mpc.Program:
    control = rlx.envs.make(f"rlx:{name}").spec.task.control
    return mpc.program(control, linearise(rlx.envs.make(f"rlx:{name}")), 2, state_rows=state_rows)


def tutorial() -> mpc.Program:
    """The program of the tutorial of the official code of arXiv 2505.07054, 115 regions."""
    model = linear([[1, 1], [0, 1]], [0, 1])
    sides = np.array([[1.0, 2.0], [-1.0, -2.0]]), np.full(2, 25.0)
    end = np.array([[0.6136, 1.6099], [-0.3742, -0.3682], [-0.6136, -1.6099], [0.3742, 0.3682]]), np.ones(4)
    return mpc.program(held(model, r=0.01, x=10.0), model, 10, terminal=end, state_polytope=sides)


def random_plant(seed: int, n: int, m: int) -> tuple[Control, Linear]:
    """Mostly unstable, with weights and limits that are drawn too."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A *= 1.1 / np.abs(np.linalg.eigvals(A)).max()
    model = linear(A, rng.standard_normal((n, m)))
    root = rng.standard_normal((n, n))
    control = held(model, q=root @ root.T, r=rng.uniform(0.1, 1, m), u=rng.uniform(0.3, 1, m), x=rng.uniform(1, 3, n))
    return control, model


def random_program(seed: int, n: int, m: int, horizon: int) -> mpc.Program:
    return mpc.program(*random_plant(seed, n, m), horizon)


@functools.cache
def solved(name: str) -> tuple[mpc.Program, mpqp.Regions]:
    """A program of this file by name, and its regions, once."""
    program = globals()[name]()
    return program, mpqp.solve(program, cache=False)


def box(program: mpc.Program) -> tuple[np.ndarray, np.ndarray]:
    """Of the parameters, whose bounds come first in Th."""
    nz = program.F.shape[1]
    return -program.th[nz : 2 * nz], program.th[:nz]


def draws(program: mpc.Program, count: int, seed: int = 0) -> np.ndarray:
    """Parameters [count, nz], uniform in their box."""
    return np.random.default_rng(seed).uniform(*box(program), (count, program.F.shape[1]))


def inside(program: mpc.Program, regions: mpqp.Regions, count: int, seed: int = 0) -> np.ndarray:
    """Parameters [count, nz] that have a solution, by the regions' own account."""
    z = draws(program, 20 * count, seed)
    z = z[regions.locate(z) >= 0][:count]
    assert len(z) == count
    return z


def law_of(regions: mpqp.Regions, z: np.ndarray) -> np.ndarray:
    """U [B, v] by the regions, in numpy."""
    i = regions.locate(z)
    assert (i >= 0).all()
    return np.einsum("bvn,bn->bv", regions.K[i], z) + regions.r[i]


def hildreth(program: mpc.Program, z: np.ndarray, sweeps: int = 100_000) -> np.ndarray:
    """U [B, v] by Hildreth's method: the dual's coordinates in turn, all parameters at once. Knows nothing of active sets."""
    G, HF = program.G, np.linalg.solve(program.H, program.F)
    HG = np.linalg.solve(program.H, G.T)
    M = 0.5 * G @ HG
    room = program.w + z @ (program.S + G @ HF).T  # of the solution without limits
    price = np.zeros_like(room)
    moving = np.flatnonzero(np.diag(M) > 1e-14)
    for _ in range(sweeps):
        before = price.copy()
        for i in moving:
            price[:, i] = np.maximum(0, price[:, i] - (room[:, i] + price @ M[i]) / M[i, i])
        if np.abs(price - before).max() < 1e-13 * (1 + np.abs(price).max()):
            break
    else:
        raise AssertionError("Hildreth's method did not converge")
    return -z @ HF.T - 0.5 * price @ HG.T


def facet_points(regions: mpqp.Regions) -> list[tuple[int, int, np.ndarray]]:
    """(region, row, a point inside that facet): the centre of the region, moved onto the row's plane, where still inside."""
    out = []
    for i in range(len(regions.K)):
        for j in np.flatnonzero(np.isfinite(regions.b[i])):
            row = regions.A[i, j] * regions.scale
            z = regions.centre[i] + regions.scale * row * (regions.b[i, j] - regions.A[i, j] @ regions.centre[i])
            slack = regions.b[i] - regions.A[i] @ z
            if np.delete(slack, j).min() > 1e-7:
                out.append((i, int(j), z))
    return out


def shared_facets(regions: mpqp.Regions) -> list[tuple[int, int, np.ndarray]]:
    """(region, its neighbour, a point inside their facet), but not where regions beyond are too thin to see."""
    out = []
    for i, j, z in facet_points(regions):
        beyond = z + 1e-5 * regions.scale * (regions.A[i, j] * regions.scale)
        other = int(regions.locate(beyond[None], 0.0)[0])
        if other >= 0 and (regions.b[other] - regions.A[other] @ z).min() > -1e-9:
            out.append((i, other, z))
    return out
