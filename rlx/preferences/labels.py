"""Where labels come from: true returns, chance, another task, or a file.

One function, `label`, chooses trajectories of the target and pairs of them and labels these; the kinds are those that PEARL is
compared with::

    oracle        which has the larger true return
    random        a coin
    cpa           carried over from a source by transport (`rlx.preferences.alignment`)
    cpa+fewshot   the same, with a share of true labels, by which a mirrored coupling is noticed
    sim, dis      carried over from the most similar, or nearest, source trajectory

There may be several sources for the former two of these; they vote (`alignment.vote`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlx.preferences import alignment, pairs
from rlx.preferences.alignment import Alignment, Settings
from rlx.preferences.features import Trajectories, features
from rlx.preferences.pairs import Episodes, Pairing, Preferences
from rlx.types import Array

KINDS = ("oracle", "random", "cpa", "cpa+fewshot", "sim", "dis")
CARRIED = ("cpa", "cpa+fewshot", "sim", "dis")
DISCOUNT = 0.99  # of the return of a piece


class Source(NamedTuple):
    """Labelled trajectories of another task; a frozen pytree. Shorter ones repeat their last step."""

    obs: Array  # float32 [M, T, n]
    action: Array  # float32 [M, T, m]
    preferred: Array  # float32 [M, M] P(i is preferred to k)
    known: Array  # bool [M, M]

    def trajectories(self) -> Trajectories:
        return list(zip(np.asarray(self.obs), np.asarray(self.action), strict=True))


def source_of(found: Episodes, given: Preferences | None = None, most: int = 64, seed: int = 0) -> Source:
    """At most ``most`` episodes as a source: labelled by their true returns, or only where ``given`` compares two whole ones.
    Of several answers on one pair the mean counts, by their weights.

    Raises:
        ValueError: a pair points outside of the episodes, or is of pieces; none of ``given`` is between episodes that are
            taken; or nothing is given, and all returns are the same.
    """
    chosen = some(len(found.steps), most, np.random.default_rng(seed))
    if given is not None:
        pairs.rows_of(given, found)
        _whole(given, found)
        named = np.unique(np.asarray(given.episode)[:, np.asarray(given.weight) > 0])
        chosen = named[some(len(named), most, np.random.default_rng(seed))]
    longest = int(found.steps[chosen].max())
    all_of = found.trajectories()
    pad = lambda x: np.concatenate([x, np.repeat(x[-1:], longest - len(x), 0)]).astype(np.float32)
    obs, action = (np.stack([pad(all_of[i][part]) for i in chosen]) for part in (0, 1))
    if given is None:
        if np.ptp(found.returns[chosen]) == 0:
            raise ValueError("all episodes of the source have one return, so nothing says which is better: give it labels.")
        z, known = alignment.by_return(found.returns[chosen]), np.ones((len(chosen),) * 2, bool)
        return Source(obs, action, z.astype(np.float32), known)
    total, weight = np.zeros((2, len(chosen), len(chosen)))
    place = {int(e): at for at, e in enumerate(chosen)}
    for first, second, y, w in zip(*np.asarray(given.episode), given.label, given.weight, strict=True):
        if w > 0 and first != second and first in place and second in place:
            i, k = place[int(first)], place[int(second)]
            total[i, k], total[k, i] = total[i, k] + w * (1 - y), total[k, i] + w * y
            weight[[i, k], [k, i]] += w
    known = (weight > 0) | np.eye(len(chosen), dtype=bool)
    z = np.where(weight > 0, total / np.maximum(weight, 1e-12), 0.5)
    if not weight.any():
        raise ValueError("none of the source's labels is between two of the trajectories that are taken of it.")
    return Source(obs, action, z.astype(np.float32), known)


def _whole(given: Preferences, found: Episodes) -> None:
    """Raises ValueError where nothing of ``given`` counts, or something is of pieces of episodes."""
    counts = pairs.counting(given, "source: ")
    shorter = found.steps[np.asarray(given.episode)].min(0)
    pieces = counts & ((np.asarray(given.start) > 0).any(0) | (np.asarray(given.steps) < shorter))
    if pieces.any():
        at = int(np.argmax(pieces))
        raise ValueError(
            f"pair {at} of the source's labels is of pieces ({given.steps[at]} of {shorter[at]} decisions); transport compares "
            "whole episodes, since pieces of different phases would mix time with quality. Label whole ones (no --segment)."
        )


def some(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` of the numbers below ``n``, in order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


class Labelled(NamedTuple):
    """Pairs with labels, and what is known of how they came about."""

    pairs: Preferences
    chosen: np.ndarray  # int [N] episodes of the target
    alignment: Alignment | None  # None where nothing was carried over; of several sources what they say together
    flipped: bool  # a coupling was a mirror image, and its labels were turned
    each: tuple[Alignment, ...]  # what each source says,
    votes: np.ndarray  # and its weight, float64 [K]


def sources_of(kind: str, given: Any, who: str = "") -> tuple[Source, ...]:
    """One source or several, as labels of this kind are carried over from. ``who`` begins a message.

    Raises:
        ValueError: there is none, something is no source, or there are several for a kind that takes one.
    """
    each = tuple(given) if type(given) in (list, tuple) else (given,)  # named ones are no list
    odd = [type(x).__name__ for x in each if not isinstance(x, Source)]
    if odd or not each:
        what = "there is none" if given is None or not each else f"what is given is a {odd[0]}"
        raise ValueError(
            f"{who}labels={kind!r} are carried over from a source, and {what}: give Problem.data['source'] = "
            "rlx.preferences.source_of(...), or a list of those, or --agent.source FILE in a command."
        )
    if len(each) > 1 and kind not in ("cpa", "cpa+fewshot"):
        raise ValueError(
            f"{who}labels={kind!r} are carried over from one source, and there are {len(each)}; give 'cpa' or one."
        )
    return each


def all_carried(kind: str, sources: Sequence[Source], target: Trajectories, settings: Settings) -> list[Alignment]:
    """`carried` from each of ``sources``. Raises ValueError that says which of several does not fit."""
    out = []
    for k, source in enumerate(sources):
        try:
            out.append(carried(kind, source, target, settings))
        except ValueError as error:
            raise ValueError(f"source {k + 1} of {len(sources)}: {error}" if len(sources) > 1 else str(error)) from None
    return out


def carried(kind: str, source: Source, target: Trajectories, settings: Settings) -> Alignment:
    """Labels of all pairs of ``target``, by transport or by the nearest source trajectory."""
    z, known = np.asarray(source.preferred, np.float64), np.asarray(source.known)
    if kind in ("cpa", "cpa+fewshot"):
        return alignment.align(source.trajectories(), target, z, known, settings)
    z, known = alignment.checked(z, known)
    fs, ft = (features(x, "flat_sa") for x in (source.trajectories(), target))
    coupling = alignment.nearest(fs, ft, "cosine" if kind == "sim" else "euclidean")
    label, weight, confidence = alignment.transfer(coupling.plan, np.full(len(ft), 1 / len(ft)), z, known)
    return Alignment(label, weight, confidence, coupling, False, float("nan"))


def groups(kind: str, n: int, size: int | None) -> np.ndarray:
    """int [n]: the group of each trajectory; only pairs within one get labels of this kind."""
    return alignment.groups_of(n, size if kind in ("cpa", "cpa+fewshot") else None)


def by_returns(found: Episodes, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [P]: 1 where the second episode's true return is larger, 0.5 where they are equal."""
    return 0.5 + 0.5 * np.sign(found.returns[second] - found.returns[first])


