"""The precision policy, read off traced programs, so that no accelerator is needed: what is exact is so under any default, and
networks follow the default."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents.yann import networks as nets
from rlx.config import replace
from rlx.dynamics import as_env, ensemble, sparse
from rlx.dynamics.sparse_dynamics import SparseDynamics
from rlx.nn import normalize, returns
from rlx.planning import laws, mpqp
from rlx.precision import exact, in_float32
from rlx.preferences import transport
from rlx.train.run_config import RunConfig
from rlx.types import Env, Leaf, Spec, Step, Update
from tests.agents.settings import AGENTS
from tests.agents.yann import plants
from tests.planning import problems
from tests.test_architecture import LIBRARY, tree_of

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
PRODUCTS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general", "dot"}
KEY = jax.random.key(0)


def jaxprs(value: Any) -> Iterator[Any]:
    """The programs in an equation's parameters."""
    if isinstance(value, (tuple, list)):
        for entry in value:
            yield from jaxprs(entry)
    elif hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from jaxprs(value.jaxpr)


def precisions(jaxpr: Any) -> list[Any]:
    """Of each product in a program, those in loops, branches and calls too."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in PRODUCTS:
            found.append(eqn.params["precision"])
        for inner in jaxprs(list(eqn.params.values())):
            found += precisions(inner)
    return found


def traced(fn: Any, *args: Any, default: str | None = "bfloat16") -> list[Any]:
    """Precisions of the products of ``fn``, where JAX's default is ``default``."""
    with jax.default_matmul_precision(default):
        return precisions(jax.make_jaxpr(fn)(*args).jaxpr)


def assert_exact(fn: Any, *args: Any, some: bool = True) -> None:
    found = traced(fn, *args)
    assert set(found) <= {HIGHEST} and (found or not some), found


def slope(fn: Any) -> Any:
    """The gradient of the sum of what ``fn`` gives, by its first argument."""
    total = lambda *args: sum(x.sum() for x in jax.tree.leaves(fn(*args)) if jnp.issubdtype(x.dtype, jnp.floating))
    return jax.grad(total)


# ---------------------------------------------------------------------------------------------------------------- the tool


def product(x):
    return x @ x


def test_products_are_found_wherever_they_are():
    x = jnp.eye(2)
    loops = [
        product,
        jax.jit(product),
        jax.vmap(lambda x: jax.lax.scan(lambda c, _: (product(c), None), x, None, 3)[0]),
        lambda x: jax.lax.cond(x.sum() > 0, product, lambda x: x, x),
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, product, x),
        jax.checkpoint(product),
        lambda x: jax.lax.conv(x[None, None], x[None, None], (1, 1), "SAME"),
    ]
    for fn in loops:
        given = x if fn is not loops[2] else x[None]
        assert traced(fn, given, default=None) == [None]
        assert traced(exact(fn), given) == [HIGHEST]


def test_gradients_of_what_is_exact_are_exact():
    assert traced(slope(exact(product)), jnp.eye(2)) == [HIGHEST] * 3
    assert HIGHEST not in traced(slope(product), jnp.eye(2))


def test_there_is_one_way_to_say_it():
    """Only `rlx.precision` names precisions of products, so that the policy is one."""
    named = []
    for path in LIBRARY:
        for node in ast.walk(tree_of(path)):
            argument = isinstance(node, ast.keyword) and node.arg in ("precision", "preferred_element_type")
            setting = isinstance(node, ast.Attribute) and node.attr in ("default_matmul_precision", "Precision")
            named += [path] if argument or setting else []
    assert named == ["rlx/precision.py"]


# -------------------------------------------------------------------------------------------------------------- exact rooms


def step_of(env: Env, seed: int = 0) -> tuple[Any, ...]:
    state, _ = jax.eval_shape(env.reset, env.params, KEY)
    leaf = env.spec.action
    return env.params, state, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), KEY


@pytest.mark.parametrize("name", [n for n in rlx.envs.control.names() if "probe" not in n and n != "push-lite"])
def test_dynamics_of_environments_are_exact(name):
    env = rlx.envs.make(f"rlx:{name}")
    some = name in ("ks22", "burgers")
    assert_exact(env.step, *step_of(env), some=some)
    assert_exact(env.reset, env.params, KEY, some=False)
    task = env.spec.task
    if task.drift is not None:
        params, state, action, _ = step_of(env)
        x = state.x if task.control is None else np.float32(task.control.x)
        assert_exact(lambda x, action: task.drift(jnp, params, x, action), x, action, some=some)


