"""The model card of a merge: what it was made from, how, how to make it again, and what it was measured at.

Its header is the one that the Hugging Face hub reads: ``base_model``, ``base_model_relation``, ``tags``, and
``model-index`` once the merge has been measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergers._lock import LOCK, read_lock, write_made
from mergers._plan import Plan
from mergers._report import MergeReport
from studio.adapters import is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.files import atomic_write

CARD = "README.md"
#: Between these stands what an evaluation said; another one replaces it.
BEGIN, END = "<!-- what the evaluation said -->", "<!-- end of what the evaluation said -->"
#: A public id in the path of a model in the local cache of the hub.
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def card(planned: Plan, report: MergeReport, base: str) -> str:
    """Return the contents of README.md; an unknown ``base`` is the one that the first adapter names."""
    spec = planned.spec
    first = spec.models[0].path
    if not base and is_adapter(first):
        base = read_adapter(first).base
    sources = [public_name(model.path) for model in spec.models]
    methods = dict.fromkeys(
        (spec.method, *(s.method for s in planned.steps if s.action == "merge" and s.method))
    )
    recipe = {
        key: value
        for key, value in spec.to_mapping().items()
        if key not in ("threads", "shard_size", "max_ram")
    }
    counts = f"{report.merged} tensors merged, {report.copied} copied, {len(report.dropped)} dropped"
    stored = (
        f"energy kept {report.energy:.2%}" if planned.kind == "adapter" else f"rounding {report.rounding:.2%}"
    )
    return _written(
        [public_name(base), *sources] if base else sources,
        "peft" if planned.kind == "adapter" else "transformers",
        methods,
        f"{spec.method} of {len(sources)} models",
        [f"Made by Triptych: {counts}; {stored}.", *(f"\nNote: {warning}." for warning in report.warnings)],
        recipe,
        "`--replay` makes the merge again",
    )


def declare(folder: str | Path, recipe: Mapping[str, Any], again: str, said: Sequence[str] = ()) -> Path:
    """Write lock and card of an adapter that a recipe made of others, and return the card's path.

    From then on `verify`, reports and `write_scores` take it like one of the engine's.

    Args:
        folder: the adapter.
        recipe: ``method``, ``base``, ``models`` (each its ``path``) and ``settings``, as in a merge file.
        again: the command that makes it once more.
        said: sentences for the card.
    """
    write_made(Path(folder), recipe, again)
    sources = [public_name(model["path"]) for model in recipe["models"]]
    title, made = f"{recipe['method']} of {len(sources)} models", ["Made by Triptych.", *said]
    text = _written(
        [public_name(recipe["base"]), *sources], "peft", [recipe["method"]], title, made, recipe,
        f"`{again}` makes one in the same way",
    )  # fmt: skip
    return atomic_write(Path(folder) / CARD, text)


def _written(
    models: Sequence[str],
    library: str,
    methods: Iterable[str],
    title: str,
    said: Sequence[str],
    recipe: Mapping[str, Any],
    again: str,
) -> str:
    """Return a card: ``models`` are the base, if it is known, and what was merged; the method comes first."""
    methods = list(methods)
    front: dict[str, Any] = {
        "base_model": list(dict.fromkeys(models)),
        "base_model_relation": "merge",
        "library_name": library,
        "merge_method": methods[0],
        "tags": ["merge", "triptych", *methods],
    }
    return "\n".join(
        [
            _header(front),
            "",
            f"# {title}",
            "",
            *said,
            "",
            "```yaml",
            yaml.safe_dump(dict(recipe), sort_keys=False).rstrip(),
            "```",
            "",
            f"`{LOCK}` holds the fingerprints of all inputs and of the result: `triptych merge --verify` "
            f"compares them, {again}.",
            "",
        ]
    )


def public_name(path: str | Path) -> str:
    """Return how others may find a model: the public id of one in the hub's cache, else the path."""
    found = _CACHED.search(Path(path).as_posix() + "/")
    return f"{found[1]}/{found[2]}" if found else str(path)


