"""Work for later, done by other processes while this one trains; what is not done in time is done as ever."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from studio.errors import TriptychError
from studio.shardwork import engine, processors
from studio.shardwork_local import each_local

#: More processes would take more memory than they save time.
MOST = 8
#: How far they stand back behind this process, as `nice` counts.
STAND_BACK = 10


class Ahead:
    """Does ``work`` on jobs that write files; whoever needs a file that is not there makes it.

    Processes start afresh, since a process that trains cannot be copied, and give way to it. They end when
    they are done, when this object is closed, and with this process however that ends.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """Do nothing yet."""
        self._work = partial(_gently, work)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, jobs: Sequence[Any]) -> None:
        """Begin with ``jobs``, unless this process is to work alone or others do its work elsewhere."""
        chosen = engine()
        if not jobs or chosen.name != "local" or chosen.workers == 1:
            return
        workers = min(chosen.workers or processors(), len(jobs), MOST)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(list(jobs), workers), daemon=True)
        self._thread.start()

    def _run(self, jobs: Sequence[Any], workers: int) -> None:
        # What fails or is killed here is done again by who needs it, and told then.
        with contextlib.suppress(TriptychError, OSError):
            for _ in each_local(self._work, jobs, workers, copies=False, stop=self._stop):
                pass

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is done, or for some time; return whether it is."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def close(self) -> None:
        """End what is still going on."""
        self._stop.set()
        self.wait()


def _gently(work: Callable[[Any], Any], job: Any) -> Any:
    os.setpriority(os.PRIO_PROCESS, 0, STAND_BACK)
    return work(job)
