"""Phi-4-multimodal in the form of transformers: pictures, sounds and text in, text out (arXiv:2503.01743).

Its audio tower hears what a shorter sound is filled up with, as the mask it takes only weighs frames a
little; and whether a row's sounds go through the projector for speech or for sight and speech, transformers
asks of the whole batch. A loaded model does neither: sounds of equal length are encoded together and none
padded, and each row goes through the projector that it would go through alone.

The published weights reach pictures and sounds by two adapters of their own (folders vision-lora and
speech-lora): merge one of them into the base, or training begins from a model that does not see or hear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError, MediaError
from studio.families import _chat, _flat, _load, _sounds
from studio.families._linears import ENCODER
from studio.families._speaker import Speaker
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Family, Loaded, Sample

_KEY = "audio_input_features"
_SEEN = ("image_pixel_values", "image_attention_mask", "image_sizes")
_EYE = "model.embed_tokens_extend.image_embed"
_EAR = "model.embed_tokens_extend.audio_embed"


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Phi-4-multimodal with its processor; safetensors only, no remote code."""
    from transformers import Phi4MultimodalForCausalLM

    loaded = _load.pretrained(Phi4MultimodalForCausalLM, path, dtype=dtype, device=device)
    ear = loaded.model.get_submodule(_EAR)
    _flat.replace_forward(ear, _embed)
    _flat.replace_forward(ear.encoder, _encode)
    return Loaded(loaded.model, _load.templated(loaded.processor))


def processor(path: Path | str) -> Any:
    """Load the processor alone."""
    return _load.templated(_load.processor(path))


