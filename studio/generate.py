"""Answers from a model: many in batches, or one as it grows.

Greedy unless a temperature is given, and always a function of the sample, the model and the seed alone:
prompts of a batch are padded on the left and masked, and sampling adds Gumbel noise from a generator of
the sample's own (argmax of logits / t + Gumbel noise is a draw from softmax(logits / t); Maddison et al.
2014, arXiv:1411.0030, section 2), so neither the batch size nor other threads change an answer.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation import BaseStreamer, StoppingCriteriaList

from studio.errors import ConfigError
from studio.last_place import evaluating, last_only
from studio.log import Log
from studio.mixed import Mixed
from studio.types import Batch, Family, Loaded, Sample

Encode = Callable[[Sample], Batch]
Within = Callable[[], AbstractContextManager[Loaded]]
Collate = Callable[[Loaded, Sequence[Sample], Sequence[Batch]], AbstractContextManager[Batch]]

#: What a checkpoint's own settings for sampling are replaced with.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "min_p": None,
}
#: How many batches are encoded together: enough to sort by length, few enough to hold in memory.
_WINDOW = 8


def answers(
    loaded: Loaded,
    family: Family,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    log: Log | None = None,
    encode: Encode | None = None,
    within: Within | None = None,
    collate: Collate | None = None,
) -> list[str]:
    """Return the model's answers to the samples' prompts, in the samples' order.

    Samples are encoded some batches ahead on a second thread and sorted by length within them.
    ``encode`` replaces ``family.encode`` (to remember encoded samples, say). Each batch is answered by the
    model that a context from ``within`` yields (one that holds a lock, say), instead of by ``loaded``'s;
    ``collate`` then makes the batch, with the model in hand, instead of ``family.collate``.
    ``log`` is advanced by every finished batch; its stage is the caller's.

    Raises `ConfigError` for settings out of range and `DataError` for a sample that cannot be encoded.
    """
    check_settings(max_new_tokens=max_new_tokens, batch_size=batch_size, temperature=temperature)
    encode = partial(_prompt, loaded, family) if encode is None else encode
    hold: Within = within or (lambda: nullcontext(loaded))
    made: Collate = collate or (
        lambda held, _samples, items: nullcontext(family.collate(held.processor, items, "left"))
    )
    texts = [""] * len(samples)
    for window in windows(samples, encode, batch_size * _WINDOW):
        for start in range(0, len(window), batch_size):
            places, items = zip(*window[start : start + batch_size], strict=True)
            noise = _Noise(temperature, [_mixed(seed, place) for place in places])
            asked = [samples[place] for place in places]
            with hold() as held, made(held, asked, items) as batch:
                ids = _generate(held, batch, max_new_tokens, noise)
            for place, text in zip(places, family.decode(loaded.processor, batch, ids), strict=True):
                texts[place] = text
            if log is not None:
                log.advance(len(places))
    return texts


def together(
    loaded: Loaded,
    family: Family,
    items: Sequence[Batch],
    mixed: Mixed,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    places: Sequence[int] | None = None,
    stop: Sequence[threading.Event] = (),
    grown: Callable[[list[list[str]]], None] | None = None,
) -> list[list[str]]:
    """Return every variant's answers to encoded prompts, one list a variant, from one mixed batch.

    They are those of `answers` for each variant alone; ``places`` are the items' among its samples.
    ``grown`` is told the answers so far, token by token; the end comes at the next token when one of ``stop``
    is set. The caller holds the model.
    """
    check_settings(max_new_tokens=max_new_tokens, batch_size=1, temperature=temperature)
    noise = _Noise(temperature, [_mixed(seed, at) for at in places or range(len(items))] * mixed.count)
    with mixed.batch(loaded, family, items) as batch:

        def texts(ids: Tensor) -> list[list[str]]:
            said = family.decode(loaded.processor, batch, ids)
            return [said[at : at + len(items)] for at in range(0, len(said), len(items))]

        growing = _Growing(texts, grown) if grown else None
        return texts(_generate(loaded, batch, max_new_tokens, noise, _Halt(*stop), growing))


def stream(
    loaded: Loaded,
    family: Family,
    sample: Sample,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    stop: threading.Event | None = None,
    encode: Encode | None = None,
    within: Within | None = None,
) -> Iterator[str]:
    """Yield the answer so far, each time it has grown; the last text is what `answers` returns, even "".

    The model works on a thread of its own, inside the context from ``within`` (see `answers`), which is
    left as soon as the model is done, however slowly the texts are taken. The thread ends at the next token
    when the iterator is closed or ``stop`` is set.

    Raises what `answers` raises, at the first text asked for.
    """
    check_settings(max_new_tokens=max_new_tokens, batch_size=1, temperature=temperature)
    encode = partial(_prompt, loaded, family) if encode is None else encode
    hold: Within = within or (lambda: nullcontext(loaded))
    begun, over = threading.Event(), threading.Event()
    halt = _Halt(over, stop)
    tokens: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
    batch = family.collate(loaded.processor, [encode(sample)], "left")

    def work() -> None:
        try:
            with hold() as held:
                begun.set()
                if not halt.asked:
                    noise = _Noise(temperature, [_mixed(seed, 0)])
                    _generate(held, batch, max_new_tokens, noise, halt, _Tokens(tokens))
        except BaseException as error:
            tokens.put(error)
        finally:
            tokens.put(None)

    worker = threading.Thread(target=work, name="stream", daemon=True)
    worker.start()
    try:
        ids = torch.empty(1, 0, dtype=torch.long)
        shown = ""
        while (fresh := _next(tokens, begun, halt)) is not None:
            if isinstance(fresh, BaseException):
                raise fresh
            ids = torch.cat([ids, fresh.reshape(1, -1)], dim=1)
            text = family.decode(loaded.processor, batch, ids)[0]
            # A character of several bytes may be half there; it is shown when it is whole.
            if text != shown and not text.endswith("\ufffd"):
                yield (shown := text)
        text = family.decode(loaded.processor, batch, ids)[0] if ids.numel() else ""
        if text != shown or not shown:
            yield text
    finally:
        over.set()
        if begun.is_set():  # a thread that still waits to enter ``within`` ends when its turn comes
            worker.join()


def _next(tokens: SimpleQueue[Any], begun: threading.Event, halt: _Halt) -> Any:
    """Wait for the next ids; None at the end, or when an end is asked for before the model's turn came."""
    while True:
        try:
            return tokens.get(timeout=0.1)
        except Empty:
            if halt.asked and not begun.is_set():
                return None


