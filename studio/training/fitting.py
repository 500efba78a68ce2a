"""How many rows a micro-batch may have: tried out on the longest rows, twice as many each time.

Memory grows by a constant for every further row of the same length, so the next size is foretold by a line
through the last two measurements, and tried only if it fits. Weights do not change, and nothing is drawn that
a step would draw.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from studio.errors import ConfigError
from studio.log import Log
from studio.training.checkpointing import checkpoint_towers
from studio.training.encoding import Encoded
from studio.training.memory import Meter, bytes_of, told
from studio.training.rules import TowerRule
from studio.training.seed import set_seed
from studio.training.step import Steps, out_of_memory
from studio.types import Family

#: The share of a budget that is used: rows of other shapes, and the heap, take a little more as time goes by.
USED = 0.95
#: The peak of what the memory did not hold.
NOT_AT_ALL = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Size:
    """A micro-batch of ``rows``, the ``peak`` bytes it took in all, and what smaller ones ``foretold``."""

    rows: int
    peak: int
    foretold: int


@dataclass(kw_only=True)
class Fitting:
    """Measures micro-batches of a run that is ready to begin; ``step_rows`` are a process's rows in a step.

    ``plain`` is the model as it was before it was shared. Every process of a run calls the same methods.
    """

    steps: Steps
    plain: Any
    data: Encoded
    optimiser: Any
    step_rows: int
    meter: Meter = field(init=False)
    sizes: list[Size] = field(default_factory=list)
    #: What was taken before the first measurement, when libraries had loaded what they load once.
    before: int = 0

    def __post_init__(self) -> None:
        """Measure where the processes compute."""
        self.meter = Meter(self.steps.processes.accelerator.device)

    @property
    def longest(self) -> list[int]:
        """The rows, longest first."""
        return sorted(range(len(self.data)), key=lambda row: -self.data.lengths[row])

    def fits(self, rows: int, budget: int) -> bool:
        """Say whether micro-batches of ``rows`` stay within ``budget`` bytes, as far as sizes that do tell.

        Sizes up to ``rows`` are tried, 1, 2, 4 and so on, each only if it is foretold to fit.
        """
        size = 1
        while True:
            size = min(size, rows)
            if not any(known.rows == size for known in self.sizes) and not self._tried(size, budget):
                return False
            if size == rows:
                return self._agree(self._peak_of(rows) <= budget)
            size *= 2

    def largest(self, budget: int) -> int:
        """Return the most rows a micro-batch may have for ``budget`` bytes; 0 if not even one fits."""
        budget = int(budget * USED)
        most = min(self.step_rows, len(self.data))
        if self.fits(most, budget):
            return most
        known = [size.rows for size in self.sizes if self._agree(size.peak <= budget)]
        low = max(known, default=0)
        candidates = range(min(most, 2 * low) - 1, low, -1) if low else ()
        for rows in candidates:
            if self._agree(self.foretold(rows) <= budget) and self._tried(rows, budget):
                return rows
        return low

    def foretold(self, rows: int) -> int:
        """Return the peak of micro-batches of ``rows``, from smaller ones that were tried."""
        smaller = [size for size in self.sizes if size.rows < rows and size.peak < NOT_AT_ALL]
        if not smaller:
            return 0
        last = smaller[-1]
        one = smaller[-2] if len(smaller) > 1 else Size(rows=0, peak=min(self.before, last.peak), foretold=0)
        return last.peak + max(last.peak - one.peak, 0) * (rows - last.rows) // (last.rows - one.rows)

    def micro(self, rows: Sequence[int]) -> None:
        """Compute loss and gradients of a micro-batch, added to what gradients there are."""
        batch = self.steps.feed.take(self.data, rows)
        loss = self.steps.token_loss(self.plain, batch, [self.data.weights[row] for row in rows])
        (loss / max(self.data.supervision(rows), 1.0)).backward()  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Let go of all gradients."""
        for parameter in self.plain.parameters():
            parameter.grad = None
        gc.collect()

    @property
    def moments(self) -> int:
        """The bytes of AdamW's moments that the first step has yet to make."""
        learning = (p for group in self.optimiser.param_groups for p in group["params"])
        return sum(2 * nbytes(p) for p in learning if not self.optimiser.state.get(p))

    def _tried(self, rows: int, budget: int) -> bool:
        """Measure a size if it is foretold to fit, and say whether it does, on all processes."""
        foretold = self.foretold(rows)
        if not self._agree(foretold <= budget):
            return False
        peak = self._measured(rows)
        self.sizes = sorted(
            [*self.sizes, Size(rows=rows, peak=peak, foretold=foretold)], key=lambda size: size.rows
        )
        return self._agree(peak <= budget)

    def _measured(self, rows: int) -> int:
        """Return the most memory that two micro-batches of the longest rows take, moments included."""
        which = self.longest[:rows]
        kept = [buffer.clone() for buffer in self.plain.buffers()]
        set_seed(0, "fitting")
        try:
            if not self.before:
                self.micro(which)
                self.clear()
                self.before = self.meter.now + self.moments
            self.meter.reset()
            for _ in range(2):
                self.micro(which)
                if rows >= self.step_rows:  # a step is one micro-batch, so gradients begin from nothing
                    self.clear()
            return self.meter.peak + self.moments
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return NOT_AT_ALL
        finally:
            self.clear()
            with torch.no_grad():
                for buffer, old in zip(self.plain.buffers(), kept, strict=True):
                    buffer.copy_(old)

    def _peak_of(self, rows: int) -> int:
        return next(size.peak for size in self.sizes if size.rows == rows)

    def _agree(self, yes: bool) -> bool:
        return self.steps.processes.agree(yes) if self.steps.processes.world > 1 else yes


