"""Granite Speech: sounds of any length and text in, text out (Saon et al. 2025, arXiv:2505.08699).

The encoder has no mask: it hears whatever a shorter sound is filled up with. A batch is therefore filled up
with NaN, by which the encoder of a loaded model knows the lengths, and encodes sounds of equal length
together and none padded: every sound becomes what it becomes alone. A plain model of transformers answers
such a batch with NaN, not with something slightly wrong.

The templates want text, in which ``<|audio|>`` stands for a sound. Checkpoints that come with an adapter of
their own (Granite Speech 3) are refused; from version 4.0 on there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import CheckpointError, MediaError
from studio.families import _chat, _features, _flat, _sounds
from studio.families._linears import LLM
from studio.families._load import pretrained, processor
from studio.families._speaker import Speaker
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

_KEY = "input_features"


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Granite Speech with its processor; safetensors only, no remote code.

    Raises `CheckpointError` for one that comes with an adapter of its own.
    """
    from transformers import GraniteSpeechForConditionalGeneration

    if (Path(path) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{path}: a Granite Speech with an adapter of its own (adapter_config.json) is not handled; "
            "from version 4.0 on there is none"
        )
    loaded = pretrained(GraniteSpeechForConditionalGeneration, path, dtype=dtype, device=device)
    _flat.replace_forward(loaded.model.model.encoder, _encode)
    return loaded


def _encode(encoder: Any, hidden_states: torch.Tensor, **settings: Any) -> Any:
    """Return what the encoder makes of sounds [N, T, C], filled up with NaN behind: [N, T', D] with zeros."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def alone(sounds: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = type(encoder).forward(encoder, sounds, **settings).last_hidden_state
        return states

    lengths = (~hidden_states.isnan().any(-1)).sum(-1)
    return BaseModelOutputWithPooling(last_hidden_state=_flat.by_length(alone, hidden_states, lengths))


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], input_features [T, C] of all sounds, audio_lengths [N].

    Raises `DataError` for a picture.
    """
    return _sounds.encode(Speaker(processor, _render), sample, supervise, _media)


def _render(processor: Any, messages: Any, **settings: Any) -> str:
    marks = {"audio": processor.audio_token}
    plain = [
        {
            "role": message["role"],
            "content": "".join(marks.get(part["type"], part.get("text", "")) for part in message["content"]),
        }
        for message in messages
    ]
    text: str = processor.apply_chat_template(plain, **settings)
    return text


def _media(speaker: Any, segment: _chat.Segment) -> Batch:
    processor, extractor = speaker.processor, speaker.processor.audio_processor
    waves = _sounds.waves(segment, extractor.sampling_rate)
    least = 2 * extractor.melspec_kwargs["n_fft"]
    for sound, wave in zip(segment.sounds, waves, strict=True):
        if len(wave) < least:
            raise MediaError(
                f"sound '{sound.path}' is too short: the model needs at least "
                f"{math.ceil(1000 * least / extractor.sampling_rate)} ms"
            )
    # One by one: the extractor fills a shorter sound up with silence, and measures it with that.
    made = [extractor([wave])["input_features"][0] for wave in waves]
    places = iter(_places(extractor, len(features)) for features in made)
    pieces = segment.text.split(processor.audio_token)
    text = pieces[0] + "".join(processor.audio_token * next(places) + piece for piece in pieces[1:])
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {"input_ids": ids, **_flat.flat(made, _KEY)}


def _places(extractor: Any, frames: int) -> int:
    """Return how many tokens the projector makes of so many frames of the encoder."""
    windows: int = math.ceil(frames / extractor.projector_window_size)
    each: int = extractor.projector_window_size // extractor.projector_downsample_rate
    return windows * each


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, sounds [N, T, C] filled up with NaN behind.

    ``input_features_mask`` [N, M] tells which of the projector's tokens are a sound's.
    """
    batch = _chat.collate_text(processor, items, side)
    sounds = _flat.sounds(items, _KEY)
    if sounds:
        places = torch.tensor([_places(processor.audio_processor, len(sound)) for sound in sounds])
        batch[_KEY] = _flat.stacked(sounds, math.nan)
        batch["input_features_mask"] = torch.arange(int(places.max())) < places[:, None]
    return batch


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's sounds."""
    if _flat.LENGTHS not in item:
        return {}
    each = config.window_size // config.downsample_rate
    return {"audio": sum(math.ceil(n / config.window_size) * each for n in item[_flat.LENGTHS].tolist())}


def tiny(folder: Path) -> Path:
    """Write a random Granite Speech of about 100,000 parameters with its genuine processor."""
    from transformers import (
        GraniteSpeechConfig,
        GraniteSpeechFeatureExtractor,
        GraniteSpeechForConditionalGeneration,
        GraniteSpeechProcessor,
    )

    from studio.families import _build

    words = _build.byte_level(
        ["<|start_of_role|>", "<|end_of_role|>"],
        eos="<|end_of_text|>",
        pad="<|pad|>",
        named={"audio_token": "<|audio|>"},
    )
    whole = GraniteSpeechProcessor(
        GraniteSpeechFeatureExtractor(), words, chat_template=_build.roles("<|audio|>")
    )
    config = GraniteSpeechConfig(
        encoder_config={
            "input_dim": 160, "num_layers": 2, "hidden_dim": 32, "feedforward_mult": 2, "num_heads": 2,
            "dim_head": 16, "output_dim": 20, "context_size": 20, "max_pos_emb": 64, "dropout": 0.0,
            "conv_kernel_size": 5, "conv_expansion_factor": 1,
        },
        projector_config={
            "model_type": "blip_2_qformer", "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 48, "encoder_hidden_size": 32,
            "cross_attention_frequency": 1, "vocab_size": 8, "max_position_embeddings": 8,
        },
        text_config={
            "model_type": "granite", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id, "initializer_range": 0.1,
        },
        audio_token_index=words.audio_token_id,
        has_lora_adapter=False,
        initializer_range=0.1,
    )  # fmt: skip
    return _build.write(GraniteSpeechForConditionalGeneration, config, whole, folder)


def _frames(model: Any, batch: Batch) -> torch.Tensor:
    """Return the frames [n, D] of all sounds that stand in the text, projected."""
    made: torch.Tensor = model.model.get_audio_features(batch[_KEY], return_dict=True).pooler_output
    return made[batch["input_features_mask"]]


FAMILY = Family(
    name="granite_speech",
    model_types=("granite_speech",),
    modalities=frozenset({"text", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "audio": ("model.encoder",),
        "projector": ("model.projector",),
        "llm": ("model.language_model", "lm_head"),
    },
    lora_targets={
        "audio": r"model\.encoder\.layers\.\d+\.(ff(1|2)\.(up_proj|down_proj)|attn\.(to_q|to_kv|to_out))",
        "projector": r"model\.projector\.(linear|qformer\.encoder\.layer\.\d+\."
        r"((attention|crossattention)\.(attention\.(query|key|value)|output\.dense)"
        r"|(intermediate|output)_query\.dense))",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "audio": _features.sounds(
            takes=(_KEY, _flat.LENGTHS, "input_features_mask"),
            audio="model.encoder",
            projector=None,
            more=("model.projector",),
            either=True,
            compute=_frames,
        )
    },
    window=lambda processor: 0.0,
)
