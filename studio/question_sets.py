"""Sets of questions that experts work through: versioned, hashed, whole in a folder of their own.

    runs/questions/cloth/v1/questions.jsonl    the questions in our data format, with the expected answers
    runs/questions/cloth/v1/media/             their pictures and sounds
    runs/questions/cloth/v1/set.json           name, version, hash, where they are from

A question's identity is the hash of what is asked, media by their bytes; the set's hash is over those of its
questions. A set never changes: what differs is the next version, and verdicts belong to the hash.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from studio.data.identity import media_hash, sample_key
from studio.data.jsonl import load_data, write_jsonl
from studio.errors import DataError, unknown
from studio.files import atomic_folder, atomic_write, sha256_file
from studio.types import Image, Part, Sample, Sound, Text, Turn

ROWS, ABOUT, MEDIA = "questions.jsonl", "set.json", "media"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class SetQuestion:
    """One question of a set: its identity, the row it is, and the domain it is from, if that is known."""

    id: str
    sample: Sample
    domain: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """A version of a set as it lies in ``folder``; ``source`` says what it was made from, ``made`` when."""

    name: str
    version: int
    hash: str
    questions: tuple[SetQuestion, ...]
    folder: Path
    source: str = ""
    made: str = ""

    @property
    def title(self) -> str:
        """The name with the version, as pages and tables show it."""
        return f"{self.name} v{self.version}"


def make_set(
    name: str,
    samples: Sequence[Sample],
    root: Path,
    *,
    count: int = 0,
    seed: int = 0,
    domain: str = "",
    source: str = "",
) -> QuestionSet:
    """Write the next version of a set, or return the version that asks the same already.

    Args:
        name: letters, digits, ``-`` and ``_``.
        samples: rows to choose from; only those of one question with at most one picture and one sound can
            be asked, and of equal questions the first is taken.
        root: the folder of all sets.
        count: how many to draw; 0 takes all.
        seed: of the draw.
        domain: of the questions whose row names none in its groups.
        source: what the samples are, in words.

    Raises:
        DataError: for a name that cannot be one, too few questions, or a medium that cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"a question set cannot be named '{name}'; allowed: letters, digits, - and _")
    found: dict[str, SetQuestion] = {}
    for sample in samples:
        if askable(sample):
            one = _question(sample, domain)
            found.setdefault(one.id, one)
    if not found or count > len(found):
        have = f"{len(found)} of {len(samples)} rows are different questions that a page can ask"
        raise DataError(f"question set '{name}': {have}; {max(count, 1)} are wanted")
    chosen = list(found.values())
    if count:
        chosen = random.Random(seed).sample(chosen, count)
    digest = set_hash([one.id for one in chosen])
    before = [kept for kept in find_sets(root) if kept.name == name]
    for version in before:
        if version.hash == digest:
            return version
    number = max((version.version for version in before), default=0) + 1
    folder = root / name / f"v{number}"
    about = {
        "name": name,
        "version": number,
        "hash": digest,
        "count": len(chosen),
        "source": source,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_folder(folder) as fresh:
        (fresh / MEDIA).mkdir()
        write_jsonl(fresh / ROWS, [_kept(one, fresh / MEDIA) for one in chosen])
        atomic_write(fresh / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return read_set(folder)


def read_set(folder: Path) -> QuestionSet:
    """Return the set that lies in a folder.

    Raises:
        DataError: if there is none, or it is not what its hash says any more.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        name, version, digest = str(about["name"]), int(about["version"]), str(about["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"'{folder}' holds no question set: {ABOUT} is missing or no description") from None
    rows = load_data(folder / ROWS)
    questions = tuple(_question(sample, "") for sample in rows)
    if set_hash([one.id for one in questions]) != digest:
        raise DataError(f"question set '{folder}' was changed after it was made; make a new version instead")
    return QuestionSet(
        name=name,
        version=version,
        hash=digest,
        questions=questions,
        folder=folder,
        source=str(about.get("source", "")),
        made=str(about.get("made", "")),
    )


def find_sets(root: Path) -> list[QuestionSet]:
    """Return all versions of all sets below a folder, by name and version.

    Raises:
        DataError: as `read_set` does.
    """
    found = [read_set(file.parent) for file in sorted(root.glob(f"*/v*/{ABOUT}")) if not _hidden(file, root)]
    return sorted(found, key=lambda one: (one.name, one.version))


def find_set(root: Path, name: str) -> QuestionSet:
    """Return the newest version of a set, or the one that ``name`` ends with (``cloth@2``).

    Raises:
        DataError: if there is none; the sentence offers the nearest match.
    """
    sets = find_sets(root)
    wanted, _, version = name.partition("@")
    of_name = [one for one in sets if one.name == wanted]
    if not of_name:
        raise DataError(f"{unknown('question set', wanted, {one.name for one in sets})} (in '{root}')")
    if not version:
        return of_name[-1]
    for one in of_name:
        if str(one.version) == version.removeprefix("v"):
            return one
    have = ", ".join(str(one.version) for one in of_name)
    raise DataError(f"question set '{wanted}' has no version '{version}'; it has: {have}")


def set_hash(ids: Sequence[str]) -> str:
    """Return the hash of a set of questions with these identities; their order does not matter."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def askable(sample: Sample) -> bool:
    """Return whether a page can ask a row: one turn of the user with at most one picture and one sound."""
    prompt = sample.prompt
    return (
        len(prompt) == 1
        and prompt[0].role == "user"
        and len(prompt[0].parts) > 0
        and len(sample.images) < 2
        and len(sample.sounds) < 2
    )


def _question(sample: Sample, domain: str) -> SetQuestion:
    asked = Sample(turns=sample.prompt, file=sample.file, line=sample.line)
    for part in _media(asked):
        if media_hash(part.path) == "unreadable":
            raise DataError(f"{sample.where}: '{part.path}' cannot be read")
    where = sample.groups.get("domain", "") or domain
    return SetQuestion(id=sample_key(asked), sample=sample, domain=where[:200])


def _kept(one: SetQuestion, media: Path) -> Sample:
    """Return a question's row with its media copied, and its domain among its groups."""
    groups = dict(one.sample.groups) | ({"domain": one.domain} if one.domain else {})
    turns = tuple(replace(turn, parts=tuple(_copied(turn, media))) for turn in one.sample.turns)
    return replace(one.sample, turns=turns, groups=groups, chosen=(), rejected=(), extra={})


def _copied(turn: Turn, media: Path) -> Iterator[Part]:
    for part in turn.parts:
        if isinstance(part, Text):
            yield part
        else:
            target = media / f"{sha256_file(part.path)[:16]}{part.path.suffix.lower()}"
            if not target.exists():
                shutil.copyfile(part.path, target)
            yield replace(part, path=target)


def _media(sample: Sample) -> list[Image | Sound]:
    return [*sample.images, *sample.sounds]


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
