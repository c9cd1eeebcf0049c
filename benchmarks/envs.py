"""Native MuJoCo environments side by side with the libraries that people use.

    python benchmarks/envs.py                   # walker-walk against dm_control, cheetah-run against Gymnasium
    python benchmarks/envs.py --preset debug

Walker: control steps per second of 64 streams, against dm_control's own loop. Cheetah: physics steps per second, with five of
10 ms per decision on both sides (dm_control's cheetah repeated five times, HalfCheetah-v5), 64 streams of ours against
Gymnasium's vectors of 16.
Actions are drawn beforehand; rounds alternate between the contestants; rates are medians.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import gymnasium
import numpy as np
from dm_control import suite

from rlx.envs import make
from rlx.keys import HostKey

KEY = HostKey(np.array([[1, 2]], np.uint32), 64)


def batched(name: str, n: int, steps: int, repeat: int = 1) -> Callable[[], int]:
    vec = make(name, repeat=repeat).make(n, "reset")
    state, _ = vec.reset(None, KEY)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, n, *vec.spec.action.shape)).astype(np.float32)

    def work() -> int:
        nonlocal state
        for t in range(steps):
            state, _ = vec.step(None, state, actions[t], KEY)
        return steps * n

    return work


def dm_control_loop(domain: str, task: str, steps: int) -> Callable[[], int]:
    env = suite.load(domain, task, task_kwargs={"random": 0})
    spec = env.action_spec()
    actions = np.random.default_rng(0).uniform(spec.minimum, spec.maximum, (steps, *spec.shape))
    env.reset()

    def work() -> int:
        for t in range(steps):
            if env.step(actions[t]).last():
                env.reset()
        return steps

    return work


def gymnasium_vector(kind: type, n: int, steps: int) -> tuple[Callable[[], int], object]:
    vec = kind([lambda: gymnasium.make("HalfCheetah-v5")] * n)
    vec.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, n, 6)).astype(np.float32)

    def work() -> int:
        for t in range(steps):
            vec.step(actions[t])
        return steps * n

    return work, vec


def rates(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Steps per second of each, medians over rounds after one to warm up."""
    found: dict[str, list[float]] = {k: [] for k in contestants}
    for i in range(rounds + 1):
        for name, work in contestants.items():
            begun = time.perf_counter()
            count = work()
            if i:
                found[name].append(count / (time.perf_counter() - begun))
    return {k: float(np.median(v)) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    debug = parser.parse_args().preset == "debug"
    steps, rounds = (3, 2) if debug else (60, 9)
    walker = rates(
        {"rlx": batched("dmc:walker-walk", 64, steps), "dm_control": dm_control_loop("walker", "walk", 20 * steps)}, rounds
    )
    sync, a = gymnasium_vector(gymnasium.vector.SyncVectorEnv, 16, steps)
    asynchronous, b = gymnasium_vector(gymnasium.vector.AsyncVectorEnv, 16, steps)
    cheetah = rates(
        {
            "rlx": batched("dmc:cheetah-run", 64, steps, repeat=5),
            "sync": sync,
            "async": asynchronous,
            "rlx_gym": batched("gym:HalfCheetah-v5", 16, steps),
        },
        rounds,
    )
    a.close()
    b.close()
    cheetah = {k: 5 * v for k, v in cheetah.items()}  # physics steps per decision
    print("walker-walk, control steps/s:", {k: round(v) for k, v in walker.items()})
    print("cheetah, physics steps/s:    ", {k: round(v) for k, v in cheetah.items()})
    result = {
        "walker_steps_per_s": walker["rlx"],
        "ratio_dm_control": walker["rlx"] / walker["dm_control"],
        "cheetah_physics_steps_per_s": cheetah["rlx"],
        "ratio_gymnasium_sync": cheetah["rlx"] / cheetah["sync"],
        "ratio_gymnasium_async": cheetah["rlx"] / cheetah["async"],
        "ratio_same_env_sync": cheetah["rlx_gym"] / cheetah["sync"],
    }
    print("RESULT " + json.dumps({k: round(v, 3) for k, v in result.items()}))


if __name__ == "__main__":
    main()
