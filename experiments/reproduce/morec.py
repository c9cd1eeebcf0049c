"""MOREC's dynamics reward on the thermo-box: which of a model's predictions it picks, what long episodes come to, when the game
that it is learned in tells nothing, and whether a policy is better for it.

    python experiments/reproduce/morec.py                              # all parts, ten seeds: about half an hour on two cores
    python experiments/reproduce/morec.py --part one_step --seeds 3
    python experiments/reproduce/morec.py --part policy --run-dir runs/box
    python experiments/reproduce/morec.py --preset debug --out runs/x  # the same path at toy size

The data are 40 episodes of a noisy controller that holds -2: dense there, thin on the way down from 10, none elsewhere. Seeds
draw data, ensemble and scorer anew. ``results/morec-PART.json`` has what is printed, ``results/morec-PART.png`` shows it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tables import mean_interval

from rlx import envs, keys
from rlx.dynamics import EnsembleDynamics, adversary, bootstrap, ensemble, filtered, scorer
from rlx.dynamics.filtered import by_likelihood, by_reward, by_truth
from rlx.replay import datasets
from rlx.train import logging
from rlx.train.collect import Behaviour, collect
from rlx.types import Step

ENV = "rlx:thermobox"
REGIONS = {"dense in the data": (-2.5, -1.5), "rare": (0.0, 10.0), "unseen, hot": (11.0, 16.0), "unseen, cold": (-10.0, -4.0)}
SETTINGS = ("random elite", "softmax", "argmax", "argmax, last snapshot", "likelihood", "nearest to the truth")
DRAWS, TEMPERATURE, R_MIN = 2, 0.1, 0.6
of_seeds = partial(mean_interval, each="seeds")
GAME = adversary.Game(steps=4_000, snap_every=50, generator=(64, 64))
GAMES = {  # what of the recipe matters
    "default": GAME,
    "generator goes on for 5 steps": replace(GAME, horizon=5),
    "generator is an agent": replace(GAME, generator_by="rl"),
    "generator is an agent, 5 steps": replace(GAME, generator_by="rl", horizon=5),
    "no entropy term": replace(GAME, entropy_coef=0.0),
    "changes as they are": replace(GAME, scale_change=False),
    "batches of 64": replace(GAME, batch=64),
    "a quarter of the steps": replace(GAME, steps=1_000),
}
PARTS = ("one_step", "rollouts", "trap", "games", "policy")


def controller() -> Behaviour:
    """Noisy proportional control of -2."""

    def act(carry: Any, step: Step, key: Any) -> Any:
        power = 0.5 * (step.obs + 2) + 0.347 + 0.3 * jax.random.normal(key, step.obs.shape)
        return 2 * jnp.clip(power, 0, 1) - 1, carry, {}

    return Behaviour(lambda n: (), act)


def rows(seed: int, debug: bool, **env: Any) -> Any:
    made = envs.make(ENV, **env)
    return collect(controller(), made, 400 if debug else 4_000, 4 if debug else 40, keys.root(seed))


# ------------------------------------------------------------------------------------------------------ what is learned


@functools.cache
def fitted(seed: int, debug: bool) -> tuple[Any, tuple[np.ndarray, ...]]:
    """An ensemble of one seed's data, and these: observations, actions, what they came to."""
    episodes = rows(seed, debug)
    obs, action, new, reward = (
        np.concatenate(x) for x in zip(*((e.obs[:-1], e.action[:-1], e.obs[1:], e.reward[1:]) for e in episodes), strict=True)
    )
    key, hidden = keys.root(seed), (16, 16) if debug else (64, 64)
    blank = ensemble.init(keys.fold(key, "model"), 7, (2, *hidden, 2), "silu", gaussian=True, elites=5)
    inputs, targets = np.concatenate([obs, action], 1), np.concatenate([new - obs, reward[:, None]], 1)
    epochs = 3 if debug else 230  # some 3 000 steps
    model = bootstrap.fit(blank, inputs, targets, keys.fold(key, "fit"), epochs=epochs, patience=epochs).model
    return model, (obs, action, new)


