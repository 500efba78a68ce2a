"""Several variants of one base in one batch: what they share is computed once, what differs is added by row.

The rows of a mixed batch stand variant after variant. Every linear module multiplies them by the base's
weight at once; then each variant's rows get their own ``b @ a``, in two batched products for all variants.
What a media tower makes of a question is computed once for all variants that leave the tower as it is.

    mixed = Mixed(model, [words.modules, {}, eyes.modules])   # the second is the base itself
    with mixed.batch(loaded, family, items) as batch:         # 3 x len(items) rows
        ids = model.generate(**batch)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from studio.adapter_format import Adapter, Factors
from studio.errors import TriptychError
from studio.tower_memory import giving, moved, under
from studio.types import Batch, Family, Feature, Loaded

#: A variant's factors by the path of the module that they belong to; none is the base itself.
Modules = Mapping[str, Factors]


def refusal(adapter: Adapter) -> str:
    """Return why an adapter cannot be mixed with others, as a clause, or the empty string."""
    if adapter.values:
        return f"it stores '{adapter.values[0]}' whole"
    for name in adapter.names():
        if adapter.is_dora(name):
            return f"'{name}' is DoRA, whose delta depends on the base's weight"
        if adapter.kind(name) != "linear":
            return f"'{name}' is no linear module ({adapter.kind(name)})"
        if adapter.has_bias(name):
            return f"'{name}' has a bias of its own"
    return ""


class NotMixed(TriptychError):
    """Variants cannot share a batch: a module sees rows that are not those of all variants in order."""


class Mixed:
    """The factors of several variants, stacked by module."""

    def __init__(self, model: Any, variants: Sequence[Modules]) -> None:
        """Stack the variants' factors in the model's type, on its device, ranks filled up with zeros.

        Of each module only the variants that change it are stacked, so that memory is that of the factors.
        """
        self.model, self.count = model, len(variants)
        self._touched = [frozenset(modules) for modules in variants]
        self._proven: set[tuple[str, ...]] = set()
        self._stacks: dict[str, _Stack] = {}
        self._made: dict[tuple[int, ...], Sequence[tuple[str, Any, Any]]] = {}
        for path in dict.fromkeys(path for modules in variants for path in modules):
            module = model.get_submodule(path)
            module = getattr(module, "base_layer", getattr(module, "original_module", module))
            own = {at: modules[path] for at, modules in enumerate(variants) if path in modules}
            rank = max(factors.rank for factors in own.values())
            rows, columns = next(iter(own.values())).shape
            a = module.weight.new_zeros(len(own), columns, rank)
            b = module.weight.new_zeros(len(own), rank, rows)
            for slot, factors in enumerate(own.values()):
                a[slot, :, : factors.rank] = factors.a.T.to(a)
                b[slot, : factors.rank] = factors.b.T.to(b)
            self._stacks[path] = _Stack(module, {at: slot for slot, at in enumerate(own)}, a, b)
        self.nbytes = sum(stack.a.nbytes + stack.b.nbytes for stack in self._stacks.values())

    @contextmanager
    def on(
        self,
        variants: Sequence[int] | None = None,
        *,
        within: Sequence[str] = ("",),
        without: Sequence[str] = (),
    ) -> Iterator[None]:
        """Let the model's rows be those of all variants in order, or of the chosen ones, for the block.

        Only modules under the paths ``within``, and under none of ``without``, add anything.
        """
        handles = []
        try:
            for path, module, hook in self._hooks(tuple(range(self.count) if variants is None else variants)):
                if under(path, within) and not under(path, without):
                    handles.append(module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, chosen: tuple[int, ...]) -> Sequence[tuple[str, Any, Any]]:
        """Return what the chosen variants hang on which module; made once."""
        if chosen not in self._made:
            found = [(path, stack.module, _pieces(stack, chosen)) for path, stack in self._stacks.items()]
            self._made[chosen] = [
                (path, module, _adding(path, len(chosen), pieces)) for path, module, pieces in found if pieces
            ]
        return self._made[chosen]

    @contextmanager
    def batch(self, loaded: Loaded, family: Family, items: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the prompts of ``items`` for all variants, variant after variant, padded on the left.

        Inside the block the model answers each row as its variant; the media's features are computed on
        entry where the family says how, and given at the model's first step.
        """
        model = self.model
        batch = family.collate(loaded.processor, list(items) * self.count, "left")
        kept: list[tuple[Feature, list[Tensor]]] = []
        if not getattr(model.config, "is_encoder_decoder", False):
            for feature in family.features.values():
                if feature.takes[0] not in batch or feature.refuse(model.config):
                    continue
                kept.append((feature, self._features(loaded, family, items, feature)))
                for key in feature.takes:
                    batch.pop(key, None)
        given = [(feature, features, True) for feature, features in kept]
        with giving(model, given), self.on(without=[part for feature, _ in kept for part in feature.parts]):
            yield batch

    def _features(
        self, loaded: Loaded, family: Family, items: Sequence[Batch], feature: Feature
    ) -> list[Tensor]:
        """Return the features of all variants' media: those that leave the tower alone share theirs."""
        touching = [at for at in range(self.count) if any(under(p, feature.parts) for p in self._touched[at])]
        resting = [at for at in range(self.count) if at not in touching]
        towers = [*resting[:1], *touching]
        batch = family.collate(loaded.processor, list(items) * len(towers), "left")
        inputs = moved(batch, feature, self.model)
        with self.on(towers, within=feature.parts), torch.inference_mode():
            made = feature.compute(self.model, inputs, True)
        if len(towers) > 1 and feature.parts not in self._proven:
            self._prove(loaded, family, items, feature, towers, made)
        place = [towers.index(at if at in touching else resting[0]) for at in range(self.count)]
        pieces = [each.chunk(len(towers)) for each in made]
        return [torch.cat([piece[at] for at in place]) for piece in pieces]

    def _prove(
        self,
        loaded: Loaded,
        family: Family,
        items: Sequence[Batch],
        feature: Feature,
        towers: Sequence[int],
        made: Sequence[Tensor],
    ) -> None:
        """Hold the first features made together against each variant's own, or raise `NotMixed`.

        A tower may compute what is the same for all media once, as a Q-former does with its queries; the
        rows of such a product are not the variants', though their number may look so.
        """
        for at, variant in enumerate(towers):
            batch = moved(family.collate(loaded.processor, items, "left"), feature, self.model)
            with self.on([variant], within=feature.parts), torch.inference_mode():
                alone = feature.compute(self.model, batch, True)
            for each, own in zip(made, alone, strict=True):
                near = 1e-3 if own.dtype == torch.float32 else 5e-2
                if not torch.allclose(
                    each.chunk(len(towers))[at], own, rtol=near, atol=near * float(own.std())
                ):
                    raise NotMixed(f"'{feature.parts[0]}' does not compute each variant's media apart")
        self._proven.add(feature.parts)


