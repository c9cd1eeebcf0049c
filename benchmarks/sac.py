"""SAC side by side: updates per second, and wall-clock time to a return of 750 on cart-pole swing-up.

    python benchmarks/sac.py                    # updates/s against stable-baselines3, sbx and the machine's matrix products
    python benchmarks/sac.py --alone            # our own updates/s
    python benchmarks/sac.py --part wallclock   # to a return of 750, compile time included, against stable-baselines3

Peers: pip install torch stable-baselines3 sbx-rl. All use batch 256, two hidden layers of 256, float32, two
threads, and their own replay (sampling included). Rounds alternate between the contestants; rates are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from typing import Any

import gymnasium
import jax
import numpy as np

from rlx import agents
from rlx.envs import make
from rlx.keys import HostKey
from rlx.train import Options, run
from rlx.train import state as states
from rlx.train.host import device_state
from rlx.train.program import Program
from rlx.types import AgentState, HostEnv, Problem

HYPER = {"actor_lr": 1e-3, "critic_lr": 1e-3, "temperature_lr": 1e-3, "tau": 0.01}


class GymView(gymnasium.Env):
    """The Gymnasium view of a host environment, for the peers."""

    def __init__(self, env: HostEnv, seed: int):
        self.vec, self.env, self.resets = env.make(1, "stop"), env, 0
        self.words = np.array([[0, seed]], np.uint32)
        box = lambda shape, size: gymnasium.spaces.Box(-size, size, shape, np.float32)
        self.observation_space, self.action_space = box(env.spec.obs.shape, np.inf), box(env.spec.action.shape, 1.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.resets += 1
        self.state, step = self.vec.reset(None, HostKey(self.words, 1, self.resets))
        return step.obs[0], {}

    def step(self, action: np.ndarray) -> Any:
        self.state, step = self.vec.step(None, self.state, action[None], HostKey(self.words, 1, 0))
        return step.obs[0], float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), {}


def ours(n: int, seed: int = 0) -> Any:
    """A function that does ``n`` updates on a filled replay."""
    env = make("dmc:walker-walk")
    problem = Problem({"train": env})
    agent = agents.make("sac", None, problem, prefill=2_000, n_envs=4, collect=n // 4, env_steps=2_000 + n)
    key = jax.random.key(seed)
    result = run(agent, problem, key, stages=["prefill"], options=Options(progress=False, keep_best=False))
    program = Program(agent, problem, 1, {}, None)
    states.enter(program, result)
    on_device = [device_state(program, result)]

    def updates() -> None:
        on_device[0] = program.phases((1,), on_device[0], key, 0)
        jax.block_until_ready(on_device[0])

    return updates


def peer(library: str, n: int) -> Any:
    view = GymView(make("dmc:walker-walk"), 0)
    if library == "sb3":
        import torch
        from stable_baselines3 import SAC

        torch.set_num_threads(2)
        kwargs = {"policy_kwargs": {"net_arch": [256, 256]}, "device": "cpu"}
    else:
        from sbx import SAC

        kwargs = {"policy_kwargs": {"net_arch": [256, 256]}}
    model = SAC("MlpPolicy", view, batch_size=256, learning_starts=2_000, buffer_size=100_000, **kwargs)
    model.learn(2_001)
    return lambda: model.train(gradient_steps=n, batch_size=256)


def flops(n_obs: int, n_act: int, batch: int = 256, width: int = 256) -> float:
    """Multiply-adds (two each) of one SAC update: a forward pass counts 1, the gradient by weights 1, by inputs 1."""
    net = lambda n, m: 2 * batch * (n * width + width * width + width * m)
    actor, critic = net(n_obs, 2 * n_act), net(n_obs + n_act, 1)
    return 1 * actor + 2 * critic + 2 * 3 * critic + 3 * actor + 2 * 2 * critic


def matmul_rate(size: int = 1024, rounds: int = 20) -> float:
    """float32 operations per second of a square matrix product."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    f = jax.jit(lambda x: x @ x)
    f(x).block_until_ready()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        f(x).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / float(np.median(times))


def updates_per_second(n: int, rounds: int, peers: tuple[str, ...]) -> dict[str, float]:
    contestants = {"rlx": ours(n), **{name: peer(name, n) for name in peers}}
    times: dict[str, list[float]] = {k: [] for k in contestants}
    rates = []
    for i in range(rounds + 1):
        for name, work in contestants.items():
            begun = time.perf_counter()
            work()
            if i:
                times[name].append(time.perf_counter() - begun)
        rates.append(matmul_rate())
    per_second = {k: n / float(np.median(v)) for k, v in times.items()}
    spec = make("dmc:walker-walk").spec
    rate, peak = per_second["rlx"] * flops(spec.obs.shape[0], spec.action.shape[0]), float(np.median(rates))
    for name, value in per_second.items():
        print(f"{name:4} {value:8.1f} updates/s")
    print(f"rlx: {rate / 1e9:.1f} GFLOP/s of {peak / 1e9:.1f} GFLOP/s in 1024 x 1024 products: {rate / peak:.0%}")
    own = per_second["rlx"]
    return {
        **{f"updates_per_s_{k}": v for k, v in per_second.items()},
        **{f"ratio_{name}": own / per_second[name] for name in peers},
        "share_of_matmul": rate / peak,
    }


