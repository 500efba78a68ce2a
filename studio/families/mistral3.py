"""Mistral 3 that sees (Mistral Small 3.1 and later, Ministral 3): pictures and text in, text out.

Pictures keep their shape, as in Pixtral (Agrawal et al. 2024, arXiv:2410.07073): a token for two by two
patches, a mark behind each row of them. Of one batch they are filled up to the largest, and the vision tower
cuts that off again by ``image_sizes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from studio.families import _chat, _pictures
from studio.families._linears import LLM, SEES
from studio.families._load import pretrained, processor
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a Mistral 3 with its processor; safetensors only, no remote code."""
    from transformers import Mistral3ForConditionalGeneration

    return pretrained(Mistral3ForConditionalGeneration, path, dtype=dtype, device=device)


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [N, C, H, W] and image_sizes [N, 2].

    Raises `DataError` for a sound: this model does not hear.
    """
    return _pictures.encode(processor, sample, supervise, _media)


def _media(processor: Any, segment: _chat.Segment) -> Batch:
    made = _pictures.process(processor, segment)
    return {key: made[key] for key in ("input_ids", "pixel_values", "image_sizes")}


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures filled up to the largest and joined."""
    batch = _pictures.join(_chat.collate_text(processor, items, side), items, ("image_sizes",))
    seen = [item["pixel_values"] for item in items if "pixel_values" in item]
    if seen:
        high, wide = (max(pixels.shape[axis] for pixels in seen) for axis in (2, 3))
        batch["pixel_values"] = torch.cat(
            [
                torch.nn.functional.pad(pixels, (0, wide - pixels.shape[3], 0, high - pixels.shape[2]))
                for pixels in seen
            ]
        )
    return batch


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's pictures."""
    if "image_sizes" not in item:
        return {}
    each = config.vision_config.patch_size * config.spatial_merge_size
    return {"image": int((item["image_sizes"] // each).prod(-1).sum())}


def tiny(folder: Path) -> Path:
    """Write a random Mistral 3 of about 60,000 parameters with its genuine processor."""
    import transformers

    from studio.families import _build

    words = _build.byte_level(
        ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        eos="</s>",
        pad="<pad>",
        bos_token="<s>",
    )
    whole = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(
            size={"longest_edge": 48}, patch_size={"height": 8, "width": 8}
        ),
        tokenizer=words,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=_build.instructions("image", "[IMG]"),
    )
    config = transformers.Mistral3Config(
        vision_config={
            "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 48, "patch_size": 8, "initializer_range": 0.1,
        },
        text_config={
            "model_type": "mistral", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
            "max_position_embeddings": 2048, "sliding_window": None, "initializer_range": 0.1,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )  # fmt: skip
    return _build.write(transformers.Mistral3ForConditionalGeneration, config, whole, folder)


FAMILY = Family(
    name="mistral3",
    model_types=("mistral3",),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    towers=SEES,
    lora_targets={
        "vision": r"model\.vision_tower\.transformer\.layers\.\d+\."
        r"(attention\.(q_proj|k_proj|v_proj|o_proj)|feed_forward\.(gate_proj|up_proj|down_proj))",
        "projector": r"model\.multi_modal_projector\.(linear_(1|2)|patch_merger\.merging_layer)",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
)
