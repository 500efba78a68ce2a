"""The loss of a batch of preferences, in the place of the loss of its tokens, and what it says of the model.

    rewards_chosen, rewards_rejected    beta times the log ratio of an answer (orpo, simpo: times its mean)
    margin                              their difference
    accuracy                            the share of pairs in which it is above 0, a tie is half of one
    ranking                             the same for mean log-probabilities: what the model itself would say
    kl                                  how far the model has moved from the reference, in nats

``kl`` is the divergence between the model's choice and the reference's, if the two answers of a pair were
all there is to say: a part of the whole divergence, which would take answers of the model itself. For kto it
is the mean log ratio of answers to other questions, its reference point. All are means weighted as the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from studio.training.features import evaluating
from studio.training.fsdp import reshard
from studio.training.loss import TokenLoss
from studio.training.preference import KINDS, Answers, Preference, kto, likelihood
from studio.training.preference_data import GOOD, REFERENCE, Collate, Preferences
from studio.training.processes import Processes
from studio.training.rounds import own_part, own_parts
from studio.training.step import Steps
from studio.types import Batch

#: What is measured of each micro-batch, in this order.
FIGURES = ("rewards_chosen", "rewards_rejected", "margin", "accuracy", "ranking", "kl")
#: Smaller differences are the order of sums: before the first step all rewards are 0 but for it.
TIE = 1e-5


class PreferenceLoss:
    """Computes the weighted sum of a loss over a batch's items, from the log-probabilities of their answers.

    Steps call it as they call a `TokenLoss`; its own one, ``tokens``, which runs the model, is given when the
    model is there. For kto ``z`` [] must be set before.
    """

    def __init__(self, kind: str, settings: Preference, tokens: TokenLoss | None = None) -> None:
        """Compute ``kind`` of loss (`KINDS`) with ``settings``."""
        self.kind, self._settings, self.tokens = KINDS[kind], settings, tokens
        self.beta = self.kind.beta if settings.beta is None else settings.beta
        self._sft = self.kind.sft if settings.sft is None else settings.sft
        self.z: Tensor | None = None
        self._noted: list[Tensor] = []

    def __call__(self, model: Any, batch: Batch, weights: Sequence[float]) -> Tensor:
        """Return the weighted sum [] over a batch of as many items as ``weights``, and note the figures."""
        rest = {key: value for key, value in batch.items() if key not in (REFERENCE, GOOD)}
        each = batch[REFERENCE].shape[1]
        assert self.tokens is not None
        total, tokens = self.tokens.rows(model, rest, each * len(weights))
        scale = torch.tensor(weights, dtype=torch.float32, device=total.device)
        reference, good = (batch[key].to(total.device) for key in (REFERENCE, GOOD))
        answers = [
            Answers(log_prob=total[at::each], tokens=tokens[at::each], reference=reference[:, at])
            for at in range(each)
        ]
        if self.kind.pairs is None:
            z = torch.zeros((), device=total.device) if self.z is None else self.z
            lost = kto(answers[0], good, z, self.beta, self._settings)
            self._note(self._one(answers[0], good, z), scale)
        else:
            good = torch.ones_like(good)
            lost = self.kind.pairs(answers[0], answers[1], self.beta, self._settings)
            self._note(self._two(*answers), scale)
        if self._sft:
            lost = lost + self._sft * torch.where(good, likelihood(answers[0]), 0.0)
        return (lost * scale).sum()

    def of_step(self, steps: Steps, data: Preferences, batch: Sequence[int]) -> dict[str, Tensor]:
        """Return the `figures` of the step that ``steps`` has just made of a ``batch``."""
        parts = own_parts(batch, data, steps.micro_batch, steps.processes, tokens=steps.tokens)
        return self.figures(len(parts))

    def figures(self, count: int) -> dict[str, Tensor]:
        """Return for each figure its weighted sum and its weight [2] in the last ``count`` micro-batches."""
        last = torch.stack(self._noted[-count:]).sum(0)
        self._noted = []
        return dict(zip(FIGURES, last, strict=True))

    def _two(self, chosen: Answers, rejected: Answers) -> list[Tensor]:
        """Return the figures of pairs, each [N]; one that is not known is not a number."""
        first, second = (self.kind.reward(one, self.beta) for one in (chosen, rejected))
        now, before = chosen.log_prob - rejected.log_prob, chosen.reference - rejected.reference
        terms = [(s * now).sigmoid() * (logsigmoid(s * now) - logsigmoid(s * before)) for s in (1, -1)]
        moved = terms[0] + terms[1]
        kl = moved if self.kind.reference else torch.full_like(now, torch.nan)
        ranking = _above(chosen.mean - rejected.mean)
        return [first, second, first - second, _above(first - second), ranking, kl]

    def _one(self, answer: Answers, good: Tensor, z: Tensor) -> list[Tensor]:
        """Return the figures of single answers, each [N]."""
        reward = self.kind.reward(answer, self.beta)
        nothing = torch.full_like(reward, torch.nan)
        side = torch.where(good, reward - self.beta * z, self.beta * z - reward)
        chosen, rejected = torch.where(good, reward, nothing), torch.where(good, nothing, reward)
        return [chosen, rejected, side, _above(side), nothing, z.expand_as(reward)]

    @torch.no_grad()
    def _note(self, figures: Sequence[Tensor], scale: Tensor) -> None:
        values = torch.stack([each.detach() for each in figures])
        weight = scale * ~values.isnan()
        self._noted.append(torch.stack([(values.nan_to_num() * weight).sum(1), weight.sum(1)], dim=1))


def _above(gap: Tensor) -> Tensor:
    """Return 1 where a gap is above 0, a half where it is nothing but rounding, else 0."""
    return torch.where(gap.abs() < TIE, 0.5, (gap > 0).to(gap.dtype))


def means(figures: dict[str, Tensor]) -> dict[str, float]:
    """Return the weighted mean of each figure that is known."""
    return {name: float(total / weight) for name, (total, weight) in figures.items() if weight > 0}


@torch.no_grad()
def divergence(
    model: Any,
    tokens: TokenLoss,
    data: Preferences,
    batch: Sequence[int],
    collate: Collate,
    size: int,
    processes: Processes,
) -> Tensor:
    """Return kto's reference point [] for the items of a ``batch``: the mean log ratio beside them, or 0.

    It is the same for every process and every cut into micro-batches of ``size``; dropout is off.
    """
    total = torch.zeros((), device=processes.accelerator.device)
    with evaluating(model):
        for rows, weights in own_parts(batch, data, size, processes):
            made, _ = tokens.rows(model, collate([data.beside(row) for row in rows]), len(rows))
            gap = made - data.reference[rows, -1].to(made)
            total += (gap * torch.tensor(weights, device=made.device)).sum()
    reshard(model)
    whole: Tensor = processes.accelerator.reduce(total)
    return (whole / data.supervision(batch)).clamp(min=0)


@torch.no_grad()
def evaluated(
    model: Any,
    loss: PreferenceLoss,
    data: Preferences,
    collate: Callable[[Sequence[list[Batch]]], Batch],
    size: int,
    processes: Processes,
) -> dict[str, float]:
    """Return the mean ``loss`` over held-out items of all processes, and the figures; dropout is off."""
    order = sorted(range(len(data)), key=lambda index: data.lengths[index])
    batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
    total, count = torch.zeros((), device=processes.accelerator.device), 0
    with evaluating(model):
        for begin in range(0, len(batches), processes.world):
            group = batches[begin : begin + processes.world]
            group += [[]] * (processes.world - len(group))
            rows, weights = own_part(group, data, processes)
            total += loss(model, collate([data[index] for index in rows]), weights)
            count += 1
    reshard(model)
    summed = loss.figures(count)
    whole: Tensor = processes.accelerator.reduce(torch.stack(list(summed.values())))
    lost: Tensor = processes.accelerator.reduce(total)
    return {"loss": lost.item() / data.supervision(range(len(data)))} | means(
        dict(zip(summed, whole, strict=True))
    )
