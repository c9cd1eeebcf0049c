"""Whole policies: what leaves the framework acts as they do, stands alone, and what cannot leave is refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import export
from rlx.export import c_source, measure
from rlx.nn import normalize
from rlx.types import Leaf
from tests.export import laws

pytestmark = pytest.mark.usefixtures("all_bits")  # as what is written out computes
POINTS = 10_000


def observations(n: int, count: int = POINTS) -> np.ndarray:
    return (2 * np.random.default_rng(5).standard_normal((count, n))).astype(np.float32)


def sac():
    return laws.policy("sac", hidden=(64, 64))


def td3():
    return laws.policy("td3", hidden=(64, 64))


def ppo():
    """With observation statistics of a shifted, scaled crowd."""
    made = laws.policy("ppo", normalize_obs=True)
    stats = normalize.update(made.state.learned["obs_stats"], 3 + 2 * observations(3, 500), np.ones(500, bool))
    state = made.state._replace(learned={**made.state.learned, "obs_stats": stats})
    return dataclasses.replace(made, state=state)


def yann():
    """Explicit MPC with residuals that are no longer 0."""
    made = laws.policy("yann", "rlx:double-integrator")
    draw = lambda x: x + 0.1 * jax.random.normal(jax.random.key(3), x.shape, x.dtype)
    moved = jax.tree.map(lambda x: draw(x) if jnp.issubdtype(x.dtype, jnp.floating) else x, made.state.learned["actor"])
    return dataclasses.replace(made, state=made.state._replace(learned={**made.state.learned, "actor": moved}))


def act_of(law):
    return (
        (lambda x: np.asarray(jax.jit(law.act)(x))) if isinstance(law, export.Law) else (lambda x: law.act(x, units="env")[0])
    )


EXPORTED = {
    "sac": sac,
    "td3": td3,
    "ppo": ppo,
    "yann": yann,
    "piecewise": lambda: laws.piecewise(50, 8),
    "sindy": lambda: export.Law(laws.sindy, 2, "sindy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_all_formats_act_as_the_policy(name, tmp_path):
    law = EXPORTED[name]()
    size = law.size if isinstance(law, export.Law) else law.spec.obs.shape[0]
    x = observations(size)
    wanted = act_of(law)(x)
    assert wanted.std() > 0.01
    assert laws.off(laws.run_c(law, tmp_path, optimise="-O2")(x), wanted) < 1e-6
    assert laws.off(laws.run_numpy(export.to_numpy(law, tmp_path / "law.py"))(x), wanted) < 1e-6
    act = export.from_stablehlo(export.to_stablehlo(law, tmp_path / "law.stablehlo"))
    assert laws.off(act(x), wanted) < 1e-6 and laws.off(act(x[7]), wanted[7]) < 1e-6


@pytest.mark.parametrize("name", EXPORTED)
def test_in_float64_c_agrees_with_numpy(name, tmp_path):
    law = EXPORTED[name]()
    size = law.size if isinstance(law, export.Law) else law.spec.obs.shape[0]
    x = observations(size, 1000).astype(np.float64)
    act = laws.run_numpy(export.to_numpy(law, tmp_path / "law.py", "float64"))
    assert laws.off(laws.run_c(law, tmp_path, dtype="float64")(x), act(x)) < 1e-12
    assert act(x).dtype == np.float64 and laws.off(act(x), act_of(law)(x.astype(np.float32))) < 1e-5


def test_exported_actions_are_in_the_units_of_the_environment_and_the_files_give_their_range(tmp_path):
    """Gymnasium's box from -0.27 to 0.14, which asserts that it contains what comes."""
    made = laws.policy("td3", "gym:tests.envs.foreign:Hundredths-v0", hidden=(8,))
    env, low, high = gymnasium.make("Hundredths-v0"), np.float32(-0.27), np.float32(0.14)
    x = 30 * observations(3, 200)
    files = export.to_numpy(made, tmp_path / "law.py"), export.to_stablehlo(made, tmp_path / "law.stablehlo")
    acts = {"c": laws.run_c(made, tmp_path), "numpy": laws.run_numpy(files[0]), "stablehlo": export.from_stablehlo(files[1])}
    wanted = low + (made.act(x)[0].astype(float) + 1) / 2 * (high.astype(float) - low)  # by another formula
    for name, act in acts.items():
        found = act(x)
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=name)
        assert found.min() == low and found.max() == high and all(env.action_space.contains(a) for a in found)
    header, scope = (tmp_path / "law.h").read_text(), {}
    exec(files[0].read_text(), scope)
    assert "#define LAW_LOW {(-0.27f), (-0.27f)}\n#define LAW_HIGH {0.14f, 0.14f}\n" in header
    assert scope["LOW"].tolist() == [low, low] and scope["HIGH"].tolist() == [high, high]
    beside = json.loads((tmp_path / "law.json").read_text())
    assert (beside["observation"], beside["action"], beside["low"], beside["high"]) == (3, 2, [low, low], [high, high])
    for text in (header, files[0].read_text(), beside["about"]):
        assert "actions in the environment's own units, range -0.27 to 0.14" in text
    assert "without bounds" in c_source.code(laws.piecewise(5, 3)).header


