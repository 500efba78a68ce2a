"""What a model's own data says about its weights, from a few samples: the food of RegMean and Fisher merging.

    gram     per linear layer [in, in]: the mean of x x^T over the layer's inputs (Jin et al. 2023,
             arXiv:2212.09849, section 3)
    fisher   per tensor, its shape: the mean over samples of the squared gradient of log p(answer | question)
             (Matena and Raffel 2022, arXiv:2111.09832, section 2; with the data's answers, the empirical one)

A statistics file is a safetensors file by the tensors' names on disk, and knows of which weights it tells.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, DataError, unknown
from studio.files import atomic_file
from studio.later import torch
from studio.module_names import tensor_names
from studio.tensorfile import BITS, as_bytes, encode_header, read_bytes, read_header
from studio.types import Family, Loaded, Sample

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["gram", "fisher"]
KINDS: tuple[str, ...] = get_args(Kind)


def collect(
    loaded: Loaded,
    family: Family,
    samples: Iterable[Sample],
    disk: Checkpoint,
    kind: Kind,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Return the statistics of a plain model in float32, by the names that ``disk`` has for its tensors.

    One sample at a time, so that nothing is padded. Layers that no sample reaches are left out; tied weights
    count where they stand on disk, and have no Gram matrix.

    Raises `DataError` when there are no samples and `ConfigError` for an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(unknown("kind of statistics", str(kind), KINDS))
    from studio.training.loss import TokenLoss

    model, processor = loaded
    device = next(model.parameters()).device
    loss = TokenLoss(model, device)
    gatherer = (_Gram if kind == "gram" else _Fisher)(model)
    count = 0
    try:
        for sample in samples:
            batch = family.collate(processor, [family.encode(processor, sample, True)], "right")
            gatherer.take(partial(loss, model, batch, [1.0]))
            count += 1
            advance(1)
    finally:
        gatherer.close()
        loss.close()
    if not count:
        raise DataError("statistics need at least one sample")
    found = gatherer.result(count)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if name in found}
    return {tensor: found[name] for name, tensor in tensor_names(shapes, disk).items()}


class _Gram:
    """Sums up x x^T of every linear layer's inputs."""

    def __init__(self, model: Any) -> None:
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        own = {id(parameter): name for name, parameter in model.named_parameters()}  # tied ones once
        self._hooks = [
            module.register_forward_pre_hook(self._see(f"{path}.weight"))
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and own.get(id(module.weight)) == f"{path}.weight"
        ]

    def _see(self, name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_module: Any, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().reshape(-1, args[0].shape[-1]).float()
            self._sums[name] = self._sums.get(name, 0) + rows.T @ rows
            self._rows[name] = self._rows.get(name, 0) + len(rows)

        return hook

    def take(self, forward: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            forward()

    def result(self, samples: int) -> dict[str, Tensor]:
        return {name: (total / max(self._rows[name], 1)).cpu() for name, total in self._sums.items()}

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _Fisher:
    """Sums up the squared gradients of every parameter, sample by sample."""

    def __init__(self, model: Any) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
        self._wanted = {name: p.requires_grad for name, p in self._parameters.items()}
        self._sums: dict[str, Tensor] = {}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def take(self, forward: Callable[[], Tensor]) -> None:
        with torch.enable_grad():
            torch.autograd.backward(forward())
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                square = parameter.grad.detach().float().square()
                self._sums[name] = self._sums.get(name, 0) + square
                parameter.grad = None

    def result(self, samples: int) -> dict[str, Tensor]:
        return {name: (total / samples).cpu() for name, total in self._sums.items()}

    def close(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(self._wanted[name])
            parameter.grad = None


def write_statistics(
    file: str | Path, tensors: Mapping[str, Tensor], *, kind: Kind, weights: str, samples: int
) -> None:
    """Write a statistics file, whole or not at all; ``weights`` is the model's or adapter's fingerprint."""
    ordered = sorted(tensors)
    metadata = {"statistics": kind, "weights": weights, "samples": str(samples)}
    header = encode_header([(name, "F32", tuple(tensors[name].shape)) for name in ordered], metadata)
    with atomic_file(Path(file)) as stream:
        stream.write(header)
        for name in ordered:
            stream.write(as_bytes(tensors[name].float().contiguous()))


class Statistics:
    """A statistics file, read lazily; raises `CheckpointError` for a file that is none.

    kind      gram or fisher
    weights   the fingerprint of the weights that it tells of
    """

    def __init__(self, file: str | Path) -> None:
        """Read the file's header."""
        self.file = Path(file)
        entries, metadata = read_header(self.file)
        self._entries = {entry.name: entry for entry in entries}
        self.kind, self.weights = metadata.get("statistics", ""), metadata.get("weights", "")
        if self.kind not in KINDS or any(entry.kind != "F32" for entry in entries):
            raise CheckpointError(f"{self.file} holds no statistics; `triptych run statistics` makes them")
        self._descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __contains__(self, name: object) -> bool:
        """Return whether the file tells of a tensor."""
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of what is told of a tensor: [in, in], or the tensor's own."""
        return self._entries[name].shape

    def read(self, name: str) -> Tensor:
        """Return what the file tells of a tensor."""
        entry = self._entries[name]
        return self.read_flat(name, 0, entry.numel).view(entry.shape)

    def read_flat(self, name: str, begin: int, end: int) -> Tensor:
        """Return the elements ``begin <= i < end`` of it, flattened."""
        size = BITS["F32"] // 8
        raw = read_bytes(self._descriptor, self._entries[name].begin + begin * size, (end - begin) * size)
        return torch.from_numpy(raw).view(torch.float32)
