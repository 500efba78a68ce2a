"""Gemma 4: pictures, sounds and text in, text out; small ones hear, large ones only see.

A picture keeps its shape and is scaled to as many patches as the processor is set to; the projector pools
nine of them into a token. A sound has a token for 40 ms, and is at most as long as the processor's
``audio_seq_length`` says (30 s); a longer one is an error and never cut. Where the configuration says so, the
tokens of a picture see each other in both directions, by ``mm_token_type_ids``.

Linear layers of the towers are wrapped to clip what goes in and out; LoRA adapts the layer within.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError, MediaError
from studio.families import _chat, _features, _pictures, _sounds
from studio.families._linears import LLM
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Family, Loaded, Sample

_SEEN = ("pixel_values", "image_position_ids")
_HEARD = ("input_features", "input_features_mask")


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Gemma 4 with its processor; safetensors only, no remote code."""
    from transformers import Gemma4ForConditionalGeneration

    return pretrained(Gemma4ForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids, labels and mm_token_type_ids [L], and the tensors of its media.

    pixel_values [N, P, D] with image_position_ids [N, P, 2]; input_features [M, T, C] with
    input_features_mask [M, T]. Raises `DataError` for a sound where the model has no ear.
    """
    if sample.sounds and (processor.feature_extractor is None or processor.audio_token is None):
        raise DataError(f"{sample.where}: this model takes pictures and text, the row has a sound")
    try:
        batch = _chat.encode(processor, sample, supervise, _media)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None
    kinds = processor.create_mm_token_type_ids([batch["input_ids"].tolist()])[0]
    return batch | {"mm_token_type_ids": torch.tensor(kinds)}


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    extractor = processor.feature_extractor
    more: dict[str, Any] = {}
    if segment.images:
        more["images"] = [[load_image(image.path) for image in segment.images]]
    if segment.sounds:
        most = int(window(processor) * extractor.sampling_rate)
        more["audio"] = _sounds.waves(segment, extractor.sampling_rate, most)
        more["sampling_rate"] = extractor.sampling_rate
        for sound, wave in zip(segment.sounds, more["audio"], strict=True):
            if len(wave) <= extractor.frame_length:
                raise MediaError(f"sound '{sound.path}' is too short: the model needs more than 20 ms")
    made = processor(text=[segment.text], add_special_tokens=False, return_tensors="pt", **more)
    return {key: made[key] for key in ("input_ids", *_SEEN, *_HEARD) if key in made}


def window(processor: Any) -> float:
    """Return the seconds of the longest sound; 0 for a model that does not hear."""
    if processor.feature_extractor is None:
        return 0.0
    return float(processor.audio_seq_length * processor.audio_ms_per_token) / 1000


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures joined, sounds filled up to the longest."""
    batch = _chat.collate_text(processor, items, side)
    batch["mm_token_type_ids"] = _chat.pad([item["mm_token_type_ids"] for item in items], side, 0)
    for key in _HEARD:
        rows = [row for item in items if key in item for row in item[key]]
        if rows:
            batch[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return _pictures.join(batch, items, _SEEN)


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the towers make of an encoded sample's pictures and sounds."""
    made: dict[str, int] = {}
    if "image_position_ids" in item:
        patches = (item["image_position_ids"] != -1).all(-1).sum(-1)
        made["image"] = int((patches // config.vision_config.pooling_kernel_size**2).sum())
    if "input_features_mask" in item:
        # Two convolutions keep every second frame.
        made["audio"] = int(item["input_features_mask"][:, ::2][:, ::2].sum())
    return made


def tiny(folder: Path) -> Path:
    """Write a random Gemma 4 of about 150,000 parameters with its genuine processor."""
    from studio.families import _gemma4_build

    return _gemma4_build.build(folder)


FAMILY = Family(
    name="gemma4",
    model_types=("gemma4",),
    modalities=frozenset({"text", "image", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": ("model.vision_tower",),
        "audio": ("model.audio_tower",),
        "projector": ("model.embed_vision", "model.embed_audio"),
        "llm": ("model.language_model", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.vision_tower\.encoder\.layers\.\d+\."
        r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))\.linear",
        "audio": r"model\.audio_tower\.layers\.\d+\."
        r"(self_attn\.(q_proj|k_proj|v_proj|post)|feed_forward(1|2)\.ffw_layer_(1|2)"
        r"|lconv1d\.linear_(start|end))\.linear",
        "projector": r"model\.embed_(vision|audio)\.embedding_projection",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(takes=_SEEN, projector=("model.embed_vision",), listed=True),
    },
    window=window,
)
