"""A small random Gemma 3 with pictures and its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families import _build

NAMED = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
SIDE, PATCH, TOKENS = 32, 8, 4
TEMPLATE = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for message in rest -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- else -%}{{ part['text'] | trim }}{%- endif -%}"
    "{%- endfor -%}"
    "{{ '<end_of_turn>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)


def processor() -> Any:
    """Return the genuine processor; a picture becomes one of 32 x 32 pixels and four tokens."""
    from transformers import Gemma3ImageProcessor, Gemma3Processor, GemmaTokenizer

    words = _build.byte_fallback(GemmaTokenizer, ["<start_of_turn>", "<end_of_turn>"], named=NAMED)
    pictures = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    return Gemma3Processor(pictures, words, chat_template=TEMPLATE, image_seq_length=TOKENS)


def build(folder: Path) -> Path:
    """Write a random model of about 50,000 parameters with its processor into ``folder``."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    whole = processor()
    words = whole.tokenizer
    config = Gemma3Config(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "initializer_range": 0.1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
            "max_position_embeddings": 2048, "query_pre_attn_scalar": 16, "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"], "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False,
        },
        mm_tokens_per_image=TOKENS,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        eos_token_id=words.eos_token_id,
    )  # fmt: skip
    # Of zeros, as it begins, no picture would tell from another.
    projection = "model.multi_modal_projector.mm_input_projection_weight"
    return _build.write(
        Gemma3ForConditionalGeneration, config, whole, folder, end="<end_of_turn>", filled=projection
    )
