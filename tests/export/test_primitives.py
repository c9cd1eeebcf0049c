"""Every operation, on random inputs: the numpy file and the compiled C against JAX, in float32 and in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import export
from rlx.export import build, c_plan, numpy_ops
from tests.export import laws, primitives
from tests.export.primitives import LAWS, N, one_by_one, states

pytestmark = pytest.mark.usefixtures("all_bits")  # as what is written out computes
ROOT = Path(__file__).resolve().parent.parent.parent
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> dict[str, np.ndarray]:
    """What JAX gives in float64, from a process of its own."""
    path = tmp_path_factory.mktemp("exact") / "exact.npz"
    env = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-m", "tests.export.primitives", str(path)], check=True, cwd=ROOT, env=env)
    return dict(np.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_c_and_numpy_agree_with_jax(name, tmp_path):
    law, x = export.Law(LAWS[name], N, name), states().astype(np.float32)
    wanted = one_by_one(law.act, x)
    assert laws.off(laws.run_c(law, tmp_path)(x), wanted) < TOLERANCE["float32"]
    act = laws.run_numpy(export.to_numpy(law, tmp_path / "law.py"))
    assert act(x[0]).dtype == np.float32
    assert laws.off(np.stack([act(row) for row in x]), wanted) < TOLERANCE["float32"]
    assert laws.off(act(x), np.asarray(jax.jit(law.act)(x))) < TOLERANCE["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_in_float64(name, tmp_path, exact):
    law, x = export.Law(LAWS[name], N, name), states()
    c = laws.run_c(law, tmp_path, dtype="float64")(x)
    act = laws.run_numpy(export.to_numpy(law, tmp_path / "law.py", "float64"))
    rows = np.stack([act(row) for row in x])
    assert rows.dtype == np.float64
    assert laws.off(c, rows) < TOLERANCE["float64"]
    assert laws.off(c, exact[name]) < 1e-6  # its constants went through float32


def test_each_operation_is_met():
    """No operation is written that no law here uses."""
    met = set()
    for name, law in LAWS.items():
        spec = jax.ShapeDtypeStruct((1, N), np.float32)
        program = build.program(law, (spec,), name, "float32", ())
        met |= {node.op for node in program.nodes}
    folded = {"iota"}  # always known
    assert c_plan.SUPPORTED - met <= folded
    assert numpy_ops.SUPPORTED == c_plan.SUPPORTED


def test_optimised_c_agrees_too(tmp_path):
    x = states().astype(np.float32)
    for name in ("dot_square", "reduce_outer", "take_vmapped", "set_moving"):
        law = export.Law(LAWS[name], N, name)
        assert laws.off(laws.run_c(law, tmp_path, name, optimise="-O3")(x), one_by_one(law.act, x)) < 2e-6


def test_constants_that_repeat_take_no_room(tmp_path):
    """Neither broadcasts nor even steps become tables, and a table is stored once."""
    grid = np.broadcast_to(np.float32([1.5, 2.5, -3.0]), (1000, 3))
    law = export.Law(lambda x: (x[:, None, :] * grid + jnp.arange(1000.0)[:, None]).max(1) + x * grid[0], 3)
    assert export.cost(law).constants <= 3 * 4 + 1000 * 4
    whole = np.float32(np.random.default_rng(0).standard_normal((500, 3)))
    twice = export.Law(lambda x: (x[:, None] * whole).max(1) + (jnp.sin(x)[:, None] * whole).min(1), 3)
    assert export.cost(twice).constants == whole.nbytes


def test_rows_of_a_table_are_read_in_place(tmp_path):
    table = np.float32(np.random.default_rng(0).standard_normal((300, 8, 3)))
    law = export.Law(jax.vmap(lambda v: jnp.asarray(table)[jnp.argmax(v @ table[:3, 0])] @ v), 3)
    cost = export.cost(law)
    assert cost.constants <= table.nbytes + 3 * 3 * 4
    assert cost.stack < 200


def test_cost_counts():
    w, b = np.ones((4, 300), np.float32), np.arange(300, dtype=np.float32) ** 2
    law = export.Law(lambda x: jnp.maximum(jnp.tanh(x @ jnp.asarray(np.cumsum(w, 1)) + b), 0.0), 4)
    cost = export.cost(law)
    assert cost.flops == 2 * 4 * 300 + 300
    assert cost.functions == 300 and cost.comparisons == 300
    assert "flops" in str(cost) and f"{cost.constants:,}" in str(cost)


def test_nan_goes_through(tmp_path):
    law = export.Law(lambda x: jnp.clip(jax.nn.relu(x), -1.0, 1.0), 3)
    assert np.isnan(laws.run_c(law, tmp_path)(np.float32([[np.nan, 2, -1]]))[0]).tolist() == [True, False, False]


def test_the_states_hold_special_values():
    x = primitives.states()
    assert (x == 0).any() and np.abs(x).max() == 50
