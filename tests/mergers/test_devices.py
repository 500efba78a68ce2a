"""Every method keeps to the device that it is given, told without one by torch's own fake tensors.

Fake tensors have a device, a type and a shape but no values, and torch refuses to mix devices among them as
it does among others. Where a method asks for a value, a guess is the answer. What a device computes is the
business of the tests marked gpu.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mergers._place import Look, Place
from mergers._settings import allowed, method
from studio import plugins

aten = torch.ops.aten


class _Guesses(TorchDispatchMode):
    """Answers what only values could tell: numbers, truths, and which elements are meant."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if function is aten._local_scalar_dense.default:
            return True if first.dtype == torch.bool else 0.5 if first.is_floating_point() else 1
        if function is aten.nonzero.default:
            return torch.zeros(first.numel(), first.dim(), dtype=torch.int64, device=first.device)
        if function is aten.index.Tensor and args[1][0].dtype == torch.bool:
            assert args[1][0].device == first.device
            return first.flatten()
        return function(*args, **(kwargs or {}))


def _array(tensor: Tensor) -> Any:
    """Return an array in the place of a fake tensor; as ever, only those on the processor give one."""
    assert tensor.device.type == "cpu", "a tensor on a device gives no array"
    return np.full(tensor.shape, 0.5, str(tensor.dtype).removeprefix("torch."))


@pytest.mark.parametrize("shape", [(8, 6), (30,)])
@pytest.mark.parametrize("name", plugins.names("methods"))
def test_a_method_stays_on_the_device_of_its_tensors(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = method(name)
    count = getattr(module, "MODELS", 2)
    usual = {key: parameter.default for key, parameter in allowed(module).items()}
    wants_place = "place" in inspect.signature(module.merge).parameters
    monkeypatch.setattr(Tensor, "numpy", _array)
    with FakeTensorMode(allow_non_fake_inputs=True), _Guesses():

        def models(*size: int) -> list[Tensor]:
            return [torch.empty(size or shape, device="cuda") for _ in range(count)]

        def pieces() -> Iterator[tuple[Place, list[Tensor]]]:
            for start in (0, 48):
                yield Place(tensor="x", start=start), [tensor.view(-1) for tensor in models()]

        def sample() -> list[Tensor]:
            return models(512)

        look = Look(count=count, numel=96, pieces=pieces, values=pieces, sample=sample)
        kinds = {"gram": models(6, 6) if len(shape) == 2 else None, "fisher": models(models()[0].numel())}
        place = Place(tensor="x", statistics=kinds.get(getattr(module, "STATISTICS", "")))
        surveys = [None, *([module.survey(look, **usual)] if hasattr(module, "survey") else [])]
        for survey in surveys:
            given = {"place": replace(place, survey=survey)} if wants_place else {}
            merged = module.merge(models(), models()[0], **given)
            assert merged.device.type == "cuda"
            assert merged.shape == shape


def test_fake_tensors_of_two_devices_are_refused_as_real_ones_are() -> None:
    with FakeTensorMode(), _Guesses(), pytest.raises(RuntimeError, match="device"):
        torch.empty(3, device="cuda").add_(torch.empty(3))
