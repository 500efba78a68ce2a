"""Voxtral: sounds of any length and text in, text out (Liu et al. 2025, arXiv:2507.13264).

Every sound is padded to whole windows (30 s) of silence, and a window has as many tokens whatever is in it.
The published checkpoints hold Mistral's own vocabulary file (tekken.json), which transformers reads, and no
chat template: the one below writes what mistral-common 1.9.1 does. A system's turn beside a sound is refused,
as it is there; its words belong into the user's turn. The form for transcribing alone (``lang:en
[TRANSCRIBE]``) is not used: the question is asked in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError
from studio.families import _build, _chat, _features, _load, _pictures, _sounds
from studio.families._linears import HEARS, LLM, WHISPER
from studio.families._speaker import Speaker
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

TEMPLATE = _build.instructions("audio", "[BEGIN_AUDIO][AUDIO]")
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def _render(processor: Any, messages: Any, **settings: Any) -> str:
    """Let the tokenizer render; the processor's own way needs mistral-common."""
    template = processor.chat_template
    text: str = processor.tokenizer.apply_chat_template(messages, chat_template=template, **settings)
    return text


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Voxtral with its processor; safetensors only, no remote code, no library beside transformers."""
    from transformers import VoxtralForConditionalGeneration

    loaded = _load.pretrained(VoxtralForConditionalGeneration, path, dtype=dtype, device=device)
    return Loaded(loaded.model, _named(loaded.processor))


def processor(path: Path | str) -> Any:
    """Load the processor alone."""
    return _named(_load.processor(path))


def _named(processor: Any) -> Any:
    """Name the special tokens, which tekken.json does not, and set the template where there is none."""
    for name, token in _NAMES.items():
        if getattr(processor.tokenizer, name) is None:
            setattr(processor.tokenizer, name, token)
    return _load.templated(processor, TEMPLATE)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], input_features [W, C, T]; W counts the windows of all sounds.

    Raises `DataError` for a picture, and for a system's turn beside a sound.
    """
    if sample.sounds and any(turn.role == "system" for turn in sample.turns):
        raise DataError(
            f"{sample.where}: Voxtral takes no system turn beside a sound; put its words into the user's"
        )
    return _sounds.encode(Speaker(_named(processor), _render), sample, supervise, _media)


def _media(speaker: Any, segment: _chat.Segment) -> Batch:
    processor, extractor = speaker.processor, speaker.processor.feature_extractor
    windows = [
        processor._retrieve_input_features(
            [wave],
            extractor.nb_max_frames,
            sampling_rate=extractor.sampling_rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=extractor.n_samples,
            return_tensors="pt",
        )
        for wave in _sounds.waves(segment, extractor.sampling_rate)
    ]
    # A token for eight frames.
    places = iter(made.shape[0] * made.shape[2] // 8 for made in windows)
    text = re.sub(r"\[AUDIO\]", lambda mark: mark[0] * next(places), segment.text)
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {"input_ids": ids, "input_features": torch.cat(windows)}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, windows joined in order."""
    return _pictures.join(_chat.collate_text(processor, items, side), items, ("input_features",))


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's windows."""
    if "input_features" not in item:
        return {}
    audio = config.audio_config
    each = audio.max_source_positions * audio.hidden_size // audio.intermediate_size
    return {"audio": len(item["input_features"]) * each}


def tiny(folder: Path) -> Path:
    """Write a random Voxtral of about 60,000 parameters with its genuine processor."""
    from transformers import (
        VoxtralConfig,
        VoxtralForConditionalGeneration,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    # In the places they have in tekken.json: the processor knows the sound's by its number, 24.
    special = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        *(f"<SPECIAL_{i}>" for i in range(5, 11)),
        "<pad>",
    ]
    special += [*(f"<SPECIAL_{i}>" for i in range(12, 17)), "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    special += [*(f"<SPECIAL_{i}>" for i in range(19, 24)), "[AUDIO]", "[BEGIN_AUDIO]"]
    words = _build.byte_level(special, eos="</s>", pad="<pad>", bos_token="<s>", unk_token="<unk>")
    whole = _named(VoxtralProcessor(WhisperFeatureExtractor(feature_size=32, chunk_length=2), words))
    config = VoxtralConfig(
        audio_config={
            "num_mel_bins": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 128, "max_source_positions": 100, "initializer_range": 0.1,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "initializer_range": 0.1, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        audio_token_id=words.convert_tokens_to_ids("[AUDIO]"),
    )  # fmt: skip
    return _build.write(VoxtralForConditionalGeneration, config, whole, folder)


FAMILY = Family(
    name="voxtral",
    model_types=("voxtral",),
    modalities=frozenset({"text", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=HEARS,
    lora_targets={"audio": WHISPER, "projector": r"model\.multi_modal_projector\.linear_(1|2)", "llm": LLM},
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={"audio": _features.sounds()},
    window=lambda processor: 0.0,
)
