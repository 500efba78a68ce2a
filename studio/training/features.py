"""What frozen towers make of media, computed once for each medium: later epochs and runs skip the towers.

A tower that does not learn makes the same of a medium in every epoch. So before the first step the features
of all media are computed, in files that are mapped (`feature_files`), and batches then carry them instead of
the media. The cut goes as far as nothing learns: behind the projector, or before it if it is trained. How a
family's features are computed and given to its model, it says itself (`Family.features`).

    features = TowerCache(model, gauge, log, device=device, dtype=dtype)
    if not features.fill([data], collate):          # computed, or found in the cache
        collate = features.collate(collate)         # of rows whose media are now features
        features.attach(data)

Features are named by their medium's tensors, and lie under a key of everything that made them: the weights
of the towers, the configuration, the processor, the code, the type computed in, the kind of device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from studio.families._gauge import Gauge
from studio.log import Log
from studio.training.encoding import Encoded
from studio.training.feature_files import FeatureFiles, fits
from studio.training.feature_key import feature_key, under
from studio.training.shards import TEXT
from studio.types import Batch, Family, Feature

#: Media in one file, and media that go through a tower together where they are of one shape.
FILE, TOGETHER = 32, 8
#: What a batch's features are called: this, the modality, and a number.
_PREFIX = "kept"
Collate = Callable[[Sequence[Batch]], Batch]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the features of one modality are taken: behind the projectors, or before them if they learn."""

    modality: str
    feature: Feature
    projected: bool

    def key(self, number: int) -> str:
        """Return what the features' tensor ``number`` is called in a batch."""
        return f"{_PREFIX}.{self.modality}.{number}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys of all tensors that decide what the features are."""
        return (*self.feature.takes, *self.feature.reads)


