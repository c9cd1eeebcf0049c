"""Programs solved for all parameters: known numbers of regions and rows, known laws, other solvers, bad input, the cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import optimize

import rlx.envs
from rlx.planning import laws, mpc, mpqp
from rlx.planning.linear import linearise
from rlx.planning.polytopes import facets, largest_ball

from . import problems
from .problems import draws, held, hildreth, inside, law_of, linear, solved


def solve(program: mpc.Program, method: mpqp.Method = "auto") -> mpqp.Regions:
    return mpqp.solve(program, method, cache=False)


def first(regions: mpqp.Regions, *z) -> float:
    return float(law_of(regions, np.array([z], float))[0, 0])


def feasible(program: mpc.Program, z: np.ndarray) -> bool:
    """By a linear program for one parameter."""
    v = program.G.shape[1]
    found = optimize.linprog(np.zeros(v), program.G, program.w + program.S @ z, bounds=[(None, None)] * v)
    return found.status == 0


# ------------------------------------------------------------------------------------------------------------ known answers


def test_scalar_program():
    program, regions = solved("scalar")
    z = np.linspace(-4, 4, 401)[:, None]
    np.testing.assert_allclose(law_of(regions, z), np.clip(-0.5 * z, -0.5, 0.5), atol=1e-12)
    ends = [(regions.b[i] / regions.A[i, :, 0]) for i in range(3)]
    np.testing.assert_allclose([sorted(e) for e in ends], [[-1, 1], [-4, -1], [1, 4]], atol=1e-12)
    assert regions.rows.tolist() == [2, 2, 2] and regions.active.sum(1).tolist() == [0, 1, 1]
    assert regions.locate(np.array([[4.1], [-5.0]])).tolist() == [-1, -1]
    for z, u in ((-1, 0.5), (0.4, -0.2), (1, -0.5), (2, -0.5), (4, -0.5)):
        assert first(regions, z) == pytest.approx(u, abs=1e-12)


def test_double_integrator():
    program, regions = solved("double_integrator")
    assert len(regions.K) == 7
    for z, U in (
        ((1, 0.5), (-0.933533, 0.010967, 0.147225)),
        ((3, -1), (-0.263210, 0.476570, 0.336990)),
        ((0.3, -0.2), (0.075174, 0.065404, 0.029511)),
    ):
        np.testing.assert_allclose(law_of(regions, np.array([z], float))[0], U, atol=1e-6)
    z = draws(program, 500)
    outside = regions.locate(z) < 0
    assert outside.mean() == pytest.approx(0.276, abs=0.03)
    for point, out in zip(z[:60], outside[:60], strict=True):
        assert feasible(program, point) != out


@pytest.mark.parametrize("sampled", [True, False], ids=["zero-order hold", "as printed"])
def test_pendulum(sampled):
    if sampled:
        program = problems.pendulum(linearise(rlx.envs.make("rlx:upright-pendulum")))
        regions = solve(program)
    else:
        program, regions = solved("pendulum")
    assert len(regions.K) == 7 and regions.rows.sum() == 32
    z = draws(program, 20_000)
    assert (regions.locate(z) >= 0).mean() == pytest.approx(0.842, abs=0.01)
    if sampled:
        return
    K, r = regions.K[:, 0], regions.r[:, 0]
    np.testing.assert_allclose(K[0], [-19.64749, -5.721032], atol=1e-4)
    assert r[0] == 0 and not regions.active[0].any()
    pair = [i for i in range(7) if np.abs(K[i] - [-22.594387, -6.444913]).max() < 1e-4]
    np.testing.assert_allclose(sorted(r[pair]), [-0.997953, 0.997953], atol=1e-4)
    rest = [i for i in range(1, 7) if i not in pair]
    np.testing.assert_allclose(K[rest], 0, atol=1e-10)
    np.testing.assert_allclose(sorted(r[rest]), [-2, -2, 2, 2], atol=1e-10)
    for z, u in (((0.05, 0), -0.982375), ((0.1, 0.2), -2), ((0.15, -0.6), 0.485495), ((1, 1), -2)):
        assert first(regions, *z) == pytest.approx(u, abs=1e-5)


def test_identity_weights_give_the_pendulum_other_regions():
    model = linear(*problems.EQUATION_12)
    regions = solve(mpc.program(held(model, r=0.001, u=2.0, x=[2.0, 8.0]), model, 2))
    assert (len(regions.K), regions.rows.sum()) == (9, 40)


@pytest.mark.parametrize(
    ("name", "state_rows", "count", "rows"),
    [("t2-reactor-linear", False, 7, 56), ("t2-reactor-linear", True, 7, 79), ("t2-reactor", False, 7, 58)],
)
def test_reactors(name, state_rows, count, rows):
    regions = solve(problems.reactor(name, state_rows))
    assert (len(regions.K), regions.rows.sum()) == (count, rows)


def test_tutorial():
    program, regions = solved("tutorial")
    assert (len(regions.K), regions.rows.sum()) == (115, 472)
    z = inside(program, regions, 40)
    for point in z:
        U, active = mpqp.optimum(program, point)
        np.testing.assert_allclose(U, law_of(regions, point[None])[0], atol=1e-7)
        assert active.sum() <= 10


# ------------------------------------------------------------------------------------------------------------ other solvers


@pytest.mark.parametrize(("seed", "n", "m", "horizon"), [(0, 2, 1, 3), (1, 3, 1, 3), (2, 2, 2, 2)])
def test_brute_force_agrees(seed, n, m, horizon):
    """At 500 parameters, by a method that knows nothing of active sets; and where there is no solution there is no region."""
    program = problems.random_program(seed, n, m, horizon)
    regions = solve(program)
    z = inside(program, regions, 500)
    np.testing.assert_allclose(law_of(regions, z), hildreth(program, z), atol=1e-7)
    for point in draws(program, 60, seed=1):
        found = regions.locate(point[None])[0]
        assert feasible(program, point) == (found >= 0) == (mpqp.optimum(program, point) is not None)


@pytest.mark.parametrize("name", ["double_integrator", "pendulum", "reactor", "random"])
def test_both_ways_to_search_find_the_same(name):
    others = {"reactor": lambda: problems.reactor("t2-reactor-linear", True), "random": lambda: random_small()}
    random_small = lambda: problems.random_program(0, 2, 1, 3)
    program = others[name]() if name in others else solved(name)[0]
    one, two = solve(program, "combinatorial"), solve(program, "graph")
    for field in dataclasses.fields(mpqp.Regions):
        np.testing.assert_allclose(getattr(one, field.name), getattr(two, field.name), atol=1e-9)


def test_optimum_agrees_with_sequential_quadratic_programming():
    program = problems.random_program(1, 3, 1, 3)
    solved_ = 0
    for z in draws(program, 25, seed=3):
        found = mpqp.optimum(program, z)
        cost = lambda U, z=z: U @ program.H @ U + 2 * U @ program.F @ z
        slope = lambda U, z=z: 2 * (program.H @ U + program.F @ z)
        room = {"type": "ineq", "fun": lambda U, z=z: program.w + program.S @ z - program.G @ U, "jac": lambda U: -program.G}
        other = optimize.minimize(cost, np.zeros(3), jac=slope, constraints=room, method="SLSQP", options={"ftol": 1e-15})
        if found is None:
            assert not feasible(program, z)
            continue
        solved_ += 1
        U, active = found
        np.testing.assert_allclose(U, other.x, atol=2e-6)
        slack = program.w + program.S @ z - program.G @ U
        assert slack.min() > -1e-9 and np.abs(slack[active]).max(initial=0) < 1e-9
        assert mpqp.active_set(program, z) == tuple(np.flatnonzero(active))
    assert solved_ >= 8


@pytest.mark.parametrize("name", ["scalar", "double_integrator", "pendulum", "random"])
def test_ppopt_agrees(name):
    pytest.importorskip("ppopt")
    from ppopt.mp_solvers.solve_mpqp import mpqp_algorithm, solve_mpqp
    from ppopt.mpqp_program import MPQP_Program

    program, regions = (problems.random_program(0, 2, 1, 3), None) if name == "random" else solved(name)
    regions = regions or solve(program)
    column = lambda x: x.reshape(-1, 1)
    zero = np.zeros((program.H.shape[0], 1))
    other = MPQP_Program(
        program.G, column(program.w), zero, 2 * program.F, 2 * program.H, program.Th, column(program.th), program.S
    )
    other.process_constraints()
    found = solve_mpqp(other, mpqp_algorithm.combinatorial)
    assert len(found.critical_regions) == len(regions.K)
    for z in inside(program, regions, 200):
        np.testing.assert_allclose(found.evaluate(column(z))[:, 0], law_of(regions, z[None])[0], atol=1e-10)


# ---------------------------------------------------------------------------------------------------------- geometry of them


@pytest.mark.parametrize("name", ["scalar", "double_integrator", "pendulum", "tutorial"])
def test_regions_tile_their_set(name):
    """Each point inside has one region; across a facet the law goes on; rows have unit norm in units of the box."""
    program, regions = solved(name)
    z = draws(program, 2000)
    slack = (regions.b - np.einsum("pqn,bn->bpq", regions.A, z)).min(-1)
    away = np.abs(slack).min(1) > 1e-9
    assert ((slack > 0).sum(1)[away] <= 1).all()
    np.testing.assert_array_equal((slack > 0).any(1)[away], regions.locate(z)[away] >= 0)
    assert (regions.b - np.einsum("pqn,pn->pq", regions.A, regions.centre)).min() > 0
    norm = np.linalg.norm(regions.A * regions.scale, axis=-1)
    np.testing.assert_allclose(norm[np.isfinite(regions.b)], 1, atol=1e-12)
    assert (norm[~np.isfinite(regions.b)] == 0).all()
    pairs = problems.shared_facets(regions)
    assert len(pairs) >= len(regions.K) - 1
    for i, j, z in pairs:
        assert i != j
        np.testing.assert_allclose(regions.K[i] @ z + regions.r[i], regions.K[j] @ z + regions.r[j], atol=1e-6)
        assert regions.locate(z[None], 1e-7)[0] == min(i, j)


def test_no_row_of_a_region_is_redundant():
    for name in ("double_integrator", "pendulum"):
        regions = solved(name)[1]
        for i, count in enumerate(regions.rows):
            A, b = regions.A[i, :count], regions.b[i, :count]
            for j in range(count):
                relaxed = b + (np.arange(count) == j)
                best = optimize.linprog(-A[j], A, relaxed, bounds=[(None, None)] * 2)
                assert -best.fun > b[j] + 1e-7


def test_compression_keeps_each_hyperplane_once():
    program, regions = solved("pendulum")
    count = lambda **options: len(laws.compress(regions, **options)[0]) - 1
    assert regions.rows.sum() == 32 and count(signs=False) == 24 and count() == 16
    rows, bounds, pick = laws.compress(regions)
    for i in range(7):
        for j, picked in enumerate(pick[i]):
            sign, k = (1, picked) if picked >= 0 else (-1, ~picked)
            if np.isfinite(regions.b[i, j]):
                np.testing.assert_allclose(sign * rows[k], regions.A[i, j], atol=1e-6)
                np.testing.assert_allclose(sign * bounds[k], regions.b[i, j], atol=1e-6)
            else:
                assert bounds[k] == laws.FAR and not rows[k].any()


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_facets_of_a_box_with_idle_rows(d):
    """A box [-1, 1]^d with rows that are repeated, parallel, touching a corner only, or far away."""
    eye = np.eye(d)
    A = np.concatenate([eye, -eye, eye[:1], eye[:1], np.ones((1, d)) / d**0.5, eye[-1:]])
    b = np.concatenate([np.ones(2 * d), [1.0, 1.5, d**0.5, 40.0]])
    found = facets(A, b, np.zeros(d))
    assert len(found) == 2 * d
    np.testing.assert_allclose(sorted(map(tuple, np.round(A[found]))), sorted(map(tuple, np.concatenate([eye, -eye]))))
    ball = largest_ball(A, b)
    assert ball.radius == pytest.approx(1) and np.abs(ball.centre).max() < 1e-9
    with pytest.raises(ValueError, match="unbounded"):
        largest_ball(A[:d], b[:d])


def test_a_set_of_parameters_need_not_be_a_box():
    """Cut by a slanted row, the scalar law is the same; regions end at the cut."""
    model = linear(np.eye(2) * 0.9, np.eye(2))
    program = mpc.program(held(model, x=2.0), model, 1)
    cut = dataclasses.replace(program, Th=np.concatenate([program.Th, [[1.0, 1.0]]]), th=np.append(program.th, 1.0))
    whole, part = solve(program), solve(cut)
    z = draws(program, 500)
    there = z.sum(1) <= 1
    np.testing.assert_array_equal(part.locate(z) >= 0, there & (whole.locate(z) >= 0))
    np.testing.assert_allclose(law_of(part, z[there]), law_of(whole, z[there]), atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------- bad input


def changed(**parts):
    return dataclasses.replace(problems.scalar(), **parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"H": np.zeros((1, 1))}, "H is not positive definite"),
        ({"H": np.full((1, 1), np.nan)}, "H has entries that are not finite"),
        ({"w": np.array([0.5, np.nan])}, "w has entries that are not finite"),
        ({"th": np.array([np.inf, 4.0])}, "th has entries that are not finite"),
        ({"F": np.zeros((1, 2))}, "a program with G"),
        ({"w": np.zeros(3)}, r"w \(3,\), not \(2,\)"),
        ({"m": 2}, "a program with G"),
    ],
)
def test_programs_that_are_none(parts, message):
    with pytest.raises(ValueError, match=message):
        changed(**parts)


def test_a_hessian_given_as_a_triangle_is_refused():
    """Its law would be neither that of U'HU nor that of the whole matrix. Rounding is no reason."""
    rows, z = np.concatenate([np.eye(2), -np.eye(2)]), np.zeros((2, 2))
    program = lambda H: problems.mpc.Program(H, np.eye(2), z, rows, np.full(4, 9.0), np.zeros((4, 2)), rows, np.ones(4), 1)
    for H in ([[1.0, 0.8], [0.0, 1.0]], [[1.0, 0.0], [0.8, 1.0]]):
        with pytest.raises(ValueError, match="H is not symmetric: .* by up to 0.8. Give all of it"):
            program(np.array(H))
    assert program(np.array([[1.0, 0.4], [0.4 + 1e-12, 1.0]])).m == 1


