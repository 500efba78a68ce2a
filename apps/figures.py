"""From answers to figures: scores with intervals, differences from a baseline, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from studio.paired import paired_of
from studio.scores import Additive, Columns, additive, by_sample, finite, measure, needed, score_of
from studio.types import Sample

if TYPE_CHECKING:
    from rich.table import Table

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``results[domain][variant]``, as `apps.evaluate.evaluate` returns them."""


def columns(samples: Sequence[Sample], modules: Mapping[str, ModuleType]) -> dict[str, list[Any]]:
    """Return the columns that metrics need and rows hold, as a group or in ``extra``: name -> [N].

    A row without one has the empty string; a column that no row has is left out, and its metric says so.
    """
    wanted = {name for module in modules.values() for name in getattr(module, "NEEDS", ())}
    found = {
        name: [sample.extra.get(name, sample.groups.get(name, "")) for sample in samples] for name in wanted
    }
    return filled(found)


def filled(found: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the columns that any row has, and those that metrics can do without."""
    optional = {"context"}  # without one, the reference says what is true
    return {
        name: values for name, values in found.items() if name in optional or any(v != "" for v in values)
    }


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one variant said to one domain's rows [N], and what metrics need beside it."""

    answers: Sequence[str]
    references: Sequence[str]
    columns: Columns
    clusters: Sequence[str] | None = None

    def only(self, rows: Sequence[int]) -> Told:
        """Return the same for some of the rows, in their order."""
        return Told(
            answers=[self.answers[row] for row in rows],
            references=[self.references[row] for row in rows],
            columns={name: [column[row] for row in rows] for name, column in self.columns.items()},
            clusters=[self.clusters[row] for row in rows] if self.clusters is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A metric's sums over samples, if it is a function of them, and what of them belongs together."""

    told: Told
    sums: Additive | None
    clusters: Sequence[str] | None


def sheet(metric: str, module: ModuleType, told: Told) -> Sheet:
    """Return what a metric makes of a variant's answers, computed once for all figures.

    Raises:
        ValueError: the metric does not fit the data.
    """
    clusters, names = told.clusters, told.columns.get("paraphrase", ())
    wanted = "paraphrase" in getattr(module, "NEEDS", ()) and bool(names)
    if clusters is None and wanted and all(isinstance(name, str) for name in names):
        clusters = [name or f"row {row}" for row, name in enumerate(names)]  # samples of a name ask the same
    sums = additive(module, told.answers, told.references, needed(module, metric, told.columns))
    if sums is not None:
        finite(metric, sums)
    return Sheet(told=told, sums=sums, clusters=clusters)


def measured(sheets: Mapping[str, Sheet], seed: int) -> dict[str, Any]:
    """Return one variant's cell of the results: the first metric's figures, and all under ``metrics``.

    Raises:
        ValueError: a metric that does not fit the data.
    """
    found = {}
    for metric, each in sheets.items():
        if each.sums is not None:
            score = score_of(metric, each.sums, seed, clusters=each.clusters)
        else:
            told = each.told
            score = measure(
                metric, told.answers, told.references, seed, columns=told.columns, clusters=each.clusters
            )
        found[metric] = {
            "value": score.value,
            "n": score.n,
            "ci": [score.low, score.high],
            "higher_is_better": score.higher_is_better,
        }
    first = next(iter(found))
    return {"metric": first, **found[first], "metrics": found}


def compare(
    cell: Mapping[str, Any], ours: Mapping[str, Sheet], theirs: Mapping[str, Sheet], seed: int
) -> None:
    """Add to a variant's cell what it gained or lost against a baseline on the same rows, by metric.

    Raises:
        ValueError: a metric that tells nothing of single samples.
    """
    for metric, each in ours.items():
        other = theirs.get(metric)
        if other is None:
            continue
        if each.sums is None or other.sums is None:
            raise ValueError(
                f"{metric} tells nothing of single samples, so variants cannot be compared in pairs"
            )
        found = paired_of(metric, each.sums, other.sums, seed, clusters=each.clusters)
        cell["metrics"][metric]["against"] = {
            "value": found.value,
            "ci": [found.low, found.high],
            "p": found.p,
        }


def add_groups(
    cell: Mapping[str, Any], sheets: Mapping[str, Sheet], group: str, marks: Sequence[str], seed: int
) -> None:
    """Add to a variant's cell the figures of every value of a group: ``groups[group][value]``, by metric.

    ``marks`` are the rows' values [N]; rows with an empty one, and metrics of more than single rows, are left
    out.
    """
    for metric, each in sheets.items():
        if each.sums is None or len(each.sums.rows) != len(marks):
            continue
        found = {}
        for value in sorted(set(marks) - {""}):
            rows = [at for at, mark in enumerate(marks) if mark == value]
            clusters = [each.clusters[at] for at in rows] if each.clusters is not None else None
            try:
                score = score_of(
                    metric, replace(each.sums, rows=each.sums.rows[rows]), seed, clusters=clusters
                )
            except ValueError:
                continue
            found[value] = {"value": score.value, "low": score.low, "high": score.high, "n": score.n}
        cell["metrics"][metric].setdefault("groups", {})[group] = found


def of_samples(modules: Mapping[str, ModuleType], sheets: Mapping[str, Sheet]) -> dict[str, list[float]]:
    """Return the value of every sample [N], of each metric that tells it."""
    found = {}
    for metric, each in sheets.items():
        values = by_sample(modules[metric], each.sums) if each.sums is not None else None
        if values is not None:
            found[metric] = values
    return found


def scores_of(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the results by variant: ``{variant: {"domain.metric": {value, low, high, n}}}``."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for domain, cells in results.items():
        for variant, cell in cells.items():
            for metric, figures in cell["metrics"].items():
                low, high = figures["ci"]
                told = {"value": figures["value"], "low": low, "high": high, "n": figures["n"]}
                scores.setdefault(variant, {})[f"{domain}.{metric}"] = told
    return scores


def table(results: Results, metric: str | None = None) -> Table:
    """Return the results by one metric (the first) as a table: variants down, domains across."""
    from rich.table import Table
    from rich.text import Text

    domains = list(results)
    variants = list(results[domains[0]])
    metric = metric or str(results[domains[0]][variants[0]]["metric"])
    cells = {name: {d: _cell(results[d][name], metric) for d in domains} for name in variants}
    first = cells[variants[0]]
    sign = 1 if first[domains[0]]["higher_is_better"] else -1
    view = Table(title=f"{metric}, 95 % interval", title_justify="left", caption_justify="left")
    view.caption = "higher is better" if sign > 0 else "lower is better"
    view.add_column("variant", no_wrap=True)
    for domain in domains:
        view.add_column(Text(f"{domain}\nn = {first[domain]['n']}"), justify="right")
    view.add_column("mean", justify="right")
    best = {domain: max(sign * cells[name][domain]["value"] for name in variants) for domain in domains}
    means = {name: sum(cell["value"] for cell in cells[name].values()) / len(domains) for name in variants}
    top = max(sign * mean for mean in means.values())
    for name in variants:
        shown = []
        for domain, cell in cells[name].items():
            style = "bold" if sign * cell["value"] == best[domain] else ""
            text = Text().append(f"{cell['value']:.3f}", style=style)
            shown.append(text.append(f"\n{cell['ci'][0]:.3f}-{cell['ci'][1]:.3f}", style="dim"))
        mean = Text(f"{means[name]:.3f}", style="bold" if sign * means[name] == top else "")
        view.add_row(Text(name), *shown, mean)
    return view


def _cell(result: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """Return one metric's figures, from under ``metrics`` or from the result itself if it is the headline."""
    cell: Mapping[str, Any] = result if result["metric"] == metric else result["metrics"][metric]
    return cell