class TowerCache:
    """The features of a run's media, and the hook by which its model gets them."""

    def __init__(
        self,
        model: Any,
        gauge: Gauge,
        log: Log,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Find out which towers of ``model`` can be skipped: `cuts`; the log says why others cannot.

        ``model`` is whole and on ``device``; ``dtype`` is what the loss is computed in.
        """
        self.model = model
        self._gauge = gauge
        self._inner, self._log = inner_model(model), log
        self._device, self._dtype = device, dtype
        self._media: WeakKeyDictionary[Encoded, dict[str, dict[int, str]]] = WeakKeyDictionary()
        self._hook = model.register_forward_pre_hook(self._give, with_kwargs=True)
        self.cuts: dict[str, Cut] = {cut.modality: cut for cut in self._possible(gauge.family)}
        self._files = {
            modality: FeatureFiles(feature_key(self._inner, gauge, cut.feature, cut.projected, device, dtype))
            for modality, cut in self.cuts.items()
        }

    def _possible(self, family: Family) -> Iterator[Cut]:
        """Yield the modalities whose towers do not learn."""
        if not family.features:
            self._log.say(f"tower_cache: off; family {family.name} does not say how features are kept")
            return
        for modality in sorted(family.modalities - family.features.keys() - {"text"}):
            self._log.say(f"tower_cache: {modality} is computed in every step in family {family.name}")
        for modality, feature in family.features.items():
            learning = {n for n, p in self._inner.named_parameters() if p.requires_grad}
            parts, last = (
                {name for name in learning if under(name, paths)}
                for paths in (feature.parts, feature.projectors)
            )
            reason = feature.refuse(self._inner.config)
            if not reason and parts - last:
                reason = f"'{min(parts - last)}' learns"
            if reason:
                self._log.say(f"tower_cache: {modality} is computed in every step, because {reason}")
            else:
                yield Cut(modality=modality, feature=feature, projected=not parts)

    @property
    def told(self) -> str:
        """How many features of which modality there are, and where they were taken, as a clause."""
        clauses = []
        for name, cut in self.cuts.items():
            media = {medium for known in self._media.values() for medium in known.get(name, {}).values()}
            where = "" if cut.projected else ", before the projector"
            if media:
                clauses.append(f"features of {len(media)} media ({name}{where})")
        return ", ".join(clauses)

    def fill(self, datasets: Iterable[Encoded], collate: Collate, *, part: tuple[int, int] = (0, 1)) -> str:
        """Compute the features that are not kept yet; return why that cannot be done, or the empty string.

        ``part`` = (i, n) computes every n-th file from the i-th on, so that n processes share the work;
        `attach` after all of them have come here.
        """
        for cut in self.cuts.values():
            found: dict[str, tuple[Encoded, int]] = {}
            for data in datasets:
                for index, medium in self._names(data, cut).items():
                    found.setdefault(medium, (data, index))
            try:
                with evaluating(self._inner):  # once: it looks at every module
                    reason = self._fill(cut, found, collate, part)
                if reason:
                    return reason
            except OSError as error:
                return f"the features of {cut.modality} cannot be written ({error.strerror or error})"
            except torch.OutOfMemoryError:
                return f"there is no memory for computing the features of {cut.modality}"
        return ""

    def _fill(
        self, cut: Cut, found: Mapping[str, tuple[Encoded, int]], collate: Collate, part: tuple[int, int]
    ) -> str:
        files, media = self._files[cut.modality], list(found)
        missing = [medium for medium in media if medium not in files]
        if missing:
            data, index = found[missing[0]]
            first = self._compute(cut, [self._item(cut, data, index)], collate)[0]
            if reason := fits(len(missing), sum(each.nbytes for each in first)):
                return reason
            self._log.stage(f"features of {cut.modality}", len(missing), "media")
        # The files are cut from all media, so that processes which begin at different times cut alike.
        chunks = [media[at : at + FILE] for at in range(0, len(media), FILE)]
        for chunk in chunks[part[0] :: part[1]]:
            if any(medium not in files for medium in chunk):
                files.refresh()
            wanted = [medium for medium in chunk if medium not in files]
            made: dict[str, list[Tensor]] = {}
            for group in self._alike(cut, wanted, found):
                items = [self._item(cut, *found[medium]) for medium in group]
                made |= zip(group, self._compute(cut, items, collate), strict=True)
                self._log.advance(len(group))
            if made:
                files.write(hashlib.sha256(" ".join(made).encode()).hexdigest()[:32], made)
        return ""

    def compute(self, data: Encoded, rows: Sequence[int], collate: Collate) -> Batch:
        """Return the batch of ``rows`` with features instead of media, computed now and kept nowhere."""
        batch = collate([data.tensors(row, data.keys(row)) for row in rows])
        for cut in self.cuts.values():
            heard = [row for row in rows if set(cut.feature.takes) & set(data.keys(row))]
            with evaluating(self._inner):
                made = [self._compute(cut, [self._item(cut, data, row)], collate)[0] for row in heard]
            for key in cut.feature.takes:
                batch.pop(key, None)
            if made:
                batch |= {
                    cut.key(number): torch.cat(each) for number, each in enumerate(zip(*made, strict=True))
                }
        return batch

    def rows_with_media(self, data: Encoded, most: int = 4) -> list[int]:
        """Return the first rows with media of each kind, about ``most`` together."""
        kinds = [list(self._names(data, cut)) for cut in self.cuts.values()]
        each = most // max(1, len(kinds))
        return sorted({row for rows in kinds for row in rows[: max(1, each)]})

    def attach(self, data: Encoded) -> bool:
        """Let the rows of ``data`` come with their features; return whether all of them are known.

        Rows whose media were augmented have new ones: a modality of which one is unknown stays as it is.
        """
        whole = []
        for cut in self.cuts.values():
            files = self._files[cut.modality]
            files.refresh()
            media = self._names(data, cut)
            if all(medium in files for medium in media.values()):
                whole.append((cut, media))

        def instead(index: int) -> tuple[Collection[str], Batch]:
            gone: list[str] = []
            more: Batch = {}
            for cut, media in whole:
                if index in media:
                    gone += cut.feature.takes
                    kept = self._files[cut.modality].get(media[index])
                    more |= {cut.key(number): each for number, each in enumerate(kept)}
            return gone, more

        data.instead = instead
        return len(whole) == len(self.cuts)

    def collate(self, collate: Collate) -> Collate:
        """Return ``collate`` for rows with features: each of their tensors is joined along its first axis."""

        def joined(items: Sequence[Batch]) -> Batch:
            rest = [{key: v for key, v in item.items() if not _kept(key)} for item in items]
            keys = {key: None for item in items for key in item if _kept(key)}
            batch = collate(rest)
            return batch | {key: torch.cat([item[key] for item in items if key in item]) for key in keys}

        return joined

    def close(self) -> None:
        """Take the hook off the model; rows with features can no longer be given to it."""
        self._hook.remove()

    def _names(self, data: Encoded, cut: Cut) -> dict[int, str]:
        """Return the names of the media of all rows that have some, by row."""
        of_data = self._media.setdefault(data, {})
        if (known := of_data.get(cut.modality)) is None:
            known = of_data[cut.modality] = {}
            for index in range(len(data)):
                keys = [key for key in cut.inputs if key in data.keys(index)]
                if set(keys) & set(cut.feature.takes):
                    known[index] = data.digest(index, keys)
        return known

    def _item(self, cut: Cut, data: Encoded, index: int) -> Batch:
        wanted = (*TEXT, *cut.inputs)
        return data.tensors(index, (key for key in data.keys(index) if key in wanted))

    def _alike(
        self, cut: Cut, media: Sequence[str], found: Mapping[str, tuple[Encoded, int]]
    ) -> Iterator[list[str]]:
        """Yield groups of media of which the towers make equally much."""
        groups: dict[str, list[str]] = {}
        for medium in media:
            item = self._item(cut, *found[medium])
            shapes = {key: list(item[key].shape) for key in cut.feature.takes if key in item}
            values = {key: item[key].tolist() for key in cut.feature.reads if key in item}
            told = [shapes, values, dict(self._gauge.length_of(item).wanted)]
            groups.setdefault(json.dumps(told), []).append(medium)
        for group in groups.values():
            yield from (group[at : at + TOGETHER] for at in range(0, len(group), TOGETHER))

    def _compute(self, cut: Cut, items: Sequence[Batch], collate: Collate) -> list[list[Tensor]]:
        """Return the features of items of which the towers make equally much; the model is `evaluating`."""
        batch = collate(items)
        batch = {key: value.to(self._device) for key, value in batch.items() if key in cut.inputs}
        with torch.no_grad(), self._autocast():
            made = cut.feature.compute(self._inner, batch, cut.projected)
        pieces: list[list[Tensor]] = [[] for _ in items]
        for each in made:
            assert len(each) % len(items) == 0, (cut.modality, each.shape, len(items))
            for piece, share in zip(pieces, each.cpu().chunk(len(items)), strict=True):
                piece.append(share)
        return pieces

    def _autocast(self) -> Any:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _give(self, _model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Turn a batch's features into what the model's forward takes."""
        if not any(_kept(key) for key in kwargs):
            return None
        rest = {key: value for key, value in kwargs.items() if not _kept(key)}
        for cut in self.cuts.values():
            count = sum(key.startswith(cut.key(0)[:-1]) for key in kwargs)
            if not count:
                continue
            features = [kwargs[cut.key(number)] for number in range(count)]
            for name, value in cut.feature.give(self._inner, rest, features, cut.projected).items():
                both = type(value) is dict and name in rest  # by modality, each from its own tower
                rest[name] = rest[name] | value if both else value
        return args, rest


def inner_model(model: Any) -> Any:
    """Return the model that an adapter is put around, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off for the block."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _kept(key: str) -> bool:
    return key.startswith(_PREFIX + ".")
