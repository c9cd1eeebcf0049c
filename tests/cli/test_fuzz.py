"""Commands with flags and files that nobody sane would give: code 0, 1 or 2, one short message, and never a traceback.

What is well-formed goes as far as the plan; training itself is left out, so that hundreds of command lines take seconds.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from rlx import agents
from rlx.cli import collect, evaluate, export, main, report, sweep
from rlx.cli import data as data_command
from rlx.cli import train as command
from rlx.replay import datasets
from rlx.train import Interrupted
from rlx.train.plan import validate

BIG = "9" * 26
WHOLE = f"0 -1 1 2 3 17 70000 9999999999 2147483647 2147483648 18446744073709551616 {BIG} -{BIG}".split()
NUMBERS = [*WHOLE, *"0.5 1e-9 1e30 -1e30 1e-400 inf -inf nan 0x10".split()]
WORDS = ["", " ", "\x07", "a" * 300, *"None true äöü ../.. ~ - -- = , x= * $(x) \\ '\" {} [1]".split()]
ENVS = "rlx:pendulum rlx:pendulum rlx: : rlx:pendulum:v0 gym: gym:NoSuch-v0 gym:no.such:Env-v0 dmc:x brax: ?".split()
GRIDS = "agent.tau=0.1,0.2 agent.tau= =1 agent.tau=log:1..0 agent.tau=lin:0..inf agent.hidden=8,x tau=nan a=b=c".split()
FLAGS = {
    "train": command.Flags,
    "sweep": sweep.Flags,
    "evaluate": evaluate.Flags,
    "collect": collect.Flags,
    "data": data_command.Flags,
    "report": report.Flags,
    "export": export.Flags,
}
OPTIONS = ["host=true", "host=maybe", "penalty=1", "gravity=[1,2]", "nobody=null", "=3", "gravity", "mass=", "name=x", "1=2"]
READING = "bounds=clip bounds=1,x bounds=data horizon=3 horizon=-1 dones=both dones=maybe ignore=obs keys=a,b".split()
READING += ["names=a:b", "names=a", "episodes=0"]
READING += ["format=D4RL", "format=x", "episodes=1", "trust_arrays=true", "trust_arrays=3", "split=train", "nobody=1", "="]
OPTIONS += ["repeat=2", "time-limit=3", "workers=2", "workers=x", "depth=" + "[" * 3000]
# what would leave this process
OTHERS = "distributed coordinator processes process wait wandb tensorboard imports workers measure".split()


def flag(rng: random.Random, field: dataclasses.Field, prefix: str, files: list[str]) -> list[str]:
    name, kind = "--" + prefix + field.name.replace("_", "-"), str(field.type)
    if field.name == "env":
        value = rng.choice(ENVS)
    elif field.name == "env_options":
        name, value = "--" + prefix + "env-option", rng.choice(OPTIONS)
    elif field.name == "data_options":
        name, value = "--" + prefix + "data-option", rng.choice(READING)
    elif field.name == "grid":
        value = rng.choice(GRIDS)
    elif field.name in ("data", "init_from", "run_dir", "out"):
        value = rng.choice(files)
    elif "bool" in kind:
        return [rng.choice([name, name.replace("--", "--no-", 1), name + "=maybe"])]
    elif "tuple[int" in kind:
        return [name, *rng.choices(WHOLE, k=rng.randint(0, 3))]
    elif "int" in kind or "float" in kind:
        value = rng.choice((WHOLE if "int" in kind else NUMBERS) * 5 + NUMBERS + WORDS)
    else:
        value = rng.choice(NUMBERS + WORDS * 3)
    return [f"{name}={value}"] if rng.random() < 0.5 else [name, value]


def line(rng: random.Random, files: list[str]) -> list[str]:
    """A command line with up to three odd flags."""
    name = rng.choice(
        ["train"] * 5 + ["sweep"] * 2 + ["evaluate", "collect", "report", "export", "data", "data"] + ["train"] * 4
    )
    if name == "report":
        return [name, *rng.choices(files, k=rng.randint(0, 2)), *flag(rng, dataclasses.fields(report.Flags)[0], "", files)]
    if name == "data":
        argv = [name, rng.choice([*data_command.ACTIONS, "x"]), *rng.choices(files, k=rng.randint(1, 2))]
        flags = [f for f in dataclasses.fields(data_command.Flags) if f.name != "out"]
        return [*argv, "--out", f"out{rng.random()}", *(w for f in rng.choices(flags, k=2) for w in flag(rng, f, "", files))]
    fields = [(f, "") for f in dataclasses.fields(FLAGS[name]) if f.name not in OTHERS]
    argv = [name]
    if name in ("train", "sweep"):
        agent = rng.choice(["sac", "td3", "rnd", "ppo", "sindy_rl", "yann", "iql", "td_jepa"] * 5 + ["sac ", "nobody"])
        argv += [agent, "--env", "rlx:pendulum", "--preset", "debug", "--no-progress"]
        argv += ["--grid", "agent.discount=0.9,0.99"] if name == "sweep" and rng.random() < 0.8 else []
        argv += ["--run-dir", f"out{rng.random()}"]
        argv += ["--data", rng.choice(files)] if agent in ("iql", "td_jepa") else []
        if agent in agents.list():
            fields += [(f, "agent.") for f in dataclasses.fields(agents.config(agent))] * 2
    else:
        argv += ["--run-dir", rng.choice(files)] if rng.random() < 0.9 else []
    for field, prefix in rng.choices(fields, k=rng.randint(1, 3)):
        argv += flag(rng, field, prefix, files)
    return argv


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    argv = [
        "train",
        "ppo",
        "--env",
        "rlx:pendulum",
        "--preset",
        "debug",
        "--no-progress",
        "--no-video",
        "--run-dir",
        str(folder),
    ]
    assert main(argv) == 0
    return folder


def odd_files(rng: random.Random, trained: Path, folder: Path) -> list[str]:
    """Files and run folders, damaged each in another way; and what is no file at all."""
    raw = {
        "empty": b"", "zeros": bytes(1000), "text.npz": b"hello", "zip.npz": b"PK\x03\x04" + rng.randbytes(200),
        "x.hdf5": b"\x89HDF\r\n\x1a\n" + rng.randbytes(100), "list.json": b"[" * 100_000, "latin.txt": "ü".encode("latin-1"),
    }  # fmt: skip
    for name, data in raw.items():
        (folder / name).write_bytes(data)
    np.savez(folder / "columns.npz", obs=np.zeros((3, 2)), action=np.array(["a", "b", "c"]))
    np.save(folder / "one.npy", np.zeros(3))
    one = {"obs": np.zeros((4, 3), "f4"), "action": np.zeros((4, 1), "f4"), "reward": np.arange(4.0), "terminated": np.zeros(4)}
    datasets.write(folder / "good.npz", [one] * 3, {"env": "rlx:pendulum"})
    datasets.write(folder / "shards", [one] * 3)
    np.savez(
        folder / "open.npz",
        observations=np.zeros((4, 3)),
        actions=np.full((4, 1), 2.0),
        rewards=np.zeros(4),
        dones=np.eye(4)[3],
    )
    out = [str(folder / name) for name in [*raw, "columns.npz", "one.npy", "no/such/file"]] + WORDS
    out += [str(folder / name) for name in ("good.npz", "shards", "open.npz", "*.npz")] * 4
    for k, name in enumerate(["config.json", "metrics.jsonl", "result.json"] * 6):
        copy = folder / f"run{k}"
        shutil.copytree(trained, copy)
        text = (copy / name).read_bytes()
        at = rng.randrange(len(text))
        (copy / name).write_bytes(
            [
                text[:at],
                text[:at] + rng.randbytes(3) + text[at:],
                text.replace(b'"', b"'"),
                b"\xef\xbb\xbf" + text,
                json.dumps(rng.choice([[], 1, None, {"config": 3}, {"kind": "eval"}])).encode(),
                text.replace(b"1", b"null").replace(b"0", b'"x"'),
            ][k // 3]
        )
        out.append(str(copy))
    return [*out, str(trained), str(trained)]


def test_no_command_ends_in_a_traceback(trained, tmp_path, monkeypatch, capsys):
    def planned(agent, problem, key, run_dir, **more):
        validate(agent, problem, key, more.get("init_from"))
        raise Interrupted("planned")

    rng = random.Random(0)
    files = odd_files(rng, trained, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    monkeypatch.setattr(command, "run", planned)
    wrong = []
    for k in range(300):
        argv = line(rng, files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = main(argv)
        except BaseException as error:  # a traceback, whatever kind of exception it is
            wrong.append(f"{k} {argv}: {type(error).__name__}: {error}"[:600])
            continue
        out, err = capsys.readouterr()
        if code not in (0, 1, 2) or "Traceback" in out + err or (code and not 10 < len(err) < 3_000):
            wrong.append(f"{k} {argv}: code {code}, {len(err)} characters: {err[:300]}")
    assert not wrong, "\n".join(wrong)
