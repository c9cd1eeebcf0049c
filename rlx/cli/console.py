"""What all commands share: how they end, how they say it, and their one-line result."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from rlx import config, files, plugins
from rlx.replay import datasets
from rlx.replay.datasets import native
from rlx.train import Diverged, Interrupted, processes
from rlx.train.checkpoint import CheckpointError
from rlx.train.signals import sigterm_interrupts
from rlx.train.stats import Estimate

# The field of ``--import``: modules that a command imports before all else.
IMPORTS = Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction]
IMPORTS_HELP = "a module that registers an agent or environment, such as my_agent: my_agent.py here or on PYTHONPATH"
# And of ``--env-option``: what the maker of an environment takes.
ENV_OPTIONS = Annotated[tuple[str, ...], tyro.conf.arg(name="env-option"), tyro.conf.UseAppendAction]
ENV_OPTIONS_HELP = "NAME=VALUE for the environment's maker, such as env_name=reach-v3; may be given several times"
EVAL_ENV_OPTIONS = Annotated[tuple[str, ...], tyro.conf.arg(name="eval-env-option"), tyro.conf.UseAppendAction]
EVAL_ENV_OPTIONS_HELP = "NAME=VALUE that differs where it is evaluated, such as distractor=none; several times"
# And of ``--data-option``: what a format of data leaves open.
DATA_OPTIONS = Annotated[tuple[str, ...], tyro.conf.arg(name="data-option"), tyro.conf.UseAppendAction]
DATA_OPTIONS_HELP = "NAME=VALUE where the file leaves something open, such as bounds=clip or horizon=1000; several times"
BAD_INPUT = 2
STOPPED = {"SIGINT": 130, "SIGTERM": 143}  # exit codes, as shells count them
NO_READER = 141  # SIGPIPE
MOST = 2**31 - 1  # of whole numbers on the command line: what an int32 holds
MOST_STREAMS = 1_000_000  # of what goes on side by side


def command(body: Callable[[list[str]], None], argv: Sequence[str] | None) -> int:
    """Runs ``body`` on the arguments and gives the exit code: 0, or 2 with one message on stderr for what a person can mend,
    130 or 143 where Ctrl-C or SIGTERM ended it outside of training, 141 where nobody reads its output any more.

    Modules that ``--import`` names are imported before. Any other exception is a bug of rlx and passes with its traceback;
    ``--debug`` or ``RLX_DEBUG=1`` show it always.
    """
    _print_anything()
    given = [_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in given or os.environ.get("RLX_DEBUG", "0") not in ("", "0")
    given = [word for word in given if word != "--debug"]
    try:
        with sigterm_interrupts():
            plugins.import_modules(plugins.given(given))
            body(given)
        return 0
    except SystemExit as end:  # the parser has said what was wrong
        return int(end.code or 0)
    except Interrupted as stopped:
        print(f"\n{stopped}", file=sys.stderr)
        return 0
    except KeyboardInterrupt as stopped:
        name = "SIGTERM" if stopped.args == ("SIGTERM",) else "SIGINT"
        print(f"\nstopped by {name}. What was saved stays; the same command goes on from there.", file=sys.stderr)
        return STOPPED[name]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return NO_READER
    except (ValueError, OSError, Diverged, CheckpointError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not _no_memory(error):
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {words(error)}{_as_flag(error, given)}", file=sys.stderr)
        return BAD_INPUT
    except processes.Gone as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # JAX's own goodbye would wait for the one that is gone


def fail(message: str) -> NoReturn:
    """Ends a command whose parts did not all go well: one message on stderr, exit code 1. What was done stays."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def _print_anything() -> None:
    """A terminal that has no sign for a letter is shown its number; an error would end what goes on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _home(word: str) -> str:
    """``~/x`` and ``--flag=~/x`` below the home folder: shells leave the latter alone."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + os.path.expanduser(value) if value.startswith("~") else word


