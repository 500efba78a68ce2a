"""Random checkpoints of the architectures that other tools lose tensors of, a few hundred kilobytes each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from studio.checkpoint import Checkpoint

FAMILIES = ("qwen_omni", "smolvlm", "whisper")


def _text(**more: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return sizes | heads | special | more


def _audio(**more: Any) -> dict[str, Any]:
    return {"num_mel_bins": 16, "max_source_positions": 50} | more


def _vision() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return sizes | {"image_size": 28, "patch_size": 14, "model_type": "clip_vision_model"}


def _qwen2_5_vl() -> Any:
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(rope_parameters=rope),
        vision_config=vision | {"patch_size": 14, "fullatt_block_indexes": [1]},
        image_token_id=120, video_token_id=121, vision_start_token_id=122, vision_end_token_id=123,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen2_audio() -> Any:
    audio = _audio(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48)
    config = transformers.Qwen2AudioConfig(
        audio_config=audio, text_config=_text(model_type="qwen2"), audio_token_index=120
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)


def _llava() -> Any:
    config = transformers.LlavaConfig(
        vision_config=_vision(), text_config=_text(model_type="llama"), image_token_index=120
    )
    return transformers.LlavaForConditionalGeneration(config)


def _voxtral() -> Any:
    audio = _audio(hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.VoxtralConfig(
        audio_config=audio, text_config=_text(model_type="llama"), audio_token_id=120
    )
    return transformers.VoxtralForConditionalGeneration(config)


def _gemma4() -> Any:
    text = _text(
        head_dim=8, global_head_dim=8, vocab_size_per_layer_input=128, hidden_size_per_layer_input=8,
        num_kv_shared_layers=0, sliding_window=16, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = small | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8}
    config = transformers.Gemma4Config(
        text_config=transformers.Gemma4TextConfig(**text).to_dict(),
        vision_config=transformers.Gemma4VisionConfig(**vision).to_dict(),
        audio_config=transformers.Gemma4AudioConfig(**small).to_dict(),
    )
    return transformers.Gemma4ForConditionalGeneration(config)


BUILDERS: dict[str, Callable[[], Any]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_audio": _qwen2_audio,
    "llava": _llava,
    "voxtral": _voxtral,
    "gemma4": _gemma4,
}
ARCHITECTURES = (*FAMILIES, *BUILDERS)


@pytest.fixture(scope="session")
def base_of(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a factory: an architecture's name -> a random checkpoint of it."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name in FAMILIES:
            return tiny(name)
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            BUILDERS[name]().bfloat16().save_pretrained(folder)
            made[name] = folder
        return made[name]

    return build


@pytest.fixture(scope="session")
def experts_of(
    base_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[Path]]:
    """Return a factory: an architecture's name and a number -> that many perturbed copies of its base."""
    made: dict[tuple[str, int], Path] = {}

    def one(name: str, number: int) -> Path:
        if (name, number) not in made:
            base = Checkpoint(base_of(name))
            folder = tmp_path_factory.mktemp(f"{name}-expert")
            draw = torch.Generator().manual_seed(number)
            tensors = {}
            for key in base.names():
                value = base.read(key)
                noise = torch.randn(value.shape, generator=draw) * 0.01
                tensors[key] = (value.float() + noise).to(value.dtype) if value.is_floating_point() else value
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_bytes((base.folder / "config.json").read_bytes())
            made[name, number] = folder
        return made[name, number]

    return lambda name, count=2: [one(name, number) for number in range(1, count + 1)]
