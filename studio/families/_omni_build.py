"""A Qwen2.5-Omni thinker of any size with its genuine processor, built from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.later import torch

SPECIAL = {
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "start": "<|im_start|>",
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
MEDIA_TOKENS = {key: SPECIAL[key] for key in SPECIAL if key not in ("eos_token", "pad_token", "start")}

TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_bos|><|IMAGE|><|vision_eos|>' -}}"
    "{%- elif part['type'] == 'audio' -%}{{- '<|audio_bos|><|AUDIO|><|audio_eos|>' -}}"
    "{%- elif part['type'] == 'video' -%}{{- '<|vision_bos|><|VIDEO|><|vision_eos|>' -}}"
    "{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the model is; the image side is in pixels, the sound window in seconds.

    ``spread`` is the standard deviation of random weights: near 1 / sqrt(hidden), or attention starts too
    flat to learn where to look. The usual 0.02 is made for widths of thousands.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vision: int
    vision_layers: int
    vision_inner: int
    audio: int
    audio_layers: int
    audio_inner: int
    tower_heads: int
    side: int = 64
    patch: int = 8
    mels: int = 64
    seconds: int = 8
    window: int = 100
    spread: float = 0.02


TINY = Size(
    vocabulary=320, hidden=64, layers=2, heads=4, kv_heads=2, inner=96, vision=32, vision_layers=2,
    vision_inner=48,    audio=32, audio_layers=2, audio_inner=48, tower_heads=2, side=32, mels=32,
)  # fmt: skip
TINY_TEXTS = ("What is in the picture?", "a red circle", "what was said?", "one two three")


def tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer with Qwen's special tokens; the order of ``texts`` decides ties."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    # Digits stay single, as in Qwen: a number is then spelt the same way wherever it stands.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=SPECIAL["eos_token"],
        pad_token=SPECIAL["pad_token"],
        additional_special_tokens=[SPECIAL["start"]],
        extra_special_tokens=MEDIA_TOKENS,
        model_max_length=2048,
    )


def processor(size: Size, texts: Iterable[str]) -> Any:
    """Return the genuine Qwen2.5-Omni processor, its tokenizer trained on ``texts``."""
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    pixels = {"shortest_edge": size.side**2, "longest_edge": size.side**2}
    vision = {"patch_size": size.patch, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        video_processor=Qwen2VLVideoProcessor(**vision),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=size.mels, sampling_rate=16000, chunk_length=size.seconds, return_attention_mask=True
        ),
        tokenizer=tokenizer(texts, size.vocabulary),
        chat_template=TEMPLATE,
    )


def config(size: Size, tokens: Any) -> Any:
    """Return the thinker's configuration with the special ids of the trained tokenizer."""
    from transformers import Qwen2_5OmniThinkerConfig

    ids = {key: tokens.convert_tokens_to_ids(token) for key, token in SPECIAL.items()}
    rotary = size.hidden // size.heads // 2
    sections = [rotary - 2 * (rotary * 3 // 8), rotary * 3 // 8, rotary * 3 // 8]
    return Qwen2_5OmniThinkerConfig(
        initializer_range=size.spread,
        text_config={
            "initializer_range": size.spread,
            "vocab_size": len(tokens), "hidden_size": size.hidden, "intermediate_size": size.inner,
            "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads, "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
            "pad_token_id": ids["pad_token"], "eos_token_id": ids["eos_token"],
        },
        vision_config={
            "initializer_range": size.spread,
            "depth": size.vision_layers, "hidden_size": size.vision, "intermediate_size": size.vision_inner,
            "num_heads": size.tower_heads, "patch_size": size.patch, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 16 * size.patch, "out_hidden_size": size.hidden,
            "fullatt_block_indexes": list(range(size.vision_layers)),
        },
        audio_config={
            "initializer_range": size.spread,
            "num_mel_bins": size.mels, "encoder_layers": size.audio_layers, "d_model": size.audio,
            "encoder_attention_heads": size.tower_heads, "encoder_ffn_dim": size.audio_inner,
            "n_window": size.window, "output_dim": size.hidden, "max_source_positions": 1500,
        },
        image_token_id=ids["image_token"], audio_token_id=ids["audio_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"], audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"], vision_end_token_id=ids["vision_eos_token"],
        pad_token_id=ids["pad_token"], eos_token_id=ids["eos_token"], tie_word_embeddings=True,
    )  # fmt: skip


def build(folder: Path, size: Size, texts: Iterable[str], seed: int) -> Path:
    """Write a random thinker of the given size with its processor into ``folder`` and return it."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    whole = processor(size, texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config(size, whole.tokenizer))
    model.generation_config.eos_token_id = whole.tokenizer.eos_token_id
    model.generation_config.pad_token_id = whole.tokenizer.pad_token_id
    model.save_pretrained(folder)
    whole.save_pretrained(folder)
    return Path(folder)
