"""What RePo's latent keeps under a distractor, whether its constraint holds, and what that does for control; beside Dreamer.
And how much of what a distractor costs comes back by adapting the encoder.

    python experiments/reproduce/repo.py --part latent --run-dir runs/repo          # ridge probes of state and background
    python experiments/reproduce/repo.py --part constraint --run-dir runs/repo      # the divergence against its bound
    python experiments/reproduce/repo.py --part seen --run-dir runs/repo            # whether bodies can be told from films
    python experiments/reproduce/repo.py --part control --run-dir runs/repo         # returns without and with distractors
    python experiments/reproduce/repo.py --part adapt --run-dir runs/repo           # returns after each way of adapting
    python experiments/reproduce/repo.py --part control --preset debug --run-dir runs/repo      # the same path at toy size

``latent`` and ``constraint`` learn from 20 000 random decisions of the pendulum before a moving background. ``control`` trains
on one bank of backgrounds and evaluates on another, all seeds as one program; ``--method`` names others too: without a part of
RePo, with another objective, or without a model to imagine in (DBC, DeepMDP). What a file holds of other methods and
backgrounds stays, and more ``--env-steps`` go on from what is there. ``adapt`` trains without a background, then adapts before
one bank and evaluates before another. Pictures are 32 x 32 in grey; with ``--colour`` bodies are in colour before films that
stay grey, as in the paper, and far easier to see (docs/methods/repo.md). What each part found is in
``results/repo-<part>.json`` and ``.png``, in colour ``repo-<part>-colour``, of another ``--env`` with its name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from repo_pictures import interval, picture
from tables import at_random

from rlx import agents, envs, keys, replay
from rlx.agents.repo import PRESETS
from rlx.agents.repo.report import behind, look, played, readable
from rlx.envs.camera.distractors import HELD_OUT, video
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer
from rlx.train import Options, logging, run
from rlx.types import Clock, Members, Problem, Row

# of 16 entries of state three nats would be free of what a small picture says in all
METHODS: dict[str, dict[str, Any]] = {"repo": {}, "dreamer": {**PRESETS["dreamer"], "free_nats": 0.1}}
PARTS_OF: dict[str, dict[str, Any]] = {  # of RePo and Dreamer, one at a time; where --method names them
    **{name: PRESETS[name] for name in ("no_bottleneck", "fixed_beta", "unbalanced", "recon_dual", "barlow")},
    "tia": {**PRESETS["tia"], "free_nats": 0.1},
    "unlimited": {"most_beta": 1e8},  # the multiplier, which `tiny` limits
}
SETTINGS = {name: {**own, "probe.enabled": False} for name, own in {**METHODS, **PARTS_OF}.items()}
FEATURES = ("dbc", "deepmdp")  # soft actor-critic on features, without a model to imagine in
WAYS: dict[str, dict[str, Any]] = {  # of adapting
    "support": {},
    "distribution": {"how": "distribution"},
    "pairs alone": {"how": "none"},
    "no pairs": {"calibration": "none"},
    "random pairs": {"calibrate_by": "random"},
    "by rewards": {"how": "finetune"},
}
KINDS = ("none", "video", "shuffled", "noise")
SIZE = 32
# rewards all over the square, and episodes that end soon after the middle is reached
OPTIONS: dict[str, dict[str, Any]] = {"rlx:point-mass": {"margin": 20.0, "time_limit": 50}}
WATCHED = ("model/kl", "dual/beta", "dual/active", "model/reward_loss")
CLOCK = Clock(*map(jnp.int32, (0, 0, 0)))


def world(name: str, kind: str, repeat: int, held_out: bool = False, colour: bool = False, **more: Any) -> Any:
    block = {"kind": kind, "held_out": held_out}
    look = {"pixels": "sdf", "image": SIZE, "grey": not colour, "distractor": block, **more}
    return envs.make(name, repeat=repeat, **look, **OPTIONS.get(name, {}))


def look_of(given: argparse.Namespace) -> str:
    return "-colour" if given.colour else ""


def stem_of(given: argparse.Namespace) -> Path:
    """Where what a part found is written, without a suffix; of each environment in a file of its own."""
    env = "" if given.env == "rlx:point-mass" else "-" + given.env.replace(":", "-")
    return given.out / f"repo-{given.part}{env}{look_of(given)}{'-debug' if given.preset else ''}"


def kept(given: argparse.Namespace, page: dict[str, Any]) -> dict[str, Any]:
    """What the part's file holds of earlier runs, where they were of the same ``page``."""
    path = stem_of(given).with_suffix(".json")
    old = json.loads(path.read_text()) if path.exists() else {}
    return old["found"] if {k: old.get(k) for k in page} == page else {}


