"""A small random Phi-4-multimodal with its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families import _build
from studio.later import torch

#: The processor counts 16 x 16 features a tile, whatever its size: 32 x 32 patches, two of them to a feature.
PATCH = 2
SIDE = 32 * PATCH
#: As published: with a mark behind the whole conversation, which no turn is ended by.
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<|' + part['type'] + '|>' }}"
    "{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


def build(folder: Path) -> Path:
    """Write a random model of about 150,000 parameters with its processor into ``folder``."""
    from transformers import (
        Phi4MultimodalConfig,
        Phi4MultimodalFeatureExtractor,
        Phi4MultimodalForCausalLM,
        Phi4MultimodalImageProcessor,
        Phi4MultimodalProcessor,
    )

    words = _build.byte_level(
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        eos="<|endoftext|>",
        pad="<|pad|>",
        named={"image_token": "<|image|>", "audio_token": "<|audio|>"},
    )
    whole = Phi4MultimodalProcessor(
        Phi4MultimodalImageProcessor(
            size={"height": SIDE, "width": SIDE}, patch_size=PATCH, dynamic_hd=2, do_rescale=True
        ),
        Phi4MultimodalFeatureExtractor(),
        words,
        chat_template=TEMPLATE,
    )
    config = Phi4MultimodalConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
        original_max_position_embeddings=4096, bos_token_id=None, initializer_range=0.1,
        eos_token_id=[words.eos_token_id, words.convert_tokens_to_ids("<|end|>")],
        pad_token_id=words.pad_token_id,
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": SIDE, "crop_size": SIDE, "patch_size": PATCH,
            "image_token_id": words.image_token_id,
        },
        audio_config={
            "hidden_size": 32, "intermediate_size": 48, "num_blocks": 2, "num_attention_heads": 2,
            "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8,
            "bias_max_distance": 32, "initializer_range": 0.1, "audio_token_id": words.audio_token_id,
        },
    )  # fmt: skip
    return _build.write(Phi4MultimodalForCausalLM, config, whole, folder, end="<|end|>", prepare=_levelled)


def _levelled(model: Any) -> None:
    """Let sounds arrive: level their features, logarithms of powers, and widen narrow convolutions."""
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    encoder.encoder_embedding.global_mean.fill_(12.0)
    encoder.encoder_embedding.global_invstd.fill_(0.3)
    for part in encoder.embed.conv:
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
