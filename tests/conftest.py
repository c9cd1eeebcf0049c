"""Tests run on the CPU, or where ``JAX_PLATFORMS`` says (``make test-gpu``). Of several test processes each has a core of its
own: on shared cores threads wait for one another, and small programs take half as long again. All processes, and later runs,
share compiled programs where rlx keeps its own: most of what tests take is compiling, and much of that the same program again.

LLVM optimises at level 0 instead of 3, or at 1 in files that say so by ``LLVM_LEVEL``, and jaxlib 0.10 writes fused loops by
XLA's older emitter: this halves the time to compile, and leaves XLA's own passes, such as fusion, as they are.
``RLX_TEST_OPT=3`` tests what users have. ``RLX_TEST_TF32=1`` rounds products as NVIDIA's GPUs do (`tests.tf32`).
"""

from __future__ import annotations

import gc
import os
import resource
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_home / "rlx" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # as rlx has it: fresh processes want the small too
_gpu = "cuda" in os.environ["JAX_PLATFORMS"]
_quick = "RLX_TEST_OPT" not in os.environ and not _gpu
_level = f"--xla_backend_optimization_level={os.environ.get('RLX_TEST_OPT', '1')}"
if _quick and version("jaxlib") < "0.11":  # later ones end at flags that they do not know, such as this
    _level += " --xla_cpu_use_fusion_emitters=false"
# On a GPU: no sums in an order of chance, since runs are compared bit by bit; and no process takes most of the memory.
_same = "--xla_gpu_deterministic_ops=true " if _gpu else ""
if _level not in os.environ.get("XLA_FLAGS", ""):  # which a worker has from the process that starts it; programs are kept by it
    os.environ["XLA_FLAGS"] = f"{_level} {_same}{os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402 - reads the environment

if os.environ.get("RLX_TEST_TF32") == "1":
    from tests import tf32

    tf32.emulate()

gc.set_threshold(100_000, 20, 20)  # tracing makes many objects, and each collection walks through all that was traced before

COST, LIMIT = "processor_s", 3.0  # of a test that is not marked slow
_costs: Counter[str] = Counter()
_dear: list[str] = []
_begun = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cost", action="store_true", help="processor seconds by folder, those of ended child processes included")


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(x.ru_utime + x.ru_stime for x in used)


@pytest.fixture
def all_bits() -> Iterator[None]:
    """Networks compute in all bits, where what is tested are formulas, or programs that differ in the order of their sums: with
    rounded factors a difference in the last bit becomes one of a thousandth."""
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "highest")
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture(autouse=True, scope="module")
def _programs_go_with_their_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process may map so many pieces of memory and no more, and each compiled program takes some: beyond that XLA crashes.

    Level 1 is for files that compare two programs of the same formulas, which at 0 round more differently, and for those that
    compute for longer than they compile. The processes that a file starts compile as it does, so that what they compute can be
    compared with it bit by bit."""
    level_0 = _quick and getattr(request.module, "LLVM_LEVEL", 0) == 0
    jax.config.update("jax_disable_most_optimizations", level_0)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(level_0))
    yield
    for value in list(vars(request.module).values()):
        getattr(value, "cache_clear", lambda: None)()
    jax.clear_caches()
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """A test's cost travels with its last report, from whichever process ran it."""
    if call.when == "teardown":
        slow = item.get_closest_marker("slow") is not None
        item.user_properties.append((COST, (_processor_seconds() - item.stash[_begun], slow)))
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file in one process, as its tests share agents that keep their programs, and fixtures that train."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_begun] = _processor_seconds()


def pytest_runtest_logreport(report: Any) -> None:
    for name, value in report.user_properties if report.when == "teardown" else ():
        if name == COST:
            folder = "/".join(report.nodeid.split("::")[0].split("/")[:3])
            _costs[folder] += value[0]
            if value[0] > LIMIT and not value[1]:
                _dear.append(f"{value[0]:6.1f}  {report.nodeid}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not terminalreporter.config.getoption("--cost"):
        return
    terminalreporter.section("processor seconds")
    for folder, seconds in _costs.most_common():
        terminalreporter.line(f"{seconds:8.1f}  {folder}")
    terminalreporter.line(f"{sum(_costs.values()):8.1f}  in all")
    for line in _dear:
        terminalreporter.line(f"not marked slow: {line}")
