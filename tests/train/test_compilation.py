"""The folder of compiled programs: torn entries go, the oldest beyond a size go, and no home is no reason to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib

import pytest

from rlx import files
from rlx.train import compilation


def entry(folder, name, data, age=1_000.0):
    path = folder / f"{name}-cache"
    path.write_bytes(data)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_torn_entries_go_and_are_looked_at_once(tmp_path, monkeypatch):
    whole = zlib.compress(b"program" * 1_000)
    good = entry(tmp_path, "good", whole)
    for name, data in {"torn": whole[:-5], "empty": b"", "flipped": whole[:20] + b"\xff" + whole[21:]}.items():
        entry(tmp_path, name, data)
    half, other = entry(tmp_path, "half", whole[:-5], age=1), entry(tmp_path, "other", b"as some later JAX packs it")
    compilation.tidy(tmp_path, 2**30)
    assert {p.name for p in tmp_path.glob("*-cache")} == {good.name, half.name, other.name}  # half: somebody writes it now
    looked = []
    monkeypatch.setattr(compilation, "_whole", lambda data: looked.append(data) or True)
    compilation.tidy(tmp_path, 2**30)
    assert looked == []
    entry(tmp_path, "half", whole[:-5], age=-1_000)  # time goes on
    later = time.time() + 2_000
    monkeypatch.setattr(compilation.time, "time", lambda: later)
    compilation.tidy(tmp_path, 2**30)
    assert looked == [whole[:-5]]


def test_the_oldest_go_beyond_a_size(tmp_path):
    for age in (5, 3, 4, 1, 2):
        entry(tmp_path, str(age), zlib.compress(os.urandom(1_000)), age=1_000 * age)
    compilation.tidy(tmp_path, 3_500)
    assert sorted(p.name for p in tmp_path.glob("*-cache")) == ["1-cache", "2-cache", "3-cache"]
    compilation.tidy(tmp_path, 0)
    assert not list(tmp_path.glob("*-cache"))


@pytest.mark.parametrize("given", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_refused(given, monkeypatch):
    monkeypatch.setenv("RLX_CACHE_GIB", given)
    with pytest.raises(ValueError, match="RLX_CACHE_GIB=.*such as 4"):
        compilation.most_bytes()


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("RLX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder("xla") == tmp_path / "rlx" / "xla"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert files.cache_folder("xla") is None
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(files.Path, "home", classmethod(homeless))
    assert files.cache_folder("xla") is None
    monkeypatch.setenv("RLX_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert files.cache_folder("xla") is None and not (tmp_path / "b").exists()


@pytest.mark.slow
def test_jax_reads_what_is_left_without_a_warning(tmp_path):
    """A start beside a torn entry: no warning, and the entry is whole after it."""
    code = "import jax; from rlx.train.compilation import *; use_persistent_cache(); print(jax.jit(lambda x: x + 1)(1))"
    own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION") and k != "RLX_CACHE"}
    given = {**own, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    start = lambda: subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    start()
    entries = {p: p.read_bytes() for p in (tmp_path / "rlx" / "xla").glob("*-cache")}
    for path, data in entries.items():
        path.write_bytes(data[: len(data) // 2])
        os.utime(path, (time.time() - 1_000, time.time() - 1_000))
    os.utime(tmp_path / "rlx" / "xla" / compilation.CHECKED, (0, 0))
    assert entries and start().stderr == ""
    assert all(len(p.read_bytes()) > len(data) // 2 for p, data in entries.items())
