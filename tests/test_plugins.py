"""Agents and environments from outside the tree: registered, imported by a command, or found by entry points.

The package in ``tests/plugin`` brings CrossQ and an acrobot; nothing of it is installed or on the path unless a test says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import agents, envs, export, plugins
from rlx.agents import sac
from rlx.cli import main
from rlx.envs import registry
from rlx.train import sweeps
from rlx.types import Problem
from tests.export.laws import off, run_c

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"
LLVM_LEVEL = 1  # an agent learns to swing up
QUIET = ["--no-video", "--no-progress", "--episodes", "5"]
TRAIN = "train crossq --import acrobatics --env rlx:pendulum --preset small --seeds 2 --run-dir run".split()
TRAIN += ["--checkpoint-cycles", "20", *QUIET]


def outside(*argv: str, path: Path | None = PLUGIN) -> tuple[list[str], dict[str, str]]:
    """A command line and environment of a fresh process that finds rlx, and what is in ``path``."""
    found = os.pathsep.join(str(p) for p in (ROOT, path) if p)
    return [sys.executable, *argv], {**os.environ, "PYTHONPATH": found}


def said(*argv: str, cwd: Path, path: Path | None = PLUGIN) -> str:
    """What a command prints that must succeed."""
    command, env = outside(*argv, path=path)
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed_and_gone_on(folder: Path, *words: str) -> Path:
    """The run folder of a training that was killed after its first checkpoint, and begun again by the same command."""
    command, env = outside("-m", "rlx", *words)
    with subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 240
        while not list(folder.glob("run/checkpoints/[0-9]*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "run" / "result.json").exists()
    assert "goes on from its last checkpoint" in said("-m", "rlx", *words, cwd=folder)
    return folder / "run"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """CrossQ on the pendulum as two seeds."""
    return killed_and_gone_on(tmp_path_factory.mktemp("outside"), *TRAIN)


@pytest.fixture
def fresh(monkeypatch):
    """This process as if nothing from outside had been imported; afterwards too."""
    gone = [name for name in sys.modules if name.partition(".")[0] == "acrobatics"]
    for name in gone:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(agents, "_registered", {})
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "imported", [])  # worker processes of later tests would import them too
    yield monkeypatch
    for name in [name for name in sys.modules if name.partition(".")[0] == "acrobatics"]:
        del sys.modules[name]


@pytest.fixture
def acrobatics(fresh) -> ModuleType:
    fresh.syspath_prepend(PLUGIN)
    plugins.import_modules(["acrobatics"])
    return sys.modules["acrobatics"]


# -------------------------------------------------------------------------------------------------- the whole way of a run


@pytest.mark.slow
def test_an_agent_from_outside_learns_as_two_seeds_and_resumes_after_kill_9(run_dir):
    result = json.loads((run_dir / "result.json").read_text())
    assert result["agent"] == "crossq" and result["members"] == 2 and result["diverged"] == 0
    assert all(member["return_mean"] > -350 for member in result["each"])  # about -1 200 at random, -150 at best
    assert json.loads((run_dir / "config.json").read_text())["imports"] == ["acrobatics"]
    updates = [line["updates"][0] for line in map(json.loads, (run_dir / "metrics.jsonl").open()) if line["kind"] == "train"]
    assert updates == sorted(set(updates)), "every line once, in order, over both processes"


@pytest.mark.slow
def test_a_fresh_process_loads_it_without_being_told_what_to_import(run_dir, tmp_path):
    code = "import rlx, sys; p = rlx.load(sys.argv[1], member=1); print(p.agent.name, p.act([[1.0, 0.0, 0.0]])[0].shape)"
    assert said("-c", code, str(run_dir), cwd=tmp_path).strip() == "crossq (1, 1)"
    evaluated = said("-m", "rlx", "evaluate", "--run-dir", str(run_dir), "--episodes", "2", cwd=tmp_path)
    assert json.loads(evaluated.splitlines()[-1].removeprefix("RESULT "))["return_mean"] > -900


@pytest.mark.slow
def test_it_exports_to_c_that_acts_the_same(run_dir, tmp_path, acrobatics):
    policy = rlx.load(run_dir)
    act = run_c(export.law_of(policy, "eval"), tmp_path)
    obs = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    assert off(act(obs), policy.act(obs, units="env")[0]) < 1e-5


@pytest.mark.slow
def test_agent_and_environment_from_outside_go_the_whole_way(tmp_path, acrobatics):
    """At toy size: as two seeds, killed, gone on, loaded in a fresh process, and as C."""
    words = "train crossq --import acrobatics --env acrobatics:acrobot --preset debug --time-limit 20 --seeds 2".split()
    words += [
        "--run-dir",
        "run",
        "--agent.env-steps",
        "3000",
        "--agent.eval-every",
        "1500",
        "--checkpoint-cycles",
        "50",
        *QUIET,
    ]
    run_dir = killed_and_gone_on(tmp_path, *words)
    assert json.loads((run_dir / "result.json").read_text())["members"] == 2
    code = "import rlx, sys; print(rlx.load(sys.argv[1], member=1).evaluate(2)['lengths'].tolist())"
    assert said("-c", code, str(run_dir), cwd=tmp_path).strip() == "[20, 20]"
    policy = rlx.load(run_dir)
    act = run_c(export.law_of(policy, "eval"), tmp_path)
    obs = np.random.default_rng(0).standard_normal((64, *policy.problem.envs["train"].spec.obs.shape)).astype(np.float32)
    assert off(act(obs), policy.act(obs, units="env")[0]) < 1e-5


@pytest.mark.slow
def test_an_agent_and_environment_from_outside_are_swept(fresh, tmp_path):
    fresh.syspath_prepend(PLUGIN)
    words = "sweep crossq --import acrobatics --env acrobatics:acrobot --preset debug --time-limit 20 --seeds 2".split()
    words += "--agent.env-steps 210 --agent.eval-every 210 --agent.hidden 8 --agent.critic-hidden 8 --episodes 2".split()
    assert main([*words, "--grid", "agent.actor_lr=1e-2,1e-4", "--no-progress", "--run-dir", str(tmp_path)]) == 0
    (trial,) = sweeps.folders(tmp_path)  # both settings are members of one program
    assert json.loads((trial / "config.json").read_text())["imports"] == ["acrobatics"]
    rows = sweeps.ranking(sweeps.scores(sweeps.members([trial])))
    assert [(row["setting"], row["iqm"]) for row in sorted(rows, key=lambda row: row["setting"])] == [
        ("actor_lr=0.0001", -20.0),  # -1 a decision, and in 4 s no torque brings it up from where it hangs
        ("actor_lr=0.01", -20.0),
    ]
    rates = [float(rlx.load(trial, "last", member=m).state.hyper["actor_lr"]) for m in (0, 3)]
    np.testing.assert_allclose(sorted(rates), [1e-4, 1e-2], rtol=1e-6)


@pytest.mark.slow
def test_a_run_whose_module_is_not_to_be_had_says_which_it_is(run_dir, fresh, tmp_path, capsys):
    with pytest.raises(
        ValueError, match=r"config\.json needs --import acrobatics: there is no module 'acrobatics'.*PYTHONPATH"
    ):
        rlx.load(run_dir)
    assert main(["evaluate", "--run-dir", str(run_dir)]) == 2
    assert "--import acrobatics" in capsys.readouterr().err
    config = json.loads((run_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "imports": []}))  # as a script that imported it would leave
    with pytest.raises(ValueError, match=r"unknown agent 'crossq'.*--import MODULE"):
        rlx.load(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "imports": [], "agent": "sac", "config": {}, "env": "acrobatics:acrobot"})
    )
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"environment 'acrobatics:acrobot' is unknown.*--import MODULE"):
        rlx.load(tmp_path)


# ------------------------------------------------------------------------------------------------------------ what it brings


def test_the_acrobot_is_sound_and_moves_as_gymnasiums(acrobatics):
    env = envs.make("acrobatics:acrobot", time_limit=20)
    envs.check(env)
    theirs = gymnasium.make("Acrobot-v1").unwrapped
    rng = np.random.default_rng(0)
    for torque in (-1.0, 0.0, 1.0):
        x = rng.uniform(-1, 1, 4).astype(np.float32) * [3, 3, 4, 4]
        theirs.reset(seed=0)
        theirs.state = x.copy()
        theirs.step(int(torque) + 1)
        ours = acrobatics.acrobot.advance(env.params, jnp.asarray(x, jnp.float32), jnp.array([torque]))
        away = (np.asarray(ours) - theirs.state) % (2 * np.pi)  # they wrap their angles
        np.testing.assert_allclose(np.minimum(away, 2 * np.pi - away), 0, atol=1e-3)


def test_batch_renormalisation_by_hand(acrobatics):
    from acrobatics.crossq import BatchRenorm

    x = np.random.default_rng(0).normal(2.0, 3.0, (32, 2)).astype(np.float32)
    net = BatchRenorm(warmup=1)
    start = net.init(jax.random.key(0), x)
    assert float(start["batch_stats"]["seen"]) == 0  # making the parameters is no batch
    y, one = net.apply(start, x, mutable=["batch_stats"])
    mean, std = x.mean(0), np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(y, (x - mean) / std, atol=1e-5)  # the first batch: plain batch normalisation
    np.testing.assert_allclose(one["batch_stats"]["mean"], 0.01 * mean, rtol=1e-5)
    np.testing.assert_allclose(one["batch_stats"]["var"], 0.99 + 0.01 * x.var(0), rtol=1e-5)
    y, _ = net.apply({**start, **one}, x, mutable=["batch_stats"])
    running = np.sqrt(0.99 + 0.01 * x.var(0) + 1e-3)
    scale, shift = np.clip(std / running, 1 / 3, 3), np.clip((mean - 0.01 * mean) / running, -5, 5)
    np.testing.assert_allclose(y, (x - mean) / std * scale + shift, rtol=1e-4, atol=1e-4)
    still = net.apply({**start, **one}, x)
    np.testing.assert_allclose(still, (x - 0.01 * mean) / running, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------- entry points


def installed(folder: Path, name: str, text: str) -> Path:
    """``folder`` as a place where a package ``name`` with these entry points is installed."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(text)
    return folder


