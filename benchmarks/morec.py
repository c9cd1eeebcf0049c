"""MOREC's three costs against the same written eagerly in PyTorch (`morec_peer.py`), and against the machine's matrix products.

    python benchmarks/morec.py --peer PYTHON             # an interpreter that has torch; without: rlx alone
    python benchmarks/morec.py --part rollout --rounds 3
    python benchmarks/morec.py --preset debug            # the same path at toy size

Shapes are HalfCheetah's (17 numbers, 6 actions), sizes the paper's code's. "fit": one pass of 7 members of 4 x 200 over 100 000
rows, of up to 200 passes. "rollout": 2 000 filtered steps at once, ten candidates each scored by 40 discriminators of
128-256-256; with what candidates share computed once, and without. "scorer": the same two ways at the size for few cores (10
discriminators of 64-64-64, 500 states of Hopper's shapes). "updates": SAC on 12 real and 244 imagined transitions, two layers
of 256; and four seeds as one program. Rounds go by turns, times are medians, of the clock and of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import Peer, Work, by_turns, nothing_to_learn, product_rate

from rlx import agents, keys
from rlx.agents import morec
from rlx.dynamics import EnsembleDynamics, as_env, bootstrap, ensemble, filtered, penalised, scorer
from rlx.dynamics.filtered import by_reward
from rlx.envs import batch, begin, rollout
from rlx.nn.mlp import MLP, stack
from rlx.train import state as states
from rlx.train.host import device_state
from rlx.train.placement import Placement
from rlx.train.population import members
from rlx.train.program import Program
from rlx.types import Problem, Step

OBS, ACTIONS, LENGTH = 17, 6, 1_000
PARTS = ("fit", "rollout", "scorer", "updates")


def rows(n: int) -> dict[str, np.ndarray]:
    """Transitions in which there is little to learn."""
    rng = np.random.default_rng(0)
    obs, action = rng.standard_normal((n, OBS), np.float32), np.tanh(rng.standard_normal((n, ACTIONS), np.float32))
    return {"inputs": np.concatenate([obs, action], 1), "targets": 0.1 * rng.standard_normal((n, OBS + 1), np.float32)}


def timed(contestants: dict[str, Work], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each, by the clock and of the processor."""
    middle = by_turns(contestants, rounds)
    return {name: {who: round(v[k], 4) for who, v in middle.items()} for k, name in enumerate(("s", "cpu_s"))}


def report(found: dict[str, dict[str, float]], gflop: float) -> dict[str, Any]:
    """With ratios to rlx, and the share of the rate of products that rlx reaches."""
    mine = {k: found[k]["rlx"] for k in found}
    ratios = {f"{name} / rlx{suffix}": round(found[k][name] / mine[k], 2)
              for k, suffix in (("s", ""), ("cpu_s", ", processor")) for name in found[k] if name != "rlx"}  # fmt: skip
    rate = product_rate(1_024, 1_024)() / 1e9
    return {**found, **ratios, "GFLOP": round(gflop, 2), "products, GFLOP/s": round(rate, 1),
            "share of products": round(gflop / rate / mine["s"], 3)}  # fmt: skip


def weights(*widths: int) -> int:
    return sum(a * b for a, b in zip(widths, widths[1:], strict=False))


# --------------------------------------------------------------------------------------------------------------- the parts


