"""Every contract of rlx in one file.

Shapes are time-major: ``[T, W, ...]`` is what a rollout of ``T`` steps over ``W`` streams emits, what replay stores and
what samplers return. A member axis, where there is one, comes before everything else.

The one record. An environment emits a `Step` per observation; with the action taken there it is a `Row`. ``reward``,
``terminated`` and ``truncated`` belong to the *arrival* at ``obs``. So a transition is a pair of neighbouring rows::

    obs[t], action[t]  ->  reward[t+1], terminated[t+1], obs[t+1]
    where valid[t] & valid[t+1] & ~last[t] & ~first[t+1],    last = terminated | truncated

The row after a last row is the next episode's first row: its reward is 0, and the action given at a last row is ignored
and stored as 0. Bootstrapping looks at ``terminated[t+1]`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from rlx.precision import exact

# Numpy or JAX by turns, from the same code: a union would make a checker refuse each of its methods.
Array = Any
PyTree = Any
Key = jax.Array  # a typed key, ``jax.random.key``


# --------------------------------------------------------------------------------------------------------------- records


class Step(NamedTuple):
    """What an environment says on arrival at one observation. Leading axes: none, ``[W]`` or ``[T, W]``."""

    obs: PyTree  # as Spec.obs
    reward: Array  # float32, for the action that led here; 0 where first
    terminated: Array  # bool: the task ended here, its value is 0
    truncated: Array  # bool: the episode was cut here, its value goes on
    first: Array  # bool: an episode starts here
    info: dict[str, Array]  # fixed keys, Spec.info; stored and reduced, never seen by ``act``

    @property
    def last(self) -> Array:
        return self.terminated | self.truncated


class Row(NamedTuple):
    """A `Step` and what was done there: the record that replay stores."""

    obs: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    info: dict[str, Array]
    action: PyTree  # as Spec.action: floats in [-1, 1], or the number of a choice; 0 where last
    extras: dict[str, Array]  # from ``act``: log-probabilities, z, ...
    valid: Array  # bool: False for padding, such as rows after the end of a stopped stream

    @property
    def last(self) -> Array:
        return self.terminated | self.truncated


class Packed:
    """Observations as replay keeps them where that takes less room than what was seen: a pytree node. Samplers open it."""

    def opened(self) -> PyTree:
        """The observations, bit for bit as they were emitted."""
        raise NotImplementedError


PHYSICS = "physics"  # the leaf of `Step.info` that holds the state of the physics as one float32 vector, where it was asked for

Reduce = Literal["any", "sum", "max", "mean", "last"]


@dataclass(frozen=True)
class Leaf:
    """One array of an observation, action or info.

    ``reduce`` says how an info leaf becomes one number per episode: this is how success and violations are counted. Several
    ways make several numbers: of ``contact_force`` by ``("max", "mean")`` there are ``contact_force_max`` and ``_mean``.
    """

    shape: tuple[int, ...] = ()
    dtype: Any = np.float32
    low: float | np.ndarray = -np.inf
    high: float | np.ndarray = np.inf
    reduce: Reduce | tuple[Reduce, ...] = "last"

    @property
    def reduces(self) -> dict[str, Reduce]:
        """The ways of ``reduce``, by what is put behind the leaf's name: nothing where there is one."""
        return {"": self.reduce} if isinstance(self.reduce, str) else {f"_{way}": way for way in self.reduce}

    @property
    def choices(self) -> int | None:
        """How many values there are where the leaf is one of finitely many: a single integer between finite bounds. Else None.
        An action that is one of n choices is ``Leaf((), np.int32, low=0, high=n - 1)``."""
        if self.shape != () or not np.issubdtype(self.dtype, np.integer):
            return None
        low, high = float(self.low), float(self.high)
        return int(high) - int(low) + 1 if np.isfinite(low) and np.isfinite(high) else None

    def zeros(self, *lead: int) -> np.ndarray:
        return np.zeros((*lead, *self.shape), self.dtype)

    def __repr__(self) -> str:
        """Short: of bounds that differ from number to number, the least and the greatest."""
        low, high = (f"{edge(x):.4g}" if np.size(x) else "none" for edge, x in ((np.min, self.low), (np.max, self.high)))
        return f"Leaf({np.dtype(self.dtype)}{list(self.shape)}, {low} to {high}, by {self.reduce!r})"


