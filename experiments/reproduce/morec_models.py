"""What MOREC's filter does to models along what really happens: a pendulum's ensemble of networks, and the sparse ensembles of
cart-pole and swimmer, as SINDy-RL has them.

    python experiments/reproduce/morec_models.py                       # all parts
    python experiments/reproduce/morec_models.py --part pendulum --seeds 3
    python experiments/reproduce/morec_models.py --preset debug --out runs/x

A model is replayed open loop along windows of new episodes: it begins where they begin, is given their actions, and is never
told what they came to. Errors are root mean squares over the entries of an observation, in standard deviations of the data,
means over windows. Beside the behaviour that the data are of there is one that they do not have. Seeds draw data, model, scorer
and new episodes anew. By "likelihood" and by nearness "to the truth", the best that a filter could do, nothing stops.
``results/morec-PART.json`` has what is printed, ``results/morec-PART.png`` shows it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tables import mean_interval

from rlx import agents, config, envs, keys
from rlx.agents.sindy_rl.world import World, known_of, transitions
from rlx.dynamics import EnsembleDynamics, adversary, bootstrap, ensemble, filtered, scorer
from rlx.dynamics.audit import windows
from rlx.dynamics.filtered import by_likelihood, by_reward, by_truth
from rlx.envs.control import pendulum
from rlx.train.collect import Behaviour, collect, random
from rlx.types import Step

R_MIN, TEMPERATURE, DRAWS, WINDOWS = 0.6, 0.1, 2, 400
of_seeds = functools.partial(mean_interval, each="seeds")
GAME = adversary.Game(steps=4_000, snap_every=100, generator=(64, 64))


class Case(NamedTuple):
    """A model, what it is taught by, and where it is tried."""

    env: str
    steps: int  # of the data
    episode: int  # decisions of one
    horizon: int  # of a window
    at: tuple[int, ...]  # steps into the model that are told
    data: Callable[[Any], Behaviour]  # of a spec
    other: tuple[str, Callable[[Any], Behaviour]]  # which the data do not have
    fit: Callable[[Any, Any, bool], tuple[Any, Any]]  # (transitions, key, debug) -> model, params
    arrive: Callable[[Any, Any, Any], Any] | None = None  # (xp, obs, action) -> what comes next


# ------------------------------------------------------------------------------------------------------------- behaviours


def swinging(spec: Any) -> Behaviour:
    """Shapes the pendulum's energy towards that of standing upright, and holds it there; with noise."""

    def act(carry: Any, step: Step, key: Any) -> Any:
        cos, sin, rate = (step.obs[..., i] for i in range(3))
        lacks = 5.0 - (rate**2 / 6 + 5.0 * cos)  # kg m^2/s^2
        torque = jnp.where(cos > 0.95, -10.0 * sin - 2.0 * rate, jnp.sign(rate) * lacks)
        noise = 0.3 * jax.random.normal(key, torque.shape)
        return jnp.clip(torque / 2 + noise, -1.0, 1.0)[..., None], carry, {}

    return Behaviour(lambda n: (), act)


def pumping(spec: Any) -> Behaviour:
    """Full force that gives the pole energy, and keeps the cart about the middle."""

    def act(carry: Any, step: Step, key: Any) -> Any:
        x, cos, _, v, rate = (step.obs[..., i] for i in range(5))
        force = jnp.where(jnp.abs(x) > 1.0, -jnp.sign(x + 0.3 * v), -jnp.sign(rate * cos + 1e-6))
        return force[..., None], carry, {}

    return Behaviour(lambda n: (), act)


def strokes(spec: Any) -> Behaviour:
    """A wave that runs along the swimmer, of 25 decisions."""

    def act(t: Any, step: Step, key: Any) -> Any:
        phase = 2 * jnp.pi * t / 25
        return jnp.stack([jnp.sin(phase), jnp.sin(phase + jnp.pi / 2)], -1), t + 1, {}

    return Behaviour(lambda n: jnp.zeros(n), act)


# ----------------------------------------------------------------------------------------------------------------- models


