"""Pairs of answers to one question, whose media go through the towers once where the towers learn.

A tower that does not learn is skipped altogether (`skipping`). One that learns must run in every step, but
both answers of a pair stand behind the same media: their features are computed once, in the step and with
their gradient, and given to the rows of both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.features import inner_model
from studio.training.loss import TokenLoss
from studio.training.parity import Gate
from studio.training.preference_data import Collate, Preferences, joined
from studio.training.processes import Processes
from studio.types import Batch, Feature

#: What the media of a batch are called: this, the modality, and what they are.
_PREFIX, _SIZES = "shared", "sizes"
#: Pairs on which both ways are compared.
_PAIRS = 4
Together = Callable[[Sequence[list[Batch]]], Batch]


class SharedMedia:
    """Makes batches of pairs with each medium once, and the hook by which the model gets its features."""

    def __init__(self, model: Any, gauge: Gauge, collate: Collate, features: Mapping[str, Feature]) -> None:
        """Hook onto ``model`` for some of the family's ``features``; ``collate`` makes a batch of rows."""
        self._inner, self._gauge, self._rows = inner_model(model), gauge, collate
        self._collate = joined(self._without)
        self._plain = joined(collate)
        self._features = features
        self._hook = model.register_forward_pre_hook(self._give, with_kwargs=True)

    def __call__(self, items: Sequence[list[Batch]]) -> Batch:
        """Return the batch of ``items``, rows of an item next to each other, their media once."""
        first = [item[0] for item in items]
        made: Batch = {}
        for name, feature in self._features.items():
            shown = [way for way in first if set(feature.takes) & set(way)]
            if not shown:
                continue
            alone = self._rows([{key: v for key, v in way.items() if "." not in key} for way in shown])
            media = {key: alone[key] for key in (*feature.takes, *feature.reads) if key in alone}
            sizes = [self._gauge.length_of(way).wanted.get(name, 0) for way in shown]
            media[_SIZES] = torch.tensor([[size, len(items[0])] for size in sizes])
            made |= {f"{_PREFIX}.{name}.{key}": value for key, value in media.items()}
        return self._collate(items) | made if made else self._plain(items)

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _without(self, rows: Sequence[Batch]) -> Batch:
        taken = {key for feature in self._features.values() for key in feature.takes}
        return self._rows([{key: v for key, v in row.items() if key not in taken} for row in rows])

    def _give(self, _model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Turn a batch's media into features, and those into what the model's forward takes."""
        if not any(key.startswith(_PREFIX + ".") for key in kwargs):
            return None
        rest = {key: value for key, value in kwargs.items() if not key.startswith(_PREFIX + ".")}
        for name, feature in self._features.items():
            begin = f"{_PREFIX}.{name}."
            media = {key.removeprefix(begin): v for key, v in kwargs.items() if key.startswith(begin)}
            if not media:
                continue
            told = media.pop(_SIZES).tolist()
            features = feature.compute(self._inner, media, True)
            repeated = [_repeated(each, [size for size, _ in told], told[0][1]) for each in features]
            for key, value in feature.give(self._inner, rest, repeated, True).items():
                both = type(value) is dict and key in rest  # by modality, each from its own tower
                rest[key] = rest[key] | value if both else value
        return args, rest


def _repeated(features: Tensor, sizes: Sequence[int], times: int) -> Tensor:
    """Return the features of each medium ``times`` over; they have ``sizes``, or all the same number."""
    same = len(features) // len(sizes)
    pieces = torch.split(features, list(sizes) if sum(sizes) == len(features) else [same] * len(sizes))
    return torch.cat([piece for piece in pieces for _ in range(times)])


def share_media(
    model: Any,
    gauge: Gauge,
    data: Preferences,
    collate: Collate,
    log: Log,
    processes: Processes,
    *,
    dtype: torch.dtype,
    skipped: Collection[str] = (),
) -> Together:
    """Return what makes batches of pairs with each medium once, if that computes the same; else plainly.

    The towers of modalities that are ``skipped`` do not run at all. Every process of a run must come here.
    """
    device = processes.accelerator.device
    plain = joined(collate)
    features: dict[str, Feature] = {
        name: feature
        for name, feature in gauge.family.features.items()
        if name not in skipped and not feature.refuse(inner_model(model).config)
    }
    takes = {key for feature in features.values() for key in feature.takes}
    shown = [at for at in range(len(data)) if takes & set(data.keys(at))][:_PAIRS]
    whole = next(model.parameters()).device.type == device.type
    if not (shown and whole) or len(data[shown[0]]) < 2:
        return plain
    shared, loss = SharedMedia(model, gauge, collate, features), TokenLoss(model, device, dtype)

    def lost(together: Together) -> Tensor:
        items = [data[at] for at in shown]
        batch = {key: v for key, v in together(items).items() if not key.startswith("preference.")}
        return loss(model, batch, [1.0, 0.5] * len(items))

    try:
        gate = Gate(model, log, dtype=dtype, agree=processes.agree)
        if gate.allows("shared_media", gate.measure(lambda: lost(plain)), lambda: lost(shared)):
            return shared
    finally:
        loss.close()
    shared.close()
    return plain
