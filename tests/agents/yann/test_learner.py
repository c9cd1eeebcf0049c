"""The controller and what is built on it: laws in the plant's units, critics, the filter, losses, keeping the best."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents.yann import Config, method
from rlx.agents.yann.controller import build, corners
from rlx.agents.yann.learner import Units
from rlx.agents.yann.method import critic_loss, huber, keep_best, targets
from rlx.nn.mlp import head
from rlx.planning.linear import linearise
from rlx.replay import Transitions
from rlx.types import AgentState, Problem

from .plants import SMALL, at, begun, learner, make, moved, observations, problem

ONE = Units(jnp.ones(()), jnp.ones(()))


# ------------------------------------------------------------------------------------------------------------ the controller


@pytest.mark.parametrize("name", ["upright-pendulum", "pendulum", "t2-reactor", "cstr"])
def test_units_go_there_and_back(name):
    known = learner(name, law="lqr").known
    obs = observations(name, 50)
    told = known.control.measure(np, obs)
    z = known.see(jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(z[:, : len(known.control.x)] + known.control.x, told["state"], rtol=1e-4, atol=1e-4)
    assert known.has("setpoint") == ("setpoint" in told) and not known.has("disturbance")
    if known.has("setpoint"):
        np.testing.assert_allclose(z[:, 2] + known.control.outputs @ known.control.x, told["setpoint"][:, 0], atol=1e-5)
        np.testing.assert_allclose(z[:, 3] + known.control.u, told["input"][:, 0], rtol=1e-5)
    action = jnp.linspace(-1, 1, 9)[:, None]
    np.testing.assert_allclose(known.action(known.input(action)), action, atol=1e-5)
    np.testing.assert_allclose(known.input(jnp.array([[-1.0], [1.0]]))[:, 0], [*known.low, *known.high], rtol=1e-6)
    assert float(jnp.abs(known.features(jnp.asarray(known.z_low, jnp.float32))).max()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["double-integrator", "t2-reactor-linear", "cstr"])
def test_predictions_and_costs_are_the_plants(name):
    """On linear plants to rounding; on the stirred tank the cost, which its reward is minus of."""
    env = rlx.envs.make(f"rlx:{name}", **({"noise": 0.0} if name == "cstr" else {}))
    known = build(Config(law="lqr"), Problem({"train": env}))
    state, step = env.reset(env.params, jax.random.key(1))
    action = jnp.array([0.3])
    _, new = jax.jit(env.step)(env.params, state, action, jax.random.key(0))
    z, u = known.see(step.obs), known.input(action)
    assert float(known.cost(z, u)) == pytest.approx(-float(new.reward), rel=2e-4)
    if name != "cstr":
        np.testing.assert_allclose(known.predicted(z, u), known.see(new.obs), rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(known.predicted(z, u)[2:], known.see(new.obs)[2:], atol=1e-4)


def test_a_given_model_is_used():
    plant = problem("upright-pendulum")
    own = linearise(plant.envs["train"])
    other = {"A": own.A * 0.9, "B": own.B * 2}
    given = dataclasses.replace(plant, data={"model": other})
    known = build(Config(), given)
    np.testing.assert_array_equal(known.model.A, other["A"])
    assert np.abs(known.law.K[0] - build(Config(), plant).law.K[0]).max() > 1
    assert agents.make("yann", None, given, **SMALL).stages[-1].name == "learn"
    for wrong, message in (
        ({"A": np.eye(3), "B": np.zeros((3, 1))}, "has 2 states, 1 inputs"),
        ({"A": own.A, "B": np.zeros((2, 2))}, "has 2 states, 1 inputs"),
        ({"A": own.A, "B": own.B * np.nan}, r"problem.data\['model'\].*not finite"),
        ({"A": own.A, "B": np.zeros((3, 1))}, "A must be"),
    ):
        with pytest.raises(ValueError, match=message):
            build(Config(), dataclasses.replace(plant, data={"model": wrong}))


def test_plants_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"does not say what a controller may know of it.*rlx:upright-pendulum"):
        agents.make("yann", None, Problem({"train": rlx.envs.make("rlx:probe-action")}))
    host = rlx.envs.make("rlx:upright-pendulum", host=True)
    if host.spec.task.control is not None:
        with pytest.raises(ValueError, match="steps on the host"):
            agents.make("yann", None, Problem({"train": host}))


def test_corners_of_a_box():
    low, high = np.array([-1.0, 0, 2]), np.array([1.0, 3, 4])
    found = corners(low, high)
    assert found.shape == (8, 3) and len(np.unique(found, axis=0)) == 8
    assert set(found[:, 1]) == {0, 3}
    many = corners(-np.ones(20), np.ones(20))
    assert many.shape == (2**14, 20) and set(np.unique(many)) == {-1, 1}


# ---------------------------------------------------------------------------------------------------------- actor and critics


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["block", "paper", "shared"])
def test_modes_agree_after_learning(kind):
    """The gather and the big-M layers, with residuals that are not 0, some above big M; inside the domain, outside, and far
    from the box, where laws are above big M."""
    gated, layers = (learner(residual=kind, outside="zero", mode=mode) for mode in ("gated", "bigm"))
    z = jnp.asarray(np.random.default_rng(0).uniform(gated.known.z_low, gated.known.z_high, (600, 2)), jnp.float32)
    z = jnp.concatenate([z, 4 * z[:200]])

    @jax.jit
    def both(z):
        actor = moved(gated.actor_init(jax.random.key(0)), 3.0)
        return gated.raw(actor, z), layers.raw(actor, z), layers.raw(actor, z[3])[0]

    (u, region, outside), (v, other, beyond), one = both(z)
    inside = ~np.asarray(outside)
    np.testing.assert_array_equal(outside, beyond)
    np.testing.assert_array_equal(np.asarray(region)[inside], np.asarray(other)[inside])
    np.testing.assert_allclose(u, v, atol=2e-4, rtol=1e-5)
    np.testing.assert_allclose(one, v[3], atol=1e-5, rtol=1e-5)
    assert not np.asarray(u)[~inside].any() and not np.asarray(v)[~inside].any() and (~inside).sum() > 200


@pytest.mark.slow
def test_the_step_zero_policy_does_not_depend_on_the_residual():
    z = jnp.asarray(np.random.default_rng(0).uniform([-2, -8], [2, 8], (1000, 2)), jnp.float32)
    found = []
    for kind in ("block", "paper", "shared", "none"):
        one = learner(residual=kind)
        found.append(np.asarray(jax.jit(lambda z, one=one: one.inputs(one.actor_init(jax.random.key(0)), z))(z)))
    for u in found[1:]:
        np.testing.assert_allclose(u, found[0], atol=1e-5)


def test_residuals_are_bounded_where_trusted():
    one = learner(trust=0.1)
    z = jnp.asarray(np.random.default_rng(0).uniform([-2, -8], [2, 8], (500, 2)), jnp.float32)
    g = jax.jit(lambda z: one.raw(moved(one.actor_init(jax.random.key(0)), 30.0), z)[0] - one.known.law(z).u)(z)
    assert 0.39 < float(jnp.abs(g).max()) <= 0.1 * 4 + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["lqr", "mpqp", "mlp"])
def test_critics_are_what_they_say(critic):
    one = learner(critic=critic, n_critics=2)
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.uniform([-0.05, -0.1], [0.05, 0.1], (64, 2)), jnp.float32)
    u = jnp.asarray(rng.uniform(-1, 1, (64, 1)), jnp.float32)

    @jax.jit
    def values(z, u):
        critics = one.critics_init(jax.random.key(0))
        each = [one.q_value(head(critics, i), ONE, z, u) for i in range(2)]
        return jnp.stack(each), one.worst(critics, ONE, z, u), one.start_value(head(critics, 0), z, u)

    each, worst, start = values(z, u)
    np.testing.assert_allclose(worst, each.max(0), rtol=1e-6)
    if critic == "mlp":
        assert not start.any() and float(jnp.abs(each[0] - each[1]).max()) > 0
        return
    np.testing.assert_allclose(each[0], start, rtol=1e-5, atol=1e-7)
    known = one.known
    stage = np.asarray(z) ** 2 @ [1, 0.1] + 0.001 * np.asarray(u)[:, 0] ** 2
    np.testing.assert_allclose(known.cost(z, u), stage, rtol=1e-4)
    ahead = known.predicted(z, u)
    if critic == "mpqp":
        np.testing.assert_allclose(start, stage + 0.99 * np.asarray(known.value(ahead)), rtol=1e-4)
    else:
        least = one.form.value(known.features(ahead))
        np.testing.assert_allclose(start, stage + 0.99 * np.asarray(least), rtol=1e-3)


def test_the_filter_keeps_predictions_inside():
    """Where one decision can: for one limit at a time, with a margin, and never against the input's bounds."""
    known = learner("double-integrator", law="lqr").known
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.uniform([-4, -4], [4, 4], (4000, 2)), jnp.float32)
    u = jnp.asarray(rng.uniform(-1, 1, (4000, 1)), jnp.float32)
    for margin in (0.0, 0.1):
        kept = jax.jit(known.kept)(z, u, margin)
        room = 4 * (1 - margin) + 1e-4
        ahead, plain = np.asarray(known.predicted(z, kept)), np.asarray(known.predicted(z, u))
        assert float(jnp.abs(kept).max()) <= 1
        fine = (np.abs(plain) <= room - 2e-4).all(1)
        np.testing.assert_array_equal(np.asarray(kept)[fine], np.asarray(u)[fine])
        possible = (np.abs(np.asarray(z) @ known.model.A.T) <= room + np.abs(known.model.B[:, 0])).all(1)
        one_at_a_time = (np.abs(plain) > room).sum(1) <= 1
        can = possible & one_at_a_time & (np.abs(np.asarray(z) @ known.model.A.T) < room + 0.4).all(1)
        assert can.sum() > 1000 and (np.abs(ahead[can]).max(1) <= room + 1e-3).mean() > 0.95
        assert (np.abs(ahead) > room).sum() < (np.abs(plain) > room).sum()


