"""A population on 1, 2 and 4 devices, and a checkpoint that moves between them; prints what came out. Run with four of them:
``XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/train/devices.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np

from rlx import agents, config
from rlx.envs import make
from rlx.train import Options, pmap, population, run
from rlx.train.population import members, settings_of
from rlx.types import Problem

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
    for n in (1, 2):
        stop = {"fired": False}

        def interrupt(report, stop=stop):
            if not stop["fired"]:
                stop["fired"] = True
                raise KeyboardInterrupt

        here = folder / f"from4to{n}"
        try:
            run(
                agent,
                problem,
                everyone,
                here,
                devices=devices,
                callback=lambda line, state: interrupt(line) if line["kind"] == "eval" else None,
                options=Options(progress=False, checkpoint_cycles=1),
            )
        except KeyboardInterrupt:
            pass
        state = run(agent, problem, everyone, here, devices=devices[:n], options=QUIET)
        out[f"resumed on {n}"] = apart(one.state, state)
    keys = jax.vmap(jax.random.key)(np.arange(4)).reshape(2, 2)
    laid = pmap(agent, problem, keys, options=QUIET)
    out["pmap"] = list(laid.alive.shape)
    print(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
