"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """SIGTERM and SIGINT become a request that the runner honours between two chunks. Main thread only."""

    def __init__(self) -> None:
        self.asked = ""  # the signal's name
        self.old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGTERM, signal.SIGINT):
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
