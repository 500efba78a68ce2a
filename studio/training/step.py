"""Loss and gradients of one optimiser step, whatever micro-batches and processes it is cut into.

When the memory does not hold a micro-batch, the step begins again with micro-batches of half as many rows:
the same rows, seed and denominator, so the same loss and gradients up to the order of sums. Several processes
do so together, if it is only one whose memory is short: they exchange gradients when every process has said
that its own are there, because one that fails in the middle of an exchange would leave the others waiting.
Where what learns is large, exchanging it while gradients are still being computed pays, and they ask each
other only in steps that are heavier than all before.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.errors import TriptychError
from studio.log import Log
from studio.training.adversary import Adversary
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.prefetch import Prefetch
from studio.training.processes import Processes
from studio.training.rounds import own_parts
from studio.training.seed import set_seed
from studio.training.tracking import Stopwatch
from studio.types import Sample

#: What the processor's allocator, and the libraries that torch calls, say when there is no memory left.
_SHORT = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")
#: Bytes of gradients whose exchange takes no time beside a step, as those of an adapter.
LIGHT = 1 << 28
#: Rows that a sentence names.
_NAMED = 10


@dataclass(kw_only=True)
class Steps:
    """What all steps have in common: the model, its loss, where batches come from, how many rows fit one.

    ``micro_batch`` rows (or ``tokens``, if not 0) become fewer when the memory is short; ``samples`` are the
    data's rows, for sentences; ``adversary`` changes a micro-batch before it is learned from; ``waiting`` is
    the time spent on having the rows.
    """

    model: Any
    token_loss: TokenLoss
    feed: Prefetch
    micro_batch: int
    processes: Processes
    samples: Sequence[Sample]
    log: Log
    tokens: int = 0
    adversary: Adversary | None = None
    waiting: Stopwatch = field(default_factory=Stopwatch)
    _coming: deque[Sequence[int]] = field(default_factory=deque)
    _parts: list[tuple[list[int], Tensor]] = field(default_factory=list)
    _trying: list[int] = field(default_factory=list)
    _heaviest: int = 0
    _light: bool = False
    _refused: bool = False

    def __post_init__(self) -> None:
        """Measure what the processes exchange."""
        self._light = sum(bytes_of(p) for p in self.model.parameters()) <= LIGHT

    def begin(self, data: Encoded, batches: Iterable[Sequence[int]]) -> None:
        """Begin to make what the next steps will take, which are those of ``batches``."""
        self._coming = deque(batches)
        micro, tokens = self.micro_batch, self.tokens
        parts = (own_parts(batch, data, micro, self.processes, tokens=tokens) for batch in list(self._coming))
        self.feed.begin(data, (rows for step in parts for rows, _ in step))

    def gradients(self, data: Encoded, batch: Sequence[int], seed: int, step: int) -> Tensor:
        """Add the gradients of the step's loss to the parameters, and return this process's share of it [].

        What is drawn at random is a function of ``seed``, ``step`` and the process.

        Raises:
            TriptychError: if not even one row fits the memory; it names the row.
        """
        if self._coming and list(self._coming[0]) == list(batch):
            self._coming.popleft()
        while True:
            set_seed(seed, "step", step, self.processes.rank)
            loss = self._attempt(data, batch)
            if loss is not None:
                return loss
            self._smaller(data, batch, step)

    def named(self, data: Encoded, batch: Sequence[int]) -> Callable[[], str]:
        """Return what names the rows of the last step whose loss is not finite, or else all of its rows."""
        parts = list(self._parts)

        def told() -> str:
            wrong = [row for rows, share in parts if not bool(torch.isfinite(share)) for row in rows]
            return self._where(data, wrong or batch)

        return told

    def _attempt(self, data: Encoded, batch: Sequence[int]) -> Tensor | None:
        """Return the loss of a step whose gradients all processes have now, or None if the memory was short.

        One denominator for the whole step: the sum over micro-batches and processes is then the mean over
        supervised tokens. Gradients are averaged over processes, hence times their number.
        """
        careful = self._careful(data, batch)
        try:
            loss: Tensor | None = self._backward(data, batch, apart=careful)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if self.processes.world > 1 and not careful:
                raise TriptychError(f"{self._short(data)}; give a smaller batch_size, or memory=") from None
            loss = None
        self._refused = loss is None
        if careful and self.processes.agree(loss is not None):
            self._exchange()
            return loss
        return None if careful else loss

    def _backward(self, data: Encoded, batch: Sequence[int], *, apart: bool) -> Tensor:
        accelerator, world = self.processes.accelerator, self.processes.world
        supervision = data.supervision(batch) or 1.0
        loss = torch.zeros((), device=accelerator.device)
        parts = own_parts(batch, data, self.micro_batch, self.processes, tokens=self.tokens)
        self._parts = []
        for number, (rows, weights) in enumerate(parts, 1):
            self._trying = rows
            alone = apart or number < len(parts)
            with self.processes.apart(self.model) if alone else nullcontext():
                with self.waiting:
                    micro = self.feed.take(data, rows)
                if self.adversary is not None:
                    micro = self.adversary(micro, weights)
                share = self.token_loss(self.model, micro, weights) / supervision
                self.processes.backward(self.model, share * world, last=not alone)
                loss += share.detach()
            self._parts.append((rows, share.detach()))
        # What is told is the mean over the step's own tokens: a step of light rows learns less, but does not
        # know its rows better.
        return loss * (supervision / (data.weighed(batch) or supervision))

    def _careful(self, data: Encoded, batch: Sequence[int]) -> bool:
        """Say whether several processes agree before they exchange gradients; all of them say the same."""
        weight = max((data.lengths[row] for row in batch), default=0) * min(self.micro_batch, len(batch))
        heavier, self._heaviest = weight > self._heaviest, max(weight, self._heaviest)
        return (heavier or self._light) and self.processes.world > 1 and not self.processes.sharded

    def _exchange(self) -> None:
        """Average the gradients that were kept apart, by the exchange of DDP itself.

        A loss of zeros, of all that has a gradient, sets it off. Averaged by hand, DDP would take what
        was used in this step as used in the next one, and find no gradient there.
        """
        used = [p for p in self.model.parameters() if p.grad is not None]
        nothing = torch.stack([p.flatten()[0].float() for p in used]).sum() * 0.0
        self.model.reducer.prepare_for_backward([nothing])
        torch.autograd.backward(nothing)

    def _smaller(self, data: Encoded, batch: Sequence[int], step: int) -> None:
        """Give back what the failed try has taken, and halve the micro-batches from here on."""
        for parameter in self.model.parameters():
            parameter.grad = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        share = -(-len(batch) // self.processes.world)
        if min(self.micro_batch, share) == 1:
            other = "another process's memory does not hold a step of a row each"
            raise TriptychError(
                f"{f'{self._short(data)}, alone' if self._refused else other}; a smaller length.max_tokens, "
                "checkpointing, precision=bf16 or fewer towers that learn need less"
            )
        old, self.micro_batch = self.micro_batch, max(1, min(self.micro_batch, share) // 2)
        self._heaviest, self.tokens = 0, self.tokens // 2
        self.log.say(
            f"step {step + 1}: {old} rows do not fit the memory; it is done again, and the run goes on, with "
            f"micro-batches of {self.micro_batch}"
        )
        self.begin(data, [batch, *self._coming])
        self._coming.popleft()

    def _short(self, data: Encoded) -> str:
        return f"{self._where(data, self._trying)}: the memory does not hold a step"

    def _where(self, data: Encoded, rows: Sequence[int]) -> str:
        """Return ``file:line`` of rows, the first ten."""
        named = list(dict.fromkeys(self.samples[data.rows[row]].where for row in rows))
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return ", ".join(named[:_NAMED]) + more


def bytes_of(parameter: Any) -> int:
    """Return the bytes of a parameter's gradient: none if it does not learn."""
    return int(parameter.numel() * parameter.element_size()) if parameter.requires_grad else 0


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that there is no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in _SHORT
    )
