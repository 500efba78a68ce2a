"""Variants of one base side by side: the base itself, adapters on it, and full models.

    engine = Engine(base, {"base": None, "expert": adapter_folder, "merged": model_folder})
    engine.answer("expert", sample)

Adapters share the base's weights in memory, and one lock per model stands between choosing an adapter and
generating with it: two threads on an unguarded model answer with the wrong adapter more often than not.
Full models are loaded when they are asked for, and the least recently used one makes room.
"""

from __future__ import annotations

import gc
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studio import generate
from studio.adapters import CONFIG_FILE, WEIGHTS_FILE, is_adapter, load_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, UnknownName
from studio.families import detect
from studio.files import folder_hash, sha256_file
from studio.prompts import Prompts
from studio.types import Family, Loaded, Sample

_PROCESSOR_FILES = (
    "*token*.json",
    "*processor*.json",
    "vocab*",
    "merges*",
    "*.jinja",
    "generation_config.json",
)


class Engine:
    """Answers from any of the variants, from any thread, each time with the right weights.

    ``variants`` maps a name to None (the base itself), an adapter's folder or a full model's folder.
    ``dtype`` defaults to float32 on a CPU and bfloat16 elsewhere. Besides the base at most ``max_models``
    full models are held at once.

    Raises `CheckpointError` when a folder is neither an adapter nor a model, or an adapter says that it was
    made for another base. Weights are loaded at first use.
    """

    def __init__(
        self,
        base: Path | str,
        variants: Mapping[str, Path | str | None],
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        max_models: int = 2,
    ) -> None:
        """Check the folders of all variants; load none of them."""
        if max_models < 1:
            raise ConfigError(f"max_models is {max_models}; at least 1 is needed")
        self.base = Path(base)
        self._variants = {name: Path(path) if path is not None else None for name, path in variants.items()}
        self._device = device
        self._dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        self._max_models = max_models
        self._prompts: dict[str, Prompts] = {}
        self._table = threading.Lock()
        self._base = _Resident(self.base, self._device, self._dtype)
        self._others: OrderedDict[Path, _Resident] = OrderedDict()
        for name, path in self._variants.items():
            self._check(name, path)

    @property
    def names(self) -> tuple[str, ...]:
        """The variants' names, in the order in which they were given."""
        return tuple(self._variants)

    def answer(self, name: str, sample: Sample, **settings: Any) -> str:
        """Return one variant's answer to one sample; settings as for `studio.generate.answers`."""
        return self.answers(name, [sample], **settings)[0]

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        """Return one variant's answers to many samples; settings as for `studio.generate.answers`.

        The model is held for one batch at a time, so others are answered in between.
        """
        resident, adapter = self._resident(name)
        loaded = resident.loaded()
        return generate.answers(
            loaded,
            resident.family,
            samples,
            encode=self._encode(resident, loaded),
            within=partial(resident.using, adapter),
            **settings,
        )

    def stream(self, name: str, sample: Sample, **settings: Any) -> Iterator[str]:
        """Yield one variant's answer as it grows; settings as for `studio.generate.stream`."""
        resident, adapter = self._resident(name)
        loaded = resident.loaded()
        yield from generate.stream(
            loaded,
            resident.family,
            sample,
            encode=self._encode(resident, loaded),
            within=partial(resident.using, adapter),
            **settings,
        )

    def fingerprint(self, name: str) -> str:
        """Return a sha256 over what decides a variant's answers: weights, processor and precision."""
        path = self._path(name)
        adapter = path if path is not None and is_adapter(path) else None
        model = self.base if path is None or adapter else path
        parts = [Checkpoint(model).fingerprint(), str(self._dtype)]
        parts.append(folder_hash(model, ("config.json", *_PROCESSOR_FILES)))
        if adapter is not None:
            parts += [sha256_file(adapter / file) for file in (WEIGHTS_FILE, CONFIG_FILE)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _path(self, name: str) -> Path | None:
        if name not in self._variants:
            raise UnknownName("variant", name, self._variants)
        return self._variants[name]

    def _check(self, name: str, path: Path | None) -> None:
        if path is None:
            return
        if not is_adapter(path):
            detect(path)
            return
        adapter = read_adapter(path)
        own = Checkpoint(self.base).fingerprint()
        if adapter.base_fingerprint not in ("", own):
            raise CheckpointError(
                f"variant '{name}': {path} was made for the base {adapter.base or 'of another fingerprint'} "
                f"({adapter.base_fingerprint[:12]}), not for {self.base} ({own[:12]})"
            )

    def _resident(self, name: str) -> tuple[_Resident, Path | None]:
        """Return the model that a variant lives on, and the variant's adapter on it."""
        path = self._path(name)
        alone = path is not None and is_adapter(path) and _changes_base(path)
        if path is None or (is_adapter(path) and not alone):
            return self._base, path
        with self._table:
            found = self._others.pop(path, None) or _Resident(
                self.base if alone else path, self._device, self._dtype
            )
            self._others[path] = found
            most = self._max_models
            gone = [self._others.popitem(last=False)[1] for _ in range(len(self._others) - most)]
        for resident in gone:
            resident.unload()
        return found, path if alone else None

    def _encode(self, resident: _Resident, loaded: Loaded) -> Prompts:
        """Return the memory of encoded prompts, shared by models with the same processor."""
        with self._table:
            key = resident.processor_hash
            if key not in self._prompts:
                self._prompts[key] = Prompts(resident.family, loaded.processor)
            return self._prompts[key]


class _Resident:
    """One model in memory with the adapters on it, and the lock behind which it works."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        """Find the family of the model in ``folder``; load nothing."""
        self.family: Family = detect(folder)
        self.processor_hash = f"{self.family.name}:{folder_hash(folder, _PROCESSOR_FILES)}"
        self._folder, self._device, self._dtype = folder, device, dtype
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._adapted: Any = None
        self._slots: dict[Path, str] = {}

    def loaded(self) -> Loaded:
        """Return the model and its processor, loading them at first use."""
        found = self._loaded
        if found is None:
            with self._lock:
                found = self._load()
        return found

    @contextmanager
    def using(self, adapter: Path | None) -> Iterator[Loaded]:
        """Hold the model with one adapter switched on, or with none, for as long as the block lasts."""
        with self._lock:
            loaded = self._load()
            if adapter is not None:
                slot = self._slot(adapter)
                self._adapted.set_adapter(slot, inference_mode=True)
                self._adapted.base_model.enable_adapter_layers()
            elif self._adapted is not None:
                self._adapted.base_model.disable_adapter_layers()
            yield loaded

    def unload(self) -> None:
        """Give the memory back, after the work in progress."""
        with self._lock:
            self._loaded, self._adapted, self._slots = None, None, {}
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _load(self) -> Loaded:
        if self._loaded is None:
            self._loaded = self.family.load(self._folder, dtype=self._dtype, device=self._device)
        return self._loaded

    def _slot(self, adapter: Path) -> str:
        """Return the name under which an adapter hangs on the model, hanging it there at first use."""
        if adapter not in self._slots:
            name = f"variant{len(self._slots)}"
            try:
                model = self._adapted if self._adapted is not None else self._load().model
                self._adapted = load_adapter(model, adapter, adapter_name=name)
            except BaseException:  # a model with half an adapter on it is not used again
                self._loaded, self._adapted, self._slots = None, None, {}
                raise
            self._slots[adapter] = name
        return self._slots[adapter]


def _changes_base(adapter: Path) -> bool:
    """Return whether an adapter trains the base's own biases, which then cannot be shared with others."""
    return str(read_adapter(adapter).config.get("bias", "none")) != "none"
