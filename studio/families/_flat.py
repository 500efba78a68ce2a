"""Sounds of different lengths kept one behind the other, and made into a batch without anything between them.

For models whose extractor or encoder would let a sound hear its neighbours' padding: every sound is processed
by itself, and encoded together with those that are exactly as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from studio.later import torch
from studio.types import Batch

LENGTHS = "audio_lengths"


def flat(features: Sequence[torch.Tensor], name: str) -> Batch:
    """Return features [T_i, C] of sounds as ``name`` [sum T_i, C] with their lengths [N]."""
    return {name: torch.cat(list(features)), LENGTHS: torch.tensor([len(each) for each in features])}


def sounds(items: Sequence[Batch], name: str) -> list[torch.Tensor]:
    """Return the features [T_i, C] of all sounds of encoded samples, in order."""
    found: list[torch.Tensor] = []
    for item in items:
        if name in item:
            found += torch.split(item[name], item[LENGTHS].tolist())
    return found


def stacked(features: Sequence[torch.Tensor], filler: float) -> torch.Tensor:
    """Return features [T_i, C] as [N, T, C], filled up with ``filler`` behind."""
    return torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True, padding_value=filler)


def by_length(
    encode: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return what ``encode`` makes of features [N, T, C], sounds of equal length together and none padded.

    What is made of a shorter sound is filled up with zeros: [N, T', D], where T' may be less than T.
    """
    made: dict[int, torch.Tensor] = {}
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0].tolist()
        made |= dict(zip(rows, encode(features[rows, :length]), strict=True))
    return stacked([made[row] for row in range(len(features))], 0.0)


def replace_forward(module: Any, forward: Callable[..., Any]) -> None:
    """Let ``module`` run ``forward(module, ...)``, which finds the class's own in ``type(module).forward``.

    A copy of the model has it too; what the model stores has not.
    """
    from types import MethodType

    module.forward = MethodType(forward, module)
