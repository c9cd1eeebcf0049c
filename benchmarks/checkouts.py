"""One benchmark in two checkouts of rlx by turns: what a redesign costs, or gains.

    git worktree add ../before COMMIT
    python benchmarks/checkouts.py ../before dispatch.py
    python benchmarks/checkouts.py ../before population.py --rounds 5 -- --part solo

Each round runs the script of either checkout as a process of its own; which one comes first alternates. All numbers of the
scripts' RESULT lines that both have are compared: medians over rounds, and the median of the rounds' ratios after / before.
Both use the interpreter that runs this, and its packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent.parent


def numbers(tree: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Of nested dictionaries, by dotted name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, float(value)


def result(checkout: Path, script: str, rest: list[str]) -> dict[str, float]:
    """What the script prints there, and how long the whole process took."""
    command = [sys.executable, str(checkout / "benchmarks" / script), *rest]
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return {**dict(numbers(json.loads(lines[-1].removeprefix("RESULT ")))), "process_s": seconds}


def compared(rounds: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each number: medians, and the median, least and largest ratio after / before of a round."""
    found = {}
    for name in rounds[0][0]:
        pairs = np.array([(before[name], after[name]) for before, after in rounds if name in before and name in after])
        if len(pairs) == len(rounds) and (pairs[:, 0] > 0).all():
            ratios = pairs[:, 1] / pairs[:, 0]
            before, after = np.median(pairs, 0)
            ratio = {"ratio": np.median(ratios), "ratio_min": ratios.min(), "ratio_max": ratios.max()}
            found[name] = {k: float(f"{v:.4g}") for k, v in {"before": before, "after": after, **ratio}.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("script", help="a file of benchmarks/ that both have; what follows -- goes to it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run-dir", type=Path, help="where result.json goes")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, rest = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    before = args.before.resolve()
    for checkout in (before, HERE):
        if not (checkout / "benchmarks" / args.script).is_file():
            parser.error(f"{checkout} has no benchmarks/{args.script}.")
    rounds = []
    for k in range(args.rounds):
        order = (before, HERE) if k % 2 == 0 else (HERE, before)
        found = {checkout: result(checkout, args.script, rest) for checkout in order}
        rounds.append((found[before], found[HERE]))
        print(f"round {k + 1} of {args.rounds}", file=sys.stderr, flush=True)
    values = {"script": args.script, "arguments": rest, "rounds": args.rounds, "numbers": compared(rounds)}
    for name, x in values["numbers"].items():
        print(f"{name:44}{x['before']:>12}{x['after']:>12}   {x['ratio']:.3f} [{x['ratio_min']:.3f}, {x['ratio_max']:.3f}]")
    if args.run_dir:
        args.run_dir.mkdir(parents=True, exist_ok=True)
        (args.run_dir / "result.json").write_text(json.dumps(values, indent=1) + "\n")
    print("RESULT " + json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
