"""The processes that a merge starts on its own machine; they end with the one that started them."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

from mergers._ranks import Ranks
from mergers._spec import MergeSpec
from studio.children import Children, follow


def start(spec: MergeSpec, out: Path, ranks: Ranks) -> Children:
    """Start one process for each rank after the first."""
    plan = {"spec": spec.to_mapping(), "out": str(out)}
    orders = {rank: {**plan, "ranks": asdict(ranks.number(rank))} for rank in range(1, ranks.world)}
    return Children("mergers._children", orders)


def main() -> int:
    """Take a part in a merge, as the orders on standard input say."""
    orders = follow()
    from mergers._together import work_for_parent
    from studio.errors import TriptychError

    ranks = Ranks(**orders["ranks"])
    try:
        work_for_parent(MergeSpec.from_mapping(orders["spec"]), Path(orders["out"]), ranks)
    except TriptychError:
        return 2  # which the first process tells
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that waits for the first process need not
