"""The next batches, made by a thread while the device computes: reading, decoding and padding take no time.

What is asked for is told beforehand. If something else is asked for after all (a batch cut anew, another
epoch), it is made on the spot: the order of the rows is the loop's, never the thread's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import torch

from studio.training.encoding import Encoded
from studio.types import Batch

Rows = Sequence[int]


class Prefetch:
    """Makes batches of rows ahead of their use, at most ``ahead`` of them."""

    def __init__(
        self,
        collate: Callable[[Sequence[Batch]], Batch],
        *,
        on: bool = True,
        ahead: int = 4,
        device: torch.device | None = None,
    ) -> None:
        """Make batches by ``collate``; for a CUDA ``device`` in memory that it copies from by itself.

        ``on`` False makes every batch when it is asked for.
        """
        self._collate, self._on, self._ahead = collate, on, ahead
        self._pin = device is not None and device.type == "cuda"
        self._data: Encoded | None = None
        self._made: queue.Queue[tuple[Rows, Batch | BaseException] | None] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Prefetch:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the thread end."""
        self.close()

    def begin(self, data: Encoded, rows: Iterable[Rows]) -> None:
        """Begin to make the batches of ``rows`` of ``data``, which will be asked for in this order."""
        self.close()
        if not self._on:
            return
        self._data, self._stop = data, threading.Event()
        self._made = queue.Queue(maxsize=self._ahead)
        self._thread = threading.Thread(
            target=self._work, args=(data, iter(rows), self._made, self._stop), name="prefetch", daemon=True
        )
        self._thread.start()

    def take(self, data: Encoded, rows: Rows) -> Batch:
        """Return the batch of ``rows``, made already if it is the next of those that were told."""
        if self._made is not None and data is self._data:
            found = self._made.get()
            if found is not None and list(found[0]) == list(rows):
                if isinstance(found[1], BaseException):
                    raise found[1]
                return found[1]
            self.close()
        return self._make(data, rows)

    def close(self) -> None:
        """Let the thread end, and wait for it; what it has made is dropped.

        A thread that is still at work when the process ends makes it end with an abort.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self._thread = self._made = self._data = None

    def _make(self, data: Encoded, rows: Rows) -> Batch:
        batch = self._collate([data[index] for index in rows])
        return {key: value.pin_memory() for key, value in batch.items()} if self._pin else batch

    def _work(
        self,
        data: Encoded,
        told: Iterator[Rows],
        made: queue.Queue[tuple[Rows, Batch | BaseException] | None],
        stop: threading.Event,
    ) -> None:
        for rows in told:
            try:
                batch: Batch | BaseException = self._make(data, rows)
            except Exception as error:
                batch = error
            if not _put(made, (rows, batch), stop):
                return
        _put(made, None, stop)


def _put(
    made: queue.Queue[tuple[Rows, Batch | BaseException] | None],
    item: tuple[Rows, Batch | BaseException] | None,
    stop: threading.Event,
) -> bool:
    """Wait for a free place; False if nobody wants the item any more."""
    while not stop.is_set():
        with suppress(queue.Full):
            made.put(item, timeout=0.1)
            return True
    return False