def fit(
    fitting: Fitting,
    memory: str,
    family: Family,
    rules: Mapping[str, TowerRule],
    log: Log,
    *,
    checkpointed: bool = False,
) -> None:
    """Let micro-batches have as many rows as fit ``memory`` (8GB, on each process); a step's rows stay.

    If not even one row fits, layers are checkpointed wherever no rule speaks of it; unless they are already.

    Raises:
        ConfigError: if one row does not fit then either; it says what one takes.
    """
    budget, steps = bytes_of(memory), fitting.steps
    if steps.processes.strategy == "deepspeed":
        raise ConfigError("memory= does not measure deepspeed; give batch_size and accumulate")
    log.stage(f"fitting micro-batches into {told(budget)}", fitting.step_rows, "rows")
    rows, again = fitting.largest(budget), ""
    if not rows:
        left = {tower: rule for tower, rule in rules.items() if rule.checkpointing is None}
        layers = {} if checkpointed else checkpoint_towers(fitting.plain, family, left, True)
        fitting.sizes = []
        rows, again = fitting.largest(budget) if layers else 0, f", checkpointing {', '.join(layers)}"
    if not rows:
        raise ConfigError(_too_little(fitting, budget))
    log.advance(fitting.step_rows)
    steps.micro_batch, steps.tokens = rows, 0
    peak = max(size.peak for size in fitting.sizes if size.rows <= rows)
    log.say(
        f"memory: micro-batches of {rows}, {-(-fitting.step_rows // rows)} a step{again}; the longest rows "
        f"take {told(peak)} of {told(budget)}"
    )


def _too_little(fitting: Fitting, budget: int) -> str:
    need = next((size.peak for size in fitting.sizes if size.peak < NOT_AT_ALL), 0)
    row = fitting.longest[0]
    return (
        f"memory={told(budget)} is too little: a single row takes {told((need or fitting.before) / USED)} "
        f"({fitting.steps.samples[fitting.data.rows[row]].where}, {fitting.data.lengths[row]} tokens), "
        f"{told(fitting.before)} of it the process with the model; a shorter length.max_tokens, "
        "precision=bf16 or fewer towers that learn take less"
    )


def nbytes(parameter: Any) -> int:
    """Return the bytes of a parameter that this process holds."""
    return int(getattr(parameter, "_local_tensor", parameter).nbytes)