@functools.cache
def learn(seed: int, debug: bool, game: adversary.Game = GAME) -> tuple[Any, adversary.Learned | None]:
    """An ensemble and a scorer of one seed's data; None where no discriminator can tell anything."""
    (model, data), key = fitted(seed, debug), keys.root(seed)
    game = replace(game, steps=200, snap_every=50, generator=(16,)) if debug else game
    own = scorer.blank(keys.fold(key, "scorer"), 1, 1, game.steps // game.snap_every, (16,) if debug else (64, 64, 64))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how many snapshots count is a result here
            return model, adversary.learn(own, *data, keys.fold(key, "game"), game)
    except ValueError:
        return model, None


def models(model: Any, learned: adversary.Learned) -> dict[str, tuple[Any, Any]]:
    """What predicts under each setting, and its params."""
    arrive = envs.make(ENV).spec.task.arrive
    assert arrive is not None
    plain = EnsembleDynamics()
    s = learned.scorer
    last = s.__class__(**{**vars(s), "there": jnp.arange(s.count) == int(s.there.sum()) - 1})
    params_of = lambda own: {"model": model, "scorer": own, "r_min": R_MIN, "filter_temperature": TEMPERATURE}
    with_score = lambda score, own, pick: (filtered(plain, score, pick, DRAWS), params_of(own))
    ways: list[tuple[Any, Any]] = [
        (filtered(plain, by_reward, "random", DRAWS), params_of(s)),
        with_score(by_reward, s, "softmax"),
        with_score(by_reward, s, "argmax"),
        with_score(by_reward, last, "argmax"),
        with_score(by_likelihood, model, "argmax"),
        with_score(by_truth(arrive), (), "argmax"),
    ]
    return dict(zip(SETTINGS, ways, strict=True))


def truth(obs: Any, action: Any) -> Any:
    return envs.make(ENV).spec.task.arrive(jnp, obs, action)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------- the parts


def one_step(seeds: int, debug: bool, out: Path, **_: Any) -> dict[str, Any]:
    """Mean absolute error of one step on 2 000 uniform (T, a) of each region, and the share that would stop."""
    error = {r: {s: [] for s in SETTINGS} for r in REGIONS}
    stopped: dict[str, dict[str, list[float]]] = {r: {s: [] for s in SETTINGS[:4]} for r in REGIONS}
    for seed in range(seeds):
        model, learned = learn(seed, debug)
        assert learned is not None
        for region, (low, high) in REGIONS.items():
            k = jax.random.split(keys.fold(keys.root(seed), "region", region), 3)
            obs = jax.random.uniform(k[0], (2_000, 1), minval=low, maxval=high)
            action = jax.random.uniform(k[1], (2_000, 1), minval=-1.0, maxval=1.0)
            for setting, (predicts, params) in models(model, learned).items():
                one = lambda o, a, k, p=predicts, params=params: p.predict(params, (), o, a, k)
                found = jax.jit(jax.vmap(one))(obs, action, jax.random.split(k[2], 2_000))
                error[region][setting].append(float(jnp.abs(found.obs - truth(obs, action)).mean()))
                if setting in stopped[region]:
                    stopped[region][setting].append(float(found.stopped.mean()))
        if seed == 0:
            regions(learned, rows(seed, debug), out / "morec-regions.png")
        print(f"one_step seed {seed}", {r: {s: round(v[-1], 3) for s, v in e.items()} for r, e in error.items()}, flush=True)
    table = {r: {s: of_seeds(np.array(v)) for s, v in e.items()} for r, e in error.items()}
    bars({r: {s: v["mean"] for s, v in t.items()} for r, t in table.items()}, "mean |T' - truth|", out / "morec-one_step.png")
    rule = {
        r: {
            "argmax at most half of random in every seed": bool(
                np.all(np.array(error[r]["argmax"]) <= 0.5 * np.array(error[r]["random elite"]))
            ),
            "history at most the last snapshot alone in every seed": bool(
                np.all(np.array(error[r]["argmax"]) <= np.array(error[r]["argmax, last snapshot"]))
            ),
        }
        for r in ("rare", "unseen, hot")
    }
    return {
        "error": table,
        "stopped": {r: {s: of_seeds(np.array(v)) for s, v in e.items()} for r, e in stopped.items()},
        **rule,
    }


def rollouts(seeds: int, debug: bool, out: Path, **_: Any) -> dict[str, Any]:
    """Mean |T - true| over 60 steps from T = 5, of 100 episodes: random full or no power, and none at all."""
    steps, episodes = 60, 100
    error: dict[str, dict[str, list[np.ndarray]]] = {p: {s: [] for s in SETTINGS} for p in ("bang-bang", "no power")}
    below: dict[str, dict[str, list[float]]] = {p: {s: [] for s in SETTINGS[:3]} for p in error}
    for seed in range(seeds):
        model, learned = learn(seed, debug)
        assert learned is not None
        for policy in error:
            k = jax.random.split(keys.fold(keys.root(seed), "rollouts", policy), 2)
            coin = (
                jax.random.bernoulli(k[0], 0.5, (steps, episodes, 1))
                if policy == "bang-bang"
                else jnp.zeros((steps, episodes, 1))
            )
            for setting, (predicts, params) in models(model, learned).items():

                def step(x: Any, given: Any, p: Any = predicts, params: Any = params) -> Any:
                    t, real = x
                    action, key = given
                    one = lambda obs, action, key: p.predict(params, (), obs, action, key)
                    found = jax.vmap(one)(t, action, jax.random.split(key, episodes))
                    real = truth(real, action)
                    return (found.obs, real), (jnp.abs(found.obs - real).mean(), found.stopped.mean())

                begin = jnp.full((episodes, 1), 5.0)
                given = (2.0 * coin - 1.0, jax.random.split(k[1], steps))
                _, (gone, stop) = jax.jit(lambda b, g, step=step: jax.lax.scan(step, b, g))((begin, begin), given)
                error[policy][setting].append(np.asarray(gone))
                if setting in below[policy]:
                    below[policy][setting].append(float(stop.mean()))
        print(
            f"rollouts seed {seed}",
            {p: {s: round(float(v[-1].mean()), 2) for s, v in e.items()} for p, e in error.items()},
            flush=True,
        )
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for ax, (policy, by) in zip(axes, error.items(), strict=True):
        for setting, v in by.items():
            ax.plot(np.arange(1, steps + 1), np.mean(v, 0), label=setting)
        ax.set(title=policy, xlabel="steps in the model", ylabel="mean |T - true T|")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(out / "morec-rollouts.png", dpi=120)
    return {
        "error": {p: {s: of_seeds(np.array([x.mean() for x in v])) for s, v in e.items()} for p, e in error.items()},
        "below r_min": {p: {s: of_seeds(np.array(v)) for s, v in e.items()} for p, e in below.items()},
    }


def trap(seeds: int, debug: bool, out: Path, **_: Any) -> dict[str, Any]:
    """The gap of the logits over the game, for slow and fast generators: once the generator has won, nothing can be told."""
    base = GAME
    games = {
        "one step of 1e-4 to five (default)": base,
        "one of 3e-4 to five": replace(base, generator_lr=3e-4),
        "one of 3e-4 to one": replace(base, generator_lr=3e-4, ratio=1),
    }
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    found: dict[str, Any] = {}
    for name, game in games.items():
        learned = [learn(seed, debug, game)[1] for seed in range(min(seeds, 5))]
        gaps = [x.gap for x in learned if x is not None]
        found[name] = {"games without a snapshot that tells": sum(x is None for x in learned)}
        if gaps:
            ends = np.array([g[-1] for g in gaps])
            counts = np.array([(g > base.gap_min).mean() for g in gaps])
            found[name] |= {"gap at the end": of_seeds(ends), "share of snapshots that count": of_seeds(counts)}
            ax.plot(np.arange(1, len(gaps[0]) + 1) * base.snap_every, np.mean(gaps, 0), label=name)
        print("trap", name, found[name], flush=True)
    ax.axhline(base.gap_min, color="grey", lw=0.8, ls=":")
    ax.set(xlabel="steps of the discriminator", ylabel="gap of mean logits", yscale="symlog")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "morec-trap.png", dpi=120)
    return found


