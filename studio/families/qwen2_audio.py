"""Qwen2-Audio: sounds and text in, text out (Chu et al. 2024, arXiv:2407.10759).

The chat template numbers the sounds of a conversation. The encoder takes one window (30 s) and nothing
else: a shorter sound is padded by the extractor, a longer one is an error and never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import MediaError
from studio.families import _chat, _features, _sounds
from studio.families._linears import HEARS, LLM, WHISPER
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

_MARKS = {"": "AUDIO", "_bos": "audio_bos", "_eos": "audio_eos"}
_KEYS = ("input_features", "feature_attention_mask")


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Qwen2-Audio with its processor; safetensors only, no remote code."""
    from transformers import Qwen2AudioForConditionalGeneration

    return pretrained(Qwen2AudioForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], input_features [N, C, T] and feature_attention_mask [N, T].

    N counts the sounds, T is always the whole window. Raises `DataError` for a picture.
    """
    return _sounds.encode(processor, sample, supervise, _media)


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    extractor = processor.feature_extractor
    made = processor(
        text=[segment.text],
        audio=_sounds.waves(segment, extractor.sampling_rate, extractor.n_samples),
        sampling_rate=extractor.sampling_rate,
        add_special_tokens=False,
        return_tensors="pt",
    )
    # The encoder halves the frames twice, without padding the second time: two frames make no feature.
    for sound, mask in zip(segment.sounds, made["feature_attention_mask"], strict=True):
        if int(mask.sum()) < 3:
            raise MediaError(f"sound '{sound.path}' is too short: the model needs at least 30 ms")
    return {key: made[key] for key in ("input_ids", *_KEYS)}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, sounds joined in order."""
    batch = _chat.collate_text(processor, items, side)
    for key in _KEYS:
        found = [item[key] for item in items if key in item]
        if found:
            batch[key] = torch.cat(found)
    return batch


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the audio tower makes of an encoded sample's sounds."""
    if "feature_attention_mask" not in item:
        return {}
    from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

    lengths = Qwen2AudioEncoder._get_feat_extract_output_lengths
    return {"audio": int(lengths(None, item["feature_attention_mask"].sum(-1))[1].sum())}


def tiny(folder: Path) -> Path:
    """Write a random Qwen2-Audio of about 60,000 parameters with its genuine processor."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    from studio.families import _build

    named = {f"audio{part}_token": f"<|{mark}|>" for part, mark in _MARKS.items()}
    words = _build.byte_level(["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", named=named)
    # The processor brings its chat template with it.
    whole = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=32, chunk_length=2), words)
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 32, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
            "initializer_range": 0.1, "encoder_ffn_dim": 48, "max_source_positions": 100,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "initializer_range": 0.1,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        audio_token_index=words.convert_tokens_to_ids(named["audio_token"]),
    )  # fmt: skip
    return _build.write(Qwen2AudioForConditionalGeneration, config, whole, folder)


def _compute(model: Any, batch: Batch) -> torch.Tensor:
    """Return the frames [n, D] of all sounds that stand in the text, projected."""
    from transformers.masking_utils import create_bidirectional_mask

    tower = model.model.audio_tower
    mask = batch["feature_attention_mask"]
    heard, kept = tower._get_feat_extract_output_lengths(mask.sum(-1))
    frames = (batch["input_features"].shape[-1] - 2) // 2 + 1
    seen = torch.arange(frames, device=mask.device) < heard[:, None]
    made = tower(
        batch["input_features"],
        attention_mask=create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=torch.zeros(*seen.shape, 1, dtype=tower.dtype, device=mask.device),
            attention_mask=seen.long(),
        ),
    ).last_hidden_state
    rows = made[torch.arange(made.shape[1], device=mask.device) < kept[:, None]]
    projected: torch.Tensor = model.model.multi_modal_projector(rows)
    return projected


FAMILY = Family(
    name="qwen2_audio",
    model_types=("qwen2_audio",),
    modalities=frozenset({"text", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=HEARS,
    lora_targets={
        "audio": WHISPER,
        "projector": r"model\.multi_modal_projector\.linear",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={"audio": _features.sounds(reads=("feature_attention_mask",), compute=_compute)},
)
