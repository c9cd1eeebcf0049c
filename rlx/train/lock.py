"""One trainer per run folder."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import warnings
from collections.abc import Iterator
from pathlib import Path

_mine: contextvars.ContextVar[frozenset[Path]] = contextvars.ContextVar("held", default=frozenset())


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The run folder for this caller alone, as long as its process lives; who holds it already may enter again, other threads
    and processes may not. Where the file system knows no locks, a warning says that nobody is kept out.

    Raises:
        ValueError: somebody else trains there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    where = run_dir.resolve()
    if where in _mine.get():
        yield
        return
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"somebody else trains in {run_dir} at this moment: wait for them, or give another.") from None
        except OSError as error:  # Lustre, some NFS and FUSE mounts
            warnings.warn(f"{run_dir} cannot be locked ({error.strerror}): see that nobody else trains there.", stacklevel=3)
        token = _mine.set(_mine.get() | {where})
        try:
            yield
        finally:
            _mine.reset(token)
