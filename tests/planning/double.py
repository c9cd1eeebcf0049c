"""What must hold to more digits than float32 has: all of it in one process that computes in float64. ``results()`` runs it
once and gives largest errors by name; ``JAX_ENABLE_X64=1 python -m tests.planning.double`` prints them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx.agents.yann import Config
from rlx.agents.yann import networks as nets
from rlx.agents.yann.controller import build, corners
from rlx.agents.yann.learner import Learner, Units
from rlx.planning import laws, mpqp
from rlx.planning.linear import linearise
from rlx.types import Problem

from . import problems
from .problems import box, draws, inside, law_of, solved

ROOT = Path(__file__).resolve().parents[2]
ONE = Units(jnp.ones(()), jnp.ones(()))


@functools.cache
def results() -> dict[str, Any]:
    """Of `measured`, from a process of its own."""
    env = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "RLX_CACHE": "off"}
    command = [sys.executable, "-m", "tests.planning.double"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def worst(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def learner(env: str = "rlx:upright-pendulum", discount: float = 0.99, **settings: Any) -> Learner:
    config = Config(discount=discount, **settings)
    return Learner(config, build(config, Problem({"train": rlx.envs.make(env)})))


def moved(tree: Any, size: float = 0.3) -> Any:
    """Parameters somewhere else, the same each time."""
    return jax.tree.map(lambda x: x + size * jnp.cos(1.7 * jnp.arange(x.size)).reshape(x.shape), tree)


def scalar() -> dict[str, float]:
    program, regions = solved("scalar")
    z = np.linspace(-4, 4, 801)[:, None]
    nearest = laws.piecewise(regions, program, tolerance=1e-9)
    zero = laws.piecewise(regions, program, "zero", tolerance=1e-9)
    wanted = np.clip(-0.5 * z, -0.5, 0.5)
    named = nearest(jnp.array([[-1.0], [0.4], [1.0], [2.0], [4.0], [5.0]])).u[:, 0]
    return {
        "scalar law": max(worst(law(jnp.asarray(z)).u, wanted) for law in (nearest, zero)),
        "scalar law, named points": worst(named, [0.5, -0.2, -0.5, -0.5, -0.5, -0.5]),
    }


def gates() -> dict[str, float]:
    """The gather against the big-M layers: laws alone, and with a residual that is not 0."""
    found = {}

    @jax.jit
    def apart(law: laws.PiecewiseLaw, net: nets.BigM, z: jax.Array) -> jax.Array:
        y3 = nets.bigm_gates(net, z)[1]
        u = nets.bigm_output(net, y3, law.affine(z[:, None], jnp.arange(law.regions)))
        return jnp.abs(u - law(z).u).max()

    for name, compressed in (("pendulum", False), ("tutorial", True)):
        program, regions = solved(name)
        law = laws.piecewise(regions, program, "zero", tolerance=0.0, compressed=compressed)
        net = nets.bigm_init(law, corners(*box(program)))
        found[f"{name}, compressed: {compressed}"] = float(apart(law, net, jnp.asarray(draws(program, 2000))))
    for kind in ("block", "paper", "shared"):
        settings = {"residual": kind, "outside": "zero", "width": 4, "trust": 0.3, "init": "paired"}
        plain, layers = (learner(mode=mode, **settings) for mode in ("gated", "bigm"))
        z = jnp.asarray(inside(plain.known.program, plain.known.regions, 500))

        @jax.jit
        def of(z: jax.Array, plain: Learner = plain, layers: Learner = layers) -> jax.Array:
            actor = moved(plain.actor_init(jax.random.key(0)), 0.5)
            u, v = plain.raw(actor, z)[0], layers.raw(actor, z)[0]
            return jnp.abs(u - v).max() + jnp.where(jnp.abs(u - plain.known.law(z).u).max() > 0.1, 0.0, jnp.inf)

        found[f"residual {kind}"] = float(of(z))
    return {f"gated against big-M, {name}": error for name, error in found.items()}


def values() -> dict[str, float]:
    found = {}
    for name in ("pendulum", "double_integrator"):
        program, regions = solved(name)
        value = laws.piecewise_value(regions, program, laws.piecewise(regions, program, tolerance=1e-9))
        z = inside(program, regions, 1000)
        U = law_of(regions, z)
        H, F, Y = program.H, program.F, program.Y
        cost = np.einsum("bi,ij,bj->b", U, H, U) + 2 * np.einsum("bi,ij,bj->b", U, F, z) + np.einsum("bi,ij,bj->b", z, Y, z)
        found[f"value of the program, {name}"] = float((np.abs(np.asarray(value(jnp.asarray(z))) - cost) / cost).max())
        M, c, d = (np.asarray(part) for part in (value.M, value.c, value.d))
        at = lambda i, z, M=M, c=c, d=d: z @ M[i] @ z + c[i] @ z + d[i]
        jumps = [abs(at(i, z) - at(j, z)) for i, j, z in problems.shared_facets(regions)]
        assert len(jumps) > 6
        found[f"jump of the value, {name}"] = max(jumps)
    env = rlx.envs.make("rlx:upright-pendulum")
    program = problems.pendulum(linearise(env))
    regions = mpqp.solve(program, cache=False)
    value = laws.piecewise_value(regions, program, laws.piecewise(regions, program, tolerance=1e-9))
    return {**found, "pendulum's value": float(value(jnp.array([0.05, 0.0])))}


def bellman(learner: Learner, law: laws.BaseLaw, z: jax.Array, u: jax.Array) -> float:
    """The largest residual of cost + discount Q(z', law(z')) - Q(z, u), Q as it is at the start."""
    known, discount = learner.known, learner.config.discount

    @jax.jit
    def residual(z: jax.Array, u: jax.Array) -> jax.Array:
        critic = learner.critic_init(jax.random.key(0))
        ahead = known.predicted(z, u)
        target = known.cost(z, u) + discount * learner.q_value(critic, ONE, ahead, law(ahead).u)
        return jnp.abs(target - learner.q_value(critic, ONE, z, u)).max()

    return float(residual(z, u))


def quadratics() -> dict[str, float]:
    """The critic's form against the matrix that it is made of."""
    rng = np.random.default_rng(0)
    errors, least = [], []
    for env in ("rlx:upright-pendulum", "rlx:t2-reactor", "rlx:cstr"):
        one = learner(env, law="lqr")
        W, nz = one.known.W, one.nz
        x = rng.uniform(-1, 1, (200, len(W)))
        z = x[:, :nz]
        of = jax.jit(lambda z, u, W=W, nz=nz, form=one.form: nets.quadratic(nets.quadratic_init(W, nz), form, z, u))
        got = np.asarray(of(z, x[:, nz:])) - nets.RIDGE * (x[:, nz:] ** 2).sum(-1)
        errors.append(worst(got, np.einsum("bi,ij,bj->b", x, W, x)) / np.abs(W).max())
        value = W[:nz, :nz] - W[:nz, nz:] @ np.linalg.solve(W[nz:, nz:], W[nz:, :nz])
        least.append(worst(one.form.value(jnp.asarray(z)), np.einsum("bi,ij,bj->b", z, value, z)) / np.abs(value).max())
    return {"action value against x'Wx": max(errors), "least action value against s'Ps": max(least)}


