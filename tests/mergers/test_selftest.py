"""The self-test says yes to a whole merge, and no, before anything is written, to one that lost something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mergers import MergeSpec, merge
from mergers._selftest import selftest
from studio.errors import ConfigError, MergeError

Base = Callable[[str], Path]
Experts = Callable[..., list[Path]]


class _Heard:
    """A log that remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_a_merged_model_of_a_family_loads_and_answers(
    name: str, base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    models = [str(folder) for folder in experts_of(name)]
    spec = MergeSpec.from_mapping(
        {"method": "linear", "base": str(base_of(name)), "models": models, "selftest": True}
    )
    assert MergeSpec.from_mapping(spec.to_mapping()) == spec
    log: Any = _Heard()
    merge(spec, tmp_path / "out", log)
    assert log.said[0].startswith(
        "self-test: no missing or unexpected weight; the processor loads; it answers '"
    )


@pytest.mark.parametrize("name", ["llava", "gemma4"])
def test_other_architectures_are_loaded_by_their_own_class(
    name: str, base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    models = [str(folder) for folder in experts_of(name)]
    spec = MergeSpec.from_mapping(
        {"method": "ties", "base": str(base_of(name)), "models": models, "selftest": True}
    )
    log: Any = _Heard()
    merge(spec, tmp_path / "out", log)
    assert log.said[0] == "self-test: no missing or unexpected weight; the processor loads"


def test_a_family_that_changes_its_mind_is_told_with_what_it_said_before(
    base_of: Base, experts_of: Experts, tmp_path: Path
) -> None:
    models = [str(folder) for folder in experts_of("voxtral")]
    spec = MergeSpec.from_mapping(
        {"method": "ties", "base": str(base_of("voxtral")), "models": models, "selftest": True}
    )
    log: Any = _Heard()
    merge(spec, tmp_path / "out", log)
    assert log.said[0].startswith(
        "self-test: no missing or unexpected weight; the processor loads; it answers '"
    )


def _lost(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("visual.merger.mlp.0.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _strange(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["value_head.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _no_processor(folder: Path) -> None:
    for name in (
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        (folder / name).unlink(missing_ok=True)


def _no_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (_lost, r"OUT lacks the weights: '.*visual\.merger\.mlp\.0\.weight'"),
        (_strange, "OUT has weights that its model does not know: 'value_head.weight'"),
        (_no_processor, "the processor of OUT does not load, that of .* does"),
        (_no_class, "OUT does not load, .* does: config.json names no class"),
    ],
)
def test_what_the_donor_can_and_the_result_cannot_is_told(
    harm: Callable[[Path], None], sentence: str, base_of: Base, tmp_path: Path
) -> None:
    base, folder = base_of("qwen_omni"), tmp_path / "damaged"
    shutil.copytree(base, folder)
    harm(folder)
    with pytest.raises(MergeError, match=sentence):
        selftest(folder, base, "OUT")


def test_a_donor_that_does_not_load_is_no_measure(base_of: Base, tmp_path: Path) -> None:
    base, folder = base_of("qwen_omni"), tmp_path / "damaged"
    shutil.copytree(base, folder)
    _no_class(folder)
    assert "itself does not load" in selftest(base, folder, "OUT")


def test_a_failed_self_test_leaves_nothing_behind(
    base_of: Base, experts_of: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergers import _models

    def forget(donor: Any, folder: Path) -> None:
        (folder / "config.json").write_bytes((donor.folder / "config.json").read_bytes())

    monkeypatch.setattr(_models, "copy_companions", forget)
    models = [str(folder) for folder in experts_of("smolvlm")]
    spec = MergeSpec.from_mapping(
        {"method": "linear", "base": str(base_of("smolvlm")), "models": models, "selftest": True}
    )
    with pytest.raises(MergeError, match=r"the processor of .* does not load"):
        merge(spec, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="selftest must be true or false"):
        MergeSpec.from_mapping({"method": "linear", "models": models, "selftest": "yes"})
