"""What a run says: ``metrics.jsonl`` always, TensorBoard and Weights & Biases on request, a progress bar for people."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

FILE = "metrics.jsonl"


def plain(value: Any) -> Any:
    """``value`` as JSON: arrays as (nested) lists, numbers that are not finite as the strings "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        return [plain(v) for v in array]
    number = array.item()
    return str(number) if isinstance(number, float) and not math.isfinite(number) else number


class Logger:
    """One JSON object per line: ``kind`` ("train", "eval", "event"), where the run is, and the values."""

    def __init__(self, run_dir: Path | None, tensorboard: bool = False, wandb: str | None = None):
        self.lines = 0
        self.path = run_dir / FILE if run_dir else None
        self.file: Any = None
        self.board: Any = None
        self.wandb: Any = None
        if (tensorboard or wandb) and run_dir is None:
            raise ValueError("TensorBoard and Weights & Biases need a run folder to write to: give run_dir.")
        if tensorboard:
            self.board = _need("tensorboardX", "tensorboard").SummaryWriter(str(run_dir / "tensorboard"))  # type: ignore[operator]
        if wandb:
            name = "-".join(run_dir.absolute().parts[-2:])  # type: ignore[union-attr]
            self.wandb = _need("wandb", "wandb").init(project=wandb, dir=str(run_dir), resume="allow", id=name, name=name)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        line = plain({"kind": kind, **values})
        if self.path is not None:
            if self.file is None:
                self.file = self.path.open("a")
            self.file.write(json.dumps(line) + "\n")
        self.lines += 1
        numbers = {f"{kind}/{k}": v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        if self.board is not None or self.wandb is not None:
            for k, v in line.items():  # of members: each by itself, and where the run is by the first
                if isinstance(v, list) and k != "returns":
                    numbers |= {f"{kind}/{k}/{i}": x for i, x in enumerate(v) if isinstance(x, (int, float))}
            done = [values.get(k, 0) for k in ("env_steps", "updates")]
            at = next((int(np.max(n)) for n in done if np.max(n) > 0), 0)
        if self.board is not None:
            for k, v in numbers.items():
                self.board.add_scalar(k, v, at)
        if self.wandb is not None:
            self.wandb.log({**numbers, "step": at})

    def truncate(self, lines: int) -> None:
        """Drops what was written after line ``lines``: a resumed run writes it again."""
        self.lines = lines
        if self.path is None or not self.path.exists():
            return
        kept = self.path.read_text().splitlines(keepends=True)[:lines]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, self.path)

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        for sink in (self.file, self.board):
            if sink is not None:
                sink.close()
        if self.wandb is not None:
            self.wandb.finish()


def _need(package: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise ValueError(f"{package} is not installed: pip install 'rlx[{extra}]', or leave the flag out.") from e


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's metrics; a half-written last line is left out."""
    lines = []
    for text in (run_dir / FILE).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class Progress:
    """A bar with updates/s, env steps/s and compile seconds apart; a plain line now and then where there is no terminal."""

    EVERY = 20.0  # seconds between plain lines

    def __init__(self, name: str, total: int, enabled: bool = True):
        self.name, self.total, self.enabled = name, total, enabled
        self.done, self.best, self.last = 0, -math.inf, math.nan
        self.rates: dict[str, float] = {}
        self.before: tuple[float, dict[str, Any]] | None = None
        self.spoken = time.monotonic()
        self.console = Console(file=sys.stderr)
        self.bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self.enabled and self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, note="compiling")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, cycles: int, *, stage: str, updates: int, env_steps: int, compile_s: float) -> None:
        """``cycles`` more are done; counts so far, from which the speeds are taken."""
        self.done += cycles
        now, counts = time.monotonic(), {"updates": updates, "env_steps": env_steps, "compile_s": compile_s}
        if self.before is not None:
            then, old = self.before
            busy = max(now - then - (compile_s - old["compile_s"]), 1e-6)  # compiling is not stepping
            for k in ("updates", "env_steps"):
                rate = (counts[k] - old[k]) / busy
                self.rates[k] = rate if k not in self.rates else 0.7 * self.rates[k] + 0.3 * rate
        self.before = now, counts
        if not self.enabled:
            return
        note = f"{stage}  {self.rates.get('updates', 0):,.0f} updates/s  {self.rates.get('env_steps', 0):,.0f} steps/s"
        note += f"  compile {compile_s:.0f} s"
        if math.isfinite(self.last):
            note += f"  return {self.last:,.1f} (best {self.best:,.1f})"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
        elif now - self.spoken > self.EVERY:
            self.spoken = now
            self.console.print(f"{self.name} {self.done}/{self.total}  {note}", soft_wrap=True, highlight=False)

    def score(self, value: float) -> None:
        """The latest evaluation return."""
        self.last, self.best = value, max(self.best, value)
