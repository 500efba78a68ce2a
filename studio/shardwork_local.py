"""Shards by processes of this machine, started afresh: none inherits threads or a half-used library."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from studio.errors import TriptychError
from studio.shardwork import AHEAD, TRIES, Outcome, outcome_of

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def each_local(work: Callable[[Any], Any], shards: Sequence[Any], workers: int) -> Iterator[Outcome]:
    """Yield what becomes of each shard, in their order.

    A killed worker is replaced, and its shard is the next that is done. The workers end with this generator,
    and with this process however it ends: they read from it, and the end of that file is theirs.

    Raises:
        TriptychError: if workers were killed over the same shard `TRIES` times, or end before they begin.
    """
    code = pickle.dumps(work)
    todo = deque(range(len(shards)))
    tries = [0] * len(shards)
    done: dict[int, Outcome] = {}
    crew: list[_Worker] = []
    turn = 0
    try:
        while turn < len(shards):
            while len(crew) < min(workers, len(todo) + sum(one.busy for one in crew)):
                crew.append(_Worker(code))
            for one in crew:
                if not one.busy and todo and todo[0] < turn + workers * AHEAD:
                    one.give(todo[0], shards[todo.popleft()])
            for ready in wait([one.connection for one in crew]):
                one = next(one for one in crew if one.connection is ready)
                outcome = one.take()
                if outcome is not None:
                    done[one.shard] = outcome
                    one.busy = False
                    continue
                crew.remove(one)
                end = one.end()
                if one.busy:
                    tries[one.shard] += 1
                    todo.appendleft(one.shard)
                    if tries[one.shard] == TRIES:
                        raise TriptychError(_given_up(one.shard, len(shards), end))
            while turn in done:
                yield done.pop(turn)
                turn += 1
    finally:
        for one in crew:
            one.end()


def _given_up(number: int, count: int, end: str) -> str:
    why = (
        "memory may have been short, and fewer workers need less"
        if end.startswith("by")
        else "what it said stands above"
    )
    return (
        f"workers ended {TRIES} times over part {number + 1} of {count} of the data, the last {end}; {why}; "
        "workers=1 does without them"
    )


class _Worker:
    """A process and the connection to it; ``shard`` is the number it was given last."""

    def __init__(self, code: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, code), daemon=True)
        with _one_thread_each():
            self._process.start()
        theirs.close()
        self.shard, self.busy = -1, False

    def give(self, number: int, shard: Any) -> None:
        self.shard, self.busy = number, True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `take` sees its end
            self.connection.send(shard)

    def take(self) -> Outcome | None:
        """Return what it has done, or None if it has ended."""
        try:
            found: Outcome = self.connection.recv()
            return found
        except (EOFError, ConnectionResetError):
            return None

    def end(self) -> str:
        """End the process if it has not ended by itself; return in words how it did."""
        self.connection.close()
        self._process.join(0.2 if self.busy else 5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        self._process.close()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let a process that starts in this block read from its environment that it has one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection, code: bytes) -> None:
    """Do what is sent until nobody is left who sends; Ctrl-C is the sender's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = pickle.loads(code)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    while True:
        try:
            shard = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        outcome = outcome_of(work, shard)
        try:
            connection.send(outcome)
        except (BrokenPipeError, ConnectionResetError):
            return
