"""Where everything came from, as the last part of a report: hashes, recipes, trainings, versions, seed."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studio.eval_report.assemble import Origin, Report
from studio.eval_report.cards import text
from studio.eval_report.parts import section
from studio.eval_report.words import short
from studio.heatmap import plain_table

_KINDS = {"base": "base", "expert": "trained", "merge": "merge", "unknown": "not known"}


def lineage(report: Report) -> str:
    """Return the lineage: how it was asked, what of, and where each variant comes from."""
    told = report.evaluation.told
    data = told.get("data")
    sets = [
        (short(str(name)), str(one.get("n", "-")), str(one.get("sha256", "-")))
        for name, one in (data.items() if isinstance(data, Mapping) else ())
        if isinstance(one, Mapping)
    ]
    asked = {
        "seed": told.get("seed", "-"),
        "decoding": told.get("decoding", {}),
        "rows that belong together": told.get("clusters") or "each by itself",
        **({"versions": told["versions"]} if told.get("versions") else {}),
        **({"judge": told["judge"].get("model")} if isinstance(told.get("judge"), Mapping) else {}),
    }
    own = [origin for origin in report.origins if origin.variant]
    rest = [origin for origin in report.origins if not origin.variant]
    parts = [
        "<h3>Variants</h3>",
        plain_table(("variant", "is", "made by", "seed", "sha256"), [_row(origin) for origin in own]),
        *(_details(origin) for origin in own if origin.facts or origin.sha256),
        *(["<h3>What went into the merges</h3>"] if rest else []),
        *(_details(origin) for origin in rest),
        "<h3>Data</h3>",
        plain_table(("data", "n", "sha256 of the rows"), sets),
        "<h3>How it was asked</h3>",
        f"<dl class='facts'>{''.join(_facts(asked))}</dl>",
    ]
    why = (
        "A variant's sha256 covers all that decides its answers: weights, processor, precision. Folders are "
        "told as they are now."
    )
    return section("lineage", "Where it comes from", why, parts)


def _row(origin: Origin) -> Sequence[str]:
    recipe, training = origin.facts.get("recipe"), origin.facts.get("training")
    made, seed = "-", "-"
    if isinstance(recipe, Mapping):
        made = f"{recipe.get('method', 'merge')} of {len(recipe.get('models', ()))}"
        seed = str(recipe.get("seed", "-"))
    elif isinstance(training, Mapping):
        made, seed = str(training.get("recipe", "-")), str(training.get("seed", "-"))
    return (origin.name, _KINDS.get(origin.kind, origin.kind), made, seed, origin.sha256[:16] or "-")


def _details(origin: Origin) -> str:
    facts = {"sha256": origin.sha256, **origin.facts} if origin.sha256 else origin.facts
    title = f"{text(origin.name)} <small>{_KINDS.get(origin.kind, origin.kind)}</small>"
    return f"<details><summary>{title}</summary><dl class='facts'>{''.join(_facts(facts))}</dl></details>"


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    for key, value in facts.items():
        yield f"<dt>{html.escape(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"<dl class='facts'>{''.join(_facts(value))}</dl>" if value else "-"
    if isinstance(value, list | tuple):
        return "<ul>" + "".join(f"<li>{_value(each)}</li>" for each in value) + "</ul>" if value else "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    told = text(str(value))
    return f"<code>{told}</code>" if len(str(value)) >= 40 and " " not in str(value) else told