class _Stack(NamedTuple):
    """One module's factors: ``a`` [n, in, rank] and ``b`` [n, rank, out] of the ``slots``' variants."""

    module: Any
    slots: Mapping[int, int]
    a: Tensor
    b: Tensor


#: Blocks of rows from ``first`` to before ``last``, and the factors of each of them.
_Piece = tuple[int, int, Tensor, Tensor]


def _pieces(stack: _Stack, chosen: Sequence[int]) -> list[_Piece]:
    """Return the fewest runs of chosen variants whose factors stand one after another; views, no copies."""
    runs: list[tuple[int, int, int]] = []  # the first row's block, the first slot, and how many follow
    for block, at in enumerate(chosen):
        slot = stack.slots.get(at)
        if slot is None:
            continue
        if runs and (block, slot) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((block, slot, 1))
    return [
        (block, block + size, stack.a[slot : slot + size], stack.b[slot : slot + size])
        for block, slot, size in runs
    ]


def _adding(path: str, count: int, pieces: Sequence[_Piece]) -> Any:
    """Return a hook that adds ``x @ a @ b`` to the rows of a linear module's output, block by block."""
    columns, rows, dtype = pieces[0][2].shape[1], pieces[0][3].shape[2], pieces[0][2].dtype

    def hook(_module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.numel() // rows % count:
            raise NotMixed(f"'{path}' is given its inputs one by one, not those of all variants together")
        x = args[0].reshape(count, -1, columns).to(dtype)
        y = output.reshape(count, -1, rows)
        for first, last, a, b in pieces:
            # In place: nobody else has seen what the linear module made.
            y[first:last].baddbmm_(torch.bmm(x[first:last], a), b)
        return y.view_as(output)

    return hook
