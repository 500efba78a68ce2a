"""Shards by the tasks of a Ray cluster (https://docs.ray.io); Ray places, moves and repeats them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from studio.errors import TriptychError
from studio.shardwork import AHEAD, TRIES, Outcome, outcome_of


def each_remote(work: Callable[[Any], Any], shards: Sequence[Any], workers: int) -> Iterator[Outcome]:
    """Yield what becomes of each shard, in their order; at most ``workers`` processors are used (0: all).

    Raises:
        TriptychError: if Ray is not installed or its cluster is not there, or a shard's task died too often.
    """
    ray = _ray(workers)
    free = workers or int(ray.cluster_resources().get("CPU", 1))
    task = ray.remote(num_cpus=1, max_retries=TRIES - 1)(outcome_of)
    shared = ray.put(work)
    waiting: deque[Any] = deque()
    given = 0
    try:
        for number in range(len(shards)):
            while given < min(len(shards), number + free * AHEAD):
                waiting.append(task.remote(shared, shards[given]))
                given += 1
            try:
                yield ray.get(waiting.popleft())
            except ray.exceptions.RayTaskError as error:
                raise RuntimeError(f"in a worker: {error}") from None
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise TriptychError(
                    f"ray could not do part {number + 1} of {len(shards)} of the data ({reason})"
                ) from None
    finally:
        for left in waiting:
            ray.cancel(left, force=True)


def imported() -> Any:
    """Return the package.

    Raises:
        TriptychError: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported behind the user's back
    try:
        import ray
    except ModuleNotFoundError:
        raise TriptychError(
            "engine 'ray' needs the package 'ray', which is not installed; pip install 'triptych[ray]', "
            "or use the engine 'local'"
        ) from None
    return ray


def _ray(workers: int) -> Any:
    """Return Ray, connected to the cluster that is running or to one of our own on this machine."""
    ray = imported()
    if not ray.is_initialized():
        own = {"num_cpus": workers or None, "include_dashboard": False}
        more = {} if os.environ.get("RAY_ADDRESS") else own
        try:
            ray.init(log_to_driver=False, logging_level="error", **more)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TriptychError(f"ray cannot be reached ({' '.join(str(error).split())[:300]})") from None
    return ray
