"""Compilation: the persistent cache, and the seconds spent."""

from __future__ import annotations

import importlib
import os
import time
import zlib
from pathlib import Path
from typing import Any

import jax

from rlx import files

_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_spent = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _spent
    if event in _EVENTS:
        _spent += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compile_seconds() -> float:
    """Seconds of tracing, lowering and compiling in this process so far."""
    return _spent


# --------------------------------------------------------------------------------------------------------- what is kept

MOST_BYTES = 4 * 2**30  # of compiled programs in the folder that is rlx's own
WRITING = 60.0  # seconds after which an entry is not being written any more
CHECKED = ".checked"  # a file whose time says up to when entries were looked at
ENTRIES = "*-cache"  # as JAX calls them


def use_persistent_cache() -> None:
    """Keep compiled programs between processes, unless JAX was already told where (``JAX_COMPILATION_CACHE_DIR``) or
    ``RLX_CACHE=off``. The default folder is ``$XDG_CACHE_HOME/rlx/xla`` (``~/.cache/rlx/xla``); without a home, or where it
    cannot be written, nothing is kept. In rlx's own folder entries go that a killed process has left torn, and the oldest
    beyond ``RLX_CACHE_GIB`` (4)."""
    folder = None if jax.config.values["jax_compilation_cache_dir"] else files.cache_folder("xla")
    if folder is None:
        return
    tidy(folder, most_bytes())
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # most programs compile in less than the default of 1 s


def most_bytes() -> int:
    """What ``RLX_CACHE_GIB`` allows.

    Raises:
        ValueError: it is no number of GiB.
    """
    given = os.environ.get("RLX_CACHE_GIB", "")
    try:
        size = float(given) if given else MOST_BYTES / 2**30
        if not 0 <= size < 1e6:
            raise ValueError
    except ValueError:
        raise ValueError(f"RLX_CACHE_GIB={given!r} is no size of a cache: give a number of GiB, such as 4.") from None
    return int(size * 2**30)


def tidy(folder: Path, most: int) -> None:
    """Removes entries that are torn, which JAX would warn of at every start and never replace, and the oldest beyond ``most``
    bytes. An entry is looked at once, after it was written."""
    entries = []
    now, before = time.time(), _time_of(folder / CHECKED)
    for entry in folder.glob(ENTRIES):
        try:
            found = entry.stat()
            if before <= found.st_mtime < now - WRITING and not _whole(entry.read_bytes()):
                entry.unlink()
            else:
                entries.append((max(found.st_atime, found.st_mtime), found.st_size, entry))
        except OSError:  # another process was first
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries, key=lambda e: e[0]):
        if total <= most:
            break
        entry.unlink(missing_ok=True)
        total -= size
    try:
        (folder / CHECKED).touch()
        os.utime(folder / CHECKED, (now - WRITING, now - WRITING))
    except OSError:
        return


def _time_of(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _whole(data: bytes) -> bool:
    """Whether an entry can be unpacked, by zlib or zstd as JAX packs it; of what cannot be told it is taken for granted."""
    if not data:
        return False
    try:
        if data[:1] == b"\x78":
            unpacked = zlib.decompressobj()
            unpacked.decompress(data)
            return unpacked.eof
        if data[:4] == b"\x28\xb5\x2f\xfd":
            unpack = _zstd()
            return unpack is None or bool(unpack(data))
    except Exception:  # each library has errors of its own
        return False
    return True


def _zstd() -> Any:
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name).decompress
        except (ImportError, AttributeError):
            continue
    return None
