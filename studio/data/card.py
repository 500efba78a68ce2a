"""The card of a data set: croissant.json for programs (docs.mlcommons.org/croissant), README.md for us."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.data.identity import data_hash
from studio.data.provenance import CARD, NOT_SAID, TOLD, About, counts, named
from studio.errors import DataError
from studio.files import atomic_write, sha256_file
from studio.types import Sample

README = "README.md"
WRITTEN = "Written by `triptych card`."
#: Values of a group that are told one by one.
VALUES = 20
_FORMS = {".jsonl": "application/jsonlines", ".parquet": "application/x-parquet"}
_MEDIA = {
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "image/tiff"),
    **dict.fromkeys((".ogg", ".opus"), "audio/ogg"),
    **dict.fromkeys((".aif", ".aiff"), "audio/aiff"),
    **{f".{kind}": f"image/{kind}" for kind in ("png", "webp", "gif", "bmp")},
    **{f".{kind}": f"audio/{kind}" for kind in ("wav", "flac")},
    ".mp3": "audio/mpeg",
}
_COLUMNS = {
    "chosen": "the better way on, for preference learning",
    "rejected": "the worse way on",
    "groups": "accent, device, site and the like",
    "source": "where the row is from",
    "license": "how the row may be used",
    "id": "the row's name",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "citeAs": "cr:citeAs",
    "recordSet": "cr:recordSet",
    "field": "cr:field",
    "subField": "cr:subField",
    "parentField": "cr:parentField",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "source": "cr:source",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "fileProperty": "cr:fileProperty",
    "extract": "cr:extract",
    "column": "cr:column",
    "jsonPath": "cr:jsonPath",
    "includes": "cr:includes",
    "references": "cr:references",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "regex": "cr:regex",
    "separator": "cr:separator",
    "transform": "cr:transform",
    "format": "cr:format",
    "path": "cr:path",
    "key": "cr:key",
    "md5": "cr:md5",
    "isLiveDataset": "cr:isLiveDataset",
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """One data file of a set with its rows; both hashes are SHA-256.

    ``sha256`` is that of the file; ``contents`` that of what the rows say and of their media.
    """

    name: str
    file: Path
    samples: Sequence[Sample]
    sha256: str
    contents: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a set: what is said of it, its splits, and the steps that made it from another."""

    about: About
    splits: Sequence[Split]
    steps: Sequence[str] = ()

    @property
    def samples(self) -> list[Sample]:
        """All rows."""
        return [sample for split in self.splits for sample in split.samples]

    @property
    def licenses(self) -> dict[str, int]:
        """How many rows there are by licence."""
        return named(sample.license or self.about.license for sample in self.samples)

    @property
    def sources(self) -> dict[str, int]:
        """How many rows there are by source."""
        return named(sample.source or self.about.source for sample in self.samples)

    def groups(self) -> dict[str, dict[str, int]]:
        """Return how many rows there are by value, of each group."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in self.samples:
            for name, value in sample.groups.items():
                found[name][value] += 1
        return {name: dict(found[name].most_common()) for name in sorted(found)}


def make_card(
    files: Sequence[Path], samples: Sequence[Sequence[Sample]], about: About, steps: Sequence[str]
) -> Card:
    """Return the card of a set whose data files hold these rows.

    Raises:
        MediaError: if a medium cannot be read.
    """
    splits = [
        Split(name=file.stem, file=file, samples=rows, sha256=sha256_file(file), contents=data_hash(rows))
        for file, rows in sorted(zip(files, samples, strict=True))
    ]
    if not about.name:
        first = splits[0].file
        name = first.stem if len(splits) == 1 and first.stem not in ("train", "test") else first.parent.name
        about = About(**{**asdict(about), "name": name or "data"})
    return Card(about=about, splits=splits, steps=steps)


def croissant(card: Card, folder: Path) -> dict[str, Any]:
    """Return the card as Croissant 1.0 (JSON-LD), its paths relative to ``folder``, where it is to stand."""
    about = card.about
    licenses = [name for name in card.licenses if name != NOT_SAID]
    told: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about.name,
        "description": about.description or _summary(card),
        "identifier": [f"sha256:{split.contents}" for split in card.splits],
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "url": about.url,
        "creator": {"@type": "sc:Organization", "name": about.creator} if about.creator else {},
        "rai:dataCollection": about.source,
        "isBasedOn": sorted({sample.source for sample in card.samples if sample.source})[:TOLD],
        "rai:personalSensitiveInformation": about.deidentified,
        "rai:dataPreprocessingProtocol": list(card.steps),
        "variableMeasured": [_measured(name, values) for name, values in card.groups().items()],
        "distribution": [_file(split, folder) for split in card.splits] + _media(card, folder),
        "recordSet": [_records(split) for split in card.splits],
    }
    return {key: value for key, value in told.items() if value}


def _measured(name: str, values: Mapping[str, int]) -> dict[str, Any]:
    shown = {value: values[value] for value in list(values)[:VALUES]}
    return {
        "@type": "sc:PropertyValue",
        "name": name,
        "description": f"{len(values)} values; rows by value: {json.dumps(shown, ensure_ascii=False)}",
    }


def _file(split: Split, folder: Path) -> dict[str, Any]:
    place = os.path.relpath(split.file, folder)
    return {
        "@type": "cr:FileObject",
        "@id": split.file.name,
        "name": split.file.name,
        "description": f"{len(split.samples)} rows; sha256 of their contents and media: {split.contents}",
        "contentUrl": Path(place).as_posix(),
        "contentSize": f"{split.file.stat().st_size} B",
        "encodingFormat": _FORMS[split.file.suffix],
        "sha256": split.sha256,
    }


def _media(card: Card, folder: Path) -> list[dict[str, Any]]:
    """Return a file set for each folder and kind of media."""
    pictures = {part.path for sample in card.samples for part in sample.images}
    paths = pictures | {part.path for sample in card.samples for part in sample.sounds}
    found = Counter((path.parent, path.suffix) for path in paths)
    sets = []
    for (place, suffix), count in sorted(found.items()):
        inside = Path(os.path.relpath(place, os.path.realpath(folder))).as_posix()
        pattern = f"*{suffix}" if inside == "." else f"{inside}/*{suffix}"
        sets.append(
            {
                "@type": "cr:FileSet",
                "@id": pattern,
                "name": pattern,
                "description": f"{count} files",
                "encodingFormat": _MEDIA.get(suffix.lower(), "application/octet-stream"),
                "includes": pattern,
            }
        )
    return sets


def _records(split: Split) -> dict[str, Any]:
    columns = {"messages": "the conversation: roles, texts, and paths of media"}
    for name, meaning in _COLUMNS.items():
        if any(getattr(sample, name) for sample in split.samples):
            columns[name] = meaning
    return {
        "@type": "cr:RecordSet",
        "@id": split.name,
        "name": split.name,
        "description": f"the {len(split.samples)} rows of {split.file.name}",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split.name}/{name}",
                "name": name,
                "description": meaning,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": split.file.name}, "extract": {"column": name}},
            }
            for name, meaning in columns.items()
        ],
    }


def readme(card: Card) -> str:
    """Return the card for people, with the header that the hub reads."""
    about, licenses = card.about, [name for name in card.licenses if name != NOT_SAID]
    tags = sorted({kind for kind in ("pictures", "sounds") if counts(card.samples)[kind]})
    shown = json.dumps(licenses[0].lower() if len(licenses) == 1 and _is_id(licenses[0]) else "other")
    head = ["---", f"license: {shown}", "tags:", "- triptych", *(f"- {tag}" for tag in tags), "---"]
    splits = [
        (split.name, *(f"{count:,}" for count in counts(split.samples).values()), f"`{split.contents}`")
        for split in card.splits
    ]
    parts = ["\n".join(head), f"# {about.name}", about.description or _summary(card)]
    parts += ["## Rows", _table(("split", "rows", "pictures", "sounds", "sha256 of rows and media"), splits)]
    parts += ["## Licences", _named("licence", card.licenses), "## Sources", _named("source", card.sources)]
    for name, values in card.groups().items():
        few = dict(list(values.items())[:VALUES])
        rest = len(values) - len(few)
        parts += [f"## Group: {name}", _named(name, few) + (f"\n\nand {rest} more values" if rest else "")]
    parts += ["## Steps that made it", "\n".join(f"1. {step}" for step in card.steps) or NOT_SAID]
    parts += ["## Persons in the data", about.deidentified or NOT_SAID]
    more = [("creator", about.creator), ("url", about.url)]
    if any(value for _, value in more):
        parts += ["## More", _table(("", ""), [(key, value) for key, value in more if value])]
    return "\n\n".join([*parts, WRITTEN]) + "\n"


def write_card(card: Card, folder: Path) -> None:
    """Write croissant.json and README.md into ``folder``, each whole or not at all.

    Raises:
        DataError: if a README.md stands there that no card wrote.
    """
    file = folder / README
    if file.is_file() and WRITTEN not in file.read_text(encoding="utf-8", errors="replace"):
        raise DataError(f"'{file}' was not written by `triptych card`; name another folder with --out")
    atomic_write(folder / CARD, json.dumps(croissant(card, folder), indent=2, ensure_ascii=False) + "\n")
    atomic_write(file, readme(card))


def _summary(card: Card) -> str:
    found = counts(card.samples)
    return (
        f"{found['rows']:,} conversations with {found['pictures']:,} pictures and {found['sounds']:,} "
        f"sounds, in {', '.join(split.name for split in card.splits)}."
    )


def _is_id(name: str) -> bool:
    """Say whether a licence is named by an identifier, as SPDX has them."""
    return bool(re.fullmatch(r"[A-Za-z0-9.+-]+", name))


def _named(title: str, rows: Mapping[str, int]) -> str:
    return _table((title, "rows"), [(name, f"{count:,}") for name, count in rows.items()])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
