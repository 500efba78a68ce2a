"""SmolVLM and Idefics3: pictures and text in, text out (Marafioti et al. 2025, arXiv:2504.05299).

The processor decides into how many tiles a picture is split, and writes as many image tokens; both are
left to it, and nothing is cut afterwards. Idefics3 (Laurençon et al. 2024, arXiv:2408.12637) has the same
modules and the same inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError, MediaError
from studio.families import _chat, _features, model_type
from studio.families._linears import DECODER, ENCODER
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a SmolVLM or an Idefics3 with its processor; safetensors only, no remote code."""
    from transformers import Idefics3ForConditionalGeneration, SmolVLMForConditionalGeneration

    smol = model_type(path) == "smolvlm"
    kind = SmolVLMForConditionalGeneration if smol else Idefics3ForConditionalGeneration
    return pretrained(kind, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [N, C, H, W] and pixel_attention_mask [N, H, W].

    N counts the tiles of all pictures. Raises `DataError` for a sound: these models do not hear.
    """
    if sample.sounds:
        raise DataError(f"{sample.where}: this model takes pictures and text, the row has a sound")
    try:
        return _chat.encode(processor, sample, supervise, _media)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    made = processor(
        text=[segment.text],
        images=[[load_image(image.path) for image in segment.images]],
        add_special_tokens=False,
        return_tensors="pt",
    )
    return {
        "input_ids": made["input_ids"],
        "pixel_values": made["pixel_values"][0],
        "pixel_attention_mask": made["pixel_attention_mask"][0].bool(),
    }


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, tiles [B, N, C, H, W] filled up with empty ones.

    The model drops tiles that are zero throughout.
    """
    batch = _chat.collate_text(processor, items, side)
    shapes = [item["pixel_values"].shape for item in items if "pixel_values" in item]
    if not shapes:
        return batch
    most, channels, height, width = (max(sizes) for sizes in zip(*shapes, strict=True))
    none = {
        "pixel_values": torch.zeros(0, channels, height, width),
        "pixel_attention_mask": torch.zeros(0, height, width, dtype=torch.bool),
    }
    for key, empty in none.items():
        rows = [item.get(key, empty) for item in items]
        batch[key] = torch.stack([_filled(row, most, height, width) for row in rows])
    return batch


def _filled(tiles: torch.Tensor, most: int, height: int, width: int) -> torch.Tensor:
    """Return tiles [n, ..., h, w] as [most, ..., height, width], zeros below, to the right and behind."""
    between = [0, 0] * (tiles.dim() - 3)
    gaps = [0, width - tiles.shape[-1], 0, height - tiles.shape[-2], *between, 0, most - tiles.shape[0]]
    return torch.nn.functional.pad(tiles, gaps)


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the vision tower makes of an encoded sample's tiles."""
    if "pixel_values" not in item:
        return {}
    tiles, _, height, width = item["pixel_values"].shape
    patch = config.vision_config.patch_size
    return {"image": tiles * (height // patch) * (width // patch) // config.scale_factor**2}


def tiny(folder: Path) -> Path:
    """Write a random SmolVLM of about 60,000 parameters with its genuine processor."""
    from studio.families import _smolvlm_build

    return _smolvlm_build.build(folder, seed=0)


FAMILY = Family(
    name="smolvlm",
    model_types=("smolvlm", "idefics3"),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": ("model.vision_model",),
        "projector": ("model.connector",),
        "llm": ("model.text_model", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\." + ENCODER,
        "projector": r"model\.connector\.modality_projection\.proj",
        "llm": r"model\.text_model\.layers\.\d+\." + DECODER,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(
            takes=("pixel_values", "pixel_attention_mask"),
            vision="model.vision_model",
            projector=("model.connector",),
        )
    },
)
