"""A small random LLaVA 1.5, LLaVA-NeXT or LLaVA-OneVision with its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families import _build

SIDE, PATCH = 32, 8
TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
#: Pictures first, and no mark behind an answer, as the published templates have it.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_CLASSES = {"llava": "Llava", "llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}


def processor(kind: str) -> Any:
    """Return the genuine processor of ``kind``: tiles of 32 x 32 pixels with 16 features each."""
    import transformers

    tiles = {} if kind == "llava" else {"image_grid_pinpoints": TILES}
    if kind == "llava_onevision":
        size = {"size": {"height": SIDE, "width": SIDE}}
        named = {"image_token": "<image>", "video_token": "<video>"}
        return transformers.LlavaOnevisionProcessor(
            image_processor=transformers.LlavaOnevisionImageProcessor(**size, **tiles),
            video_processor=transformers.LlavaOnevisionVideoProcessor(**size),
            tokenizer=_build.byte_level(["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", named=named),
            num_image_tokens=(SIDE // PATCH) ** 2,
            vision_feature_select_strategy="full",
            chat_template=_build.chatml("<image>\n"),
        )
    words = _build.byte_fallback(
        transformers.LlamaTokenizer,
        ["<pad>"],
        named={"image_token": "<image>"},
        pad_token="<pad>",
        add_bos_token=True,
    )
    pictures = "CLIPImageProcessor" if kind == "llava" else "LlavaNextImageProcessor"
    return getattr(transformers, f"{_CLASSES[kind]}Processor")(
        image_processor=getattr(transformers, pictures)(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **tiles
        ),
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build(folder: Path, kind: str = "llava_next") -> Path:
    """Write a random model of ``kind`` of about 80,000 parameters with its processor into ``folder``."""
    import transformers

    whole = processor(kind)
    words = whole.tokenizer
    tiles = {} if kind == "llava" else {"image_grid_pinpoints": TILES}
    siglip = kind == "llava_onevision"
    vision = {
        "model_type": "siglip_vision_model" if siglip else "clip_vision_model", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": PATCH, **({"vision_use_head": False} if siglip else {}),
    }  # fmt: skip
    config = getattr(transformers, f"{_CLASSES[kind]}Config")(
        vision_config=vision,
        text_config={
            "model_type": "qwen2" if siglip else "llama", "vocab_size": len(words), "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 4096, "bos_token_id": words.bos_token_id,
            "initializer_range": 0.1, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        },
        image_token_index=words.convert_tokens_to_ids("<image>"),
        **tiles,
    )  # fmt: skip
    return _build.write(
        getattr(transformers, f"{_CLASSES[kind]}ForConditionalGeneration"), config, whole, folder
    )