def check_card(folder: str | Path) -> None:
    """Raise `CheckpointError` or `MergeError` unless a folder is a whole merge with a card to write into."""
    folder = Path(folder)
    lock = read_lock(folder)
    if Checkpoint(folder).fingerprint() != lock["output"]["fingerprint"]:
        raise MergeError(f"{folder} is not what the merge wrote: its figures do not belong into the card")
    if not (folder / CARD).is_file():
        raise CheckpointError(f"{folder} has no {CARD} to write the figures into")


def write_scores(
    folder: str | Path,
    results: Results,
    variant: str,
    how: str,
    *,
    summary: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write what an evaluation measured into the card of a merge, in place of an earlier one.

    ``results[domain][variant]`` are as `apps.evaluate.evaluate` returns them; ``variant`` is this merge, the
    others of the same evaluation stand beside it. ``how`` says how it was asked, ``summary`` in sentences
    what came of it, and ``data`` holds the sha256 of each domain's rows. Returns the card's path.
    """
    check_card(folder)
    file = Path(folder) / CARD
    front, body = _split(file)
    front["model-index"] = [
        {"name": Path(folder).name, "results": list(_indexed(results, variant, data or {}))}
    ]
    outside = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", body, flags=re.DOTALL).rstrip()
    fingerprint = read_lock(Path(folder))["output"]["fingerprint"]
    section = "\n".join(
        [
            BEGIN,
            "## What the evaluation said",
            "",
            *(f"- {_inline(sentence)}" for sentence in summary),
            *([""] if summary else []),
            *_table(results, variant),
            "",
            f"In brackets 95 % intervals, n the number of samples; {how}. Fingerprint of the weights: "
            f"`{fingerprint[:12]}`.",
            END,
        ]
    )
    return atomic_write(file, f"{_header(front)}\n{outside}\n\n{section}\n")


def _indexed(results: Results, variant: str, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a merge's figures as a card's header has them, data set by data set."""
    for domain, cells in results.items():
        if variant not in cells:
            continue
        told = data.get(domain)
        revision = {"revision": str(told["sha256"])} if isinstance(told, Mapping) and "sha256" in told else {}
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"name": domain, "type": domain, **revision},
            "metrics": [
                {
                    "type": metric,
                    "name": f"{metric} ({_best(cell)})",
                    "value": round(float(cell["value"]), 6),
                    "args": {"n": cell["n"], "interval": [round(float(end), 6) for end in cell["ci"]]},
                }
                for metric, cell in cells[variant]["metrics"].items()
            ],
        }


def _table(results: Results, variant: str) -> list[str]:
    """Return a line per data set and metric, with this merge first."""
    names = list(dict.fromkeys([variant, *(name for cells in results.values() for name in cells)]))
    rows: list[Sequence[str]] = [
        ("data", "metric", "n", f"**{variant}**", *names[1:]),
        ("---", "---", "--:", *("--:" for _ in names)),
    ]
    for domain, cells in results.items():
        for metric, own in cells[variant]["metrics"].items() if variant in cells else ():
            told = [_told(cells.get(name, {}).get("metrics", {}).get(metric)) for name in names]
            rows.append((domain, f"{metric} ({_best(own)})", str(own["n"]), *told))
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _best(cell: Mapping[str, Any]) -> str:
    return "higher is better" if cell["higher_is_better"] else "lower is better"


def _inline(sentence: str) -> str:
    """Return a sentence that stays one line of Markdown, whatever names stand in it."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(sentence.split()))


def _told(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    low, high = cell["ci"]
    return f"{cell['value']:.3f} [{low:.3f}, {high:.3f}]"


def _header(front: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False).rstrip()}\n---"


def _split(file: Path) -> tuple[dict[str, Any], str]:
    """Return a card's header and the rest; `CheckpointError` for a header that cannot be read."""
    text = file.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if found is None:
        return {}, f"\n{text.lstrip()}"
    try:
        front = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError:
        front = None
    if not isinstance(front, dict):
        raise CheckpointError(f"the header of {file} is no YAML mapping")
    return front, text[found.end() :]