def test_probing_ends_where_a_state_would_leave_its_box():
    """By the linear model: x+ = 1.1 x + 0.1 u within +-2, u within +-5. The bounds of u come first."""
    known = learner("cubic", law="lqr").known
    z, u = jnp.array([[0.0], [1.6], [1.6], [-1.6], [1.6], [2.0]]), jnp.array([[1.0], [1.0], [1.0], [1.0], [9.0], [-1.0]])
    change = jnp.array([[3.0], [3.0], [-3.0], [-4.9], [-1.0], [2.0]])
    wanted = [4.0, 2.4, -2.0, -2.4, 4.0, -1.0]  # 1.1 * 1.6 + 0.1 * 2.4 = 2; at x = 2 the input alone leads to 2.1: no further
    np.testing.assert_allclose(jax.jit(known.probed)(z, u, change, 0.0)[:, 0], wanted, atol=1e-4)
    margin = jax.jit(known.probed)(z[:2], u[:2], change[:2], 0.25)[:, 0]
    np.testing.assert_allclose(margin, [4.0, 1.0], atol=1e-4)  # 0.25 of 2 less: 1.76 is out already


# ------------------------------------------------------------------------------------------------------------------ losses


def batch_of(count: int = 32) -> Transitions:
    rng = np.random.default_rng(0)
    single = lambda x: jnp.asarray(x, jnp.float32)
    obs, action = rng.uniform(-0.3, 0.3, (count, 2)), rng.uniform(-1, 1, (count, 1))
    ones = jnp.ones(count)
    more = {"reward": single(-rng.uniform(0, 1, count)), "discount": single(np.where(np.arange(count) % 4, 0.99, 0.0))}
    fields = {"obs": single(obs), "action": single(action), "next_obs": single(obs * 1.1), **more, "weight": ones}
    return Transitions(**{name: fields.get(name, ones) for name in Transitions._fields})


