"""Threads over tensors, never inside them: results are the same for any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np

from studio.later import has_torch, torch

T = TypeVar("T")


def workers(asked: int) -> int:
    """Return how many tensors are worked on at a time; 0 asks for one per processor, at most 8."""
    return asked or min(len(os.sched_getaffinity(0)), 8)


def in_order(work: Callable[[Any], T], items: Iterable[Any], threads: int) -> Iterator[T]:
    """Yield ``work(item)`` for all items in their order, with a few of them worked on at a time."""
    waiting = list(items)
    if threads <= 1:
        yield from map(work, waiting)
        return
    with ThreadPoolExecutor(threads, initializer=_alone) as pool:
        running = []
        try:
            for item in waiting:
                running.append(pool.submit(_inference, work, item))
                if len(running) > 8 * threads:  # enough to go on with while the journal is flushed
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()


def _alone() -> None:
    """Keep torch's operations in a thread inside that thread; where NumPy does the work there is no torch."""
    if has_torch():
        torch.set_num_threads(1)


def _inference(work: Callable[[Any], T], item: Any) -> T:
    with torch.inference_mode() if has_torch() else nullcontext():
        return work(item)


def keep_freed_memory() -> None:
    """Let the C library keep the memory of pieces: it does once it has seen a larger block come and go."""
    np.empty(24 << 20, np.uint8)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run every tensor operation on the thread that calls it: faster here, and the same anywhere."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
