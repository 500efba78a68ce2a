"""What every merge method's signature must keep, found by discovery; tests/mergers test its numbers."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest
import torch

from studio import plugins

NAMES = plugins.names("methods")


@pytest.fixture(scope="module", params=NAMES)
def method(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.load("methods", request.param)


def test_there_are_methods() -> None:
    assert {"linear", "ties", "dare_ties"} <= set(NAMES)


def test_merge_takes_tensors_and_base_by_position_and_all_settings_by_name(method: ModuleType) -> None:
    parameters = list(inspect.signature(method.merge).parameters.values())
    assert [p.name for p in parameters[:2]] == ["tensors", "base"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])


def test_the_docstring_cites_its_source(method: ModuleType) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi|pp\. \d+", inspect.getdoc(method) or ""), method.__name__


def test_presets_set_only_what_the_signature_has(method: ModuleType) -> None:
    known = inspect.signature(method.merge).parameters
    for name, preset in getattr(method, "PRESETS", {}).items():
        assert set(preset) <= set(known), f"{method.__name__} preset {name}"


def test_merging_keeps_shape_and_leaves_its_inputs_alone(method: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=draw)
    tensors = [base + 0.1 * torch.randn(6, 5, generator=draw) for _ in range(2)]
    before = [t.clone() for t in (base, *tensors)]
    merged = method.merge(tensors, base)
    assert merged.shape == base.shape
    assert torch.isfinite(merged).all()
    assert all(torch.equal(old, new) for old, new in zip(before, (base, *tensors), strict=True))
