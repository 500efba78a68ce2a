"""Which variants a visitor who may not choose sees: those least compared with each other, in random order."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random


class Draw:
    """Counts how often each pair was compared, and draws so that the counts stay even.

    The order comes from the operating system's randomness, on the server: nobody can foresee or repeat it.
    """

    def __init__(self, compared: Iterable[Sequence[str]] = (), random: Random | None = None) -> None:
        """Begin with the variants of each comparison that there was."""
        self._random = random or secrets.SystemRandom()
        self._pairs: Counter[frozenset[str]] = Counter()
        self._lock = threading.Lock()
        for variants in compared:
            self.count(variants)

    def count(self, variants: Sequence[str]) -> None:
        """Remember that these variants were compared with each other."""
        with self._lock:
            self._pairs.update(frozenset(pair) for pair in combinations(set(variants), 2))

    def pick(self, names: Sequence[str], count: int) -> list[str]:
        """Return ``count`` of the names, or all if there are fewer, in random order.

        First the pair that was compared least, then each time the name that was compared least with
        those chosen before; chance decides between equals.
        """
        with self._lock:
            rest = list(dict.fromkeys(names))
            self._random.shuffle(rest)
            if len(rest) <= count:
                return rest
            seen = self._pairs
            chosen = list(min(combinations(rest, 2), key=lambda pair: seen[frozenset(pair)]))[:count]
            while len(chosen) < count:
                left = [name for name in rest if name not in chosen]
                chosen.append(min(left, key=lambda name: sum(seen[frozenset((name, c))] for c in chosen)))
            self._random.shuffle(chosen)
            return chosen


def shuffled(names: Sequence[str]) -> list[str]:
    """Return the names in an order that nobody can foresee."""
    mixed = list(names)
    secrets.SystemRandom().shuffle(mixed)
    return mixed
