"""Diagnostics of a merge, before and after: how long the experts' deltas are, how far they agree, and what of
them the merged model carries; by module, by layer, by tower and for the whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergers._deltas import Deltas, Infinite, deltas
from mergers._figures import Figures
from mergers._groups import TOWERS, group_of, towers_of
from mergers._inputs import open_inputs
from mergers._measure import measure
from mergers._spec import MergeSpec, Model
from mergers._threads import in_order, one_torch_thread, workers
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError
from studio.files import atomic_write
from studio.log import Log, QuietLog

if TYPE_CHECKING:
    from rich.table import Table

CARRIED = "in brackets how much of it the merged change carries"
Merging = tuple[Sequence[str | Path], str | Path]


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module's figures, and where it stands in the model (``layer`` None outside the layers)."""

    name: str
    tower: str
    layer: int | None
    shape: tuple[int, int]
    figures: Figures

    @property
    def leaf(self) -> str:
        """What the module is called within its layer."""
        parts = [p for p in self.name.removesuffix(".weight").split(".") if not p.isdigit()]
        return ".".join(parts[-2:])


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All figures of a merge; ``merged`` is None before it.

    models   the experts' names, distinct and short; ``paths`` their folders
    rank     that kept energies are about; None for the largest expert's
    skipped  tensors whose values in the base are not finite; a merge copies them
    """

    method: str
    base: str
    models: tuple[str, ...]
    paths: tuple[str, ...]
    merged: str | None
    rank: int | None = None
    modules: tuple[Module, ...]
    skipped: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def whole(self) -> Figures:
        """The figures of all modules together."""
        return Figures.join(m.figures for m in self.modules)

    @property
    def towers(self) -> dict[str, Figures]:
        """The figures by tower."""
        found = self._grouped(lambda module: module.tower)
        return {key: found[key] for key in sorted(found, key=TOWERS.index)}

    @property
    def groups(self) -> dict[tuple[str, int | None], Figures]:
        """The figures by tower and layer; the layer is None for what stands outside the layers."""
        found = self._grouped(lambda module: (module.tower, module.layer))
        order = sorted(found, key=lambda key: (TOWERS.index(key[0]), key[1] is None, key[1] or 0))
        return {key: found[key] for key in order}

    def _grouped(self, key: Callable[[Module], Any]) -> dict[Any, Figures]:
        members: dict[Any, list[Figures]] = {}
        for module in self.modules:
            members.setdefault(key(module), []).append(module.figures)
        return {name: Figures.join(parts) for name, parts in members.items()}

    def to_mapping(self) -> dict[str, Any]:
        """Return all figures as JSON-ready values; a merged delta stands last in the cosines."""
        return {
            "method": self.method,
            "base": self.base,
            "models": [{"name": n, "path": p} for n, p in zip(self.models, self.paths, strict=True)],
            "merged": self.merged,
            "rank": self.rank,
            "skipped": self.skipped,
            "warnings": list(self.warnings),
            "whole": self.whole.to_mapping(),
            "towers": {name: found.to_mapping() for name, found in self.towers.items()},
            "groups": [{"tower": t, "layer": n, **f.to_mapping()} for (t, n), f in self.groups.items()],
            "modules": [
                {"name": m.name, "tower": m.tower, "layer": m.layer, "shape": list(m.shape)}
                | m.figures.to_mapping()
                for m in self.modules
            ],
        }

    def rows(self, full: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return the figures by group as text: the head, then a row a tower, or with ``full`` a layer."""
        head = ["group", "modules", *(f"|{name}|" for name in self.models)]
        head += ["cosine", "sign conflict", "cancelled", "overlap", "kept"]
        head += ["merged / longest", *(f"carries {name}" for name in self.models)] if self.merged else []
        rows = []
        if full:
            for (tower, layer), figures in self.groups.items():
                count = sum((m.tower, m.layer) == (tower, layer) for m in self.modules)
                rows.append(self._row(tower if layer is None else f"{tower} {layer}", count, figures))
        else:
            for tower, figures in self.towers.items():
                count = sum(m.tower == tower for m in self.modules)
                rows.append(self._row(tower, count, figures))
        return head, [*rows, self._row("all", len(self.modules), self.whole)]

    def _row(self, name: str, count: int, figures: Figures) -> list[str]:
        cosine = figures.cosine
        pairs = [cosine[i, j] for i in range(figures.experts) for j in range(i)]
        known = [c for c in pairs if c == c]
        row = [name, str(count), *(_length(n) for n in figures.norms)]
        row += [
            _text(sum(known) / len(known) if known else None, "{:+z.3f}"),
            _text(figures.conflict, "{:.1%}"),
        ]
        row += [_text(figures.cancelled, "{:.1%}"), _text(figures.overlap), _text(figures.kept, "{:.1%}")]
        if self.merged:
            row += [_text(figures.ratio), *(_text(share) for share in figures.shares)]
        return row

    def tables(self) -> list[Table]:
        """Return the figures for a terminal: by tower, and for each expert where it changed the base."""
        from rich.table import Table

        head, rows = self.rows()
        own = 2 + len(self.models)  # the experts' lengths stand in the second table
        chosen = [i for i in range(len(head)) if i < 2 or own <= i < own + 5 + (self.merged is not None)]
        one = Table(*(head[i] for i in chosen), title=f"{self.method} of {len(self.models)} models")
        for row in rows:
            one.add_row(*(row[i] for i in chosen), style="bold" if row is rows[-1] else None)
        towers = self.towers
        two = Table("length of the change", *towers, "all", caption=CARRIED if self.merged else None)
        for i, name in enumerate(self.models):
            two.add_row(name, *(_carried(figures, i) for figures in (*towers.values(), self.whole)))
        if self.merged:
            two.add_row("merged", *(_length(f.merged or 0.0) for f in (*towers.values(), self.whole)))
        for table in (one, two):
            for column in table.columns[1:]:
                column.justify = "right"
        return [one, two]

    def write(self, folder: str | Path) -> Path:
        """Write diagnosis.json, diagnosis.html and diagnosis.png into a folder; return the page's path."""
        from mergers._diagnosis_page import heat_maps, html_page
        from studio.heatmap_picture import picture

        out = Path(folder)
        atomic_write(out / "diagnosis.json", json.dumps(self.to_mapping(), indent=1) + "\n")
        atomic_write(out / "diagnosis.png", picture(heat_maps(self)))
        return atomic_write(out / "diagnosis.html", html_page(self))


