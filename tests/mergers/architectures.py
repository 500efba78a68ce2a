"""Random models of the architectures that other tools lose tensors of, with their genuine processors.

A few hundred kilobytes each. The tokenizers are lists of words: what matters is that the files come along.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WORDS = 128
IMAGE, VIDEO, VISION_START, VISION_END, AUDIO, AUDIO_START, AUDIO_END = range(119, 126)


def _text(**more: Any) -> dict[str, Any]:
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return sizes | heads | special | more


def _audio(**more: Any) -> dict[str, Any]:
    return {"num_mel_bins": 16, "max_source_positions": 50} | more


def _vision() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return sizes | {"image_size": 28, "patch_size": 14, "model_type": "clip_vision_model"}


def words(special: Mapping[str, int], **named: str) -> Any:
    """Return a tokenizer of 128 words, of which ``special`` have given numbers, and some have names."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **special}
    numbers = sorted(set(range(WORDS)) - set(vocabulary.values()))
    vocabulary |= {f"word{number}": number for number in numbers}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>", *special])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens=named, model_max_length=128,
    )  # fmt: skip


def _ears(seconds: int = 1) -> Any:
    return transformers.WhisperFeatureExtractor(feature_size=16, sampling_rate=16000, chunk_length=seconds)


def qwen2_5_vl() -> tuple[Any, Any]:
    """Return the model and its processor."""
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(rope_parameters=rope),
        vision_config=vision | {"patch_size": 14, "fullatt_block_indexes": [1]},
        image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
    )  # fmt: skip
    tokens = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO}
    tokens |= {"<|vision_start|>": VISION_START, "<|vision_end|>": VISION_END}
    seen = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 28**2, "longest_edge": 28**2}}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**seen),
        video_processor=transformers.Qwen2VLVideoProcessor(**seen),
        tokenizer=words(tokens, image_token="<|image_pad|>", video_token="<|video_pad|>"),
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen2_audio() -> tuple[Any, Any]:
    """Return the model and its processor."""
    audio = _audio(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48)
    config = transformers.Qwen2AudioConfig(
        audio_config=audio, text_config=_text(model_type="qwen2"), audio_token_index=AUDIO
    )
    tokens = {"<|AUDIO|>": AUDIO, "<|audio_bos|>": AUDIO_START, "<|audio_eos|>": AUDIO_END}
    processor = transformers.Qwen2AudioProcessor(feature_extractor=_ears(), tokenizer=words(tokens))
    return transformers.Qwen2AudioForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    """Return the model and its processor."""
    config = transformers.LlavaConfig(
        vision_config=_vision(), text_config=_text(model_type="llama"), image_token_index=IMAGE
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=words({"<image>": IMAGE}), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def gemma4() -> tuple[Any, Any]:
    """Return the model and its processor."""
    text = _text(
        head_dim=8, global_head_dim=8, vocab_size_per_layer_input=WORDS, hidden_size_per_layer_input=8,
        num_kv_shared_layers=0, sliding_window=16, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = small | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8}
    config = transformers.Gemma4Config(
        text_config=transformers.Gemma4TextConfig(**text).to_dict(),
        vision_config=transformers.Gemma4VisionConfig(**vision).to_dict(),
        audio_config=transformers.Gemma4AudioConfig(**small).to_dict(),
        image_token_id=IMAGE, video_token_id=VIDEO, audio_token_id=AUDIO,
        boi_token_id=VISION_START, eoi_token_id=VISION_END, boa_token_id=AUDIO_START, eoa_token_id=AUDIO_END,
    )  # fmt: skip
    tokens = {"<|image|>": IMAGE, "<|video|>": VIDEO, "<|image>": VISION_START, "<image|>": VISION_END}
    tokens |= {"<|audio|>": AUDIO, "<|audio>": AUDIO_START, "<audio|>": AUDIO_END}
    named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    named |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    seen = {"patch_size": 8, "max_soft_tokens": 70}
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(**seen),
        video_processor=transformers.Gemma4VideoProcessor(**seen),
        tokenizer=words(tokens, **named),
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor


def smolvlm_tied() -> tuple[Any, Any]:
    """Return the family's tiny model with one table for both ends, and its processor."""
    from studio.families import _smolvlm_build

    with tempfile.TemporaryDirectory() as folder:
        config = transformers.AutoConfig.from_pretrained(_smolvlm_build.build(Path(folder), 0))
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    return transformers.SmolVLMForConditionalGeneration(config), _smolvlm_build.processor()


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "smolvlm_tied": smolvlm_tied,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_audio": qwen2_audio,
    "llava": llava,
    "gemma4": gemma4,
}
#: Families whose tiny models are used: a Qwen2.5-Omni Thinker, a SmolVLM with two tables, a Qwen3-VL, ...
FAMILIES = (
    "qwen_omni",
    "smolvlm",
    "whisper",
    "qwen_vl",
    "qwen3_omni",
    "voxtral",
    "granite_speech",
    "phi4_multimodal",
)
ARCHITECTURES = (*FAMILIES, *BUILDERS)


def write(name: str, folder: Path) -> Path:
    """Write a random checkpoint of an architecture with its processor."""
    model, processor = BUILDERS[name]()
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def question(name: str, processor: Any) -> dict[str, Any]:
    """Return what a processor makes of some words with a picture, or a sound, or both."""
    draw = np.random.default_rng(0)
    picture = draw.integers(0, 256, (56, 56, 3), dtype=np.uint8)
    sound = draw.normal(0, 0.1, 12000).astype(np.float32)
    asked = {
        "smolvlm_tied": ("<image> What is in the picture?", True, False),
        "qwen2_5_vl": ("<|vision_start|><|image_pad|><|vision_end|> word40 word41", True, False),
        "qwen2_audio": ("<|audio_bos|><|AUDIO|><|audio_eos|> word40 word41", False, True),
        "llava": ("<image> word40 word41", True, False),
        "gemma4": ("<|image|> word40 <|audio|> word41", True, True),
    }
    text, sees, hears = asked[name]
    media = ({"images": [[picture]]} if sees else {}) | (
        {"audio": [sound], "sampling_rate": 16000} if hears else {}
    )
    return dict(processor(text=[text], return_tensors="pt", **media))