@dataclass(frozen=True)
class Control:
    """What a controller may know of a plant, in physical units. Not the plant itself: that is ``Task.drift``.

    With y = ``outputs`` x, the cost of one decision, which is minus its reward, is

        (y - y_r)' ``q`` (y - y_r) + (u - ``u``)' ``r`` (u - ``u``) + du' ``rate`` du  (+ a penalty where limits are violated)

    where y_r is the set-point, or ``outputs`` ``x`` where the plant is to be held at its operating point (then du is 0).
    """

    dt: float  # time between decisions, in the drift's unit of time
    x: np.ndarray  # [n] the operating point: drift(x, u) = 0
    u: np.ndarray  # [m]
    u_low: np.ndarray  # [m] the input for an action of -1
    u_high: np.ndarray  # [m] and of 1
    x_low: np.ndarray  # [n] the box in which a law is wanted; where there are limits, it is those
    x_high: np.ndarray  # [n]
    q: np.ndarray  # [k, k]
    r: np.ndarray  # [m, m]
    measure: Callable[[Any, Array], dict[str, Array]]  # (xp, obs) -> "state" [n], and where there are such: "setpoint" [k],
    #                                                    "input" [m] (of the decision before), "disturbance" [l]
    outputs: np.ndarray | None = None  # [k, n]; None: all states
    rate: np.ndarray | None = None  # [m, m] weight of changes of the input; None: they are free
    setpoint_low: np.ndarray | None = None  # [k] where set-points lie
    setpoint_high: np.ndarray | None = None
    disturbance: np.ndarray | None = None  # [l] at the operating point
    disturbance_low: np.ndarray | None = None
    disturbance_high: np.ndarray | None = None
    model: tuple[np.ndarray, np.ndarray] | None = None  # a discrete model (A [n, n], B [n, m]) that is given, not derived
    names: tuple[str, ...] = ()  # of states, then of inputs, with units


@dataclass(frozen=True)
class Task:
    """Pure functions over ``(xp, physics, action)``, each optional, that accept any leading axes.

    ``xp`` is numpy or jax.numpy. One text serves native threads, MJX, relabelling, surrogates and linearisation.
    """

    observe: Callable[..., PyTree] | None = None  # (xp, physics) -> obs
    reward: Callable[..., Array] | None = None  # (xp, physics, action) -> float
    done: Callable[..., Array] | None = None  # (xp, physics) -> bool, terminated
    init: Callable[..., PyTree] | None = None  # (xp, physics, randomness) -> physics
    drift: Callable[..., Array] | None = None  # (xp, state, action) -> d state / dt
    project: Callable[..., PyTree] | None = None  # (xp, obs) -> the nearest admissible obs
    score: Callable[..., Array] | None = None  # (xp, obs, action) -> reward of arriving at obs, where obs tells it
    arrive: Callable[..., Array] | None = None  # (xp, obs, action) -> the next obs without noise, where obs tells it
    box: tuple[np.ndarray, np.ndarray] | None = None  # least and largest obs that a learned model is trusted with
    names: tuple[str, ...] = ()  # of the entries of obs, then of the action
    control: Control | None = None


@dataclass(frozen=True)
class Spec:
    """What an environment promises. ``horizon`` is in decisions (None: no limit); one decision is ``repeat`` sim steps.

    ``action`` is one of two kinds: floats in [-1, 1], which the environment clips and rescales; or one of n choices
    (``action.choices``), int32 from 0 on, which it takes as it is. ``native_action`` says what they stand for in the
    environment's own units: a leaf of the same shape whose ``low`` and ``high`` (``low``) are those of -1 and 1 (of choice 0).
    ``obs`` is a leaf or a dict of leaves, which may be dicts again; each array keeps its dtype on its way into replay.
    """

    obs: PyTree  # of Leaf
    action: Leaf
    info: dict[str, Leaf] = field(default_factory=dict)
    horizon: int | None = None
    repeat: int = 1
    task: Task = Task()
    native_action: Leaf | None = None  # None: the units are those of ``action``
    native_obs: PyTree = None  # of Leaf: what ``obs`` was before a wrapper made one vector of it; None: the same
    pack: Callable[[Row], Row] | None = None  # how replay keeps rows where that takes less room, see `Packed`
    tasks: Mapping[str, Task] = field(default_factory=dict)  # all that may be asked for in this world, each with its ``score``;
    #                                     which of them is paid is the number ``params["task"]``, in this order


