"""How much memory a merge takes, and how many threads fit into what it is given."""

from __future__ import annotations

import heapq
import math
import os
from types import ModuleType

from mergers._plan import Plan
from mergers._ranks import ALONE, Ranks
from mergers._select import CAP
from mergers._settings import method as method_named
from mergers._stream import PIECE, piece_size
from mergers._threads import workers
from studio.errors import MergeError


def tensor_bytes(method: ModuleType, shape: tuple[int, ...], models: int) -> int:
    """Return the memory that working on one tensor takes at most.

    The working set of a piece is some float32 tensors per model, more where matrices are decomposed; a survey
    collects at most `CAP` candidates per model. A method's ``SQUARES`` are matrices [columns, columns] in
    float64 that it holds at a time.
    """
    numel = math.prod(shape)
    piece = piece_size(method, shape)
    matrix = len(shape) > 1 and hasattr(method, "INVARIANT")
    work = piece * 4 * (8 * models + 4 if matrix else 3 * models + 6)
    # A candidate is a float32 with its index; those of one model are joined at a time.
    survey = min(numel, CAP) * 12 * (models + 1) if hasattr(method, "survey") and numel > PIECE else 0
    columns = numel // max(1, shape[0]) if len(shape) > 1 else 0
    squares = 8 * getattr(method, "SQUARES", 0) * columns**2
    return work + survey + squares + statistics_bytes(method, shape, models)


def statistics_bytes(method: ModuleType, shape: tuple[int, ...], models: int) -> int:
    """Return the memory that a method's statistics of one tensor take, in float32, and what joins them to it.

    Gram matrices [columns, columns] come whole; other statistics are one number per element, read in pieces.
    """
    kind = getattr(method, "STATISTICS", None)
    if kind == "gram":
        return 4 * models * shape[1] ** 2 + 2 * 8 * math.prod(shape) if len(shape) == 2 else 0
    return 4 * models * piece_size(method, shape) if kind is not None else 0


def threads_within(planned: Plan, method: ModuleType, ranks: Ranks = ALONE) -> int:
    """Return how many tensors may be worked on at a time; `MergeError` if not even one fits.

    The processes on a machine share its processors and the memory evenly.
    """
    spec = planned.spec
    asked = spec.threads or max(1, workers(0) // ranks.local)
    if not spec.max_ram:
        return asked
    given = spec.max_ram // ranks.local
    free = given - resident_bytes(ranks.local)
    needs = {
        step.name: tensor_bytes(
            method_named(step.method) if step.method else method, step.shape, len(spec.models)
        )
        for step in planned.steps
        if step.action == "merge"
    }
    largest = heapq.nlargest(asked, needs.values())
    fitting = next((t for t in range(len(largest), 0, -1) if sum(largest[:t]) <= free), 0)
    if needs and not fitting:
        name = max(needs, key=lambda key: needs[key])
        raise MergeError(
            f"'{name}' alone takes {needs[name] / 1e9:.2f} GB under {spec.method}, and of the "
            f"{given / 1e9:.2f} GB that max_ram gives a process only {max(free, 0) / 1e9:.2f} are left; give "
            "more or take a method that works in pieces"
        )
    return max(fitting, 1)


def resident_bytes(processes: int = 1) -> int:
    """Return the memory that this process has now; of what lies in files, such as libraries, its share.

    Several ``processes`` of the same program on one machine have those pages in common.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident, shared = map(int, file.read().split()[1:3])
        return (resident - shared + shared // processes) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
