"""What towers make of media, computed once for all variants that leave them as they are.

Adapters on the language model, or on it and the projectors, see through the base's own eyes and ears. The
features of a sample's media are then those of every such variant: they are computed for the first one that is
asked, up to the projectors where one of the variants changes these, and given to the others.

    memory = TowerMemory(family)
    with memory.batch(loaded, samples, items, taken=resting(family, touched, name)) as batch:   # no pixels
        ids = model.generate(**batch)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from studio.prompts import sample_key
from studio.types import Batch, Family, Feature, Loaded, Modality, Sample


def resting(family: Family, touched: Mapping[str, Collection[str]], name: str) -> dict[Modality, bool]:
    """Return the modalities whose towers neither ``name`` nor another of the variants changes.

    ``touched`` holds the module paths that each variant changes. The value says whether the features can be
    taken behind the projectors: none of those variants changes these either.
    """
    found: dict[Modality, bool] = {}
    for modality, feature in family.features.items():
        own = {each: _inside(frozenset(paths), feature.parts) for each, paths in touched.items()}
        rest = [each for each, paths in own.items() if all(under(p, feature.projectors) for p in paths)]
        if name in rest and len(rest) > 1:
            found[modality] = not any(own[each] for each in rest)
    return found


@lru_cache(maxsize=1024)
def _inside(paths: frozenset[str], parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths under the parts; asked again with every question, for every variant."""
    return tuple(path for path in paths if under(path, parts))


class TowerMemory:
    """Features of samples' media, at most ``limit`` bytes of them, those used last."""

    def __init__(self, family: Family, *, limit: int = 256 << 20) -> None:
        """Begin with an empty memory for models of a family."""
        self._family, self._limit = family, limit
        self._kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()
        self._bytes = 0
        self._proven: set[tuple[Modality, bool]] = set()
        self._apart: set[tuple[Modality, bool]] = set()

    @contextmanager
    def batch(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        items: Sequence[Batch],
        *,
        taken: Mapping[Modality, bool],
    ) -> Iterator[Batch]:
        """Yield the encoded samples padded on the left, with features in place of media of ``taken``.

        The caller holds the model, as a variant for which they are `resting`; the model gets the features at
        its first step.
        """
        model, family = loaded.model, self._family
        batch = family.collate(loaded.processor, items, "left")
        given: list[tuple[Feature, list[Tensor], bool]] = []
        read: Batch = {}
        # An encoder is the tower there, and keeps what it made for its own decoder.
        own = getattr(model.config, "is_encoder_decoder", False)
        for modality, projected in taken.items() if not own else ():
            feature = family.features[modality]
            if feature.takes[0] not in batch or feature.refuse(model.config):
                continue
            made = self._features(loaded, modality, projected, samples, items)
            if made is None:
                continue
            given.append((feature, made, projected))
            read |= {key: batch[key] for key in feature.reads if key in batch}
            for key in feature.takes:
                batch.pop(key, None)
        with giving(model, given, read):
            yield batch

    def forget(self) -> None:
        """Remember nothing; features that a batch in progress uses stay its own."""
        self._kept, self._bytes = OrderedDict(), 0

    def _features(
        self,
        loaded: Loaded,
        modality: Modality,
        projected: bool,
        samples: Sequence[Sample],
        items: Sequence[Batch],
    ) -> list[Tensor] | None:
        """Return the features of all samples' media in order; None where they cannot be told apart."""
        feature = self._family.features[modality]
        heard = [at for at, item in enumerate(items) if feature.takes[0] in item]
        keys = {at: (modality, projected, sample_key(samples[at])) for at in heard}
        found = {at: kept for at in heard if (kept := self._known(keys[at])) is not None}
        missing = [at for at in heard if at not in found]
        if missing:
            made = self._compute(loaded, modality, projected, [items[at] for at in missing])
            if made is None:
                return None
            for at, each in zip(missing, made, strict=True):
                found[at] = each
                if keys[at][2] is not None:
                    self._keep(keys[at], each)
        return [torch.cat(each) for each in zip(*(found[at] for at in heard), strict=True)]

    def _compute(
        self, loaded: Loaded, modality: Modality, projected: bool, items: Sequence[Batch]
    ) -> list[list[Tensor]] | None:
        """Return the features [n_i, D] of each sample, cut by how many places its media need in the text."""
        feature, model = self._family.features[modality], loaded.model
        if (modality, projected) in self._apart:
            return None

        def compute(some: Sequence[Batch]) -> list[Tensor]:
            batch = moved(self._family.collate(loaded.processor, some, "left"), feature, model)
            with torch.inference_mode():
                return feature.compute(model, batch, projected)

        made = compute(items)
        for counts in self._proportions(model, modality, items):
            sizes = _sizes(made, counts)
            if sizes and (len(set(counts)) == 1 or self._proof(modality, projected, compute, items, sizes)):
                cut = [torch.split(each, size) for each, size in zip(made, sizes, strict=True)]
                # Slices would keep the whole batch in memory.
                return [[each.clone() for each in row] for row in zip(*cut, strict=True)]
        self._apart.add((modality, projected))
        return None

    def _proportions(self, model: Any, modality: Modality, items: Sequence[Batch]) -> Iterator[list[int]]:
        """Yield what the samples' numbers of features may be in proportion to."""
        feature, tokens = self._family.features[modality], self._family.media_tokens
        kinds = {
            (
                tuple((key, item[key].shape) for key in feature.takes if key in item),
                tuple((key, str(item[key].tolist())) for key in feature.reads if key in item),
            )
            for item in items
        }
        if len(kinds) == 1:
            yield [1] * len(items)
            return
        if tokens is not None:
            yield [tokens(model.config, item).get(modality, 0) for item in items]
        yield [item[feature.takes[0]].numel() for item in items]

    def _proof(
        self,
        modality: Modality,
        projected: bool,
        compute: Callable[[Sequence[Batch]], list[Tensor]],
        items: Sequence[Batch],
        sizes: Sequence[Sequence[int]],
    ) -> bool:
        """Return whether the first samples of different sizes, computed alone, have these sizes.

        What a place stands for may differ from medium to medium, as where rows of tiles have an end.
        """
        if (modality, projected) not in self._proven:
            for at in {sizes[0].index(min(sizes[0])), sizes[0].index(max(sizes[0]))}:
                if [len(each) for each in compute([items[at]])] != [size[at] for size in sizes]:
                    return False
            self._proven.add((modality, projected))
        return True

    def _known(self, key: Hashable) -> list[Tensor] | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: Hashable, features: list[Tensor]) -> None:
        self._bytes += sum(each.nbytes for each in features) - sum(
            each.nbytes for each in self._kept.pop(key, [])
        )
        self._kept[key] = features
        while self._bytes > self._limit:
            self._bytes -= sum(each.nbytes for each in self._kept.popitem(last=False)[1])


