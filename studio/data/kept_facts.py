"""What is known of files and rows from earlier runs, by content: a second check reads almost nothing.

Everything stands in the user's cache (`studio.cache`). A file is hashed again only when its size, its times
or its inode changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from studio import media, media_facts
from studio.cache import Kept
from studio.files import sha256_file, stamp
from studio.log import Log
from studio.media_facts import Facts, absent, facts
from studio.shardwork import cut, each_shard, processors

Medium = tuple[Path, bool]
"""A file and whether it is used as a picture (True) or as a sound (False)."""

_HERE = "\0"
#: Files in a shard, and the seconds of work that are worth starting workers, which need no torch for it.
SHARD, WORTH = 64, 3.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One medium: the SHA-256 of its bytes ("" where there are none), and its facts."""

    digest: str
    facts: Facts


def examine(wanted: Iterable[Medium], log: Log, kept: Kept | None = None) -> dict[Medium, Examined]:
    """Return what each medium is; those that are not known from earlier are decoded, shard by shard."""
    kept = kept or Kept()
    todo = list(dict.fromkeys(wanted))
    done: dict[Medium, Examined] = {}
    for medium in todo:
        fault = absent(*medium)
        if fault is not None:
            done[medium] = Examined(digest="", facts=fault)
    there = [medium for medium in todo if medium not in done]
    digests = content_hashes([path for path, _ in there], kept)
    names = {medium: f"facts:{code()}:{medium[1]:d}:{digests.get(medium[0], '')}" for medium in there}
    known = {key: _facts(text) for key, text in kept.get(list(dict.fromkeys(names.values()))).items()}
    fresh = {key: medium for medium, key in names.items() if known.get(key) is None}
    if fresh:
        log.stage("checking media", len(fresh), "files")
        shards = cut(list(fresh), SHARD)
        work = each_shard(_facts_of, [[fresh[key] for key in keys] for keys in shards], worth=WORTH)
        for keys, told_of in zip(shards, work, strict=True):
            made = {
                key: _moved(one, str(fresh[key][0]), _HERE) for key, one in zip(keys, told_of, strict=True)
            }
            kept.put({key: json.dumps(vars(one)) for key, one in made.items()})
            known |= made
            log.advance(len(keys))
    for medium, key in names.items():
        told = known[key]
        assert told is not None, key
        digest = digests.get(medium[0], "")
        done[medium] = Examined(digest=digest, facts=_moved(told, _HERE, str(medium[0])))
    return done


def content_hashes(paths: Sequence[Path], kept: Kept | None = None) -> dict[Path, str]:
    """Return the SHA-256 of each file that can be read; unchanged files are not read again."""
    kept = kept or Kept()
    stamps = {path: seen for path in paths if (seen := stamp(path))}
    known = kept.get([f"file:{path}" for path in stamps])
    found, stale = {}, []
    for path, seen in stamps.items():
        before, _, digest = known.get(f"file:{path}", "").rpartition(" ")
        if before == seen:
            found[path] = digest
        else:
            stale.append(path)
    if stale:
        shards = cut(stale, 4 * SHARD)
        fresh = {
            path: digest
            for some, digests in zip(shards, each_shard(_digests, shards, worth=WORTH), strict=True)
            for path, digest in zip(some, digests, strict=True)
            if digest
        }
        kept.put({f"file:{path}": f"{stamps[path]} {digest}" for path, digest in fresh.items()})
        found |= fresh
    return found


def workers() -> int:
    """Return how many threads decode: one a processor that this process may use, at most 8."""
    return min(8, processors())


def _facts_of(media: Sequence[Medium]) -> list[Facts]:
    return [facts(*medium) for medium in media]


def _digests(paths: Sequence[Path]) -> list[str]:
    return [_digest(path) for path in paths]


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _facts(text: str) -> Facts | None:
    try:
        values = json.loads(text)
        return Facts(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, TypeError, KeyError):
        return None


def _moved(found: Facts, old: str, new: str) -> Facts:
    """Return facts whose sentence names another place: the same bytes may lie in several."""
    if not found.sentence:
        return found
    return Facts(**{**vars(found), "sentence": found.sentence.replace(f"'{old}'", f"'{new}'")})


@cache
def code() -> str:
    """Return a hash over the code and the decoders that tell facts."""
    digest = hashlib.sha256()
    for module in (media, media_facts):
        digest.update(Path(module.__file__ or "").read_bytes())
    digest.update(f"{version('pillow')} {version('soundfile')}".encode())
    return digest.hexdigest()[:16]
