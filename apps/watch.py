"""One look of a watch: what is new is evaluated, compared in pairs with good versions, and kept.

with History(folder) as history:
    names = look(history, FolderTarget(runs), data, settings, log)
    look_at_inputs(history, reference, Path("incoming"), settings, log)
    bad(history, names)    # what is wrong now, in sentences
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.evaluate import Results, evaluate
from apps.figures import scores_of
from apps.gate import Rule
from apps.gate import Verdict as RuleVerdict
from apps.gate import judge as judge_rules
from apps.watch_targets import Target
from studio.data.identity import data_hash
from studio.errors import TriptychError, unknown
from studio.files import atomic_write
from studio.log import Log, QuietLog
from studio.types import Sample
from studio.watch_chart import write_charts
from studio.watch_history import Entry, History, good_ones, standing
from studio.watch_rule import ALPHA, LOOKS, Pair, Verdict, differences, judge

STATE = "watch.json"
Data = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a watch evaluates, and when it raises an alarm (`studio.watch_rule`)."""

    metrics: Sequence[str] = ("exact_match",)
    rules: Sequence[Rule] = ()
    alpha: float = ALPHA
    looks: int = LOOKS
    batch_size: int = 16
    max_new_tokens: int = 48


def look(history: History, target: Target, data: Data, settings: Settings, log: Log) -> list[str]:
    """Evaluate what is new or changed since the last look, keep it, and return the names of what is there.

    A variant that cannot be read or asked is kept as failed, with the reason; the others are looked at.
    """
    prints, failed = target.versions()
    named = {name for rule in settings.rules for name in (rule.variant, rule.against) if name}
    if prints:
        failed |= {
            name: f"a rule names it, but there is none here: {unknown('variant', name, prints)}"
            for name in named - prints.keys() - failed.keys()
        }
    asked = {domain: data_hash(samples) for domain, samples in data.items()}
    asked["settings"] = json.dumps([list(settings.metrics), settings.max_new_tokens])
    new = [name for name, digest in prints.items() if not _known(history, name, digest, asked, target.told)]
    number = history.next_look
    folder = history.look_folder(number)
    results, more = _evaluated(history, target, new, data, settings, log, folder)
    failed |= more
    entries: list[Entry] = []
    if results:
        names = list(next(iter(results.values())))
        if not target.told:
            prints |= {name: _said(folder, name) for name in names}
            names = [name for name in names if not _known(history, name, prints[name], asked, True)]
        if names:
            entries = _entries(history, names, number, prints, asked, results, settings)
        else:  # an endpoint that answers as before
            shutil.rmtree(folder, ignore_errors=True)
    for name, why in failed.items():
        last = _newest(history, name)
        if last is None or last["kind"] != "failed" or last["why"] != why:
            entries.append({"kind": "failed", "look": number, "variant": name, "why": why})
    if entries:
        history.add(*entries)
    here = [*prints, *failed]
    _keep_state(history, here)
    return here


def look_at_inputs(
    history: History,
    reference: Any,
    new: Any,
    settings: Settings,
    log: Log,
    *,
    names: tuple[str, str],
    model: Path | None = None,
) -> Entry:
    """Compare new inputs with a reference (`studio.drift_features.Inputs`), keep it, and return the entry.

    Inputs that were compared before give the entry from then. ``model`` embeds them, if it is given.
    """
    from studio.drift import compare
    from studio.drift_embeddings import Embedder
    from studio.drift_features import digest_of, measured

    level = settings.alpha / settings.looks
    digest = hashlib.sha256(
        json.dumps([digest_of(reference), digest_of(new), str(model), level]).encode()
    ).hexdigest()
    for entry in reversed(history.entries):
        if entry["kind"] == "inputs" and entry["digest"] == digest:
            return entry
    embedder = Embedder(model, log) if model is not None else None
    sides = [measured(one, log, embedder.embeddings(one) if embedder else None) for one in (reference, new)]
    findings, notes = compare(sides[0], sides[1], level=level)
    history.add(
        {
            "kind": "inputs",
            "look": history.next_look,
            "reference": names[0],
            "inputs": names[1],
            "digest": digest,
            "level": level,
            "drifted": any(finding.drifted for finding in findings),
            "findings": [_plain(asdict(finding)) for finding in findings],
            "notes": notes,
        }
    )
    return history.entries[-1]


