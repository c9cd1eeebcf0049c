"""Pictures per second: the rasteriser against MuJoCo's OpenGL renderer, as it comes and without what costs time.

    python benchmarks/pixels.py                 # walker, cheetah and cart-pole at 64 x 64, then whole environment steps
    python benchmarks/pixels.py --preset debug
    python benchmarks/pixels.py --picture docs/pixels.png    # no timing: both renderers and distractors side by side

All draw the same states of the same models in RGB, in rounds that alternate between them. ``opengl`` is `mujoco.Renderer` with
the settings of dm_control's models, ``stripped`` what ``pixels="gl"`` makes of it, ``rasteriser`` a compiled batch of 64. A
step is a decision of two control steps, its picture with a video behind it included, 64 streams: cart-pole within one program,
walkers on native physics. Rates are those of the fastest round, since nothing but other work makes one slower, by the clock and
per second of a processor: on a machine that does other things too the latter is the one to compare.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rlx import envs, keys
from rlx.envs import tasks
from rlx.envs.camera import Pixels, draw
from rlx.envs.camera.distractors import Distractor
from rlx.envs.camera.gl import GlCamera
from rlx.envs.camera.mujoco import MujocoView

mujoco = importlib.import_module("mujoco")  # after rlx, which chooses its renderer where there is no screen
SIZE = (64, 64)
STREAMS = 64
Work = Callable[[], int]


def states(name: str, count: int) -> tuple[Any, np.ndarray]:
    """A model, and starts of episodes [count, nq]."""
    task = tasks.get(name)
    model, rng = task.model(), np.random.default_rng(0)
    uniforms, normals = task.draws(model)
    return model, np.stack(
        [task.init(np, task.find(model), rng.random(uniforms), rng.standard_normal(normals))[0] for _ in range(count)]
    )


def rasteriser(name: str, grey: bool, batches: int) -> Work:
    model, qpos = states(name, STREAMS)
    view = MujocoView(name, model)
    shoot = jax.jit(lambda q: jax.vmap(lambda p: draw(view.scene, p, SIZE, grey).image)(view.poses(jnp, q)))
    qpos = jnp.asarray(qpos, jnp.float32)

    def work() -> int:
        for _ in range(batches):
            shoot(qpos).block_until_ready()
        return batches * STREAMS

    return work


def opengl(name: str, stripped: bool, frames: int) -> Work:
    model, qpos = states(name, frames)
    data = [mujoco.MjData(model) for _ in range(frames)]
    for d, q in zip(data, qpos, strict=True):
        d.qpos[:] = q
        mujoco.mj_forward(model, d)
    if stripped:
        camera = GlCamera(name, tasks.get(name).model(), Pixels("gl", SIZE, distractor=Distractor()))
        shoot = camera.shoot
    else:
        renderer = mujoco.Renderer(model, *SIZE)

        def shoot(d: Any) -> np.ndarray:
            renderer.update_scene(d, camera=0)
            return renderer.render()

    def work() -> int:
        for d in data:
            shoot(d)
        return frames

    return work


def steps(name: str, count: int, **options: object) -> Work:
    """Random decisions of an environment."""
    env = envs.make(name, repeat=2, **options)
    vec, size = envs.batch(env, STREAMS), env.spec.action.shape

    def policy(carry: object, step: object, key: object) -> tuple:
        return jax.random.uniform(jax.random.wrap_key_data(key) if env.host else key, (STREAMS, *size), minval=-1), carry, {}

    act = jax.jit(policy) if env.host else policy
    roll = lambda loop, key: envs.rollout(vec, vec.params, act, loop, key, count)[:2]
    roll = roll if env.host else jax.jit(roll)
    loop = envs.begin(vec, vec.params, (), keys.root(0))

    def work() -> int:
        nonlocal loop
        loop, rows = roll(loop, keys.root(1))
        jax.block_until_ready(rows)
        return count * STREAMS

    return work


def rates(contestants: dict[str, Work], rounds: int) -> dict[str, tuple[float, float]]:
    """Of each, per second of the clock and of a processor, in its fastest round after one to warm up."""
    found: dict[str, list[tuple[float, float]]] = {k: [] for k in contestants}
    for i in range(rounds + 1):
        for name, work in contestants.items():
            begun = time.perf_counter(), time.process_time()
            count = work()
            if i:
                found[name].append((count / (time.perf_counter() - begun[0]), count / (time.process_time() - begun[1])))
    return {k: tuple(float(max(v)) for v in zip(*rows, strict=True)) for k, rows in found.items()}  # type: ignore[misc]


def picture(path: str) -> None:
    """Columns: environments. Rows: OpenGL with shadows, the rasteriser, and with two distractors behind."""
    names = (
        "walker-walk",
        "cheetah-run",
        "hopper-hop",
        "cartpole-swingup",
        "reacher-easy",
        "finger-turn_hard",
        "ball_in_cup-catch",
    )
    columns = []
    for name in [*(f"dmc:{n}" for n in names), "rlx:cartpole-swingup", "rlx:point-maze"]:
        column = []
        floor = "stock" if name == "dmc:reacher-easy" or name.startswith("rlx:") else "gray"  # those are seen from above
        for options in ({}, {"distractor": "video"}, {"distractor": {"kind": "video", "colour": True}, "floor": floor}):
            vec = envs.batch(envs.make(name, pixels="sdf", image=96, **options), 1)
            key = keys.root(4)
            state, step = vec.reset(vec.params, keys.HostKey.of(key, 1) if vec.host else key)
            if not column:
                whole = Image.fromarray(vec.render(vec.params, state)).resize((96, 96), Image.Resampling.BOX)
                column.append(np.asarray(whole))
            column.append(np.asarray(step.obs["pixels"][0]))
            vec.close()
        columns.append(np.concatenate(column))
    Image.fromarray(np.concatenate(columns, 1)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["debug", "full"], default="full")
    parser.add_argument("--picture", metavar="PATH", default="")
    flags = parser.parse_args()
    if flags.picture:
        picture(flags.picture)
        return
    debug = flags.preset == "debug"
    rounds, frames, batches, count = (1, 4, 1, 2) if debug else (7, 40, 10, 50)
    result: dict[str, float] = {}
    for name in ("walker-walk",) if debug else ("walker-walk", "cheetah-run", "cartpole-swingup"):
        contestants = {
            "rasteriser": rasteriser(name, False, batches),
            "rasteriser_grey": rasteriser(name, True, batches),
            "stripped": opengl(name, True, frames),
            "opengl": opengl(name, False, max(frames // 4, 1)),
        }
        found = rates(contestants, rounds)
        print(f"{name}, pictures/s by the clock and per processor second:", {k: tuple(map(round, v)) for k, v in found.items()})
        short = name.partition("-")[0]
        for k, (clock, processor) in found.items():
            result |= {f"{short}_{k}_per_s": clock, f"{short}_{k}_per_processor_s": processor}
        for other in ("stripped", "opengl"):
            for way, at in (("", 0), ("_processor", 1)):
                result[f"{short}_ratio_{other}{way}"] = found["rasteriser"][at] / found[other][at]
    video = {"image": 64, "distractor": "video"}
    whole = {
        "cartpole": steps("rlx:cartpole-swingup", count),
        "cartpole_pixels": steps("rlx:cartpole-swingup", count, pixels="sdf", **video),
        "walker": steps("dmc:walker-walk", max(count // 10, 1)),
        "walker_sdf": steps("dmc:walker-walk", max(count // 10, 1), pixels="sdf", **video),
        "walker_gl": steps("dmc:walker-walk", 1, pixels="gl", **video),
    }
    found = rates(whole, rounds)
    print("decisions/s with a video behind:", {k: tuple(map(round, v)) for k, v in found.items()})
    result |= {f"step_{k}_per_s": v[0] for k, v in found.items()} | {
        f"step_{k}_per_processor_s": v[1] for k, v in found.items()
    }
    print("RESULT " + json.dumps({k: round(v, 2) for k, v in result.items()}))


if __name__ == "__main__":
    main()