def _sizes(made: Sequence[Tensor], counts: Sequence[int]) -> list[list[int]]:
    """Return how many rows of each tensor are each sample's; nothing where the counts do not divide them."""
    whole = sum(counts)
    if not whole or any(len(each) * count % whole for each in made for count in counts):
        return []
    return [[len(each) * count // whole for count in counts] for each in made]


@contextmanager
def giving(
    model: Any, given: Sequence[tuple[Feature, Sequence[Tensor], bool]], read: Batch | None = None
) -> Iterator[None]:
    """Give features to the model's first step inside the block; with each, whether they are projected.

    ``read`` is what the features are made with beside the media: `generate` keeps it from the model where
    there are no pixels.
    """
    pending = bool(given)

    def give(_model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        nonlocal pending
        if not pending:
            return None
        pending = False
        rest = dict(kwargs)
        for feature, features, projected in given:
            for name, value in feature.give(model, {**(read or {}), **rest}, features, projected).items():
                rest[name] = {**rest.get(name, {}), **value} if isinstance(value, dict) else value
        return args, rest

    hook = model.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def moved(batch: Batch, feature: Feature, model: Any) -> Batch:
    """Return what a feature is made of, on the model's device and in its type."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in batch.items()
        if key in (*feature.takes, *feature.reads)
    }


def under(path: str, parts: Sequence[str]) -> bool:
    """Return whether a module's path is one of the parts or lies under one; "" is above all."""
    return any(not part or path == part or path.startswith(part + ".") for part in parts)
