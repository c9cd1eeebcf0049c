"""Files: written whole or not at all, JSON read with words for people; and what the operating system says: its errors, its free
memory."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")  # of the container that we are in
DAY = 86_400.0  # seconds after which what another machine was writing counts as abandoned


def write_text(path: Path, text: str) -> None:
    """All of it or nothing: a reader never finds half a file."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """All of it or nothing."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path``, of the same suffix, to be written: it takes the place of ``path`` when the block ends, and goes
    where the block fails. What a process that was killed left beside ``path`` goes too."""
    beside = lambda who: f".{path.stem}.{who}.part{path.suffix}"
    for old in path.parent.glob(glob.escape(beside("\0")).replace("\0", "*")):
        if _abandoned(old, old.name[len(path.stem) + 2 : -len(f".part{path.suffix}")]):
            old.unlink(missing_ok=True)
    part = path.with_name(beside(f"{_machine()}-{os.getpid()}"))
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node()) or "here"


def _abandoned(part: Path, who: str) -> bool:
    """Whether nobody writes this any more: its process is gone, or it is of another machine and was not touched for a day."""
    machine, _, pid = who.rpartition("-")
    if machine == _machine() and pid.isdecimal():
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
        return False
    try:
        return time.time() - part.stat().st_mtime > DAY
    except OSError:
        return False


def cache_folder(name: str) -> Path | None:
    """Where rlx keeps what can be computed again: ``$XDG_CACHE_HOME/rlx/NAME`` (``~/.cache/rlx/NAME``), made if need be. None
    with ``RLX_CACHE=off``, for a user without a home, and where it cannot be written."""
    if os.environ.get("RLX_CACHE") == "off":
        return None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlx" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter: there is no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def free_memory() -> int | None:
    """Bytes that are free on this machine, or in the container that we are in, what was read from files and can be read again
    included; None where nobody says."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")))
    except (OSError, StopIteration):
        pass
    try:
        most, used = (int((CGROUP / f"memory.{what}").read_text()) for what in ("max", "current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        found.append(most - used + int(stat["active_file"]) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        pass
    return min(found) if found else None


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON object (or what ``kind`` says) in ``path``, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: it cannot be read, is no JSON, or JSON of another kind; the message names the file.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read: its brackets are nested without end.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {words(error)}.") from None
    if not isinstance(found, kind):
        names: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}
        raise ValueError(f"{path} is to hold {names.get(kind, kind.__name__)}, it holds {type(found).__name__}.")
    return found


def number(error: BaseException) -> int | None:
    """The operating system's number of an error, also where a library wraps it in words of its own."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    match = re.search(r"os_error_code='(\d+)'", str(error))
    if match:
        return int(match[1])
    return next((n for n in _REMEDIES if os.strerror(n) in str(error)), None)


_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or ask for more",
    errno.EMFILE: "Raise the limit (ulimit -n)",
    errno.ENFILE: "Close some programs, or raise the limit of this machine",
}


def what_and_remedy(error: BaseException, where: str | os.PathLike | None = None) -> tuple[str, str]:
    """What went wrong in a few words, and what to do about it. ``where``: the file or folder that was written."""
    code = number(error)
    if code == errno.ENOSPC and _no_inodes(where):
        return "the file system has no room for more files (inodes)", "Remove files that are not needed"
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EMFILE: "this process has too many open files",
        errno.ENFILE: "this machine has too many open files",
    }
    reason = os.strerror(code) if code else words(error)
    return what.get(code or 0, reason), _REMEDIES.get(code or 0, "Give a folder that is yours to write, or mend its rights")


def _no_inodes(where: str | os.PathLike | None) -> bool:
    """Whether the file system has room, but not for one more file."""
    place = Path(where or ".").absolute()
    try:
        found = os.statvfs(next(p for p in (place, *place.parents) if p.exists()))
    except OSError:
        return False
    return found.f_files > 0 and found.f_ffree == 0


def words(error: BaseException) -> str:
    """The message of an error; its kind where it has none."""
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)) or type(error).__name__
