"""A conversation tokenised in one piece, its labels found by the place of each token in the text.

Tokenizers that put a blank before every text they are given (Llama's) cannot be used stretch by stretch, as
`_chat.encode` does: each stretch would get a blank of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from studio.errors import CheckpointError
from studio.families._chat import IGNORE, Segment
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Sample


def encode(processor: Any, sample: Sample, cut: Sequence[Segment], supervise: bool) -> Batch:
    """Encode ``cut``, the segments of a sample: ids and labels [L], and what its processor makes of pictures.

    Raises `CheckpointError` where a token reaches over the border of an answer.
    """
    text = "".join(segment.text for segment in cut)
    pictures = [load_image(image.path) for segment in cut for image in segment.images]
    bos = processor.tokenizer.bos_token
    settings = {
        "add_special_tokens": not (bos and text.startswith(bos)),
        "return_offsets_mapping": True,
    }
    if pictures:
        made = dict(
            processor(text=[text], images=[pictures], return_text_replacement_offsets=True, **settings)
        )
        grown = made.pop("text_replacement_offsets")[0]
    else:
        made, grown = dict(processor.tokenizer([text], **settings)), []
    ids, places = made.pop("input_ids")[0], made.pop("offset_mapping")[0]
    made.pop("attention_mask", None)
    batch: Batch = {"input_ids": torch.tensor(ids)}
    if supervise:
        batch["labels"] = torch.tensor(list(_labels(sample, cut, grown, ids, places)))
    for key, value in made.items():
        batch[key] = torch.stack(list(value)) if torch.is_tensor(value[0]) else torch.tensor(value)
    return batch


def _labels(
    sample: Sample, cut: Sequence[Segment], grown: Sequence[Any], ids: Sequence[int], places: Sequence[Any]
) -> Iterator[int]:
    """Yield the label of every token, which stands at ``places`` [L, 2] of the text with its pictures."""

    def moved(border: int) -> int:
        done = [medium for medium in grown if medium["span"][1] <= border]
        return border + (done[-1]["new_span"][1] - done[-1]["span"][1] if done else 0)

    borders = [moved(border) for border in accumulate((len(part.text) for part in cut), initial=0)]
    spans = [span for span, part in zip(pairwise(borders), cut, strict=True) if part.learned]
    for token, (start, end) in zip(ids, places, strict=True):
        inside = any(first <= start and end <= last for first, last in spans if start < end)
        if not inside and any(start < last and first < end for first, last in spans):
            raise CheckpointError(
                f"{sample.where}: a token reaches over the border between prompt and answer, so the answer "
                "cannot be told apart from the prompt"
            )
        yield token if inside else IGNORE
