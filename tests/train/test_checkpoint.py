"""Checkpoints: exact, atomic, checked, indifferent to devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.train.checkpoint import CheckpointError, Checkpoints


def tree():
    return {
        "key": jax.random.key(3),
        "params": ({"w": jnp.arange(6.0).reshape(2, 3)}, None),
        "nan": jnp.array([np.nan, np.inf, -0.0]),
        "long": np.arange(3, dtype=np.int64) + 2**40,
        "double": np.array(np.pi),
        "pixels": jnp.full((2, 2), 255, jnp.uint8),
        "flag": jnp.bool_(True),
        "empty": jnp.zeros((0, 0)),
        "nothing": {},
    }


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_round_trip_keeps_every_bit(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(7, tree(), {"cycle": 7})
    step, back, meta = store.newest(lambda meta: tree())
    assert (step, meta) == (7, {"cycle": 7})
    same(tree(), back)
    assert isinstance(back["long"], np.ndarray) and isinstance(back["pixels"], jax.Array)


def test_only_the_newest_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 5, 9, 10):
        store.save(step, {"x": jnp.float32(step)}, {})
    assert store.steps() == [9, 10]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_damaged_newest_falls_back_with_a_warning(tmp_path, damage):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, {"x": jnp.full(1000, step, jnp.float32)}, {"step": step})
    file = max((p for p in (tmp_path / "2" / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "remove":
        file.unlink()
    else:
        (tmp_path / "2" / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match="2 is damaged"):
        step, back, _ = store.newest(lambda meta: {"x": jnp.zeros(1000)})
    assert step == 1 and back["x"][0] == 1


def test_all_damaged_and_none_at_all(tmp_path):
    store = Checkpoints(tmp_path)
    assert store.newest(lambda meta: {}) is None
    store.save(1, {"x": jnp.zeros(3)}, {})
    (tmp_path / "1" / "manifest.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="all checkpoints"):
        store.newest(lambda meta: {"x": jnp.zeros(3)})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"y": jnp.zeros(3)}, "expected .'y'. as float32"),
        ({"x": jnp.zeros(4)}, r"float32\(4,\), found .*float32\(3,\)"),
        ({"x": jnp.zeros(3, jnp.int32)}, "int32"),
        ({"x": jnp.zeros(3), "y": jnp.zeros(1)}, "another agent"),
    ],
)
def test_another_tree_is_refused_by_name(tmp_path, other, message):
    store = Checkpoints(tmp_path)
    store.save(1, {"x": jnp.zeros(3)}, {})
    with pytest.raises(CheckpointError, match=message):
        store.newest(lambda meta: other)
    assert store.steps() == [1]


def test_unwritable_place_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "runs")


def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        store = Checkpoints(tmp_path)
        store.save(1, {"x": jnp.zeros(1000)}, {})
        noise = jax.random.normal(jax.random.key(0), (1_000_000,))
        with pytest.raises(CheckpointError, match="disk is full.*Checkpoint 1 is kept"):
            store.save(2, {"x": noise}, {})
        assert store.newest(lambda meta: {"x": jnp.zeros(1000)})[0] == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_opens_on_another_device_count(tmp_path):
    code = """
        import jax, jax.numpy as jnp, sys
        from jax.sharding import NamedSharding, PartitionSpec
        from rlx.train.checkpoint import Checkpoints
        assert jax.device_count() == 4
        mesh = jax.make_mesh((4,), ("member",))
        x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("member")))
        Checkpoints(sys.argv[1]).save(3, {"x": x}, {})
    """
    env = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {os.environ['XLA_FLAGS']}",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], check=True, env=env)
    _, back, _ = Checkpoints(tmp_path).newest(lambda meta: {"x": jnp.zeros(8)})
    np.testing.assert_array_equal(back["x"], np.arange(8.0))