def agent_of(env: Any, given: argparse.Namespace, **settings: Any) -> Any:
    preset = PRESETS["debug" if given.preset == "debug" else "tiny"]
    return agents.make("repo", None, Problem({"train": env}), **{**preset, **settings})


# --------------------------------------------------------------------------------------------------------- from stored rows


def random_rows(agent: Any, env: Any, steps: int, streams: int, seed: int) -> Row:
    """Rows [steps, streams] of uniform actions."""
    vec, key = envs.batch(env, streams), keys.root(seed)
    blank = jax.jit(agent.init)(key, {k: jnp.float32(v) for k, v in agent.hyper.items()})
    act = lambda carry, step, k: agent.act(blank, CLOCK, carry, step, k, "random")

    @jax.jit
    def play(key: Any) -> Row:
        return envs.rollout(vec, env.params, act, envs.begin(vec, env.params, agent.carry(blank, streams), key), key, steps)[1]

    return play(key)


def stored(rows: Row) -> Any:
    ring = replay.ring(len(rows.reward) + 1, rows.reward.shape[1])
    blank = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), rows)
    return ring.add(ring.init(blank), rows)


def learned(agent: Any, data: Any, updates: int, hypers: dict[str, np.ndarray], seed: int = 0, every: int = 50) -> tuple:
    """(states [M], metrics {name: [updates / every, M]}) after updates on ``data``, a member for each value of ``hypers``."""
    [phase] = [p for p in agent.stages[-1].phases if hasattr(p, "update")]
    count = max((len(v) for v in hypers.values()), default=1)
    whole = {k: jnp.full(count, v, jnp.float32) for k, v in agent.hyper.items()}
    whole |= {k: jnp.float32(v) for k, v in hypers.items()}
    state = jax.jit(jax.vmap(agent.init, (None, 0)))(keys.root(seed), whole)

    @jax.jit
    def block(state: Any, data: Any, number: Any) -> Any:
        def one(state: Any, i: Any) -> Any:
            draw, learn = jax.random.split(keys.fold(keys.root(seed), number * every + i))
            batch = phase.sample(agent.hyper, CLOCK, {"replay": data}, draw)
            state, out = jax.vmap(lambda s: phase.update(s, CLOCK, batch, learn))(state)
            return state, out.metrics

        state, metrics = jax.lax.scan(one, state, jnp.arange(every))
        return state, jax.tree.map(lambda x: x.astype(jnp.float32).mean(0), metrics)

    lines = []
    for number in range(max(1, updates // every)):
        state, metrics = block(state, data, number)
        lines.append(jax.tree.map(np.asarray, metrics))
        print({k: np.round(lines[-1][k], 3).tolist() for k in ("model/kl", "dual/beta", "model/reward_loss")}, flush=True)
    return state, {k: np.stack([line[k] for line in lines]) for k in lines[0]}


def sizes(given: argparse.Namespace) -> tuple[int, int, int]:
    """Rows of data, rows to look at, both per stream, and updates."""
    return (30, 12, 50) if given.preset == "debug" else (given.rows // 20, 200, given.updates)


def coordinates(state: np.ndarray) -> dict[str, np.ndarray]:
    """Of states of the pendulum what goes by the side that it is on, and what does not: in a mirror, where sine and rate have
    the other sign, its rewards are the same, now and later."""
    cosine, sine, rate = np.split(state, 3, -1)
    return {"cosine": cosine, "rate^2": rate**2, "sine rate": sine * rate, "sine": sine, "rate": rate}


def latent(given: argparse.Namespace) -> dict[str, Any]:
    """R^2 of ridge regressions on the posterior's means, and on those and the belief (all features): of the pendulum's state,
    the mean and by `coordinates`, and of where the background's blobs are."""
    rows, asked, updates = sizes(given)
    page = {"env": "rlx:pendulum", "rows": 20 * rows, "updates": updates}
    found = kept(given, page)
    for kind in given.kind or ("video", "none"):
        env = world("rlx:pendulum", kind, 4, colour=given.colour)
        for name in given.method or METHODS:
            agent = agent_of(env, given, **SETTINGS[name])
            data = stored(random_rows(agent, env, rows, 20, 0))
            states, metrics = learned(agent, data, updates, {})
            state = jax.tree.map(lambda x: x[0], states)
            fresh = jax.tree.map(np.asarray, random_rows(agent, env, asked, 20, 1))
            latents = look(agent.report.method, state, fresh)
            line = {
                "kl": float(metrics["model/kl"][-5:].mean()),
                "reward_loss": float(metrics["model/reward_loss"][-5:].mean()),
            }
            targets = {"state": fresh.obs["state"][1:], **coordinates(fresh.obs["state"][1:])}
            if kind == "video":
                bank = np.asarray(env.params["bank"])
                turn = 2 * np.pi * video(0, len(bank), (SIZE, SIZE)).blobs[behind(bank, fresh.obs["pixels"][1:])] / SIZE
                places = np.concatenate([np.sin(turn), np.cos(turn)], -1)  # they go round the edges
                targets["blobs"] = places.reshape(*places.shape[:2], -1)
            for target, values in targets.items():
                line[target] = readable(latents.posterior, values)
                line[f"{target} (features)"] = readable(latents.features, values)
            found[f"{name}, {kind}"] = line
            print(name, kind, line, flush=True)
    return {**page, "found": dict(sorted(found.items()))}


def constraint(given: argparse.Namespace) -> dict[str, Any]:
    """The divergence over the last fifth of the updates, for several bounds, and without a bound; with its gradient split
    between prior and posterior, as RePo does, and not split."""
    bounds = np.array([0.5, 1.5, 4.0, 100.0])
    rows, _, updates = sizes(given)
    page = {"env": "rlx:pendulum, video", "rows": 20 * rows, "updates": updates}
    found, env = kept(given, page), world("rlx:pendulum", "video", 4, colour=given.colour)
    for name in given.method or ("repo", "unbalanced"):
        agent = agent_of(env, given, **{**PARTS_OF["unlimited"], **SETTINGS[name]})
        data = stored(random_rows(agent, env, rows, 20, 0))
        metrics = learned(agent, data, updates, {"target_kl": bounds})[1]
        last = {k: x[-max(1, len(x) // 5) :].mean(0).tolist() for k, x in metrics.items() if k in WATCHED}
        found[name] = {"target_kl": bounds.tolist(), **last}
    return {**page, "found": found}


def supervised(given: argparse.Namespace) -> dict[str, Any]:
    """R^2 of the body's place in unseen pictures, before films that were not trained with, of the encoder and a head that are
    told places: whether there is something to be seen at all, without rewards, bottleneck and model."""
    found: dict[str, Any] = {}
    rows, asked, _ = sizes(given)
    updates = 20 if given.preset == "debug" else 1_000
    for name, (kind, colour) in {"grey": ("none", 0), "grey, video": ("video", 0), "colour, video": ("video", 1)}.items():
        train, other = (world(given.env, kind, given.repeat, held_out, colour=bool(colour)) for held_out in (False, True))
        agent = agent_of(train, given, **{"probe.enabled": False})
        net, head = agent.report.method.net, MLP((64, 2), "elu", bias_init="fan_in")
        flat = lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:])
        obs, new = (random_rows(agent, env, n, 20, i).obs for i, (env, n) in enumerate(((train, rows), (other, asked))))
        params = {
            "encoder": net.init(keys.root(0))["encoder"],
            "head": head.init(keys.root(1), jnp.zeros(net.config.embedding)),
        }
        read = lambda p, x, head=head, net=net: head.apply(p["head"], net.embed(p, x))
        x, y = flat(obs["pixels"]), flat(obs["state"])[:, :2]

        @jax.jit
        def learn(params: Any, x: Any, y: Any, read: Any = read) -> Any:
            chain = optimizer(1e-3)

            def one(carry: Any, key: Any) -> Any:
                at = jax.random.randint(key, (304,), 0, len(x))
                slopes = jax.grad(lambda p: ((read(p, x[at]) - y[at]) ** 2).mean())(carry[0])
                return apply_gradients(chain, carry[0], slopes, carry[1]), None

            return jax.lax.scan(one, (params, chain.init(params)), jax.random.split(keys.root(2), updates))[0][0]

        wanted = flat(new["state"])[:, :2]
        left = ((read(learn(params, x, y), flat(new["pixels"])) - wanted) ** 2).mean(0)
        found[name] = {"place": float((1 - left / wanted.var(0)).mean())}
        print(name, found[name], flush=True)
    return {"env": given.env, "repeat": given.repeat, "pictures": 20 * rows, "updates": updates, "found": found}


# ------------------------------------------------------------------------------------------------------------------ control


def learner(name: str, kind: str, given: argparse.Namespace) -> tuple[Any, Problem]:
    """The method ``name``, and where it learns and is evaluated; banks there are other ones."""
    alone = {"state": False} if name in FEATURES else {}  # the picture is then all that is observed
    train, other = (world(given.env, kind, given.repeat, held_out, given.colour, **alone) for held_out in (False, True))
    problem, debug = Problem({"train": train, "eval": other}), given.preset == "debug"
    steps = {} if debug else {"env_steps": given.env_steps, "eval_every": 5_000}
    if name in FEATURES:
        method, own = "dbc", agents.presets("dbc").get(name, {})
    else:
        method, own = "repo", SETTINGS[name]
    size = agents.presets(method)["debug" if debug else "tiny"]
    return agents.make(method, None, problem, **{**size, **own, **steps}), problem


def control(given: argparse.Namespace) -> dict[str, Any]:
    """Returns of the last evaluation, [seeds], of each method before each kind of background."""
    page = {"env": given.env, "repeat": given.repeat, "held_out_seed": HELD_OUT}
    found = kept(given, page)
    for kind in given.kind or KINDS:
        for name in given.method or METHODS:
            agent, problem = learner(name, kind, given)
            folder = given.run_dir / f"{given.env.removeprefix('rlx:')}-{kind}-{name}-{given.seeds}{look_of(given)}"
            seeds = jnp.stack([keys.root(seed) for seed in range(given.seeds)])
            run(agent, problem, Members(seeds), folder, options=Options(progress=False))
            lines = logging.read(folder)
            curve = [line for line in lines if line["kind"] == "eval"]
            last = np.atleast_1d(curve[-1]["return_mean"])
            line = {"returns": last.tolist(), "mean": float(last.mean()), "interval": interval(last)}
            line["model"] = late([line for line in lines if line["kind"] == "train" and "model/reward_loss" in line])
            line["curve"] = [[e["env_steps"], np.atleast_1d(e["return_mean"]).tolist()] for e in curve]
            found[f"{name}, {kind}"] = line
            print(name, kind, line, flush=True)
    acted = at_random(world(given.env, "none", given.repeat, colour=given.colour), 10 * given.seeds)
    found["random actions"] = {"mean": float(acted.mean()), "interval": interval(acted)}
    return {**page, "found": dict(sorted(found.items()))}


def late(lines: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each seed what the model was like over the last fifth of the updates."""
    names = [k for k in ("model/kl", "model/reward_loss", "dual/beta") if k in lines[-1]]
    fifth = lines[-max(1, len(lines) // 5) :]
    return {k: np.mean([np.atleast_1d(line[k]) for line in fifth], 0).round(3).tolist() for k in names}


# --------------------------------------------------------------------------------------------------------------- adaptation


def evaluated(folder: Path, stage: str | None = None) -> float | None:
    """The last evaluation's mean return, in ``stage``."""
    lines = [x for x in logging.read(folder) if x["kind"] == "eval" and stage in (None, x["stage"])]
    return float(lines[-1]["return_mean"]) if lines else None


def adapt(given: argparse.Namespace) -> dict[str, Any]:
    """Returns [seeds] without a background; before one, as the agent was ("as it was"), after each of `WAYS`, and after
    learning on as RePo; and of the drop the share that came back, in means."""
    clean = world(given.env, "none", given.repeat, paired=True, colour=given.colour)
    film, other = (
        world(given.env, "video", given.repeat, held_out, paired=True, colour=given.colour) for held_out in (False, True)
    )
    preset, quiet = "debug" if given.preset == "debug" else "tiny", Options(progress=False)
    networks = {**PRESETS[preset], "probe.enabled": False}
    steps = {} if given.preset == "debug" else {"env_steps": given.env_steps, "eval_every": given.env_steps}
    few = {**agents.presets("repo_adapt")[preset], "repo.probe.enabled": False}
    returns: dict[str, list[float | None]] = {}

    def note(name: str, value: float | None, seed: int) -> None:
        returns.setdefault(name, []).append(value)
        print(seed, name, value, flush=True)

    for seed in range(given.seeds):
        folder = given.run_dir / f"adapt-{given.env.removeprefix('rlx:')}-{seed}{look_of(given)}"
        problem = Problem({"train": clean})
        source = agents.make("repo", None, problem, **{**networks, **steps})
        learned = run(source, problem, keys.root(seed), folder / "clean", options=quiet).agent
        note("clean", evaluated(folder / "clean"), seed)
        data = stored(played(source, clean, learned, 20, sizes(given)[0], seed))
        for name, own in WAYS.items():
            problem, place = Problem({"train": film, "eval": other}, {"data": data}), folder / name.replace(" ", "-")
            agent = agents.make("repo_adapt", None, problem, **{**few, "eval_every": few["env_steps"], **own})
            after = run(agent, problem, keys.root(seed), place, options=quiet, init_from=learned).agent.learned["params"]
            moved = [
                k for k, v in after.items() if not jax.tree.all(jax.tree.map(np.array_equal, v, learned.learned["params"][k]))
            ]
            if moved != ["encoder"]:
                raise ValueError(f"{place} holds the run of another agent than {folder / 'clean'}: adapting moved {moved}.")
            if name == "support":
                note("as it was", evaluated(place, "calibrate"), seed)
            note(name, evaluated(place, "adapt"), seed)
        problem, more = Problem({"train": film, "eval": other}), few["env_steps"] + PRESETS[preset]["prefill"]
        agent = agents.make("repo", None, problem, **{**networks, "env_steps": more, "eval_every": more})
        run(agent, problem, keys.root(seed), folder / "on", options=quiet, init_from=learned)
        note("RePo goes on", evaluated(folder / "on"), seed)
    found = {k: {"returns": v, "mean": float(np.mean(v)), "interval": interval(np.array(v))} for k, v in returns.items()}
    drop = found["clean"]["mean"] - found["as it was"]["mean"]
    for line in found.values():
        line["recovered"] = (line["mean"] - found["as it was"]["mean"]) / drop if drop else None
    return {"env": given.env, "repeat": given.repeat, "seeds": given.seeds, "found": found}


PARTS = {"latent": latent, "constraint": constraint, "seen": supervised, "control": control, "adapt": adapt}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000, help="latent, constraint, adapt: decisions of data")
    parser.add_argument("--updates", type=int, default=3_000, help="latent, constraint")
    parser.add_argument("--env", default="rlx:point-mass", help="seen, control, adapt")
    parser.add_argument("--repeat", type=int, default=4, help="seen, control, adapt: simulation steps of a decision")
    parser.add_argument("--kind", choices=KINDS, action="append", help="latent, control: only these backgrounds")
    methods = [*SETTINGS, *FEATURES]
    parser.add_argument("--method", choices=methods, action="append", help="latent, constraint, control: only these")
    parser.add_argument("--env-steps", type=int, default=30_000, help="control, adapt: of a run")
    parser.add_argument("--seeds", type=int, default=5, help="control, adapt")
    parser.add_argument("--colour", action="store_true", help="bodies in colour; films stay grey")
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    if given.part != "control" and set(given.method or ()) & set(FEATURES):
        parser.error(f"--part {given.part}: {' and '.join(FEATURES)} have no latent; take one of {', '.join(methods[:-2])}.")
    page = PARTS[given.part](given)
    given.out.mkdir(parents=True, exist_ok=True)
    stem = stem_of(given)
    stem.with_suffix(".json").write_text(json.dumps(page, indent=1) + "\n")
    picture(given.part, page, stem.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
