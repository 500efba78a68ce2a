"""Qwen2.5-Omni thinkers: picture, sound and text in, text out (Xu et al. 2025, arXiv:2503.20215).

The shipped base nano-omni is one of them, only smaller. Of a whole Qwen2.5-Omni, which speaks too, the
thinker is loaded alone; an adapter of it merges into the whole. Sounds longer than the feature extractor's
window are an error here and never cut: the label would stay whole while its sound is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError
from studio.families import _chat, _features, _omni_build
from studio.families._linears import LLM, WHISPER
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.media import load_image, load_sound
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a thinker and its processor from a local folder; safetensors only, no remote code."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    return pretrained(Qwen2_5OmniThinkerForConditionalGeneration, path, dtype=dtype, device=device)


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    extractor = processor.feature_extractor
    sounds = [load_sound(sound.path, extractor.sampling_rate) for sound in segment.sounds]
    for sound, wave in zip(segment.sounds, sounds, strict=True):
        if len(wave) > extractor.n_samples:
            raise DataError(
                f"{sound.path}: {len(wave) / extractor.sampling_rate:.1f} s of sound, the model takes at "
                f"most {extractor.chunk_length} s; cut it and its text before training"
            )
    made = processor(
        text=[segment.text],
        images=[load_image(image.path) for image in segment.images] or None,
        audio=sounds or None,
        sampling_rate=extractor.sampling_rate,
        add_special_tokens=False,
        return_tensors="pt",
        audio_kwargs={"max_length": _enough(extractor, max(map(len, sounds)))} if sounds else {},
    )
    batch: Batch = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
    if sounds:
        # The extractor pads every clip; the model only reads what the mask marks.
        longest = int(batch["feature_attention_mask"].sum(-1).max())
        batch["input_features"] = batch["input_features"][..., :longest]
        batch["feature_attention_mask"] = batch["feature_attention_mask"][..., :longest]
        batch.pop("num_audio_tokens", None)
    return batch


def _enough(extractor: Any, samples: int) -> int:
    """Return how many samples a clip is padded to, so that its frames are those of the whole window.

    A frame reaches half a transform beyond its middle. The window may be 300 s, and the work grows with it.
    """
    hop, whole = int(extractor.hop_length), int(extractor.n_samples)
    return min(-(-(samples + int(extractor.n_fft)) // hop) * hop, whole)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [P, D], input_features [N, C, T]."""
    try:
        return _chat.encode(processor, sample, supervise, _media)
    except DataError as error:
        if str(error).startswith(sample.where):
            raise
        raise type(error)(f"{sample.where}: {error}") from None


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures and sounds joined in order."""
    batch = _chat.collate_text(processor, items, side)
    for key in ("pixel_values", "image_grid_thw"):
        found = [item[key] for item in items if key in item]
        if found:
            batch[key] = torch.cat(found)
    for key in ("input_features", "feature_attention_mask"):
        rows = [row for item in items if key in item for row in item[key]]
        if rows:
            batch[key] = _chat.pad(rows, "right", 0)
    return batch


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the towers make of an encoded sample's pictures and sounds."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as model

    config = getattr(config, "thinker_config", config)
    made: dict[str, int] = {}
    if "image_grid_thw" in item:
        patches = int(item["image_grid_thw"].prod(-1).sum())
        made["image"] = patches // config.vision_config.spatial_merge_size**2
    if "feature_attention_mask" in item:
        lengths = model.Qwen2_5OmniAudioEncoder._get_feat_extract_output_lengths
        made["audio"] = int(lengths(None, item["feature_attention_mask"].sum(-1))[1].sum())
    return made


def tiny(folder: Path) -> Path:
    """Write a random thinker of about 200,000 parameters with its genuine processor."""
    return _omni_build.build(folder, _omni_build.TINY, _omni_build.TINY_TEXTS, seed=0)


FAMILY = Family(
    name="qwen_omni",
    model_types=("qwen2_5_omni_thinker", "qwen2_5_omni"),
    modalities=frozenset({"text", "image", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": ("model.visual",),
        "audio": ("model.audio_tower",),
        "projector": ("model.visual.merger", "model.audio_tower.proj"),
        "llm": ("model.language_model", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(q|k|v|proj)|mlp\.(gate_proj|up_proj|down_proj))",
        "audio": WHISPER,
        "projector": r"model\.(visual\.merger\.mlp\.(0|2)|audio_tower\.proj)",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(
            reads=("image_grid_thw",),
            vision="model.visual",
            projector=("model.visual.merger",),
            listed=True,
            order=_features.out_of_windows,
        ),
        "audio": _features.sounds(reads=("feature_attention_mask",), projector="model.audio_tower.proj"),
    },
)