def _encode(encoder: Any, hidden_states: torch.Tensor, mask: torch.Tensor | None, **settings: Any) -> Any:
    """Return what the encoder makes of sounds [N, T, C] with mask [N, T]: [N, T', D] with zeros behind."""

    def alone(sounds: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = type(encoder).forward(encoder, sounds, None, **settings)
        return states

    return alone(hidden_states) if mask is None else _flat.by_length(alone, hidden_states, mask.sum(1))


def _embed(
    ear: Any,
    input_ids: torch.Tensor,
    inputs_embeds: torch.Tensor,
    audio_projection_mode: str = "speech",
    **heard: Any,
) -> torch.Tensor:
    """Put sounds into their places; those of a row with pictures by the projector for both."""
    sees = (input_ids == ear.config.vision_config.image_token_id).any(1)
    hears = (input_ids == ear.config.audio_config.audio_token_id).any(1)
    modes = {"vision": bool((sees & hears).any()), "speech": bool((hears & ~sees).any())}
    made: list[torch.Tensor] = [
        type(ear).forward(ear, input_ids, inputs_embeds, audio_projection_mode=mode, **heard)
        for mode, wanted in modes.items()
        if wanted
    ]
    if len(made) == 1:
        return made[0]
    return torch.where(sees[:, None, None], made[0], made[1])


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], the tiles of pictures, and the features of sounds.

    image_pixel_values [N, P, C, H, W] with image_attention_mask [N, P, h, w] and image_sizes [N, 2], P counts
    a picture and its tiles; audio_input_features [T, C] of all sounds with audio_lengths and
    audio_embed_sizes [M].
    """
    try:
        return _chat.encode(Speaker(_load.templated(processor), _render), sample, supervise, _media)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None


def _render(processor: Any, messages: Any, **settings: Any) -> str:
    """Return the conversation without the mark that the published template puts behind its end."""
    text: str = processor.apply_chat_template(messages, **settings)
    return text.removesuffix(processor.tokenizer.eos_token)


def _media(speaker: Any, segment: _chat.Segment) -> Batch:
    processor = speaker.processor
    extractor, tokenizer = processor.audio_processor, processor.tokenizer
    batch: Batch = {}
    places: dict[str, list[int]] = {processor.image_token: [], processor.audio_token: []}
    if segment.images:
        seen = processor.image_processor(
            [load_image(image.path) for image in segment.images], return_tensors="pt"
        )
        places[processor.image_token] = [int(count) for count in seen["num_img_tokens"]]
        batch |= {key: seen[key] for key in _SEEN}
    if segment.sounds:
        waves = _sounds.waves(segment, extractor.sampling_rate)
        for sound, wave in zip(segment.sounds, waves, strict=True):
            if len(wave) < extractor.win_length:
                raise MediaError(f"sound '{sound.path}' is too short: the model needs a window of 25 ms")
        # One by one: the extractor fills shorter sounds up, and what it makes of that is heard.
        heard = [extractor([wave], sampling_rate=extractor.sampling_rate) for wave in waves]
        sizes = [int(made["audio_embed_sizes"][0]) for made in heard]
        places[processor.audio_token] = sizes
        batch |= _flat.flat([made[_KEY][0] for made in heard], _KEY)
        batch["audio_embed_sizes"] = torch.tensor(sizes)
    text = segment.text
    for token, counts in places.items():
        pieces = text.split(token)
        if len(pieces) != len(counts) + 1:
            raise DataError(f"the chat template writes {len(pieces) - 1} {token} for {len(counts)} media")
        text = pieces[0] + "".join(token * n + piece for n, piece in zip(counts, pieces[1:], strict=True))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {"input_ids": ids, **batch}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures with as many tiles each, sounds [N, T, C].

    The model drops tiles that are too many by the sizes of the pictures.
    """
    batch = _chat.collate_text(processor, items, side)
    seen = [item for item in items if _SEEN[0] in item]
    if seen:
        most = max(item[_SEEN[0]].shape[1] for item in seen)
        for key in _SEEN[:2]:
            # A tile that is dropped is given a mask nevertheless: without one it would be not a number.
            batch[key] = torch.cat([_filled(item[key], most, float(key == _SEEN[1])) for item in seen])
        batch["image_sizes"] = torch.cat([item["image_sizes"] for item in seen])
    sounds = _flat.sounds(items, _KEY)
    if sounds:
        lengths = torch.tensor([len(sound) for sound in sounds])
        batch[_KEY] = _flat.stacked(sounds, 0.0)
        batch["audio_attention_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        sizes = [item["audio_embed_sizes"] for item in items if "audio_embed_sizes" in item]
        batch["audio_embed_sizes"] = torch.cat(sizes)
    return batch


def _filled(tiles: torch.Tensor, most: int, value: float) -> torch.Tensor:
    """Return tiles [N, P, ...] as [N, most, ...]."""
    more = tiles.new_full((tiles.shape[0], most - tiles.shape[1], *tiles.shape[2:]), value)
    return torch.cat([tiles, more], dim=1)


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's pictures and sounds."""
    made: dict[str, int] = {}
    if _SEEN[0] in item:
        side = config.vision_config.image_size // config.vision_config.patch_size
        half = (side + side % 2) // 2
        made["image"] = 0
        for mask, (height, width) in zip(item[_SEEN[1]], item["image_sizes"].tolist(), strict=True):
            high, wide = (size // config.vision_config.crop_size for size in (height, width))
            tiles = mask[1 : high * wide + 1, 0::2, 0::2].reshape(high, wide, half, half)
            rows, columns = int(tiles[:, 0, :, 0].sum()), int(tiles[0, :, 0, :].sum())
            # The mark at the end of each row, and one between the tiles and the whole.
            made["image"] += rows * (columns + 1) + 1 + half * (half + 1)
    if _flat.LENGTHS in item:
        rate = config.audio_config.time_reduction * config.audio_config.downsample_rate
        made["audio"] = int(item[_flat.LENGTHS].add(rate - 1).div(rate, rounding_mode="floor").sum())
    return made


def tiny(folder: Path) -> Path:
    """Write a random Phi-4-multimodal of about 150,000 parameters with its genuine processor."""
    from studio.families import _phi4_build

    return _phi4_build.build(folder)


FAMILY = Family(
    name="phi4_multimodal",
    model_types=("phi4_multimodal",),
    modalities=frozenset({"text", "image", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers={
        "vision": (f"{_EYE}.img_processor",),
        "audio": (f"{_EAR}.encoder",),
        "projector": ("model.embed_tokens_extend",),
        "llm": ("model.embed_tokens", "model.layers", "model.norm", "lm_head"),
    },
    lora_targets={
        "vision": r"model\.embed_tokens_extend\.image_embed\.img_processor\.encoder\.layers\.\d+\." + ENCODER,
        "audio": r"model\.embed_tokens_extend\.audio_embed\.encoder\.encoders\.\d+\."
        r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|feed_forward_(in|out)\.(gate_up_proj|down_proj))",
        "projector": r"model\.embed_tokens_extend\."
        r"(image_embed\.img_projection_(up|down)|audio_embed\.(up|down)_proj_for_(vision_)?speech)",
        "llm": r"model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))",
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    window=lambda processor: 0.0,
)
