"""Learning a `TransitionScorer`: a discriminator and a generator of transitions play against each other, and the discriminator
is remembered as it was at many moments (Luo et al. 2024, arXiv:2310.05422; inverse reinforcement learning of the environment,
taken as an agent that is in (s, a) and does s').

::

    repeat: D   <- down the gradient of softplus(-d(real)) + softplus(d(generated)) - c H(d)                          (eq. 2)
            every ``ratio``-th time, a step of G (`rlx.dynamics.generators`): down the gradient of
            softplus(-d(s, a, s')),  s' ~ G(s, a)                                                                     (eq. 3)
            or by soft actor-critic
            every ``snap_every``-th time, remember D, and the logits that it gives to either kind

The paper's code for this step was never published; the recipe is our own. The generator must be slow and begin from nothing:
once it has won, no discriminator can tell anything, and the calibration of `TransitionScorer` divides by what is left. So the
gap between the two kinds of logits is recorded at each snapshot, snapshots of too small a gap do not count, and a game in
which none is left raises.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.config import size
from rlx.dynamics import generators
from rlx.dynamics.generators import Critic, Data, Made, generate
from rlx.dynamics.scorer import TransitionScorer, inputs, ranges
from rlx.nn.mlp import MLP, stack
from rlx.nn.optim import apply_gradients, optimizer
from rlx.types import Array, Key, PyTree

RECENT = 20  # steps over which the logits of a snapshot are averaged
KEPT = 400  # snapshots, the newest


@dataclass(frozen=True)
class Game:
    """Settings of the learning of a dynamics reward."""

    steps: int = size(200_000, "of the discriminator", least=1)
    snap_every: int = size(500, "steps between snapshots", least=1)
    batch: int = size(256, "real transitions, and as many generated ones", least=1)
    ratio: int = size(5, "steps of the discriminator for one of the generator", least=1)
    discriminator_lr: float = size(3e-4, least=0)
    generator_lr: float = size(1e-4, least=0)
    b1: float = size(0.5, "Adam's first decay, of both", least=0, below=1)
    entropy_coef: float = size(1e-3, "c, of the entropy of what the discriminator says", least=0)
    gap_min: float = size(0.1, "least gap of the logits of a snapshot that counts", least=0)
    generator: tuple[int, ...] = size((200, 200), "its hidden layers", least=1)
    generator_by: Literal["pathwise", "rl"] = "pathwise"  # its slope is the discriminator's, or it is an agent paid by it
    generator_discount: float = size(0.99, "of that agent", least=0, most=1)
    horizon: int = size(1, "steps in a row of the generator, as a clone of the data's policy acts", least=1)
    clone_steps: int = size(2_000, "of learning that clone, where there is anything for it to do", least=1)
    scale_change: bool = True  # changes are read in units of the largest in the data


class Nets(NamedTuple):
    """Static: what is computed."""

    discriminator: MLP
    generator: MLP
    clone: MLP
    critics: Any  # two, of a generator that is an agent


class Player(NamedTuple):
    params: PyTree
    opt: PyTree


class Board(NamedTuple):
    """The state of the game."""

    discriminator: Player
    generator: Player
    critic: Critic | tuple[()]
    clone: PyTree
    recent: Array  # [RECENT, 2], the latest mean logits on real and on generated transitions
    step: Array  # int32


class Snapshots(NamedTuple):
    """By time [S, ...]."""

    params: PyTree
    real: np.ndarray  # [S], mean logits
    generated: np.ndarray  # [S]


class Learned(NamedTuple):
    scorer: TransitionScorer
    real: np.ndarray  # [S], mean logits of all snapshots on real transitions
    generated: np.ndarray  # [S]

    @property
    def gap(self) -> np.ndarray:
        return self.real - self.generated


def bernoulli_entropy(logit: Array) -> Array:
    return jax.nn.softplus(logit) - jax.nn.sigmoid(logit) * logit


def discriminator_loss(real: Array, generated: Array, entropy_coef: Array | float) -> Array:
    """(eq. 2) of logits [B]."""
    entropy = bernoulli_entropy(jnp.concatenate([real, generated])).mean()
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(generated).mean() - entropy_coef * entropy


def learn(scorer: TransitionScorer, obs: np.ndarray, action: np.ndarray, new: np.ndarray, key: Key, game: Game) -> Learned:
    """``scorer`` (`rlx.dynamics.scorer.blank`) after the game on real transitions ``obs`` [N, n], ``action`` [N, m], ``new``
    [N, n], on the host; the discriminator has the scorer's network. The steps between two snapshots are one compiled program.

    Raises:
        ValueError: rows that do not fit the scorer or are not finite; a game without a snapshot that can tell.
    """
    obs, action, new = (np.asarray(x, np.float32) for x in (obs, action, new))
    _check(scorer, obs, action, new)
    action = np.clip(action, -1, 1)
    z = np.concatenate([obs, action], 1).astype(np.float64)
    std = np.where(z.std(0) < 1e-12, 1.0, z.std(0))
    own = ranges(obs, action, new, game.scale_change and scorer.delta)
    f32 = lambda x: jnp.asarray(x, jnp.float32)
    data = Data(f32(obs), f32(action), f32(new), f32(z.mean(0)), f32(std), own)
    nets = networks(scorer.network, game, obs.shape[1], action.shape[1])
    board = begin(nets, data, game, jax.random.fold_in(key, 0))
    kept: list[PyTree] = []
    real, generated = [], []
    for i in range(max(1, game.steps // game.snap_every)):
        board = play(board, data, jax.random.fold_in(key, 1), nets, scorer.delta, game)
        logits = np.asarray(board.recent)[: game.snap_every * (i + 1)].mean(0)
        real.append(logits[0])
        generated.append(logits[1])
        kept = [*kept, jax.tree.map(np.asarray, board.discriminator.params)][-KEPT:]
    first = len(real) - len(kept)
    shots = Snapshots(kept, np.array(real[first:], np.float32), np.array(generated[first:], np.float32))
    chosen = choose(dataclasses.replace(scorer, ranges=own), shots, game.gap_min)
    return Learned(chosen, np.array(real, np.float32), np.array(generated, np.float32))


def networks(discriminator: MLP, game: Game, n: int, m: int) -> Nets:
    """For observations [n] and actions [m]."""
    made = lambda out: MLP((*game.generator, out), "silu", kernel_init="half_normal")
    return Nets(discriminator, made(2 * n), made(2 * m), stack(MLP((*game.generator, 1)), 2))


def begin(nets: Nets, data: Data, game: Game, key: Key) -> Board:
    n, m = data.obs.shape[1], data.action.shape[1]
    adam = optimizer(0.0, b1=game.b1)
    d = nets.discriminator.init(jax.random.fold_in(key, 0), jnp.zeros(2 * n + m))
    g = nets.generator.init(jax.random.fold_in(key, 1), jnp.zeros(n + m))
    agent = game.generator_by == "rl"
    critic = generators.critic(nets.critics, jax.random.fold_in(key, 2), 2 * n + m) if agent else ()
    idle = not agent and game.horizon == 1
    steps = 0 if idle else game.clone_steps
    clone = generators.clone(nets.clone, data, jax.random.fold_in(key, 3), steps, game.batch)
    return Board(Player(d, adam.init(d)), Player(g, adam.init(g)), critic, clone, jnp.zeros((RECENT, 2)), jnp.int32(0))


@partial(jax.jit, static_argnames=("nets", "delta", "game"))
def play(board: Board, data: Data, key: Key, nets: Nets, delta: bool, game: Game) -> Board:
    """``snap_every`` steps of the discriminator, and those of the generator between them."""
    adam = {k: optimizer(lr, b1=game.b1) for k, lr in (("d", game.discriminator_lr), ("g", game.generator_lr))}
    logit = lambda params, *rows: nets.discriminator.apply(params, inputs(data.ranges, delta, *rows))[..., 0]
    rows, agent = data.obs.shape[0], game.generator_by == "rl"

    def made(params: PyTree, key: Key) -> Made:
        return generators.rollout(nets.generator, params, nets.clone, board.clone, data, key, game.batch, game.horizon, agent)

    def d_loss(params: PyTree, real: Any, fake: Made) -> tuple[Array, Array]:
        d_real, d_fake = logit(params, *real), logit(params, *fake[:3])
        return discriminator_loss(d_real, d_fake, game.entropy_coef), jnp.stack([d_real.mean(), d_fake.mean()])

    def by_slope(params: PyTree, d: PyTree, key: Key) -> Array:
        return generators.pathwise_loss(logit(d, *made(params, key)[:3]))

    def valued(own: Critic, fake: Made, d: PyTree, g: PyTree, key: Key) -> Critic:
        """The critic after one step on ``fake``, which ``d`` pays for."""
        new, log_prob = generate(nets.generator, g, data, fake.new, fake.after, key, agent)
        following = generators.values(nets.critics, own.target, data.ranges, delta, fake.new, fake.after, new)
        reward, temperature = logit(d, *fake[:3]), jnp.exp(own.log_temperature)
        y = generators.soft_targets(reward, following, log_prob, temperature, game.generator_discount)
        return generators.learn_critic(own, nets.critics, fake, y, data.ranges, delta)

    def by_value(params: PyTree, own: Critic, fake: Made, key: Key) -> tuple[Array, Array]:
        new, log_prob = generate(nets.generator, params, data, fake.obs, fake.action, key, agent)
        q = generators.values(nets.critics, own.params, data.ranges, delta, fake.obs, fake.action, new)
        return generators.soft_loss(q, log_prob, jnp.exp(own.log_temperature)), log_prob.mean()

    def turn(g: Player, own: Any, fake: Made, d: PyTree, key: Key) -> tuple[Player, Any]:
        """A step of the generator."""
        if not agent:
            grads = jax.grad(by_slope)(g.params, d, key)
        else:
            grads, log_prob = jax.grad(by_value, has_aux=True)(g.params, own, fake, key)
            own = generators.learn_temperature(own, log_prob, data.obs.shape[1])
        return Player(*apply_gradients(adam["g"], g.params, grads, g.opt)), own

    def step(_: Array, board: Board) -> Board:
        k = jax.random.split(jax.random.fold_in(key, board.step), 3)
        at = jax.random.randint(k[0], (game.batch,), 0, rows)
        d, g, own = board.discriminator, board.generator, board.critic
        fake = jax.lax.stop_gradient(made(g.params, k[1]))
        grads, logits = jax.grad(d_loss, has_aux=True)(d.params, (data.obs[at], data.action[at], data.new[at]), fake)
        d = Player(*apply_gradients(adam["d"], d.params, grads, d.opt))
        if isinstance(own, Critic):
            own = valued(own, fake, d.params, g.params, jax.random.fold_in(k[2], 0))
        move = lambda g, own: turn(g, own, fake, d.params, k[2])
        g, own = jax.lax.cond((board.step + 1) % game.ratio == 0, move, lambda g, own: (g, own), g, own)
        recent = board.recent.at[board.step % RECENT].set(logits)
        return board._replace(discriminator=d, generator=g, critic=own, recent=recent, step=board.step + 1)

    return jax.lax.fori_loop(0, game.snap_every, step, board)


def choose(scorer: TransitionScorer, shots: Snapshots, gap_min: float) -> TransitionScorer:
    """``scorer`` of as many snapshots as it has room for: of those that can tell, from the newest back, evenly.

    Raises:
        ValueError: none can.
    """
    gap = np.asarray(shots.real) - np.asarray(shots.generated)
    able = np.flatnonzero(gap > gap_min)  # false where it is not a number
    if not len(able):
        raise ValueError(
            f"no discriminator of {len(gap)} tells real transitions from generated ones: the gap of their logits is at most "
            f"{np.nanmax(gap) if np.isfinite(gap).any() else np.nan:.3g}, not above {gap_min:g}. The generator has won: "
            "slow it down (generator_lr, ratio), or take snapshots earlier (snap_every)."
        )
    if len(able) < len(gap) / 2 or gap[-1] <= gap_min:
        warnings.warn(
            f"the dynamics reward: {len(gap) - len(able)} of {len(gap)} discriminators cannot tell real transitions from "
            f"generated ones (the last gap is {gap[-1]:.3g}) and do not count; a slower generator (generator_lr, ratio) leaves "
            "more to learn from.",
            stacklevel=2,
        )
    room = scorer.count
    picked = able[::-1][:: -(-len(able) // room)][::-1]
    at = np.concatenate([picked, np.full(room - len(picked), picked[-1])])
    params = jax.tree.map(lambda *xs: jnp.stack(xs), *(shots.params[i] for i in at))
    e, low = (jnp.asarray(np.asarray(x)[at], jnp.float32) for x in (shots.real, shots.generated))
    there = jnp.arange(room) < len(picked)
    return dataclasses.replace(scorer, params=params, real=e, generated=low, there=there)


def _check(scorer: TransitionScorer, obs: np.ndarray, action: np.ndarray, new: np.ndarray) -> None:
    n, m = (x.shape[0] for x in (scorer.ranges.obs_low, scorer.ranges.action_low))
    if obs.shape != new.shape or obs.shape[1:] != (n,) or action.shape != (len(obs), m) or not len(obs):
        raise ValueError(
            f"the scorer is of observations [{n}] and actions [{m}]; got rows {list(obs.shape)}, {list(action.shape)}, "
            f"{list(new.shape)}."
        )
    bad = ~(np.isfinite(obs).all(1) & np.isfinite(action).all(1) & np.isfinite(new).all(1))
    if bad.any():
        raise ValueError(f"{int(bad.sum())} transitions are not finite, the first is row {int(np.argmax(bad))}.")
