"""One model from several experts: its layers give what theirs give, and then its answers are theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from mergers._factors import factorise
from recipes._layerwise import Experts, Rows, layerwise
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint
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
    modules = dict(model.named_modules())
    base = {path: modules[path].weight.detach().clone() for path in deltas}

    def put(weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for path, weight in weights.items():
                modules[path].weight.copy_(weight)

    learns = [parameter.requires_grad for parameter in model.parameters()]
    try:
        told: dict[str, list[Tensor]] = {}
        for domain, batches in rows.items():
            own = {path: f.delta() for path, f in experts[domain].items() if path in base}
            put({path: base[path] + own[path] if path in own else base[path] for path in base})
            with torch.no_grad():
                told[domain] = [_learned(model, batch).log_softmax(-1) for batch in batches]
        put({path: base[path] + delta for path, delta in deltas.items()})
        model.requires_grad_(False)
        learning = [modules[path].weight.requires_grad_(True) for path in deltas]
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
                target = told[domain][at]
                said = _learned(model, batches[at]).log_softmax(-1)
                loss = nn.functional.kl_div(said, target, log_target=True, reduction="batchmean")
                loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            advance(1)
        return {path: (modules[path].weight.detach() - base[path]).clone() for path in deltas}
    finally:
        for parameter, before in zip(model.parameters(), learns, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None
        put(base)


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
    made_by: str = "distil",
) -> Path:
    """Write deltas as an adapter that loses nothing of them, and return its folder.

    ``model`` is the base as the adapter names it, ``base`` its folder.
    """
    factors = {}
    for path, delta in deltas.items():
        pair = factorise(delta.float(), "lossless")
        factors[path] = Factors(a=pair.a, b=pair.b, shape=(len(pair.b), pair.a.shape[1]))
    fingerprint = Checkpoint(base).fingerprint()
    note = {"made_by": made_by}
    return write_adapter(folder, factors, base=model, family=family, base_fingerprint=fingerprint, note=note)
