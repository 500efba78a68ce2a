"""What differs between models and adapters, group by group."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers import bake, diff
from mergers._diff import STRETCH
from studio.adapters import Factors, read_adapter, write_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError

UP = "model.layers.{}.mlp.up_proj"
NAMES = [f"{UP.format(i)}.weight" for i in (0, 1, 10)]


def _tensors(seed: int, size: float = 1.0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {name: size * torch.randn(16, 12, generator=draw) for name in NAMES}
    return found | {"model.norm.weight": size * torch.randn(12, generator=draw)}


def _model(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plain"}))
    return folder


def _adapter(folder: Path, seed: int, layers: tuple[int, ...] = (0, 1), bias: bool = False) -> Path:
    draw = torch.Generator().manual_seed(seed)
    modules = {
        UP.format(i): Factors(
            a=torch.randn(2, 12, generator=draw),
            b=torch.randn(16, 2, generator=draw),
            shape=(16, 12),
            bias=torch.randn(16, generator=draw) if bias else None,
        )
        for i in layers
    }
    return write_adapter(folder, modules, base="")


def test_models_are_compared_by_values_and_layers_in_order(tmp_path: Path) -> None:
    one, noise = _tensors(0), _tensors(1, 0.1)
    two = one | {name: one[name] + noise[name] for name in NAMES[:2]}
    two["model.rotary.inv_freq"] = torch.ones(3)
    found = diff(_model(tmp_path / "one", one), _model(tmp_path / "two", two))
    assert list(found.groups) == ["llm.layers.0", "llm.layers.1", "llm.layers.10", "llm.norms"]
    first, same = found.groups["llm.layers.0"], found.groups["llm.layers.10"]
    a, b = one[NAMES[0]].flatten(), two[NAMES[0]].flatten()
    assert first.relative == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-5)
    assert first.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b, dim=0)), rel=1e-5)
    assert first.largest == pytest.approx(float((b - a).abs().max()))
    assert (same.changed, same.relative, same.cosine) == (0, 0.0, pytest.approx(1.0))
    assert (found.total.tensors, found.total.changed) == (4, 2)
    assert found.only_two == ("model.rotary.inv_freq",)
    assert json.loads(json.dumps(found.to_mapping()))["groups"]["llm.layers.0"]["changed"] == 1


def test_with_a_base_models_are_compared_by_what_they_changed(tmp_path: Path) -> None:
    ground, first, second = _tensors(0), _tensors(1, 0.01), _tensors(2, 0.01)
    base = _model(tmp_path / "base", ground)
    one = _model(tmp_path / "one", {n: ground[n] + first[n] for n in ground})
    two = _model(tmp_path / "two", {n: ground[n] + second[n] for n in ground})
    by_value, by_change = diff(one, two).total, diff(one, two, base=base).total
    assert by_value.cosine == pytest.approx(1.0, abs=1e-3)
    assert abs(by_change.cosine or 0.0) < 0.2  # independent noise in 588 dimensions
    assert by_change.relative == pytest.approx(math.sqrt(2), rel=0.1)
    alone = diff(one, base=base).total
    assert alone.relative == pytest.approx(1.0)
    assert math.sqrt(alone.apart) == pytest.approx(math.sqrt(by_change.one))


def test_adapters_are_compared_by_their_deltas_an_absent_module_as_zero(tmp_path: Path) -> None:
    one, two = _adapter(tmp_path / "one", 0, bias=True), _adapter(tmp_path / "two", 1, (1, 10))
    deltas = [{n: a.factors(n) for n in a.names()} for a in map(read_adapter, (one, two))]
    found = diff(one, two)
    first = deltas[0][UP.format(0)]
    assert first.bias is not None
    alone = float(first.delta().square().sum() + first.bias.square().sum())
    assert found.groups["llm.layers.0"].apart == pytest.approx(alone, rel=1e-5)
    assert found.groups["llm.layers.0"].cosine is None
    a, b = (d[UP.format(1)].delta() for d in deltas)
    both = found.groups["llm.layers.1"]
    assert both.product == pytest.approx(float((a * b).sum()), rel=1e-4)
    assert found.only_two == (NAMES[2],)
    assert found.groups["llm.layers.10"].relative is None
    nothing = diff(one)
    assert nothing.two == ""
    assert nothing.groups["llm.layers.0"].apart == pytest.approx(alone, rel=1e-5)


def test_an_adapter_is_what_it_changes_when_baked(tmp_path: Path) -> None:
    base = _model(tmp_path / "base", _tensors(0))
    adapter = _adapter(tmp_path / "adapter", 0)
    bake(adapter, tmp_path / "baked", bases=[base])
    found = diff(adapter, tmp_path / "baked", base=base).total
    assert found.cosine == pytest.approx(1.0, abs=1e-6)
    assert found.relative == pytest.approx(0.0, abs=1e-5)


def test_every_kind_of_change_is_read_alike_from_an_adapter_and_from_the_model_it_makes(
    tmp_path: Path,
) -> None:
    ground = _tensors(0) | {name.replace("weight", "bias"): torch.zeros(16) for name in NAMES[:2]}
    base = _model(tmp_path / "base", ground)
    draw = torch.Generator().manual_seed(3)

    def factors(**more: Tensor) -> Factors:
        a, b = torch.randn(2, 12, generator=draw), torch.randn(16, 2, generator=draw)
        return Factors(a=a, b=b, shape=(16, 12), **more)

    plain = {UP.format(0): factors(bias=torch.randn(16, generator=draw))}
    plain[UP.format(1)] = factors(bias=torch.randn(16, generator=draw))
    values = {"model.norm.weight": torch.randn(12, generator=draw)}
    whole = write_adapter(tmp_path / "whole", plain, base=str(base), values=values)
    longer = {UP.format(i): factors(magnitude=torch.rand(16, generator=draw) + 1) for i in (0, 10)}
    dora = write_adapter(tmp_path / "dora", longer, base=str(base))
    models = []
    for adapter in (whole, dora):
        models.append(tmp_path / f"{adapter.name}-baked")
        bake(adapter, models[-1], bases=[base])
    found, truth = diff(whole, dora, base=base), diff(*models, base=base)
    mixed = diff(whole, models[1], base=base)
    assert found.total.tensors == 6  # the third weight, too, which only one of them changes
    for name in ("apart", "one", "two", "product", "largest"):
        expected = pytest.approx(getattr(truth.total, name), rel=1e-4, abs=1e-4)
        assert getattr(found.total, name) == expected
        assert getattr(mixed.total, name) == expected


def test_a_damaged_adapter_is_counted_and_not_refused(tmp_path: Path) -> None:
    good = _adapter(tmp_path / "good", 0)
    factors = read_adapter(good).factors(UP.format(0))
    factors.a[0, 0] = math.nan
    bad = write_adapter(tmp_path / "bad", {UP.format(0): factors}, base="")
    assert diff(good, bad).groups["llm.layers.0"].odd == 16


def test_tensors_longer_than_a_stretch_and_odd_values_are_counted(tmp_path: Path) -> None:
    one = {
        "model.long": torch.ones(STRETCH + 5),
        "model.mask": torch.tensor([math.inf, -math.inf, math.nan, 1.0]),
    }
    two = {
        "model.long": one["model.long"].clone(),
        "model.mask": torch.tensor([math.inf, 0.0, math.nan, 3.0]),
    }
    two["model.long"][-1] = 3.0
    found = diff(_model(tmp_path / "one", one), _model(tmp_path / "two", two)).total
    assert (found.apart, found.largest, found.odd, found.changed) == (8.0, 2.0, 1, 2)


def test_other_shapes_are_named_and_not_compared(tmp_path: Path) -> None:
    one, two = _tensors(0), _tensors(0)
    two["model.norm.weight"] = torch.ones(13)
    found = diff(_model(tmp_path / "one", one), _model(tmp_path / "two", two))
    assert found.skipped == ("model.norm.weight",)
    assert found.total.changed == 0


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    model, adapter = _model(tmp_path / "model", _tensors(0)), _adapter(tmp_path / "adapter", 0)
    with pytest.raises(MergeError, match="is a full model: give another to compare it with"):
        diff(model)
    with pytest.raises(MergeError, match="are a full model and an adapter; name the base of both"):
        diff(model, adapter)
    assert Checkpoint(model).names()
