"""Ctrl-C that waits for the step to end, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any


class Interrupt:
    """A context in which Ctrl-C, or a scheduler's TERM, sets ``asked``; a later second one ends at once.

    What comes within a second of the first is the same request: a terminal signals all its processes, and
    a program that started this one passes the signal on besides. Off the main thread, where Python delivers
    no signals, the context changes nothing and ``asked`` stays False.
    """

    def __init__(self) -> None:
        """Change nothing before the context is entered."""
        self.asked = False
        self._since = 0.0
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        """Take over the two signals."""
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                self._old[which] = signal.signal(which, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for which, old in self._old.items():
            signal.signal(which, old)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > 1.0:
            raise KeyboardInterrupt