def games(seeds: int, debug: bool, out: Path, **_: Any) -> dict[str, Any]:
    """As `one_step`, by the best candidate, under scorers of other games."""
    error: dict[str, dict[str, list[float]]] = {}
    gaps: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, game in GAMES.items():
            model, learned = learn(seed, debug, game)
            assert learned is not None
            gaps.setdefault(name, []).append(float(learned.gap[-1]))
            for region, (low, high) in REGIONS.items():
                k = jax.random.split(keys.fold(keys.root(seed), "region", region), 3)
                obs = jax.random.uniform(k[0], (2_000, 1), minval=low, maxval=high)
                action = jax.random.uniform(k[1], (2_000, 1), minval=-1.0, maxval=1.0)
                predicts, params = models(model, learned)["argmax"]
                one = lambda o, a, k, p=predicts, params=params: p.predict(params, (), o, a, k).obs
                found = jax.jit(jax.vmap(one))(obs, action, jax.random.split(k[2], 2_000))
                off = float(jnp.abs(found - truth(obs, action)).mean())
                error.setdefault(name, {}).setdefault(region, []).append(off)
            last = {r: round(v[-1], 3) for r, v in error[name].items()}
            print(f"games seed {seed} {name}", last, "gap", round(gaps[name][-1], 2), flush=True)
    return {
        "gap at the end": {n: of_seeds(np.array(g)) for n, g in gaps.items()},
        "error": {n: {r: of_seeds(np.array(v)) for r, v in e.items()} for n, e in error.items()},
    }


VARIANTS: dict[str, tuple[str, list[Any]]] = {
    "morec": ("morec", []),
    "morec, argmax": ("morec", ["--agent.selection", "argmax"]),
    "no filter": ("morec", ["--agent.filter", "none"]),
    "no stop": ("morec", ["--agent.r-min", "-inf"]),
    "stop only": ("morec", ["--agent.selection", "random"]),
    "likelihood": ("morec", ["--agent.filter", "likelihood", "--agent.r-min", "-inf"]),
    "nearest to the truth": ("morec", ["--agent.filter", "oracle", "--agent.r-min", "-inf"]),
}