def networks(given: Any, key: Any, debug: bool) -> tuple[Any, Any]:
    """Seven normal networks, of which the best five speak."""
    n, m = given.obs.shape[1], given.action.shape[1]
    blank = ensemble.init(keys.fold(key, "model"), 7, (n + m, *((16,) if debug else (64, 64)), n + 1), "silu", True, 5)
    inputs = np.concatenate([given.obs, given.action], 1)
    targets = np.concatenate([given.new - given.obs, given.reward[:, None]], 1)
    epochs = 2 if debug else 40
    return EnsembleDynamics(), bootstrap.fit(blank, inputs, targets, keys.fold(key, "fit"), epochs=epochs).model


def equations(env: str, preset: str) -> Callable[[Any, Any, bool], tuple[Any, Any]]:
    """Twenty sparse regressions, as SINDy-RL has them."""

    def fit(given: Any, key: Any, debug: bool) -> tuple[Any, Any]:
        own = config.replace(agents.config("sindy_rl"), agents.presets("sindy_rl")[preset])
        spec = envs.make(env).spec
        world = World(own, given.obs.shape[1], given.action.shape[1], *known_of(own, spec))
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return world, world.fitted(given, rng, [f"x{i}" for i in range(given.obs.shape[1])])

    return fit


def turned(xp: Any, obs: Any, action: Any) -> Any:
    """What follows an observation of the pendulum."""
    new = pendulum.advance(pendulum.PARAMS, xp.stack([xp.arctan2(obs[1], obs[0]), obs[2]]), action)
    return pendulum.observe(xp, pendulum.PARAMS, new)


CASES = {
    "pendulum": Case("rlx:pendulum", 20_000, 200, 50, (1, 20, 50), swinging, ("random actions", lambda s: random(s)), networks,
                     turned),
    "pendulum-few": Case("rlx:pendulum", 2_000, 200, 50, (1, 20, 50), swinging, ("random actions", lambda s: random(s)),
                         networks, turned),
    "cartpole": Case("rlx:cartpole-swingup", 8_000, 1_000, 100, (1, 20, 100), lambda s: random(s), ("pumping energy", pumping),
                     equations("rlx:cartpole-swingup", "swingup")),
    "swimmer": Case("gym:Swimmer-v5", 12_000, 100, 100, (1, 25, 100), lambda s: random(s), ("strokes", strokes),
                    equations("gym:Swimmer-v5", "swimmer")),
}  # fmt: skip