def declared() -> str:
    """The entry points of the package, as an installer writes them."""
    groups = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    return "\n".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items())


def test_an_installed_package_needs_no_import(fresh, tmp_path):
    fresh.syspath_prepend(installed(tmp_path, "acrobatics", declared()))
    fresh.syspath_prepend(PLUGIN)
    assert "crossq" in agents.list() and "acrobatics" not in sys.modules  # names alone import nothing
    env = envs.make("acrobatics:acrobot", repeat=2)
    assert env.spec.horizon == 250 and "acrobatics:acrobot" in envs.list("acrobatics")
    assert agents.make("crossq", None, Problem({"train": env}), critic_hidden=(8,)).name == "crossq"
    with pytest.raises(ValueError, match="environment 'acrobatics:acrobat' is unknown.*Did you mean acrobatics:acrobot"):
        envs.make("acrobatics:acrobat")


def test_a_broken_package_is_named_and_breaks_nothing_else(fresh, tmp_path):
    entries = "[rlx.agents]\nbroken = no_such.module\nvalue = json:loads\n[rlx.envs]\nbroken = no_such.module\n"
    fresh.syspath_prepend(installed(tmp_path, "shaky", entries))
    assert {"broken", "sac"} <= set(agents.list()) and isinstance(agents.config("sac"), sac.Config)
    for use in (lambda: agents.config("broken"), lambda: envs.make("broken:task")):
        with pytest.raises(ValueError, match=r"'broken = no_such\.module' of shaky, which cannot be imported.*no_such"):
            use()
    with pytest.raises(ValueError, match="'value = json:loads' of shaky.* must name a module"):
        agents.config("value")
    with pytest.warns(UserWarning, match="of shaky, which cannot be imported"):
        assert "rlx:pendulum" in envs.list()
    fresh.syspath_prepend(installed(tmp_path / "more", "other", "[rlx.agents]\nbroken = json\n"))
    with pytest.raises(ValueError, match="several packages have a 'broken' in rlx.agents"):
        agents.config("broken")


