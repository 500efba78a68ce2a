"""One model in memory with the variants on it, and the lock behind which it works.

Most adapters only add factors to linear modules: those are kept as stacks (`studio.mixed`) that hooks add
while a variant answers, alone or together with others, so that the base itself never changes. The rest (DoRA,
whole modules, other methods) hang on the model by PEFT and are switched.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from studio.adapter_note import read_note
from studio.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError
from studio.families import detect
from studio.files import folder_hash
from studio.mixed import Mixed, Modules, refusal
from studio.types import Family, Loaded

PROCESSOR_FILES = (
    "*token*.json",
    "*processor*.json",
    "vocab*",
    "merges*",
    "*.jinja",
    "generation_config.json",
)
#: Stacks of factors kept: each choice of variants that answer together has its own.
_STACKS = 8


@dataclass(frozen=True, kw_only=True)
class Live:
    """A variant that is in no file: factors by module, and a hash that tells it from others."""

    modules: Modules
    digest: str


#: What answers on a base: the base itself, an adapter's folder, or a live variant.
Weights = Path | Live | None
#: A folder's adapter as it was when it was read: another file is another adapter.
_Stamp = tuple[Path, tuple[int, ...]]


class Resident:
    """A model that is loaded at first use, and answers as one variant at a time or as several together."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        """Find the family of the model in ``folder``; load nothing."""
        self.family: Family = detect(folder)
        self.processor_hash = f"{self.family.name}:{folder_hash(folder, PROCESSOR_FILES)}"
        self._folder, self._device, self._dtype = folder, device, dtype
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._adapted: Any = None
        self._slots: dict[Path, tuple[_Stamp, str]] = {}
        self._stacks: OrderedDict[tuple[Any, ...], Mixed] = OrderedDict()
        self._slot_number = 0

    @cached_property
    def weight_bytes(self) -> int:
        """The bytes of the weights in memory, from what the files say of their shapes."""
        checkpoint = Checkpoint(self._folder)
        return sum(prod(checkpoint.shape(name)) for name in checkpoint.names()) * self._dtype.itemsize

    def loaded(self) -> Loaded:
        """Return the model and its processor, loading them at first use."""
        found = self._loaded
        if found is None:
            with self._lock:
                found = self._load()
        return found

    @contextmanager
    def using(self, weights: Weights) -> Iterator[Loaded]:
        """Hold the model as one variant for as long as the block lasts."""
        with self._lock:
            loaded = self._load()
            if isinstance(weights, Path) and why_apart(weights):
                slot = self._slot(weights)
                self._adapted.set_adapter(slot, inference_mode=True)
                self._adapted.base_model.enable_adapter_layers()
                yield loaded
                return
            self._bare()
            if weights is None:
                yield loaded
                return
            with self._stack([weights]).on():
                yield loaded

    @contextmanager
    def mixing(self, variants: Sequence[Weights]) -> Iterator[tuple[Loaded, Mixed]]:
        """Hold the model and the stack of variants none of which is `why_apart`, for the block."""
        with self._lock:
            loaded = self._load()
            self._bare()
            yield loaded, self._stack(variants)

    def unload(self) -> None:
        """Give the memory back, after the work in progress."""
        with self._lock:
            self._drop()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _drop(self) -> None:
        self._loaded, self._adapted, self._slots = None, None, {}
        self._stacks.clear()

    def _load(self) -> Loaded:
        if self._loaded is None:
            self._loaded = self.family.load(self._folder, dtype=self._dtype, device=self._device)
        return self._loaded

    def _bare(self) -> None:
        if self._adapted is not None:
            self._adapted.base_model.disable_adapter_layers()

    def _stack(self, variants: Sequence[Weights]) -> Mixed:
        """Return the stacked factors of variants, as their files are now; the last few stay in memory."""
        key = tuple(_stamp(each) if isinstance(each, Path) else each and each.digest for each in variants)
        found = self._stacks.pop(key, None)
        if found is None:
            modules = [_modules(each) for each in variants]
            try:
                found = Mixed(self._load().model, modules)
            except (AttributeError, RuntimeError) as error:
                name = next((str(each) for each in variants if isinstance(each, Path)), "a live variant")
                raise CheckpointError(f"{name} does not fit the model: no match for it ({error})") from None
        self._stacks[key] = found
        while len(self._stacks) > _STACKS:
            self._stacks.popitem(last=False)
        return found

    def _slot(self, adapter: Path) -> str:
        """Return the name under which an adapter hangs on the model, hanging it there at first use.

        One whose files have changed is hung anew.
        """
        stamp = _stamp(adapter)
        if adapter in self._slots and self._slots[adapter][0] != stamp:
            self._adapted.delete_adapter(self._slots.pop(adapter)[1])
        if adapter not in self._slots:
            name = f"variant{self._slot_number}"
            self._slot_number += 1
            try:
                model = self._adapted if self._adapted is not None else self._load().model
                self._adapted = load_adapter(model, adapter, adapter_name=name)
            except BaseException:  # a model with half an adapter on it is not used again
                self._drop()
                raise
            self._slots[adapter] = stamp, name
        return self._slots[adapter][1]


def why_apart(adapter: Path) -> str:
    """Return why an adapter cannot answer in one batch with others, as a clause, or the empty string."""
    return _why_apart(_stamp(adapter))


@lru_cache(maxsize=256)
def _why_apart(stamp: _Stamp) -> str:
    kind = read_note(stamp[0]).kind
    return refusal(read_adapter(stamp[0])) if kind == "LORA" else f"it is of type {kind}"


def touched(weights: Weights) -> frozenset[str]:
    """Return the paths of the modules that a variant changes, none for the base itself."""
    if isinstance(weights, Path):
        return _touched(_stamp(weights))
    return frozenset(weights.modules if weights is not None else ())


@lru_cache(maxsize=256)
def _touched(stamp: _Stamp) -> frozenset[str]:
    return frozenset(read_adapter(stamp[0]).names())


def _modules(weights: Weights) -> Modules:
    if weights is None:
        return {}
    return weights.modules if isinstance(weights, Live) else dict(read_adapter(weights).modules)


def _stamp(adapter: Path) -> _Stamp:
    """Return what tells an adapter's files from others in the same place."""
    found: list[int] = []
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        try:
            stat = os.stat(adapter / name)
        except OSError as error:
            raise CheckpointError(
                f"{adapter / name} cannot be read ({error.strerror}); was it moved?"
            ) from None
        found += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return adapter, tuple(found)