def _generate(
    loaded: Loaded,
    batch: Batch,
    max_new_tokens: int,
    noise: _Noise,
    halt: _Halt | None = None,
    streamer: BaseStreamer | None = None,
) -> Tensor:
    """Return prompt and answer ids [B, L] of the plain greedy loop over noisy scores.

    `GenerationMixin.generate` is called past the model's own override: Whisper's adds language detection
    and 30-second windows around the loop, while a family's prompt already says all there is to say.
    """
    model = _plain(loaded.model)
    settings = copy.copy(model.generation_config)  # `generate` makes a deep copy of its own
    width = prompt_ids(batch).shape[-1]
    room = getattr(model.config, "max_target_positions", None) or sys.maxsize
    length = min(width + max_new_tokens, room)
    # The limit is set in the form that the checkpoint's own settings use: transformers warns about both.
    limit = {"max_length": length} if settings.max_new_tokens is None else {"max_new_tokens": length - width}
    settings.update(**_GREEDY, **limit)
    if settings.pad_token_id is None:
        settings.pad_token_id = loaded.processor.tokenizer.pad_token_id
    with evaluating(model), last_only(model), torch.inference_mode():
        ids: Tensor = GenerationMixin.generate(
            model,
            **_moved(batch, model),
            generation_config=settings,
            logits_processor=LogitsProcessorList([noise] if noise.temperature else []),
            stopping_criteria=StoppingCriteriaList([halt] if halt else []),
            streamer=streamer,
        )
    return ids.cpu()