# ---------------------------------------------------------------------------------------------------- register and --import


def module(**parts) -> ModuleType:
    made = ModuleType("mine")
    vars(made).update({"Config": sac.Config, "PRESETS": sac.PRESETS, "make": sac.make, **parts})
    return made


def test_register(fresh):
    agents.register("mine", module())
    assert "mine" in agents.list() and agents.presets("mine") is sac.PRESETS
    agents.register("mine", "rlx.agents.td3")  # again: what it means now
    assert type(agents.config("mine")).__module__ == "rlx.agents.td3"
    agents.register("later", "not.there")  # imported when it is used
    with pytest.raises(ValueError, match=r"agent 'later' is in not\.there: there is no module 'not'"):
        agents.config("later")


@pytest.mark.parametrize(
    ("name", "parts", "says"),
    [
        ("sac", {}, r"'sac' is an agent of rlx's own \(rlx.agents.sac\)"),
        ("my agent", {}, "'my agent' is no name for an agent"),
        ("mine", {"Config": None}, "agent 'mine': mine must have a Config, a frozen dataclass"),
        ("mine", {"PRESETS": {"big": {}}}, "mine must have PRESETS, overrides by name with 'debug' among them"),
        ("mine", {"make": 3}, r"mine must have a function make\(config, problem\)"),
    ],
)
def test_register_refuses(fresh, name, parts, says):
    with pytest.raises(ValueError, match=says):
        agents.register(name, module(**parts))
    assert name == "sac" or name not in agents.list()


