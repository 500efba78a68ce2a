"""Whisper: one sound in, its text out (Radford et al. 2022, arXiv:2212.04356).

An encoder-decoder without a chat template. The decoder reads

    <|startofprev|> context <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> answer <|endoftext|>

and only ``answer <|endoftext|>`` is learned. The text of system and user turns is the context, Whisper's
own door for text (section 2.3), so nothing in a row is dropped; leave the text out of a row whose sound
shall stand alone. A row holds one sound and one answer; a sound longer than the extractor's window
(30 s) is an error and never cut: its label would stay whole.

Language and task are the tokenizer's (``language`` and ``task`` in tokenizer_config.json); a multilingual
checkpoint that names none is taken to transcribe English.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError, LengthError, MediaError
from studio.families import _load
from studio.families._chat import IGNORE, pad
from studio.families._load import pretrained
from studio.later import torch
from studio.media import load_sound
from studio.types import Batch, Family, Feature, Loaded, Sample

MAX_TOKENS = 448
"""Positions of the decoder, in every published Whisper; context takes at most half of them."""


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Whisper and its processor from a local folder; safetensors only, no remote code."""
    from transformers import WhisperForConditionalGeneration

    loaded = pretrained(WhisperForConditionalGeneration, path, dtype=dtype, device=device)
    return Loaded(loaded.model, _spoken(loaded.processor, loaded.model.generation_config))


