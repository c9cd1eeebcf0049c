"""The parts of `pearl.py` that train no policy: labels carried over, on toy tasks and on Meta-World; tables and pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from tables import mean_interval

from rlx import keys, replay
from rlx.preferences import alignment, labels, learning, meta_world, pairs, stand_ins, toy_quality, transport
from rlx.preferences.features import Trajectories, distances, features
from rlx.preferences.models import PreferenceTransformer, RewardMLP
from rlx.preferences.pairs import Episodes
from rlx.replay import datasets


def write(path: Path, new: dict[str, Any]) -> None:
    """``new`` into the file; what it has already of other rows stays."""
    old = json.loads(path.read_text()) if path.exists() else {}
    merged = {k: {**old.get(k, {}), **v} if isinstance(v, dict) else v for k, v in new.items()}
    own = {"jax": jax.__version__, "cores": len(os.sched_getaffinity(0))}
    path.write_text(json.dumps({**old, **own, **merged}, indent=1) + "\n")


def picture(rows: dict[str, Any], columns: tuple[str, ...], label: str, path: Path, line: float | None = None) -> None:
    """A group of bars for each row, with intervals."""
    figure = Figure(figsize=(max(6.0, 1.1 * len(rows)), 3.8), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(columns)
    for i, column in enumerate(columns):
        there = [
            (x + (i - (len(columns) - 1) / 2) * width, row[column]) for x, row in enumerate(rows.values()) if column in row
        ]
        axes.bar([x for x, _ in there], [v["mean"] for _, v in there], 0.95 * width, label=column)
        for x, v in there:
            if v["interval"]:
                axes.plot([x, x], v["interval"], color="black", lw=1)
    if line is not None:
        axes.axhline(line, color="grey", lw=0.8, ls=":", label="chance")
    axes.set_xticks(range(len(rows)), list(rows), rotation=25, ha="right", fontsize=8)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(columns) + 1, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------------------- labels, carried over


class Sets(NamedTuple):
    """Two tasks: trajectories of both, who is preferred to whom in the source, and what tells good ones in the target."""

    source: Trajectories
    preferred: np.ndarray  # [M, M]
    target: Trajectories
    truth: np.ndarray  # [N]
    level: np.ndarray | None = None  # [N] of the behaviour in the target, 0 the best, if it is known


def carried(sets: list[Sets], name: str, entries: int | None = None, **how: Any) -> dict[str, np.ndarray]:
    """Of each of B ``sets``, [B]: accuracies of transport, of its surer labels and their share, of the nearest trajectories,
    and rank correlations of how far a trajectory lies from the others and how good it is, in source and target."""
    both = [tuple(features(x, name, entries) for x in (s.source, s.target)) for s in sets]
    apart = [tuple(distances(f) for f in fs) for fs in both]
    solved = transport.solve_many([a for a, _ in apart], [b for _, b in apart], **how)
    out: dict[str, list[float]] = {}
    for s, (fs, ft), (_, ct), coupling in zip(sets, both, apart, solved, strict=True):
        z = s.preferred
        got = alignment.carry(coupling, fs, ft, z, np.ones(z.shape, bool), alignment.Settings(name))
        sure = np.where(got.confidence > 0.5, got.label, 0.5)
        row = {"CPA": alignment.accuracy(got.label, s.truth), "asymmetry of the source": got.asymmetry}
        row |= {"asymmetry of the target": float(spearmanr(ct.mean(1), s.truth).statistic)}
        row |= {"share of sure labels": float((sure != 0.5).mean()), "CPA, sure labels": alone(sure, s.truth)}
        if s.level is not None:  # the most that quality of behaviour can tell, and where CPA is right
            row["by the quality of behaviour"] = alignment.accuracy(alignment.by_return(-s.level), s.truth)
            random = (s.level == 4)[:, None] ^ (s.level == 4)
            scripts = (s.level < 4)[:, None] & (s.level < 4)
            row["CPA, scripts against uniform actions"] = alone(np.where(random, got.label, 0.5), s.truth)
            row["CPA, among scripts"] = alone(np.where(scripts, got.label, 0.5), s.truth)
        flat = [features(x, "flat_sa") for x in (s.source, s.target)]
        for what, by in (("nearest", "euclidean"), ("most similar", "cosine")):
            plan = alignment.nearest(flat[0], flat[1], by).plan  # type: ignore[arg-type]
            label = alignment.transfer(plan, np.full(len(flat[1]), 1 / len(flat[1])), z)[0]
            row[what] = alignment.accuracy(label, s.truth)
        for k, v in row.items():
            out.setdefault(k, []).append(v)
    return {k: np.array(v) for k, v in out.items()}


def alone(label: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of labels [N, N] other than 0.5; NaN where there are none."""
    j, k = np.nonzero(np.triu(label != 0.5, 1))
    right = (label[j, k] > 0.5) == (truth[j] > truth[k])
    return float(right.mean()) if len(j) else float("nan")


