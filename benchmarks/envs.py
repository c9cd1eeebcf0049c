"""Native MuJoCo environments side by side with the libraries that people use.

    python benchmarks/envs.py                   # walker-walk against dm_control, cheetah-run against Gymnasium
    python benchmarks/envs.py --preset debug

Walker: control steps per second of 64 streams, against dm_control's own loop. Cheetah: physics steps per second, with five of
10 ms per decision on both sides (dm_control's cheetah repeated five times, HalfCheetah-v5), 64 streams of ours against
Gymnasium's vectors of 16. rlx steps on threads and with two worker processes; the better of the two is compared, and how much a
second thread adds to the physics alone is measured beside it, because on shared machines it may add nothing.
Actions are drawn beforehand; rounds alternate between the contestants; rates are medians.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable

import gymnasium
import mujoco
import numpy as np
from dm_control import suite

from rlx.envs import make
from rlx.keys import HostKey

KEY = HostKey(np.array([[1, 2]], np.uint32), 64)


def batched(name: str, n: int, steps: int, repeat: int = 1, workers: int | None = None) -> Callable[[], int]:
    vec = make(name, repeat=repeat, workers=workers).make(n, "reset")
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


def second_core(steps: int) -> float:
    """What a second thread adds to pure physics on this machine: 2 where two cores are free, 1 where it has one in truth."""
    model = suite.load("walker", "walk").physics.model.ptr
    spin = lambda data: [mujoco.mj_step(model, data, 100) for _ in range(steps)]
    two = [mujoco.MjData(model) for _ in range(2)]
    seconds = []
    for count in (1, 2):
        threads = [threading.Thread(target=spin, args=(data,)) for data in two[:count]]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.perf_counter() - begun)
    return 2 * seconds[0] / seconds[1]


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
    second = [second_core(steps)]
    walker = rates(
        {
            "rlx": batched("dmc:walker-walk", 64, steps),
            "workers": batched("dmc:walker-walk", 64, steps, workers=2),
            "dm_control": dm_control_loop("walker", "walk", 20 * steps),
        },
        rounds,
    )
    sync, a = gymnasium_vector(gymnasium.vector.SyncVectorEnv, 16, steps)
    asynchronous, b = gymnasium_vector(gymnasium.vector.AsyncVectorEnv, 16, steps)
    cheetah = rates(
        {
            "rlx": batched("dmc:cheetah-run", 64, steps, repeat=5),
            "workers": batched("dmc:cheetah-run", 64, steps, repeat=5, workers=2),
            "sync": sync,
            "async": asynchronous,
            "rlx_gym": batched("gym:HalfCheetah-v5", 16, steps),
            "rlx_gym_workers": batched("gym:HalfCheetah-v5", 16, steps, workers=2),
        },
        rounds,
    )
    a.close()
    b.close()
    second.append(second_core(steps))
    cheetah = {k: 5 * v for k, v in cheetah.items()}  # physics steps per decision
    print("walker-walk, control steps/s:", {k: round(v) for k, v in walker.items()})
    print("cheetah, physics steps/s:    ", {k: round(v) for k, v in cheetah.items()})
    print("a second thread of physics:  ", [round(x, 2) for x in second], "times one, before and after")
    best = lambda rates, *names: max(rates[k] for k in names)
    result = {
        "walker_steps_per_s": walker["rlx"],
        "ratio_dm_control": best(walker, "rlx", "workers") / walker["dm_control"],
        "cheetah_physics_steps_per_s": cheetah["rlx"],
        "ratio_gymnasium_sync": best(cheetah, "rlx", "workers") / cheetah["sync"],
        "ratio_gymnasium_async": best(cheetah, "rlx", "workers") / cheetah["async"],
        "ratio_same_env_sync": best(cheetah, "rlx_gym", "rlx_gym_workers") / cheetah["sync"],
        "second_thread_of_physics": float(np.mean(second)),
    }
    print("RESULT " + json.dumps({k: round(v, 3) for k, v in result.items()}))


if __name__ == "__main__":
    main()
