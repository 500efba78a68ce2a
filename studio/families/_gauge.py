"""How long rows are for a model, by its own processor, and how long they may be."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from studio import families
from studio.errors import DataError, TriptychError
from studio.families import _load
from studio.files import folder_hash
from studio.types import Batch, Family, Sample

#: Whatever is called so in an encoded sample holds its tokens.
TOKENS = ("input_ids", "decoder_input_ids")


@dataclass(frozen=True, kw_only=True)
class Length:
    """One row as the model gets it: its ``tokens``, media included, and how many of them are learned.

    ``there`` counts the places for media in the text by modality, ``wanted`` the features that the model's
    towers make of the media; a row in which they differ cannot be trained.
    """

    tokens: int
    learned: int
    there: dict[str, int]
    wanted: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """A model's processor, with what the model's configuration says about the rows it takes."""

    folder: Path
    family: Family
    processor: Any
    config: Any

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the model's folder; there it is read once."""
        return _gauge_there, (self.folder,)

    @cached_property
    def max_tokens(self) -> int:
        """The positions of the language model; 0 where the configuration names none."""
        text = self.config.get_text_config()
        for name in ("max_position_embeddings", "max_target_positions"):
            if isinstance(found := getattr(text, name, None), int):
                return found
        return 0

    @cached_property
    def max_seconds(self) -> float:
        """The seconds of the longest sound; 0 for a model that takes any, or does not hear."""
        if self.family.window is not None:
            return self.family.window(self.processor)
        extractor = _extractor(self.processor)
        return extractor.n_samples / extractor.sampling_rate if extractor is not None else 0.0

    @cached_property
    def rate(self) -> int:
        """The samples per second that the model hears; 0 for a model that does not hear."""
        extractor = _extractor(self.processor)
        return int(extractor.sampling_rate) if extractor is not None else 0

    @cached_property
    def places(self) -> dict[str, int]:
        """Modality -> id of the token that holds a place for its features; none for an encoder-decoder."""
        found: dict[str, int] = {}
        for modality in ("image", "audio"):
            # Gemma's processor calls by this name the mark that opens a picture, its tokenizer the places.
            own = getattr(self.processor, f"{modality}_token", None)
            token = getattr(self.processor.tokenizer, f"{modality}_token", own)
            if token is not None and modality in self.family.modalities:
                found[modality] = int(self.processor.tokenizer.convert_tokens_to_ids(token))
        return found

    @cached_property
    def maker(self) -> str:
        """A hash over what turns a row into tensors: the processor's files, the code, the library."""
        return maker(self.folder, self.family)

    def encode(self, sample: Sample) -> Batch:
        """Return a row as the model is trained on it.

        Raises:
            DataError: with file and line, whatever it is that the processor refuses the row for.
        """
        return encode(self.processor, self.family, sample)

    def length(self, sample: Sample) -> Length:
        """Return how long a row is; of a row with ``chosen`` and ``rejected``, the longer of the two.

        Raises:
            DataError: as `encode`.
        """
        if not sample.chosen:
            return self.length_of(self.encode(sample))
        ways = (
            dataclasses.replace(sample, turns=sample.turns + way) for way in (sample.chosen, sample.rejected)
        )
        return max((self.length_of(self.encode(way)) for way in ways), key=lambda length: length.tokens)

    def length_of(self, item: Batch) -> Length:
        """Return how long an encoded row is."""
        ids = next(item[key] for key in TOKENS if key in item)
        there = {name: int((ids == place).sum()) for name, place in self.places.items()}
        wanted = self.family.media_tokens(self.config, item) if self.family.media_tokens else {}
        return Length(
            tokens=max(int(item[key].numel()) for key in TOKENS if key in item),
            learned=int((item["labels"] != -100).sum()) if "labels" in item else 0,
            there={name: count for name, count in there.items() if count or wanted.get(name)},
            wanted=dict(wanted),
        )


def _extractor(processor: Any) -> Any:
    """Return what makes features of sounds, by either of the names that processors have for it, or None."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def gauge(folder: Path) -> Gauge:
    """Return the gauge of the model in ``folder``."""
    family = families.detect(folder)
    processor = family.processor(folder) if family.processor else family.load(folder).processor
    # How long a row is we tell ourselves, with file and line.
    processor.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return Gauge(folder=folder, family=family, processor=processor, config=_load.config(folder))


@cache
def _gauge_there(folder: Path) -> Gauge:
    return gauge(folder)


def encode(processor: Any, family: Family, sample: Sample) -> Batch:
    """Encode one sample; whatever a processor refuses it for is a `DataError` with file and line."""
    try:
        return family.encode(processor, sample, True)
    except (TriptychError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{sample.where}: the processor of the model refuses the row ({reason})") from None


def maker(folder: Path, family: Family) -> str:
    """Return a hash over what turns a row into tensors: the processor's files, the code, the library."""
    code = Path(sys.modules[family.encode.__module__].__file__ or "")
    files = folder_hash(folder, ("*.json", "*.jinja", "*.txt", "*.model"))
    return ":".join((files, folder_hash(code.parent, ("*.py",)), version("transformers")))
