"""What is said of a trained policy's regions: laws in words, changes, jumps, pictures; and that a run leaves it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import rlx
from rlx import agents, config, envs
from rlx.agents.yann import draw, regions, report
from rlx.agents.yann.controller import build
from rlx.agents.yann.learner import Learner
from rlx.cli import main, outputs
from rlx.train import Policy
from rlx.types import Problem

PNG = b"\x89PNG\r\n\x1a\n"


def made(env: str = "rlx:upright-pendulum", seed: int = 0, **changes) -> Policy:
    """An untrained policy, with short episodes."""
    settings = config.replace(agents.config("yann"), {"width": 4, "warmup": 8, **changes})
    problem = Problem({"train": envs.make(env, time_limit=12)})
    agent = agents.make("yann", settings, problem)
    hyper = {name: jnp.float32(value) for name, value in agent.hyper.items()}
    return Policy(agent, agent.init(jax.random.key(seed), hyper), problem)


def moved(policy: Policy, shares: np.ndarray) -> Policy:
    """The same, but in region i the input is raised by ``shares[i]`` of half its range, whatever z."""
    actor = jax.tree.map(jnp.zeros_like, policy.state.learned["actor"])
    second, last = actor["params"]["Dense_1"], actor["params"]["Dense_2"]
    second["bias"] += 20
    last["kernel"] += np.float32(shares)[:, None, None] / last["kernel"].shape[-2]
    return Policy(policy.agent, policy.state._replace(learned={**policy.state.learned, "actor": actor}), policy.problem)


@pytest.fixture(scope="module")
def pendulum() -> Policy:
    return made()


@pytest.fixture(scope="module")
def reactor() -> Policy:
    return made("rlx:t2-reactor", state_rows=False)


@pytest.fixture(scope="module")
def runs(pendulum) -> tuple:
    it = regions.opened(pendulum)
    return it.runs("base", 4), it.runs("eval", 4)


def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


# ----------------------------------------------------------------------------------------------------------------- words


S = regions.Signal


@pytest.mark.parametrize(
    ("K", "r", "text"),
    [
        ([[-19.647, -5.72]], [0.0], "u = -19.65 a - 5.72 Δb"),
        ([[2.0, 0.0]], [-0.5], "u = 2 a - 0.5"),
        ([[0.0, 1.0]], [0.0], "u = 1 Δb"),
        ([[0.0, 0.0]], [-2.0], "u = -2"),
        ([[0.0, 0.0]], [0.0], "u = 0"),
        ([[1e-9, 1.0]], [1e-9], "u = 1 Δb"),
    ],
)
def test_laws_in_words(K, r, text):
    z, u = [S("a", "m", 0.0), S("b", "K", 300.0)], [S("u", "", 0.0)]
    assert regions.law_text(np.array(K), np.array(r), z, u, np.ones(2)) == text


def test_names_come_from_the_plant_and_say_what_z_holds(reactor):
    z, u = regions.signals(regions.opened(reactor).learner)
    assert [str(s) for s in (*z, *u)] == list(reactor.spec.task.control.names)
    assert [round(s.centre, 2) for s in z] == [0.49, 1.29, 3.0, 475.0] and u[0].symbol == "ΔU"
    settings = config.replace(agents.config("yann"), {"law": "lqr", "state_rows": False})
    tracking = regions.signals(Learner(settings, build(settings, Problem({"train": envs.make("rlx:four-tank")}))))
    assert [s.name for s in tracking[0]] == ["h1", "h2", "h3", "h4", "h3_set", "h4_set", "v1_before", "v2_before"]


# ----------------------------------------------------------------------------------------------------------------- table


def test_before_learning_the_table_is_the_controller_and_nothing_jumps(pendulum):
    rows = report.regions_table(pendulum)
    assert [row["region"] for row in rows] == list(range(7))
    assert rows[0]["law"].startswith("torque = -19.6") and rows[0]["active"] == [] and rows[0]["visits"] == 0
    assert {"torque = 2", "torque = -2"} <= {row["law"] for row in rows}
    assert rows[1]["active"] == ["torque(0) max"]
    for row in rows:
        assert row["residual_max"].max() < 1e-6 and row["jump"].max() < 1e-6


def test_changes_and_jumps_are_those_put_in(pendulum):
    shares = np.array([0.10, 0, 0, -0.05, 0.02, 0, 0])
    rows = report.regions_table(moved(pendulum, shares))
    half = 2.0
    assert rows[0]["residual_max"] == pytest.approx([0.10 * half], rel=1e-4)
    assert rows[0]["residual_mean"] <= rows[0]["residual_max"]
    assert rows[1]["residual_max"] == pytest.approx([0])  # saturated: there is nothing above the bound
    assert rows[3]["jump_to"] == 0 and rows[0]["jump_to"] == 3
    for row in (rows[0], rows[3]):
        assert row["jump"] == pytest.approx([0.15 * half], rel=1e-3)


def test_points_of_walks_are_inside_and_facet_points_just_outside(reactor):
    found = regions.opened(reactor).regions
    inside, facets, beyond = regions.walks(found, np.random.default_rng(0))
    room = lambda z: (found.b[:, None] - z @ found.A.transpose(0, 2, 1)).min(-1)
    assert room(inside).min() > 0 and np.abs(room(facets)).max() < 1e-9
    assert (room(beyond) < 0).all() and room(beyond).min() > -1e-5
    corners = np.array([[s.min(), s.max()] for s in (inside[0] / found.scale).reshape(-1, 4).T])
    assert (corners[:, 1] - corners[:, 0] > 0.5).all()  # all over it, not only around its centre


def test_inputs_are_those_of_the_policy_inside_regions(pendulum):
    policy = moved(pendulum, np.linspace(-0.2, 0.2, 7))
    it = regions.opened(policy)
    z = np.random.default_rng(1).uniform([-0.3, -1], [0.3, 1], (200, 2))
    base, learned = it.inputs(z)
    np.testing.assert_allclose(learned, 2 * policy.act(z.astype(np.float32))[0], atol=2e-5)
    np.testing.assert_allclose(base, 2 * policy.act(z.astype(np.float32), mode="base")[0], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"law": "lqr"}, {"actor": "mlp"}, {"residual": "paper", "init": "paired"}, {"law": "qp"}])
def test_other_configurations_have_a_page_and_a_picture_too(changes, runs):
    policy = made(**changes)
    rows = report.regions_table(policy)
    assert len(rows) == (1 if "law" in changes else 7)
    text = report.markdown(policy, rows)
    assert text.count("\n| ") == len(rows) + 2  # and the head
    assert "nan" not in text
    assert report.picture(policy, runs=runs)[:8] == PNG


def test_a_page_lists_the_most_visited_regions_and_costs(pendulum, runs):
    np.testing.assert_array_equal(runs[0].z[0], runs[1].z[0])  # the same starts
    np.testing.assert_allclose(runs[0].cost, runs[1].cost, rtol=1e-4)
    assert runs[0].z.shape == (13, 4, 2) and np.isfinite(runs[0].z).all()
    text = report.markdown(pendulum, runs=runs, most=3)
    assert text.count("\n| ") == 3 + 2 and "most" in text and "same 4 starts" in text


def test_policies_of_other_methods_are_refused():
    with pytest.raises(ValueError, match="'sac'"):
        report.regions_table(SimpleNamespace(agent=SimpleNamespace(name="sac", report=None)))


# -------------------------------------------------------------------------------------------------------------- pictures


def test_regions_are_drawn_as_polygons_in_physical_units(reactor):
    ax = axes()
    assert report.draw_regions(ax, reactor, axes=("T", "C_A"), at={"C_B": 1.3}) is None
    assert ax.get_xlabel() == "T [K]" and ax.get_xlim() == pytest.approx((405, 480))
    assert len(ax.patches) >= 5 and {t.get_text() for t in ax.texts} >= {"0", "5", "6"}
    low, high = np.min([p.get_xy().min(0) for p in ax.patches], 0), np.max([p.get_xy().max(0) for p in ax.patches], 0)
    np.testing.assert_allclose([low, high], np.stack([ax.get_xlim(), ax.get_ylim()], 1), rtol=1e-6)


def test_shades_are_the_inputs_and_jump_at_facets(pendulum):
    policy = moved(pendulum, np.array([0.1, 0, 0, 0, 0, 0, 0]))
    window = ((-0.1, -0.1), (0.1, 0.1))
    shades = report.draw_regions(axes(), policy, colour="change", within=window)
    assert shades.get_array().max() == pytest.approx(0.2, rel=1e-4)
    shades = report.draw_regions(axes(), policy, colour="input", within=window, learned=False)
    assert np.abs(shades.get_array()).max() <= 2 and shades.get_clim() == (-2, 2)


def test_a_mesh_covers_its_polygon():
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.5]])
    points, triangles = draw.mesh(corners, np.full(2, 0.3))
    a, b, c = points[triangles].transpose(1, 0, 2)
    cross = lambda p, q: p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    assert np.abs(cross(b - a, c - a)).sum() / 2 == pytest.approx(1.5)


def test_what_cannot_be_drawn_is_said(pendulum):
    with pytest.raises(ValueError, match="no 'tilt' among angle, rate"):
        report.draw_regions(axes(), pendulum, axes=("tilt", "rate"))
    with pytest.raises(ValueError, match="two parameters or more"):
        report.draw_regions(axes(), made("rlx:cubic"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reactor", "cubic"])
def test_the_picture_of_before_and_after(name, request):
    policy = made("rlx:cubic") if name == "cubic" else request.getfixturevalue(name)
    runs = regions.opened(policy).runs("eval", 8)
    assert report.picture(policy, runs=(runs, runs))[:8] == PNG


def test_costs_mark_violations():
    ax = axes()
    line = {"kind": "eval", "eval": "main"}
    lines = [
        {"kind": "train", "env_steps": 1},
        {**line, "env_steps": 0, "returns": [-1.0, -3.0], "info/violation_mean": 0.0},
        {**line, "env_steps": 10, "returns": [-2.0, -6.0], "info/violation_mean": 0.5},
    ]
    report.draw_costs(ax, lines)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 4])
    assert [t.get_text() for t in ax.texts] == ["50%"]
    with pytest.raises(ValueError, match="no evaluation"):
        report.draw_costs(axes(), lines[:1])


def test_the_band_of_costs_is_over_members_where_there_are_some():
    """Two members lose 1 and 3: a mean of 2 and a band of 1.96 times 1 / sqrt(2), however many starts there were."""
    for starts in (2, 50):
        ax, spread = axes(), np.linspace(-1, 1, starts)
        lines = [{"env_steps": [t, t], "returns": [spread - 4 - t, spread - 8 - 3 * t]} for t in (0, 1)]
        report.draw_costs(ax, lines)
        at_1 = [y for x, y in ax.collections[0].get_paths()[0].vertices if x == 1]
        np.testing.assert_allclose([min(at_1), max(at_1)], 8 + 1.96 / np.sqrt(2) * np.array([-1, 1]))
    ax = axes()
    report.draw_costs(ax, [{"env_steps": 0, "returns": [-1.0]}])
    assert not np.isfinite([p.vertices for p in ax.collections[0].get_paths()]).any(), "one start of one run has no band"


# -------------------------------------------------------------------------------------------------------------- the hook


@pytest.mark.slow
def test_a_run_leaves_the_page_and_the_picture(tmp_path, capsys):
    args = ["train", "yann", "--env", "rlx:upright-pendulum", "--preset", "debug", "--preset", "frozen", "--time-limit", "20"]
    assert main([*args, "--run-dir", str(tmp_path), "--no-video", "--no-progress"]) == 0
    page, drawn = (tmp_path / f"regions.{end}" for end in ("md", "png"))
    assert json.loads((tmp_path / "result.json").read_text())["report"] == [str(page), str(drawn)]
    assert str(page) in capsys.readouterr().out
    assert "torque = 2" in page.read_text(encoding="utf-8") and drawn.read_bytes()[:8] == PNG
    policy = rlx.load(tmp_path, "last")
    assert sum(row["visits"] for row in report.regions_table(policy)) > 0


def test_agents_without_a_report_have_none_and_a_failing_one_costs_nothing(tmp_path, capsys):
    def fails(state, folder):
        raise RuntimeError("no ink")

    policy = lambda hook: SimpleNamespace(agent=SimpleNamespace(report=hook), state="learned")
    assert outputs.reports(policy(None), tmp_path) == []
    assert outputs.reports(policy(lambda state, folder: [folder / state]), tmp_path) == [tmp_path / "learned"]
    assert outputs.reports(policy(fails), tmp_path) == []
    assert "no report: no ink" in capsys.readouterr().err