def of_pieces(found: Episodes, count: int, steps: int, rng: np.random.Generator, discount: float = DISCOUNT) -> Preferences:
    """``count`` random pairs of pieces of ``steps`` decisions anywhere, the second preferred where its discounted return is the
    larger one, as the scripted labels of inverse preference learning are (Hejna and Sadigh 2023, arXiv:2305.15363).

    Raises:
        ValueError: no episode is as long.
    """
    episode, start = pairs.places(found.steps, steps)
    which = rng.integers(len(episode), size=(2, count))
    arrival = found.begin[episode[which]] + start[which] + 1  # rewards belong to it
    value = found.reward[arrival[..., None] + np.arange(steps)] @ discount ** np.arange(steps)
    y = 0.5 + 0.5 * np.sign(value[1] - value[0])
    return pairs.preferences(episode[which], y, steps, start=start[which], source="script")


def label(
    kind: str,
    found: Episodes,
    rng: np.random.Generator,
    *,
    source: Source | Sequence[Source] | None = None,
    settings: Settings | None = None,
    most: int = 64,
    count: int | None = 500,
    pairing: Pairing = "all",
    least_confidence: float = 0.0,
    share: float = 0.1,
) -> Labelled:
    """Labels of pairs of whole episodes: of at most ``most`` of them, at most ``count`` pairs. Labels less confident than
    ``least_confidence`` get a weight of 0. ``share``: of the true labels of "cpa+fewshot". Several sources vote.

    Raises:
        ValueError: an unknown kind, no source where one is needed or one that does not fit, or fewer than two episodes.
    """
    if kind not in KINDS:
        raise ValueError(f"labels={kind!r} is unknown: give one of {', '.join(KINDS)}, or a file that ends in .npz.")
    if len(found.steps) < 2:
        raise ValueError("preferences are between two episodes; the data hold one.")
    chosen = some(len(found.steps), most, rng)
    target = [found.trajectories()[i] for i in chosen]
    own = settings or Settings()
    vectors = features(target, own.features, own.entries) if pairing == "cross_cluster" else None
    first, second = pairs.choose(len(chosen), count, pairing, rng, vectors, groups(kind, len(chosen), own.group_size))
    at, steps = chosen[np.stack([first, second])], found.steps[chosen]
    each: dict[str, Any] = {"steps": np.minimum(steps[first], steps[second])}
    if kind in ("oracle", "random"):
        y = by_returns(found, *at) if kind == "oracle" else rng.integers(2, size=len(first))
        made = pairs.preferences(at, y, source="script" if kind == "oracle" else "random", **each)
        return Labelled(made, chosen, None, False, (), np.zeros(0))
    voters = all_carried(kind, sources_of(kind, source), target, own)
    given = rng.uniform(size=len(first)) < (share if kind == "cpa+fewshot" else 0.0)
    true = by_returns(found, *at)
    turned = [alignment.oriented(a.label, first[given], second[given], true[given]) for a in voters]
    voters = [a._replace(label=matrix) for a, (matrix, _) in zip(voters, turned, strict=True)]
    voted, votes = (voters[0], np.ones(1)) if len(voters) == 1 else alignment.vote(voters, own.vote_tau)
    weight = np.where(voted.confidence[first, second] >= least_confidence, voted.weight[first, second], 0.0)
    y = np.where(given, true, voted.label[second, first])
    made = pairs.preferences(at, y, weight=np.where(given, 1.0, weight), source=kind.split("+")[0], **each)
    marked = np.where(given, pairs.SOURCES.index("script"), made.source).astype(np.int32)
    return Labelled(made._replace(source=marked), chosen, voted, any(t for _, t in turned), tuple(voters), votes)


def of_problem(who: str, kind: str, given: Any, scripted: Callable[[str], Preferences]) -> Preferences:
    """Pairs for an agent that learns from them alone: what ``Problem.data["pairs"]`` holds (``given``), else those of a file,
    else ``scripted("oracle")`` or ``scripted("random")``. ``who`` is named in messages.

    Raises:
        ValueError: what is given are no pairs, or ``kind`` is nothing that is known.
    """
    if given is None and kind.endswith(".npz"):
        given = pairs.read(kind)
    if given is not None:
        if not isinstance(given, Preferences):
            raise ValueError(
                f"{who}: Problem.data['pairs'] is a {type(given).__name__}; give rlx.preferences.preferences(...)."
            )
        pairs.counting(given, f"{who}: ")
        return given
    if kind not in ("oracle", "random"):
        raise ValueError(f"{who}: labels={kind!r} is unknown: oracle, random, or a file of pairs that ends in .npz.")
    return scripted(kind)
