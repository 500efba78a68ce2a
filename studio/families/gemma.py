"""Gemma 3: pictures and text in, text out (Gemma Team 2025, arXiv:2503.19786).

Every picture becomes one of the same size and the same number of tokens, which see each other in both
directions; ``token_type_ids`` mark them. Where the processor is set to pan and scan, a long picture comes
with crops of itself, each with tokens of its own. The projector is a bare matrix: it is trained in full or
frozen, as LoRA adapts layers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.families import _chat, _features, _pictures
from studio.families._linears import LLM, SEES, SIGLIP
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Gemma 3 that sees with its processor; safetensors only, no remote code."""
    from transformers import Gemma3ForConditionalGeneration

    return pretrained(Gemma3ForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids, labels and token_type_ids [L], pixel_values [N, C, H, W].

    N counts pictures and their crops. Raises `DataError` for a sound: this model does not hear.
    """
    batch = _pictures.encode(processor, sample, supervise, _media)
    return batch | {"token_type_ids": (batch["input_ids"] == processor.tokenizer.image_token_id).long()}


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    made = _pictures.process(processor, segment)
    return {key: made[key] for key in ("input_ids", "pixel_values")}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures joined in order."""
    batch = _chat.collate_text(processor, items, side)
    batch["token_type_ids"] = _chat.pad([item["token_type_ids"] for item in items], side, 0)
    return _pictures.join(batch, items, ("pixel_values",))


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's pictures and their crops."""
    if "pixel_values" not in item:
        return {}
    return {"image": len(item["pixel_values"]) * int(config.mm_tokens_per_image)}


def tiny(folder: Path) -> Path:
    """Write a random Gemma 3 of about 50,000 parameters with its genuine processor."""
    from studio.families import _gemma_build

    return _gemma_build.build(folder)


FAMILY = Family(
    name="gemma",
    model_types=("gemma3",),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=SEES,
    lora_targets={
        "vision": SIGLIP,
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={"image": _features.pictures()},
)