def critics() -> dict[str, float]:
    """The actor's law is the undiscounted regulator, the critic is discounted: they agree where the discount is 1."""
    rng = np.random.default_rng(0)
    z, u = jnp.asarray(rng.uniform(-0.02, 0.02, (500, 2))), jnp.asarray(rng.uniform(-0.1, 0.1, (500, 1)))
    found = {}
    for discount in (1.0, 0.99):
        one = learner(law="lqr", discount=discount, init="paired")
        law = laws.regulator(one.known.control, one.known.model, clipped=False)
        greedy = laws.regulator(one.known.control, one.known.model, discount, clipped=False)
        assert float(jnp.abs(law(one.known.predicted(z, u)).u).max()) < 2
        found[f"Bellman residual, discount {discount}"] = bellman(one, law, z, u)
        found[f"Bellman residual, greedy, discount {discount}"] = bellman(one, greedy, z, u)
    one = learner(critic="mpqp", critic_input="paper", init="paired")
    known = one.known
    z = jnp.asarray(inside(known.program, known.regions, 200)) * 0.8
    u = jnp.asarray(rng.uniform(-2, 2, (200, 1)))

    @jax.jit
    def off(z: jax.Array, u: jax.Array) -> jax.Array:
        stage = (z**2 * jnp.array([1, 0.1])).sum(-1) + 0.001 * u[:, 0] ** 2
        ahead = z @ jnp.asarray(known.model.A).T + u @ jnp.asarray(known.model.B).T
        exact = stage + 0.99 * known.value(ahead)
        return (jnp.abs(one.q_value(one.critic_init(jax.random.key(0)), ONE, z, u) - exact) / exact).max()

    found["mpqp critic"] = float(off(z, u))
    return found


def measured() -> dict[str, float]:
    assert jnp.zeros(1).dtype == jnp.float64
    return {**scalar(), **gates(), **values(), **quadratics(), **critics()}


if __name__ == "__main__":
    print(json.dumps(measured()))