def diagnose(
    what: MergeSpec | Merging,
    merged: str | Path | None = None,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    log: Log | None = None,
) -> Diagnosis:
    """Measure what is to be merged, and the result if there is one; see `mergers.diagnose`."""
    log = log or QuietLog()
    if isinstance(what, MergeSpec):
        spec = what
    else:
        inputs, merged = what
        models = tuple(Model(path=Path(path)) for path in inputs)
        spec = MergeSpec(method="linear", models=models, base=Path(base) if base else None)
    result = _open(merged)
    paths = [m.path for m in spec.models]
    opened = open_inputs(spec)
    family = next((a.family for a in opened.adapters if a.family), "")
    towers = towers_of(opened.base.config if opened.base is not None else {}, family)
    fixed = spec.rank if isinstance(spec.rank, int) else None

    def one(open_: Callable[[], Deltas]) -> Module | None:
        item = open_()
        group = group_of(item.name, towers)
        try:
            figures = measure(item, len(paths), fixed)
        except Infinite:
            return None
        return Module(name=item.name, tower=group.tower, layer=group.layer, shape=item.shape, figures=figures)

    modules: list[Module] = []
    with one_torch_thread():
        found = deltas(opened, result)
        log.stage("diagnose", len(found), "tensors")
        for module in in_order(one, found, workers(spec.threads)):
            modules += [module] if module is not None else []
            log.advance(1)
    if not modules:
        raise MergeError(f"{', '.join(map(str, paths))} have nothing that could be compared")
    made = Diagnosis(
        method=spec.method, base=str(opened.base.folder) if opened.base is not None else "",
        models=short_names(paths), paths=tuple(map(str, paths)),
        merged=str(merged) if merged is not None else None, rank=fixed,
        modules=tuple(modules), skipped=len(found) - len(modules), warnings=opened.warnings,
    )  # fmt: skip
    if out is not None:
        made.write(out)
    return made


def short_names(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the shortest ends of paths that tell them apart; a run's ``adapter`` goes by the run's name."""
    parts = [list(path.parts) for path in paths]
    bare = [p[:-1] if len(p) > 1 and p[-1] in ("adapter", "model") else p for p in parts]
    for length in range(1, max(map(len, bare), default=0) + 1):
        names = ["/".join(p[-length:]) for p in bare]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{'/'.join(p[-2:])} ({i})" for i, p in enumerate(bare, 1))


def _open(merged: str | Path | None) -> Adapter | Checkpoint | None:
    if merged is None:
        return None
    return read_adapter(merged) if is_adapter(merged) else Checkpoint(merged)


def _carried(figures: Figures, expert: int) -> str:
    share = figures.shares[expert] if figures.shares else None
    return _length(figures.norms[expert]) + ("" if share is None else f" ({share:.0%})")


def _length(value: float) -> str:
    return "-" if not value else f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _text(value: float | None, form: str = "{:z.3f}") -> str:
    return "-" if value is None else form.format(value)


__all__ = ["Diagnosis", "Module", "diagnose", "short_names"]
