"""A full fine-tune as an adapter: baked again it is the fine-tune, and what does not fit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergers import MergeSpec, bake, extract, merge
from mergers._factors import factorise
from mergers._leading import approximate
from studio.adapters import load_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError
from studio.families import family

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*have invalid shape",  # PEFT takes the one-dimensional lora_bias for a broken factor
    "ignore:.*lora_bias=True. was passed but",
    "ignore:Model has .tie_word_embeddings",
)


def _tuned(base: Path, folder: Path, only: str = "") -> Path:
    """Return a copy of the base with noise on the tensors whose names contain ``only``; ties stay ties."""
    checkpoint, draw, tensors = Checkpoint(base), torch.Generator().manual_seed(1), {}
    for name in checkpoint.names():
        value = checkpoint.read(name)
        if only in name and value.is_floating_point() and torch.isfinite(value).all():
            value = (value.float() + 0.01 * torch.randn(value.shape, generator=draw)).to(value.dtype)
        tensors[name] = value
    tables = [name for name in tensors if name.endswith("embed_tokens.weight")]
    for head in [name for name in tensors if name == "lm_head.weight"]:
        if torch.equal(checkpoint.read(head), checkpoint.read(tables[0])):
            tensors[head] = tensors[tables[0]].clone()
    shutil.copytree(base, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _distance(one: Path, two: Path) -> float:
    first, second = Checkpoint(one), Checkpoint(two)
    assert set(first.names()) == set(second.names())
    names = [n for n in first.names() if first.dtype(n).is_floating_point]
    pairs = [(first.read(n).double(), second.read(n).double()) for n in names]
    return sum(float((a - b).square().sum()) for a, b in pairs if not torch.equal(a, b)) ** 0.5


@pytest.mark.parametrize("name", ["qwen_omni", "qwen2_5_vl", "whisper"])
def test_a_lossless_extract_baked_again_is_the_fine_tune(
    base_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    base = base_of(name)
    tuned = _tuned(base, tmp_path / "tuned")
    report = extract(tuned, base, tmp_path / "adapter", rank="lossless")
    assert report.lost == {}
    assert report.energy == pytest.approx(1.0)
    bake(tmp_path / "adapter", tmp_path / "baked", bases=[base])
    assert _distance(tmp_path / "baked", tuned) < 1e-5 * _distance(tuned, base)


def test_peft_runs_the_adapter_and_a_merge_of_it_as_the_fine_tune(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny("qwen_omni")
    tuned = _tuned(base, tmp_path / "tuned")
    extract(tuned, base, tmp_path / "adapter", rank="lossless")
    # The head shares its table with the embedding: PEFT has a copy for each, and the merge must too.
    assert read_adapter(tmp_path / "adapter").tied
    merge(MergeSpec.from_flags(method="linear", models=[str(tmp_path / "adapter")]), tmp_path / "merged")
    load = family("qwen_omni").load
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        before = load(base).model(input_ids=ids).logits
        truth = load(tuned).model(input_ids=ids).logits
        for name in ("adapter", "merged"):
            found = load_adapter(load(base).model, tmp_path / name)(input_ids=ids).logits
            assert float((found - truth).norm()) < 1e-4 * float((truth - before).norm())


def test_norms_are_kept_whole_and_what_is_unchanged_is_left_out(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny("qwen_omni")
    tuned = _tuned(base, tmp_path / "tuned", only="layers.0.")
    report = extract(tuned, base, tmp_path / "adapter", rank=2)
    assert {m.rank for m in report.modules} == {2}
    assert all(".0." in m.name for m in report.modules)
    assert any("norm" in name for name in report.kept)
    assert report.unchanged > len(report.modules)
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["modules_to_save"]
    assert saved == sorted({n.rpartition(".")[0] for n in report.kept if "norm" in n})
    assert 0 < report.energy < 1
    assert f"energy kept {report.energy:.2%}" in report.text()
    assert read_adapter(tmp_path / "adapter").base_fingerprint == Checkpoint(base).fingerprint()


def test_a_share_of_energy_is_reached_by_every_module(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny("qwen_omni")
    tuned = _tuned(base, tmp_path / "tuned", only="mlp")
    report = extract(tuned, base, tmp_path / "adapter", rank=0.8)
    assert all(module.energy >= 0.8 for module in report.modules)
    adapter, first = read_adapter(tmp_path / "adapter"), report.modules[0]
    assert float(adapter.factors(first.name).delta().norm()) ** 2 == pytest.approx(
        first.energy * first.norm**2, rel=1e-4
    )


# Pure noise, whose singular values hardly fall, is the worst case there is.
@pytest.mark.parametrize(("decay", "share"), [(0.0, 0.98), (0.05, 0.9999)], ids=["noise", "falling"])
def test_a_large_matrix_is_cut_as_well_as_by_all_its_singular_vectors(decay: float, share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.exp(-decay * torch.arange(200))
    matrix = torch.randn(300, 200, generator=draw) @ torch.diag(values)
    best, found = factorise(matrix, 8), approximate(matrix, 8)
    assert found.b.shape == (300, 8)
    kept = 1 - float((matrix - found.b @ found.a).norm() / matrix.norm()) ** 2
    assert found.energy == pytest.approx(kept, abs=1e-5)  # float32
    assert share * best.energy < found.energy < best.energy + 1e-5
    assert torch.equal(found.a, approximate(matrix, 8).a)


def test_what_cannot_be_extracted_is_one_sentence_and_writes_nothing(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny("qwen_omni")
    tuned, norms = (
        _tuned(base, tmp_path / "tuned", only="mlp"),
        _tuned(base, tmp_path / "norms", only="norm1"),
    )
    out = tmp_path / "out"
    with pytest.raises(MergeError, match=r"changes nothing of .* that LoRA can adapt$"):
        extract(base, base, out, rank=4)
    with pytest.raises(MergeError, match=r"only 'model\..*norm1.weight'"):
        extract(norms, base, out, rank=4)
    with pytest.raises(ConfigError, match="rank must be 'lossless'"):
        extract(tuned, base, out, rank=0)
    with pytest.raises(MergeError, match="configured otherwise"):
        extract(tuned, tiny("whisper"), out, rank=4)
    extract(tuned, base, tmp_path / "adapter", rank=1)
    with pytest.raises(MergeError, match="is an adapter already"):
        extract(tmp_path / "adapter", base, out, rank=4)
    with pytest.raises(MergeError, match="is or contains the input"):
        extract(tuned, base, tuned, rank=4)
    assert not out.exists()
