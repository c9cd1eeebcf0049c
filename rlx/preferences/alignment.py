"""Cross-task preference alignment (PEARL, Liu et al. 2024, arXiv:2306.03615): labels of a source task for a target task.

::

    Cs, Ct <- distances between trajectories, within the source and within the target
    T      <- a Gromov-Wasserstein coupling of the two
    W      <- T / q                                                  columns say which sources a target trajectory is like
    L      <- W' Z W                                                 L[j, l] = P(target j is preferred to target l)

Z [M, M] is how the source is labelled, Z[i, k] = P(source i is preferred to k). Where only some pairs are, each entry of L is
the mean over those, and what it is divided by says how much it can be trusted. The paper's sum T' Z T without the division lies
within 1/N^2 of 0, which is always "not preferred"; how the paper rescales it we could not verify.

The cost of the coupling says how alike two tasks are, so several sources can `vote`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from rlx.preferences import transport
from rlx.preferences.features import Trajectories, between, distances, features
from rlx.preferences.transport import Coupling

LEAST_WEIGHT = 1e-6  # below it no labelled pair of the source speaks for a pair of the target
FEWEST_TRUE = 8  # pairs with a true label, from which on a mirrored coupling is turned
Norm = Literal["pair", "global"]


@dataclass(frozen=True)
class Settings:
    """How `align` couples and carries labels over. Defaults are ours."""

    features: str = "delta"
    entries: int | None = None  # of an observation, the first so many; None: all
    scale: Literal["max", "mean", "none"] = "max"
    geometry: Literal["gw", "fused", "linear"] = "gw"  # the latter two where both sets have the same features
    alpha: float = 0.5  # fused: the share of Gromov-Wasserstein
    eps: float = 5e-3
    outer: int = 20
    inner: int = 50
    group_size: int | None = None  # random groups of so many trajectories, each of which one of the source's labels; None: all
    restarts: int = 0  # besides p q', so many random couplings to begin at; the result of the least cost is taken
    proximal: bool = False  # anneals to a coupling without blur
    norm: Norm = "pair"
    tau: float = 0.0  # global: less confident labels are ties
    vote_tau: float = 0.01  # several sources: how much dearer than another one may be to say e times less
    float64: bool = False  # on the host, instead of float32 on the device


class Alignment(NamedTuple):
    """Labels of all pairs of target trajectories, and what there is to know about them."""

    label: np.ndarray  # [N, N] P(j is preferred to l); 0.5 where nothing is known
    weight: np.ndarray  # [N, N] in [0, 1]: how much of what speaks for the pair is labelled; 0 where nothing is
    confidence: np.ndarray  # [N, N] in [0, 1]
    coupling: Coupling
    degenerate: bool  # the sets say nothing about each other: all labels are 0.5, all weights 0
    asymmetry: float  # rank correlation of eccentricity and preference in the source; near 0: a mirror image fits as well


def checked(preferred: np.ndarray, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Z float64 [M, M] and which entries are labelled, bool [M, M].

    Raises:
        ValueError: fewer than two trajectories, shapes that differ, a label outside of [0, 1], or Z[i, k] + Z[k, i] != 1.
    """
    z = np.asarray(preferred, np.float64)
    b = np.ones(z.shape, bool) if known is None else np.asarray(known, bool)
    if z.ndim != 2 or z.shape[0] != z.shape[1] or b.shape != z.shape:
        raise ValueError(f"labels of the source are {list(z.shape)}, known {list(b.shape)}: both are to be [M, M].")
    if len(z) < 2:
        raise ValueError(f"the source has {len(z)} trajectories; a preference is between two.")
    wrong = b & ~((z >= 0) & (z <= 1))
    if wrong.any():
        i, k = np.argwhere(wrong)[0]
        raise ValueError(f"the label {z[i, k]:.4g} of the pair ({i}, {k}) is no probability.")
    odd = b & (~b.T | (abs(z + z.T - 1) > 1e-6))
    if odd.any():
        i, k = np.argwhere(odd)[0]
        raise ValueError(f"labels of the pair ({i}, {k}) are {z[i, k]:.4g} and, turned round, {z[k, i]:.4g}; not 1 in all.")
    return z, b


