"""What counts as better at evaluations, which begin at the same starts: compared start by start, beyond chance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.yann import method
from rlx.agents.yann.method import keep_best, surely_less
from rlx.types import AgentState

from .plants import make

STARTS = 4
step = jax.jit(keep_best, static_argnums=2)


def fresh(certainty: float, starts: int = STARTS, tolerance: float = 0.05) -> AgentState:
    kept = {k: {"w": jnp.float32(0)} for k in method.KEPT}
    none = jnp.full(starts, jnp.inf)
    best = {"score": jnp.full(2, jnp.inf), "broken": none, "costs": none, **kept}
    learned = {**kept, "worse": jnp.int32(0), "lr_scale": jnp.float32(1), "best": best}
    return AgentState({"tolerance": jnp.float32(tolerance), "certainty": jnp.float32(certainty)}, learned)


def after(certainty: float, *evaluations, patience: int = 3) -> list[dict]:
    """What is learned after evaluations, each (costs [E], violations [E] or none); the parameters of the i-th are i."""
    state, out = None, []
    for i, (costs, broken) in enumerate(evaluations):
        state = fresh(certainty, len(costs)) if state is None else state
        learned = {**state.learned, **{k: {"w": jnp.float32(i)} for k in method.KEPT}}
        seen = {"returns": -jnp.array(costs, jnp.float32)}
        seen |= {} if broken is None else {"info/violation": jnp.array(broken, bool)}
        state = step(state._replace(learned=learned), seen, patience)
        out.append(state.learned)
    return out


def chosen(learned: dict) -> int:
    (which,) = {float(learned["best"][k]["w"]) for k in method.KEPT}
    return int(which)


@pytest.mark.parametrize(
    ("gains", "ratio"),  # the mean over its standard error
    [
        ([0.5, 0.0, 0.5, 0.0], 3**0.5),  # 0.25 / sqrt((4 x 0.0625 / 3) / 4)
        ([4.0, 0.0, 0.0, 0.0], 1.0),  # 1 / sqrt((12 / 3) / 4)
        ([1.0, 2.0, 3.0, 4.0], 3.872983),  # 2.5 / sqrt((5 / 3) / 4)
        ([5.0, -1.0, -1.0, -1.0], 0.333333),  # 0.5 / sqrt((27 / 3) / 4)
    ],
)
def test_a_gain_must_exceed_its_standard_error(gains, ratio):
    old = np.array([10.0, 20.0, 3000.0, 7.0])
    for certainty in (0.99 * ratio, 1.01 * ratio):
        less = certainty < ratio
        new = jnp.array(old - gains, jnp.float32)
        assert bool(surely_less(new, jnp.array(old, jnp.float32), jnp.float32(certainty))) == less
        first, second = after(certainty, (old, None), (new, None))
        assert chosen(first) == 0 and chosen(second) == less
        assert second["best"]["costs"].tolist() == (new.tolist() if less else old.tolist())
        assert float(second["best"]["score"][1]) == pytest.approx(np.mean(new if less else old))


def test_one_start_alone_is_no_proof():
    """Of 64 starts one more is held, and nothing else changes: exactly one standard error, whatever it saves."""
    old, new = np.full(64, 2.0), np.full(64, 2.0)
    old[:10], new[1:10] = 131.3, 131.3
    assert chosen(after(1.0, (old, None), (new, None))[-1]) == 0
    assert chosen(after(0.99, (old, None), (new, None))[-1]) == 1
    new[1] = 2.0
    assert chosen(after(1.0, (old, None), (new, None))[-1]) == 1  # two: the square root of 2, nearly
    assert chosen(after(1.5, (old, None), (new, None))[-1]) == 0


def test_violations_are_counted_the_same_way_and_come_first():
    two, one, none = [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]
    ten, nine, fifty = np.full(4, 10.0), np.full(4, 9.0), np.full(4, 50.0)
    assert chosen(after(1.0, (ten, two), (fifty, none))[-1]) == 1  # 0.5 / sqrt((1 / 3) / 4) = 1.73
    assert chosen(after(2.0, (ten, two), (fifty, none))[-1]) == 0
    assert chosen(after(1.0, (ten, two), (fifty, one))[-1]) == 0  # one fewer is 1, and it costs more
    assert chosen(after(1.0, (ten, two), (nine, one))[-1]) == 1  # but costs surely less
    more = after(1.0, (ten, one), (nine, two))[-1]
    assert chosen(more) == 0 and int(more["worse"]) == 1
    assert after(1.0, (ten, one), (nine, one))[-1]["best"]["score"].tolist() == [1, 9]


def test_no_certainty_is_the_plain_order():
    """By (violations, mean cost), as tuples are."""
    rng = np.random.default_rng(0)
    seen = [(rng.integers(1, 5, 6).astype(float), rng.random(6) < 0.2) for _ in range(60)]
    seen = [(costs, broken) for costs, broken in seen if broken.sum() < 3]
    keys = [(broken.sum(), costs.mean()) for costs, broken in seen]
    best = [min(range(i + 1), key=lambda j: (keys[j], j)) for i in range(len(keys))]
    assert [chosen(x) for x in after(0.0, *seen, patience=1000)] == best and len(set(best)) > 3


def test_chance_is_not_taken_for_progress():
    """Policies that are all alike, but for which starts they happen to lose: the least mean of 50 looks better than it is."""
    rng = np.random.default_rng(1)
    seen = [(np.where(rng.random(64) < 0.15, 130.0, 2.0), None) for _ in range(50)]
    changes = {c: len({chosen(x) for x in after(c, *seen, patience=1000)}) for c in (0.0, 2.0)}
    kept = {c: float(after(c, *seen, patience=1000)[-1]["best"]["score"][1]) for c in (0.0, 2.0)}
    truth = 2 + 0.15 * 128
    assert changes[2.0] < changes[0.0] and truth - kept[0.0] > 5 and kept[0.0] < kept[2.0]


def test_what_is_not_a_number_never_becomes_the_best_and_never_stays_it():
    bad, good = np.array([1.0, np.nan, 1.0, 1.0]), np.full(4, 5.0)
    out = after(1.0, (good, None), (bad, None))
    assert chosen(out[-1]) == 0 and int(out[-1]["worse"]) == 1
    assert chosen(after(1.0, (bad, None), (good, None))[-1]) == 1


def test_one_start_decides_as_it_is():
    assert chosen(after(5.0, ([2.0], None), ([1.9], None))[-1]) == 1
    assert chosen(after(5.0, ([2.0], None), ([2.0], None))[-1]) == 0


def test_the_best_that_was_kept_is_restored():
    """A gain that is not sure is neither kept nor held against the policy."""
    old = np.array([10.0, 10.0, 10.0, 10.0])
    lucky, bad = np.array([6.0, 10.0, 10.0, 10.0]), old + 5
    out = after(1.0, (old, None), (lucky, None), (bad, None), (bad, None), patience=2)
    assert [chosen(x) for x in out] == [0] * 4 and [int(x["worse"]) for x in out] == [0, 0, 1, 0]
    assert float(out[-1]["actor"]["w"]) == 0 and float(out[-1]["lr_scale"]) == 0.5


def test_an_agent_s_state_keeps_its_form():
    """Of one run and of members side by side."""
    agent = make("double-integrator", law="lqr", residual="shared", eval_episodes=5)
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    assert agent.hyper["certainty"] == 0.0
    form = jax.eval_shape(agent.init, jax.random.key(0), hyper)
    assert form.learned["best"]["costs"].shape == (5,)
    report = {"main": {"returns": jnp.zeros(5), "lengths": jnp.zeros(5, jnp.int32), "info/violation": jnp.zeros(5, bool)}}
    after = jax.eval_shape(agent.on_eval, form, report, jax.random.key(0))
    kind = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert kind(after) == kind(form)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), (fresh(1.0), {"returns": jnp.arange(4.0)}))
    members = jax.vmap(lambda state, seen: keep_best(state, seen, 3))(*both)
    assert members.learned["best"]["costs"].shape == (2, 4)