class Clock(NamedTuple):
    """Where a run is, a function of stage and cycle alone. Traced int32, never batched over members, so that
    ``lax.cond`` on it stays a cond. An early stop of a stage does not shift the clocks of the stages after it."""

    cycle: Array  # cycles of this stage done so far
    env_steps: Array  # decisions in real environments (T x W) that all Collects so far were planned to take
    updates: Array  # updates so far


# ---------------------------------------------------------------------------------------------------------- environments


@dataclass(frozen=True)
class Env:
    """A device environment: two pure functions of one stream. `rlx.envs.batch` makes a `VecEnv` of it.

    ``params`` are traced, never closed over: refits, domain parameters and reward weights change without recompiling. Its
    functions are `rlx.precision.exact`.
    """

    name: str
    spec: Spec
    params: PyTree
    reset: Callable[[PyTree, Key], tuple[PyTree, Step]]
    step: Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, Step]]
    render: Callable[[PyTree, PyTree], np.ndarray] | None = None  # (params, state) -> uint8 [H, W, 3], on the host
    starts: Literal["exact", "pool", "lockstep"] = "exact"  # how batches start the next episode, see rlx.envs.autoreset
    view: Callable[[PyTree, PyTree, PyTree, Step], tuple[PyTree, Step]] | None = None
    # view(params, moved, state, step) -> (state, step): what goes on over the end of an episode, taken of where the stream had
    # moved, and what is seen, computed anew. Batches call it once fresh starts are in, so that pictures are drawn just once
    host: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for name in ("reset", "step", *(("view",) if self.view else ())):
            object.__setattr__(self, name, exact(getattr(self, name)))


@dataclass(frozen=True)
class HostEnv:
    """An environment that lives outside JAX. ``make(n)`` builds ``n`` streams as one `VecEnv`."""

    name: str
    spec: Spec
    make: Callable[[int, str], VecEnv]  # (streams, ends) -> VecEnv
    params: PyTree = None
    light: bool = False  # a stream more costs memory alone: all episodes of an evaluation may be open at once
    host: bool = field(default=True, init=False)


@runtime_checkable
class VecEnv(Protocol):
    """``n`` streams in lockstep. On the device all functions are pure and ``key`` is a typed key; on the host the state is
    a handle that ``step`` may change in place, arrays are numpy, and ``key`` is a `rlx.keys.HostKey`.

    ``ends="reset"`` starts the next episode after a last row; ``ends="stop"`` emits repetitions of the last row, which
    `rlx.envs.rollout` marks invalid.
    """

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def n(self) -> int: ...
    @property
    def host(self) -> bool: ...
    @property
    def ends(self) -> str: ...
    @property
    def params(self) -> PyTree: ...

    def reset(self, params: PyTree, key: Any) -> tuple[Any, Step]: ...
    def step(self, params: PyTree, state: Any, action: Any, key: Any) -> tuple[Any, Step]: ...
    def refresh(self, params: PyTree, state: Any, key: Any) -> Any:
        """Once before each Collect: redraws the pool of start states, where there is one."""
        ...

    def save(self, state: Any) -> PyTree:
        """Everything that decides the future, as arrays of fixed shape; None where the environment cannot be saved."""
        ...

    def load(self, arrays: PyTree) -> Any:
        """The state that was saved. Raises `rlx.envs.border.NotRepeated` where it cannot be reached again."""
        ...

    def render(self, params: PyTree, state: Any, index: int = 0) -> np.ndarray: ...
    def close(self) -> None: ...


class RolloutState(NamedTuple):
    """An interaction in progress: the environment's state, the step not yet acted on, the policy's carry."""

    env: PyTree
    step: Step
    carry: PyTree
    done: Array  # bool [W]: the stream is over (only where ends="stop")
    episode_return: Array  # float32 [W]: of the episode that goes on, as far as rows tell it
    episode_length: Array  # int32 [W]: its decisions


# ---------------------------------------------------------------------------------------------------------------- replay


