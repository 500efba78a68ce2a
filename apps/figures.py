"""From answers to figures: scores with intervals, differences from a baseline, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from studio.paired import paired
from studio.scores import Columns, measure, needed
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
    optional = {"context"}  # without one, the reference says what is true
    return {
        name: values for name, values in found.items() if name in optional or any(v != "" for v in values)
    }


def measured(
    metrics: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str],
    told: Columns,
    seed: int,
    clusters: Sequence[str] | None,
) -> dict[str, Any]:
    """Return one variant's cell of the results: the first metric's figures, and all under ``metrics``.

    Raises:
        ValueError: a metric that does not fit the data.
    """
    found = {}
    for metric in metrics:
        score = measure(metric, answers, references, seed, columns=told, clusters=clusters)
        found[metric] = {
            "value": score.value,
            "n": score.n,
            "ci": [score.low, score.high],
            "higher_is_better": score.higher_is_better,
        }
    return {"metric": metrics[0], **found[metrics[0]], "metrics": found}


def compare(
    cells: Mapping[str, Any],
    baseline: str,
    said: Mapping[str, Sequence[str]],
    references: Sequence[str],
    told: Mapping[str, Columns],
    seed: int,
    clusters: Sequence[str] | None,
) -> None:
    """Add to every cell but the baseline's what it gained or lost against it, metric by metric."""
    for name, cell in cells.items():
        if name == baseline:
            continue
        for metric, figures in cell["metrics"].items():
            found = paired(
                metric, said[name], said[baseline], references, seed,
                columns=told[name], baseline_columns=told[baseline], clusters=clusters,
            )  # fmt: skip
            figures["against"] = {"value": found.value, "ci": [found.low, found.high], "p": found.p}


def by_sample(
    modules: Mapping[str, ModuleType], answers: Sequence[str], references: Sequence[str], told: Columns
) -> dict[str, list[float]]:
    """Return the value of every sample [N], of each metric that tells it."""
    return {
        metric: module.each(answers, references, **needed(module, metric, told))
        for metric, module in modules.items()
        if hasattr(module, "each")
    }


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
