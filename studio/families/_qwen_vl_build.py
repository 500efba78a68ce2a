"""A small random Qwen2-VL, Qwen2.5-VL or Qwen3-VL with its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families import _build

NAMED = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
SIDE, PATCH = 32, 8
_CLASSES = {
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "qwen3_vl_moe": "Qwen3VLMoe",
}


def processor(kind: str) -> Any:
    """Return the genuine processor of ``kind``; a picture of any size becomes one of 32 x 32 pixels' area."""
    import transformers

    pixels = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    vision = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    third = kind.startswith("qwen3")
    system = "" if third else "You are a helpful assistant."
    videos = "Qwen3VLVideoProcessor" if third else "Qwen2VLVideoProcessor"
    return getattr(transformers, f"{'Qwen3VL' if third else _CLASSES[kind]}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**vision),
        video_processor=getattr(transformers, videos)(**vision),
        tokenizer=_build.byte_level(["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", named=NAMED),
        chat_template=_build.chatml("<|vision_start|><|image_pad|><|vision_end|>", system),
    )


def build(folder: Path, kind: str = "qwen3_vl") -> Path:
    """Write a random model of ``kind`` of about 100,000 parameters with its processor into ``folder``."""
    import transformers

    whole = processor(kind)
    words = whole.tokenizer
    hidden, heads = 32, 2
    text = {
        "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        "bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2, "num_heads": heads, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2
    }  # fmt: skip
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": hidden, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": hidden}
    if kind == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if kind.startswith("qwen3"):
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": hidden // heads}
    if kind == "qwen3_vl_moe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = getattr(transformers, f"{_CLASSES[kind]}Config")(
        text_config=text,
        vision_config=vision,
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in NAMED.items()},
    )
    model = getattr(transformers, f"{_CLASSES[kind]}ForConditionalGeneration")
    return _build.write(model, config, whole, folder)
