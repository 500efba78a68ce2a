"""The vocabulary that flows through the house: Sample -> Batch -> ... -> Score -> Run.

Legend for shapes: B batch, L tokens, C channels, T frames.
Nothing here imports torch at run time, so that listing and checking stay fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Batch = dict[str, Tensor]
else:
    Batch = dict

Role = Literal["system", "user", "assistant"]
Modality = Literal["text", "image", "audio"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of text inside a turn."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture inside a turn, by absolute path; decoded only when it is needed."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A sound inside a turn, by absolute path; decoded only when it is needed."""

    path: Path


Part = Text | Image | Sound


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: who speaks, and the parts in the order in which they are given.

    ``loss`` says whether an assistant's turn is trained on; other roles never are.
    """

    role: Role
    parts: tuple[Part, ...]
    loss: bool = True

    @property
    def text(self) -> str:
        """The text parts, joined without separator."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One conversation with its media, and where it came from (``file:line``).

    ``chosen`` and ``rejected`` are two ways to go on after ``turns``, for preference learning: both or
    neither, the assistant begins, text only. ``groups`` name accent, device, site and the like;
    ``weight`` is above 0. ``source`` and ``license`` say where the row is from and how it may be used, ``id``
    names it (each the empty string if unknown). ``extra`` holds what another tool's row said beyond
    that: it is kept, and nothing learns from it.
    """

    turns: tuple[Turn, ...]
    file: Path = Path("<memory>")
    line: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    chosen: tuple[Turn, ...] = ()
    rejected: tuple[Turn, ...] = ()
    source: str = ""
    license: str = ""
    id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """``file:line``, the prefix of every error about this sample."""
        return f"{self.file}:{self.line}"

    @property
    def answer(self) -> str:
        """The text of the last turn if the assistant speaks it, else the empty string."""
        last = self.turns[-1]
        return last.text if last.role == "assistant" else ""

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns that stand before the answer."""
        return self.turns[:-1] if self.turns[-1].role == "assistant" else self.turns

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures in order of appearance."""
        return tuple(p for t in self.turns for p in t.parts if isinstance(p, Image))

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """All sounds in order of appearance."""
        return tuple(p for t in self.turns for p in t.parts if isinstance(p, Sound))


class Loaded(NamedTuple):
    """A model with the processor that belongs to it."""

    model: Any
    processor: Any


@dataclass(frozen=True, kw_only=True)
class Feature:
    """How what frozen towers make of one kind of medium is computed apart, and given to the model instead.

    ``takes``
        keys of an encoded sample that nothing but the towers reads: they leave the batch.
    ``reads``
        keys that the towers read too, and that stay in the batch.
    ``parts``
        paths of the modules and parameters that the features are made by.
    ``projectors``
        those of them that come last, in the order in which ``compute`` returns what goes into them. If they
        learn and nothing before them does, the features are what goes into them.
    ``compute(model, batch, projected)``
        the features of a batch's media: tensors whose first axis goes through the media in order. With
        ``projected`` they are what the language model takes, without what the projectors take.
    ``give(model, inputs, features, projected)``
        the keyword arguments of the model's forward that hand the features over, beside ``inputs``.
    ``refuse(config)``
        why this model's features may not be kept, as a clause, or the empty string.
    """

    takes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    parts: tuple[str, ...]
    projectors: tuple[str, ...] = ()
    compute: Callable[[Any, Batch, bool], list[Tensor]]
    give: Callable[[Any, Mapping[str, Any], Sequence[Tensor], bool], dict[str, Any]]
    refuse: Callable[[Any], str] = lambda config: ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family of models is loaded, fed, masked and adapted.

    ``load(path, dtype=, device=)``
        returns `Loaded`; safetensors only, no remote code, no download.
    ``encode(processor, sample, supervise)``
        one sample as tensors without a batch axis: ``input_ids`` [L], ``labels`` [L] (-100 where
        nothing is learned; only with ``supervise``) and the media tensors. With ``supervise``
        False the last assistant turn is left out and the prompt ends where the answer begins.
    ``collate(processor, items, side)``
        encoded samples as one `Batch` [B, L]; ``side`` is "right" to train, "left" to generate.
    ``decode(processor, batch, ids)``
        the answers [B] as text, the prompt and special tokens cut off.
    ``towers``
        name ("vision", "audio", "projector", "llm") -> prefixes of its module paths. The longest
        prefix wins, so a projector may live inside a tower's tree.
    ``lora_targets``
        tower -> regular expression that fully matches the module paths LoRA may adapt there.
    ``processor(path)``
        the processor that `load` returns, without a weight being read; None asks `load`.
    ``media_tokens(config, item)``
        the places that the media of an encoded sample need in its text as the model's configuration has
        it, by modality; none where media do not stand in the text. A processor that writes another
        number of them belongs to another model.
    ``window(processor)``
        the seconds of the longest sound that it takes, 0 for any; None asks its feature extractor.
    ``features``
        modality -> how frozen towers' features are computed once and kept; a family without them runs its
        towers in every step.
    ``tiny(folder)``
        writes a random checkpoint of a few hundred kilobytes with its genuine configuration and
        processor classes, and returns the folder.
    """

    name: str
    model_types: tuple[str, ...]
    modalities: frozenset[Modality]
    load: Callable[..., Loaded]
    encode: Callable[[Any, Sample, bool], Batch]
    collate: Callable[[Any, Sequence[Batch], Literal["left", "right"]], Batch]
    decode: Callable[[Any, Batch, Any], list[str]]
    towers: Mapping[str, tuple[str, ...]]
    lora_targets: Mapping[str, str]
    tiny: Callable[[Path], Path]
    processor: Callable[[Path], Any] | None = None
    media_tokens: Callable[[Any, Batch], Mapping[str, int]] | None = None
    window: Callable[[Any], float] | None = None
    features: Mapping[Modality, Feature] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured figure with its sample size and its 95 % interval."""

    name: str
    value: float
    n: int
    low: float
    high: float
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its folder alone is enough to show, repeat or merge it."""

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
