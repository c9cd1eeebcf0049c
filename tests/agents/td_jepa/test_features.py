"""The loss of each method against loops in float64 numpy. States are numbers, features rows of tables."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.td_jepa.config import Config
from rlx.agents.td_jepa.features import METHODS, Batch, Given

RNG = np.random.default_rng(0)
B, S, D, HEADS = 4, 9, 3, 2
HYPER = {"pessimism": 0.25, "lambda_psi": 0.3, "discount": 0.9, "expectile": 0.8}
pytestmark = pytest.mark.usefixtures("all_bits")

OWN, TARGET = (
    {"psi": RNG.normal(size=(2, S, D)), "predictor": RNG.normal(size=(HEADS, B, D)), "dynamics": RNG.normal(size=2)}
    for _ in range(2)
)
for tables in (OWN, TARGET):
    tables.update(state=np.random.default_rng(len(OWN)).normal(size=(S, D)), value=tables["dynamics"], trunk=np.arange(S))
OBS, NEXT, GOAL = RNG.integers(0, S, (3, B))
ACTION = RNG.normal(size=(B, D))
BOOTSTRAP = np.array([0.9, 0.9, 0.0, 0.9])
MEAN = RNG.normal(size=D)


def stub(config: Config) -> SimpleNamespace:
    """`Net` over tables; of hilp psi is the first of two encoders less its mean, of others the first table as it is. A trunk
    takes states to states; of icvf V_j = w_j sum(state outcome intent)."""
    features = config.features
    psi = lambda p, h, mean=0.0: jnp.asarray(p["psi"])[0][h] - (mean if features == "hilp" else 0.0)
    move = lambda w, now, _, action: jnp.stack([w[0] * now + action, w[1] * now - action])
    modules = {
        "psi": SimpleNamespace(apply=lambda tables, h: jnp.asarray(tables)[:, h]),
        "dynamics": SimpleNamespace(apply=move if features.startswith("byol") else lambda w, now, _, a: w[0] * now + a),
        "state": SimpleNamespace(apply=lambda table, h: table[h]),
        "value": SimpleNamespace(apply=lambda w, s, o, i: jnp.stack([w[0] * (s * o * i).sum(-1), w[1] * (s * o * i).sum(-1)])),
    }
    see = lambda p, which, obs: jnp.asarray(p["trunk"], int)[obs]
    tables = {"phi": lambda p, h: None, "psi": psi, "predict": lambda p, *of: p["predictor"]}
    return SimpleNamespace(config=config, see=see, modules=modules, **tables)


def losses_of(config: Config, target: dict = TARGET, **more) -> tuple:
    """(the total, what is said)"""
    f32 = lambda tree: {k: jnp.float32(v) for k, v in tree.items()}
    batch, there = Batch(OBS, jnp.float32(ACTION), NEXT, jnp.float32(BOOTSTRAP), more), target["trunk"][NEXT]
    x = Given(batch, jnp.zeros((B, D)), jnp.zeros((B, D)), there, there, f32(target), jnp.float32(MEAN), HYPER)
    return METHODS[config.features](config).loss(stub(config), f32(OWN), x)


def told(features: str, **more) -> float:
    return float(losses_of(Config(features=features), **more)[0])


def pessimistic(heads: np.ndarray) -> np.ndarray:
    return heads.mean(0) - 0.25 * np.abs(heads[0] - heads[1])


def orthonormality(x: np.ndarray) -> float:
    pairs = [(x[i] @ x[j]) ** 2 for i in range(B) for j in range(B) if i != j]
    return np.mean(pairs) / 2 - np.mean([row @ row for row in x])


def measured(following: np.ndarray) -> float:
    """1/2 mean_{i != j} diff^2 - mean_i diff_ii, summed over heads."""
    total, there = 0.0, TARGET["psi"][0][NEXT]
    for h in range(HEADS):
        y = BOOTSTRAP[:, None] * (pessimistic(TARGET["predictor"]) @ there.T)
        diff = OWN["predictor"][h] @ following.T - y
        total += 0.5 * np.mean([diff[i, j] ** 2 for i in range(B) for j in range(B) if i != j]) - np.mean(np.diag(diff))
    return total


def successor(feature: np.ndarray) -> float:
    """H / 2 times the mean square, over features too."""
    y = feature + BOOTSTRAP[:, None] * pessimistic(TARGET["predictor"])
    return 0.5 * HEADS * np.mean([(OWN["predictor"][h] - y) ** 2 for h in range(HEADS)])


def squared(predictions: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([sum((predictions[h, b] - y[b]) ** 2) for h in range(HEADS) for b in range(B)]))


PSI, NEXT_PSI, NEXT_PSI_ = OWN["psi"][0][OBS], OWN["psi"][0][NEXT], TARGET["psi"][0][NEXT]


def test_symmetric_and_contrastive():
    y = NEXT_PSI_ + BOOTSTRAP[:, None] * pessimistic(TARGET["predictor"])
    regular = 0.3 * orthonormality(PSI)
    assert told("symmetric") == pytest.approx(squared(OWN["predictor"], y) + regular, rel=1e-5)
    assert told("contrastive") == pytest.approx(measured(NEXT_PSI) / HEADS + regular, rel=1e-5)


def test_forward_backward_is_regularised_at_next_states():
    assert told("fb") == pytest.approx(measured(NEXT_PSI) + 0.3 * orthonormality(NEXT_PSI), rel=1e-5)


def test_laplacian_and_random_features():
    apart = ((PSI - NEXT_PSI) ** 2).mean()
    assert told("laplacian") == pytest.approx(apart + 2 * 0.3 * orthonormality(PSI) + successor(NEXT_PSI), rel=1e-5)
    assert told("random") == pytest.approx(successor(NEXT_PSI), rel=1e-5)


def test_byol_predicts_one_step_or_what_lies_further_ahead():
    w = OWN["dynamics"]
    ahead = np.stack([w[0] * PSI + ACTION, w[1] * PSI - ACTION])
    rest = 0.3 * orthonormality(PSI) + successor(NEXT_PSI)
    assert told("byol") == pytest.approx(squared(ahead, NEXT_PSI_) + rest, rel=1e-5)
    further = TARGET["psi"][0][GOAL]
    assert told("byol_gamma", goal=GOAL) == pytest.approx(squared(ahead, further) + rest, rel=1e-5)


def test_rldp_predicts_from_its_own_predictions_where_there_is_a_future():
    steps = 3
    obs, action = RNG.integers(0, S, (steps + 1, B)), RNG.normal(size=(steps + 1, B, D))
    obs[0], action[0] = OBS, ACTION
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1]], bool)
    now, errors = PSI, []
    for k in range(steps):
        now = OWN["dynamics"][0] * now + action[k]
        errors += [sum((now[b] - TARGET["psi"][0][obs[k + 1, b]]) ** 2) for b in range(B) if mask[k + 1, b]]
    wanted = np.mean(errors) + 0.3 * orthonormality(PSI) + measured(NEXT_PSI)
    found = told("rldp", obs=obs, action=jnp.float32(action), mask=jnp.asarray(mask))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_hilp_regresses_times_to_goals():
    here = np.array([False, True, False, False])
    away = lambda p, j, s, g: -np.sqrt(max(((p["psi"][j][s] - p["psi"][j][g]) ** 2).sum(), 1e-6))
    fit = 0.0
    for b in range(B):
        q = [0.0 if here[b] else -1 + 0.9 * away(TARGET, j, NEXT[b], GOAL[b]) for j in range(2)]
        advantage = min(q) - np.mean([away(TARGET, j, OBS[b], GOAL[b]) for j in range(2)])
        weight = 0.8 if advantage >= 0 else 0.2
        fit += weight * sum((q[j] - away(OWN, j, OBS[b], GOAL[b])) ** 2 for j in range(2)) / B
    found = told("hilp", goal=GOAL, here=jnp.asarray(here))
    assert found == pytest.approx(fit + successor(NEXT_PSI - MEAN), rel=1e-5)


def test_icvf_values_outcomes_for_intents():
    """Half of the intents are outcomes, the others those of the row before."""
    reached = np.array([False, True, False, True])
    same = np.arange(B) < B // 2
    intent = np.where(same, GOAL, np.roll(GOAL, 1))
    value = lambda p, j, s, g, y: p["value"][j] * (p["state"][s] * p["psi"][0][g] * p["psi"][0][y]).sum()
    fit = 0.0
    for b in range(B):
        y = intent[b]
        meant = [1 if reached[b] and same[b] else 0.9 * value(TARGET, j, NEXT[b], y, y) for j in range(2)]
        advantage = min(meant) - np.mean([value(TARGET, j, OBS[b], y, y) for j in range(2)])
        for j in range(2):
            q = 1 if reached[b] else 0.9 * value(TARGET, j, NEXT[b], GOAL[b], y)
            fit += (0.8 if advantage >= 0 else 0.2) * (q - value(OWN, j, OBS[b], GOAL[b], y)) ** 2 / B
    assert told("icvf", goal=GOAL, reached=jnp.asarray(reached)) == pytest.approx(fit + successor(NEXT_PSI), rel=1e-5)


@pytest.mark.parametrize("features", ["byol", "byol_gamma", "rldp", "hilp", "icvf"])
def test_targets_look_through_the_moving_average_of_a_trunk(features):
    """One that shuffles states has the features of the table in that order."""
    order = np.roll(np.arange(S), 4)
    shuffled = {**TARGET, "psi": TARGET["psi"][:, order], "state": TARGET["state"][order]}
    flags = {"here": jnp.zeros(B, bool), "reached": jnp.zeros(B, bool), "mask": jnp.ones((3, B), bool)}
    more = {"goal": GOAL, "obs": np.stack([OBS, NEXT, GOAL]), "action": jnp.float32([ACTION, ACTION]), **flags}
    of = lambda target: float(losses_of(Config(features=features, target_trunk=True), target, **more)[1]["features/loss"])
    assert of({**TARGET, "trunk": order}) == pytest.approx(of(shuffled), rel=1e-5)
