"""Tries the examples of CONTRIBUTING.md: they are copied, so they have to work."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from studio.config import load
from studio.log import QuietLog

PAPER = Path(__file__).parents[1] / "CONTRIBUTING.md"
BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def examples(tmp_path: Path) -> dict[str, ModuleType]:
    """Return the examples as modules, by the name of their file."""
    found = {}
    for name, code in BLOCK.findall(PAPER.read_text(encoding="utf-8")):
        file = tmp_path / Path(name).name
        file.write_text(code, encoding="utf-8")
        spec = spec_from_file_location(f"example_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass looks its own module up
        spec.loader.exec_module(module)
        found[name] = module
    return found


def test_the_metric_scores(examples: dict[str, ModuleType]) -> None:
    metric = examples["studio/metrics/starts_alike.py"]
    assert metric.score(["red one", "blue"], ["red two", "green"]) == 0.5


def test_the_method_merges(examples: dict[str, ModuleType]) -> None:
    merge = examples["mergers/my_median.py"].merge
    tensors = [torch.full((2, 2), value) for value in (1.0, 2.0, 9.0)]
    assert torch.equal(merge(tensors, torch.zeros(2, 2), scale=2.0), torch.full((2, 2), 4.0))
    assert torch.equal(merge(tensors, None), torch.full((2, 2), 2.0))


def test_the_recipe_runs(examples: dict[str, ModuleType], tmp_path: Path) -> None:
    recipe = examples["recipes/count_words.py"]
    turns = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a red circle"}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    overrides = [f"data={tmp_path / 'train.jsonl'}", f"output={tmp_path / 'out'}"]
    done = recipe.run(load(recipe.Config, overrides=overrides), QuietLog())
    assert done.metrics == {"words": 3.0}
