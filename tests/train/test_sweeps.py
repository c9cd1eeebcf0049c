"""Sweeps: what they plan, that three ways of running them agree, deaths and restarts, rankings and reports."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlx import agents
from rlx.cli import main
from rlx.train import run_config as run_configs
from rlx.train import sweeps

LLVM_LEVEL = 1  # it compares programs
# twenty updates: longer runs part from one another by rounding
SMALL = ["--env", "rlx:pendulum", "--preset", "debug", "--agent.env-steps", "220", "--agent.eval-every", "20", "--seeds", "2"]
RATES = ["--grid", "agent.actor_lr=1e-2,1e-4"]
GRID = [*RATES, "--grid", "agent.hidden=16,8x8"]
HALF = [*RATES, "--grid", "agent.hidden=16"]  # of its trials


def sweep(run_dir: Path, *more: str) -> int:
    return main(["sweep", "sac", *SMALL, *GRID, "--episodes", "2", "--run-dir", str(run_dir), *more])


def ranked(run_dir: Path) -> list[dict]:
    return sweeps.ranking(sweeps.scores(sweeps.members(sweeps.folders(run_dir))))


@functools.cache
def learned(run_dir: Path) -> dict[str, list[np.ndarray]]:
    import jax

    import rlx

    out = {}
    for folder in sweeps.folders(run_dir):
        for m, (seed, setting) in enumerate(run_configs.read(folder).who()):
            state = rlx.load(folder, "last", member=m).state
            name = f"{run_configs.read(folder).config.hidden} {setting} {seed}"
            out[name] = [np.asarray(x) for x in jax.tree.leaves(state.learned)]
    return out


def assert_same_learned(a: Path, b: Path, members: int, tolerance: float = 0.0) -> None:
    """All ``members`` of ``b`` learned what they did in ``a``."""
    one, two = learned(a), learned(b)
    assert one.keys() >= two.keys() and len(two) == members
    for name in two:
        for x, y in zip(one[name], two[name], strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_undisturbed(half: Path, whole: Path) -> None:
    """The trials of ``HALF`` ended as they did among those of ``GRID``, bit for bit."""
    assert_same_learned(whole, half, 4)
    theirs = [r for r in ranked(whole) if "hidden=16x16" in r["setting"].split()]
    rates = lambda rows: [next(w for w in r["setting"].split() if w.startswith("actor_lr=")) for r in rows]
    assert rates(ranked(half)) == rates(theirs) and len(theirs) == 2
    assert [r["iqm"] for r in ranked(half)] == [r["iqm"] for r in theirs]


@pytest.fixture(scope="module")
def as_one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    assert sweep(folder) == 0
    return folder


@pytest.fixture(scope="module")
def locally(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    assert sweep(folder, "--workers", "local:2") == 0
    return folder


# ----------------------------------------------------------------------------------------------------------- what is planned


def test_values_that_print_alike_are_trials_of_their_own():
    run_config = run_configs.RunConfig("td_jepa", "rlx:pendulum", agents.config("td_jepa"))
    points = [{"random_goals": x} for x in (0.12345678, 0.12345679)]
    found = sweeps.trials(run_config, points, together=True)
    assert [t.run_config.config.random_goals for t in found] == [0.12345678, 0.12345679]
    assert len({t.name for t in found}) == 2


def test_grids_lists_and_ranges():
    own = agents.config("sac")
    found = sweeps.axes(own, ["agent.actor-lr=1e-3,3e-4", "agent.hidden=64,32x16", "batch=128,256"])
    assert found == {"actor_lr": [1e-3, 3e-4], "hidden": [(64, 64), (32, 16)], "batch": [128, 256]}
    assert len(sweeps.points(found, "grid", 0)) == 8
    log, lin = sweeps.axes(own, ["actor_lr=log:1e-5..1e-2", "tau=lin:0.001..0.1"]).values()
    rng = np.random.default_rng(0)
    draws = np.array([[log.draw(rng), lin.draw(rng)] for _ in range(4_000)])
    assert draws[:, 0].min() >= 1e-5 and draws[:, 0].max() <= 1e-2 and 1e-3 <= draws[:, 1].min() <= draws[:, 1].max() <= 0.1
    assert np.median(np.log10(draws[:, 0])) == pytest.approx(-3.5, abs=0.1) and draws[:, 1].mean() == pytest.approx(
        0.0505, abs=2e-3
    )
    drawn = sweeps.points({"actor_lr": log, "hidden": [(8,), (16,)]}, "random:20", 3)
    assert drawn == sweeps.points({"actor_lr": log, "hidden": [(8,), (16,)]}, "random:20", 3)
    assert len(drawn) == 20 and {p["hidden"] for p in drawn} == {(8,), (16,)}
    assert len(sweeps.points({"hidden": [(8,), (16,)]}, "random:20", 3)) == 2, "each setting once"


def test_traced_fields_share_a_program():
    run_config = run_configs.RunConfig("sac", "rlx:pendulum", agents.config("sac"), seeds=3)
    points = sweeps.points(sweeps.axes(run_config.config, ["actor_lr=1e-3,3e-4", "hidden=16,8x8"]), "grid", 0)
    one, apart = sweeps.trials(run_config, points, True), sweeps.trials(run_config, points, False)
    assert [(t.name, t.run_config.members) for t in one] == [("hidden=16x16", 6), ("hidden=8x8", 6)]
    assert [t.run_config.members for t in apart] == [3] * 4 and apart[0].name == "actor_lr=0.001,hidden=16x16"
    both = [
        sorted((str(t.run_config.config.hidden), *m[1].items(), m[0]) for t in ts for m in t.run_config.who())
        for ts in (one, apart)
    ]
    assert sorted(both[0]) == sorted(both[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--grid", "agent.actor_lrr=1"], "'actor_lr'"),
        (["--grid", "agent.hidden=log:1..2"], "is static"),
        (["--grid", "agent.tau=log:1e-2..1e-3"], "LOW below HIGH"),
        (["--grid", "agent.tau=log:1e-3..1e-2"], "--search random:N"),
        (["--grid", "agent.tau=fast"], "no number"),
        (["--grid", "agent.tau"], "is no grid"),
        (["--grid", "agent.hidden=wide"], "hidden"),
        (["--grid", "agent.tau=0.1,0.2", "--grid", "agent.tau=0.3"], "given twice"),
        (["--grid", "agent.tau=0.1,1e-1"], "0.1 is there twice"),
        (["--grid", "agent.hidden=16,8,16x16"], "(16, 16) is there twice"),
        ([], "nothing to sweep"),
        ([*GRID, "--seeds", "0"], "at least 1"),
        ([*GRID, "--search", "clever"], "--search"),
        ([*GRID, "--workers", "local:0"], "--workers"),
        ([*GRID, "--workers", "cloud"], "--workers"),
        ([*GRID, "--waves", "1", "--memory", "1e-5"], "do not fit"),
    ],
)
def test_bad_input_leaves_nothing_behind(flags, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "sac", *SMALL, *flags]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err, err
    assert not list(tmp_path.rglob("result.json"))


# ------------------------------------------------------------------------------------------------------------- three ways, one


@pytest.mark.slow
def test_one_program_and_local_workers_agree(as_one, locally):
    assert len(sweeps.folders(as_one)) == 2 and len(sweeps.folders(locally)) == 4
    a, b = ranked(as_one), ranked(locally)
    assert [r["setting"] for r in a] == [r["setting"] for r in b] and len(a) == 4
    np.testing.assert_allclose([r["iqm"] for r in a], [r["iqm"] for r in b], rtol=1e-3)
    assert_same_learned(as_one, locally, 8, 1e-4)


@pytest.mark.slow
def test_finished_trials_never_run_twice(as_one, capsys):
    before = {p: p.stat().st_mtime_ns for p in as_one.rglob("trials/*/metrics.jsonl")}
    assert sweep(as_one) == 0
    assert before == {p: p.stat().st_mtime_ns for p in as_one.rglob("trials/*/metrics.jsonl")}
    assert "2 of them done" in capsys.readouterr().out
    assert main(["sweep", "sac", *SMALL, "--grid", "agent.tau=0.1,0.2", "--run-dir", str(as_one)]) == 2
    assert "holds another sweep" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["one", "local:2"])
def test_a_sweep_goes_on_with_a_larger_budget(as_one, locally, tmp_path, workers, capsys):
    shutil.copytree(as_one if workers == "one" else locally, tmp_path / "s")
    longer = ["--agent.env-steps", "240", "--workers", workers]
    assert sweep(tmp_path / "s", *longer) == 0
    found = [sweeps.result(folder) for folder in sweeps.folders(tmp_path / "s")]
    members = [run_configs.read(folder).members for folder in sweeps.folders(tmp_path / "s")]
    assert len(found) == (2 if workers == "one" else 4) and [r["updates"] for r in found] == [40 * m for m in members]
    capsys.readouterr()
    assert sweep(tmp_path / "s", "--workers", workers) == 2
    assert "only its budget may grow" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_trials_and_a_killed_sweep_go_on(locally, tmp_path):
    """A worker's trial is killed, then the whole sweep; the same command ends with what was never disturbed."""
    argv = ["sweep", "sac", *SMALL, *HALF, "--episodes", "2", "--run-dir", str(tmp_path), "--workers", "local:2"]
    flags = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = subprocess.Popen([sys.executable, "-m", "rlx", *argv], env=flags, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("trials/*/metrics.jsonl")) or running.poll() is not None)
    for process in children(running.pid)[:1]:
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: list(tmp_path.glob("trials/*/result.json")) or running.poll() is not None)
    orphans = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_for(lambda: not any(alive(p) for p in orphans), 10)
    assert main(argv) == 0
    assert_undisturbed(tmp_path, locally)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(p) for p in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_ray_cluster_loses_a_node(locally, tmp_path):
    """Two nodes on loopback; one is killed while trials run on both."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    argv = ["sweep", "sac", *SMALL, *HALF, "--episodes", "2", "--run-dir", str(tmp_path), "--workers", f"ray:{cluster.address}"]
    try:
        cluster.wait_for_nodes()
        running = subprocess.Popen(
            [sys.executable, "-m", "rlx", *argv], env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: len(list(tmp_path.glob("trials/*/metrics.jsonl"))) >= 2 or running.poll() is not None)
        cluster.remove_node(second, allow_graceful=False)
        _, err = running.communicate(timeout=240)
        assert running.returncode == 0, err[-3000:]
    finally:
        cluster.shutdown()
    assert_undisturbed(tmp_path, locally)


@pytest.mark.parametrize(("workers", "found"), [("local:2", "false"), ("one", None)])
def test_workers_and_who_starts_them_share_a_device(workers, found, tmp_path, monkeypatch):
    """Before a device is opened, which `_plan` is the first to do."""
    seen = []

    def plan(*args):
        seen.append(os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"))
        raise ValueError("enough")

    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    monkeypatch.setattr("rlx.cli.sweep._plan", plan)
    assert sweep(tmp_path / "s", "--workers", workers) == 2
    assert seen == [found]


@pytest.mark.slow
def test_no_module_opens_a_device_when_it_is_imported():
    """What the environment says of memory and platforms, and which process of a job this is, come before."""
    code = (
        "import importlib, pkgutil, rlx\n"
        "names = [m.name for m in pkgutil.walk_packages(rlx.__path__, 'rlx.') if not m.name.endswith('__main__')]\n"
        "from jax._src import xla_bridge\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    assert not xla_bridge.backends_are_initialized(), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_ray_cluster_answers(tmp_path, capsys):
    pytest.importorskip("ray")
    assert sweep(tmp_path / "s", "--workers", "ray:127.0.0.1:1") == 2
    assert "no Ray cluster answers" in capsys.readouterr().err
    assert sweep(tmp_path / "s", "--workers", "ray:somewhere") == 2
    assert "no address" in capsys.readouterr().err and not (tmp_path / "s").exists()


# ------------------------------------------------------------------------------------------------------- rankings and reports


def test_ranking_by_hand():
    found = {"a": np.array([1.0, 2.0, 3.0, 4.0]), "b": np.array([2.5, 3.5, np.nan]), "c": np.array([np.nan])}
    rows = sweeps.ranking(found)
    assert [r["setting"] for r in rows] == ["b", "a", "c"]
    assert rows[0]["iqm"] == 3.0 and rows[0]["diverged"] == 1 and rows[1]["iqm"] == 2.5
    assert rows[0]["better"] == pytest.approx((2 + 3) / 8) and rows[1]["better"] is None and rows[2]["iqm"] == -math.inf


def test_seeds_to_separate_by_hand():
    """n = 2 * 7.849 * s^2 / d^2 per group; s = 1, d = 1: 16 in all."""
    a = np.array([0.0, 1.0, 2.0])  # variance 1
    assert sweeps.seeds_to_separate(a, a + 1) == 16 - 3
    assert sweeps.seeds_to_separate(a, a + 10) == 0
    assert sweeps.seeds_to_separate(a, a) is None and sweeps.seeds_to_separate(a[:1], a) is None


def test_report_of_a_sweep(as_one, tmp_path, capsys):
    assert main(["report", str(as_one), "--out", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "Ranking" in out
    page = (tmp_path / "r" / "report.html").read_text()
    for text in ("Ranking", "how many more seeds", "Cost", "P(better than the next)", "data:image/png"):
        assert text in page
    assert (tmp_path / "r" / "settings.png").stat().st_size > 5_000
    names = {f"actor_lr={rate} hidden={widths}" for rate in ("0.01", "0.0001") for widths in ("16x16", "8x8")}
    assert {row["setting"] for row in ranked(as_one)} == names
    result = json.loads(out.splitlines()[-1].removeprefix("RESULT "))
    assert result["groups"] == 4 and result["runs"] == 8
    assert main(["report", str(tmp_path)]) == 2


@pytest.mark.slow
def test_a_random_search_in_three_fields_is_drawn_as_parallel_lines(tmp_path, capsys):
    grid = [
        "--grid",
        "agent.actor_lr=log:1e-5..1e-2",
        "--grid",
        "agent.tau=lin:0.001..0.1",
        "--grid",
        "agent.discount=0.9,0.99",
    ]
    args = ["--search", "random:4", "--episodes", "1", "--run-dir", str(tmp_path), *grid]
    assert main(["sweep", "sac", *SMALL, *args]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1].removeprefix("RESULT "))
    assert result["trials"] == 1 and result["settings"] == 4
    assert (tmp_path / "report" / "settings.png").stat().st_size > 5_000