def turned(z: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Z with a share of the pairs the wrong way round."""
    wrong = np.triu(rng.uniform(size=z.shape) < share, 1)
    return np.where(wrong | wrong.T, 1 - z, z)


def paths(seed: int, asym: bool = True, flips: float = 0.0, copy: bool = False) -> Sets:
    """Recipe C: one generator draws the source, then the target (or a copy of the source in another order), which is moved."""
    rng, n = np.random.default_rng(seed), 24
    source, q = toy_quality(rng, n, asym=asym)
    target, truth = toy_quality(rng, n, rot=1.1, scale=3, shift=(5, -2), asym=asym)
    if copy:
        order = rng.permutation(n)
        turn = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]])
        target, truth = [(3 * source[i][0] @ turn.T + [5, -2], source[i][1]) for i in order], q[order]
    return Sets(source, turned(alignment.by_return(q), flips, rng), target, truth)


def pushes(draw: int) -> Sets:
    source, target = (pairs.episodes(replay.from_episodes(x)) for x in stand_ins.point_mass(40, 50, draw))
    return Sets(source.trajectories(), alignment.by_return(source.returns), target.trajectories(), target.returns)


def votes(given: argparse.Namespace) -> None:
    """One target, three sources: other draws of its task, of one whose good and bad end look alike, and of noise. How right
    labels of each are, of all three alike (a large ``vote_tau``), by votes, and by votes after a tenth of the true labels has
    turned what is a mirror image."""
    draws, names = 2 if given.debug else 20, ("same task", "mirror", "noise")
    found, costs, weights = [], [], []
    for seed in range(draws):
        rng, n = np.random.default_rng(seed), 24
        target, truth = toy_quality(rng, n, rot=1.1, scale=3, shift=(5, -2))
        sources = [toy_quality(rng, n), toy_quality(rng, n, asym=False)]
        sources += [([(rng.normal(size=s.shape), a) for s, a in sources[0][0]], rng.uniform(size=n))]
        ft, fs = features(target, "flat_s"), [features(x, "flat_s") for x, _ in sources]
        solved = transport.solve_many([distances(f) for f in fs], [distances(ft)] * 3, outer=20, inner=40)
        known, own = np.ones((n, n), bool), alignment.Settings("flat_s")
        each = [
            alignment.carry(coupling, f, ft, alignment.by_return(q), known, own)
            for coupling, f, (_, q) in zip(solved, fs, sources, strict=True)
        ]
        right = [alignment.accuracy(a.label, truth) for a in each]
        right += [alignment.accuracy(alignment.vote(each, tau)[0].label, truth) for tau in (1e9, 0.01, 0.001)]
        found.append(right)
        j, k = np.triu_indices(n, 1)
        some = rng.permutation(len(j))[: len(j) // 10]
        first, second = j[some], k[some]
        better = alignment.by_return(truth)[second, first]
        sides = [a._replace(label=alignment.oriented(a.label, first, second, better)[0]) for a in each]
        right.append(alignment.accuracy(alignment.vote(sides, 0.01)[0].label, truth))
        costs.append([float(a.coupling.cost) for a in each])
        weights.append(alignment.vote(each, 0.01)[1])
    columns = (*names, "alike", "votes, tau 0.01", "votes, tau 0.001", "votes, mirrors turned")
    table = {k: mean_interval(v, 3, "each") for k, v in zip(columns, np.transpose(found), strict=True)}
    table |= {f"cost of {k}": mean_interval(v, 4) for k, v in zip(names, np.transpose(costs), strict=True)}
    table |= {f"vote of {k}": mean_interval(v, 3) for k, v in zip(names, np.transpose(weights), strict=True)}
    print({k: (v["mean"], v["interval"]) for k, v in table.items()}, flush=True)
    write(given.out / "pearl-votes.json", {"rows": table})


def unlabelled(given: argparse.Namespace) -> None:
    """How often 1 000 new pairs of windows are judged right, by Preference Transformers that saw a few labelled pairs, and by
    ones that also learned from what they were sure of among 1 000 pairs without a label."""
    how = learning.Training(steps=20 if given.debug else 300, batch=32, segment=25, schedule=True, checks=10)
    model, out = PreferenceTransformer(16, 1, 2, 25), {}
    for draw in range(given.draws):
        found = pairs.episodes(replay.from_episodes(stand_ins.point_mass(40, 50, draw)[1]))
        rng, key = np.random.default_rng(draw), keys.fold(keys.root(draw), "reward")
        new, more = labels.of_pieces(found, 1_000, how.segment, rng), pairs.unlabelled(found, 1_000, how.segment, rng)
        begin = learning.init(model, key, found.obs.shape[1], found.action.shape[1])
        for count in (20, 100):
            few = labels.of_pieces(found, count, how.segment, rng)
            for name, extra in (("labelled alone", None), ("and unlabelled", more)):
                params = learning.fit(model, begin, few, found, key, how, learning.Coefs(lr=1e-3), extra).params
                prediction = learning.predictions(model, params, new, found, how.segment)
                out.setdefault(f"{count} {name}", []).append(learning.agreement(new.label, prediction))
    table = {k: mean_interval(v, 3, "each") for k, v in out.items()}
    print({k: (v["mean"], v["interval"]) for k, v in table.items()}, flush=True)
    write(given.out / "pearl-unlabelled.json", {"accuracy": table, "steps": how.steps})


def compared(rows: dict[str, dict[str, np.ndarray]], out: Path, part: str) -> dict[str, Any]:
    """The table of accuracies, printed, written and drawn."""
    there = lambda row: {k: v[np.isfinite(v)] for k, v in row.items() if np.isfinite(v).any()}
    table = {
        name: {k: mean_interval(v, 3, "each" if k == "CPA" else None) for k, v in there(row).items()}
        for name, row in rows.items()
    }
    for name, row in table.items():
        print(f"{name:44}", {k: (v["mean"], v["interval"]) for k, v in row.items()}, flush=True)
    write(out / f"pearl-{part}.json", {"accuracy": table})
    picture(table, ("CPA", "nearest", "most similar"), "share of pairs that are right", out / f"pearl-{part}.png", 0.5)
    return table


def align(given: argparse.Namespace) -> None:
    draws = 2 if given.debug else 20
    own: dict[str, Any] = {"outer": 20, "inner": 40}
    rows = {"paths": carried([paths(i) for i in range(draws)], "flat_s", **own)}
    for share in (0.1, 0.2, 0.3, 0.4):
        rows[f"paths, {share:.0%} flipped"] = carried([paths(i, flips=share) for i in range(draws)], "flat_s", **own)
    rows["paths, good and bad alike"] = carried([paths(i, asym=False) for i in range(draws)], "flat_s", **own)
    copies, long = [paths(i, copy=True) for i in range(draws // 2)], {"outer": 40, "inner": 60}
    rows["a copy, proximal"] = carried(copies, "flat_s", proximal=True, **long)
    rows["a copy, entropic"] = carried(copies, "flat_s", **long)
    moved = [pushes(i) for i in range(draws // 2)]
    for name in ("delta", "flat_sa", "moments"):
        rows[f"pushes, {name}"] = carried(moved, name)
    for eps in (0.1, 0.02, 0.001):
        rows[f"pushes, delta, eps {eps}"] = carried(moved, "delta", eps=eps)
    table, plain = compared(rows, given.out, "alignment"), rows["paths"]["CPA"]
    apart = rows["paths, good and bad alike"]["CPA"]
    checks = {
        "paths: mean within .04 of .81": bool(abs(plain.mean() - 0.81) < 0.04),
        "paths: each above .65": bool(plain.min() > 0.65),
        "good and bad alike: spread above .3": bool(np.ptp(apart) > 0.3),
        "a copy, proximal: mean above .995": bool(rows["a copy, proximal"]["CPA"].mean() > 0.995),
        "a copy, entropic: less": bool(rows["a copy, entropic"]["CPA"].mean() < rows["a copy, proximal"]["CPA"].mean()),
        "pushes: transport above the nearest": table["pushes, delta"]["CPA"]["mean"]
        > table["pushes, delta"]["nearest"]["mean"],
    }
    print(checks)
    write(given.out / "pearl-alignment.json", {"checks": checks})


# --------------------------------------------------------------------------------------------------------------- Meta-World


def sizes(debug: bool) -> tuple[int, int, int]:
    """Draws, episodes of a draw, decisions of an episode."""
    return (2, 10, 20) if debug else (10, 32, 150)


def collected(folder: Path, task: str, count: int, steps: int) -> datasets.Dataset:
    path = folder / f"{task}-{count}.npz"
    if not path.exists():
        begun = time.process_time()
        found = meta_world.graded(task, count, steps, keys.fold(keys.root(0), task))
        datasets.write(path, found, {"env": meta_world.ENV, "env_options": {"env_name": task}, "time_limit": steps})
        print(task, f"{count * steps / (time.process_time() - begun):.0f} decisions per second of processor time", flush=True)
    return replay.load(path)


def metaworld(given: argparse.Namespace) -> None:
    """Each draw has 32 episodes of its own of either task; labels of the source are complete and true."""
    draws, each, steps = sizes(given.debug)
    tasks = sorted({t for pair in meta_world.PAIRS for t in pair})
    found = {t: pairs.episodes(collected(given.run_dir, t, draws * each, steps).replay(False)) for t in tasks}
    level = {t: np.arange(draws * each) % 5 for t in tasks}  # 0 to 3: script with more and more noise; 4: uniform actions
    means = {t: [round(float(found[t].returns[level[t] == k].mean()), 1) for k in range(5)] for t in tasks}
    rows = suite(found, draws, each)
    rows["mean"] = mean_of(rows)
    others: dict[str, Any] = {}
    for name in ("flat_s", "flat_sa", "hand", "moments"):
        others[name] = mean_of(suite(found, draws, each, name=name))
    others["delta of all 39 entries"] = mean_of(suite(found, draws, each, entries=None))
    for eps in (0.1, 0.02, 0.001):
        others[f"eps {eps}"] = mean_of(suite(found, draws, each, eps=eps))
    for size in (4, 8, 16):
        others[f"{size} trajectories"] = mean_of(suite(found, draws, each, size))
    write(
        given.out / "pearl-metaworld.json",
        {"mean": {k: {n: mean_interval(x, 3) for n, x in v.items() if np.isfinite(x).all()} for k, v in others.items()}},
    )
    print({k: round(float(v["CPA"].mean()), 3) for k, v in others.items()})
    table = compared(rows, given.out, "metaworld")
    cpa, nearest = (table["mean"][k]["mean"] for k in ("CPA", "nearest"))
    checks = {"mean of CPA at least .70": cpa >= 0.70, "and .08 above the nearest": cpa >= nearest + 0.08}
    print(checks, means)
    write(given.out / "pearl-metaworld.json", {"checks": checks, "returns by quality": means})


def suite(
    found: dict[str, Episodes], draws: int, each: int, size: int | None = None, name: str = "delta",
    entries: int | None = meta_world.FRAME, **how: Any
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """All pairs of tasks; of each draw's episodes so many (None: all)."""
    rows, whole = {}, {t: x.trajectories() for t, x in found.items()}
    for source, target in meta_world.PAIRS:
        a, b, sets = found[source], found[target], []
        for d in range(draws):
            rng = np.random.default_rng(d)
            i, j = (d * each + labels.some(each, size or each, rng) for _ in range(2))
            one, two = ([whole[t][k] for k in which] for t, which in ((source, i), (target, j)))
            sets.append(Sets(one, alignment.by_return(a.returns[i]), two, b.returns[j], j % 5))
        rows[f"{source[:-3]} to {target[:-3]}"] = carried(sets, name, entries, outer=30, inner=60, **how)
    return rows


def mean_of(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Over the pairs of tasks, of each draw."""
    return {k: np.mean([row[k] for row in rows.values()], 0) for k in rows[next(iter(rows))]}


def rewards(given: argparse.Namespace) -> None:
    """On drawer-open, from 200 pairs of windows of 25 steps: how often 1 000 new pairs are judged right, and how much larger
    the standard deviation of rewards is on pairs whose label was turned than on others."""
    draws, each, steps = sizes(given.debug)
    found = pairs.episodes(collected(given.run_dir, "drawer-open-v3", draws * each, steps).replay(False))
    how = learning.Training(steps=20 if given.debug else 1_500, held_out=0.1, checks=10, segment=min(25, steps))
    out: dict[str, list[float]] = {}
    for seed in range(given.draws):
        rng = np.random.default_rng(seed)
        made, new = (labels.of_pieces(found, n, how.segment, rng) for n in (200, 1_000))
        wrong = rng.uniform(size=200) < 0.2
        for share, flip in ((0, wrong & False), (20, wrong)):
            labelled = pairs.flipped(made, flip)
            for head in ("deterministic", "Gaussian", "constant"):
                model, key = RewardMLP((128, 128), head == "Gaussian"), keys.fold(keys.root(seed), "reward")
                params = learning.init(model, key, found.obs.shape[1], found.action.shape[1])
                own = dataclasses.replace(how, constant=head == "constant")
                params = learning.fit(model, params, labelled, found, key, own).params
                prediction = learning.predictions(model, params, new, found, how.segment)
                out.setdefault(f"{head}, {share}% flipped", []).append(learning.agreement(new.label, prediction))
                if model.gaussian and share:
                    ratio = doubt(model, params, labelled, found, flip, how.segment)
                    out.setdefault("standard deviation on flipped pairs, to others", []).append(ratio)
    table = {k: mean_interval(v, 3, "each") for k, v in out.items()}
    print({k: (v["mean"], v["interval"]) for k, v in table.items()}, flush=True)
    write(given.out / "pearl-rewards.json", {"accuracy": table, "pairs": 200, "steps": how.steps})


def doubt(model: RewardMLP, params: Any, given: Any, found: Episodes, flip: np.ndarray, steps: int) -> float:
    row = pairs.rows_of(given, found)[..., None] + np.arange(steps)
    std = np.asarray(model.apply(params, found.obs[row[0]], found.action[row[0]], np.ones(row[0].shape, np.float32)).std)
    other = np.asarray(model.apply(params, found.obs[row[1]], found.action[row[1]], np.ones(row[1].shape, np.float32)).std)
    each = (std + other).mean(-1)
    return float(each[flip].mean() / each[~flip].mean())