def fit(args: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """One pass, the look at what is held out included."""
    n, hidden = (2_000, (16,)) if args.debug else (100_000, (200,) * 4)
    data, sizes = rows(n), (OBS + ACTIONS, *hidden, OBS + 1)
    model = ensemble.init(jax.random.key(0), 7, sizes, "silu", gaussian=True, elites=5)

    def once() -> None:
        jax.block_until_ready(bootstrap.fit(model, data["inputs"], data["targets"], jax.random.key(1), epochs=1, patience=1))

    work: dict[str, Work] = {"rlx": once}
    if peer:
        work["torch"] = lambda: peer.ask(what="fit", rows=n, hidden=hidden)
    passes = 3 * 2 * 7 * (n - 1_000 if n > 5_000 else 0.8 * n) * weights(*sizes[:-1], 2 * sizes[-1]) / 1e9
    found = report(timed(work, args.rounds), passes)
    return {**found, "200 passes, minutes": {k: round(200 * v / 60, 1) for k, v in found["s"].items()}}


def naive(own: Any, obs: Any, action: Any, new: Any) -> Any:
    """The dynamics reward, each candidate read whole."""
    wide = lambda x: jnp.broadcast_to(x, (*new.shape[:-1], x.shape[-1]))
    logits = stack(own.network, own.count).apply(own.params, own.inputs(wide(obs), wide(action), new))[..., 0]
    return scorer.reward(own.probabilities(logits), own.there)


def rollouts(args: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """Filtered steps, the policy's included."""
    debug, steps = args.debug, 2
    streams, snapshots, widths, hidden = (20, 3, (8, 8), (16,)) if debug else (2_000, 40, (128, 256, 256), (200,) * 4)
    model = ensemble.init(jax.random.key(0), 7, (OBS + ACTIONS, *hidden, OBS + 1), "silu", gaussian=True, elites=5)
    own = scorer.blank(jax.random.key(1), OBS, ACTIONS, snapshots, widths)
    actor = MLP((*((256, 256) if not debug else (16, 16)), 2 * ACTIONS))
    acts = actor.init(jax.random.key(2), jnp.zeros(OBS))

    def made(score: Any) -> Work:
        inner = {"model": model, "scorer": own, "r_min": jnp.float32(-jnp.inf), "filter_temperature": jnp.float32(0.1)}
        env = as_env(
            penalised(filtered(EnsembleDynamics(25.0), score, "softmax", 2)),
            {"model": inner, "uncertainty_penalty": jnp.float32(0.5)},
            jnp.asarray(rows(1_000)["inputs"][:, :OBS]), actions=ACTIONS, horizon=100, stop="terminate",
        )  # fmt: skip
        vec = batch(env, streams, ends="stop")

        def act(carry: Any, step: Step, key: Any) -> Any:
            mean, log_std = jnp.split(actor.apply(acts, step.obs), 2, -1)
            return jnp.tanh(mean + jnp.exp(jnp.clip(log_std, -5, 2)) * jax.random.normal(key, mean.shape)), carry, {}

        go = jax.jit(lambda params, key: rollout(vec, params, act, begin(vec, params, (), key), key, steps)[1].reward)

        def once() -> None:
            jax.block_until_ready(go(env.params, jax.random.key(3)))

        return once

    work: dict[str, Work] = {"rlx": made(by_reward), "rlx, nothing shared": made(naive)}
    if peer:
        work["torch"] = lambda: peer.ask(
            what="rollout",
            streams=streams,
            steps=steps,
            snapshots=snapshots,
            widths=widths,
            hidden=hidden,
            actor=actor.widths[:-1],
        )
    shared = weights(2 * OBS + ACTIONS, *widths, 1) * 10 * snapshots
    each = shared + 7 * weights(OBS + ACTIONS, *hidden, 2 * OBS + 2) + weights(OBS, *actor.widths)
    found = report(timed(work, args.rounds), 2 * each * streams * steps / 1e9)
    return {**found, "rows/s": {k: round(streams * steps / v) for k, v in found["s"].items()}}


def scores(args: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """The dynamics reward by itself, at the size for few cores."""
    n, m, candidates, states_ = 11, 3, 10, 20 if args.debug else 500
    own, rng = scorer.blank(jax.random.key(0), n, m, 10, (64, 64, 64)), np.random.default_rng(0)
    obs, action, new = (jnp.asarray(rng.standard_normal(s), jnp.float32)
                        for s in ((states_, 1, n), (states_, 1, m), (states_, candidates, n)))  # fmt: skip
    repeat, work = 10, {}
    whole = lambda own, *given: own(*given)
    for name, score in (("rlx", whole), ("rlx, nothing shared", naive)):
        go = jax.jit(lambda own, new, score=score: score(own, obs, action, new))

        def many(go: Any = go) -> None:
            for _ in range(repeat):
                found = go(own, new)
            jax.block_until_ready(found)

        work[name] = many
    if peer:
        work["torch"] = lambda: peer.ask(what="scorer", obs=n, action=m, states=states_, candidates=candidates, repeat=repeat)
    each = weights(2 * n + m, 64, 64, 64, 1) * 10 * candidates
    found = report(timed(work, args.rounds), 2 * each * states_ * repeat / 1e9)
    return {**found, "transitions/s": {k: round(states_ * candidates * repeat / v) for k, v in found["s"].items()}}


def ours(agent: Any, given: Problem, count: int | None) -> Work:
    """A block of updates of one run, or of each of ``count`` members, after one imagined rollout."""
    who: Any = keys.root(0) if count is None else members([(seed, {}) for seed in range(count)])
    placement = None if count is None else Placement.of(range(count), count)
    run = states.start(agent, given, who, None, placement)
    program = Program(agent, given, 1, states.frozen_data(given), placement)
    states.enter(program, run)
    now = [program.phases((0,), device_state(program, run), run.key, 0)]

    def updates() -> None:
        now[0] = program.phases((1,), now[0], run.key, 0)
        jax.block_until_ready(now[0])

    return updates


def updates(args: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """A block of SAC on mixtures, sampling included, as a share of 1 000 updates."""
    n = 5 if args.debug else 100
    given, members_ = nothing_to_learn(OBS, ACTIONS, LENGTH, 2 if args.debug else 100), 4
    tiny: dict[str, Any] = {"dynamics.hidden": (8,), "starts": 200, "horizon": 5, "block": n, "updates": 1_000_000}
    agent = agents.make("morec", None, given, **{**tiny, **morec.PRESETS["unfiltered"]})
    work: dict[str, Work] = {"rlx": ours(agent, given, None), "four seeds": ours(agent, given, members_)}
    if peer:
        work["torch"] = lambda: peer.ask(what="updates", count=n, batch=256, hidden=[256, 256], rows=100_000)
    actor, critics = weights(OBS, 256, 256, 2 * ACTIONS), 2 * weights(OBS + ACTIONS, 256, 256, 1)
    found = report(timed(work, args.rounds), 2 * 256 * n * (4 * actor + 6 * critics) / 1e9)
    seconds = found["s"]
    more = {"1 000 updates, s": {k: round(1_000 / n * v, 2) for k, v in seconds.items()}}
    gains = {f"four runs / four seeds{s}": round(4 * found[k]["rlx"] / found[k]["four seeds"], 2)
             for k, s in (("s", ""), ("cpu_s", ", processor"))}  # fmt: skip
    return {**found, **more, **gains}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only these")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", choices=("debug",))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "morec.json")
    args = parser.parse_args()
    args.debug = args.preset == "debug"
    threads = len(os.sched_getaffinity(0))
    peer = Peer(args.peer, "morec_peer.py", str(threads)) if args.peer else None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.out.read_text()) if args.out.exists() and not args.debug else {}
    for part in args.part or PARTS:
        load = round(os.getloadavg()[0], 2)
        own = {"fit": fit, "rollout": rollouts, "scorer": scores, "updates": updates}[part](args, peer)
        kept[part] = {**own, "rounds": args.rounds, "cores": threads, "load": load}
        kept |= {"jax": jax.__version__, **(peer.versions if peer else {})}
        print(part, json.dumps(kept[part], indent=1), file=sys.stderr, flush=True)
        if not args.debug:
            args.out.write_text(json.dumps(kept, indent=1) + "\n")
    print("RESULT " + json.dumps(kept))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
