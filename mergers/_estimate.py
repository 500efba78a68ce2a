"""What a planned merge will cost: memory, disk and time, before a weight is read.

Memory is the budget's own arithmetic on top of what this process has now. Time is start-up, plus all bytes
that are read, hashed and written at `MOVED`, plus the method's arithmetic: it is run here on random values of
the size of one piece and scaled to the plan, by elements, or for decompositions by their operations. All
of it is processor time: other work on the machine makes it longer.
"""

from __future__ import annotations

import heapq
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mergers._budget import resident_bytes, tensor_bytes, threads_within
from mergers._factors import compress
from mergers._place import Place
from mergers._plan import Plan, Step
from mergers._ranks import ALONE, Ranks
from mergers._settings import method, needs_torch, takes_arrays
from mergers._stream import PIECE
from mergers._subspaces import matrix_shape
from mergers._threads import one_torch_thread, workers
from mergers._told import UNTOLD, statistics_files
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.later import torch

#: Bytes that one processor reads, hashes and writes in a second, with what the engine does beside the
#: method's arithmetic: linear of `tests/benchmarks/bench_merge.py models` on a machine of two processors.
MOVED = 1.7e9
#: Seconds until a merge begins there, most of them for importing torch.
START = 1.4
#: Seconds of a merge that NumPy does alone, until it begins.
START_WITHOUT_TORCH = 0.3
#: Side of the matrix on which decompositions are tried.
SIDE = 192


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Predicted cost of a merge.

    memory    peak resident bytes
    reads     bytes of weights to read; ``writes`` bytes to write, at most; ``free`` bytes on that disk
    seconds   of wall time with ``threads`` tensors worked on at a time
    """

    memory: int
    reads: int
    writes: int
    free: int
    seconds: float
    threads: int

    def text(self) -> str:
        """Return the estimate for people."""
        short = "" if self.writes <= self.free else ": too little"
        return "\n".join(
            [
                f"  memory  about {_size(self.memory)} at the peak, with {self.threads} at a time",
                f"  disk    reads {_size(self.reads)}, writes at most {_size(self.writes)} "
                f"({_size(self.free)} free{short})",
                f"  time    about {_duration(self.seconds)}: {MOVED / 1e9:.1f} GB/s per processor to read, "
                "hash and write, and the method as fast as it just was on random values",
            ]
        )


def estimate(planned: Plan, out: str | Path = ".", ranks: Ranks = ALONE) -> Estimate:
    """Return what a planned merge into ``out`` will cost; memory is that of one machine."""
    spec = planned.spec
    paths = [model.path for model in spec.models] + ([spec.base] if spec.base else [])
    reads = sum(Checkpoint(path).nbytes() for path in paths)
    reads += sum(file.stat().st_size for file in statistics_files(planned))
    steps = [(s, method(s.method or spec.method)) for s in planned.steps if s.action == "merge"]
    light = not needs_torch(planned, any(is_adapter(path) for path in paths))
    with nullcontext() if light else one_torch_thread():
        if planned.kind == "model":
            threads = threads_within(planned, method(spec.method), ranks)
            needs = [tensor_bytes(chosen, step.shape, len(spec.models)) for step, chosen in steps]
            writes, held = planned.nbytes, 0
            if any(hasattr(chosen, "survey") for _, chosen in steps):
                reads *= 2  # once to survey, once to merge
            work = _dense_seconds(steps, len(spec.models))
        else:
            threads = workers(spec.threads)
            adapters = [read_adapter(model.path) for model in spec.models]
            made = [(s, c, *_ranks(c, s, adapters, spec.rank)) for s, c in steps]
            needs = [_module_bytes(c, s, rank, len(adapters)) for s, c, rank, _ in made]
            writes = sum(
                4 * (sum(matrix_shape(s.shape)) * kept if rank else math.prod(s.shape))
                for s, _, rank, kept in made
            )
            held = 2 * writes  # all factors, and the file's bytes while it is written
            work = _factor_seconds([(s, rank) for s, c, rank, _ in made if _adds(c)])
            work += _svd_seconds([s for s, c, _, _ in made if not _adds(c)])
            work += _dense_seconds([(s, c) for s, c, _, _ in made if not _adds(c)], len(adapters))
    parallel = ranks.world / ranks.local * min(threads * ranks.local, workers(0))
    place = next(p for p in (Path(out).resolve(), *Path(out).resolve().parents) if p.is_dir())
    return Estimate(
        memory=ranks.local * (resident_bytes(ranks.local) + sum(heapq.nlargest(threads, needs))) + held,
        reads=reads,
        writes=writes,
        free=shutil.disk_usage(place).free,
        seconds=(START_WITHOUT_TORCH if light else START) + ((reads + writes) / MOVED + work) / parallel,
        threads=threads * ranks.world,
    )


def _dense_seconds(steps: Sequence[tuple[Step, ModuleType]], models: int) -> float:
    """Return the processor time of the methods' own arithmetic on whole deltas."""
    spent: dict[str, float] = {}
    total = 0.0
    for step, chosen in steps:
        told = getattr(chosen, "STATISTICS", None) if UNTOLD not in step.by else None
        cubic = hasattr(chosen, "INVARIANT") or (told == "gram" and len(step.shape) == 2)
        key = f"{chosen.__name__} {step.settings!r} {cubic} {told}"
        if key not in spent:
            shape = (SIDE, SIDE) if cubic else (PIECE // 512, 512)
            spent[key] = _time(chosen, step.settings, shape, models, told) / _effort(shape, cubic)
        total += spent[key] * _effort(step.shape, cubic, squares=told == "gram")
    return total


def _factor_seconds(steps: Sequence[tuple[Step, int]]) -> float:
    """Return the processor time of adding factors up and cutting them to a rank."""
    side, rank = 1024, 64
    b, a = torch.randn(side, rank), torch.randn(rank, side)
    began = time.thread_time()
    compress(b, a, "lossless")
    each = (time.thread_time() - began) / (2 * side * rank**2)
    return each * sum(sum(matrix_shape(step.shape)) * rank**2 for step, rank in steps)


def _svd_seconds(steps: Sequence[Step]) -> float:
    """Return the processor time of factoring dense deltas again."""
    matrix = torch.randn(SIDE, SIDE)
    began = time.thread_time()
    torch.linalg.svd(matrix, full_matrices=False)
    each = (time.thread_time() - began) / _effort(matrix.shape, True)
    return each * sum(_effort(step.shape, True) for step in steps)


def _time(
    chosen: ModuleType, settings: Mapping[str, Any], shape: Sequence[int], models: int, told: str | None
) -> float:
    """Return the seconds that the method takes for random values of a shape, the better of two runs."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2):
        values: list[Any] = [draw.standard_normal(shape, np.float32) for _ in range(models + 1)]
        if not takes_arrays(chosen):
            values = [torch.from_numpy(array) for array in values]
        ground = values.pop()
        if told is not None:
            one = torch.eye(shape[1]) if told == "gram" else torch.ones(shape)
            settings = {**settings, "place": Place(statistics=[one] * models)}
        began = time.thread_time()
        chosen.merge(values, ground, **settings)
        found.append(time.thread_time() - began)
    return min(found)


def _ranks(
    chosen: ModuleType, step: Step, adapters: Sequence[Adapter], asked: int | float | str
) -> tuple[int, int]:
    """Return the sum of the inputs' ranks, and the largest that the output may have; 0 for whole tensors."""
    rows, columns = matrix_shape(step.shape)
    own = [adapters[i].rank(step.name) for i in step.sources if step.name in adapters[i].names()]
    if not own:  # stored whole
        return 0, 0
    full = min(rows, columns)
    most = min(sum(own), full) if _adds(chosen) or hasattr(chosen, "INVARIANT") else full
    return sum(own), min(most, asked) if isinstance(asked, int) else most


def _adds(chosen: ModuleType) -> bool:
    return hasattr(chosen, "coefficients") or hasattr(chosen, "weights")


def _module_bytes(chosen: ModuleType, step: Step, rank: int, models: int) -> int:
    if rank and _adds(chosen):
        return sum(matrix_shape(step.shape)) * rank * 4 * 5
    return max(math.prod(step.shape) * 4 * (2 * models + 4), tensor_bytes(chosen, step.shape, models))


def _effort(shape: Sequence[int], cubic: bool, squares: bool = False) -> float:
    """Return what the time grows with: elements, or for matrices [rows, columns] their operations.

    Those of ``squares`` solve for matrices [columns, columns], others take singular vectors.
    """
    numel = math.prod(shape)
    if not cubic or len(shape) < 2 or not numel:
        return numel
    rows, columns = matrix_shape(shape)
    return (numel + columns**2) * columns / 2 if squares else numel * min(rows, columns)


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