def transfer(
    plan: np.ndarray,
    q: np.ndarray,
    preferred: np.ndarray,
    known: np.ndarray | None = None,
    norm: Norm = "pair",
    tau: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, weights and confidences [N, N] of target pairs, by a coupling [M, N] with column sums ``q``.

    "pair" is the normalised sum above. "global" is that of VOTP (arXiv:2606.16856): with R = 2 Z - 1 where labelled, else 0,
    and S[j, l] = sum_ik R[i, k] (T[i, j] T[k, l] - T[i, l] T[k, j]), it is the sign of S where |S| is at least ``tau`` of the
    most that this many labelled pairs could give, else a tie. Signs agree, only confidences differ: with P disjoint labelled
    pairs the latter are at most 1 / P.
    """
    z, b = checked(preferred, known)
    w = plan / np.where(q > 0, q, 1.0)
    weight = w.T @ b @ w
    if norm == "pair":
        there = weight >= LEAST_WEIGHT
        label = np.where(there, (w.T @ (b * z) @ w) / np.where(there, weight, 1.0), 0.5)
        return np.clip(label, 0.0, 1.0), np.where(there, weight, 0.0), abs(2 * label - 1)
    r = np.where(b, 2 * z - 1, 0.0)
    s = plan.T @ r @ plan
    s = s - s.T
    most = (b & ~np.eye(len(b), dtype=bool)).sum() / plan.shape[1] ** 2
    confidence = abs(s) / most if most else np.zeros_like(s)
    sure = (confidence >= tau) & (s != 0)
    return np.where(sure, 0.5 + 0.5 * np.sign(s), 0.5), (weight >= LEAST_WEIGHT) * 1.0, confidence


def couple(source: np.ndarray, target: np.ndarray, settings: Settings) -> Coupling:
    """The coupling of feature vectors [M, f] and [N, g] with uniform weights; numpy."""
    p, q = np.full(len(source), 1 / len(source)), np.full(len(target), 1 / len(target))
    costs: dict[str, Any] = {"cs": distances(source, settings.scale), "ct": distances(target, settings.scale)}
    if settings.geometry != "gw":
        cost = between(source, target)
        costs["m"] = cost / cost.max() if cost.max() > 0 else cost

    def solve(xp: Any, p: Any, q: Any, cs: Any, ct: Any, m: Any = None, start: Any = None) -> Coupling:
        if settings.geometry == "linear":
            return transport.linear(xp, m, p, q, eps=settings.eps, inner=settings.outer * settings.inner)
        how: dict[str, Any] = {
            "eps": settings.eps,
            "outer": settings.outer,
            "inner": settings.inner,
            "proximal": settings.proximal,
        }
        return transport.gromov_wasserstein(xp, cs, ct, p, q, between=m, start=start, **how)

    def solved(start: np.ndarray | None) -> Coupling:
        if settings.float64:
            return solve(np, p, q, **costs, start=start)
        given = jax.tree.map(jnp.float32, (p, q, costs, start))
        found = on_device(*given)
        return Coupling(*(np.asarray(x, np.float64) for x in found))

    on_device = jax.jit(lambda p, q, costs, start: solve(jnp, p, q, **costs, start=start))
    each = [solved(start) for start in (None, *random_couplings(p, q, settings.restarts))]
    return min(each, key=lambda found: float(found.cost))


def random_couplings(p: np.ndarray, q: np.ndarray, count: int) -> list[np.ndarray]:
    """So many of [M, N] with the marginals ``p`` and ``q``, always the same."""
    rng = np.random.default_rng(0)
    return [transport.sinkhorn(np, rng.uniform(size=(len(p), len(q))), p, q, 0.1, 50) for _ in range(count)]


def says_nothing(source: np.ndarray, target: np.ndarray, plan: np.ndarray) -> bool:
    """Whether distances [M, M] and [N, N] cannot tell trajectories apart, or their coupling does not."""
    m, n = plan.shape
    same = lambda c: len(c) < 3 or np.ptp(c[~np.eye(len(c), dtype=bool)]) < 1e-9
    flat = not np.isfinite(plan).all() or abs(plan - 1 / (m * n)).max() < 1e-3 / (m * n)
    return bool(same(source) or same(target) or flat)


def align(
    source: Trajectories,
    target: Trajectories,
    preferred: np.ndarray,
    known: np.ndarray | None = None,
    settings: Settings | None = None,
) -> Alignment:
    """Labels for ``target`` from those of ``source``: Z = ``preferred`` [M, M], labelled where ``known`` [M, M] (None: all).

    Raises:
        ValueError: as `features.features` and `checked`, or labels of another number of trajectories.
    """
    settings = settings or Settings()
    z, b = checked(preferred, known)
    fs, ft = (features(x, settings.features, settings.entries) for x in (source, target))
    if len(z) != len(fs):
        raise ValueError(f"there are {len(fs)} source trajectories and labels of {len(z)}.")
    if settings.group_size is not None:
        return _in_groups(fs, ft, z, b, settings)
    return carry(couple(fs, ft, settings), fs, ft, z, b, settings)


def groups_of(n: int, size: int | None) -> np.ndarray:
    """int [n]: which random group each of ``n`` trajectories is in, always the same. Groups have ``size`` members, and as few
    more as there must be; None: one group."""
    out = np.zeros(n, int)
    parts = np.array_split(np.random.default_rng(0).permutation(n), max(n // size, 1) if size else 1)
    for number, members in enumerate(parts):
        out[members] = number
    return out


def _in_groups(fs: np.ndarray, ft: np.ndarray, z: np.ndarray, b: np.ndarray, settings: Settings) -> Alignment:
    """Each group of targets is labelled by one of sources, these by turns; pairs of two groups are not. On the host, which is
    done with a few small problems before a program is compiled."""
    settings, n = replace(settings, float64=True), len(ft)
    source, target = groups_of(len(fs), settings.group_size), groups_of(n, settings.group_size)
    label, weight, confidence, plan = np.full((n, n), 0.5), *np.zeros((2, n, n)), np.zeros((len(fs), n))
    each = []
    for number in range(target.max() + 1):
        i, j = np.flatnonzero(source == number % (source.max() + 1)), np.flatnonzero(target == number)
        inner, own = np.ix_(i, i), np.ix_(j, j)
        part = carry(couple(fs[i], ft[j], settings), fs[i], ft[j], z[inner], b[inner], settings)
        label[own], weight[own], confidence[own] = part.label, part.weight, part.confidence
        plan[np.ix_(i, j)] = part.coupling.plan * len(j) / n
        each.append(part)
    mean = lambda name: np.float64(np.mean([getattr(part.coupling, name) for part in each]))
    coupling = Coupling(plan, mean("cost"), mean("row_error"), np.float64(max(part.coupling.change for part in each)))
    nothing, ranks = all(part.degenerate for part in each), asymmetry(distances(fs, settings.scale), z, b)
    return Alignment(label, weight, confidence, coupling, nothing, ranks)


def asymmetry(cs: np.ndarray, z: np.ndarray, b: np.ndarray) -> float:
    """See `Alignment`, of distances [M, M] of the source and its labels; 0 where either are all alike."""
    far, liked = cs.mean(1), (b * z).sum(1) / np.maximum(b.sum(1), 1)
    return float(spearmanr(far, liked).statistic) if np.ptp(far) > 0 and np.ptp(liked) > 0 else 0.0


def carry(coupling: Coupling, fs: np.ndarray, ft: np.ndarray, z: np.ndarray, b: np.ndarray, settings: Settings) -> Alignment:
    """Labels along a coupling of features [M, f] and [N, g]; none where it says nothing."""
    cs, ct = distances(fs, settings.scale), distances(ft, settings.scale)
    m, n = len(fs), len(ft)
    ranks = asymmetry(cs, z, b)
    if settings.geometry != "linear" and says_nothing(cs, ct, coupling.plan) or not np.isfinite(coupling.plan).all():
        nothing = np.zeros((n, n))
        even = coupling._replace(plan=np.full((m, n), 1 / (m * n)))
        return Alignment(nothing + 0.5, nothing, nothing, even, True, ranks)
    label, weight, confidence = transfer(coupling.plan, np.full(n, 1 / n), z, b, settings.norm, settings.tau)
    return Alignment(label, weight, confidence, coupling, False, ranks)


def vote(each: Sequence[Alignment], tau: float) -> tuple[Alignment, np.ndarray]:
    """What K sources say together of one target, and the weights v [K] by which they do::

        v       = softmax(-cost / tau)                                    over sources that say anything
        L       = sum_k v_k w_k L_k / sum_k v_k w_k                       w_k [N, N]: the weights of their labels

    A source whose coupling is cheaper has trajectories that lie to each other as the target's do. The weight of a label is the
    denominator; its confidence that of |2 L - 1|, or of hard labels (norm "global") their mean as votes. The coupling is that
    of all sources' trajectories one below the other, of which the k-th's have v_k of the mass.

    Raises:
        ValueError: no sources, labels of another number of target trajectories, or ``tau`` is not above 0.
    """
    sizes = [len(a.label) for a in each]
    if not sizes or len(set(sizes)) > 1:
        raise ValueError(f"vote: sources have labels of {sizes} target trajectories; give one source at least, and one target.")
    if not tau > 0:
        raise ValueError(f"vote: tau={tau:.4g} must be above 0; a small one lets the source with the least cost decide alone.")
    cost = np.array([np.inf if a.degenerate else a.coupling.cost for a in each], np.float64)
    least = cost.min()
    v = np.exp((least - cost) / tau) if np.isfinite(least) else np.ones(len(cost))
    v = v / v.sum()
    mean = lambda x: float(sum(vk * xk for vk, xk in zip(v, x, strict=True) if vk > 0))
    weight = sum(vk * a.weight for vk, a in zip(v, each, strict=True))
    share = [vk * a.weight / np.where(weight > 0, weight, 1.0) for vk, a in zip(v, each, strict=True)]
    label = 0.5 + sum(s * (a.label - 0.5) for s, a in zip(share, each, strict=True))
    sided = sum(s * np.sign(a.label - 0.5) * a.confidence for s, a in zip(share, each, strict=True))
    all_of = Coupling(
        np.concatenate([vk * a.coupling.plan for vk, a in zip(v, each, strict=True)]),
        np.float64(mean([a.coupling.cost for a in each])),
        np.float64(mean([a.coupling.row_error for a in each])),
        np.float64(max(a.coupling.change for a in each)),
    )
    return Alignment(label, weight, abs(sided), all_of, all(a.degenerate for a in each), mean([a.asymmetry for a in each])), v


def nearest(fs: np.ndarray, ft: np.ndarray, by: Literal["euclidean", "cosine"]) -> Coupling:
    """No transport: each target goes to the one source trajectory that is most like it. The baselines "dis" and "sim", whose
    definitions in the paper are not known to us."""
    cost = between(fs, ft, by)
    plan = (np.arange(len(fs))[:, None] == cost.argmin(0)) / len(ft)
    error = abs(plan.sum(1) - 1 / len(fs)).sum()
    return Coupling(plan, np.float64((cost * plan).sum()), np.float64(error), np.float64(0))


def oriented(label: np.ndarray, first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, bool]:
    """Gromov-Wasserstein cannot tell a set from its mirror image. With at least `FEWEST_TRUE` true labels ``truth`` [K], the
    probability that target ``second`` is preferred to ``first``, labels that agree with fewer than half of those are turned:
    the labels [N, N], and whether they were."""
    decided = truth != 0.5
    if decided.sum() < FEWEST_TRUE:
        return label, False
    agree = ((label[second, first] > 0.5) == (truth > 0.5))[decided].mean()
    return (1 - label, True) if agree < 0.5 else (label, False)


def accuracy(label: np.ndarray, returns: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Share of pairs j < l of which ``label`` [N, N] prefers the one with the larger of ``returns`` [N]; ties of returns do not
    count, nor pairs of no ``weight`` [N, N], and a label of 0.5 counts half. NaN where there are none."""
    j, ell = np.triu_indices(len(returns), 1)
    better, predicted = np.sign(returns[j] - returns[ell]), np.sign(label[j, ell] - 0.5)
    decided = (better != 0) & (True if weight is None else weight[j, ell] > 0)
    return float(0.5 + 0.5 * (better * predicted)[decided].mean()) if decided.any() else float("nan")


def by_return(returns: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """Z [M, M] of a labeller who prefers the larger of ``returns`` [M], and calls differences up to ``tie`` ties."""
    gap = np.asarray(returns, np.float64)[:, None] - np.asarray(returns, np.float64)[None]
    return np.where(abs(gap) <= tie, 0.5, (gap > 0) * 1.0)
