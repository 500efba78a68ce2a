"""Where data is from and how it may be used: what its rows say, and what its card says for the whole set.

A set's card is the file `CARD` beside its rows (`triptych card`, the format Croissant). What a row says about
itself (``source``, ``license``) counts for that row; where it is silent, the card speaks for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.data.identity import data_hash
from studio.errors import DataError
from studio.types import Sample

CARD, CURATED = "croissant.json", "curate.json"
NOT_SAID = "not said"
#: Sources and licences that are told by name; a set may have one a row.
TOLD = 50


@dataclass(frozen=True, kw_only=True)
class About:
    """What is said of a set as a whole; the empty string is what nobody said.

    ``deidentified`` says what was done about persons in the data; ``source`` how it was collected.
    """

    name: str = ""
    description: str = ""
    license: str = ""
    source: str = ""
    creator: str = ""
    url: str = ""
    deidentified: str = ""


def read_about(folder: Path, samples: Sequence[Sample] = ()) -> About:
    """Return what the card in ``folder`` says of the whole set; nothing where there is no card.

    Licences that rows of ``samples`` name are theirs and not the set's.

    Raises:
        DataError: if there is a card that is damaged.
    """
    card = _card(folder)
    own = {sample.license for sample in samples}
    creator = card.get("creator")
    return About(
        name=_text(card.get("name")),
        description=_text(card.get("description")),
        license=", ".join(name for name in _list(card.get("license")) if name not in own),
        source=_text(card.get("rai:dataCollection")),
        creator=_text(creator.get("name") if isinstance(creator, dict) else creator),
        url=_text(card.get("url")),
        deidentified=_text(card.get("rai:personalSensitiveInformation")),
    )


def provenance(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what a run keeps about the rows it trains on, as JSON values.

    ``sha256`` is that of their contents (`studio.data.identity.data_hash`); ``rows``, ``pictures`` and
    ``sounds`` are numbers; ``sources`` and ``licenses`` count rows by name; ``card`` names the set.

    Raises:
        DataError: if the card beside the rows is damaged.
    """
    folders = {sample.file.parent for sample in samples}
    cards = {folder: read_about(folder, samples) for folder in folders}
    return {
        "card": ", ".join(sorted({card.name for card in cards.values() if card.name})),
        "sha256": data_hash(samples),
        **counts(samples),
        "sources": named(sample.source or cards[sample.file.parent].source for sample in samples),
        "licenses": named(sample.license or cards[sample.file.parent].license for sample in samples),
    }


def steps_applied(folder: Path) -> list[str]:
    """Return the steps of curation that made the set in ``folder``: ``length: 3 rows removed``.

    `triptych run curate` lists them in the set's curate.json; where that is gone, the set's card does.

    Raises:
        DataError: if either is damaged.
    """
    file = folder / CURATED
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
        return [_step(step["name"], step["removed"], step["changed"]) for step in steps]
    except FileNotFoundError:
        return _list(_card(folder).get("rai:dataPreprocessingProtocol"))
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"'{file}' does not list steps of curation; it is damaged or of another program"
        ) from None


def _step(name: str, removed: int, changed: int) -> str:
    done = [f"{count:,} rows {what}" for count, what in ((removed, "removed"), (changed, "changed")) if count]
    return f"{name}: {', '.join(done) or 'nothing found'}"


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Return how many rows, pictures and sounds there are; a file that is used twice counts once."""
    return {
        "rows": len(samples),
        "pictures": len({part.path for sample in samples for part in sample.images}),
        "sounds": len({part.path for sample in samples for part in sample.sounds}),
    }


def named(names: Any) -> dict[str, int]:
    """Return how often each name is there, the most frequent first; of very many the rest together."""
    count = Counter(name or NOT_SAID for name in names)
    order = sorted(count, key=lambda name: (-count[name], name))
    told = {name: count[name] for name in order[:TOLD]}
    if rest := sum(count[name] for name in order[TOLD:]):
        told[f"{len(order) - TOLD} others"] = rest
    return told


def told(found: Mapping[str, Any]) -> str:
    """Return in one line what `provenance` found: ``1,450 rows (1,450 pictures), CC-BY-4.0; source: ...``."""
    media = [f"{found[kind]:,} {kind}" for kind in ("pictures", "sounds") if found.get(kind)]
    parts = [f"{found.get('rows', 0):,} rows" + (f" ({', '.join(media)})" if media else "")]
    for title, key in (("licence", "licenses"), ("source", "sources")):
        names = found.get(key) or {}
        shown = ", ".join(name if len(names) == 1 else f"{name} ({n:,})" for name, n in names.items())
        parts.append(f"{title}: {shown or NOT_SAID}")
    return "; ".join(parts)


def _card(folder: Path) -> dict[str, Any]:
    """Return the card in ``folder``; an empty one where there is none."""
    file = folder / CARD
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        card = None
    if not isinstance(card, dict):
        raise DataError(
            f"data card '{file}' is not a JSON object; remove it, and write it anew with `triptych card`"
        )
    return card


def _text(value: Any) -> str:
    return ", ".join(_list(value))


def _list(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
