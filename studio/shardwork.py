"""Work on data, shard by shard: in this process, in processes of this machine, or on a Ray cluster.

    work = functools.partial(measure, threshold=3)             # a function of a module, nothing else
    for rows, found in zip(pieces, each_shard(work, pieces), strict=True):
        ...

`each_shard` yields ``work(shard)`` in the order of the shards, whichever engine runs them. For that to be the
same everywhere, ``work`` is a function of a module (or `functools.partial` of one), shards and results can
be pickled, and a result depends on the shard alone: a shard may be done twice. A shard is a list of rows
(`cut`), or only says where they are. What is dear to make, such as a processor, is made once in each process:
by a function under `functools.cache` that takes a path. What is kept for later runs is written by who asks,
not by the workers.

Work begins in this process; workers are started when what is left would take it longer than starting them, so
small sets never wait for one: a moment where they can be copies of this process, seconds where they must
import first. Each computes with one thread, as this process does meanwhile. A worker that is killed costs its
shard's time: the shard is done again, three times at most.

``TRIPTYCH_ENGINE`` (local or ray) and ``TRIPTYCH_WORKERS`` (0: as many as there are processors; 1: only this
process) choose for a whole command, as ``--engine`` and ``--workers`` do. Ray is told where its cluster is by
``RAY_ADDRESS``; without it, one is started on this machine. Data, models and run folders then stand at the
same paths on every node.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from studio.errors import ConfigError, TriptychError, unknown

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Name = Literal["local", "ray"]

#: How often one shard is tried before its killed workers are told.
TRIES = 3
#: Seconds of work that must be left for workers to be worth starting: they import what this process has.
WORTH = 15.0
#: The same where workers are copies of this process.
WORTH_COPIES = 1.0
#: Shards handed out beyond the one that is waited for, for each worker: what is done early waits in memory.
AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where shards are worked on, and by how many processes (0: as many as there are processors)."""

    name: Name = "local"
    workers: int = 0


def engine(name: str | None = None, workers: int | str | None = None) -> Engine:
    """Return the engine that is asked for, by the environment where an argument is None.

    Raises:
        ConfigError: for an unknown name, or a number that is none or negative.
    """
    name = name or os.environ.get("TRIPTYCH_ENGINE") or "local"
    asked = str(workers if workers is not None else os.environ.get("TRIPTYCH_WORKERS") or 0)
    if name not in get_args(Name):
        raise ConfigError(unknown("engine", name, get_args(Name)))
    if not asked.isdecimal():
        raise ConfigError(f"workers must be a whole number, 0 or more, not {asked}")
    return Engine(name=name, workers=int(asked))  # type: ignore[arg-type]


def cut(rows: Sequence[Shard], size: int) -> list[Sequence[Shard]]:
    """Return ``rows`` in shards of ``size``; the last one may be smaller."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def each_shard(
    work: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    chosen: Engine | None = None,
    worth: float = WORTH,
) -> Iterator[Result]:
    """Yield ``work(shard)`` for each shard, in their order; see the top of this file.

    ``worth`` are the seconds of work that must be left for workers to be started: fewer than `WORTH` where
    they need not import torch. What ``work`` raises is raised here, when its shard's turn has come.

    Raises:
        TriptychError: if workers are killed over the same shard three times, or Ray is asked for and missing.
    """
    chosen = chosen or engine()
    if chosen.name == "ray":
        from studio.shardwork_ray import each_remote

        yield from map(result_of, each_remote(work, shards, chosen.workers))
        return
    workers = min(chosen.workers or processors(), len(shards))
    at = 0
    # Asked for by number, workers start at once; else it must be worth their while.
    from studio.shardwork_local import copyable, each_local

    worth = min(worth, WORTH_COPIES) if copyable() else worth
    took = worth if chosen.workers > 1 else 0.0
    alone = workers < 2 or multiprocessing.current_process().daemon
    while at < len(shards) and (alone or took * (len(shards) - at) < worth):
        began = time.monotonic()
        outcome = outcome_of(work, shards[at], here=True)
        took = time.monotonic() - began
        yield result_of(outcome)
        at += 1
    if at < len(shards):
        yield from map(result_of, each_local(work, shards[at:], workers))


def processors() -> int:
    """Return how many processors this process may use; processes that train together share them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    together = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, allowed // int(together)) if together.isdecimal() and int(together) else allowed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a shard: its ``result``; or the kind of user's mistake, or of failure, and its text."""

    result: Any = None
    mistake: type[TriptychError] | None = None
    failure: str = ""


def outcome_of(work: Callable[[Any], Any], shard: Any, here: bool = False) -> Outcome:
    """Return what becomes of a shard, computed with one thread: the bits must not depend on the machine.

    ``here`` lets a failure, which is no user's mistake, pass as it is.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    if torch and threads != 1:
        torch.set_num_threads(1)
    try:
        return Outcome(result=work(shard))
    except TriptychError as error:
        return Outcome(mistake=type(error), failure=str(error))
    except Exception as error:
        if here:
            raise
        return Outcome(failure=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        if torch and threads != 1:
            torch.set_num_threads(threads)


def result_of(outcome: Outcome) -> Any:
    """Return the result, or raise what was raised where the shard was worked on.

    Raises:
        TriptychError: a user's mistake, of its own kind.
        RuntimeError: any other failure of a worker, with its traceback.
    """
    if outcome.mistake is not None:
        error = outcome.mistake.__new__(outcome.mistake)
        error.args = (outcome.failure,)  # some kinds build their sentence from several arguments
        raise error
    if outcome.failure:
        raise RuntimeError(f"in a worker: {outcome.failure}")
    return outcome.result
