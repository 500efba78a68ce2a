"""Batches made ahead by a thread: the right rows in the right order, whatever is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from studio.training.prefetch import Prefetch
from studio.types import Batch


class Rows(list[Batch]):
    """Rows that remember in which thread they were read."""

    readers: list[str]

    def __init__(self, count: int) -> None:
        super().__init__({"x": torch.tensor([row])} for row in range(count))
        self.readers = []

    def __getitem__(self, index: Any) -> Any:
        self.readers.append(threading.current_thread().name)
        return super().__getitem__(index)


def collate(items: Sequence[Batch]) -> Batch:
    if any(int(item["x"]) == 13 for item in items):
        raise ValueError("unlucky")
    return {"x": torch.cat([item["x"] for item in items])}


def taken(feed: Prefetch, data: Any, rows: Sequence[int]) -> list[int]:
    found: list[int] = feed.take(data, rows)["x"].tolist()
    return found


def test_batches_come_in_order_from_another_thread() -> None:
    data: Any = Rows(12)
    told = [[0, 1], [2, 3, 4], [5], [6, 7], [8, 9, 10, 11]]
    with Prefetch(collate, ahead=2) as feed:
        feed.begin(data, told)
        assert [taken(feed, data, rows) for rows in told] == told
    assert set(data.readers) == {"prefetch"}


def test_no_more_than_asked_for_is_made_ahead() -> None:
    data: Any = Rows(100)
    with Prefetch(collate, ahead=3) as feed:
        feed.begin(data, [[row] for row in range(100)])
        assert taken(feed, data, [0]) == [0]
        time.sleep(0.1)
        assert len(data.readers) <= 1 + 3 + 1


def test_other_rows_than_those_told_are_made_on_the_spot() -> None:
    data, other = Rows(6), Rows(6)
    with Prefetch(collate) as feed:
        feed.begin(data, [[0], [1], [2]])  # type: ignore[arg-type]
        assert taken(feed, data, [0]) == [0]
        assert taken(feed, data, [4, 5]) == [4, 5]
        assert taken(feed, data, [1]) == [1]
        feed.begin(data, [[3]])  # type: ignore[arg-type]
        assert taken(feed, other, [2]) == [2]
        assert taken(feed, data, [3]) == [3]
        assert taken(feed, data, [1]) == [1]


def test_mistake_in_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    data: Any = Rows(20)
    with Prefetch(collate) as feed:
        feed.begin(data, [[1], [13], [2]])
        assert taken(feed, data, [1]) == [1]
        with pytest.raises(ValueError, match="unlucky"):
            feed.take(data, [13])
        assert taken(feed, data, [2]) == [2]


def test_thread_ends_when_the_loop_is_left_in_the_middle() -> None:
    data: Any = Rows(50)
    before = threading.active_count()
    with Prefetch(collate, ahead=1) as feed:
        feed.begin(data, [[row] for row in range(14, 50)])
        assert threading.active_count() == before + 1
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_off_makes_every_batch_when_it_is_asked_for() -> None:
    data: Any = Rows(4)
    with Prefetch(collate, on=False) as feed:
        feed.begin(data, [[0, 1], [2]])
        assert taken(feed, data, [0, 1]) == [0, 1]
    assert "prefetch" not in data.readers
