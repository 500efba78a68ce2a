"""PaliGemma and PaliGemma 2: pictures and a task in, an answer out.

Beyer et al. 2024, arXiv:2407.07726; Steiner et al. 2024, arXiv:2412.03555. There is no chat template; the
model reads

    <image> x n <bos> task \\n answer <eos>

and only ``answer <eos>`` is learned. All that stands before the answer sees itself in both directions, the
answer what is before it (``token_type_ids`` 0 and 1). The text of system and user turns is the task; a row
holds one answer. A row without a picture is taken as well: ``<bos> task \\n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.errors import DataError, MediaError
from studio.families import _chat, _features, _pictures
from studio.families._linears import LLM, SEES, SIGLIP
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.media import load_image
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a PaliGemma with its processor; safetensors only, no remote code."""
    from transformers import PaliGemmaForConditionalGeneration

    return pretrained(PaliGemmaForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids, labels and token_type_ids [L], pixel_values [N, C, H, W].

    Raises `DataError` for a sound, and for a row with another number of answers than one.
    """
    _check(processor.tokenizer, sample, supervise)
    tokenizer = processor.tokenizer
    task = " ".join(turn.text.strip() for turn in sample.prompt).strip()
    if sample.images:
        try:
            pictures = [load_image(image.path) for image in sample.images]
        except MediaError as error:
            raise MediaError(f"{sample.where}: {error}") from None
        # As lists: of tensors the processor warns that NumPy will not take them.
        made = processor(
            text=[processor.image_token * len(pictures) + task], images=[pictures], add_special_tokens=False
        )
        prompt = made["input_ids"][0]
        batch = {"pixel_values": torch.stack(made["pixel_values"])}
    else:
        prompt = tokenizer(f"{tokenizer.bos_token}{task}\n", add_special_tokens=False)["input_ids"]
        batch = {}
    answer: list[int] = []
    if supervise:
        answer = tokenizer(sample.answer.strip(), add_special_tokens=False)["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        learned = answer if sample.turns[-1].loss else [_chat.IGNORE] * len(answer)
        batch["labels"] = torch.tensor([_chat.IGNORE] * len(prompt) + learned)
    kinds = [0] * len(prompt) + [1] * len(answer)
    return {"input_ids": torch.tensor(prompt + answer), "token_type_ids": torch.tensor(kinds)} | batch


def _check(tokenizer: Any, sample: Sample, supervise: bool) -> None:
    answers = sum(turn.role == "assistant" for turn in sample.turns)
    spoken_last = sample.turns[-1].role == "assistant"
    if sample.sounds:
        raise DataError(f"{sample.where}: this model takes pictures and text, the row has a sound")
    if answers != int(spoken_last) or (supervise and not spoken_last):
        raise DataError(f"{sample.where}: PaliGemma takes one answer, at the end; this row has {answers}")
    special = _chat.special_tokens(tokenizer)
    for turn in sample.turns:
        found = next((token for token in special if token in turn.text), None)
        if found is not None:
            raise DataError(f"{sample.where}: text contains the model's special token {found}")


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures joined in order."""
    batch = _chat.collate_text(processor, items, side)
    batch["token_type_ids"] = _chat.pad([item["token_type_ids"] for item in items], side, 0)
    return _pictures.join(batch, items, ("pixel_values",))


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the vision tower makes of an encoded sample's pictures."""
    if "pixel_values" not in item:
        return {}
    pictures, _, height, width = item["pixel_values"].shape
    patch = config.vision_config.patch_size
    return {"image": pictures * (height // patch) * (width // patch)}


def tiny(folder: Path) -> Path:
    """Write a random PaliGemma of about 90,000 parameters with its genuine processor."""
    return build(folder)


def build(folder: Path, text: str = "gemma") -> Path:
    """Write a random PaliGemma on a language model of the kind ``text``: gemma, or gemma2 as PaliGemma 2."""
    import transformers

    from studio.families import _build

    words = _build.byte_fallback(transformers.GemmaTokenizer, [], named={"image_token": "<image>"})
    size = {"size": {"height": 32, "width": 32}}
    whole = transformers.PaliGemmaProcessor(
        transformers.SiglipImageProcessor(image_seq_length=16, **size), words
    )
    more = {"sliding_window": 16, "query_pre_attn_scalar": 16} if text == "gemma2" else {}
    config = transformers.PaliGemmaConfig(
        text_config={
            "model_type": text, "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
            "max_position_embeddings": 2048, "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
            "initializer_range": 0.1, **more,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            "vision_use_head": False,
        },
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(words),
        image_token_index=whole.image_token_id,
    )  # fmt: skip
    return _build.write(transformers.PaliGemmaForConditionalGeneration, config, whole, folder)


FAMILY = Family(
    name="paligemma",
    model_types=("paligemma",),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=SEES,
    lora_targets={
        "vision": SIGLIP,
        "projector": r"model\.multi_modal_projector\.linear",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={"image": _features.pictures()},
)