def test_many_regions_and_both_ways_of_choosing(tmp_path):
    """Inside a region and outside all of them, each many times."""
    law = laws.piecewise(400, 12)
    x = observations(4, 3000)
    assert laws.off(laws.run_c(law, tmp_path)(x), act_of(law)(x)) < 1e-6


def test_the_numpy_file_needs_numpy_alone(tmp_path):
    path = export.to_numpy(sac(), tmp_path / "alone.py")
    tree = ast.parse(path.read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert imported <= {"base64", "math", "numpy"} and not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert "observation of 3 numbers" in ast.get_docstring(tree)
    assert "pickle" not in path.read_text()
    x = observations(3, 20)
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys; sys.modules.update(jax=None, jaxlib=None, rlx=None)\n"
        "import numpy as np, alone; x = np.load('x.npy'); np.save('y.npy', alone.act(x))\n"
        "assert alone.act(x[0]).shape == (1,) and alone.act(x[:0]).shape == (0, 1) and alone.act(list(x[0])).shape == (1,)\n"
        "try: alone.act(x[:, :2])\n"
        "except ValueError as error: assert '(20, 2)' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert laws.off(np.load(tmp_path / "y.npy"), act_of(sac())(x)) < 1e-6


def test_the_c_stands_alone(tmp_path):
    header, source = export.to_c(laws.piecewise(50, 8), tmp_path, "cell")
    text = source.read_text()
    assert re.findall(r"#include [<\"](.*)[>\"]", text) == ["math.h", "cell.h"]
    assert "malloc" not in text
    for line in text.splitlines():  # nothing outside of functions is written
        assert line.startswith(("static const ", "static float ", "static int ")) or not line.startswith("static")
    assert "void cell_act(" in header.read_text() and "#define CELL_OBS 4" in header.read_text()
    cost = export.cost(laws.piecewise(50, 8))
    for number in (cost.flops, cost.constants, cost.stack):
        assert f"{number} " in text


def test_the_same_policy_gives_the_same_text(tmp_path):
    first, second = (c_source.code(laws.piecewise(20, 5)) for _ in range(2))
    assert (first.header, first.source) == (second.header, second.source)


def test_timing(tmp_path):
    law = laws.piecewise(50, 8)
    x = observations(4, 200)
    timing = export.measure_c(law, x, calls=5)
    assert 0 < timing.median <= timing.worst <= timing.slowest_call and timing.states == 200
    assert laws.off(timing.actions, act_of(law)(x)) < 1e-6
    drawn = export.measure_c(sac(), states=50, calls=2, dtype="float64", flags=("-O1",))
    assert drawn.actions.shape == (50, 1) and drawn.actions.dtype == np.float64
    assert any("ns" in value for _, value in drawn.rows())


def test_states_are_drawn_within_bounds():
    policy = laws.policy("sac", hidden=(8,))
    leaf = Leaf((3,), low=np.array([-1.0, 0.0, -np.inf]), high=np.array([1.0, 5.0, np.inf]))
    spec = dataclasses.replace(policy.spec, obs=leaf)
    x = measure.draw(type("P", (), {"spec": spec})(), 3, 1000, 0)
    assert -1 <= x[:, 0].min() < -0.9 and 4.9 < x[:, 1].max() <= 5 and x[:, 2].min() < -2


def test_stablehlo_of_a_fixed_batch(tmp_path):
    path = export.to_stablehlo(td3(), tmp_path / "law", batch=4)
    act = export.from_stablehlo(path)
    x = observations(3, 4)
    assert laws.off(act(x), act_of(td3())(x)) < 1e-6
    with pytest.raises(ValueError, match="4 rows"):
        act(x[:3])
    with pytest.raises(ValueError, match="shape"):
        act(x[:, :2])


def test_a_law_that_wants_a_known_batch(tmp_path):
    """It cannot be traced for any number of rows: the file goes row by row."""

    def act(x):
        return jnp.concatenate([jnp.sin(x[i : i + 1]) for i in range(int(x.shape[0]))])

    law, x = export.Law(act, 3), observations(3, 5)
    path = export.to_numpy(law, tmp_path / "law.py")
    assert laws.off(laws.run_numpy(path)(x), np.sin(x)) < 1e-6
    with pytest.raises(ValueError, match="give batch"):
        export.to_stablehlo(law, tmp_path / "law")


# ------------------------------------------------------------------------------------------------------------------ refused


def altered(**changes):
    """A policy whose agent is another."""
    made = laws.policy("sac", hidden=(8,))
    return dataclasses.replace(made, agent=dataclasses.replace(made.agent, **changes))


def shaped(**changes):
    made = laws.policy("sac", hidden=(8,))
    env = made.problem.envs["train"]
    env = dataclasses.replace(env, spec=dataclasses.replace(env.spec, **changes))
    return dataclasses.replace(made, problem=dataclasses.replace(made.problem, envs={"train": env}))


def acting(fn):
    """A policy that acts by ``fn(step, key)``."""
    return altered(act=lambda state, clock, carry, step, key, mode: (fn(step, key), carry, {}))


def remembering(read: bool):
    """A policy that carries seven numbers and reads one of them, or none."""
    acts = lambda carry, step: step.obs[:, :1] + carry[:, :1] if read else step.obs[:, :1]
    fn = lambda state, clock, carry, step, key, mode: (acts(carry, step), carry, {})
    return altered(carry=lambda state, n, context=None: jnp.zeros((n, 7)), act=fn)


REFUSED = {
    "memory": (lambda: remembering(True), r"memory.*\(1, 7\)"),
    "no eval": (lambda: altered(modes=("explore",)), "no mode 'eval'"),
    "pixels": (lambda: shaped(obs=Leaf((64, 64, 3), np.uint8)), "one vector of floats"),
    "dict": (lambda: shaped(obs={"a": Leaf((3,))}), "one vector of floats; that of sac here is dict"),
    "reward": (lambda: acting(lambda step, key: step.obs[:, :1] + step.reward[:, None]), "depends on its reward"),
    "first": (lambda: acting(lambda step, key: jnp.where(step.first[:, None], 0.0, step.obs)), "depends on first"),
    "noise": (lambda: acting(lambda step, key: step.obs + jax.random.normal(key, step.obs.shape)), "random key"),
    "own key": (lambda: export.Law(lambda x: x + jax.random.normal(jax.random.key(0), x.shape), 3), "draws random numbers"),
    "shape": (lambda: export.Law(lambda x: x.sum(), 3), r"one action \[W, m\]"),
    "python": (lambda: export.Law(lambda x: x if x[0, 0] > 0 else -x, 3), "cannot be traced"),
    "while": (lambda: export.Law(lambda x: jax.lax.while_loop(lambda v: v[0, 0] < 9, lambda v: v + 1, x), 3), "steps"),
    "unknown": (lambda: export.Law(lambda x: jnp.sort(x, 1), 3), "'sort'.*c_ops.py.*stablehlo"),
    "nothing": (lambda: 3, "rlx.load.*got int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused(case, tmp_path):
    make, says = REFUSED[case]
    law = make()
    for write in (
        lambda: export.to_numpy(law, tmp_path / "law.py"),
        lambda: export.to_c(law, tmp_path),
        lambda: export.cost(law),
    ):
        with pytest.raises(ValueError, match=f"(?s){says}"):
            write()
    assert not list(tmp_path.iterdir())


def test_memory_that_actions_do_not_read_is_no_hindrance(tmp_path):
    """Plans of another mode, for one."""
    scope, law = {}, remembering(False)
    exec(export.to_numpy(law, tmp_path / "law.py").read_text(), scope)
    obs = np.float32([[0.25, 0.5, -0.5]])
    np.testing.assert_allclose(scope["act"](obs), [[0.5]])  # of [-2, 2]


@pytest.mark.parametrize(
    "name",
    [
        '"""\nopen("ran", "w")\n"""',
        "*/ int extra(void) { return 1; } /*",
        "*\\/ int extra(void); /*",
        "\\N{x",
        "a\rb",
        10_000 * "x",
    ],
)
def test_the_name_of_a_law_stays_text(name, tmp_path, monkeypatch):
    """It goes into a docstring and a comment, and must end neither."""
    monkeypatch.chdir(tmp_path)
    law = export.Law(lambda x: 2 * x, 3, name)
    path = export.to_numpy(law, tmp_path / "law.py")
    scope = {}
    exec(path.read_text(), scope)
    np.testing.assert_allclose(scope["act"](np.ones(3, np.float32)), 2)
    assert os.listdir(tmp_path) == ["law.py"]
    for file in export.to_c(law, tmp_path, "law"):
        assert "extra" not in re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.S)
        assert len(file.read_text()) < 10_000


def test_bad_names_types_and_files(tmp_path, monkeypatch):
    law = export.Law(lambda x: x, 2)
    for name in ("double", "2law", "a-b", "", "while"):
        with pytest.raises(ValueError, match="cannot name a C function"):
            export.to_c(law, tmp_path, name)
    with pytest.raises(ValueError, match="float32, float64"):
        export.to_c(law, tmp_path, dtype="float16")
    with pytest.raises(ValueError, match="float32, float64"):
        export.to_numpy(law, tmp_path / "law.py", dtype="int32")
    with pytest.raises(ValueError, match=".py"):
        export.to_numpy(law, tmp_path / "law.txt")
    with pytest.raises(ValueError, match="at least 1"):
        export.to_stablehlo(law, tmp_path / "law", batch=0)
    with pytest.raises(ValueError, match="no such file"):
        export.from_stablehlo(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="holds no StableHLO"):
        export.from_stablehlo(tmp_path / "text")
    with pytest.raises(ValueError, match=r"\[S, 2\]"):
        export.measure_c(law, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="failed"):
        export.measure_c(law, states=2, flags=("--no-such-flag",))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="no C compiler.*install"):
        export.measure_c(law, states=2)


def test_the_example_of_the_page_is_true():
    page = (Path(__file__).resolve().parent.parent.parent / "docs" / "export.md").read_text()
    for name in export.__all__:
        assert name in page
