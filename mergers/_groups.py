"""Which part of a model a tensor belongs to, known from its name; imports no torch.

    tower   vision | audio | projector | speech (talkers and vocoders) | llm, which is all the rest
    kind    embeddings (tables of tokens and positions) | norms | head | weights
    layer   its number in the tower's stack of layers, or None outside of it

A family, where the configuration names one we know, says which module paths make up a tower; else the
customary names do. Names on disk and module paths of adapters differ in prefixes only: both are understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

from studio.errors import ConfigError, unknown

Tower = Literal["vision", "audio", "projector", "llm", "speech"]
Kind = Literal["embeddings", "norms", "head", "weights"]
TOWERS: tuple[Tower, ...] = ("vision", "audio", "projector", "llm", "speech")
KINDS: tuple[Kind, ...] = ("embeddings", "norms", "head")

#: Customary parts of module paths, by the tower that they announce.
_PARTS: dict[str, Tower] = {
    **dict.fromkeys(
        (
            "merger", "connector", "multi_modal_projector", "mm_projector", "modality_projection",
            "vision_projector", "audio_projector", "embed_vision", "embed_audio", "aligner", "resampler",
            "projector",
        ),
        "projector",
    ),
    **dict.fromkeys(("talker", "token2wav", "code2wav", "vocoder", "tts"), "speech"),
    **dict.fromkeys(
        ("visual", "vision", "vision_tower", "vision_model", "vision_encoder", "image_encoder", "vit", "vpm"),
        "vision",
    ),
    **dict.fromkeys(
        ("audio", "audio_tower", "audio_model", "audio_encoder", "speech_encoder", "apm"), "audio"
    ),
}  # fmt: skip
_EMBEDDINGS = re.compile(
    r"embed_tokens(_per_layer)?|embed_positions|embed_in|[wt]te|wpe|tok_embeddings|shared|cls_token|"
    r"(word|token_type|position|class)_embeddings?|position_embedding_table|pos_embed(ding)?|"
    r"audio_bos_eos_token"
)
_NORMS = re.compile(r".*norm.*|(ln|bn)(_\w+|\d+)?")
_HEAD = re.compile(r"lm_head|proj_out|embed_out|codec_head|output_head")
_STACKS = ("layers", "blocks", "layer", "block", "h", "resblocks")
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_SELECTOR = re.compile(
    rf"(?P<tower>{'|'.join(TOWERS)})"
    r"(\.(?P<part>embeddings|norms|head|layers(\.(?P<first>\d+)(-(?P<last>\d+))?)?))?"
    r"|(?P<kind>embeddings|norms|head)"
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Where a tensor belongs."""

    tower: Tower
    kind: Kind
    layer: int | None = None

    @property
    def label(self) -> str:
        """How a plan calls it: the tower, and the kind where that is special."""
        return self.tower if self.kind == "weights" else f"{self.tower}.{self.kind}"


def group_of(name: str, towers: Mapping[str, Sequence[str]] | None = None) -> Group:
    """Return the group of a tensor or module; ``towers`` are a family's prefixes of module paths."""
    parts = name.split(".")
    if parts[-1] in _LEAVES:
        parts.pop()
    if parts[:2] == ["base_model", "model"]:
        del parts[:2]
    while parts and parts[0] in ("model", "thinker"):
        del parts[0]
    return Group(tower=_tower(parts, towers or {}), kind=_kind(parts), layer=_layer(parts))


def _tower(parts: Sequence[str], towers: Mapping[str, Sequence[str]]) -> Tower:
    """Return the tower whose longest prefix the path has, else the first that a part of it announces."""
    best: tuple[int, Tower] | None = None
    for tower, prefixes in towers.items():
        for prefix in prefixes:
            wanted = [part for part in prefix.split(".") if part != "model"]
            fits = wanted and list(parts[: len(wanted)]) == wanted
            if fits and tower in TOWERS and (best is None or len(wanted) > best[0]):
                best = (len(wanted), tower)
    if best is not None:
        return best[1]
    found = {_PARTS[part] for part in parts if part in _PARTS}
    return next((tower for tower in ("speech", "projector", "vision", "audio") if tower in found), "llm")


def _kind(parts: Sequence[str]) -> Kind:
    leaf = parts[-1] if parts else ""
    if _EMBEDDINGS.fullmatch(leaf):
        return "embeddings"
    if _NORMS.fullmatch(leaf):
        return "norms"
    return "head" if _HEAD.fullmatch(leaf) else "weights"


