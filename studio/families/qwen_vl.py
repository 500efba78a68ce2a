"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures and text in, text out.

Wang et al. 2024, arXiv:2409.12191; Bai et al. 2025, arXiv:2502.13923 and arXiv:2511.21631. A picture keeps
its shape: the processor scales it to between the smallest and the largest number of pixels it is set to, and
writes as many image tokens. Of Qwen3-VL's mixtures of experts LoRA adapts the attention, as the experts are
bare tensors. A chat template that takes the thoughts out of earlier turns is refused for rows
of several turns, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.families import _chat, _features, _pictures, model_type
from studio.families._linears import LLM
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

_MODELS = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
}


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Qwen-VL of any of the kinds with its processor; safetensors only, no remote code."""
    import transformers

    return pretrained(
        getattr(transformers, _MODELS[model_type(path)]), path, dtype=dtype, device=device
    )  # fmt: skip


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids, labels and mm_token_type_ids [L], pixel_values [P, D], image_grid_thw [N, 3].

    P counts the patches of all N pictures. ``mm_token_type_ids`` mark the places of pictures, which have
    positions of their own (M-RoPE). Raises `DataError` for a sound: these models do not hear.
    """
    batch = _pictures.encode(processor, sample, supervise, _media)
    kinds = processor.create_mm_token_type_ids([batch["input_ids"].tolist()])[0]
    return batch | {"mm_token_type_ids": torch.tensor(kinds)}


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    made = _pictures.process(processor, segment)
    return {key: made[key] for key in ("input_ids", "pixel_values", "image_grid_thw")}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures joined in order."""
    batch = _chat.collate_text(processor, items, side)
    batch["mm_token_type_ids"] = _chat.pad([item["mm_token_type_ids"] for item in items], side, 0)
    return _pictures.join(batch, items, ("pixel_values", "image_grid_thw"))


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the vision tower makes of an encoded sample's pictures."""
    if "image_grid_thw" not in item:
        return {}
    return {"image": int(item["image_grid_thw"].prod(-1).sum()) // config.vision_config.spatial_merge_size**2}


def tiny(folder: Path) -> Path:
    """Write a random Qwen3-VL of about 100,000 parameters with its genuine processor."""
    from studio.families import _qwen_vl_build

    return _qwen_vl_build.build(folder)


FAMILY = Family(
    name="qwen_vl",
    model_types=tuple(_MODELS),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": ("model.visual",),
        "projector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
        "llm": ("model.language_model", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.visual\.blocks\.\d+\."
        r"(attn\.(qkv|proj)|mlp\.(fc1|fc2|linear_fc1|linear_fc2|gate_proj|up_proj|down_proj))",
        "projector": r"model\.visual\."
        r"(merger\.mlp\.(0|2)|(merger|deepstack_merger_list\.\d+)\.linear_fc(1|2))",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(
            reads=("image_grid_thw",),
            vision="model.visual",
            projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
            listed=True,
            order=_features.out_of_windows,
        )
    },
)