class ReplayIndex(NamedTuple):
    """The index of a replay: small, on the device, one per member. ``C`` rows of capacity per stream.

    Row ``i`` of the ring is the ``(i - head) mod C``-th oldest when full. The newest step of each stream, whose action is
    not known yet (the tail), sits at ``head`` without counting in ``size``: it completes the last transition and is
    overwritten by the next add.
    """

    head: Array  # int32: where the next row goes
    size: Array  # int32: rows stored per stream, the tail not counted
    tail: Array  # bool: a tail is present at head
    flags: Array  # uint8 [C, W]: the bits of rlx.replay.flags, where episodes begin and end
    priority: Array  # float32 [C, W], or [0, 0] where none is kept


class ReplayState(NamedTuple):
    """``data`` may be shared by members and may live in host memory (numpy); ``overlay`` replaces leaves of it per member."""

    index: ReplayIndex  # type: ignore[assignment]
    data: Any  # a Row with leaves [C, W, ...], dtypes kept, () for those in index.flags; None where only the index is handed on
    overlay: dict[str, Array]  # leaves of data by name ("reward", "extras/z"), [C, W, ...]


Sources = Mapping[str, Any]  # replay states and frozen pytrees by name


@dataclass(frozen=True)
class Sampler:
    """Draws indices where the index lives, reads rows where the data live; ``sample(...)`` does both.

    A sampler may read ``hyper`` and ``clock``, never learned weights: that is what makes prefetching legal.
    """

    draw: Callable[[Sources, dict[str, Array], Clock, Key], PyTree]  # pure and jitted: reads the sources' indices only
    read: Callable[[Sources, PyTree], PyTree]  # batch of it; also plain numpy, for host data
    sources: tuple[str, ...] = ()
    prioritised: bool = False

    def __call__(self, hyper: dict[str, Array], clock: Clock, sources: Sources, key: Key) -> PyTree:
        return self.read(sources, self.draw(sources, hyper, clock, key))


# ---------------------------------------------------------------------------------------------------------------- agents


class AgentState(NamedTuple):
    """``hyper``: traced scalars by name, one compiled program serves all their values. ``learned``: everything that
    updates change (parameters, optimiser states, normalisers)."""

    hyper: dict[str, Array]
    learned: PyTree


class Out(NamedTuple):
    """What an update says: scalar metrics (``"critic/loss"``), and new priorities for the batch that it saw (or None).

    ``valid``: bool by name, for metrics that only some updates have, such as the loss of a delayed actor. Where it is False
    the metric may hold anything: it is not part of the mean that is logged, nor looked at for NaN.
    """

    metrics: dict[str, Array]
    priority: PyTree = None
    valid: dict[str, Array] | None = None


@dataclass(frozen=True)
class Collect:
    """Act for ``steps`` decisions per stream and store the rows ``into`` a buffer.

    ``params(state, sources)`` gives the environment's parameters (None: its own). ``fresh`` begins with a reset; otherwise
    the interaction goes on where it stopped. ``observe(state, rows, key)`` lets normalisers see the rows.
    """

    env: str
    steps: int
    into: str | None = None
    mode: str = "explore"
    params: Callable[[AgentState, Sources], PyTree] | None = None
    fresh: bool = False
    counts: Literal["real", "model"] = "real"
    observe: Callable[[AgentState, Row, Key], AgentState] | None = None
    every: int = 1


@dataclass(frozen=True)
class Update:
    """``n`` updates per cycle, each on a batch of its own. The priorities [B] of `Out` go back to the sources that
    ``priorities_of`` names (buffers, or rows of the problem's data), at the batch's ``index`` (a dict by source where the batch
    is a mixture)."""

    n: int
    sample: Sampler
    update: Callable[[AgentState, Clock, PyTree, Key], tuple[AgentState, Out]]
    priorities_of: str | tuple[str, ...] = ()
    every: int = 1


@dataclass(frozen=True)
class Host:
    """Work on numpy: fits, transports, relabelling. Shapes and dtypes of what it returns must be those it was given.
    With ``batched`` it sees all members at once, else it is called per member."""

    fn: Callable[[AgentState, dict[str, Any], Key], tuple[AgentState, dict[str, Any]]]
    every: int = 1
    batched: bool = False


Phase = Collect | Update | Host


@dataclass(frozen=True)
class Stage:
    """``cycles`` times the phases in order. A phase with ``every=k`` runs in every k-th cycle (k-1, 2k-1, ...).
    ``enter`` runs once and may change the structure of ``learned``; ``stop`` ends the stage early."""

    name: str
    cycles: int
    phases: tuple[Phase, ...]
    enter: Callable[[AgentState, Sources, Key], AgentState] | None = None
    stop: Callable[[AgentState], Array] | None = None


