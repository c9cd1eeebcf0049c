"""The generator of the game that a dynamics reward is learned in: its formulas in float64, and both ways it may learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import adversary, generators, scorer
from rlx.dynamics.adversary import Game, learn
from rlx.dynamics.generators import Data, Made
from rlx.nn.mlp import MLP
from tests.agents.numpy_nets import double, forward, heads, slopes
from tests.dynamics.test_scorer import line

KEY = jax.random.key(0)
N, M = 2, 1
GAME = Game(generator=(5,), batch=6, generator_by="rl")
NETS = adversary.networks(MLP((4, 1)), GAME, N, M)
close = lambda x, y, tol=1e-5: np.testing.assert_allclose(x, y, atol=tol, rtol=tol)


def silu(params, x):
    """A network of one hidden layer, float64."""
    first, last = (params["params"][f"Dense_{i}"] for i in range(2))
    x = x @ first["kernel"] + first["bias"]
    return (x / (1 + np.exp(-x))) @ last["kernel"] + last["bias"]


def made_data(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    obs, action = np.float32(rng.normal(size=(rows, N))), np.float32(rng.uniform(-1, 1, (rows, M)))
    new = np.float32(obs + [0.5, 2.0] * rng.uniform(-1, 1, (rows, N)))
    z = np.concatenate([obs, action], 1)
    return Data(*map(jnp.asarray, (obs, action, new, z.mean(0), z.std(0))), scorer.ranges(obs, action, new))


DATA = made_data()


def test_what_a_generator_makes_and_how_dense_it_is():
    """Against float64; a change of the largest in the data is 1."""
    params = NETS.generator.init(KEY, jnp.zeros(N + M))
    obs, action = DATA.obs[:6], DATA.action[:6]
    new, log_prob = generators.generate(NETS.generator, params, DATA, obs, action, KEY, False)
    z = (np.concatenate([obs, action], 1, dtype=np.float64) - DATA.mean) / DATA.std
    mean, log_variance = np.split(silu(double(params), z), 2, -1)
    std = np.exp(0.5 * np.clip(log_variance, -10, 0.5))
    noise = np.asarray(jax.random.normal(KEY, mean.shape), np.float64)
    close(new, obs + mean + std * noise)
    largest = np.abs(np.asarray(DATA.new) - np.asarray(DATA.obs)).max(0)
    close(generators.units(DATA.ranges), largest)
    own = std / largest  # of a change in these units
    close(log_prob, (-0.5 * noise**2 - np.log(own) - 0.5 * np.log(2 * np.pi)).sum(1))
    new, log_prob = generators.generate(NETS.generator, params, DATA, obs, action, KEY, True)
    x = mean + std * noise
    close(new, obs + 1.5 * largest * np.tanh(x))
    normal = -0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    close(log_prob, (normal - np.log(1.5 * (1 - np.tanh(x) ** 2))).sum(1))
    flat = scorer.ranges(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), np.ones((3, 1), np.float32))
    assert generators.units(flat).tolist() == [1.0]


@pytest.mark.slow
def test_later_steps_go_on_from_where_the_generator_is_as_the_clone_acts():
    params, cloned = NETS.generator.init(KEY, jnp.zeros(N + M)), NETS.clone.init(KEY, jnp.zeros(N))
    go = lambda horizon, params=params: generators.rollout(
        NETS.generator, params, NETS.clone, cloned, DATA, KEY, batch=6, horizon=horizon, squashed=False
    )
    long = jax.tree.map(lambda x: x.reshape(3, 6, -1), go(3))
    np.testing.assert_array_equal(long.obs[1:], long.new[:-1])
    np.testing.assert_array_equal(long.action[1:], long.after[:-1])
    assert {tuple(x) for x in np.asarray(long.obs[0])} <= {tuple(x) for x in np.asarray(DATA.obs)}
    one = go(1)
    assert one.obs.shape == (6, N) and not np.allclose(one.after, one.action)
    # a slope is that of each step by itself: what a step began from counts as given
    logit = lambda made: (made.new * jnp.arange(1, 19).reshape(-1, 1)).sum()
    given = go(3)

    def alone(params):
        z = (jnp.concatenate([given.obs, given.action], 1) - DATA.mean) / DATA.std
        said = generators.distribution(NETS.generator, params, z)
        noise = jax.lax.stop_gradient((given.new - given.obs - said.mean) / jnp.exp(said.log_std))
        return logit(given._replace(new=given.obs + said.mean + jnp.exp(said.log_std) * noise))

    whole = jax.grad(lambda params: logit(go(3, params)))(params)
    jax.tree.map(lambda x, y: close(x, y, 1e-3), whole, jax.grad(alone)(params))


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
def test_the_values_of_generated_transitions():
    """y, the critics' step and what the generator goes down, against float64."""
    y = generators.soft_targets(
        jnp.float32([0.0, 2.0]), jnp.float32([[1.0, 5.0], [2.0, 3.0]]), jnp.float32([-1.0, 0.5]), 0.1, 0.9
    )
    close(y, [np.log(2) + 0.9 * (1 + 0.1), np.log1p(np.exp(2)) + 0.9 * (3 - 0.05)])
    close(generators.soft_loss(jnp.float32([[1.0, 5.0], [2.0, 3.0]]), jnp.float32([-1.0, 0.5]), 0.1), -0.025 - 2.0)
    own = generators.critic(NETS.critics, KEY, 2 * N + M)
    rows = Made(DATA.obs[:6], DATA.action[:6], DATA.new[:6], DATA.action[6:12])
    read = double(scorer.inputs(DATA.ranges, True, *rows[:3]))
    q = generators.values(NETS.critics, own.params, DATA.ranges, True, *rows[:3])
    close(q, [forward(p, read)[:, 0] for p in heads(double(own.params))])
    y = np.linspace(-1, 1, 6)
    params = double(own.params)
    loss = lambda params: sum(((forward(p, read)[:, 0] - y) ** 2).mean() for p in heads(params))
    value = lambda p: ((generators.values(NETS.critics, p, DATA.ranges, True, *rows[:3]) - y) ** 2).mean(1).sum()
    grads = jax.tree.map(np.asarray, jax.grad(value)(own.params))
    slopes(loss, params, grads)
    moved = generators.learn_critic(own, NETS.critics, rows, jnp.float32(y), DATA.ranges, True)

    def first_step(new, old, g):
        """Of Adam: as large for each, against its slope."""
        sure = np.abs(g) > 1e-4
        close((np.asarray(new) - np.asarray(old))[sure], -generators.CRITIC_LR * np.sign(g[sure]), 1e-6)

    jax.tree.map(first_step, moved.params, own.params, grads)
    jax.tree.map(lambda t, old, new: close(t, old + 0.005 * (new - old), 1e-7), moved.target, own.target, moved.params)


