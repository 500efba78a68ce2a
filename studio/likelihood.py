"""How likely a model finds given answers: log p of all their tokens, after picture, sound and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from studio.log import Log
from studio.types import Family, Loaded, Sample, Text, Turn


def log_probs(
    loaded: Loaded,
    family: Family,
    samples: Sequence[Sample],
    answers: Sequence[str],
    *,
    within: Callable[[], AbstractContextManager[Loaded]],
    batch_size: int = 16,
    log: Log | None = None,
) -> list[tuple[float, int]]:
    """Return log p(answer | prompt) in nats, and the number of the answer's tokens, its end included [N].

    Args:
        loaded: the model and its processor.
        family: what encodes and collates for it.
        samples: whose prompts are meant; what the assistant says last in them is not looked at.
        answers: one for each sample.
        within: holds the model for one batch, as the variant that is meant, and yields it.
        batch_size: samples computed together; it does not change what is found beyond rounding.
        log: is told of each batch.
    """
    from studio.later import torch
    from studio.training.loss import TokenLoss

    asked = [with_answer(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
    found: list[tuple[float, int]] = []
    for start in range(0, len(asked), batch_size):
        some = asked[start : start + batch_size]
        items = [family.encode(loaded.processor, sample, True) for sample in some]
        batch = family.collate(loaded.processor, items, "right")
        with within() as held, torch.no_grad():
            model = held.model
            loss = TokenLoss(model, next(model.parameters()).device)
            try:
                totals, counts = loss.rows(model, batch, len(items))
            finally:
                loss.close()
        found += list(zip(totals.tolist(), counts.tolist(), strict=True))
        if log is not None:
            log.advance(len(items))
    return found


def with_answer(sample: Sample, answer: str) -> Sample:
    """Return the sample's prompt with another answer behind it."""
    turn = Turn(role="assistant", parts=(Text(text=answer),))
    return replace(sample, turns=(*sample.prompt, turn))