def test_an_environment_from_outside_is_exact_without_saying_so():
    def arrive(x):
        return Step(x @ jnp.eye(2), x.sum(), *[jnp.bool_(False)] * 3, {})

    reset = lambda params, key: (jnp.zeros(2), arrive(jnp.zeros(2)))
    env = Env("mine", Spec(Leaf((2,)), Leaf((1,))), (), reset, lambda p, x, a, k: (x @ jnp.eye(2), arrive(x)))
    assert_exact(env.reset, (), KEY)
    assert_exact(env.step, (), jnp.zeros(2), jnp.zeros(1), KEY)


def test_sparse_models_and_ensembles_are_exact_as_values_slopes_and_environments():
    library = sparse.affine(3, 1, 2)
    members = jnp.ones((4, 3, len(library)))
    model = sparse.SparseModel(members, members[0], library)
    net = ensemble.init(KEY, 3, (4, 5, 3))
    for learned in (model, net):
        for fn in (learned, learned.each, learned.variance):
            assert_exact(fn, jnp.ones(4))
            assert_exact(slope(fn), jnp.ones(4))
        env = as_env(SparseDynamics() if learned is model else Plain(), learned, np.zeros((2, 3)), actions=1, horizon=5)
        assert_exact(env.step, *step_of(env))
    rows = jnp.ones((8, 4)), jnp.ones((8, 3))
    fit = lambda *data: ensemble.fit(net, *map(np.asarray, rows), KEY, capacity=8)
    assert_exact(lambda: fit())


class Plain:
    """An ensemble that predicts what comes next, as `rlx.dynamics.Model`."""

    def begin(self, params, key):
        return ()

    def predict(self, params, episode, obs, action, key):
        return rlx.dynamics.Prediction(params(jnp.concatenate([obs, action])), obs.sum())

    def disagreement(self, params, obs, action):
        return jnp.float32(0)


def test_laws_and_values_are_exact():
    program = problems.double_integrator()
    regions = mpqp.solve(program)
    plain, short = (laws.piecewise(regions, program, compressed=c) for c in (False, True))
    tree = laws.piecewise(regions, program, many=1)
    value = laws.piecewise_value(regions, program, plain)
    regulator = laws.regulator(plants.learner().known.control, plants.learner().known.model)
    for law in (plain, short, tree, laws.quadratic(program), regulator, value):
        for z in (jnp.zeros(2), jnp.zeros((5, 2))):
            assert_exact(law, z)
            assert_exact(slope(law), z)
    assert_exact(plain.affine, jnp.zeros(2), jnp.int32(0))


@pytest.mark.parametrize("settings", [{}, {"mode": "bigm", "outside": "zero"}, {"critic": "mpqp"}], ids=str)
def test_what_yann_knows_beforehand_is_exact_and_what_it_learns_is_a_network(settings):
    learner = plants.learner(**settings)
    known, z, u = learner.known, jnp.zeros((3, 2)), jnp.zeros((3, 1))
    for fn in (known.predicted, known.cost, lambda z, u: known.kept(z, u, 0.1), lambda z, u: known.probed(z, u, u, 0.1)):
        assert_exact(fn, z, u)
    assert_exact(known.law, z)
    assert_exact(known.see, jnp.zeros((3, 2)), some=False)
    assert_exact(learner.form.value, z)
    actor, critics = learner.actor_init(KEY), learner.critics_init(KEY)
    critic = jax.tree.map(lambda x: x[0], critics)
    assert_exact(learner.start_value, critic, z, u)
    assert_exact(slope(learner.start_value), critic, z, u)
    if known.bigm is not None:
        assert_exact(lambda z: nets.bigm_gates(known.bigm, z), z)
    both = traced(learner.raw, actor, z, default=None)
    assert set(both) == {None, HIGHEST}  # the residual is a network, the law is not
    assert set(traced(learner.h.apply, critic["h"], jnp.zeros((3, 3)), default=None)) == {None}


