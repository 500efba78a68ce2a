"""Threads over tensors, never inside them: results are the same for any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

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
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = []
        try:
            for item in waiting:
                running.append(pool.submit(_inference, work, item))
                if len(running) > 2 * threads:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()


def _inference(work: Callable[[Any], T], item: Any) -> T:
    with torch.inference_mode():
        return work(item)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run every tensor operation on the thread that calls it: faster here, and the same anywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # The C library keeps freed memory for pieces like these once it has seen a larger block come and go.
    del_me = torch.empty(24 << 20, dtype=torch.uint8)
    del del_me
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
