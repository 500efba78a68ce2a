"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision: pictures and text in, text out.

Liu et al. 2023, arXiv:2310.03744; Li et al. 2024, arXiv:2407.07895 and arXiv:2408.03326. Into how many tiles
a picture is cut is left to the processor; OneVision gives the pictures of a row one tile each where there are
several. The templates published for Vicuna put nothing behind an answer, though these models were trained
with the tokenizer's end there (arXiv:2304.08485, table 2): it is added, and learned. In a conversation every
earlier answer has it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from studio.errors import CheckpointError, DataError, MediaError
from studio.families import _chat, _features, _load, _pictures, _whole, model_type
from studio.families._linears import LLM, SEES, SIGLIP
from studio.families._load import pretrained
from studio.later import torch
from studio.types import Batch, Family, Loaded, Sample

_MODELS = {"llava": "Llava", "llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}


def load(path: Path | str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Loaded:
    """Load a LLaVA of any of the three kinds with its processor; safetensors only, no remote code."""
    import transformers

    kind = getattr(transformers, f"{_MODELS[model_type(path)]}ForConditionalGeneration")
    loaded = pretrained(kind, path, dtype=dtype, device=device)
    return Loaded(loaded.model, _known(loaded.processor, path))


def processor(path: Path | str) -> Any:
    """Load the processor alone; `CheckpointError` for one of another kind (Pixtral calls itself a LLaVA)."""
    return _known(_load.processor(path), path)


def _known(processor: Any, path: Path | str) -> Any:
    names = [f"{name}Processor" for name in _MODELS.values()]
    if type(processor).__name__ not in names:
        raise CheckpointError(
            f"{path}: a LLaVA with a {type(processor).__name__} is not handled; known: {', '.join(names)}"
        )
    return processor


def encode(processor: Any, sample: Sample, supervise: bool) -> Batch:
    """Encode one sample: ids and labels [L], pixel_values [N, C, H, W] or, in tiles, [N, P, C, H, W].

    N counts pictures; with tiles come their image_sizes [N, 2], and for OneVision batch_num_images [1].
    Raises `DataError` for a sound: these models do not hear.
    """
    if sample.sounds:
        raise DataError(f"{sample.where}: this model takes pictures and text, the row has a sound")
    cut = _chat.segments(processor, sample, supervise, end=processor.tokenizer.eos_token)
    try:
        return _whole.encode(processor, sample, cut, supervise)
    except MediaError as error:
        raise MediaError(f"{sample.where}: {error}") from None


def collate(processor: Any, items: Sequence[Batch], side: Literal["left", "right"]) -> Batch:
    """Batch encoded samples: text padded on ``side``, pictures joined in order, with as many tiles each.

    The model drops those that are too many by the sizes of the pictures.
    """
    batch = _chat.collate_text(processor, items, side)
    batch = _pictures.join(batch, items, ("image_sizes", "batch_num_images"))
    seen = [item["pixel_values"] for item in items if "pixel_values" in item]
    if seen:
        most = max(pixels.shape[1] for pixels in seen)
        batch["pixel_values"] = torch.cat(
            [
                torch.nn.functional.pad(pixels, (0, 0) * 3 + (0, most - pixels.shape[1]))
                if pixels.dim() == 5
                else pixels
                for pixels in seen
            ]
        )
    return batch


def media_tokens(config: Any, item: Batch) -> dict[str, int]:
    """Return how many features the model makes of an encoded sample's pictures, by its own arithmetic."""
    if "pixel_values" not in item:
        return {}
    vision, pixels = config.vision_config, item["pixel_values"]
    each = (pixels.shape[-2] // vision.patch_size) * (pixels.shape[-1] // vision.patch_size)
    if config.model_type == "llava":
        first = vision.model_type == "clip_vision_model" and config.vision_feature_select_strategy == "full"
        return {"image": len(pixels) * (each + first)}
    from transformers import LlavaNextModel, LlavaOnevisionModel
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = item["image_sizes"]
    onevision = config.model_type == "llava_onevision"
    tiles = [1] * len(sizes)
    if not onevision or len(sizes) == 1:
        tiles = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, vision.image_size) for size in sizes
        ]
    features = [torch.zeros(count, each, 1) for count in tiles]
    pack = (LlavaOnevisionModel if onevision else LlavaNextModel).pack_image_features
    last = config.vision_aspect_ratio if onevision else config.vision_feature_select_strategy
    more = {"vision_aspect_ratio" if onevision else "vision_feature_select_strategy": last}
    lengths = pack(SimpleNamespace(config=config), features, sizes, image_newline=torch.zeros(1), **more)[1]
    return {"image": int(lengths.sum())}


def tiny(folder: Path) -> Path:
    """Write a random LLaVA-NeXT of about 80,000 parameters with its genuine processor."""
    from studio.families import _llava_build

    return _llava_build.build(folder)


def _project(model: Any, inputs: Mapping[str, Any], features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Project patches [N, P, D], and put the tiles of each picture together as the model does."""
    inner, config = model.model, model.config
    if config.model_type == "llava":
        return _features.through(model, ("model.multi_modal_projector",), features)
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = inputs["image_sizes"]
    onevision = config.model_type == "llava_onevision"
    cut = [True] * len(sizes)
    if onevision and "batch_num_images" in inputs:
        cut = [count == 1 for count in inputs["batch_num_images"].tolist() for _ in range(count)]
    tiles = [
        image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        if tiled
        else 1
        for size, tiled in zip(sizes, cut, strict=True)
    ]
    last = "vision_aspect_ratio" if onevision else "vision_feature_select_strategy"
    packed, _ = inner.pack_image_features(
        torch.split(inner.multi_modal_projector(features[0]), tiles),
        sizes,
        image_newline=inner.image_newline,
        **{last: getattr(config, last)},
    )
    return [torch.cat(list(packed))]


FAMILY = Family(
    name="llava",
    model_types=tuple(_MODELS),
    modalities=frozenset({"text", "image"}),
    load=load,
    encode=encode,
    collate=collate,
    decode=_chat.decode,
    # The mark at the end of a row of tiles is a vector among the words'.
    towers=SEES | {"llm": (*SEES["llm"], "model.image_newline")},
    lora_targets={
        "vision": SIGLIP,
        "projector": r"model\.multi_modal_projector\.linear_(1|2)",
        "llm": LLM,
    },
    tiny=tiny,
    processor=processor,
    media_tokens=media_tokens,
    features={
        "image": _features.pictures(
            reads=("image_sizes", "batch_num_images"),
            extra=("model.image_newline",),
            listed=True,
            project=_project,
        )
    },
)
