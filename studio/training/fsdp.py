"""A model cut among processes: each keeps a part of every tensor, and layers are whole only while they run.

PyTorch's FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv:2304.11277). It is called here and not through
accelerate, which leaves it out without a word where processes run on CPUs: what is tested there is what runs
on CUDA devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, device: torch.device, world: int) -> None:
    """Cut a model among ``world`` processes, in place; its parts move to ``device`` one by one.

    Each layer of each tower is a unit; what is left, with tied tables in one piece, is a unit with the model.
    Parameters are new objects afterwards: an optimiser is made of those.
    """
    # Nothing writes into what a model returns, which may be a view of its layers' last output.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(device.type, (world,))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of all towers: what stands in lists, the outermost ones.

    A layer that shares a parameter with something outside it is none: it must stay in one unit with that.
    """
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and id(module) not in inside:
            inside.update(id(part) for part in module.modules())
            found += [layer for layer in module if _alone(layer, owners)]
    return found


def reshard(model: nn.Module) -> None:
    """Let go of what is whole since a forward without a backward: parameters are then the cut ones."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_cut(value: Any) -> bool:
    """Say whether a tensor is cut among processes."""
    return isinstance(value, DTensor)


def joined(tensor: Tensor) -> Tensor:
    """Return all of a tensor; where it is cut, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(value: Any) -> Tensor:
    """Return all of a tensor as `joined` does, on the CPU and without its history."""
    return joined(torch.as_tensor(value).detach()).cpu().contiguous()


def cut_like(value: Tensor, other: Tensor) -> Tensor:
    """Return this process's part of a tensor, cut as ``other`` is; the tensor itself if that is whole."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    # Every process has read the same: nothing has to be sent.
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


@contextmanager
def whole_parameters(model: nn.Module, *, keeps: bool, learning: bool) -> Iterator[None]:
    """Have whole parameters on the CPU inside the block, in the one process that ``keeps`` them.

    All processes enter it. With ``learning`` only what learns is made whole, as saving an adapter needs.
    """
    reshard(model)
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and is_cut(parameter) and (parameter.requires_grad or not learning)
    ]
    found: dict[int, nn.Parameter] = {}
    for parameter in {id(parameter): parameter for _, _, parameter in places}.values():  # tied ones once
        tensor = whole(parameter)
        if keeps:
            found[id(parameter)] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    try:
        if keeps:
            for module, name, parameter in places:
                module._parameters[name] = found[id(parameter)]
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


def _alone(layer: nn.Module, owners: dict[int, int]) -> bool:
    """Say whether a layer has parameters, and shares none with what is outside of it."""
    own: dict[int, int] = {}
    for _, parameter in layer.named_parameters(remove_duplicate=False):
        own[id(parameter)] = own.get(id(parameter), 0) + 1
    return bool(own) and all(owners[key] == count for key, count in own.items())