def _layer(parts: Sequence[str]) -> int | None:
    for before, part in pairwise(parts):
        if before in _STACKS and part.isdigit():
            return int(part)
    return None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A tensor of the output as selectors see it: all names it goes by, and its group."""

    names: tuple[str, ...]
    group: Group


@dataclass(frozen=True, kw_only=True)
class Groups:
    """All that a selector may match: the tensors of the merge, and of the base around them.

    where   how messages call the model
    """

    subjects: Sequence[Subject]
    where: str

    @cached_property
    def layers(self) -> dict[str, int]:
        """Tower -> how many layers its stack has."""
        found: dict[str, int] = {}
        for subject in self.subjects:
            group = subject.group
            if group.layer is not None:
                found[group.tower] = max(found.get(group.tower, 0), group.layer + 1)
        return found

    @cached_property
    def known(self) -> list[str]:
        """The groups that are there."""
        groups = [subject.group for subject in self.subjects]
        found = dict.fromkeys(group.tower for group in groups)
        kinds = dict.fromkeys(group.kind for group in groups if group.kind != "weights")
        layers = [f"{tower}.layers.0-{count - 1}" for tower, count in self.layers.items()]
        return [*found, *kinds, *layers]


class Selector:
    """A group or a regular expression that picks tensors."""

    def __init__(self, text: str) -> None:
        """Read a selector; `ConfigError` for a regular expression or a range that is none."""
        self.text = text
        self._group = None if text.startswith("re:") else _SELECTOR.fullmatch(text)
        if self._group is None:
            try:
                self._pattern = re.compile(text.removeprefix("re:"))
            except re.error as error:
                raise ConfigError(f"'{text}' is neither a group nor a regular expression: {error}") from None
            return
        given = self._group.groupdict()
        self.tower, part = given["tower"], given["part"] or given["kind"] or ""
        self.kind = part if part in KINDS else None
        self.inside = part.startswith("layers")
        self.first = int(given["first"]) if given["first"] else None
        self.last = int(given["last"]) if given["last"] else self.first
        if self.first is not None and self.last is not None and self.last < self.first:
            raise ConfigError(f"'{text}' ends before it begins; write {self.tower}.layers.FIRST-LAST")

    @property
    def is_pattern(self) -> bool:
        """Whether it is a regular expression, which goes by names."""
        return self._group is None

    def matches(self, subject: Subject) -> bool:
        """Return whether the selector picks a tensor."""
        if self._group is None:
            return any(self._pattern.search(name) for name in subject.names)
        group = subject.group
        if (self.tower and group.tower != self.tower) or (self.kind and group.kind != self.kind):
            return False
        if not self.inside:
            return True
        if group.layer is None:
            return False
        return self.first is None or self.last is None or self.first <= group.layer <= self.last

    def check(self, groups: Groups) -> None:
        """Raise `ConfigError` if nothing matches, or a range goes beyond the layers there are."""
        count = groups.layers.get(self.tower, 0) if self._group is not None and self.tower else 0
        if count and self._group is not None and self.last is not None and self.last >= count:
            raise ConfigError(
                f"'{self.text}' goes beyond {groups.where}, whose {self.tower} has layers 0 to {count - 1}"
            )
        if not any(self.matches(subject) for subject in groups.subjects):
            nearest = unknown("group", self.text, groups.known)
            hint = nearest.partition(";")[2].strip()
            raise ConfigError(f"'{self.text}' matches no tensor of {groups.where}; {hint}")


@cache
def selector(text: str) -> Selector:
    """Return the selector of a text; `ConfigError` for one that is none."""
    return Selector(text)


def towers_of(config: Mapping[str, Any], family: str = "") -> Mapping[str, Sequence[str]]:
    """Return a family's prefixes of module paths: the one named or fit for the configuration; or nothing."""
    from studio import families, plugins

    if family and family in plugins.names("families"):
        return families.family(family).towers
    kind = config.get("model_type")
    found = families.claiming(kind) if isinstance(kind, str) else None
    return found.towers if found is not None else {}


def subjects_of(names: Iterable[Sequence[str]], towers: Mapping[str, Sequence[str]]) -> dict[str, Subject]:
    """Return first name -> subject; each item lists all names of one tensor."""
    found = {}
    for own in names:
        found[own[0]] = Subject(names=tuple(own), group=group_of(own[0], towers))
    return found
