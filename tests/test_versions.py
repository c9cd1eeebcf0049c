"""What `import rlx` does: it is light, names clashing versions with the remedy, and chooses a renderer that is there."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from rlx import _versions

TESTED = {
    "python": "3.11.7",
    "jax": "0.10.2",
    "flax": "0.12.8",
    "rlx": "0.1.0",
    "pysindy": "2.1.0",
    "mujoco": "3.16.0",
    "mujoco-mjx": "3.16.0",
    "metaworld": "3.0.0",
    "rliable": "1.2.0",
    "pandas": "2.3.3",
}


def test_the_tested_set_and_what_is_installed_here_do_not_clash():
    assert _versions.clashes(TESTED.get) == []
    assert _versions.clashes({**TESTED, "python": "3.12.1", "jax": "0.11.2"}.get) == []
    assert _versions.clashes() == []


def test_nothing_installed_does_not_clash():
    assert _versions.clashes(lambda name: None) == []


@pytest.mark.parametrize(
    ("change", "pair", "remedy"),
    [
        ({"mujoco-mjx": "3.17.0"}, "mujoco 3.16.0 and mujoco-mjx 3.17.0", "pip install 'mujoco-mjx==3.16.0'"),
        ({"mujoco": "3.17.0", "mujoco-mjx": "3.17.0"}, "mujoco 3.17.0 and metaworld 3.0.0", "'mujoco==3.16.0'"),
        ({"mujoco": "4.0.0", "mujoco-mjx": "4.0.0"}, "mujoco 4.0.0 and metaworld 3.0.0", "'mujoco==3.16.0'"),
        ({"metaworld": "3.1"}, "metaworld 3.1 and mujoco 3.16.0", "pip install 'metaworld==3.0.0'"),
        ({"pysindy": "1.7.5"}, "pysindy 1.7.5 and rlx 0.1.0", "pip install 'pysindy>=2,<3'"),
        ({"pandas": "3.0.0rc1"}, "rliable 1.2.0 and pandas 3.0.0rc1", "pip install 'pandas<3'"),
    ],
)
def test_a_pair_that_breaks_a_part_warns(change, pair, remedy):
    with pytest.warns(UserWarning) as record:
        _versions.check({**TESTED, **change}.get)
    assert len(record) == 1
    assert str(record[0].message).startswith(pair) and remedy in str(record[0].message)


def test_a_pair_that_breaks_everything_stops_the_import():
    with pytest.raises(ImportError, match=r"jax 0\.11\.0 and python 3\.11\.7 do not work together.*Python 3\.12"):
        _versions.check({**TESTED, "jax": "0.11.0"}.get)


def test_a_flax_that_is_too_old_for_jax_stops_the_import():
    newer = {**TESTED, "python": "3.12.1", "jax": "0.11.2"}
    with pytest.raises(ImportError, match=r"flax 0\.12\.6 and jax 0\.11\.2 do not work.*pip install 'flax>=0\.12\.7,<0\.13'"):
        _versions.check({**newer, "flax": "0.12.6"}.get)
    _versions.check({**TESTED, "flax": "0.12.6"}.get)  # jax 0.10 still has what it uses


def test_a_fatal_pair_does_not_hide_a_warning():
    with pytest.warns(UserWarning, match="pandas"), pytest.raises(ImportError, match="jax"):
        _versions.check({**TESTED, "jax": "0.11.0", "pandas": "3.0"}.get)


def test_releases_compare_as_numbers_not_as_text():
    assert _versions.release("3.16.0.dev1") == (3, 16, 0)
    assert _versions.release("3.16.0") > _versions.release("3.9.1")
    assert _versions.release("unknown") == ()


def test_installed_reads_the_environment():
    assert _versions.installed("numpy") == __import__("numpy").__version__
    assert _versions.installed("no-such-distribution") is None
    assert _versions.release(_versions.installed("python") or "") == sys.version_info[:3]


def test_a_clash_is_named_by_a_bare_import_and_an_import_is_light():
    """In a fresh process: the check runs on import, and importing rlx does not load JAX or MuJoCo."""
    clashing = (
        "from importlib import metadata; real = metadata.version;"
        "metadata.version = lambda n: '9.9.0' if n == 'mujoco-mjx' else real(n);"
        "import rlx, sys; print([m for m in ('jax', 'mujoco', 'tyro', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", clashing], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == "[]"
    assert "mujoco-mjx 9.9.0 do not work together" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere MuJoCo finds its renderer by itself")
@pytest.mark.parametrize(
    ("given", "egl_is_there", "chosen"),
    [({}, True, "egl"), ({}, False, "None"), ({"MUJOCO_GL": "osmesa"}, True, "osmesa"), ({"DISPLAY": ":0"}, True, "None")],
)
def test_renderer(given, egl_is_there, chosen):
    load = "lambda name: None" if egl_is_there else "lambda name: (_ for _ in ()).throw(OSError(name))"
    code = f"import ctypes, os; ctypes.CDLL = {load}; import rlx; print(os.environ.get('MUJOCO_GL'))"
    bare = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**bare, **given}, timeout=60)
    assert done.stdout.strip() == chosen, done.stderr


def test_lazy_rooms():
    import rlx

    assert rlx.keys.fold and rlx.__version__
    assert "config" in dir(rlx) and "_versions" not in dir(rlx)
    with pytest.raises(AttributeError, match="no_such_room"):
        _ = rlx.no_such_room
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _versions.check()
