"""One model from several experts: its layers give what theirs give, and then its answers are theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from mergers._factors import factorise
from recipes._layerwise import Experts, Rows, layerwise
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint
from studio.overlay import overlaid, weight_of
from studio.types import Batch


def distilled(
    model: nn.Module,
    experts: Experts,
    rows: Rows,
    *,
    weight: Mapping[str, float] | None = None,
    ridge: float = 1e-2,
    repair: float = 1.0,
    answer_weight: float = 3.0,
    balance: float = 0.5,
    polish: int = 60,
    lr: float = 3e-4,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Return what each linear layer's weight gains in the merged model: module path -> delta [out, in].

    First `layerwise`, then ``polish`` steps of `polished` with the rate ``lr`` where there are any; the other
    settings are those of `layerwise`.
    """
    deltas = layerwise(
        model, experts, rows, weight=weight, ridge=ridge, repair=repair, answer_weight=answer_weight,
        balance=balance, advance=advance,
    )  # fmt: skip
    if polish:
        deltas = polished(model, experts, rows, deltas, steps=polish, lr=lr, seed=seed, advance=advance)
    return deltas


def polished(
    model: nn.Module,
    experts: Experts,
    rows: Rows,
    deltas: Mapping[str, Tensor],
    *,
    steps: int,
    lr: float = 3e-4,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Return deltas with which the whole model's next-token probabilities are nearer to the experts'.

    Minimises KL(expert || merged) over the positions whose next token is learned (Hinton et al. 2015,
    arXiv:1503.02531, section 2, temperature 1), one batch of each domain a step, by AdamW with a rate that
    falls to 0. References are not looked at beyond where they stand.

    Args:
        model: the base, in evaluation mode; its weights are those of before when the function returns.
        experts: the factors of each domain's expert.
        rows: batches of each domain, with ``labels``.
        deltas: where to begin, as `distilled` returns them.
        steps: how often every domain is looked at.
        lr: highest rate; one relative to the weights' spread of a few hundredths.
        seed: of the batches' order.
        advance: is told of each step.
    """
    told: dict[str, list[Tensor]] = {}
    for domain, batches in rows.items():
        own = {path: f.delta() for path, f in experts[domain].items() if path in deltas}
        with overlaid(model, own), torch.no_grad():
            told[domain] = [_learned(model, batch).log_softmax(-1) for batch in batches]
    weights = {path: weight_of(model, path) for path in deltas}
    base = {path: weight.detach().clone() for path, weight in weights.items()}
    learns = [parameter.requires_grad for parameter in model.parameters()]
    try:
        with overlaid(model, deltas):
            model.requires_grad_(False)
            learning = [weight.requires_grad_(True) for weight in weights.values()]
            optimiser = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0)
            random = Random(seed)
            order: dict[str, list[int]] = {domain: [] for domain in rows}
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                for domain, batches in rows.items():
                    if not order[domain]:
                        order[domain] = random.sample(range(len(batches)), len(batches))
                    at = order[domain].pop()
                    said = _learned(model, batches[at]).log_softmax(-1)
                    meant = told[domain][at]
                    nn.functional.kl_div(said, meant, log_target=True, reduction="batchmean").backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                advance(1)
            return {path: (weight.detach() - base[path]).clone() for path, weight in weights.items()}
    finally:
        for parameter, before in zip(model.parameters(), learns, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None


def _learned(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits [N, vocabulary] at the positions whose next token is learned."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits: Tensor = model(**inputs, use_cache=False).logits[:, :-1]
    return logits[batch["labels"][:, 1:] != -100].float()


def write_deltas(
    folder: Path,
    deltas: Mapping[str, Tensor],
    *,
    model: str,
    base: Path,
    family: str,
    note: Mapping[str, Any],
) -> Path:
    """Write deltas as an adapter that loses nothing of them, and return its folder.

    ``model`` is the base as the adapter names it, ``base`` its folder; ``note`` says what made it.
    """
    factors = {}
    for path, delta in deltas.items():
        pair = factorise(delta.float(), "lossless")
        factors[path] = Factors(a=pair.a, b=pair.b, shape=(len(pair.b), pair.a.shape[1]))
    fingerprint = Checkpoint(base).fingerprint()
    return write_adapter(folder, factors, base=model, family=family, base_fingerprint=fingerprint, note=note)
