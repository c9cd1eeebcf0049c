"""What parts of MoDem-V2 know on `rlx:push-toy`: its reward head, its critics, its clone.

    python experiments/reproduce/modem_parts.py --run-dir runs/modem --seeds 3
    python experiments/reproduce/modem_parts.py --run-dir runs/modem --part cloning
    python experiments/reproduce/modem_parts.py --run-dir runs/modem --preset debug     # the same path at toy size

Folders and results are as `modem_v2.py` has them, whose part push comes first where the critics are asked.

- oversampling: how many of the decisions that succeed the reward head finds soon after the warm-up, with and without a share of
  demonstrations in each batch.
- uncertainty: how far the critics differ where uniform actions lead in the model, over where the policies lead, after the part
  push.
- cloning: what the clone solves, of ten and of forty demonstrations, after 1 000 and 4 000 updates.
"""

from __future__ import annotations

import argparse
import json
import os

import jax
import numpy as np
from modem_v2 import demonstrations, flags, outcome, rlx, settled, write
from tables import mean_interval

from rlx import keys, replay
from rlx.agents.modem_v2.method import Method
from rlx.agents.modem_v2.planning import latent_plans
from rlx.agents.sindy_rl.world import transitions
from rlx.envs import batch, begin, rollout
from rlx.planning import mppi
from rlx.train.policy import Policy, load_members

# ------------------------------------------------------------------------------------------------------------ oversampling


def oversampling(given: argparse.Namespace) -> None:
    """Trained until one episode after the warm-up; the reward head is asked about demonstrations that it did not learn from."""
    task = ("--env", "rlx:push-toy")
    demos = demonstrations(given.run_dir / "demos-push-toy.npz", *task)
    others = replay.load(demonstrations(given.run_dir / "demos-others.npz", *task, "--seed", 1, episodes=20))
    rows, found = transitions(list(others)), {}
    obs, action, success = np.float32(rows.obs), np.float32(rows.action), rows.reward > 0.5
    size, until = ("debug", ()) if given.debug else ("tiny", ("--agent.env-steps", 3_200))
    for name, presets in (("with demonstrations", ()), ("without", ("no_oversampling",))):
        run_dir = given.run_dir / f"oversampling-{name.split()[0]}-{given.seeds}"
        own = [word for preset in (size, *presets) for word in ("--preset", preset)]
        if not (run_dir / "result.json").exists():
            rlx("train", "modem_v2", *task, "--data", demos, *own, *until, "--seeds", given.seeds, "--no-video",
                "--no-progress", "--run-dir", run_dir)  # fmt: skip
        policies = list(load_members(run_dir, "last").values())
        net = Method.of(policies[0].agent.config, policies[0].spec, 1).net
        learned = [p.state.learned["params"] for p in policies]
        said = np.array([net.rewards(x["reward"], net.encode(x["encoder"], obs), action) for x in learned]) > 0.5
        found[name] = {
            "recall": mean_interval(said[:, success].mean(1), 3, "each"),
            "false alarms": mean_interval(said[:, ~success].mean(1), 3, "each"),
        }
        print(name, found[name], flush=True)
    counts = {"successes": int(success.sum()), "others": int((~success).sum())}
    write(given.out / "modem-oversampling.json", {"env": task[1], **counts, "cores": os.cpu_count(), "variants": found})


# ------------------------------------------------------------------------------------------------------------- uncertainty


def uncertainty(given: argparse.Namespace) -> None:
    """Of the row modem_v2 of the part push, from states of its planner's episodes, over the longest horizon."""
    run_dir = given.run_dir / f"push-toy-modem_v2-{given.seeds}"
    if not (run_dir / "result.json").exists():
        raise SystemExit(f"{run_dir} is no finished run: first --part push --only modem_v2 --seeds {given.seeds}.")
    medians = [disagreements(policy, seed) for seed, policy in enumerate(load_members(run_dir, "last").values())]
    ratio = [uniform / own for uniform, own in medians]
    print("uniform over policies", mean_interval(ratio, 3, "each"), flush=True)
    row = {"ratio": mean_interval(ratio, 3, "each"), "medians, uniform and the policies'": medians}
    write(given.out / "modem-uncertainty.json", {"env": "rlx:push-toy", "variants": {"modem_v2": row}})


def disagreements(policy: Policy, seed: int) -> tuple[float, float]:
    """Medians of the deviation of the critics' estimates: after uniform actions, and after the policies'."""
    c, spec, learned = policy.agent.config, policy.spec, policy.state.learned["params"]
    net, key = Method.of(c, spec, 1).net, keys.fold(keys.root(seed), "uncertainty")
    env = batch(policy.problem.envs["train"], 10)
    begun = begin(env, env.params, policy.carry(10), keys.fold(key, "reset"))
    rows = jax.jit(lambda k: rollout(env, env.params, policy.actor("planner"), begun, k, spec.horizon)[1])(key)
    obs = rows.obs.reshape(-1, rows.obs.shape[-1])
    z = net.encode(learned["encoder"], obs[: len(obs) // c.ensemble_size * c.ensemble_size])  # in equal shares
    imagine, found = latent_plans(net, learned, policy.state.hyper["std"]), []
    uniform = lambda z, k: jax.random.uniform(k, (len(z), *spec.action.shape), minval=-1.0, maxval=1.0)
    for act in (uniform, imagine.propose):
        ahead = z
        for k in jax.random.split(keys.fold(key, "ahead"), c.horizon):
            ahead = imagine.step(ahead, act(ahead, k), k)[0]
        found.append(round(float(np.median(mppi.deviation(imagine.value(ahead, key)))), 5))
    return found[0], found[1]


# ----------------------------------------------------------------------------------------------------------------- cloning


def cloning(given: argparse.Namespace) -> None:
    """Nothing but the clone, which is asked with and without its noise."""
    task, found = ("--env", "rlx:push-toy"), {}
    for episodes in (2, 4) if given.debug else (10, 40):
        demos = demonstrations(given.run_dir / f"demos-{episodes}.npz", *task, episodes=episodes)
        for updates in (10, 20) if given.debug else (1_000, 4_000):
            run_dir = given.run_dir / f"cloning-{episodes}-{updates}-{given.seeds}"
            if not (run_dir / "result.json").exists():
                rlx("train", "modem_v2", *task, "--data", demos, "--preset", "debug" if given.debug else "tiny",
                    "--preset", "bc_only", "--agent.bc-updates", updates, "--seeds", given.seeds, "--no-video",
                    "--no-progress", "--run-dir", run_dir)  # fmt: skip
            name, row = f"{episodes} demonstrations, {updates} updates", outcome(run_dir)
            found[name] = {k: row[k] for k in ("bc", "bc_noisy")}
            print(name, json.dumps(found[name]), flush=True)
    write(given.out / "modem-cloning.json", {"env": task[1], "cores": os.cpu_count(), "variants": found})


PARTS = {"oversampling": oversampling, "uncertainty": uncertainty, "cloning": cloning}


def main() -> int:
    parser = flags(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    given = settled(parser)
    for name in given.part or PARTS:
        PARTS[name](given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
