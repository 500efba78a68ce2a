"""Any rules, gradients and tables of methods that add up: without an expert the others' numbers stay."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mergers import MergeSpec, merge, plan, unmerge
from mergers._settings import method
from studio.errors import MergeError
from tests.mergers.test_unmerge_rules import NAMES, _adapter, _deltas, _model, _read

MATCHES = ("vision", "llm", "llm.layers.1", "llm.layers.0-2", "re:up_proj", r"re:layers\.3")


def _weights(draw: random.Random) -> list[Any]:
    cases = {"cases": [{"match": "llm.layers.2", "value": 2}, {"value": 0.4}]}
    return [draw.choice([0.5, 1, -0.3, {"layers": [0, 1]}, cases]) for _ in range(3)]


def _rule(draw: random.Random) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = [
        {"freeze": True},
        {"method": "linear", "weight": [1, 2, 0.5]},
        {"weight": _weights(draw)},
        {"method": "cat", "weight": _weights(draw)},
        {"method": "ties", "density": 0.5},
    ]
    return {"match": draw.choice(MATCHES), **draw.choice(kinds)}


@pytest.mark.parametrize("seed", range(10))
def test_the_others_keep_their_numbers_under_any_rules(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    base = _model(tmp_path / "base", 0)
    adapters = [
        _adapter(tmp_path / f"e{i}", i, base, draw.sample(NAMES, draw.randint(2, 5))) for i in range(3)
    ]
    given: dict[str, Any] = {
        "method": draw.choice(["task_arithmetic", "ties"]),
        "models": list(map(str, adapters)),
        "settings": {"weight": _weights(draw), "scale": 0.7},
        "rules": [
            {"match": "llm.layers.0", "method": "cat", "weight": [0.2, 0.3, 0.4]},
            _rule(draw),
            _rule(draw),
        ],
        "weights_by_layer": draw.choice([{}, {"llm.layers.2": [0.1, 0.2, 0.3]}]),
        "base": str(base),
        "output": draw.choice(["model", "adapter"]),
    }
    there = {name for adapter in adapters for name in read_names(adapter)}
    given["rules"] = [rule for rule in given["rules"] if rule["match"] != "llm.layers.0" or NAMES[0] in there]
    spec = MergeSpec.from_mapping({**given, "allow": ["norm"]})
    steps = {step.name.removesuffix(".weight"): step for step in plan(spec).steps}
    merge(spec, tmp_path / "merged")
    deltas, ground = [_deltas(adapter) for adapter in adapters], _read(base)
    numbers: dict[str, Any] = {}
    for name, step in steps.items():
        chosen = method(step.method) if step.action == "merge" else None
        adds = chosen is not None and hasattr(chosen, "coefficients")
        numbers[name] = (
            chosen.coefficients(3, **step.settings) if adds else [0] * 3 if chosen is None else None
        )
    expert, gone = draw.randrange(3), draw.random() < 0.5
    if gone:
        shutil.rmtree(adapters[(expert + 1) % 3])
    if gone and None in numbers.values():
        with pytest.raises(MergeError, match="does not add up"):
            unmerge(adapters[expert], tmp_path / "merged", tmp_path / "out")
        return
    unmerge(adapters[expert], tmp_path / "merged", tmp_path / "out", allow=["norm"])
    full = given["output"] == "model"
    values = _read(tmp_path / "out") if full else _deltas(tmp_path / "out")
    for name in NAMES:
        weights = numbers.get(name, [0] * 3)
        if weights is None:
            continue
        truth = torch.zeros(16, 12)
        for i in range(3):
            if i != expert and name in deltas[i]:
                truth += weights[i] * deltas[i][name]
        nothing = torch.zeros(16, 12)
        found = values[f"{name}.weight"] - ground[f"{name}.weight"] if full else values.get(name, nothing)
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=2e-5)


def read_names(adapter: Path) -> list[str]:
    return list(_deltas(adapter))
