"""The processes that a merge starts on its own machine; they end with the one that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mergers._ranks import Ranks
from mergers._spec import MergeSpec

#: Seconds that a process has to end by itself.
GRACE = 5.0


class Children:
    """One process for each rank after the first."""

    def __init__(self, spec: MergeSpec, out: Path, ranks: Ranks) -> None:
        """Start them; each reads its orders from its standard input, and ends when that is closed."""
        self._processes: dict[int, subprocess.Popen[str]] = {}
        launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        environment = {k: v for k, v in os.environ.items() if k not in launcher}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            for rank in range(1, ranks.world):
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "mergers._children"],
                    stdin=subprocess.PIPE, text=True, env=environment,
                    process_group=0,  # Ctrl-C is for the first, who ends the others
                )  # fmt: skip
                self._processes[rank] = process
                orders = {"spec": spec.to_mapping(), "out": str(out), "ranks": asdict(ranks.number(rank))}
                assert process.stdin is not None
                process.stdin.write(json.dumps(orders) + "\n")
                process.stdin.flush()
        except BaseException:
            self.close()
            raise

    def gone(self, rank: int) -> str:
        """Return how a process ended, or the empty string while it runs."""
        status = self._processes[rank].poll()
        if status is None:
            return ""
        return f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"

    def close(self) -> None:
        """End those that still run."""
        for process in self._processes.values():
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes.values():
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with(stream: object) -> None:
    """End this process when the one that started it closes the stream, or is killed."""
    with suppress(OSError, ValueError):
        stream.read()  # type: ignore[attr-defined]
    os._exit(3)


def main() -> int:
    """Take a part in a merge, as the orders on standard input say."""
    orders = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), name="parent", daemon=True).start()
    from mergers._together import work_for_parent
    from studio.errors import TriptychError

    ranks = Ranks(**orders["ranks"])
    try:
        work_for_parent(MergeSpec.from_mapping(orders["spec"]), Path(orders["out"]), ranks)
    except TriptychError:
        return 2  # which the first process tells
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that waits for the first process need not
