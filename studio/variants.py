"""Variants of one base side by side: the base itself, adapters on it, live merges, and full models.

    engine = Engine(base, {"base": None, "expert": adapter_folder, "merged": model_folder})
    engine.answer("expert", sample)
    engine.together(["base", "expert"], samples)      # one batch for both, where that is exact

Adapters share the base's weights in memory, and one lock per model stands between choosing an adapter and
generating with it: two threads on an unguarded model answer with the wrong adapter more often than not.
Full models are loaded when they are asked for, and the least recently used one makes room.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from studio import generate
from studio.adapter_note import read_note
from studio.adapters import CONFIG_FILE, WEIGHTS_FILE, is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, ConfigError, UnknownName
from studio.families import detect
from studio.files import folder_hash, sha256_file
from studio.likelihood import log_probs
from studio.log import Log
from studio.mixed import Modules, NotMixed
from studio.prompts import Prompts
from studio.resident import PROCESSOR_FILES, Live, Resident, Weights, touched, why_apart
from studio.tower_memory import TowerMemory, resting
from studio.types import Family, Loaded, Sample


class Engine:
    """Answers from any of the variants, from any thread, each time with the right weights.

    ``variants`` maps a name to None (the base itself), an adapter's folder or a full model's folder.
    ``dtype`` defaults to float32 on a CPU and bfloat16 elsewhere. Besides the base at most ``max_models``
    full models are held at once (2), or as many as fit with it into ``memory`` bytes of weights; the one that
    is asked is always held.

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
        max_models: int | None = None,
        memory: int = 0,
    ) -> None:
        """Check the folders of all variants; load none of them."""
        max_models = (sys.maxsize if memory else 2) if max_models is None else max_models
        if max_models < 1:
            raise ConfigError(f"max_models is {max_models}; at least 1 is needed")
        if memory < 0:
            raise ConfigError(f"memory is {memory}; it is a number of bytes, or 0 for any")
        self.base = Path(base)
        self._variants: dict[str, Weights] = {
            name: Path(path) if path is not None else None for name, path in variants.items()
        }
        self._device = device
        self._dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        self._max_models, self._memory = max_models, memory
        self._prompts: dict[str, Prompts] = {}
        self._table = threading.Lock()
        self._base = Resident(self.base, self._device, self._dtype)
        self._seen = TowerMemory(self._base.family)
        self._others: OrderedDict[Path, Resident] = OrderedDict()
        for name, path in variants.items():
            self._check(name, Path(path) if path is not None else None)

    @property
    def names(self) -> tuple[str, ...]:
        """The variants' names, in the order in which they were given."""
        return tuple(self._variants)

    @property
    def folders(self) -> dict[str, Path | None]:
        """The variants that lie in folders, None for the base itself; live ones are not among them."""
        return {name: each for name, each in self._variants.items() if not isinstance(each, Live)}

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
            collate=self._shared(name),
            **settings,
        )

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        """Return how likely one variant finds given answers; as `studio.likelihood.log_probs`."""
        resident, adapter = self._resident(name)
        held = partial(resident.using, adapter)
        return log_probs(resident.loaded(), resident.family, samples, answers, within=held, **settings)

    def held(self, name: str) -> tuple[Family, Loaded, Callable[[], AbstractContextManager[Loaded]]]:
        """Return a variant's family, its loaded base, and what holds the model as the variant for a block."""
        resident, adapter = self._resident(name)
        return resident.family, resident.loaded(), partial(resident.using, adapter)

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

    def together(
        self, names: Sequence[str], samples: Sequence[Sample], *, log: Log | None = None, **settings: Any
    ) -> dict[str, list[str]]:
        """Return several variants' answers to many samples; the answers are those of `answers`.

        Variants that `apart` has no word against answer in one batch of ``batch_size`` rows (16), which runs
        the base, and towers that they leave alone, once for all of them; the others answer in turn.
        """
        samples = list(samples)
        mixing = [name for name in dict.fromkeys(names) if not self.apart(name)]
        found: dict[str, list[str]] = {}
        if len(mixing) > 1 and samples:
            try:
                found = self._mixed(mixing, samples, log, **settings)
            except NotMixed as reason:
                if log is not None:
                    log.say(f"{', '.join(mixing)} answer in turn, because {reason}")
        for name in names:
            if name not in found:
                found[name] = self.answers(name, samples, log=log, **settings)
        return {name: found[name] for name in names}

    def stream_together(
        self, names: Sequence[str], sample: Sample, *, stop: threading.Event | None = None, **settings: Any
    ) -> Iterator[dict[str, str]]:
        """Yield several variants' answers as they grow in one batch; each of them must not be `apart`.

        The last ones are what `answers` returns. Closing the iterator ends the work at the next token.

        Raises:
            NotMixed: if the model turns out not to take them together; nothing was yielded then.
        """
        generate.check_settings(**settings)
        weights = [self._weights(name) for name in names]
        over = threading.Event()
        halts = [over] if stop is None else [over, stop]
        grown: SimpleQueue[list[list[str]] | BaseException | None] = SimpleQueue()
        loaded = self._base.loaded()
        items = [self._encode(self._base, loaded)(sample)]

        def work() -> None:
            try:
                with self._base.mixing(weights) as (held, mixed):
                    told = generate.together(
                        held, self._base.family, items, mixed, stop=halts, grown=grown.put, **settings
                    )
                grown.put(told)
            except BaseException as error:
                grown.put(error)
            grown.put(None)

        worker = threading.Thread(target=work, name="stream", daemon=True)
        worker.start()
        try:
            while (told := grown.get()) is not None:
                if isinstance(told, BaseException):
                    raise told
                yield {name: texts[0] for name, texts in zip(names, told, strict=True)}
        finally:
            over.set()
            worker.join()

    def _mixed(
        self,
        names: Sequence[str],
        samples: Sequence[Sample],
        log: Log | None,
        *,
        batch_size: int = 16,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> dict[str, list[str]]:
        """Answer in mixed batches of rows of like length."""
        generate.check_settings(max_new_tokens=max_new_tokens, batch_size=batch_size, temperature=temperature)
        weights = [self._weights(name) for name in names]
        loaded = self._base.loaded()
        encode = self._encode(self._base, loaded)
        found: dict[str, list[str]] = {name: [""] * len(samples) for name in names}
        size = max(1, batch_size // len(names))
        for window in generate.windows(samples, encode, size * 8):
            for start in range(0, len(window), size):
                places, items = zip(*window[start : start + size], strict=True)
                with self._base.mixing(weights) as (held, mixed):
                    told = generate.together(
                        held, self._base.family, items, mixed, places=places, seed=seed,
                        max_new_tokens=max_new_tokens, temperature=temperature,
                    )  # fmt: skip
                for name, texts in zip(names, told, strict=True):
                    for place, text in zip(places, texts, strict=True):
                        found[name][place] = text
                if log is not None:
                    log.advance(len(places) * len(names))
        return found

    def prompt_tokens(self, name: str, sample: Sample) -> int:
        """Return how many tokens a question is for a variant, media included."""
        resident, _ = self._resident(name)
        item = self._encode(resident, resident.loaded())(sample)
        return int(generate.prompt_ids(item).numel())

    def text_tokens(self, name: str, text: str) -> int:
        """Return how many tokens a text is for a variant."""
        tokenizer = self._resident(name)[0].loaded().processor.tokenizer
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def apart(self, name: str) -> str:
        """Return why a variant cannot answer in one batch with others, as a clause, or the empty string."""
        weights = self._weights(name)
        if weights is None or isinstance(weights, Live):
            return ""
        return why_apart(weights) if is_adapter(weights) else "it is a model of its own"

    def add(self, name: str, path: Path | str) -> None:
        """Let a folder's adapter or model answer as a further variant, from now on.

        Raises:
            ConfigError: if there is a variant of that name.
            CheckpointError: as for a new engine.
        """
        self._check(name, Path(path))
        with self._table:
            if name in self._variants:
                raise ConfigError(f"there is a variant '{name}' already; choose another name")
            self._variants = {**self._variants, name: Path(path)}

    def live(self, name: str, modules: Modules, digest: str = "") -> None:
        """Let a variant be these factors, by module, from its next answer on; no file is written or read.

        ``name`` is a new variant's, or that of a live one, whose factors are replaced. ``digest`` tells these
        factors from others; by default it is a hash of their contents.

        Raises:
            ConfigError: if a variant of that name lives in a folder.
        """
        made = Live(modules=dict(modules), digest=digest or _digest(modules))
        with self._table:
            if name in self._variants and not isinstance(self._variants[name], Live):
                raise ConfigError(f"the variant '{name}' is not a live one; choose another name")
            self._variants = {**self._variants, name: made}

    def remove(self, name: str) -> None:
        """Take a variant away; an answer in progress is still given."""
        with self._table:
            self._weights(name)
            self._variants = {other: weights for other, weights in self._variants.items() if other != name}

    def forget(self) -> None:
        """Give back what is remembered of questions that were asked: their encodings and features."""
        with self._table:
            self._prompts.clear()
        self._seen.forget()

    def fingerprint(self, name: str) -> str:
        """Return a sha256 over what decides a variant's answers: weights, processor and precision."""
        path = self._weights(name)
        if isinstance(path, Live):
            parts = [Checkpoint(self.base).fingerprint(), str(self._dtype), path.digest]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        adapter = path if path is not None and is_adapter(path) else None
        model = self.base if path is None or adapter else path
        parts = [Checkpoint(model).fingerprint(), str(self._dtype)]
        parts.append(folder_hash(model, ("config.json", *PROCESSOR_FILES)))
        if adapter is not None:
            parts += [sha256_file(adapter / file) for file in (WEIGHTS_FILE, CONFIG_FILE)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _weights(self, name: str) -> Weights:
        if name not in self._variants:
            raise UnknownName("variant", name, self._variants)
        return self._variants[name]

    def _check(self, name: str, path: Path | None) -> None:
        if path is None:
            return
        if not is_adapter(path):
            detect(path)
            return
        adapter = read_note(path)
        if adapter.kind == "LORA":
            read_adapter(path)
        own = Checkpoint(self.base).fingerprint()
        if adapter.base_fingerprint not in ("", own):
            raise CheckpointError(
                f"variant '{name}': {path} was made for the base {adapter.base or 'of another fingerprint'} "
                f"({adapter.base_fingerprint[:12]}), not for {self.base} ({own[:12]})"
            )

    def _resident(self, name: str) -> tuple[Resident, Weights]:
        """Return the model that a variant lives on, and what it is there."""
        path = self._weights(name)
        if isinstance(path, Live):
            return self._base, path
        if path is not None and not path.is_dir():
            raise CheckpointError(f"the folder {path} is gone; was it moved?")
        alone = path is not None and is_adapter(path) and read_note(path).apart
        if path is None or (is_adapter(path) and not alone):
            return self._base, path
        with self._table:
            found = self._others.pop(path, None) or Resident(
                self.base if alone else path, self._device, self._dtype
            )
            self._others[path] = found
            gone = [self._others.popitem(last=False)[1] for _ in range(self._too_many())]
        for resident in gone:
            resident.unload()
        return found, path if alone else None

    def _too_many(self) -> int:
        """Return how many of the least recently used models have to make room; the last one stays."""
        sizes = [each.weight_bytes for each in self._others.values()]
        gone = max(0, len(sizes) - self._max_models)
        while self._memory and gone < len(sizes) - 1:
            if self._base.weight_bytes + sum(sizes[gone:]) <= self._memory:
                break
            gone += 1
        return gone

    def _shared(self, name: str) -> generate.Collate | None:
        """Return what makes batches in which media are features shared with other variants, if any are."""
        paths: dict[str, frozenset[str]] = {}
        for other, weights in self._variants.items():
            with suppress(CheckpointError):  # a variant that is gone shares nothing
                if not self.apart(other):
                    paths[other] = touched(weights)
        taken = resting(self._base.family, paths, name)
        return partial(self._seen.batch, taken=taken) if taken else None

    def _encode(self, resident: Resident, loaded: Loaded) -> Prompts:
        """Return the memory of encoded prompts, shared by models with the same processor."""
        with self._table:
            key = resident.processor_hash
            if key not in self._prompts:
                self._prompts[key] = Prompts(resident.family, loaded.processor)
            return self._prompts[key]


def _digest(modules: Modules) -> str:
    """Return a sha256 over factors."""
    digest = hashlib.sha256()
    for path, factors in sorted(modules.items()):
        digest.update(f"{path}:{tuple(factors.a.shape)}:{factors.shape}".encode())
        for each in (factors.a, factors.b):
            digest.update(each.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