def test_huber():
    error, delta = jnp.array([-20.0, -10, -1, 0, 3, 30]), 10.0
    np.testing.assert_allclose(huber(error, delta), [150, 50, 0.5, 0, 4.5, 250])
    assert float(jax.grad(huber)(1000.0, 10.0)) == 10


@pytest.mark.slow
def test_targets_and_losses_by_hand():
    """Costs are minus rewards; nothing is expected after a terminal step; errors count in units."""
    agent = make("upright-pendulum", n_critics=2, loss="mse", critic_scale="replay")
    one, state, batch = learner(n_critics=2, loss="mse", critic_scale="replay"), begun(agent), batch_of()
    learned = {**state.learned, "units": Units(jnp.float32(3.0), jnp.float32(2.0))}
    learned = {**learned, "critics": moved(learned["critics"], 0.1), "target": moved(learned["target"], 0.05)}
    z, u = one.known.see(batch.obs), one.known.input(batch.action)

    @jax.jit
    def found():
        y = targets(one, learned, batch)
        ahead = one.known.see(batch.next_obs)
        act = jnp.clip(one.raw(learned["target"]["actor"], ahead)[0], -2, 2)
        value = lambda critics, i, z, u: one.q_value(head(critics, i), learned["units"], z, u)
        values = [value(learned["target"]["critics"], i, ahead, act) for i in range(2)]
        loss = critic_loss(learned["critics"], one, learned, {"huber_delta": 1.0}, z, u, y)
        return y, values, loss, [(y - value(learned["critics"], i, z, u)) / 2 for i in range(2)]

    y, values, (loss, error), apart = found()
    np.testing.assert_allclose(y, -batch.reward + batch.discount * jnp.maximum(*values), rtol=1e-5)
    np.testing.assert_allclose(y[::4], -batch.reward[::4])
    assert float(loss) == pytest.approx(sum(float((e**2).mean()) for e in apart), rel=1e-4)
    assert float(error) == pytest.approx(float(jnp.abs(apart[0]).mean()), rel=1e-4)


