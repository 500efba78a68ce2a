"""Bases in 4 and 8 bits: the values that training saw, and the base that an adapter was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import bake, verify
from mergers._nf4 import TABLE, dynamic_table, magnitudes, rounded
from mergers._quantised import WHOLE, Values, quantised_as
from studio.adapters import Factors, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError

PROJ, OTHER = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
#: What bitsandbytes 0.50.2 stores of `_weight` in bfloat16, on a processor: codes, then magnitudes, plain and
#: in 8 bits.
CODES = (
    "9f61cd22b73536d41cc9b26e8a50969b1615b8f7c4553b5e6e5c391717181919181522305052493e9de9e8480362bc5b517a8ee33a"
    "78c503d913ab669c967cb22bd306b68923ed8c717a5da2711728d8fbce5c3551605032241719191a2b2c4d5e6b444193fafb57095a"
    "d1513e8971de6954e905c43658946da4ac77759913e60799d23ebca0898e1321d6e8571b3e9ecb9350404072a5c8cbac6d3c283250"
    "70452d6df9f8380183ae45716fc9c41cf415757723be62aea47a78a207e51565ef4592af8ba0320a69f7eb6d28326070412417191a"
    "1a19191b2d4e6d564161e8fc8a084ae2611e7a80cf8b53fc04d43547945da59c9874bb01e70668e22eaed187"
)
ABSMAX = [
    0.023681640625, 0.0230712890625, 0.0235595703125, 0.021240234375,
    0.02099609375, 0.0198974609375, 0.0203857421875, 0.0189208984375,
]  # fmt: skip
NESTED = [245, 228, 242, 67, 57, 27, 40, 0]
STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 64]}
DOUBLE = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0214691162109375}


def _weight(rows: int = 8, columns: int = 64, phase: float = 0.0) -> Tensor:
    i = torch.arange(rows * columns, dtype=torch.float64) + phase
    return (0.02 * torch.sin(1.7 * i) * torch.cos(0.013 * i * i) + 0.004 * torch.cos(0.31 * i)).view(
        rows, columns
    )


def _model(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plain", **config}))
    return folder


def _stored(folder: Path, double: bool) -> Path:
    """Return a checkpoint as bitsandbytes stores it."""
    about = {**STATE, **DOUBLE} if double else STATE
    name = f"{PROJ}.weight"
    tensors = {
        name: torch.tensor(list(bytes.fromhex(CODES)), dtype=torch.uint8).view(-1, 1),
        f"{name}.absmax": torch.tensor(NESTED, dtype=torch.uint8) if double else torch.tensor(ABSMAX),
        f"{name}.quant_map": torch.tensor(TABLE),
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(
            list(json.dumps(about).encode()), dtype=torch.uint8
        ),
        "model.norm.weight": torch.ones(64, dtype=torch.bfloat16),
    }
    if double:
        tensors[f"{name}.nested_absmax"] = torch.tensor([0.0025482177734375])
        tensors[f"{name}.nested_quant_map"] = dynamic_table()
    return _model(folder, tensors, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def _adapter(folder: Path, base: Path, size: float = 5e-5) -> Path:
    draw = torch.Generator().manual_seed(1)
    factors = Factors(
        a=torch.randn(2, 64, generator=draw), b=size * torch.randn(8, 2, generator=draw), shape=(8, 64)
    )
    return write_adapter(folder, {PROJ: factors}, base=str(base), base_fingerprint="")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Return the model in bfloat16 that the stored one was made of, with a second weight."""
    tensors = {
        f"{PROJ}.weight": _weight().bfloat16(),
        f"{OTHER}.weight": _weight(64, 8, 0.5).bfloat16(),
        "model.embed_tokens.weight": _weight(10, 64, 0.25).bfloat16(),
        "model.norm.weight": torch.ones(64, dtype=torch.bfloat16),
    }
    return _model(tmp_path / "full", tensors)


def test_the_table_is_the_quantiles_of_a_normal_distribution() -> None:
    """Appendix E follows from section 3: 8 quantiles on one side, 7 on the other, and zero between them."""
    end = (1 - 1 / 30 + 1 - 1 / 32) / 2

    def quantiles(count: int) -> list[float]:
        return [NormalDist().inv_cdf(end + (0.5 - end) * i / count) for i in range(count)]

    found = sorted([*quantiles(8), 0.0, *(-value for value in quantiles(7))])
    assert [value / found[-1] for value in found] == pytest.approx(TABLE, abs=1e-6)