def policy(seeds: int, debug: bool, out: Path, run_dir: Path) -> dict[str, Any]:
    """Returns in the real box, to be held at +5 (rewards are 20 - |T - 5|), of policies learned from data of control at -2."""
    data = run_dir / "box.npz"
    own = {"wanted": 5.0, "shift": 20.0}
    run_dir.mkdir(parents=True, exist_ok=True)
    episodes = rows(0, debug, **own)
    if not data.exists():
        datasets.write(data, episodes, {"env": ENV})
    found: dict[str, Any] = {"behaviour": float(np.mean([e.reward.sum() for e in episodes]))}
    size = ["--preset", "debug" if debug else "small"]
    for name, (agent, settings) in VARIANTS.items():
        folder = run_dir / name.replace(", ", "-").replace(" ", "_")
        if not (folder / "result.json").exists():
            words = [
                "train",
                agent,
                "--env",
                ENV,
                *(w for k, v in own.items() for w in ("--env-option", f"{k}={v}")),
                "--data",
                data,
            ]
            words += [*size, *settings, "--seeds", seeds, "--no-video", "--no-progress", "--run-dir", folder]
            subprocess.run([sys.executable, "-m", "rlx", *map(str, words)], check=True)
        lines = logging.read(folder)
        last = np.atleast_1d([line for line in lines if line["kind"] == "eval"][-1]["return_mean"])
        of = [line for line in lines if "rollout/length" in line][-1]
        mean = lambda k, of=of: round(float(np.mean(of[k])), 3) if k in of else None
        found[name] = {"return": of_seeds(last), "length": mean("rollout/length"), "stopped": mean("rollout/stopped")}
        print("policy", name, found[name], flush=True)
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for i, name in enumerate(VARIANTS):
        value = found[name]["return"]
        ax.bar(i, value["mean"], color="#4477aa")
        if value["interval"]:
            ax.plot([i, i], value["interval"], color="black")
    ax.axhline(found["behaviour"], color="#ee6677", label="the data")
    ax.set_xticks(range(len(VARIANTS)), list(VARIANTS), rotation=15, fontsize=8)
    ax.set_ylabel("return in the real box")
    ax.legend(frameon=False)
    figure.savefig(out / "morec-policy.png", dpi=120)
    return found


# -------------------------------------------------------------------------------------------------------------- pictures


def regions(learned: adversary.Learned, episodes: Any, path: Path) -> None:
    """The dynamics reward of the true next temperature, and of one that is 0.5 off, over (T, a); the data as dots."""
    T, a = jnp.meshgrid(jnp.linspace(-12, 16, 120), jnp.linspace(-1, 1, 60), indexing="ij")
    obs, action = T.reshape(-1, 1), a.reshape(-1, 1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for ax, off in zip(axes, (0.0, 0.5), strict=True):
        r = np.asarray(learned.scorer(obs, action, truth(obs, action) + off)).reshape(T.shape)
        image = ax.pcolormesh(T, a, r, vmin=0.313, vmax=1.313, cmap="viridis")
        ax.set(title="of the true T'" if not off else f"of T' + {off}", xlabel="T")
        for e in episodes[:20]:
            ax.plot(e.obs[:-1, 0], e.action[:-1, 0], ".", color="white", ms=1, alpha=0.5)
    axes[0].set_ylabel("action")
    figure.colorbar(image, ax=axes, label="dynamics reward")
    figure.savefig(path, dpi=120)


def bars(table: dict[str, dict[str, float]], label: str, path: Path) -> None:
    figure, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for i, setting in enumerate(SETTINGS):
        at = np.arange(len(table)) + 0.8 * (i / len(SETTINGS) - 0.5)
        ax.bar(at, [row[setting] for row in table.values()], 0.8 / len(SETTINGS), label=setting)
    ax.set_xticks(np.arange(len(table)), list(table))
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only these")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs/morec"), help="of the policies; what is there is not trained again"
    )
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    debug = given.preset == "debug"
    seeds = 2 if debug else given.seeds
    given.out.mkdir(parents=True, exist_ok=True)
    for part in given.part or PARTS:
        begun = time.monotonic()
        parts = {"one_step": one_step, "rollouts": rollouts, "trap": trap, "games": games, "policy": policy}
        found = parts[part](seeds=seeds, debug=debug, out=given.out, run_dir=given.run_dir)
        own = {
            "env": ENV,
            "seeds": seeds,
            "seconds": round(time.monotonic() - begun),
            "cores": os.cpu_count(),
            "jax": jax.__version__,
        }
        (given.out / f"morec-{part}.json").write_text(json.dumps({**own, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