@pytest.mark.slow
def test_the_actor_does_not_wind_up_at_a_bound():
    """Where the law is at a bound and the critic, which knows none, wants more, nothing is learned."""
    one = learner(residual="shared")
    actor = jax.jit(one.actor_init)(jax.random.key(0))
    critics = jax.jit(one.critics_init)(jax.random.key(0))
    learned = {"units": ONE}
    slope = jax.jit(jax.grad(lambda actor, z: method.actor_loss(actor, one, critics, learned, z)))
    size = lambda z: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slope(actor, jnp.array(z))))
    assert size([[0.5, 2.0], [-0.5, -2.0]]) == 0
    off = one.known.law(jnp.array([[0.02, 0.1]])).u
    assert float(jnp.abs(off).max()) < 1 and size([[0.02, 0.1]]) > 0


# ------------------------------------------------------------------------------------------------------------ keeping the best


def fresh(tag: float, tolerance: float = 0.05) -> AgentState:
    kept = {k: {"w": jnp.float32(tag)} for k in method.KEPT}
    more = {"worse": jnp.int32(0), "lr_scale": jnp.float32(1), "units": ONE, "visits": jnp.zeros(3)}
    none = jnp.full(4, jnp.inf)
    best = {"score": jnp.full(2, jnp.inf), "broken": none, "costs": none, **kept}
    return AgentState({"tolerance": jnp.float32(tolerance), "certainty": jnp.float32(0)}, {**kept, **more, "best": best})


def seen(cost: float, violations: int = 0):
    return {"returns": jnp.full(4, -cost), "info/violation": jnp.arange(4) < violations}


judged = jax.jit(keep_best, static_argnums=2)


def after(costs, patience: int = 3, tolerance: float = 0.05):
    """States after evaluations that cost so much (or (cost, violations)); the parameters of the i-th are i."""
    state, out = fresh(0.0, tolerance), []
    for i, cost in enumerate(costs):
        learned = {**state.learned, **{k: {"w": jnp.float32(i)} for k in method.KEPT}}
        state = judged(state._replace(learned=learned), seen(*cost) if isinstance(cost, tuple) else seen(cost), patience)
        out.append(state.learned)
    return out


def test_the_best_is_restored_after_patience():
    out = after([10, 8, 12, 12, 12, 7])
    tags = lambda learned: {float(learned[k]["w"]) for k in method.KEPT}
    assert [tags(x) for x in out] == [{0}, {1}, {2}, {3}, {1}, {5}]
    assert [int(x["worse"]) for x in out] == [0, 0, 1, 2, 0, 0]
    assert [float(x["lr_scale"]) for x in out] == [1, 1, 1, 1, 0.5, 0.5]
    for learned in out[1:5]:
        assert {float(learned["best"][k]["w"]) for k in method.KEPT} == {1} and learned["best"]["score"].tolist() == [0, 8]
    assert {float(out[5]["best"][k]["w"]) for k in method.KEPT} == {5}
    assert float(after([1, 2, 2, 2, 2, 2, 2])[-1]["lr_scale"]) == 0.25


def test_a_little_worse_is_no_reason_and_a_better_one_starts_the_count_anew():
    out = after([10, 10.4, 10.4, 10.4, 10.4])
    assert float(out[-1]["actor"]["w"]) == 4 and int(out[-1]["worse"]) == 0 and out[-1]["best"]["score"][1] == 10
    out = after([10, 12, 12, 10.2, 12, 12])
    assert [int(x["worse"]) for x in out] == [0, 1, 2, 0, 1, 2]
    assert float(after([10, 12], patience=1)[-1]["actor"]["w"]) == 0
    out = after([-10, -9.7, -9.4], patience=1)  # costs may be negative
    assert float(out[1]["actor"]["w"]) == 1 and float(out[2]["actor"]["w"]) == 0


def test_fewer_violations_come_before_lower_costs():
    out = after([(10, 1), (50, 0), (9, 1), (9, 1), (9, 1)])
    assert out[1]["best"]["score"].tolist() == [0, 50]
    assert out[2]["best"]["score"].tolist() == [0, 50] and int(out[2]["worse"]) == 1
    assert float(out[4]["actor"]["w"]) == 1
    without = {"returns": jnp.full(4, -3.0)}
    assert judged(fresh(0.0), without, 3).learned["best"]["score"].tolist() == [0, 3]