def _prompt(loaded: Loaded, family: Family, sample: Sample) -> Batch:
    return family.encode(loaded.processor, sample, False)


def windows(samples: Sequence[Sample], encode: Encode, size: int) -> Iterator[list[tuple[int, Batch]]]:
    """Yield (place, encoded sample) in windows, longest first; the next is encoded while one is in use."""

    def window(start: int) -> list[tuple[int, Batch]]:
        places = range(start, min(start + size, len(samples)))
        return sorted(
            ((i, encode(samples[i])) for i in places), key=lambda pair: -prompt_ids(pair[1]).shape[-1]
        )

    if len(samples) <= size:  # nothing to be ahead of
        if samples:
            yield window(0)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as ahead:
        upcoming = ahead.submit(window, 0)
        for start in range(size, len(samples) + size, size):
            ready = upcoming.result()
            if start < len(samples):
                upcoming = ahead.submit(window, start)
            yield ready


def prompt_ids(batch: Batch) -> Tensor:
    """Return the ids of the prompt that the answer is appended to: the decoder's, where there are two."""
    return batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"]


def _moved(batch: Batch, model: Any) -> Batch:
    """Return the batch on the model's device, its floating tensors in the model's type."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in batch.items()
    }


def _plain(model: Any) -> Any:
    """Return the transformers model inside a wrapper that holds adapters, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_settings(
    *, max_new_tokens: int = 48, batch_size: int = 16, temperature: float = 0.0, seed: int = 0
) -> None:
    """Raise `ConfigError` for settings out of range."""
    for name, value, least in (("max_new_tokens", max_new_tokens, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ConfigError(f"{name} is {value}; at least {least} is needed")
    if not 0.0 <= temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}; it is 0 (greedy) or a positive number")


def _mixed(seed: int, place: int) -> int:
    """Return a seed for the sample at ``place``, far from those of its neighbours."""
    return (seed * 0x9E3779B97F4A7C15 + place * 0xBF58476D1CE4E5B9) % 2**63


class _Noise(LogitsProcessor):  # type: ignore[misc]
    """Turns argmax into a draw at a temperature, each row from a generator of its own."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores / temperature plus Gumbel noise, [B, V]."""
        vocabulary = scores.shape[1]
        waits = [torch.empty(vocabulary).exponential_(generator=g) for g in self._generators]
        gumbel = -torch.log(torch.stack(waits))
        return scores.float() / self.temperature + gumbel.to(scores.device)


class _Halt(StoppingCriteria):  # type: ignore[misc]
    """Ends every row when any of the events is set."""

    def __init__(self, *events: threading.Event | None) -> None:
        self._events = [event for event in events if event is not None]

    @property
    def asked(self) -> bool:
        """Whether an end was asked for."""
        return any(event.is_set() for event in self._events)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return [B] of the same answer for every row."""
        return torch.full((input_ids.shape[0],), self.asked, dtype=torch.bool, device=input_ids.device)


class _Growing(BaseStreamer):  # type: ignore[misc]
    """Tells the answers so far, each time all rows have one more token."""

    def __init__(self, texts: Callable[[Tensor], Any], grown: Callable[[Any], None]) -> None:
        self._texts, self._grown = texts, grown
        self._ids: Tensor | None = None

    def put(self, value: Tensor) -> None:
        """Add the prompts' ids [B, L], and then each new token's [B]."""
        fresh = value.cpu() if value.dim() > 1 else value.cpu().unsqueeze(1)
        if self._ids is None:
            self._ids = fresh
            return
        self._ids = torch.cat([self._ids, fresh], dim=1)
        self._grown(self._texts(self._ids))

    def end(self) -> None:
        """Do nothing; the last answers were told."""


class _Tokens(BaseStreamer):  # type: ignore[misc]
    """Hands the prompt's ids [1, L] and then each new id [1] to a queue."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self._queue = queue

    def put(self, value: Tensor) -> None:
        """Pass the ids on."""
        self._queue.put(value)

    def end(self) -> None:
        """Do nothing; the worker marks the end itself."""
