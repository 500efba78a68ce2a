"""What families that see and do not hear have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from studio.errors import DataError, MediaError
from studio.families import _chat
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Sample


def encode(
    processor: Any,
    sample: Sample,
    supervise: bool,
    media: Callable[[Any, _chat.Segment], Batch],
) -> Batch:
    """Encode one sample of pictures and text as `_chat.encode` does.

    Raises `DataError` for a sound, and `MediaError` for a picture that cannot be read, with file and line.
    """
    if sample.sounds:
        raise DataError(f"{sample.where}: this model takes pictures and text, the row has a sound")
    try:
        return _chat.encode(processor, sample, supervise, media)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None


def process(processor: Any, segment: _chat.Segment, **settings: Any) -> Batch:
    """Return what a processor makes of a segment's text and pictures: its tensors, ``input_ids`` [1, L]."""
    made = processor(
        text=[segment.text],
        images=[load_image(image.path) for image in segment.images],
        add_special_tokens=False,
        return_tensors="pt",
        **settings,
    )
    return {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}


def join(batch: Batch, items: Sequence[Batch], keys: Iterable[str]) -> Batch:
    """Add the tensors called ``keys``, of all samples that have them, one behind the other."""
    for key in keys:
        found = [item[key] for item in items if key in item]
        if found:
            batch[key] = torch.cat(found)
    return batch