class Reached(Exception):
    """The target return."""


def seconds_of_rlx(env: HostEnv, target: float, most: int, seed: int) -> tuple[float, int]:
    """Seconds (programs compiled anew) and decisions until an evaluation reaches ``target``; infinite if none does."""
    settings = {**HYPER, "env_steps": most, "prefill": 500, "collect": 25, "eval_every": 500}
    jax.clear_caches()
    problem, began = Problem({"train": env}), time.perf_counter()

    def look(report: dict[str, Any], state: AgentState) -> None:
        if report["kind"] == "eval" and report["return_mean"] >= target:
            raise Reached(time.perf_counter() - began, int(report["env_steps"]))

    try:
        agent = agents.make("sac", None, problem, **settings)
        run(agent, problem, jax.random.key(seed), options=Options(progress=False), callback=look)
    except Reached as reached:
        return reached.args  # type: ignore[return-value]
    return float("inf"), most


def seconds_of_sb3(env: HostEnv, target: float, most: int, seed: int) -> tuple[float, int]:
    """The same of stable-baselines3."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(2)
    began = time.perf_counter()
    model = SAC(
        "MlpPolicy", GymView(env, seed), learning_rate=1e-3, tau=0.01, batch_size=256, learning_starts=500, ent_coef="auto_0.1",
        train_freq=1, gradient_steps=1, policy_kwargs={"net_arch": [256, 256]}, seed=seed, device="cpu",
    )  # fmt: skip
    for i in range(most // 500):
        model.learn(500, reset_num_timesteps=False)
        if evaluate_policy(model, GymView(env, 10_000 + seed), 10, warn=False)[0] >= target:
            return time.perf_counter() - began, 500 * (i + 1)
    return float("inf"), most


def wallclock(target: float, most: int, seeds: int) -> dict[str, Any]:
    """Until an evaluation of 10 episodes every 500 decisions reaches ``target``; the same settings for both, seeds by turns.
    Seconds of the clock, and of the processor, which other jobs on the machine move less."""
    env = make("dmc:cartpole-swingup", repeat=8)
    jax.config.update("jax_enable_compilation_cache", False)
    contestants = {"rlx": seconds_of_rlx, "sb3": seconds_of_sb3}
    result: dict[str, Any] = {}
    for seed in range(seeds):
        for name, race in contestants.items():
            before = time.process_time()
            seconds, decisions = race(env, target, most, seed)
            result.setdefault(f"seconds_{name}", []).append(round(seconds, 2))
            result.setdefault(f"processor_s_{name}", []).append(round(time.process_time() - before, 2))
            result.setdefault(f"decisions_{name}", []).append(decisions)
            used = f"{seconds:.1f} s ({result[f'processor_s_{name}'][-1]} of the processor)"
            print(f"seed {seed}: {name} reached {target} in {used} and {decisions} decisions", flush=True)
    medians = {k: float(np.median(v)) for k, v in result.items()}
    per_decision = {n: medians[f"seconds_{n}"] / medians[f"decisions_{n}"] for n in contestants}
    return {
        **result,
        "ratio_sb3": medians["seconds_sb3"] / medians["seconds_rlx"],
        "ratio_sb3_processor": medians["processor_s_sb3"] / medians["processor_s_rlx"],
        "ratio_sb3_per_decision": per_decision["sb3"] / per_decision["rlx"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["updates", "wallclock"], default="updates")
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--alone", action="store_true", help="our updates per second, without peers")
    parser.add_argument("--seeds", type=int, default=5, help="of the wall-clock race; medians are compared")
    args = parser.parse_args()
    peers = () if args.alone and args.part == "updates" else ("sb3", "sbx")
    missing = [name for name in ("torch", "stable_baselines3", "sbx") if peers and find_spec(name) is None]
    if missing:
        print(f"Not installed: {', '.join(missing)}. pip install torch stable-baselines3 sbx-rl", file=sys.stderr)
        return 2
    debug = args.preset == "debug"
    if args.part == "updates":
        result = updates_per_second(40 if debug else 400, 2 if debug else 5, peers)
    else:
        result = wallclock(750.0, 1_000 if debug else 12_500, args.seeds)
    print("RESULT " + json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
