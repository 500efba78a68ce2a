"""The report of a search: the found merge and the baselines, asked once on rows that chose nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mergers import declare, merge
from recipes._baselines import Baseline, baselines
from recipes._distil import write_deltas
from recipes._retained import Retained, retained
from recipes._search_bench import FINE, Bench, Setting, Values
from recipes._search_makers import LEAST, MAKERS
from recipes._search_page import write_page
from recipes._search_result import Found, words
from recipes._search_rows import Taken
from studio import plugins
from studio.config import from_dict, to_yaml
from studio.files import atomic_write
from studio.log import Log, QuietLog
from studio.overlay import overlaid
from studio.scores import measure

if TYPE_CHECKING:
    from recipes.search import Config
    from studio.eval_report.retention import Kept

#: How the report calls the merge that was found.
SEARCHED = "searched"
#: How many times as many baselines as are reported are tried on all rows that are searched on.
WIDER = 3
_HEAD = "# Found by `triptych run search`; `triptych merge THIS-FILE -o FOLDER` makes the same merge.\n"
_RUN = (
    "# Found by `triptych run search`; `triptych run {0} --config THIS-FILE output=FOLDER` merges so again,\n"
    "# from rows that it draws itself.\n"
)


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One variant of the report; ``searched`` are its values on the rows that were searched on."""

    name: str
    kind: str
    how: str
    scores: Mapping[str, Any]
    kept: Retained
    searched: Values


def report(
    config: Config,
    bench: Bench,
    rows: Mapping[str, Taken],
    best: Found,
    front: Sequence[Found],
    every: Sequence[Found],
    trained: Mapping[str, Path],
    log: Log,
) -> tuple[list[Reported], dict[str, float]]:
    """Write merge files and report; return what is told of each variant, and the figures of the found merge.

    Answers are kept in the folder, so that a report that was interrupted goes on.
    """
    write_merges(config, bench, best, front)
    wanted = baselines(
        bench.setting.model, bench.setting.experts, config.output / "baselines", log,
        peft=config.baselines.peft, mergekit=config.baselines.mergekit, trained=trained, seed=config.seed,
    )  # fmt: skip
    for name, why in wanted.refused.items():
        log.say(f"{name}: {why}")
    tried = _tried(config, bench, wanted, log)
    asked: list[tuple[Baseline, Callable[[], Mapping[str, Tensor]]]] = [
        (each, each.deltas) for each in wanted.values() if each.name in _reported(config, wanted, tried)
    ]
    found = Baseline(name=SEARCHED, kind="searched", how=words(best.candidate))
    asked.append((found, lambda: bench.merge(best.candidate)))

    log.stage("report", len(asked) * sum(len(taken.report) for taken in rows.values()))
    identity = {each.name: each.file.stem if each.file else each.name for each, _ in asked}
    identity[SEARCHED] = json.dumps(best.candidate.told(), sort_keys=True)
    values: dict[str, dict[str, list[float]]] = {}
    scores: dict[str, dict[str, Any]] = {}
    module: Any = plugins.load("metrics", config.metric)
    for each, deltas in asked:
        said = _answers(config, bench, rows, identity[each.name], deltas, log)
        references = {domain: [s.answer for s in taken.report] for domain, taken in rows.items()}
        values[each.name] = {d: list(module.each(said[d], references[d])) for d in rows}
        scores[each.name] = {
            d: dataclasses.asdict(measure(config.metric, said[d], references[d], config.seed)) for d in rows
        }
    home = {domain: values[domain][domain] for domain in rows}
    told = [
        Reported(
            name=each.name, kind=each.kind, how=each.how, scores=scores[each.name],
            kept=retained(values[each.name], home, config.seed, each.name),
            searched=best.values if each.name == SEARCHED else tried.get(each.name, {}),
        )
        for each, _ in asked
    ]  # fmt: skip
    about = {
        "metric": config.metric,
        "rows": {d: {"search": len(t.search), "report": len(t.report)} for d, t in rows.items()},
        "best": {"trial": best.number, **best.candidate.told()},
        "variants": [dataclasses.asdict(each) for each in told],
        "refused": wanted.refused,
        "baselines_on_search_rows": tried,
    }
    atomic_write(config.output / "report.json", json.dumps(about, indent=1) + "\n")
    write_page(config, told, best, every, tried, log)
    return told, _figures(told)


def write_merges(config: Config, bench: Bench, best: Found, front: Sequence[Found]) -> None:
    """Write a file for each point of the front, one for the best, and the best one as an adapter."""
    setting = bench.setting
    paths = list(setting.experts.values())
    for each in front:
        _write_file(config.output / "front" / f"trial-{each.number}", each, config, setting)
    _write_file(config.output / "merge", best, config, setting)
    if best.candidate.method not in MAKERS:
        spec = best.candidate.spec(setting.model, paths, config.seed)
        merge(dataclasses.replace(spec, allow=("overwrite",)), config.output / "adapter", QuietLog())
        return
    write_deltas(
        config.output / "adapter", bench.merge(best.candidate), model=config.model, base=setting.model,
        family=bench.family.name, note={"made_by": "search", "method": best.candidate.method},
    )  # fmt: skip
    declare(
        config.output / "adapter",
        {
            "method": best.candidate.method, "base": str(setting.model),
            "models": [
                {"path": str(path), "weight": weight}
                for path, weight in zip(paths, _weights(best, len(paths)), strict=True)
            ],
            "settings": {**best.candidate.settings, "rows": config.rows.fit, "seed": config.seed},
        },
        f"triptych run search --config {config.output} output=FOLDER",
        [f"Found by a search: {words(best.candidate)}."],
    )  # fmt: skip


