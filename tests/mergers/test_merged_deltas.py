from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergers import MergeSpec, merge, merged_deltas
from mergers._settings import method
from studio import plugins
from studio.adapters import add_lora, read_adapter, save_adapter
from studio.errors import MergeError
from studio.families import family
from tests.drawn_experts import drawn_experts

#: The factors that are written lie this far from the matrices that they come from, in float32.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def experts(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    towers = {"0": ["llm", "projector"], "1": ["llm"]}
    return list(drawn_experts(tiny("qwen_omni"), tmp_path_factory.mktemp("experts"), towers, 0.5).values())


def able(name: str) -> bool:
    module = method(name)
    return getattr(module, "MODELS", 2) == 2 and not hasattr(module, "STATISTICS")


@pytest.mark.parametrize("name", [n for n in plugins.names("methods") if able(n)])
def test_deltas_in_memory_are_those_of_the_adapter_that_is_written(
    name: str, tiny: Callable[[str], Path], experts: list[Path], tmp_path: Path
) -> None:
    given = {"method": name, "base": str(tiny("qwen_omni")), "models": [str(e) for e in experts]}
    spec = MergeSpec.from_mapping({**given, "output": "adapter", "seed": 3})
    made = merged_deltas(spec)
    merge(spec, tmp_path / "merged")
    written = read_adapter(tmp_path / "merged")
    assert set(made) == set(written.names())
    for path, delta in made.items():
        expected = written.modules[path].delta()
        assert torch.allclose(delta, expected, atol=ROUNDING * float(expected.abs().max() + 1e-3)), path


def test_rules_by_tower_hold_in_memory(tiny: Callable[[str], Path], experts: list[Path]) -> None:
    spec = MergeSpec.from_mapping(
        {
            "method": "task_arithmetic", "base": str(tiny("qwen_omni")), "models": [str(e) for e in experts],
            "rules": [{"match": "projector", "weight": [0.25, 1.0]}],
        }
    )  # fmt: skip
    made, first = merged_deltas(spec), read_adapter(experts[0])
    alone = [path for path in first.names() if path not in read_adapter(experts[1]).names()]
    assert alone
    for path in alone:
        assert torch.allclose(made[path], 0.25 * first.modules[path].delta(), atol=1e-6)


def test_an_adapter_that_is_more_than_factors_is_refused(
    tiny: Callable[[str], Path], experts: list[Path], tmp_path: Path
) -> None:
    kind, base = family("qwen_omni"), tiny("qwen_omni")
    model = add_lora(kind.load(base).model, kind, ["llm"], r=2, alpha=4, use_dora=True)
    save_adapter(model, tmp_path / "dora", base=base, family=kind)
    models = [str(experts[0]), str(tmp_path / "dora")]
    with pytest.raises(MergeError, match="is more than factors of linear modules"):
        merged_deltas(MergeSpec.from_mapping({"method": "ties", "base": str(base), "models": models}))
