"""Processes that this one starts to work beside it; they end with it, however it ends.

Each is a module of ours run by the same interpreter. It gets its orders as one line of JSON on its standard
input, which then stays open: when the process that started it goes, also by a kill, the line closes, and the
child ends itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import IO, Any

#: Seconds that a process has to end by itself.
GRACE = 5.0
#: What launchers such as torchrun tell a process about itself; a child is told anew, or nothing.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Children:
    """One process for each number in ``orders``, running ``module`` with `follow` at its beginning.

    ``environment`` is what a child's differs in from this process's. With ``hushed`` what children write is
    kept apart, for `last_words`; otherwise it appears where this process's own does.
    """

    def __init__(
        self,
        module: str,
        orders: Mapping[int, Any],
        *,
        environment: Mapping[int, Mapping[str, str]] | None = None,
        hushed: bool = False,
    ) -> None:
        """Start them."""
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._told: dict[int, IO[str]] = {}
        self._files = ExitStack()
        inherited = {k: v for k, v in os.environ.items() if k not in LAUNCHER}
        inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            for number, order in orders.items():
                told = self._file() if hushed else None
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module],
                    stdin=subprocess.PIPE, stdout=told, stderr=told, text=True,
                    env={**inherited, **(environment or {}).get(number, {})},
                    process_group=0,  # Ctrl-C is for the first, who ends the others
                )  # fmt: skip
                self._processes[number] = process
                if told is not None:
                    self._told[number] = told
                assert process.stdin is not None
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
        except BaseException:
            self.close()
            raise

    def gone(self, number: int) -> str:
        """Return how a process ended, or the empty string while it runs."""
        status = self._processes[number].poll()
        if status is None:
            return ""
        return f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"

    def failed(self) -> int | None:
        """Return the number of a process that ended otherwise than well, or None."""
        return next((number for number, process in self._processes.items() if process.poll()), None)

    def last_words(self, number: int) -> str:
        """Return what a hushed process wrote."""
        file = self._told[number]
        file.seek(0)
        return file.read().strip()

    def close(self, grace: float = GRACE) -> None:
        """End those that still run, after ``grace`` seconds in which they may do so by themselves."""
        until = time.monotonic() + grace
        for process in self._processes.values():
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes.values():
            try:
                process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._files.close()

    def _file(self) -> IO[str]:
        return self._files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))


def follow() -> Any:
    """Return the orders of the process that started this one, and end with it from now on."""
    orders = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), name="parent", daemon=True).start()
    return orders


def _end_with(stream: IO[str]) -> None:
    """End this process when the one that started it closes the stream, or is killed."""
    with suppress(OSError, ValueError):
        stream.read()
    os._exit(3)
