from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import plugins
from studio.adapters import add_lora, save_adapter
from studio.families import family
from studio.generate import answers
from studio.tower_memory import resting, under
from studio.types import Family, Loaded, Sample
from studio.variants import Engine

#: The families whose towers are computed apart, and that answer in single precision as alone.
NAMES = [name for name in plugins.names("families") if family(name).features and name != "whisper"]
#: Its batches fill up pictures of fewer tiles, so that features do not tell whose they are.
NOT_CUT = ("llava",)
SETTINGS: dict[str, Any] = {"max_new_tokens": 6}


def make(base: Path, folder: Path, kind: Family, towers: list[str], seed: int) -> Path:
    model = add_lora(kind.load(base).model, kind, towers, seed=seed, r=2)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return save_adapter(model, folder, base=base, family=kind)


@pytest.mark.parametrize("name", NAMES)
def test_variants_that_share_what_towers_made_answer_as_if_each_were_alone(
    name: str,
    tiny: Callable[[str], Path],
    questions: Callable[[str, int], list[Sample]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft import PeftModel

    from studio.tower_memory import TowerMemory

    kind, samples = family(name), questions(name, 5)
    base = Path(shutil.copytree(tiny(name), tmp_path / "base"))
    last = ["llm", "projector"] if "projector" in kind.lora_targets else ["llm"]
    folders: dict[str, Path | None] = {
        "base": None,
        "words": make(base, tmp_path / "words", kind, ["llm"], 1),
        "last": make(base, tmp_path / "last", kind, last, 2),
    }
    seen: list[tuple[str, int]] = []
    compute = TowerMemory._compute

    def counted(self: Any, loaded: Any, modality: str, projected: bool, items: Any) -> Any:
        seen.append((modality, len(items)))
        return compute(self, loaded, modality, projected, items)  # type: ignore[arg-type]

    monkeypatch.setattr(TowerMemory, "_compute", counted)
    engine = Engine(base, folders)
    for variant, folder in folders.items():
        model, processor = kind.load(base)
        if folder is not None:
            model = PeftModel.from_pretrained(model, folder).eval()
        alone = answers(Loaded(model, processor), kind, samples, batch_size=1, **SETTINGS)
        assert engine.answers(variant, samples, batch_size=3, **SETTINGS) == alone, variant
    for modality in kind.features if name not in NOT_CUT else ():
        with_media = sum(bool(s.images if modality == "image" else s.sounds) for s in samples)
        assert with_media
        asked = sum(count for each, count in seen if each == modality)
        assert asked == with_media, (
            f"{asked} of {with_media} {modality} rows were computed for three variants"
        )


def test_a_tower_rests_for_those_that_leave_it_and_for_two_at_least() -> None:
    kind = family("qwen_omni")
    eyes, ears, words = "model.visual.blocks.0.attn.q", "model.audio_tower.layers.0.fc1", "lm_head"
    touched = {"base": [], "words": [words], "eyes": [eyes], "ears": [ears, words]}
    assert resting(kind, touched, "words") == {"image": True, "audio": True}
    assert resting(kind, touched, "eyes") == {"audio": True}
    assert resting(kind, {"eyes": [eyes], "base": []}, "base") == {"audio": True}
    assert resting(kind, {"base": []}, "base") == {}


def test_features_are_taken_before_a_projector_that_one_of_the_variants_changes() -> None:
    kind = family("qwen_omni")
    touched = {"base": [], "last": ["model.visual.merger.mlp.0"], "eyes": ["model.visual.blocks.0.attn.q"]}
    assert resting(kind, touched, "base") == {"image": False, "audio": True}


def test_paths_are_compared_by_their_parts() -> None:
    assert under("model.visual.merger", ["model.visual"])
    assert not under("model.visuals", ["model.visual"])
    assert under("anything", [""])
