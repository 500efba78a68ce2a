"""Merging adapters as true deltas, module by module, into an adapter; the base is read only where needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mergers import _dora
from mergers._factors import Pair, Rank, compress, concatenate, factorise
from mergers._place import Place
from mergers._report import ModuleReport
from studio.adapters import Adapter, Factors
from studio.errors import MergeError


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The adapters, how they are merged, and how to read the base's weight of a module.

    ``names`` are the base's tensor names by module, where the base is known: random numbers are keyed by
    them, so that adapter and full model come from the same ones.
    """

    adapters: Sequence[Adapter]
    method: ModuleType
    rank: Rank
    place: Place
    weight_of: Any
    names: Mapping[str, str]


def merge_module(inputs: Inputs, name: str, settings: Mapping[str, Any]) -> tuple[Factors, ModuleReport]:
    """Merge one module's deltas; an adapter without the module brings a zero delta."""
    found = {i: a.factors(name) for i, a in enumerate(inputs.adapters) if name in a.modules}
    first = next(iter(found.values()))
    count, tensor = len(inputs.adapters), inputs.names.get(name, f"{name}.weight")
    place = replace(inputs.place, tensor=tensor)
    bias = _bias(inputs, found, settings, replace(place, tensor=f"{tensor.removesuffix('weight')}bias"))
    dora = any(f.magnitude is not None for f in found.values())
    weight: Any = inputs.weight_of(name) if dora else None
    longest = max(_norm(f, weight) for f in found.values())
    magnitude: Tensor | None = None
    if hasattr(inputs.method, "coefficients"):
        every = inputs.method.coefficients(count, **settings)
        parts, shares = list(found.values()), [every[i] for i in found]
        if dora:
            pair, magnitude, norm = _dora.combine(parts, shares, weight, inputs.rank)
        else:
            whole = concatenate(parts, shares)
            pair = compress(whole.b, whole.a, inputs.rank)
            norm = product_norm(whole.b, whole.a)
    else:
        zero = torch.zeros(first.shape)
        dense = [found[i].delta(weight) if i in found else zero for i in range(count)]
        extra = {"place": place} if _wants_place(inputs.method) else {}
        merged = inputs.method.merge(dense, None, **extra, **settings)
        del dense
        norm = float(merged.norm())
        pair = factorise(merged.reshape(merged.shape[0], -1).float(), inputs.rank)
    if not (torch.isfinite(pair.b).all() and torch.isfinite(pair.a).all()):
        raise MergeError(f"merging '{name}' gives values that are not finite; look at the adapters' weights")
    factors = Factors(a=pair.a, b=pair.b, shape=first.shape, kind=first.kind, magnitude=magnitude, bias=bias)
    return factors, ModuleReport(name=name, rank=factors.rank, energy=pair.energy, norm=norm, longest=longest)


def merge_value(
    inputs: Inputs, name: str, base: Tensor, settings: Mapping[str, Any]
) -> tuple[Tensor, ModuleReport]:
    """Merge a tensor that adapters store whole; where one does not, it has the base's."""
    ground = base.float()
    tensors = [a.value(name).float() if name in a.values else ground for a in inputs.adapters]
    place = replace(inputs.place, tensor=name)
    extra = {"place": place} if _wants_place(inputs.method) else {}
    merged = inputs.method.merge(tensors, ground, **extra, **settings)
    longest = max(float((t - ground).norm()) for t in tensors)
    norm = float((merged - ground).norm())
    return merged, ModuleReport(name=name, rank=0, energy=1.0, norm=norm, longest=longest)


def product_norm(b: Tensor, a: Tensor) -> float:
    """Return the length of ``b @ a`` without forming it: |BA|^2 = tr(B^T B A A^T)."""
    squared = ((b.T.double() @ b.double()) * (a.double() @ a.T.double())).sum()
    return float(squared.clamp(min=0).sqrt())


def _norm(factors: Factors, weight: Tensor | None) -> float:
    if factors.magnitude is not None:
        return float(factors.delta(weight).norm())
    return product_norm(factors.b, factors.a)


def _bias(
    inputs: Inputs, found: Mapping[int, Factors], settings: Mapping[str, Any], place: Place
) -> Tensor | None:
    biases = {i: f.bias for i, f in found.items() if f.bias is not None}
    if not biases:
        return None
    zero = torch.zeros_like(next(iter(biases.values())))
    tensors = [biases.get(i, zero) for i in range(len(inputs.adapters))]
    extra = {"place": place} if _wants_place(inputs.method) else {}
    merged: Tensor = inputs.method.merge(tensors, None, **extra, **settings)
    return merged


def _wants_place(method: ModuleType) -> bool:
    return "place" in (method.merge.__kwdefaults__ or {})


__all__ = ["Inputs", "Pair", "merge_module", "merge_value", "product_norm"]