def judge(given: Any, key: Any, debug: bool) -> adversary.Learned:
    n, m = given.obs.shape[1], given.action.shape[1]
    game = replace(GAME, steps=200, snap_every=50, generator=(16,)) if debug else GAME
    blank = scorer.blank(keys.fold(key, "scorer"), n, m, 4 if debug else 20, (16,) if debug else (64, 64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gap is a result here
        return adversary.learn(blank, given.obs, given.action, given.new, keys.fold(key, "game"), game)


def ways(model: Any, params: Any, own: Any, arrive: Any = None) -> dict[str, tuple[Any, Any]]:
    """What predicts under each setting, and its params."""
    params_of = lambda s, temperature=TEMPERATURE: {
        "model": params,
        "scorer": s,
        "r_min": R_MIN,
        "filter_temperature": temperature,
    }
    found = {"as it is": (filtered(model, by_reward, "random", DRAWS), params_of(own))}
    if not isinstance(model, EnsembleDynamics):  # which is any member by itself
        found["any member"] = (filtered(model, by_reward, "softmax", DRAWS), params_of(own, jnp.inf))
    found |= {pick: (filtered(model, by_reward, pick, DRAWS), params_of(own)) for pick in ("softmax", "argmax")}
    if isinstance(model, EnsembleDynamics):
        found["likelihood"] = (filtered(model, by_likelihood, "argmax", DRAWS), params_of(params) | {"r_min": -jnp.inf})
    if arrive is not None:
        found["nearest to the truth"] = (
            filtered(model, by_truth(arrive), "argmax", DRAWS),
            params_of(()) | {"r_min": -jnp.inf},
        )
    return found


@functools.partial(jax.jit, static_argnames=("model",))
def replayed(model: Any, params: Any, obs: Any, action: Any, size: Any, key: Any) -> tuple[Any, Any]:
    """Errors, at most 100, and whether the model would have stopped there [N, H], of windows [N, H + 1, n]."""

    def window(obs: Any, action: Any, key: Any) -> Any:
        begin, key = jax.random.split(key)
        episode = model.begin(params, begin)

        def step(at: Any, given: Any) -> Any:
            new, action, key = given
            found = model.predict(params, episode, at, action, key)
            off = jnp.sqrt((((found.obs - new) / size) ** 2).mean())
            fine = jnp.isfinite(found.obs).all()
            return jnp.where(fine, found.obs, at), (jnp.where(fine, jnp.minimum(off, 100.0), 100.0), found.stopped)

        return jax.lax.scan(step, obs[0], (obs[1:], action, jax.random.split(key, len(action))))[1]

    return jax.vmap(window)(obs, action, jax.random.split(key, len(obs)))


def along(name: str, seed: int, debug: bool) -> dict[str, np.ndarray]:
    """The filter on one case: the last gap, and by "trial/setting" [3, H]: errors, the share of windows that have not stopped,
    and the errors of these."""
    case, key = CASES[name], keys.root(seed)
    env = envs.make(case.env, time_limit=case.episode)
    steps, count = (800, 20) if debug else (case.steps, WINDOWS)
    given = transitions(collect(case.data(env.spec), env, steps, 8, keys.fold(key, "data")))
    model, params = case.fit(given, key, debug)
    learned = judge(given, key, debug)
    found = {"gap": learned.gap[-1]}
    size = jnp.asarray(np.maximum(given.obs.std(0), 1e-8), jnp.float32)
    for trial, behaviour in {"as the data": case.data, case.other[0]: case.other[1]}.items():
        new = collect(behaviour(env.spec), env, max(steps // 4, 8 * (case.horizon + 1)), 8, keys.fold(key, "new", trial))
        obs, action = windows(new, case.horizon, count, keys.fold(key, "windows"))
        for setting, (predicts, told_) in ways(model, params, learned.scorer, case.arrive).items():
            off, stopped = (np.asarray(x) for x in replayed(predicts, told_, obs, action, size, keys.fold(key, "go")))
            alive = ~np.logical_or.accumulate(stopped, 1)
            held = np.where(alive.any(0), (off * alive).sum(0) / np.maximum(alive.sum(0), 1), np.nan)
            found[f"{trial}/{setting}"] = np.stack([off.mean(0), alive.mean(0), held])
    return found


def table(case: Case, found: list[dict[str, np.ndarray]], path: Path) -> dict[str, Any]:
    """What the seeds come to; drawn to ``path``."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    out: dict[str, Any] = {"env": case.env, "gap": of_seeds(np.array([f["gap"] for f in found]))}
    names = ("error", "not stopped", "error where not stopped")
    for ax, trial in zip(axes, ("as the data", case.other[0]), strict=True):
        out[trial] = {}
        for place in [k for k in found[0] if k.startswith(f"{trial}/")]:
            setting = place.split("/")[1]
            values = np.array([f[place] for f in found])
            at = {h: dict(zip(names, (of_seeds(values[:, i, h - 1]) for i in range(3)), strict=True)) for h in case.at}
            out[trial][setting] = {f"step {h}": v for h, v in at.items()}
            ax.plot(np.arange(1, case.horizon + 1), values[:, 0].mean(0), label=setting)
        ax.set(title=trial, xlabel="steps in the model", ylabel="error, standard deviations")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*CASES], action="append", help="only these")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/morec_models"), help="of the seeds; those there are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    debug = given.preset == "debug"
    folder = given.run_dir / "debug" if debug else given.run_dir
    for place in (given.out, folder):
        place.mkdir(parents=True, exist_ok=True)
    for part in given.part or CASES:
        found: list[dict[str, np.ndarray]] = []
        for seed in range(2 if debug else given.seeds):
            file, begun = folder / f"{part}-{seed}.npz", time.monotonic()
            if not file.exists():
                np.savez(file, allow_pickle=False, **along(part, seed, debug))  # type: ignore[arg-type]
            with np.load(file, allow_pickle=False) as kept:
                found.append(dict(kept))
            shown = {k: [round(float(v[0][h - 1]), 3) for h in CASES[part].at] for k, v in found[-1].items() if k != "gap"}
            print(
                f"{part} seed {seed}, {time.monotonic() - begun:.0f} s, gap {found[-1]['gap']:.2f}",
                json.dumps(shown),
                flush=True,
            )
            own = {"seeds": len(found), "cores": os.cpu_count(), "jax": jax.__version__}
            told_ = {**own, **table(CASES[part], found, given.out / f"morec-{part}.png")}
            (given.out / f"morec-{part}.json").write_text(json.dumps(told_, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