def test_principal_components_are_exact():
    dyna = agents.make("sindy_rl", None, rlx.types.Problem({"train": rlx.envs.make("rlx:burgers")}), modes=4)
    state = jax.eval_shape(dyna.init, KEY, {k: jnp.float32(v) for k, v in dyna.hyper.items()})
    obs = jax.ShapeDtypeStruct((2, *dyna.envs["train"].spec.obs.shape), np.float32)
    assert_exact(lambda state, obs: dyna.act(state, CLOCK, (), at(obs), KEY, "sparse")[0], state, obs)


def test_transport_is_exact():
    c, w = jnp.ones((3, 3)), jnp.ones(3) / 3
    assert_exact(lambda c: transport.gromov_wasserstein(jnp, c, c, w, w), c)
    assert_exact(lambda c: transport.gw_cost(jnp, c, c, c), c)


def test_returns_and_statistics_have_no_product_that_is_rounded():
    x, mask = jnp.ones((4, 3)), jnp.ones((4, 3), bool)
    assert_exact(lambda x: returns.gae(x, x, x, x, 0.9, mask), x, some=False)
    assert_exact(lambda x: returns.lambda_returns(x, x, x, 0.9), x, some=False)
    assert_exact(lambda x: returns.running_returns(x, mask, 0.9, x[0]), x, some=False)
    assert_exact(lambda x: returns.n_step_returns(x, x, x, 3), x, some=False)
    seen = normalize.init((3,))
    assert_exact(lambda x: normalize.apply(normalize.update(seen, x, mask[:, 0]), x), x, some=False)


# ----------------------------------------------------------------------------------------------------------------- networks

CLOCK = rlx.types.Clock(*map(jnp.int32, (0, 0, 0)))


def at(obs: Any) -> Step:
    no = jnp.zeros(obs.shape[:1], bool)
    return Step(obs, jnp.zeros(obs.shape[:1]), no, no, no, {})


def products_of(agent: Any, batch: Any, default: str | None) -> tuple[list[Any], list[Any]]:
    """Of acting, and of the last update where ``batch`` is one for it."""
    state = jax.eval_shape(agent.init, KEY, {k: jnp.float32(v) for k, v in agent.hyper.items()})
    obs = jax.ShapeDtypeStruct((2, *agent.envs["train"].spec.obs.shape), np.float32)
    act = traced(lambda s, obs: agent.act(s, CLOCK, (), at(obs), KEY, "eval")[0], state, obs, default=default)
    if batch is None:
        return act, []
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Update)]
    return act, traced(lambda s, b: phase.update(s, CLOCK, b, KEY), state, batch, default=default)


@pytest.mark.parametrize("name", ["sac", "td3", "ppo", "yann", "sindy_rl"])
def test_networks_follow_the_default_unless_the_run_says_highest(name):
    settings = AGENTS[name]
    config = replace(agents.config(name), settings.update or {})
    batch = settings.batch() if settings.update else None
    for precision, default in (("default", None), ("default", "tensorfloat32"), ("highest", "bfloat16")):
        run_config = RunConfig(name, settings.env, config, precision=precision)
        agent = run_config.make(run_config.problem())
        with jax.default_matmul_precision(default):
            wanted = precisions(jax.make_jaxpr(product)(jnp.eye(2)).jaxpr)[0] if precision == "default" else HIGHEST
        known = {HIGHEST} if name == "yann" else set()  # its law and the start of its critic
        act, update = products_of(agent, batch, default)
        assert set(act) == {wanted} | known
        assert set(update) == ({wanted} | known if batch is not None else set())


def test_the_precision_of_a_run_is_in_its_config_and_checked():
    run_config = RunConfig("sac", "rlx:pendulum", agents.config("sac"), precision="highest")
    assert '"precision": "highest"' in run_config.to_json()
    other = RunConfig("sac", "rlx:pendulum", agents.config("sac"))
    assert other.differences(run_config) == ["precision: 'default', not 'highest'"]
    with pytest.raises(ValueError, match="precision='high' is unknown; give one of default, highest"):
        RunConfig("sac", "rlx:pendulum", agents.config("sac"), precision="high")


def test_64_bit_mode_ends_at_the_entries():
    wide = lambda: (jnp.zeros(3) + np.ones(3)).dtype
    with jax.enable_x64(True):
        assert wide() == jnp.float64 and in_float32(wide)() == jnp.float32 and wide() == jnp.float64
        agent = agents.make("yann", None, plants.problem("cubic"), law="lqr", **plants.SMALL)
        assert agent.report.learner.low.dtype == jnp.float32