def test_the_eight_bit_type_has_seven_decades() -> None:
    table = dynamic_table()
    assert len(table) == len(table.unique()) == 256
    assert table[[0, -1]].tolist() == pytest.approx([0.9 / 128 - 1, 1.0])
    assert float(table[table > 0][0]) == pytest.approx(0.55e-6)


@pytest.mark.parametrize("double", [False, True])
def test_codes_of_bitsandbytes_are_decoded_to_what_rounding_gives(
    tmp_path: Path, full: Path, double: bool
) -> None:
    stored = Checkpoint(_stored(tmp_path / "stored", double))
    assert quantised_as(stored) == "stored"
    values = Values(checkpoint=stored, kind="stored")
    assert set(values.names()) == {f"{PROJ}.weight", "model.norm.weight"}
    assert (values.shape(f"{PROJ}.weight"), values.stored(f"{PROJ}.weight")) == ((8, 64), "BF16")
    kind = "nf4-double" if double else "nf4"
    made = Values(checkpoint=Checkpoint(full), kind=kind)
    assert torch.equal(values.read(f"{PROJ}.weight"), made.read(f"{PROJ}.weight"))
    assert torch.equal(values.read("model.norm.weight"), torch.ones(64, dtype=torch.bfloat16))
    lost = (values.read(f"{PROJ}.weight").float() - _weight().reshape(-1)).norm() / _weight().norm()
    assert float(lost) == pytest.approx(0.0911, abs=2e-4)
    assert float(values.read(f"{PROJ}.weight").double().sum()) == (
        -0.488037109375 if double else -0.48822021484375
    )


def test_only_weights_of_linear_layers_are_rounded(full: Path) -> None:
    checkpoint = Checkpoint(full)
    for kind in ("nf4", "int8"):
        values = Values(checkpoint=checkpoint, kind=kind)
        changed = [
            n for n in values.names() if not torch.equal(values.read(n), checkpoint.read(n).reshape(-1))
        ]
        assert sorted(changed) == [f"{OTHER}.weight", f"{PROJ}.weight"]


def test_rows_of_eight_bits_are_decoded_to_what_rounding_gives(tmp_path: Path, full: Path) -> None:
    weight = Checkpoint(full).read(f"{PROJ}.weight").half()
    size = weight.float().abs().amax(dim=1)
    tensors = {
        f"{PROJ}.weight": torch.round(weight.float() * 127 / size[:, None]).to(torch.int8),
        f"{PROJ}.SCB": size,
        f"{PROJ}.weight_format": torch.tensor(0, dtype=torch.uint8),
        f"{PROJ}.bias": torch.zeros(8, dtype=torch.float16),
    }
    stored = Checkpoint(_model(tmp_path / "stored", tensors, quantization_config={"load_in_8bit": True}))
    assert quantised_as(stored) == "stored"
    values = Values(checkpoint=stored, kind="stored")
    assert set(values.names()) == {f"{PROJ}.weight", f"{PROJ}.bias"}
    half = Checkpoint(_model(tmp_path / "half", {f"{PROJ}.weight": weight}))
    made = Values(checkpoint=half, kind="int8")
    assert torch.equal(values.read(f"{PROJ}.weight"), made.read(f"{PROJ}.weight"))
    apart = (values.read(f"{PROJ}.weight").float().view(8, 64) - weight.float()).abs()
    assert bool((apart <= size[:, None] / 127 / 2 + 1e-5).all())


@pytest.mark.parametrize("kind", ["nf4", "nf4-double", "int8"])
def test_the_beginning_of_a_weight_is_that_of_the_whole(tmp_path: Path, kind: str) -> None:
    rows = WHOLE // 64 + 100
    model = _model(tmp_path / "large", {f"{PROJ}.weight": _weight(rows, 64)})
    values = Values(checkpoint=Checkpoint(model), kind=kind)
    assert torch.equal(values.read(f"{PROJ}.weight", WHOLE), values.read(f"{PROJ}.weight")[:WHOLE])


def test_blocks_of_zeros_and_a_last_one_that_is_shorter_are_rounded() -> None:
    flat = torch.cat([torch.zeros(64), torch.tensor([0.5, -1.0, 0.01])])
    for double in (False, True):
        found = rounded(flat, magnitudes(flat, double))
        assert torch.equal(found[:64], torch.zeros(64))
        assert found[64:].tolist() == pytest.approx([0.4407, -1.0, 0.0], abs=5e-4)


