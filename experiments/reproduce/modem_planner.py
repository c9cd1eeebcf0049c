"""MoDem-V2's search in other learned models, on cart-pole swing-up: sparse equations, an ensemble of networks, and that with
its predictions chosen among, by their likelihood or by MOREC's learned reward of transitions.

    python experiments/reproduce/modem_planner.py --run-dir runs/planner                    # five seeds of each; hours
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --only "sparse equations" --seeds 3
    python experiments/reproduce/modem_planner.py --run-dir runs/planner --preset debug     # the same path at toy size

8 000 random decisions, then three times: fit, an episode of planning, whose rows are added. A seed that has its file in the run
folder is not run again; what ``results/modem-planner.json`` holds of other models stays.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from modem_v2 import flags, settled, write
from tables import told

from rlx import envs, keys
from rlx.agents.sindy_rl.world import Rows, transitions
from rlx.dynamics import EnsembleDynamics, SparseDynamics, adversary, bootstrap, ensemble, filtered, scorer
from rlx.dynamics.filtered import by_likelihood, by_reward
from rlx.dynamics.sparse import affine, fit
from rlx.envs import batch, begin, rollout
from rlx.planning import mppi

SEARCH = mppi.Search(horizon=20, samples=128, proposals=0, elites=24, iterations=3)
HOLD = 5  # simulation steps that an action is held, in the world and in the model
SNAPSHOTS = 5  # of the discriminators that say how likely a prediction is real
GAME = adversary.Game(steps=5_000, snap_every=500)
SETTINGS = mppi.Settings(discount=0.99, temperature=2.0, std_min=0.1, std_max=1.0)


def held(imagine: mppi.Imagination) -> mppi.Imagination:
    """Decisions of `HOLD` steps of the model."""

    def step(states: Any, action: Any, key: Any) -> Any:
        def one(states: Any, key: Any) -> Any:
            return imagine.step(states, action, key)

        states, rewards = jax.lax.scan(one, states, jax.random.split(key, HOLD))
        return states, rewards.sum(0)

    return imagine._replace(step=step)


def controller(model: Any) -> Any:
    """(params, carry, step, key) -> an action of the search in ``model``, anew after each `HOLD` steps."""

    def act(params: Any, carry: Any, step: Any, key: Any) -> Any:
        mean, action, t = carry

        def plan() -> Any:
            imagine = held(mppi.imagined(model, params))

            def one(obs: Any, mean: Any, key: Any) -> Any:
                state = mppi.imagined_state(model, params, obs, key)
                return mppi.search(imagine, SEARCH, SETTINGS, state, mean, SEARCH.horizon, 0.0, key)

            found = jax.vmap(one)(step.obs, mean, jax.random.split(key, len(t)))
            return jax.vmap(mppi.shifted)(found.mean), found.action

        mean, action = jax.lax.cond(t[0] % HOLD == 0, plan, lambda: (mean, action))
        return action, (mean, action, t + 1), {}

    return act


def played(env: Any, act: Any, carry: Any) -> Any:
    """(params, key) -> whole episodes of the streams of ``env``, compiled once."""

    @jax.jit
    def whole(params: Any, key: Any) -> Any:
        begun = begin(env, env.params, carry, keys.fold(key, "reset"))
        policy = lambda carry, step, key: act(params, carry, step, key)
        return rollout(env, env.params, policy, begun, key, env.spec.horizon + 1)[1]

    def episodes(params: Any, key: Any) -> Any:
        rows = jax.tree.map(np.asarray, whole(params, key))
        return [jax.tree.map(lambda x, w=w: x[:, w], rows) for w in range(env.n)]

    return episodes


def fitted(kind: str, rows: Rows, seed: int) -> Any:
    """What is planned in, learned from ``rows``."""
    inputs = np.concatenate([rows.obs, rows.action], 1)
    if kind == "sparse equations":
        return fit(affine(5, 1, 2), inputs, rows.new, alpha=5e-5, threshold=7e-3, rng=np.random.default_rng(seed))
    blank = ensemble.init(keys.fold(keys.root(seed), "init"), 5, (6, 64, 64, 6), gaussian=True, elites=4)
    targets = np.concatenate([rows.new - rows.obs, rows.reward[:, None]], 1)
    model = bootstrap.fit(blank, inputs, targets, keys.fold(keys.root(seed), "fit"), epochs=40).model
    if kind == "networks":
        return model
    chosen = {"model": model, "scorer": model, "r_min": np.float32(-np.inf), "filter_temperature": np.float32(1)}
    if kind.endswith("likelihood"):
        return chosen
    unlearned = scorer.blank(keys.fold(keys.root(seed), "scorer"), 5, 1, SNAPSHOTS, (64, 64))
    learned = adversary.learn(unlearned, rows.obs, rows.action, rows.new, keys.fold(keys.root(seed), "game"), GAME)
    print("gap of the logits", learned.gap.round(2).tolist(), flush=True)
    return {**chosen, "scorer": learned.scorer, "filter_temperature": np.float32(0.1)}


def planned(kind: str, model: Any, env: Any, seed: int, first: int, streams: int, rounds: int) -> tuple[list[float], float]:
    """Returns of the episodes while it learned, and the mean of ``streams`` in the end."""
    root = keys.root(seed)
    random = lambda params, carry, step, key: (jax.random.uniform(key, (first, 1), minval=-1.0, maxval=1.0), carry, {})
    blank = lambda n: (jnp.zeros((n, SEARCH.horizon, 1)), jnp.zeros((n, 1)), jnp.zeros(n, jnp.int32))
    episodes, act = played(batch(env, first), random, ())((), keys.fold(root, "random")), controller(model)
    one, returns = played(batch(env, 1), act, blank(1)), []
    for i in range(rounds):
        episodes += one(fitted(kind, transitions(episodes), seed), keys.fold(root, "played", i))
        returns.append(round(float(episodes[-1].reward.sum()), 1))
    last = played(batch(env, streams), act, blank(streams))(fitted(kind, transitions(episodes), seed), keys.fold(root, "end"))
    return returns, round(float(np.mean([e.reward.sum() for e in last])), 1)


def main() -> int:
    given = settled(flags(__doc__))
    env = envs.make("rlx:cartpole-swingup")
    models = {
        "sparse equations": SparseDynamics(env.spec.task.score),
        "networks": EnsembleDynamics(clip=20.0),
        "networks, by likelihood": filtered(EnsembleDynamics(clip=20.0), by_likelihood, draws=1),
        "networks, by a learned reward": filtered(EnsembleDynamics(clip=20.0), by_reward, draws=1),
    }
    sizes = (2, 2, 1) if given.debug else (8, 5, 3)
    for kind in given.only or models:
        ends = []
        for seed in range(given.seeds):
            path = given.run_dir / f"planner-{kind.replace(' ', '-').replace(',', '')}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(planned(kind, models[kind], env, seed, *sizes)))
            returns, end = json.loads(path.read_text())
            ends.append(end)
            print(kind, seed, returns, end, flush=True)
        row = {"return": told(ends, 3), "returns": ends, "steps": (sizes[0] + sizes[2]) * env.spec.horizon}
        write(given.out / "modem-planner.json", {"env": env.name, "search": str(SEARCH), "variants": {kind: row}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