def test_the_temperature_rises_where_there_is_too_little_entropy():
    own = generators.critic(NETS.critics, KEY, 2 * N + M)
    assert float(jnp.exp(own.log_temperature)) == pytest.approx(0.1)
    up, down = (generators.learn_temperature(own, jnp.float32(x), N) for x in (2.1, 1.9))  # the target is -2, for two numbers
    assert up.log_temperature > own.log_temperature > down.log_temperature


@pytest.mark.slow
def test_a_clone_acts_as_the_data():
    rng = np.random.default_rng(0)
    obs = np.float32(rng.normal(size=(2_000, N)))
    action = np.float32(0.4 * np.tanh(obs[:, :1]) + 0.1 * rng.normal(size=(2_000, 1)))
    z = np.concatenate([obs, action], 1)
    data = DATA._replace(obs=jnp.asarray(obs), action=jnp.asarray(action), mean=z.mean(0), std=z.std(0))
    params = generators.clone(NETS.clone, data, KEY, 1_500, 64)
    where = jnp.float32([[-1.5, 0.3], [0.0, -1.0], [1.5, 0.0]])
    drawn = jax.vmap(lambda k: generators.act(NETS.clone, params, data, where, k))(jax.random.split(KEY, 4_000))[..., 0]
    close(drawn.mean(0), 0.4 * np.tanh([-1.5, 0, 1.5]), 0.04)
    close(drawn.std(0), 0.1, 0.03)
    assert (jnp.abs(generators.act(NETS.clone, params, data, 100 * where, KEY)) <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["rl", "pathwise"])
def test_a_game_of_several_steps_tells_right_from_wrong(by):
    blank = scorer.blank(KEY, 1, 1, 4, (32, 32))
    game = Game(steps=400, snap_every=50, batch=64, generator=(16,), generator_by=by, horizon=3, clone_steps=200)
    found = learn(blank, *line(), KEY, game)
    assert found.gap[-1] > 1 and found.scorer.there.all()
    obs, action, new = (jnp.float32(x) for x in line(seed=1))
    own = jax.jit(lambda s, *rows: s(*rows))
    right, wrong = own(found.scorer, obs, action, new), own(found.scorer, obs, action, new + 0.6)
    assert float((right > wrong).mean()) > 0.9


@pytest.mark.slow
def test_the_critic_learns_what_the_discriminator_pays():
    """Without a future, the values of what is made go to softplus(d), d held still."""
    game = Game(batch=64, snap_every=1_500, generator=(32,), generator_by="rl", generator_discount=0.0, discriminator_lr=0.0,
                generator_lr=0.0, clone_steps=1)  # fmt: skip
    nets = adversary.networks(MLP((8, 1)), game, N, M)
    board = adversary.begin(nets, DATA, game, KEY)
    loud = jax.tree.map(lambda x: 3 * x, board.discriminator.params)
    board = board._replace(discriminator=board.discriminator._replace(params=loud))
    after = adversary.play(board, DATA, KEY, nets, True, game)
    made = generators.rollout(nets.generator, after.generator.params, nets.clone, after.clone, DATA, KEY, 64, 1, True)
    read = scorer.inputs(DATA.ranges, True, *made[:3])
    paid = jax.nn.softplus(nets.discriminator.apply(after.discriminator.params, read)[..., 0])
    q = generators.values(nets.critics, after.critic.params, DATA.ranges, True, *made[:3])
    before = generators.values(nets.critics, board.critic.params, DATA.ranges, True, *made[:3])
    off = lambda q: float(((q - paid) ** 2).mean() / paid.var())
    assert off(q) < 0.2 < 1 < off(before)
    jax.tree.map(np.testing.assert_array_equal, after.generator.params, board.generator.params)
