"""A population on 1, 2 and 4 devices, and a checkpoint that moves between them; prints what came out. Run with four of them:
``XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/train/devices.py FOLDER``."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from rlx import agents, config
from rlx.envs import make
from rlx.train import Options, pmap, population, run
from rlx.train.population import members, settings_of
from rlx.types import Problem
from tests.train.toys import toy

QUIET = Options(progress=False)


def small(name: str, env: str = "rlx:pendulum", **changes):
    problem = Problem({"train": make(env)})
    own = config.apply(agents.config(name), agents.presets(name), ["debug"])
    return agents.make(name, config.replace(own, changes), problem), problem


def learned(state) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(state.agent.learned)]


def apart(a, b) -> float:
    """The largest difference of what two runs learned."""
    return max(float(np.max(np.abs(x.astype(float) - y), initial=0)) for x, y in zip(learned(a), learned(b), strict=True))


def main(folder: Path) -> None:
    devices, out = jax.devices(), {"devices": len(jax.devices())}
    agent, problem = small("sac", env_steps=220, eval_every=10)  # 20 updates: longer runs part from one another by rounding
    grid = {"actor_lr": [1e-3, 1e-4]}
    train = lambda n, where=None, agent=agent, **o: population(
        agent, problem, 3, grid, where, devices=devices[:n], options=Options(progress=False, **o)
    )
    one, two, four = (train(n) for n in (1, 2, 4))  # six members: padded to eight on four devices
    out["two"], out["four"] = apart(one.state, two.state), apart(one.state, four.state)
    out["seeds"], out["rates"] = four.seeds.tolist(), four.settings["actor_lr"].tolist()
    out["steps"] = four.state.counts["env_steps"].tolist()
    out["shards"] = len(four.state.agent.learned["actor"]["params"]["Dense_0"]["kernel"].sharding.device_set)
    everyone = members([(seed, setting) for setting in settings_of(grid) for seed in range(3)])

    def interrupt(line, state):
        if line["kind"] == "eval":
            raise KeyboardInterrupt

    begun, often = folder / "from4", Options(progress=False, checkpoint_cycles=1)
    with contextlib.suppress(KeyboardInterrupt):
        run(agent, problem, everyone, begun, devices=devices, callback=interrupt, options=often)
    for n in (1, 2):
        here = shutil.copytree(begun, folder / f"from4to{n}")
        state = run(agent, problem, everyone, here, devices=devices[:n], options=QUIET)
        out[f"resumed on {n}"] = apart(one.state, state)
    keys = jax.vmap(jax.random.key)(np.arange(4)).reshape(2, 2)
    laid = pmap(*toy(), keys, options=QUIET)
    out["pmap"] = list(laid.alive.shape)
    print(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
