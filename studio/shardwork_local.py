"""Shards by processes of this machine: copies of this one where that is safe, else started afresh.

A copy (fork) begins at once, with what this process has imported and read. It is safe while nothing else runs
here: no thread of Python's but this one, no accelerator, no exchange between processes. The idle threads of
libraries that compute are not copied and not missed, since a worker computes with one thread. A process
that starts afresh (spawn) imports first what the work needs, seconds of it; this one works meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from studio.errors import TriptychError
from studio.shardwork import AHEAD, TRIES, Outcome, outcome_of

#: What a worker reads from its environment: one thread, and none in tokenizers, whose pool a fork breaks.
_ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
#: Seconds after which one that may be stopped looks whether it is.
_LOOK = 0.2
#: This side of the connections to all workers: a copy of this process must not keep them open.
_OURS: set[Connection] = set()


def copyable() -> bool:
    """Say whether a copy of this process can be a worker; see the top of this file."""
    torch = sys.modules.get("torch")
    if sys.platform != "linux" or "ray" in sys.modules:
        return False
    if torch and (torch.cuda.is_initialized() or _exchanging(torch)):
        return False
    # The thread of a live display only ever writes to the terminal, which no worker does.
    others = (one for one in threading.enumerate() if one is not threading.main_thread())
    return threading.current_thread() is threading.main_thread() and all(
        type(one).__module__.startswith("rich.") for one in others
    )


def _exchanging(torch: Any) -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def each_local(
    work: Callable[[Any], Any],
    shards: Sequence[Any],
    workers: int,
    copies: bool | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Outcome]:
    """Yield what becomes of each shard, in their order; ``copies`` says how to start, None as is safe.

    With ``stop`` this process does nothing of the work itself, and ends it soon after that is set.

    A killed worker is replaced, and its shard is the next that is done. The workers end with this generator,
    and with this process however it ends: they read from it, and the end of that file is theirs.

    Raises:
        TriptychError: if workers were killed over the same shard `TRIES` times, or end before they begin.
    """
    copies = copyable() if copies is None else copies
    code = None if copies else pickle.dumps(work)
    todo = deque(range(len(shards)))
    tries = [0] * len(shards)
    done: dict[int, Outcome] = {}
    crew: list[_Worker] = []
    turn = 0
    try:
        while turn < len(shards) and not (stop and stop.is_set()):
            while len(crew) < min(workers, len(todo) + sum(one.busy for one in crew)):
                crew.append(_Worker(work, code))
            for one in crew:
                if one.ready and not one.busy and todo and todo[0] < turn + workers * AHEAD:
                    one.give(todo[0], shards[todo.popleft()])
            # While they all import, this process works on what is next, and looks up after each shard.
            alone = bool(todo) and not (copies or stop or any(one.ready for one in crew))
            pause = 0 if alone else _LOOK if stop else None
            for ready in wait([one.connection for one in crew], timeout=pause):
                one = next(one for one in crew if one.connection is ready)
                outcome = one.take()
                if outcome is not None:
                    if one.ready:
                        done[one.shard] = outcome
                    one.busy, one.ready = False, True
                    continue
                crew.remove(one)
                end = one.end()
                if one.busy or not one.ready:
                    first = one.shard if one.busy else turn
                    tries[first] += 1
                    if one.busy:
                        todo.appendleft(first)
                    if tries[first] == TRIES:
                        raise TriptychError(_given_up(first, len(shards), end))
            if alone and not any(one.ready for one in crew):
                number = todo.popleft()
                done[number] = outcome_of(work, shards[number])
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
    """A process and the connection to it; ``shard`` is the number it was given last.

    Its first message says that it is ``ready``. Without ``code`` it is a copy of this process.
    """

    def __init__(self, work: Callable[[Any], Any], code: bytes | None) -> None:
        context = multiprocessing.get_context("fork" if code is None else "spawn")
        self.connection, theirs = context.Pipe()
        _OURS.add(self.connection)
        self._process = context.Process(target=serve, args=(theirs, code or work), daemon=True)  # type: ignore[attr-defined]
        with _alone(), warnings.catch_warnings():
            # Python 3.12 warns of copying a process in which any library has a thread, idle ones too.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()
        self.shard, self.busy, self.ready = -1, False, False

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
        _OURS.discard(self.connection)
        self.connection.close()
        self._process.join(0.2 if self.busy or not self.ready else 5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        self._process.close()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let a process that starts in this block read from its environment that it has one thread."""
    before = {name: os.environ.get(name) for name in _ALONE}
    os.environ.update(_ALONE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection, work: Any) -> None:
    """Do ``work``, perhaps pickled, on what is sent until nobody is left who sends.

    Ctrl-C is the sender's to handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while _OURS:
        _OURS.pop().close()
    if isinstance(work, bytes):
        work = pickle.loads(work)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    outcome = Outcome()
    while True:
        try:
            connection.send(outcome)
            shard = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        outcome = outcome_of(work, shard)
