"""A small random Gemma 4 that sees and hears, with its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families import _build

NAMED = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
PATCH, TOKENS = 4, 70
TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<|turn>' + role + '\\n' }}"
    "{%- for part in message['content'] -%}"
    "{{ part['text'] | trim if part['type'] == 'text' else '<|' + part['type'] + '|>' }}"
    "{%- endfor -%}{{ '<turn|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn>model\\n' }}{%- endif -%}"
)


def processor() -> Any:
    """Return the genuine processor; a picture becomes at most 70 tokens, the fewest it may be set to."""
    import transformers

    words = _build.byte_level(
        ["<bos>", "<|turn>", "<turn|>", "<|video|>"], eos="<eos>", pad="<pad>", named=NAMED, bos_token="<bos>"
    )
    seen = {"patch_size": PATCH, "max_soft_tokens": TOKENS}
    return transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(
            per_bin_mean=[-5.0] * 128, per_bin_stddev=[2.5] * 128
        ),
        image_processor=transformers.Gemma4ImageProcessor(**seen),
        video_processor=transformers.Gemma4VideoProcessor(**seen),
        tokenizer=words,
        chat_template=TEMPLATE,
        image_seq_length=TOKENS,
    )


def build(folder: Path) -> Path:
    """Write a random model of about 150,000 parameters with its processor into ``folder``."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    whole = processor()
    words = whole.tokenizer
    config = Gemma4Config(
        text_config={
            "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16,
            "max_position_embeddings": 2048, "sliding_window": 64, "initializer_range": 0.1,
            "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": len(words), "hidden_size_per_layer_input": 8,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "patch_size": PATCH, "initializer_range": 0.1,
            "position_embedding_size": 256,
        },
        audio_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.1,
            "subsampling_conv_channels": [128, 4], "output_proj_dims": 32,
        },
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in NAMED.items()},
        eoa_token_index=words.convert_tokens_to_ids("<audio|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    return _build.write(Gemma4ForConditionalGeneration, config, whole, folder, end="<turn|>")
