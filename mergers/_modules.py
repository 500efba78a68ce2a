"""The work on one module of adapters: true deltas in, factors of the merged delta out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mergers import _dora
from mergers._factors import Pair, Rank, compress, concatenate, factorise
from mergers._gram import factor_gram, gram
from mergers._place import Place
from mergers._report import ModuleReport
from studio.adapters import Adapter, Factors
from studio.errors import MergeError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The adapters and how they are merged.

    weight_of   reads the base's weight of a module; ``bias_of`` its bias, or None
    names       the base's tensor names by module, where the base is known: random numbers are keyed by them,
                so that adapter and full model come from the same ones
    """

    adapters: Sequence[Adapter]
    method: ModuleType
    rank: Rank
    place: Place
    weight_of: Callable[[str], Tensor]
    bias_of: Callable[[str], Tensor]
    names: Mapping[str, str]

    def merge(
        self, tensors: Sequence[Tensor], base: Tensor | None, place: Place, settings: Mapping[str, Any]
    ) -> Tensor:
        """Call the method, with the place if it wants to know."""
        extra = {"place": place} if "place" in (self.method.merge.__kwdefaults__ or {}) else {}
        merged: Tensor = self.method.merge(tensors, base, **extra, **settings)
        return merged

    def tensor_name(self, module: str) -> str:
        """Return by which name random numbers for a module's weight are keyed."""
        return self.names.get(module, f"{module}.weight")

    def dense(self, module: str) -> list[Tensor]:
        """Return every adapter's delta of a module's weight; zero where an adapter leaves it alone."""
        found = {i: a.factors(module) for i, a in enumerate(self.adapters) if module in a.modules}
        weight = self.weight_of(module) if _any_dora(found) else None
        zero = torch.zeros(next(iter(found.values())).shape)
        return [found[i].delta(weight) if i in found else zero for i in range(len(self.adapters))]


def merge_module(
    inputs: Inputs, name: str, settings: Mapping[str, Any], place: Place
) -> tuple[Factors, ModuleReport]:
    """Merge one module's deltas; an adapter without the module brings a zero delta."""
    found = {i: a.factors(name) for i, a in enumerate(inputs.adapters) if name in a.modules}
    for i, factors in found.items():
        if not (torch.isfinite(factors.a).all() and torch.isfinite(factors.b).all()):
            raise MergeError(
                f"'{name}' of {inputs.adapters[i].folder} holds values that are not finite; it is damaged"
            )
    first, magnitude = next(iter(found.values())), None
    weight: Any = inputs.weight_of(name) if _any_dora(found) else None
    every = _coefficients(inputs, name, found, settings, weight)
    if every is not None:
        parts, shares = list(found.values()), [every[i] for i in found]
        if weight is not None:
            pair, magnitude, norm = _dora.combine(parts, shares, weight, inputs.rank)
        else:
            whole = concatenate(parts, shares)
            norm = product_norm(whole.b, whole.a)
            pair = compress(whole.b, whole.a, inputs.rank)
    elif weight is None and getattr(inputs.method, "INVARIANT", None):
        pair, norm = merge_cores(inputs, found, settings, place)
    else:
        merged = inputs.merge(inputs.dense(name), None, place, settings)
        norm = float(merged.norm())
        pair = factorise(merged.reshape(merged.shape[0], -1).float(), inputs.rank)
    if not (torch.isfinite(pair.b).all() and torch.isfinite(pair.a).all()):
        raise MergeError(f"merging '{name}' gives values that are not finite; look at the adapters' weights")
    bias = merge_bias(inputs, name, found, settings, place)
    factors = Factors(a=pair.a, b=pair.b, shape=first.shape, kind=first.kind, magnitude=magnitude, bias=bias)
    longest = max(_norm(f, weight) for f in found.values())
    report = ModuleReport(name=name, rank=factors.rank, energy=pair.energy, norm=norm, longest=longest)
    return factors, report


def merge_dense(inputs: Inputs, name: str, settings: Mapping[str, Any], place: Place) -> Tensor:
    """Merge one module's deltas as `merge_module` does, and return the merged delta itself.

    Nothing is factorised, which is most of the work where the result has no low rank. For plain LoRA only.
    """
    found = {i: a.factors(name) for i, a in enumerate(inputs.adapters) if name in a.modules}
    every = _coefficients(inputs, name, found, settings, None)
    if every is not None:
        whole = concatenate(list(found.values()), [every[i] for i in found])
        merged = whole.b @ whole.a
    elif getattr(inputs.method, "INVARIANT", None):
        pair, _ = merge_cores(inputs, found, settings, place)
        merged = pair.b @ pair.a
    else:
        merged = inputs.merge(inputs.dense(name), None, place, settings)
    if not bool(torch.isfinite(merged).all()):
        raise MergeError(f"merging '{name}' gives values that are not finite; look at the adapters' weights")
    return merged.reshape(next(iter(found.values())).shape)


