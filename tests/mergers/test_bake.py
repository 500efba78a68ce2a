"""An adapter baked into its base: the right base, the rounding told, tied tables refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import MergeSpec, bake, merge
from mergers._bake import choose_base
from mergers._quantised import Values
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, MergeError

PROJ, TABLE, HEAD = "model.layers.0.mlp.up_proj", "model.embed_tokens", "lm_head"


def _model(
    folder: Path,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    tie: bool | None = None,
    head: bool = False,
) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"{PROJ}.weight": torch.randn(16, 12, generator=draw) * 0.02}
    tensors[f"{TABLE}.weight"] = torch.randn(20, 12, generator=draw) * 0.02
    if head:
        tensors[f"{HEAD}.weight"] = tensors[f"{TABLE}.weight"].clone()
    folder.mkdir(parents=True)
    save_file({k: v.to(dtype) for k, v in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "plain", **({} if tie is None else {"tie_word_embeddings": tie})}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _factors(module: str, size: float = 0.02) -> Factors:
    draw = torch.Generator().manual_seed(7)
    rows = 16 if module == PROJ else 20
    kind = "embedding" if module == TABLE else "linear"
    a, b = torch.randn(2, 12, generator=draw), size * torch.randn(rows, 2, generator=draw)
    return Factors(a=a, b=b, shape=(rows, 12), kind=kind)


def _adapter(
    folder: Path, base: Path, modules: tuple[str, ...] = (PROJ,), size: float = 0.02, proof: bool = True
) -> Path:
    return write_adapter(
        folder,
        {name: _factors(name, size) for name in modules},
        base=str(base),
        base_fingerprint=Checkpoint(base).fingerprint() if proof else "",
    )


def _read(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def test_the_baked_model_is_the_base_plus_the_delta(tmp_path: Path) -> None:
    base = _model(tmp_path / "base")
    (base / "tokenizer.json").write_text("{}")
    adapter = _adapter(tmp_path / "adapter", base)
    report = bake(adapter, tmp_path / "out")
    found, ground = _read(tmp_path / "out"), _read(base)
    delta = read_adapter(adapter).factors(PROJ).delta()
    torch.testing.assert_close(found[f"{PROJ}.weight"], ground[f"{PROJ}.weight"] + delta)
    assert torch.equal(found[f"{TABLE}.weight"], ground[f"{TABLE}.weight"])
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert report.rounding < 1e-5


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, total: int, unit: str = "samples") -> None: ...

    def advance(self, n: int = 1, **figures: float) -> None: ...

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_change_too_small_for_the_stored_type_is_told_with_the_remedy(tmp_path: Path) -> None:
    base = _model(tmp_path / "base", dtype=torch.bfloat16)
    adapter, log = _adapter(tmp_path / "adapter", base, size=2e-5), Lines()
    report = bake(adapter, tmp_path / "out", log=log)
    truth = read_adapter(adapter).factors(PROJ).delta()
    name = f"{PROJ}.weight"
    ground = _read(base)[name].float()
    lost = float((_read(tmp_path / "out")[name].float() - ground - truth).norm() / truth.norm())
    assert report.rounding == pytest.approx(lost, rel=1e-3)
    assert lost > 0.3
    assert any("is lost in the stored type; beside the base, as MODEL+ADAPTER" in line for line in log.lines)


def test_of_several_bases_the_one_that_the_adapter_records_is_taken(tmp_path: Path) -> None:
    right, other = _model(tmp_path / "right"), _model(tmp_path / "other", 1)
    adapter = _adapter(tmp_path / "adapter", right)
    report = bake(adapter, tmp_path / "out", bases=[other, right])
    delta = read_adapter(adapter).factors(PROJ).delta()
    apart = _read(other)[f"{PROJ}.weight"] - _read(right)[f"{PROJ}.weight"]
    assert report.details["errors"] == pytest.approx(
        {str(right): 0.0, str(other): float(apart.norm() / delta.norm())}, abs=1e-6
    )
    assert json.loads((tmp_path / "out/merge.lock.json").read_text())["base"]["path"] == str(right)
    with pytest.raises(MergeError, match=rf"which {other} does not have \(allow: base overrides\)"):
        bake(adapter, tmp_path / "none", bases=[other])
    bake(adapter, tmp_path / "forced", bases=[other], allow=["base"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["with the adapter in it", "as it was trained on"])
def test_without_a_record_a_reference_tells_the_base_apart(tmp_path: Path, kind: str) -> None:
    plain = _model(tmp_path / "plain")
    dequantised = tmp_path / "dequantised"
    dequantised.mkdir()
    tensors = {name: (value * 64).round() / 64 for name, value in _read(plain).items()}
    save_file(tensors, dequantised / "model.safetensors")
    (dequantised / "config.json").write_text((plain / "config.json").read_text())
    adapter = _adapter(tmp_path / "adapter", dequantised, size=1e-3, proof=False)
    if kind == "with the adapter in it":
        reference = tmp_path / "reference"
        bake(adapter, reference, bases=[dequantised])
    else:
        reference = dequantised
    candidates = [Values(checkpoint=Checkpoint(folder)) for folder in (plain, dequantised)]
    told = Values(checkpoint=Checkpoint(reference))
    base, errors = choose_base(read_adapter(adapter), candidates, told, False)
    assert base.folder == dequantised
    assert errors[str(plain)] > 1 > errors[str(dequantised)]
    with pytest.raises(MergeError, match="so 2 could be it; name one, or a --reference"):
        bake(adapter, tmp_path / "out", bases=[plain, dequantised])


@pytest.mark.parametrize(
    ("tie", "head", "refused"),
    [
        (True, False, True),
        (None, False, True),
        (True, True, True),
        (False, False, False),
        (False, True, False),
    ],
)
def test_lora_on_a_table_that_the_head_shares_is_refused(
    tmp_path: Path, tie: bool | None, head: bool, refused: bool
) -> None:
    base = _model(tmp_path / "base", tie=tie, head=head)
    adapter = _adapter(tmp_path / "adapter", base, (PROJ, TABLE))
    if refused:
        with pytest.raises(
            MergeError, match=r"'model.embed_tokens' of .* embedding and head share .*allow: tied"
        ):
            bake(adapter, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        bake(adapter, tmp_path / "out", allow=["tied"])
    else:
        bake(adapter, tmp_path / "out")
    delta = read_adapter(adapter).factors(TABLE).delta()
    name = f"{TABLE}.weight"
    torch.testing.assert_close(_read(tmp_path / "out")[name], _read(base)[name] + delta)


def test_lora_on_a_head_that_is_not_on_disk_is_refused(tmp_path: Path) -> None:
    base = _model(tmp_path / "base", tie=True)
    adapter = _adapter(tmp_path / "adapter", base, (PROJ, HEAD))
    with pytest.raises(MergeError, match=r"'lm_head' of .* embedding and head share"):
        bake(adapter, tmp_path / "out")


def test_what_cannot_be_baked_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    base, out = _model(tmp_path / "base"), tmp_path / "out"
    adapter = _adapter(tmp_path / "adapter", base)
    with pytest.raises(MergeError, match="is no adapter: there is no adapter_config"):
        bake(base, out)
    with pytest.raises(ConfigError, match="bake: shard_size must be a size such as 4GB"):
        bake(adapter, out, shard_size="large")
    wide = write_adapter(
        tmp_path / "wide",
        {PROJ: replace(_factors(PROJ), a=torch.randn(2, 13), shape=(16, 13))},
        base=str(base),
    )
    with pytest.raises(CheckpointError, match="does not fit"):
        bake(wide, out, bases=[base])
    gone = write_adapter(tmp_path / "gone", {PROJ: _factors(PROJ)}, base="no/where")
    with pytest.raises(CheckpointError, match="there is no model 'no/where'"):
        bake(gone, out)
    assert not out.exists()


def test_any_merge_into_a_full_model_refuses_lora_on_a_shared_table(tmp_path: Path) -> None:
    base = _model(tmp_path / "base", tie=True)
    adapter = str(_adapter(tmp_path / "adapter", base, (PROJ, TABLE)))
    given = {"method": "task_arithmetic", "models": [adapter, adapter], "base": base, "output": "model"}
    with pytest.raises(MergeError, match="embedding and head share"):
        merge(MergeSpec.from_flags(**given), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(MergeSpec.from_flags(**given, allow=["tied", "norm"]), tmp_path / "out")