def processor(path: Path | str) -> Any:
    """Load the processor alone, for the language that `load` would choose."""
    from transformers import GenerationConfig

    settings = GenerationConfig()
    if (Path(path) / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(path, local_files_only=True)
    return _spoken(_load.processor(path), settings)


def _spoken(processor: Any, settings: Any) -> Any:
    tokenizer = processor.tokenizer
    if getattr(settings, "is_multilingual", False) and tokenizer.language is None:
        tokenizer.set_prefix_tokens(language="english", task=tokenizer.task or "transcribe")
    return processor


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: input_features [C, T], their attention_mask [T], decoder_input_ids and labels [L].

    The labels are those that Whisper's own loss takes: already shifted, ``labels[i]`` is the token that
    follows ``decoder_input_ids[i]``.
    """
    _check_shape(sample, supervise)
    tokenizer = processor.tokenizer
    prompt = _context(tokenizer, sample) + list(tokenizer.prefix_tokens)
    batch = _features(processor, sample)
    if not supervise:
        return batch | {"decoder_input_ids": torch.tensor(prompt)}
    answer = [*_ids(tokenizer, sample, sample.answer.strip()), tokenizer.eos_token_id]
    if len(prompt) + len(answer) > MAX_TOKENS + 1:
        raise LengthError(
            f"{sample.where}: context and answer have {len(prompt) + len(answer)} tokens, "
            f"Whisper's decoder takes at most {MAX_TOKENS + 1}"
        )
    learned = answer if sample.turns[-1].loss else [IGNORE] * len(answer)
    batch["decoder_input_ids"] = torch.tensor(prompt + answer[:-1])
    batch["labels"] = torch.tensor([IGNORE] * (len(prompt) - 1) + learned)
    return batch


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: input_features [B, C, T] and attention_mask [B, T] (T is always the whole
    window), decoder_input_ids, decoder_attention_mask and labels [B, L] padded on ``side``.
    """
    rows = [item["decoder_input_ids"] for item in items]
    batch: Batch = {
        **{
            key: torch.stack([item[key] for item in items])
            for key in ("input_features", "attention_mask")
            if key in items[0]  # not where the encoder's states are given instead
        },
        "decoder_input_ids": pad(rows, side, processor.tokenizer.eos_token_id),
        "decoder_attention_mask": pad([torch.ones_like(row) for row in rows], side, 0),
    }
    if all("labels" in item for item in items):
        batch["labels"] = pad([item["labels"] for item in items], side, IGNORE)
    return batch


def decode(processor: Any, batch: Batch, ids: torch.Tensor) -> list[str]:
    """Return the answers [B]: what stands behind the decoder's prompt, as text."""
    fresh = ids[:, batch["decoder_input_ids"].shape[1] :].tolist()
    return [str(processor.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in fresh]


def _check_shape(sample: Sample, supervise: bool) -> None:
    answers = sum(turn.role == "assistant" for turn in sample.turns)
    spoken_last = sample.turns[-1].role == "assistant"
    if sample.images or len(sample.sounds) != 1:
        raise DataError(
            f"{sample.where}: Whisper takes exactly one sound and no picture, this row has "
            f"{len(sample.sounds)} sounds and {len(sample.images)} pictures"
        )
    if answers != int(spoken_last) or (supervise and not spoken_last):
        raise DataError(f"{sample.where}: Whisper takes one answer, at the end; this row has {answers}")


def _features(processor: Any, sample: Sample) -> Batch:
    extractor = processor.feature_extractor
    try:
        wave = load_sound(sample.sounds[0].path, extractor.sampling_rate)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None
    if len(wave) > extractor.n_samples:
        raise MediaError(
            f"{sample.where}: sound '{sample.sounds[0].path}' lasts "
            f"{len(wave) / extractor.sampling_rate:.1f} s, the model takes at most "
            f"{extractor.chunk_length} s; cut it and its text"
        )
    made = extractor(
        wave, sampling_rate=extractor.sampling_rate, return_attention_mask=True, return_tensors="pt"
    )
    return {key: made[key][0] for key in ("input_features", "attention_mask")}


def _context(tokenizer: Any, sample: Sample) -> list[int]:
    """Return the ids of the text before the answer, led by ``<|startofprev|>``; none for no text."""
    text = " ".join(turn.text.strip() for turn in sample.prompt).strip()
    if not text:
        return []
    ids = [tokenizer.convert_tokens_to_ids("<|startofprev|>"), *_ids(tokenizer, sample, " " + text)]
    if len(ids) > MAX_TOKENS // 2 - 1:
        raise LengthError(
            f"{sample.where}: the text beside the sound has {len(ids)} tokens, Whisper takes at most "
            f"{MAX_TOKENS // 2 - 1} as context"
        )
    return ids


def _ids(tokenizer: Any, sample: Sample, text: str) -> list[int]:
    found = next((token for token in tokenizer.all_special_tokens if token in text), None)
    if found is not None:
        raise DataError(f"{sample.where}: text contains the model's special token {found}")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def tiny(folder: Path) -> Path:
    """Write a random Whisper of about 100,000 parameters with its genuine processor."""
    from studio.families import _whisper_build

    return _whisper_build.build(folder, seed=0)


def _listen(model: Any, batch: Batch, projected: bool) -> list[torch.Tensor]:
    """Return the encoder's states [B, T / 2, D]."""
    return [model.model.encoder(batch["input_features"]).last_hidden_state]


def _give(
    model: Any, inputs: Mapping[str, Any], features: Sequence[torch.Tensor], projected: bool
) -> dict[str, Any]:
    """Return the encoder's states as the decoder takes them."""
    from transformers.modeling_outputs import BaseModelOutput

    return {"encoder_outputs": BaseModelOutput(last_hidden_state=features[0])}


def _refuse(config: Any) -> str:
    """Say why the encoder's states are new in every step, if they are."""
    masks = config.apply_spec_augment and (config.mask_time_prob or config.mask_feature_prob)
    return "the model masks its sounds anew in each step (SpecAugment)" if masks else ""


FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    modalities=frozenset({"text", "audio"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=decode,
    towers={"audio": ("model.encoder",), "llm": ("model.decoder", "proj_out")},
    lora_targets={
        "audio": r"model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2)",
        "llm": r"model\.decoder\.layers\.\d+\."
        r"((self_attn|encoder_attn)\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2)",
    },
    tiny=tiny,
    processor=processor,
    features={
        "audio": Feature(
            takes=("input_features", "attention_mask"),
            parts=("model.encoder",),
            compute=_listen,
            give=_give,
            refuse=_refuse,
        )
    },
)