def bad(history: History, names: Iterable[str], *, inputs: bool = False) -> dict[str, list[str]]:
    """Return what is wrong now with each of these variants, and with the ``inputs``: sentences by name."""
    found: dict[str, list[str]] = {}
    now = standing(history.entries)
    for name in names:
        newest = _newest(history, name)
        if newest is None:
            continue
        accepted = now.get(name) == "accepted"
        if newest["kind"] == "failed":
            found[name] = [str(newest["why"])]
            continue
        sentences = [sentence(test) for test in newest["tests"] if test["worse"] and not accepted]
        sentences += [f"breaks the rule '{rule}'" for rule in newest["broken"]]
        if sentences:
            found[name] = sentences
    compared = [entry for entry in history.entries if entry["kind"] == "inputs"]
    if inputs and compared and compared[-1]["drifted"]:
        found["inputs"] = [drift_sentence(one) for one in compared[-1]["findings"] if one["drifted"]]
    return found


def sentence(test: Mapping[str, Any]) -> str:
    """Return what a test of a regression found."""
    return (
        f"{test['figure']} is worse by {abs(test['difference']):.3f} than the {test['against']} version "
        f"(look {test['look']}, n = {test['n']}, p = {test['p']:.2g} of at most {test['level']:.2g})"
    )


def drift_sentence(finding: Mapping[str, Any]) -> str:
    """Return what a finding of drift says."""
    sizes = f"n = {finding['n_reference']} and {finding['n']}, p = {finding['p']:.2g}"
    what, how = f"{finding['kind']}s: {finding['feature']}", f"distance {finding['distance']:.2f}, {sizes}"
    if finding["before"] is None:
        return f"{what} moved ({how})"
    unit = f" {finding['unit']}" if finding["unit"] else ""
    return f"{what} moved from {finding['before']:.3g} to {finding['after']:.3g}{unit} (medians; {how})"


def _known(history: History, name: str, digest: str, asked: Mapping[str, str], told: bool) -> bool:
    """Return whether the newest version that was scored is this one, on the same data, and nothing failed."""
    own = _newest(history, name)
    if not told or own is None or own["kind"] == "failed":
        return False
    return bool(own["fingerprint"] == digest and own["data"] == asked)


def _newest(history: History, name: str) -> Entry | None:
    """Return a variant's newest entry: its scores, or why there are none."""
    own = (entry for entry in reversed(history.entries) if entry.get("variant") == name)
    return next((entry for entry in own if entry["kind"] != "accepted"), None)


def _evaluated(
    history: History, target: Target, names: list[str], data: Data, settings: Settings, log: Log, folder: Path
) -> tuple[Results, dict[str, str]]:
    """Evaluate variants together; if that fails, those that fail alone are left out, with the reason."""
    failed: dict[str, str] = {}

    def run(some: Sequence[str], out: Path | None, told: Log) -> Results:
        return evaluate(
            target.answerer(some),
            data,
            settings.metrics,
            told,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            cache=history.folder / "answers" if target.told else None,
            out=out,
        )

    if not names:
        return {}, failed
    try:
        return run(names, folder, log), failed
    except TriptychError as error:
        if len(names) == 1:
            return {}, {names[0]: str(error)}
    for name in names:  # what was answered is in the cache
        try:
            run([name], None, QuietLog())
        except TriptychError as error:
            failed[name] = str(error)
    left = [name for name in names if name not in failed]
    return (run(left, folder, log) if left else {}), failed


