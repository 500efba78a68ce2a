"""LoRA on each tower of each family: it learns there and nowhere else, and is merged as what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergers import MergeSpec, merge
from studio import plugins
from studio.adapters import add_lora, load_adapter, save_adapter
from studio.families import family
from studio.log import QuietLog
from studio.training.loss import TokenLoss
from studio.training.towers import tower_of
from studio.types import Sample

NAMES = plugins.names("families")
CASES = [(name, tower) for name in NAMES for tower in sorted(family(name).lora_targets)]


@pytest.mark.parametrize(("name", "tower"), CASES)
def test_lora_on_one_tower_learns_there_and_nowhere_else(
    name: str, tower: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name))
    items = [kind.encode(processor, sample, True) for sample in questions(name, 4)]
    adapted = add_lora(model, kind, [tower], r=2, alpha=4, seed=0)
    with torch.no_grad():
        for path, parameter in adapted.named_parameters():
            if "lora_B" in path:
                parameter.fill_(0.02)
    TokenLoss(adapted, torch.device("cpu"))(
        adapted, kind.collate(processor, items, "right"), [1.0] * 4
    ).backward()
    learning = {path: p.grad for path, p in adapted.named_parameters() if p.requires_grad}
    assert learning
    moved = 0
    for path, gradient in learning.items():
        assert tower_of(path.removeprefix("base_model.model."), kind) == tower, path
        moved += gradient is not None and bool(gradient.abs().sum() > 0)
    # These read the layer before the last of their vision tower's, and tiny has three.
    early = tower == "vision" and name in ("llava", "phi4_multimodal")
    assert moved >= (2 / 3 if early else 1) * len(learning)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_of_all_towers_merged_into_its_base_computes_as_the_two_do(
    name: str,
    tiny: Callable[[str], Path],
    questions: Callable[[str, int], list[Sample]],
    tmp_path: Path,
) -> None:
    kind = family(name)
    loaded = kind.load(tiny(name))
    adapted = add_lora(loaded.model, kind, sorted(kind.lora_targets), r=2, alpha=4, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, parameter in adapted.named_parameters():
            if "lora_B" in path:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
    save_adapter(adapted, tmp_path / "adapter", base=tiny(name), family=kind)
    spec = MergeSpec.from_flags(
        method="task_arithmetic", models=[str(tmp_path / "adapter")], base=tiny(name), output="model"
    )
    merge(spec, tmp_path / "merged", QuietLog())

    item = kind.encode(loaded.processor, questions(name, 2)[1], True)
    batch = kind.collate(loaded.processor, [item], "right")
    whole = kind.load(tmp_path / "merged")
    two = load_adapter(kind.load(tiny(name)).model, tmp_path / "adapter")
    with torch.no_grad():
        plain, merged, beside = (
            each(**batch).logits for each in (kind.load(tiny(name)).model, whole.model, two.eval())
        )
    # float32: the delta is added to the weight, or its product to the layer's.
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=1e-4)
    assert (merged - plain).abs().max() > 1e-3