def test_what_is_not_a_number_never_becomes_the_best():
    state = judged(fresh(0.0), seen(10), 3)
    worse = judged(state, seen(np.nan), 3)
    assert worse.learned["best"]["score"].tolist() == [0, 10] and int(worse.learned["worse"]) == 1


# ------------------------------------------------------------------------------------------------------------------ behaviour


@pytest.mark.slow
def test_the_gate_chooses_by_the_critic():
    """The controller acts unless the target critic promises more than ``gate``."""
    agent = make("upright-pendulum", safeguard="q_gate", residual="shared")
    state = begun(agent)
    state.learned["actor"] = moved(state.learned["actor"], 0.1)
    state.learned["target"]["critics"] = moved(state.learned["target"]["critics"], 1.0)
    act = jax.jit(agent.act, static_argnames="mode")
    step = at(observations("upright-pendulum", 400) * [0.3, 1])
    base = act(state, None, (), step, jax.random.key(0), mode="base")[0]
    gated = act(state, None, (), step, jax.random.key(0), mode="eval")[0]
    bare = make("upright-pendulum", safeguard="none", residual="shared")
    free = jax.jit(bare.act, static_argnames="mode")(state, None, (), step, jax.random.key(0), mode="eval")[0]
    one = learner(residual="shared")
    known, learned = one.known, state.learned
    value = jax.jit(lambda a: one.worst(learned["target"]["critics"], learned["units"], known.see(step.obs), known.input(a)))
    better = np.asarray(value(base) > value(free))
    assert 0.02 < better.mean() < 0.98
    np.testing.assert_allclose(gated, np.where(better[:, None], free, base), atol=1e-6)
    state.hyper["gate"] = jnp.float32(1e6)
    np.testing.assert_array_equal(act(state, None, (), step, jax.random.key(0), mode="eval")[0], base)


def test_the_filter_acts_last():
    """Noise alone leads no further out than the law does, and so further than the filter lets it."""
    settings = {"law": "lqr", "residual": "none", "explore_sigma": 0.5}
    agents_ = [make("double-integrator", filter=on, **settings) for on in (False, True)]
    known = learner("double-integrator", law="lqr").known
    obs = np.random.default_rng(0).uniform([2, 1], [3.2, 1.6], (500, 2))
    bare = 4.0
    for mode in ("eval", "explore"):
        free, held = (
            jax.jit(a.act, static_argnames="mode")(begun(a), None, (), at(obs), jax.random.key(0), mode=mode)[0]
            for a in agents_
        )
        ahead = lambda a: np.asarray(known.predicted(jnp.asarray(obs, jnp.float32), known.input(a)))
        assert (ahead(held)[:, 0] <= np.maximum(4, obs.sum(1) - 0.5) + 1e-3).all()
        assert (ahead(free)[:, 0] > 4.01).mean() > 0.05
        assert mode == "eval" or (ahead(free)[:, 0] <= np.maximum(4, bare) + 1e-3).all()
        bare = ahead(free)[:, 0]


def test_watching_counts_what_the_actor_does():
    one = learner("double-integrator", filter=True, law="lqr", residual="shared")
    actor = jax.jit(one.actor_init)(jax.random.key(0))
    z = jnp.array([[0.1, 0.0], [3.0, 3.0], [0.0, 0.1], [-3.0, -3.0]])
    found = method.watch(one, actor, {"margin": jnp.float32(0)}, z)
    assert float(found["actor/residual"]) < 1e-7 and float(found["actor/saturated"]) == 0  # the base law is clipped itself
    assert float(found["actor/outside"]) == 0 and float(found["actor/filtered"]) in (0, 0.5)
    broken = method.watch(one, actor, {"margin": jnp.float32(0)}, z.at[0].set(jnp.nan))
    assert float(broken["actor/outside"]) == 0.25


def test_noise_has_the_size_asked_for():
    agent = make("upright-pendulum", explore_sigma=0.05)
    state, step = begun(agent), at(np.zeros((4000, 2)))
    act = jax.jit(agent.act, static_argnames="mode")
    noisy, _, extras = act(state, None, (), step, jax.random.key(1), mode="explore")
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05) and extras["region"].shape == (4000,)
    bare, _, extras = act(state, None, (), step, jax.random.key(1), mode="eval")
    assert float(jnp.abs(bare).max()) < 1e-7 and extras == {}