def _entries(
    history: History,
    names: Sequence[str],
    number: int,
    prints: Mapping[str, str],
    asked: Mapping[str, str],
    results: Results,
    settings: Settings,
) -> list[Entry]:
    """Return the entries of newly scored versions, with what the alarm rule says of them."""
    figures = {name: _figures(results, name) for name in names}
    good = {name: good_ones(history.entries, name) for name in names}
    pairs = []
    for name in names:
        now = values(history.look_folder(number), name)
        for against, entry in good[name].items():
            then = values(history.look_folder(int(entry["look"])), name)
            for figure, own in now.items():
                found = differences(
                    own, then.get(figure, {}), higher_is_better=figures[name][figure]["higher_is_better"]
                )
                if found:
                    look = int(entry["look"])
                    pairs.append(
                        Pair(variant=name, figure=figure, against=against, look=look, differences=found)
                    )
    verdicts = judge(pairs, alpha=settings.alpha, looks=settings.looks) if pairs else []
    told = _rules_of(history, settings.rules, results)
    return [
        {
            "kind": "scores",
            "look": number,
            "variant": name,
            "fingerprint": prints[name],
            "data": dict(asked),
            "folder": history.look_folder(number).relative_to(history.folder).as_posix(),
            "figures": figures[name],
            "verdict": _verdict([one for one in verdicts if one.variant == name]),
            "tests": [asdict(one) for one in verdicts if one.variant == name],
            "broken": [one.rule for one in told if one.variant == name and not one.kept],
        }
        for name in names
    ]


def _rules_of(history: History, rules: Sequence[Rule], results: Results) -> list[RuleVerdict]:
    """Return what the rules say of this look, with the newest figures of variants that were not looked at."""
    cells: dict[str, dict[str, Any]] = {}
    for entry in history.entries:
        for figure, told in entry.get("figures", {}).items():
            domain, _, metric = figure.rpartition(".")
            cell = cells.setdefault(domain, {}).setdefault(entry["variant"], {"metrics": {}})
            cell["metrics"][metric] = {**told, "ci": [told["low"], told["high"]]}
    for domain, own in results.items():
        cells.setdefault(domain, {}).update(own)
    known = {name for own in cells.values() for name in own}
    return judge_rules([one for one in rules if {one.variant, one.against} <= {"", *known}], cells)


def _verdict(tests: Sequence[Verdict]) -> str:
    if not tests:
        return "first"
    if any(test.worse for test in tests):
        return "regressed"
    return "better" if any(test.better for test in tests) else "steady"


def _figures(results: Results, name: str) -> dict[str, dict[str, Any]]:
    whole = scores_of({domain: {name: cells[name]} for domain, cells in results.items()})[name]
    for domain, cells in results.items():
        for metric, told in cells[name]["metrics"].items():
            whole[f"{domain}.{metric}"]["higher_is_better"] = told["higher_is_better"]
    return whole


def values(folder: Path, variant: str) -> dict[str, dict[str, float]]:
    """Return the values of a kept look by figure and by what was asked; nothing if the look is gone."""
    found: dict[str, dict[str, float]] = {}
    times: Counter[str] = Counter()
    for row in _rows(folder, variant):
        media = [one["sha256"] for one in row["media"]]
        told = json.dumps([row["domain"], row["prompt"], media, row["reference"]])
        times[told] += 1  # the same row twice in a set is two samples
        key = hashlib.sha256(f"{times[told]} {told}".encode()).hexdigest()
        for metric, value in row["scores"].items():
            found.setdefault(f"{row['domain']}.{metric}", {})[key] = float(value)
    return found


def _said(folder: Path, variant: str) -> str:
    """Return a hash of all that a variant said: what an endpoint serves has no other name."""
    said = json.dumps([row["output"] for row in _rows(folder, variant)])
    return hashlib.sha256(said.encode()).hexdigest()


def _rows(folder: Path, variant: str) -> list[dict[str, Any]]:
    try:
        text = (folder / "samples.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    rows = (json.loads(line) for line in text.splitlines() if line.strip())
    return [row for row in rows if row["variant"] == variant]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for JSON, which has no NaN."""
    return {key: None if value != value else value for key, value in row.items()}


def _keep_state(history: History, names: Sequence[str]) -> None:
    """Write how everything stands, and the charts."""
    newest = {e["variant"]: e["figures"] for e in history.entries if e["kind"] == "scores"}
    state = {
        "standing": {name: one for name, one in standing(history.entries).items() if name in names},
        "figures": {name: one for name, one in newest.items() if name in names},
        "wrong": bad(history, names),
    }
    atomic_write(history.folder / STATE, json.dumps(state, indent=1, ensure_ascii=False) + "\n")
    write_charts(history.folder, history.entries)
