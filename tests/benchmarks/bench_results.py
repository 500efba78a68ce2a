"""What results of many votes cost: the first look, one when nothing has changed, and one after a vote.

    python tests/benchmarks/bench_results.py --votes 10000

CPU seconds of one process. The peer is the same bootstrap with one call of `evalica.bradley_terry` a sample.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sql

from apps.web.results.counted import Choice, Counted
from studio.ranking import Judgement, judgements, rank
from studio.store import Store
from studio.tables import ANSWER, COMPARISON, VOTE

NAMES = [f"variant {n}" for n in range(6)]


class Shop:
    """What `Counted` needs of a desk."""

    def __init__(self, store: Store) -> None:
        """Hold a store."""
        self.store = store


def fill(store: Store, votes: int) -> None:
    """Keep verdicts of forty raters on pairs of six variants, in bulk."""
    draw, when = random.Random(0), "2026-01-01T00:00:00.000+00:00"
    asked, said, judged = [], [], []
    for number in range(1, votes + 1):
        a, b = draw.sample(NAMES, 2)
        question = draw.randrange(votes // 3 or 1)
        asked.append(
            {"id": number, "created": when, "prompt": f"{question} {a} {b}", "media": [], "variants": [a, b],
             "seed": 0, "decoding": {}, "domain": f"domain {question % 4}", "blind": True}
        )  # fmt: skip
        said += [
            {"created": when, "comparison": number, "variant": name, "text": f"{name} to {question}"}
            for name in (a, b)
        ]
        chance = 1 / (1 + 10 ** (60 * (NAMES.index(b) - NAMES.index(a)) / 400))
        choice = "tie" if draw.random() < 0.15 else a if draw.random() < chance else b
        rater = draw.randrange(40)
        judged.append(
            {"created": when, "comparison": number, "choice": choice, "reasons": [], "note": "",
             "rater": f"rater {rater}", "rater_group": ("new", "old")[rater % 2]}
        )  # fmt: skip
    with store.begin() as connection:
        for table, rows in ((COMPARISON, asked), (ANSWER, said), (VOTE, judged)):
            connection.execute(sql.insert(table), rows)


def by_evalica(told: list[Judgement], samples: int) -> float:
    """Return the CPU seconds of a bootstrap that fits each sample by one call."""
    import evalica

    place = {name: at for at, name in enumerate(NAMES)}
    xs = np.array([place[one.variants[0]] for one in told])
    ys = np.array([place[one.variants[1]] for one in told])
    kinds = {"tie": evalica.Winner.Draw}
    winners = [
        kinds.get(one.choice, evalica.Winner.X if one.choice == one.variants[0] else evalica.Winner.Y)
        for one in told
    ]
    draw = np.random.default_rng(0)
    began = time.process_time()
    for _ in range(samples):
        weights = draw.multinomial(len(told), [1 / len(told)] * len(told)).astype(float)
        evalica.bradley_terry(xs.tolist(), ys.tolist(), winners, weights=weights.tolist())
    return time.process_time() - began


def spent(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1000, help="of the bootstrap, both sides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{Path(folder) / 'kept.db'}") as store:
        fill(store, options.votes)
        counted: Any = Counted(Shop(store))  # type: ignore[arg-type]
        first = spent(lambda: counted.results(Choice()))
        again = spent(lambda: counted.results(Choice()))
        part = spent(lambda: counted.results(Choice(part="domain:domain 1")))
        store.vote(1, "tie", rater="late")
        changed = spent(lambda: counted.results(Choice()))
        told = judgements(store.comparisons(), store.votes())
        ours = spent(lambda: rank(told, resamples=options.samples))
        peers = by_evalica(told, options.samples)
    found = {
        "votes": options.votes,
        "first look, CPU s": round(first, 3),
        "nothing changed, CPU s": round(again, 4),
        "another part, CPU s": round(part, 3),
        "after one more vote, CPU s": round(changed, 3),
        "bootstrap, ours, CPU s": round(ours, 3),
        "bootstrap, evalica call by call, CPU s": round(peers, 3),
        "ratio": round(peers / ours, 1),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