def test_what_is_made_must_be_an_agent(fresh):
    agents.register("mine", module(make=lambda config, problem: SimpleNamespace()))
    with pytest.raises(ValueError, match="mine.make gave a SimpleNamespace, it must give an rlx.types.Agent"):
        agents.make("mine", None, Problem({"train": envs.make("rlx:pendulum")}))


def test_a_file_in_the_current_folder_can_be_imported_by_a_command(fresh, tmp_path, capsys):
    (tmp_path / "my_agent.py").write_text(
        "from rlx import agents\nfrom rlx.agents.td3 import PRESETS, Config, make\nagents.register('my_td3', __name__)\n"
    )
    fresh.chdir(tmp_path)
    fresh.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])  # as the console script has it
    with contextlib.suppress(KeyError):
        del sys.modules["my_agent"]
    assert main(["train", "my_td3", "--env", "rlx:pendulum"]) == 2  # not imported
    assert "unknown agent 'my_td3'" in (message := capsys.readouterr().err) and "--import MODULE" in message
    assert main(["train", "my_td3", "--import", "my_agent", "--help"]) == 0
    assert "--agent.policy-delay" in capsys.readouterr().out
    assert main(["train", "--import=my_agent"]) == 2 and "my_td3" in capsys.readouterr().err
    del sys.modules["my_agent"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "--import my_code: there is no module 'my_code'"),
        ("import not_installed", "--import my_code: it imports not_installed, which is not installed"),
        ("1 / 0", "--import my_code: importing it failed with ZeroDivisionError: division by zero"),
        ("def", "--import my_code: importing it failed with SyntaxError"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "collect", "export"])
def test_an_import_that_fails_is_bad_input(fresh, tmp_path, capsys, text, says, command):
    fresh.chdir(tmp_path)
    if text is not None:
        (tmp_path / "my_code.py").write_text(text)
    assert main([command, *(["sac"] if command in ("train", "sweep") else []), "--import", "my_code"]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err
