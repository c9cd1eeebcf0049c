"""Kill a run with SIGKILL at random moments, let the same command finish it, and compare it bit for bit with a run that
nobody disturbed: all arrays of the final state, replay and environment states included. With all flags as they are by default
(20 kills, six minutes) the result is `results/kill-resume.json`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from rlx import config
from rlx.cli import console
from rlx.train import Options, origin, run
from rlx.train import run_config as run_configs
from rlx.train import state as states

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results" / "kill-resume.json"


@dataclass(frozen=True)
class Flags:
    agent: str = "sac"
    env: str = "dmc:cartpole-swingup"
    kills: int = 20
    steps: int = 30_000  # environment steps of the run
    seed: int = 0  # of the run, and of the moments of death
    run_dir: str = ""  # where both runs go; default: a folder in the system's temporary one


PRESETS = {"debug": {"env": "rlx:pendulum", "kills": 3, "steps": 2_000}}


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, PRESETS, prog="kill_resume.py", description=__doc__ or "")
    folder = Path(flags.run_dir or tempfile.mkdtemp(prefix="rlx-kill-"))
    if (folder / "calm").exists() or (folder / "killed").exists():
        config.stop(f"{folder} holds runs already: give another --run-dir")
    calm, killed = folder / "calm", folder / "killed"
    seconds = undisturbed(flags, calm)
    kills, early = disturbed(flags, killed, newest(calm))
    digests = [digest(path) for path in (calm, killed)]
    equal = digests[0] == digests[1]
    rows = [("environment", flags.env), ("kills", f"{kills}, {early} of them while a process was starting")]
    rows += [("undisturbed", digests[0]), ("killed", digests[1]), ("bit-equal", "yes" if equal else "NO")]
    console.table("Kill and resume", rows)
    values = {"run_dir": folder, "env": flags.env, "agent": flags.agent, "kills": kills, "equal": equal, "digest": digests[1]}
    console.result({**values, "wall_calm_s": round(seconds, 2)})
    if flags == Flags(run_dir=flags.run_dir):  # as committed; not of a shorter version
        own = {k: v for k, v in values.items() if k != "run_dir"} | {"steps": flags.steps, "early": early}
        RESULTS.write_text(json.dumps({**own, "versions": origin.versions()}, indent=1) + "\n")
    if not equal or kills < flags.kills:
        raise SystemExit(1)


def start(flags: Flags, run_dir: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), flags.agent, "--env", flags.env]
    command += ["--preset", "debug", "--agent.env-steps", str(flags.steps), "--seed", str(flags.seed), "--no-video"]
    command += ["--run-dir", str(run_dir), "--no-progress"]
    command += ["--checkpoint-cycles", str(max(1, flags.steps // 400))]  # about 40 of them, as debug collects 10 steps a cycle
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (run_dir.parent / f"{run_dir.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path})


def undisturbed(flags: Flags, run_dir: Path) -> float:
    """Runs to the end; seconds that it took."""
    begun = time.monotonic()
    finished(start(flags, run_dir), run_dir)
    return time.monotonic() - begun


def newest(run_dir: Path) -> int:
    """The number of the newest checkpoint: about how many cycles are done."""
    folder = run_dir / "checkpoints"
    return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.exists() else 0


def disturbed(flags: Flags, run_dir: Path, total: int) -> tuple[int, int]:
    """Kills and starts again, then lets it finish. A quarter of the deaths come while a process is still starting, the others
    at random moments of learning, of evaluation or of saving. ``total``: the number of the last
    checkpoint."""
    moments = random.Random(flags.seed)
    targets = sorted(moments.uniform(0, 0.75 * total) for _ in range(flags.kills))
    kills = early = 0
    for target in targets:
        process, before = start(flags, run_dir), newest(run_dir)
        if moments.random() < 0.25:
            delay, early = moments.uniform(0, 2), early + 1
        else:
            while process.poll() is None and newest(run_dir) < max(target, before + 1):
                time.sleep(0.01)
            delay = moments.uniform(0, 0.2)
        time.sleep(delay)
        if process.poll() is not None:
            finished(process, run_dir)
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        print(f"kill {kills}: after {newest(run_dir)} cycles", flush=True)
    finished(start(flags, run_dir), run_dir)
    return kills, early


def finished(process: subprocess.Popen, run_dir: Path) -> None:
    if process.wait():
        log = run_dir.parent / f"{run_dir.name}.log"
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise OSError(f"the run in {run_dir} ended with code {process.returncode}; its last words, from {log}:\n{tail}")


def digest(run_dir: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of everything in a finished run's last checkpoint."""
    run_config = run_configs.read(run_dir)
    problem = run_config.problem()
    agent = run_config.make(problem)
    state = run(agent, problem, run_config.key(), run_dir, options=Options(progress=False))
    tree, _ = states.pack(agent, states.frozen_data(problem), state)
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        typed = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(leaf) if typed else leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