def merge_cores(
    inputs: Inputs, found: Mapping[int, Factors], settings: Mapping[str, Any], place: Place
) -> tuple[Pair, float]:
    """Merge low-rank deltas by a method that turns with its inputs, on matrices as small as the ranks' sum.

    With orthonormal bases Q of all columns and P of all rows each delta is ``Q core P^T``; the method is
    given the cores (only ``Q^T delta`` where it may not be turned from the right).
    """
    q = torch.linalg.qr(torch.cat([f.b for f in found.values()], dim=1)).Q
    p = torch.linalg.qr(torch.cat([f.a for f in found.values()]).T).Q
    both = inputs.method.INVARIANT == "both"
    zero = torch.zeros(q.shape[1], p.shape[1] if both else p.shape[0])
    cores = []
    for i in range(len(inputs.adapters)):
        if i in found:
            right = found[i].a @ p if both else found[i].a
            cores.append((q.T @ found[i].b) @ right)
        else:
            cores.append(zero)
    merged = inputs.merge(cores, None, place, settings)
    pair = factorise(merged, inputs.rank)
    return Pair(q @ pair.b, pair.a @ p.T if both else pair.a, pair.energy), float(merged.norm())


def _coefficients(
    inputs: Inputs,
    name: str,
    found: Mapping[int, Factors],
    settings: Mapping[str, Any],
    weight: Tensor | None,
) -> Sequence[float] | None:
    """Return what the deltas are multiplied by, for methods that only add them up; None for others."""
    count = len(inputs.adapters)
    if hasattr(inputs.method, "coefficients"):
        fixed: Sequence[float] = inputs.method.coefficients(count, **settings)
        return fixed
    if not hasattr(inputs.method, "weights"):
        return None
    if weight is not None:
        products = gram(inputs.dense(name))
    else:
        products = factor_gram([found.get(i) for i in range(count)])
    weights: Sequence[float] = inputs.method.weights(products, **settings)
    return weights


def merge_bias(
    inputs: Inputs, name: str, found: Mapping[int, Factors], settings: Mapping[str, Any], place: Place
) -> Tensor | None:
    """Return the merged change of a module's bias: LoRA's own, or the base's trained on; None without any."""
    changes: dict[int, Tensor] = {}
    for i, adapter in enumerate(inputs.adapters):
        if f"{name}.bias" in adapter.values:
            changes[i] = adapter.value(f"{name}.bias").float() - inputs.bias_of(name).float()
        elif i in found and (own := found[i].bias) is not None:
            changes[i] = own
    if not changes:
        return None
    zero = torch.zeros_like(next(iter(changes.values())))
    tensors = [changes.get(i, zero) for i in range(len(inputs.adapters))]
    tensor = inputs.tensor_name(name).removesuffix("weight") + "bias"
    return inputs.merge(tensors, None, replace(place, tensor=tensor, survey=None, statistics=None), settings)


def merge_value(
    inputs: Inputs, name: str, base: Tensor, settings: Mapping[str, Any], place: Place
) -> tuple[Tensor, ModuleReport]:
    """Merge a tensor that adapters store whole; where one does not, it has the base's."""
    ground = base.float()
    tensors = [a.value(name).float() if name in a.values else ground for a in inputs.adapters]
    merged = inputs.merge(tensors, ground, place, settings)
    longest = max(float((t - ground).norm()) for t in tensors)
    norm = float((merged - ground).norm())
    return merged, ModuleReport(name=name, rank=0, energy=1.0, norm=norm, longest=longest)


def with_magnitude(factors: Factors, weight: Tensor) -> Factors:
    """Return the factors as a DoRA module: the magnitude that changes nothing, where there was none."""
    if factors.magnitude is not None:
        return factors
    adapted = weight.float() + (factors.b @ factors.a).reshape(factors.shape)
    length = adapted.transpose(0, factors.output_axis).flatten(1).norm(dim=1)
    return replace(factors, magnitude=length)


def product_norm(b: Tensor, a: Tensor) -> float:
    """Return the length of ``b @ a`` without forming it: |BA|^2 = tr(B^T B A A^T)."""
    squared = ((b.T @ b).double() * (a @ a.T).double()).sum()
    return float(squared.clamp(min=0).sqrt())


def _norm(factors: Factors, weight: Tensor | None) -> float:
    if factors.magnitude is not None:
        return float(factors.delta(weight).norm())
    return product_norm(factors.b, factors.a)


def _any_dora(found: Mapping[int, Factors]) -> bool:
    return any(f.magnitude is not None for f in found.values())


__all__ = [
    "Inputs", "Pair", "merge_dense", "merge_module", "merge_value", "product_norm", "with_magnitude",
]  # fmt: skip
