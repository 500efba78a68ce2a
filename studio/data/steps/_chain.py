"""One step after the other: what a finished step found is kept by content, and not looked for again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from studio.data.rows import Folder, row_of, sample_of
from studio.data.steps._ledger import Done
from studio.data.steps._measured import code_hash, digests
from studio.data.steps._step import Bench, Edit, Outcome, Place, Step, place
from studio.errors import DataError
from studio.files import sha256_file
from studio.types import Sample


def state_of(files: Sequence[Path], samples: Sequence[Sample], bench: Bench) -> str:
    """Return a hash over the bytes of the data files and of all media they name, wherever they lie."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    digest_of = digests(samples, bench)
    for sample in samples:
        for path in (*(i.path for i in sample.images), *(s.path for s in sample.sounds)):
            named = digest_of(path)
            digest.update(f"{'-' if named == str(path) else named}\n".encode())
    return digest.hexdigest()


def next_state(state: str, step: Step, seed: int) -> str:
    """Return the hash of what a step makes of a state: the same step with other code makes another."""
    said = [state, step.as_json(), dict(step.inputs(step.settings)), seed, code_hash()]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def recall(state: str, files: Sequence[Path], bench: Bench) -> Outcome | None:
    """Return what a step found in an earlier run that came to the same state, or None."""
    text = bench.kept.get([f"curate:{state}"]).get(f"curate:{state}")
    if text is None:
        return None
    homes = {file.name: file for file in files}
    folder = Folder(files[0].parent)
    try:
        told = json.loads(text)
        edits = []
        for name, line, reason, row in told["edits"]:
            new = sample_of(row, folder, homes[name], line) if row is not None else None
            edits.append(Edit(at=(homes[name], line), reason=reason, new=new))
        return Outcome(edits=edits, report=told["report"])
    except (ValueError, KeyError, TypeError, DataError):
        return None


def remember(state: str, outcome: Outcome, bench: Bench) -> None:
    """Keep what a step found."""
    edits = [
        [edit.at[0].name, edit.at[1], edit.reason, row_of(edit.new, edit.at[0].parent) if edit.new else None]
        for edit in outcome.edits
    ]
    bench.kept.put({f"curate:{state}": json.dumps({"edits": edits, "report": dict(outcome.report)})})


def applied(samples: Sequence[Sample], outcome: Outcome) -> list[Sample]:
    """Return the rows after a step's edits."""
    edits = {edit.at: edit.new for edit in outcome.edits}
    rows = ((sample, edits.get(place(sample), sample)) for sample in samples)
    return [new for _, new in rows if new is not None]


def all_done(steps: Sequence[Step], outcomes: Sequence[Outcome]) -> Mapping[Place, Done]:
    """Return by row what all steps did to it."""
    done: dict[Place, Done] = {}
    for step, outcome in zip(steps, outcomes, strict=True):
        for edit in outcome.edits:
            before = done[edit.at].steps if edit.at in done else ()
            done[edit.at] = Done(steps=(*before, (step.name, edit.reason)), new=edit.new)
    return done
