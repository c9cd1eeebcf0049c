"""The picture of each part of `repo.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rlx.train import stats

BARS = {"latent": ("cosine", "rate^2", "sine rate", "sine", "rate", "blobs"), "seen": ("place",)}  # of each method, else "mean"


def interval(x: np.ndarray) -> list[float] | None:
    return None if len(x) < 2 else [*(stats.interval(x[:, None]) or ())]


def picture(part: str, page: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    found = page["found"]
    if part == "constraint":
        for name, line in found.items():
            axes.loglog(line["target_kl"], line["model/kl"], "o-", label=name)
            axes.plot(line["target_kl"], line["target_kl"], color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel="bound, nats", ylabel="divergence, nats")
        axes.legend(frameon=False)
    elif part == "control":
        axes.set_prop_cycle(color=[plt.get_cmap("tab20")(i % 20) for i in (*range(0, 20, 2), *range(1, 20, 2))])
        axes.axhline(found["random actions"]["mean"], color="black", linewidth=0.8, linestyle="--", label="random actions")
        for name, line in ((name, line) for name, line in found.items() if "curve" in line):
            at, returns = [np.max(steps) for steps, _ in line["curve"]], np.array([x for _, x in line["curve"]])
            (drawn,) = axes.plot(at, returns.mean(1), "o-", markersize=3, label=name)
            bounds = [interval(x) or [float(x.mean())] * 2 for x in returns]
            axes.fill_between(at, *np.transpose(bounds), color=drawn.get_color(), alpha=0.15, lw=0)
        axes.set(xlabel="decisions", ylabel="return")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        bars = BARS.get(part, ("mean",))
        for i, bar in enumerate(bars):
            at = np.arange(len(found)) + 0.8 * ((i + 0.5) / len(bars) - 0.5)
            axes.bar(at, [line.get(bar, np.nan) for line in found.values()], 0.8 / len(bars), label=bar)
            for x, line in zip(at, found.values(), strict=True):
                if line.get("interval"):
                    axes.plot([x, x], line["interval"], color="black", lw=0.8)
        axes.set_xticks(np.arange(len(found)), found, rotation=20)
        axes.set_ylabel("R^2 on unseen rows" if part in BARS else "return")
        if len(bars) > 1:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
