"""Mixed batches give each variant's rows what that variant alone gives them, in every family."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import plugins
from studio.adapter_format import Factors
from studio.adapters import add_lora, lora_modules, read_adapter, save_adapter, write_adapter
from studio.families import family
from studio.generate import answers, together
from studio.mixed import Mixed, NotMixed, refusal
from studio.types import Sample


def factors(model: Any, kind: Any, towers: list[str], rank: int, seed: int) -> Mapping[str, Factors]:
    """Return random deltas of about the weights' own size on the linear modules of some towers."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for paths in lora_modules(model, kind, towers).values():
        for path in paths:
            weight = model.get_submodule(path).weight
            if weight.dim() != 2 or not isinstance(model.get_submodule(path), torch.nn.Linear):
                continue
            rows, columns = weight.shape
            size = float(weight.detach().std()) * 2 / rank**0.5
            made[path] = Factors(
                a=torch.randn(rank, columns, generator=draw),
                b=torch.randn(rows, rank, generator=draw) * size,
                shape=(rows, columns),
            )
    return made


def alone(model: Any, modules: Mapping[str, Factors]) -> Any:
    """Return a copy of the model with the deltas added to its weights."""
    own = copy.deepcopy(model)
    with torch.no_grad():
        for path, each in modules.items():
            own.get_submodule(path).weight += each.delta()
    return own


#: Families that run a tower or a projector on each medium apart: variants that change it answer in turn.
ONE_BY_ONE = {"granite_speech", "phi4_multimodal"}


@pytest.mark.parametrize("name", plugins.names("families"))
def test_every_family_answers_mixed_as_it_does_alone(
    name: str, tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family(name)
    loaded = kind.load(tiny(name))
    towers = [tower for tower in kind.lora_targets if tower != "llm"]
    variants = [
        factors(loaded.model, kind, ["llm"], 4, 1),
        {},
        factors(loaded.model, kind, [*towers, "llm"], 3, 2),
        factors(loaded.model, kind, towers[:1] or ["llm"], 2, 3),
    ]
    samples = questions(name, 5)
    settings: dict[str, Any] = {"max_new_tokens": 6}
    expected = [
        answers(loaded._replace(model=alone(loaded.model, modules)), kind, samples, **settings)
        for modules in variants
    ]
    items = [kind.encode(loaded.processor, sample, False) for sample in samples]
    answers(loaded, kind, samples, **settings)  # transformers leaves hooks of its own at the first
    before = {path: len(module._forward_hooks) for path, module in loaded.model.named_modules()}
    if name in ONE_BY_ONE:
        with pytest.raises(NotMixed, match=r"one by one|apart"):
            together(loaded, kind, items, Mixed(loaded.model, variants), **settings)
        variants, expected = [variants[0], variants[1]], expected[:2]
    found = together(loaded, kind, items, Mixed(loaded.model, variants), **settings)
    assert found == expected
    mixed = Mixed(loaded.model, variants)
    assert len({tuple(texts) for texts in expected}) > 1
    assert {path: len(module._forward_hooks) for path, module in loaded.model.named_modules()} == before
    one = together(loaded, kind, items[1:2], mixed, temperature=0.7, seed=3, **settings)
    own = [
        answers(loaded._replace(model=alone(loaded.model, modules)), kind, samples[1:2], temperature=0.7,
                seed=3, **settings)
        for modules in variants
    ]  # fmt: skip
    assert one == own


def test_an_untouched_tower_runs_once_for_all_variants(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Sample]]
) -> None:
    kind = family("qwen_omni")
    loaded = kind.load(tiny("qwen_omni"))
    words = [factors(loaded.model, kind, ["llm"], 2, seed) for seed in range(3)]
    eyes = factors(loaded.model, kind, ["vision"], 2, 9)
    items = [kind.encode(loaded.processor, sample, False) for sample in questions("qwen_omni", 4)]
    patches = sum(len(item["pixel_values"]) for item in items if "pixel_values" in item)
    seen: list[int] = []
    tower = loaded.model.model.visual
    tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    together(loaded, kind, items, Mixed(loaded.model, words), max_new_tokens=2)
    assert seen == [patches]
    together(loaded, kind, items, mixed := Mixed(loaded.model, [*words, eyes]), max_new_tokens=2)
    seen.clear()  # the first time, each variant's own features were computed for comparison
    together(loaded, kind, items, mixed, max_new_tokens=2)
    assert seen == [2 * patches]  # once for the three that leave it alone, once for the fourth


def test_adapters_that_cannot_be_mixed_say_why(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    kind, base = family("smolvlm"), tiny("smolvlm")

    def adapter(folder: str, **settings: Any) -> str:
        model = add_lora(kind.load(base).model, kind, ["llm"], r=2, **settings)
        return refusal(read_adapter(save_adapter(model, tmp_path / folder, base=base, family=kind)))

    assert adapter("plain") == ""
    assert "DoRA" in adapter("dora", use_dora=True)
    assert "stores 'lm_head.weight' whole" in adapter("head", modules_to_save=["lm_head"])
    conv = Factors(a=torch.zeros(1, 12), b=torch.zeros(4, 1), shape=(4, 3, 2, 2), kind="conv")
    write_adapter(tmp_path / "conv", {"model.conv": conv}, base="x", base_fingerprint="", family="smolvlm")
    assert "no linear module (conv)" in refusal(read_adapter(tmp_path / "conv"))
