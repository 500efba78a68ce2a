"""Adapters of the tiny omni base whose factors are drawn at random, for tests of merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from studio.adapters import add_lora, save_adapter
from studio.families import family


def drawn_experts(
    base: Path, folder: Path, towers: Mapping[str, Sequence[str]], spread: float
) -> dict[str, Path]:
    """Return name -> adapter of rank 2 on its towers, the factors B with a deviation of ``spread``."""
    kind = family("qwen_omni")
    for seed, (name, own) in enumerate(towers.items()):
        model = add_lora(kind.load(base).model, kind, own, r=2, alpha=4, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_B" in key:
                    value.normal_(0, spread, generator=draw)
        save_adapter(model, folder / name, base=base, family=kind)
    return {name: folder / name for name in towers}