def _weights(found: Found, count: int) -> list[float]:
    """Return the weight of each of so many experts, as a method that asks for rows takes it."""
    return [max(own, LEAST) for own in found.candidate.weights.get("", [1.0] * count)]


def _write_file(path: Path, found: Found, config: Config, setting: Setting) -> None:
    """Write PATH.yaml, a merge file; of a method that asks for rows PATH.METHOD.yaml, a recipe's settings."""
    candidate, paths = found.candidate, setting.experts
    if candidate.method not in MAKERS:
        text = candidate.spec(setting.model, list(paths.values()), config.seed).to_yaml(_HEAD)
        atomic_write(path.with_name(f"{path.name}.yaml"), text)
    elif candidate.method in plugins.names("recipes"):
        recipe: Any = plugins.load("recipes", candidate.method)
        known = {key: value for key, value in candidate.settings.items() if value is not None}
        told = {
            "model": config.model, "experts": {name: str(folder) for name, folder in paths.items()},
            "data": dict(config.data), "rows": config.rows.fit, "split": config.rows.search_split,
            "weight": dict(zip(paths, _weights(found, len(paths)), strict=True)),
            "seed": config.seed, **known,
        }  # fmt: skip
        text = _RUN.format(candidate.method) + to_yaml(from_dict(recipe.Config, told))
        atomic_write(path.with_name(f"{path.name}.{candidate.method}.yaml"), text)


def _tried(config: Config, bench: Bench, wanted: Mapping[str, Baseline], log: Log) -> dict[str, Values]:
    """Return the baselines' values on the rows that were searched on; poor ones are given up early."""
    file = config.output / "baselines" / "searched.json"
    tag = f"{sorted(bench.setting.scores)} {bench.home}"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known: dict[str, Values] = kept.get("values", {}) if kept.get("tag") == tag else {}

    def look(name: str, whole: bool) -> Values:
        key = f"{wanted[name].file.stem if wanted[name].file else name} {whole}"
        if key not in known:
            some: Values = {}
            known[key] = bench.measure(wanted[name].deltas(), lambda v: some.update(v) or not whole) or some
            atomic_write(file, json.dumps({"tag": tag, "values": known}))
        return known[key]

    score, found = config.score, dict[str, Values]()
    log.stage("baselines on the rows searched on", len(wanted), "merges")
    for kind in dict.fromkeys(each.kind for each in wanted.values()):
        names = [each.name for each in wanted.values() if each.kind == kind]
        if kind in ("peft", "mergekit"):
            first = {name: _mean(look(name, False), score) for name in names}
            names = sorted(names, key=lambda name: first[name], reverse=True)[: WIDER * config.baselines.keep]
        found |= {name: look(name, True) for name in names}
        log.advance(sum(each.kind == kind for each in wanted.values()))
    return found


def _reported(config: Config, wanted: Mapping[str, Baseline], tried: Mapping[str, Values]) -> set[str]:
    """Return whom the report asks: all, but of PEFT's and mergekit's the best by what was searched on."""
    names: set[str] = set()
    for kind in dict.fromkeys(each.kind for each in wanted.values()):
        own = [name for name in tried if wanted[name].kind == kind]
        if kind in ("peft", "mergekit"):
            own = sorted(own, key=lambda name: _mean(tried[name], config.score), reverse=True)[
                : config.baselines.keep
            ]
        names |= set(own)
    return names


def _mean(values: Values, score: str) -> tuple[float, float]:
    """Return the mean over the domains by the score, and by what tells merges apart that have 0 of it."""
    first, second = (sum(values[name].values()) / len(values[name]) for name in (score, FINE))
    return first, second


def _answers(
    config: Config,
    bench: Bench,
    rows: Mapping[str, Taken],
    identity: str,
    deltas: Callable[[], Mapping[str, Tensor]],
    log: Log,
) -> dict[str, list[str]]:
    """Return a variant's answers to the report's rows, by domain; those that were given before are kept."""
    parts = [identity, str(config.max_new_tokens), *(taken.digest for taken in rows.values())]
    file = config.output / "answers" / f"{sha256('|'.join(parts).encode()).hexdigest()[:24]}.json"
    try:
        kept: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    if all(domain in kept for domain in rows):
        log.advance(sum(len(taken.report) for taken in rows.values()))
        return kept
    with overlaid(bench.loaded.model, deltas()):
        for domain, taken in rows.items():
            if domain in kept:
                log.advance(len(taken.report))
                continue
            kept[domain] = bench.say(taken.report, log=log)
            atomic_write(file, json.dumps(kept))
    return kept


def _figures(told: Sequence[Reported]) -> dict[str, float]:
    """Return the run's figures: what the found merge keeps, and what the best of the others does."""

    def known(share: Kept) -> float:
        return share.value if share.value is not None else 0.0

    found = next(each for each in told if each.name == SEARCHED)
    figures = {"mean": known(found.kept.mean), "worst": known(found.kept.worst)}
    for kind in ("average", "peft", "mergekit", "training"):
        own = [known(each.kept.mean) for each in told if each.kind == kind]
        if own:
            figures[f"{kind}_mean"] = max(own)
    return figures
