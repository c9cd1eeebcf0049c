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


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"meta.json": 5, "leaves.json": 5}', '{"meta.json": [5]}', "[" * 100_000]
)
def test_json_that_is_no_manifest_is_damage(tmp_path, text):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, {"x": np.full(3, step)}, {})
    (tmp_path / "2" / "manifest.json").write_text(text)
    (tmp_path / "2" / "meta.json").unlink()
    with pytest.warns(UserWarning, match="2 is damaged"):
        assert Checkpoints(tmp_path).newest(lambda meta: {"x": np.zeros(3, int)})[0] == 1


def test_folders_that_only_look_like_numbers_are_none(tmp_path):
    for name in ("\u00b2", "\u0663", "07", "-1", "1_0", "9" * 30, "notes"):
        (tmp_path / name).mkdir()
    assert Checkpoints(tmp_path).steps() == []


def test_what_is_damaged_counts_neither_as_saved_nor_as_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        store.save(step, {"x": np.full(3, step)}, {})
    (tmp_path / "2" / "leaves.json").write_text("[]")
    later = Checkpoints(tmp_path, keep=2)
    assert not later.sound(2) and later.sound(1) and later.last() == tmp_path / "1"
    later.save(3, {"x": np.full(3, 3)}, {})
    assert later.steps() == [1, 3]
    later.save(2, {"x": np.full(3, 2)}, {})  # begun anew from before 3
    assert later.steps() == [1, 2] and later.sound(2)


def test_what_a_kill_leaves_goes_with_the_next_save(tmp_path):
    for name in (".5.part", ".3-old.part", ".7-1234", ".9-job"):
        (tmp_path / name / "state").mkdir(parents=True)
    (tmp_path / ".mine").mkdir()
    Checkpoints(tmp_path).save(8, {"x": np.zeros(3)}, {})
    assert sorted(os.listdir(tmp_path)) == [".mine", "8"]


@pytest.mark.parametrize("after", ["steps", "_fault", "meta"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_reader_takes_what_is_newest_when_the_writer_goes_on(tmp_path, keep, after):
    writer, reader = Checkpoints(tmp_path, keep=keep), Checkpoints(tmp_path)
    save = lambda i: writer.save(i, {"x": np.full(3, i)}, {})
    save(0), save(1)
    look, todo = getattr(Checkpoints, after), [2, 3]

    def looked(*args):
        found = look(reader, *args)
        while todo:
            save(todo.pop(0))
        return found

    setattr(reader, after, looked)
    step, back, _ = reader.newest(lambda meta: {"x": np.zeros(3, int)})
    assert step == 3 and back["x"].tolist() == [3, 3, 3]


def test_readers_write_nothing(tmp_path):
    Checkpoints(tmp_path / "a").save(1, {"x": np.zeros(3)}, {})
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "a").rglob("*"))
    Checkpoints(tmp_path / "a").newest(lambda meta: {"x": np.zeros(3)})
    assert Checkpoints(tmp_path / "b").newest(lambda meta: {}) is None
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "a").rglob("*")) == before
    assert os.listdir(tmp_path) == ["a"]


def test_restores_are_silent(tmp_path):
    code = """
        import logging, sys
        import numpy as np
        from rlx.train.checkpoint import Checkpoints
        logging.getLogger("absl").setLevel = lambda level: None
        store = Checkpoints(sys.argv[1])
        print(store.newest(lambda meta: {"x": np.zeros(3)})[0])
    """
    Checkpoints(tmp_path).save(4, {"x": np.zeros(3)}, {})
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4\n", "")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("RESOURCE_EXHAUSTED: opening: Too many open files [os_error_code='24']", "too many open files.*ulimit -n"),
        ("RESOURCE_EXHAUSTED: writing: Disk quota exceeded [os_error_code='122']", "disk quota is used up"),
        ("RESOURCE_EXHAUSTED: writing: No space left on device", "disk is full.*Free some space"),
    ],
)
def test_what_is_full_is_named(tmp_path, said, message):
    store = Checkpoints(tmp_path)
    store.save(1, {"x": np.zeros(3)}, {})

    def write(*args):
        raise ValueError(said)

    store._write = write
    with pytest.raises(CheckpointError, match=f"{message}|Checkpoint 1 is kept.*{message}"):
        store.save(2, {"x": np.zeros(3)}, {})
    assert os.listdir(tmp_path) == ["1"]


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
        Checkpoints(tmp_path / "file" / "runs").claim()


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