def test_the_rounding_that_training_saw_is_found_by_a_reference(tmp_path: Path, full: Path) -> None:
    seen = Values(checkpoint=Checkpoint(full), kind="nf4-double")
    shaped = {name: seen.read(name).view(seen.shape(name)) for name in seen.names()}
    reference, adapter = _model(tmp_path / "reference", shaped), _adapter(tmp_path / "adapter", full)
    report = bake(adapter, tmp_path / "out", quantised="auto", reference=reference)
    errors, base = report.details["errors"], tmp_path / "out-base"
    assert report.details["base"] == f"{full} in nf4-double"
    assert errors[f"{full} in nf4-double"] == 0.0
    assert errors[f"{full} in nf4"] > 0.01
    assert errors[str(full)] > 5  # lengths of the adapter's change: what baking onto the full base costs
    told = json.loads((base / "dequantised.json").read_text())
    assert (told["from"], told["kind"], told["errors"]) == (str(full), "nf4-double", errors)
    assert told["fingerprint"] == Checkpoint(full).fingerprint()
    written = Checkpoint(base)
    assert all(torch.equal(written.read(name), value) for name, value in shaped.items())
    assert json.loads((tmp_path / "out/merge.lock.json").read_text())["base"]["path"] == str(base)
    assert verify(tmp_path / "out") == []
    assert (tmp_path / "out/dequantised.json").is_file()


def test_an_adapter_of_a_stored_base_is_baked_into_its_values(tmp_path: Path, full: Path) -> None:
    stored = _stored(tmp_path / "stored", double=True)
    adapter = _adapter(tmp_path / "adapter", stored)
    bake(adapter, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    values = Values(checkpoint=Checkpoint(stored), kind="stored").read(f"{PROJ}.weight")
    assert torch.equal(Checkpoint(tmp_path / "out-base").read(f"{PROJ}.weight").reshape(-1), values)
    assert set(Checkpoint(tmp_path / "out").names()) == {f"{PROJ}.weight", "model.norm.weight"}
    # The full model is at hand: the adapter's base says which rounding it was.
    report = bake(adapter, tmp_path / "again", bases=[full])
    assert report.details["base"] == f"{full} in nf4-double"
    assert report.details["errors"][str(full)] > 5
    one, two = (Checkpoint(tmp_path / name).read(f"{PROJ}.weight") for name in ("out", "again"))
    assert torch.equal(one, two)


def test_a_configuration_that_asks_for_rounding_is_followed(tmp_path: Path, full: Path) -> None:
    asks = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}
    model = _model(tmp_path / "asks", {f"{PROJ}.weight": _weight().bfloat16()}, quantization_config=asks)
    report = bake(_adapter(tmp_path / "adapter", model), tmp_path / "out")
    assert report.details["base"] == f"{model} in nf4"
    assert report.details["errors"] == {str(model): pytest.approx(10, abs=2), f"{model} in nf4": 0.0}
    told = {
        "int8": {"load_in_8bit": True},
        "nf4-double": {**asks, "bnb_4bit_use_double_quant": True},
    }
    for kind, config in told.items():
        other = _model(tmp_path / kind, {f"{PROJ}.weight": _weight()}, quantization_config=config)
        assert quantised_as(Checkpoint(other)) == kind


def test_what_cannot_be_dequantised_is_one_sentence_and_writes_nothing(tmp_path: Path, full: Path) -> None:
    adapter, out = _adapter(tmp_path / "adapter", full), tmp_path / "out"
    with pytest.raises(
        MergeError, match=r"measured by a --reference, .* say --quantised nf4, nf4-double or int8"
    ):
        bake(adapter, out, quantised="auto")
    with pytest.raises(ConfigError, match=r"unknown kind of quantised base 'nf5'; did you mean 'nf4'\?"):
        bake(adapter, out, quantised="nf5")
    for number, config in enumerate(({"quant_method": "gptq"}, {"load_in_4bit": True})):
        model = _model(tmp_path / str(number), {f"{PROJ}.weight": _weight()}, quantization_config=config)
        with pytest.raises(MergeError, match=r"is quantised by gptq; only|is loaded in fp4; only"):
            bake(_adapter(tmp_path / f"adapter-{number}", model), out)
    (tmp_path / "out-base").mkdir()
    with pytest.raises(MergeError, match="out-base, where something else is; move it"):
        bake(adapter, out, quantised="nf4")
    assert not out.exists()
