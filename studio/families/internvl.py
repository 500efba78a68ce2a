"""InternVL in the form of transformers (2.5 to 3.5, names that end in -hf): pictures and text in, text out.

Zhu et al. 2025, arXiv:2504.10479. The processor cuts a large picture into tiles of one size, beside a small
version of the whole, and writes as many image tokens; both are left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.families import _chat, _features, _pictures
from studio.families._linears import LLM, SEES
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load an InternVL with its processor; safetensors only, no remote code."""
    from transformers import InternVLForConditionalGeneration

    return pretrained(InternVLForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [N, C, H, W]; N counts the tiles of all pictures.

    Raises `DataError` for a sound: this model does not hear.
    """
    return _pictures.encode(processor, sample, supervise, _media)


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    made = _pictures.process(processor, segment)
    return {key: made[key] for key in ("input_ids", "pixel_values")}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, tiles joined in order."""
    return _pictures.join(_chat.collate_text(processor, items, side), items, ("pixel_values",))


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's tiles."""
    if "pixel_values" not in item:
        return {}
    height, width = config.vision_config.patch_size
    tiles, _, high, wide = item["pixel_values"].shape
    return {"image": int(tiles * (high // height) * (wide // width) * config.downsample_ratio**2)}


def tiny(folder: Path) -> Path:
    """Write a random InternVL of about 60,000 parameters with its genuine processor."""
    import transformers

    from studio.families import _build

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = _build.byte_level(["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", named=named)
    side = {"size": {"height": 32, "width": 32}}
    whole = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(crop_to_patches=True, max_patches=2, **side),
        video_processor=transformers.InternVLVideoProcessor(**side),
        tokenizer=words,
        image_seq_length=4,
        chat_template=_build.chatml("<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": [32, 32], "patch_size": [8, 8],
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    return _build.write(transformers.InternVLForConditionalGeneration, config, whole, folder)


FAMILY = Family(
    name="internvl",
    model_types=("internvl",),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=SEES,
    lora_targets={
        "vision": r"model\.vision_tower\.encoder\.layer\.\d+\."
        r"(attention\.(q_proj|k_proj|v_proj|projection_layer)|mlp\.(fc1|fc2))",
        "projector": r"model\.multi_modal_projector\.linear_(1|2)",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={"image": _features.pictures()},
)
