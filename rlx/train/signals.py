"""Signals that ask a run, or any other command, to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

STOPS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT become a request that the runner honours between two chunks. Main thread only; a signal that this
    process was told to ignore (shells say so to commands in the background) stays ignored."""

    def __init__(self) -> None:
        self.asked = ""  # the signal's name
        self.old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for s in STOPS:
                if signal.getsignal(s) is not signal.SIG_IGN:
                    self.old[s] = signal.signal(s, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.asked:  # twice: at once
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name

    def __exit__(self, *error: Any) -> None:
        for s, handler in self.old.items():
            signal.signal(s, handler)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises ``KeyboardInterrupt("SIGTERM")`` wherever the program is, so that it leaves through the same doors as with
    Ctrl-C. Main thread only, and not where the signal is ignored or somebody else looks after it."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt(signal.Signals(number).name)

    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