@pytest.mark.parametrize("method", ["combinatorial", "graph"])
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"th": np.array([-1.0, -1.0])}, "set of parameters is empty"),
        ({"Th": np.array([[1.0], [1.0]])}, "unbounded"),
        ({"th": np.array([1.0, -1.0])}, "flat"),
        ({"w": np.array([-1.0, -1.0])}, "no parameter admits a solution"),
    ],
)
def test_programs_without_solutions(method, parts, message):
    with pytest.raises(ValueError, match=message):
        solve(changed(**parts), method)
    with pytest.raises(ValueError, match="'auto', 'combinatorial' or 'graph'"):
        solve(problems.scalar(), "geometric")


@pytest.mark.parametrize("method", ["combinatorial", "graph"])
def test_rows_given_twice_change_nothing(method):
    """Repeated, scaled, or implied by another one."""
    program, regions = solved("double_integrator")
    stacked = lambda name, looser: np.concatenate(
        [getattr(program, name), getattr(program, name) * 3, getattr(program, name)[:2] + looser]
    )
    twice = dataclasses.replace(program, G=stacked("G", 0), w=stacked("w", 1), S=stacked("S", 0))
    found = solve(twice, method)
    for field in dataclasses.fields(found):
        if field.name != "active":
            np.testing.assert_allclose(getattr(found, field.name), getattr(regions, field.name), atol=1e-9)
    assert found.active.shape == (7, len(twice.G))
    for i, z in enumerate(regions.centre):
        slack = twice.w + twice.S @ z - twice.G @ (regions.K[i] @ z + regions.r[i])
        assert np.abs(slack[found.active[i]]).max(initial=0) < 1e-9 and found.active[i].sum() == regions.active[i].sum()


