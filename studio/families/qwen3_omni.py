"""Qwen3-Omni thinkers: picture, sound and text in, text out (Xu et al. 2025, arXiv:2509.17765).

The thinker alone, of a whole Qwen3-Omni too: a mixture of experts, of which LoRA adapts the attention, as the
experts are bare tensors. A row is made as for Qwen2.5-Omni. The audio tower convolves windows of a second,
filled up to the longest of the batch, and hears the filling at the end of a shorter one: a loaded model
encodes sounds of equal length together, each as it is encoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.families import _chat, _features, _flat, qwen_omni
from studio.families._linears import LLM, WHISPER
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a thinker and its processor from a local folder; safetensors only, no remote code."""
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

    kind = Qwen3OmniMoeThinkerForConditionalGeneration
    loaded = pretrained(kind, path, dtype=dtype, device=device)
    _flat.replace_forward(loaded.model.model.audio_tower, _hear)
    return loaded


def _hear(tower: Any, input_features: torch.Tensor, feature_lens: torch.Tensor, **settings: Any) -> Any:
    """Return what the tower makes of sounds [C, sum T_i] behind each other, those of a length together."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    sounds = torch.split(input_features, feature_lens.tolist(), dim=1)
    made: dict[int, torch.Tensor] = {}
    for length in sorted(set(feature_lens.tolist())):
        rows = (feature_lens == length).nonzero()[:, 0].tolist()
        together = torch.cat([sounds[row] for row in rows], dim=1)
        out = type(tower).forward(tower, together, feature_lens=feature_lens[rows], **settings)
        made |= dict(zip(rows, out.last_hidden_state.chunk(len(rows)), strict=True))
    states = torch.cat([made[row] for row in range(len(sounds))])
    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [P, D], input_features [N, C, T]."""
    return qwen_omni.encode(processor, sample, supervise)


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures and sounds joined in order."""
    return qwen_omni.collate(processor, items, side)


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the towers make of an encoded sample's pictures and sounds."""
    from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

    config = getattr(config, "thinker_config", config)
    made: dict[str, int] = {}
    if "image_grid_thw" in item:
        patches = int(item["image_grid_thw"].prod(-1).sum())
        made["image"] = patches // config.vision_config.spatial_merge_size**2
    if "feature_attention_mask" in item:
        frames = item["feature_attention_mask"].sum(-1)
        made["audio"] = int(_get_feat_extract_output_lengths(frames, config.audio_config.n_window).sum())
    return made


def tiny(folder: Path) -> Path:
    """Write a random thinker of about 130,000 parameters with its genuine processor."""
    import transformers

    from studio.families import _build, _omni_build

    older = _omni_build.processor(_omni_build.TINY, _omni_build.TINY_TEXTS)
    words, pictures = older.tokenizer, older.image_processor
    pixels = {"shortest_edge": _omni_build.TINY.side**2, "longest_edge": _omni_build.TINY.side**2}
    whole = transformers.Qwen3OmniMoeProcessor(
        image_processor=pictures,
        video_processor=transformers.Qwen2VLVideoProcessor(
            patch_size=pictures.patch_size, merge_size=2, temporal_patch_size=2, size=pixels
        ),
        feature_extractor=older.feature_extractor,
        tokenizer=words,
        chat_template=_omni_build.TEMPLATE,
    )
    ids = {key: words.convert_tokens_to_ids(token) for key, token in _omni_build.SPECIAL.items()}
    config = transformers.Qwen3OmniMoeThinkerConfig(
        audio_config={
            "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
            "num_mel_bins": _omni_build.TINY.mels, "output_dim": 32, "downsample_hidden_size": 8,
            "initializer_range": 0.1,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": pictures.patch_size, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "initializer_range": 0.1,
        },
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4,
            "moe_intermediate_size": 24, "num_experts_per_tok": 2, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "pad_token_id": ids["pad_token"], "eos_token_id": ids["eos_token"], "initializer_range": 0.1,
        },
        image_token_id=ids["image_token"], audio_token_id=ids["audio_token"],
        video_token_id=ids["video_token"], audio_start_token_id=ids["audio_bos_token"],
        vision_start_token_id=ids["vision_bos_token"], initializer_range=0.1,
    )  # fmt: skip
    return _build.write(transformers.Qwen3OmniMoeThinkerForConditionalGeneration, config, whole, folder)


def _frames(model: Any, batch: Batch) -> torch.Tensor:
    """Return the frames [n, D] of all sounds, projected."""
    inputs = {key: batch[key] for key in ("input_features", "feature_attention_mask")}
    made: torch.Tensor = model.model.get_audio_features(**inputs, return_dict=True).last_hidden_state
    return made


FAMILY = Family(
    name="qwen3_omni",
    model_types=("qwen3_omni_moe_thinker", "qwen3_omni_moe"),
    modalities=frozenset({"text", "image", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": ("model.visual",),
        "audio": ("model.audio_tower",),
        "projector": (
            "model.visual.merger",
            "model.visual.merger_list",
            "model.audio_tower.proj1",
            "model.audio_tower.proj2",
        ),
        "llm": ("model.language_model", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc(1|2))",
        "audio": WHISPER,
        "projector": r"model\.(visual\.(merger|merger_list\.\d+)\.mlp\.(0|2)|audio_tower\.proj(1|2))",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(
            reads=("image_grid_thw",),
            vision="model.visual",
            projector=("model.visual.merger", "model.visual.merger_list"),
            listed=True,
        ),
        "audio": _features.sounds(reads=("feature_attention_mask",), projector=None, compute=_frames),
    },
)