def _no_memory(error: Exception) -> bool:
    """Of the host or of a device."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def words(error: Exception) -> str:
    """The message of an error, with the remedy where the operating system only gives a name."""
    if _no_memory(error):
        first = (str(error).strip().splitlines() or ["out of memory"])[0]
        return f"not enough memory ({first}). Give smaller sizes, fewer streams or members, or --waves."
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    what, remedy = files.what_and_remedy(error, error.filename)
    where = f": {error.filename}" if error.filename else ""
    return f"cannot read or write{where}: {what}. {remedy}."


_READING = re.compile(rf"(?<![\w-])({'|'.join(field.name for field in fields(datasets.Reading))})=(\w+(?:,\w+)*)")


def _as_flag(error: Exception, given: Sequence[str]) -> str:
    """Readers name the options that a file needs as Python has them: how the first of them that nobody has ``given`` is
    written on a command line, where the message does not say it."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    if not any(name.startswith(datasets.__name__) for name in modules) or "--data-option" in str(error):
        return ""
    has = lambda name: any(re.search(rf"(^|=){name}=", word.replace("-", "_")) for word in given)
    named = next((found for found in _READING.finditer(str(error)) if not has(found[1])), None)
    return f" On the command line: --data-option {named[0]}." if named else ""


def destination(out: str) -> Path:
    """Where a new dataset goes, as ``--out`` says it; ends the command where it cannot go there."""
    if not out:
        config.stop("where to? Give --out, such as --out data (a folder of shards) or --out data.npz")
    path = Path(out)
    if not path.parent.is_dir():
        config.stop(f"--out {path} is to lie in a folder that exists")
    if path.exists() and (path.suffix not in native.FILES or path.is_dir()):
        config.stop(f"--out {path} is there already: give another name, or remove it first")
    return path


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which is moved there when the block ends and goes where it fails: so ``out`` is
    whole or not there, and the same command begins anew after a kill."""
    part = out.with_name(f".{out.name}.part")
    if part.exists():  # of a command that was ended
        shutil.rmtree(part)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(out)


def spare_inputs(out: Path, inputs: Iterable[Path]) -> Path:
    """``out``; ends the command where writing it would destroy what the command reads: one of its inputs, or a file in one."""
    place = out.resolve()
    for path in inputs:
        same = out.exists() and path.exists() and out.samefile(path)
        if same or (out.exists() and path.resolve() in place.parents):
            config.stop(f"{out} is what this command reads, and would be written over: give another name by --out")
    return out


def drawn(picture: Path, draw: Callable[[], None], asked: bool) -> Path | None:
    """``picture``, when ``draw`` has written it; None where that cannot be and nobody ``asked`` for it, which is said.

    Raises:
        ValueError: what was asked for cannot be written.
    """
    try:
        draw()
    except OSError as error:
        what, remedy = files.what_and_remedy(error, picture)
        message = f"the picture {picture} cannot be written: {what}. {remedy}; --out says where it goes."
        if asked:
            raise ValueError(message) from error
        print(message, file=sys.stderr)
        return None
    print(f"  picture: {picture}", flush=True)
    return picture


def on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file())


def table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Two columns of text on stdout."""
    rows = [(name, str(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    sys.stdout.flush()


def result(values: dict[str, Any]) -> None:
    """The last line of every command: flat JSON, for programs."""
    print("RESULT " + json.dumps({k: plain(v) for k, v in values.items()}), flush=True)


def plain(value: Any) -> Any:
    """Numpy scalars and arrays as JSON knows them; what is not finite as null."""
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def estimate(found: Estimate) -> str:
    """``"12.3  [10.1, 14.2]  95% interval over 8 seeds"``"""
    if found.interval is None:
        return f"{number(found.value)}  no interval: {found.over}"
    return f"{number(found.value)}  [{number(found.interval[0])}, {number(found.interval[1])}]  95% interval over {found.over}"


def number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


@contextlib.contextmanager
def trials(total: int, done: int, enabled: bool) -> Iterator[Callable[[str, int], None]]:
    """A bar over the trials of a sweep, and a line for each: gives ``(name, exit code) -> None`` to call as they end."""
    screen = Console(stderr=True)
    with Progress(console=screen, disable=not enabled or not screen.is_terminal) as progress:
        task = progress.add_task("trials", total=total, completed=done)

        def report(name: str, code: int) -> None:
            progress.advance(task)
            state = f"failed with exit code {code}: see log.txt in its folder" if code else "done"
            screen.print(f"{name}: {state}", highlight=False, soft_wrap=True)

        yield report


@contextlib.contextmanager
def steps(total: int, what: str, enabled: bool) -> Iterator[Callable[[float], None]]:
    """A bar over so many steps, on a terminal: gives ``done -> None`` to call as they are taken."""
    screen = Console(stderr=True)
    with Progress(console=screen, disable=not enabled or not screen.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