# ------------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RLX_CACHE", raising=False)
    return tmp_path / "rlx" / "mpqp"


def equal(a: mpqp.Regions, b: mpqp.Regions) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def test_a_second_solve_reads_the_file(folder, monkeypatch):
    program = problems.pendulum()
    found = mpqp.solve(program)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(mpqp, "_Search", None)  # nothing can be searched any more
    assert equal(mpqp.solve(program), found)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"PK\x03\x04" + b[::-1], lambda b: b"no"]
)
def test_a_damaged_file_is_computed_anew(folder, damage):
    program = problems.scalar()
    found = mpqp.solve(program)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert equal(mpqp.solve(program), found)
    assert file.read_bytes() != damage(whole) and equal(mpqp.solve(program), found)


def test_other_programs_and_methods_have_other_files(folder):
    program = problems.scalar()
    seen = {mpqp._file(program, method) for method in ("auto", "graph")}
    for name in ("H", "F", "Y", "G", "w", "S", "Th", "th"):
        seen.add(mpqp._file(dataclasses.replace(program, **{name: getattr(program, name) + 1e-9 * (name != "H")}), "auto"))
    seen.add(mpqp._file(dataclasses.replace(program, H=program.H * 2), "auto"))
    assert len(seen) == 2 + 7 + 1
    one, two = mpqp.solve(program), mpqp.solve(dataclasses.replace(program, w=program.w * 0.5))
    assert np.abs(one.r).max() == 0.5 and np.abs(two.r).max() == 0.25
    assert np.abs(mpqp.solve(program).r).max() == 0.5


def test_the_cache_can_be_off_and_unwritable(folder, monkeypatch):
    monkeypatch.setenv("RLX_CACHE", "off")
    mpqp.solve(problems.scalar())
    assert not folder.exists()
    monkeypatch.delenv("RLX_CACHE")
    mpqp.solve(problems.scalar(), cache=False)
    assert not folder.exists()
    folder.parent.mkdir()
    folder.write_text("not a folder")
    assert len(mpqp.solve(problems.scalar()).K) == 3
