"""What a run says: ``metrics.jsonl`` always, TensorBoard and Weights & Biases on request, a progress bar for people."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rlx import files

FILE = "metrics.jsonl"
WANDB_FILE = "wandb-id"


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
            assert run_dir is not None
            name, own = "-".join(run_dir.absolute().parts[-2:]), _wandb_id(run_dir)
            self.wandb = _need("wandb", "wandb").init(project=wandb, dir=str(run_dir), resume="allow", id=own, name=name)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        line = plain({"kind": kind, **values})
        if self.path is not None:
            if self.file is None:
                self.file = self.path.open("a", encoding="utf-8")
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
        kept = self.path.read_bytes().split(b"\n")[:lines]  # bytes: what a line holds is not asked here
        files.write_bytes(self.path, b"".join(line + b"\n" for line in kept))

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


def _wandb_id(run_dir: Path) -> str:
    """The run's id at Weights & Biases, drawn once and kept in its folder: no other run has it, wherever this one goes on."""
    path = run_dir / WANDB_FILE
    kept = path.read_bytes()[:100].decode("ascii", "replace").strip() if path.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{16}", kept):
        kept = uuid.uuid4().hex[:16]
        files.write_text(path, kept + "\n")
    return kept


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's metrics. One that is no line of metrics is left out, and a warning says so; of a half-written
    last one, which is still being written, nothing is said.

    Raises:
        ValueError: there is no such file.
    """
    path = run_dir / FILE
    try:
        texts = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {files.words(error)}.") from None
    lines: list[dict[str, Any]] = []
    bad: list[str] = []
    shapes: dict[str, Any] = {}
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode())
            fault = _fault(line, shapes)
        except (ValueError, RecursionError):
            fault = "no JSON"
        if fault is None:
            lines.append(line)
        elif number < len(texts):
            bad.append(f"{number} ({fault})")
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        warnings.warn(f"{path}: left out what is no line of metrics: {', '.join(bad[:3])}{more}.", stacklevel=2)
    return lines


def _fault(line: Any, shapes: dict[str, Any]) -> str | None:
    """Why ``line`` is none; None where it is. ``shapes``: those of each evaluation's first line."""
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        return "no object with a kind"
    if _shape(line.get("wall_s")) != ():
        return "no time"
    if line["kind"] != "eval":
        return None
    found = {name: _shape(line.get(name)) for name in ("env_steps", "updates", "return_mean", "returns")}
    if not isinstance(line.get("eval"), str) or None in found.values() or len({found[k] for k in list(found)[:3]}) > 1:
        return "no evaluation"
    return None if shapes.setdefault(line["eval"], found) == found else "other members or episodes than before"


def _shape(value: Any) -> tuple[int, ...] | None:
    """Of numbers, as `plain` writes them; None where there are others."""
    try:
        return None if value is None else np.asarray(value, float).shape
    except (TypeError, ValueError, OverflowError):
        return None


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
