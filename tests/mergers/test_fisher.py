"""Fisher merging averages each element by how much the models' answers depend on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mergers import MergeSpec, merge
from mergers._place import Place
from mergers.fisher import merge as fisher
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError
from studio.families import family
from studio.statistics import collect, write_statistics
from studio.training.loss import TokenLoss

Questions = Callable[[str, int], list[Any]]


def test_equal_information_gives_the_average() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(6, 5, generator=draw) for _ in range(3)]
    base = torch.randn(6, 5, generator=draw)
    same = [torch.rand(6, 5, generator=draw)] * 3
    merged = fisher(tensors, base, place=Place(statistics=same))
    assert torch.allclose(merged, sum(tensors) / 3, atol=1e-6)
    assert torch.allclose(fisher(tensors, base), sum(tensors) / 3, atol=1e-6)
    weighed = fisher(tensors, base, weight=[0.5, 0.3, 0.2], place=Place(statistics=same))
    assert torch.allclose(weighed, 0.5 * tensors[0] + 0.3 * tensors[1] + 0.2 * tensors[2], atol=1e-6)


def test_what_only_one_models_answers_depend_on_comes_from_it() -> None:
    one, two = torch.full((4,), 1.0), torch.full((4,), 3.0)
    told = [torch.tensor([1e-3, 0.0, 0.0, 3e-8]), torch.tensor([0.0, 1e-3, 0.0, 1e-8])]
    merged = fisher([one, two], None, place=Place(statistics=told))
    assert torch.allclose(merged, torch.tensor([1.0, 3.0, 2.0, 1.5]), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"floor": 0.0}, "floor"), ({"weight": -1.0}, "negative")]
)
def test_values_out_of_range_are_told(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fisher([torch.ones(2)] * 2, None, **settings)


@pytest.mark.parametrize("name", ["qwen_omni", "smolvlm", "whisper"])
def test_the_information_is_the_mean_of_squared_gradients(
    name: str, tiny: Callable[[str], Path], questions: Questions
) -> None:
    found, disk = family(name), Checkpoint(tiny(name))
    loaded = found.load(disk.folder)
    samples = questions(name, 3)
    wanted = {n: p.requires_grad for n, p in loaded.model.named_parameters()}
    tensors = collect(loaded, found, samples, disk, "fisher")
    assert {n: p.requires_grad for n, p in loaded.model.named_parameters()} == wanted
    assert all(p.grad is None for p in loaded.model.parameters())
    for tensor, value in tensors.items():
        assert value.shape == disk.shape(tensor)
        assert (value >= 0).all()
    layer = next(
        p for n, p in loaded.model.named_parameters() if n.endswith("layers.1.fc1.weight") or "1.mlp.up" in n
    )
    layer.requires_grad_(True)
    loss, squares = TokenLoss(loaded.model, torch.device("cpu")), torch.zeros_like(layer)
    for sample in samples:
        batch = found.collate(loaded.processor, [found.encode(loaded.processor, sample, True)], "right")
        (gradient,) = torch.autograd.grad(loss(loaded.model, batch, [1.0]), layer, allow_unused=True)
        squares += gradient.square() if gradient is not None else 0
    loss.close()
    truth = squares / len(samples)
    alike = [v for v in tensors.values() if v.shape == truth.shape and torch.allclose(v, truth, rtol=1e-4)]
    assert alike
    assert float(truth.max()) > 0


def test_a_merge_of_files_is_the_formula_in_pieces_of_any_size(
    tiny: Callable[[str], Path],
    experts_of: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, models, told = Checkpoint(tiny("smolvlm")), [], []
    for number, folder in enumerate(experts_of("smolvlm")):
        draw = torch.Generator().manual_seed(number)
        expert = Checkpoint(folder)
        names = [name for name in expert.names() if "norm" not in name]
        told.append({name: torch.rand(expert.shape(name), generator=draw) ** 4 for name in names})
        file = tmp_path / f"{number}.safetensors"
        write_statistics(file, told[-1], kind="fisher", weights=expert.fingerprint(), samples=1)
        models.append({"path": str(folder), "statistics": str(file), "weight": 1.0 + number})
    spec = MergeSpec.from_mapping({"method": "fisher", "base": str(base.folder), "models": models})
    merge(spec, tmp_path / "whole")
    monkeypatch.setattr("mergers._stream.PIECE", 300)
    merge(spec, tmp_path / "pieces")
    one, two = (Checkpoint(Path(model["path"])) for model in models)
    whole, pieces = Checkpoint(tmp_path / "whole"), Checkpoint(tmp_path / "pieces")
    for name in base.names():
        x, y = one.read(name).double(), two.read(name).double()
        f, g = (own.get(name, torch.ones(())).double() for own in told)
        truth = (f * x + 2 * g * y) / (f + 2 * g)
        assert torch.allclose(whole.read(name).double(), truth, atol=1e-6), name
        assert torch.equal(whole.read(name), pieces.read(name)), name