@dataclass(frozen=True)
class Eval:
    """Exactly ``episodes`` whole episodes, with the same keys each time, every ``every`` cycles and after the last."""

    name: str
    env: str  # a name in Problem.envs
    episodes: int = 10
    every: int = 1
    mode: str = "eval"
    params: Callable[[AgentState, Sources], PyTree] | None = None
    context: PyTree = None  # handed to Agent.carry: the task of a zero-shot agent
    params_axes: PyTree = None  # which of ``params`` are one per episode, as `rlx.envs.batch` takes it; device environments
    parts: tuple[str, ...] = ()  # what the episodes are of, in equal shares one after another: the log has each one's return
    stages: tuple[str, ...] = ()  # () means all


@dataclass(frozen=True)
class Problem:
    """What an agent is given: environments by name ("train" is the main one), and data by name: replay states or any frozen
    pytree, shared by all members."""

    envs: dict[str, Env | HostEnv] = field(default_factory=dict)
    data: dict[str, PyTree] = field(default_factory=dict)

    @property
    def evaluated(self) -> str:
        """The name of the environment that evaluations are in: "eval", or "train" where there is none."""
        return "eval" if "eval" in self.envs else "train"


def keep(state: AgentState, report: dict[str, Array], key: Key) -> AgentState:
    """The default ``on_eval``: nothing changes."""
    del report, key
    return state


@dataclass(frozen=True)
class Agent:
    """A method, as pure functions and a table of stages. Made by `rlx.agents.make`."""

    name: str
    config: Any
    hyper: dict[str, float]  # the traced values' defaults
    init: Callable[[Key, dict[str, Array]], AgentState]
    act: Callable[..., tuple[PyTree, PyTree, dict[str, Array]]]
    # act(state, clock, carry, step, key, mode) -> (action [W, A], carry, extras); resets its own carry where step.first
    stages: tuple[Stage, ...]
    envs: dict[str, VecEnv] = field(default_factory=dict)
    buffers: dict[str, Any] = field(default_factory=dict)  # rlx.replay.Replay by name
    reads: tuple[str, ...] = ()  # what it takes of Problem.data, by name; anything else there is refused
    carry: Callable[..., PyTree] = lambda state, n, context=None: ()  # (state, n, context) -> carry
    evals: tuple[Eval, ...] = ()
    modes: tuple[str, ...] = ("explore", "eval")
    on_eval: Callable[[AgentState, dict[str, Array], Key], AgentState] = keep
    report: Callable[[AgentState, Path], list[Path]] | None = None  # on the host, after training: files written into a folder


# ---------------------------------------------------------------------------------------------------------------- runner


@dataclass(frozen=True)
class Members:
    """Many runs as one program: a leading axis over ``keys`` [M] and each traced value of ``hypers`` [M].

    ``exchange(hypers, scores, key) -> (index, hypers)`` is population-based training: each member goes on from what member
    ``index`` [M] has learned, with these traced values [M], every ``every`` cycles. ``scores`` [M]: the latest mean evaluation
    return, -inf where there is none (not yet, or no longer alive).
    """

    keys: Key
    hypers: dict[str, Array] = field(default_factory=dict)
    exchange: Callable[[dict[str, Array], Array, Key], tuple[Array, dict[str, Array]]] | None = None
    every: int = 1


@dataclass
class RunState:
    """All of a run; all of it is in the checkpoint. A leading member axis where the run has members."""

    key: Key
    stage: int  # index into Agent.stages
    cycle: int  # cycles done in this stage
    agent: AgentState
    rollouts: dict[str, RolloutState]
    sources: dict[str, Any]
    counts: dict[str, np.ndarray]  # int64: env_steps, sim_steps, eval_steps, model_steps, updates
    best: dict[str, Any]  # {"score", "learned", "cycle"}, or empty
    alive: np.ndarray  # bool [], or [M]
    reports: dict[str, Any]  # metric sums since the last log line
    member_ids: np.ndarray | None = (
        None  # int: the member in each row of rollouts and sources, -1 for none (see rlx.train.placement)
    )
    retired: dict[str, Any] = field(default_factory=dict)  # what members had learned that died and left their place, [M]
