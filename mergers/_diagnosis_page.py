"""What a diagnosis looks like: heat maps, sentences about what stands out, and the page around them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from mergers._figures import Figures, listed
from studio.heatmap import HeatMap, figure, page, plain_table

if TYPE_CHECKING:
    from mergers._diagnose import Diagnosis

Value = Callable[[Figures], float | None]
#: The layer's place for modules outside of all layers.
OUTSIDE = "other"
#: Cosines below this are told as none at all, and shares of signs this close to a half as chance.
ORTHOGONAL, NEAR = 0.05, 0.02


def heat_maps(found: Diagnosis) -> list[HeatMap]:
    """Return the maps, most telling first; those of the merged result only after a merge."""
    maps = [_cosines(found), _norms(found)]
    if len(found.models) > 1:
        maps += [
            by_layer(
                found,
                lambda f: f.conflict,
                title="Sign conflict",
                note="Share of elements that two experts pull in opposite directions; unrelated ones: 50 %",
                form="{:.1%}",
                middle=0.5,
                warm=True,
            ),
            by_layer(
                found,
                lambda f: f.overlap,
                title="Subspace overlap",
                note=f"How far two experts act in the same directions, from 0 to 1{_by_chance(found)}",
                middle=found.whole.expected or 0.0,
            ),
        ]
    if found.whole.kept is not None and len(found.models) > 1:
        maps.append(
            by_layer(
                found,
                lambda f: f.kept,
                title="Energy kept",
                note=f"{_rank(found)} an adapter keeps this share of the energy of the experts' sum",
                form="{:.1%}",
                middle=1.0,
            )
        )
    if found.merged is not None:
        maps += [
            by_layer(
                found,
                lambda f: f.ratio,
                title="Length of the merged change",
                note="In units of the longest expert's; far below 1 the merge forgets, above 1 it overshoots",
                middle=1.0,
            ),
            _carried(found),
        ]
    return maps


def by_layer(
    found: Diagnosis,
    value: Value,
    *,
    title: str,
    note: str,
    form: str = "{:z.2f}",
    middle: float = 0.0,
    warm: bool = False,
) -> HeatMap:
    """Return one figure as towers by layers; the colours reach as far as the values do."""
    groups = found.groups
    layers = sorted({layer for _, layer in groups if layer is not None})
    columns: list[int | None] = [*layers, *([None] if any(layer is None for _, layer in groups) else [])]
    rows = list(found.towers)
    values = [[value(groups[t, c]) if (t, c) in groups else None for c in columns] for t in rows]
    reach = max((abs(v - middle) for row in values for v in row if v is not None), default=0.0)
    return HeatMap(
        title=title, note=note, rows=rows, columns=[OUTSIDE if c is None else str(c) for c in columns],
        values=values, middle=middle, reach=max(reach, 0.05), warm=warm, form=form,
    )  # fmt: skip


def _cosines(found: Diagnosis) -> HeatMap:
    names = [*found.models, *(["merged"] if found.merged is not None else [])]
    values = listed(found.whole.cosine)
    between = [abs(v) for i, row in enumerate(values) for j, v in enumerate(row) if i != j and v is not None]
    for i in range(len(values)):
        values[i][i] = None
    return HeatMap(
        title="Cosine between the changes",
        note="1: the same direction; 0: nothing in common; below 0: against each other",
        rows=names, columns=names, values=values, reach=max([0.1, *between]), form="{:+z.2f}",
    )  # fmt: skip


def _norms(found: Diagnosis) -> HeatMap:
    towers = found.towers
    values: list[list[float | None]] = [
        [norm if (norm := figures.norms[i]) else None for figures in towers.values()]
        for i in range(len(found.models))
    ]
    longest = max((v for row in values for v in row if v is not None), default=1.0)
    return HeatMap(
        title="Where each expert changed the base",
        note="Length of the change by tower; an empty cell was left alone",
        rows=found.models, columns=list(towers), values=values, reach=longest,
        form="{:,.0f}" if longest >= 100 else "{:.2f}" if longest >= 0.1 else "{:.1e}",
    )  # fmt: skip


def _carried(found: Diagnosis) -> HeatMap:
    towers = found.towers
    values = [
        [figures.shares[i] for figures in [*towers.values(), found.whole]] for i in range(len(found.models))
    ]
    reach = max((abs(v) for row in values for v in row if v is not None), default=1.0)
    return HeatMap(
        title="What the merged change carries of each expert",
        note="Its projection on the expert's change; 1: all of it, 0: none, below 0: undone",
        rows=found.models, columns=[*towers, "all"], values=values, reach=max(1.0, reach),
    )  # fmt: skip


def told(found: Diagnosis) -> list[str]:
    """Return sentences about what stands out."""
    whole, names = found.whole, found.models
    sentences = []
    cosine = whole.cosine
    pairs = sorted(
        (float(cosine[i, j]), names[i], names[j])
        for i, j in combinations(range(len(names)), 2)
        if cosine[i, j] == cosine[i, j]
    )
    if pairs:
        low, high = pairs[0], pairs[-1]
        if max(high[0], -low[0]) < ORTHOGONAL:
            text = f"The experts have next to nothing in common: cosines {low[0]:+.2f} to {high[0]:+.2f}"
        elif len(pairs) == 1:
            text = f"{high[1]} and {high[2]} have a cosine of {high[0]:+.2f}"
        else:
            text = (
                f"{high[1]} and {high[2]} are closest (cosine {high[0]:+.2f}), {low[1]} and {low[2]} "
                f"furthest apart ({low[0]:+.2f})"
            )
        sentences.append(f"{text}; a plain sum cancels {whole.cancelled or 0:.0%} of what they change.")
    lengths = sorted(zip(whole.norms, names, strict=True))
    if len(lengths) > 1 and lengths[0][0] and lengths[-1][0] / lengths[0][0] > 1.5:
        sentences.append(
            f"{lengths[-1][1]} changed the base {lengths[-1][0] / lengths[0][0]:.1f} times as far as "
            f"{lengths[0][1]} and outweighs it at equal weights."
        )
    groups = {_title(key): f for key, f in found.groups.items()}
    conflicts = [(f.conflict, name) for name, f in groups.items() if f.conflict is not None]
    if conflicts:
        worst = max(conflicts)
        by_chance = abs(worst[0] - 0.5) < NEAR and abs(min(conflicts)[0] - 0.5) < NEAR
        sentences.append(
            "Signs conflict in half of the elements everywhere, as chance would have it."
            if by_chance
            else f"Signs conflict most in {worst[1]}: {worst[0]:.0%} of the elements."
        )
    if whole.kept is not None and len(names) > 1:
        least = min((m.figures.kept, m.name) for m in found.modules if m.figures.kept is not None)
        sentences.append(
            f"{_rank(found)} an adapter keeps {whole.kept:.1%} of the energy of their sum; least in "
            f"{least[1]}: {least[0]:.1%}."
        )
    if whole.ratio is not None:
        carried = ", ".join(
            f"{s:.0%} of {n}" for s, n in zip(whole.shares, names, strict=True) if s is not None
        )
        sentences.append(
            f"The merged change is {whole.ratio:.2f} times as long as the longest expert's and carries "
            f"{carried}."
        )
    if found.skipped:
        sentences.append(f"{found.skipped} tensors of the base are not finite and stand in no figure.")
    return [*sentences, *found.warnings]


def html_page(found: Diagnosis) -> str:
    """Return the diagnosis as one self-contained page."""
    after = f", merged into <code>{html.escape(found.merged)}</code>" if found.merged else ""
    base = f" on <code>{html.escape(found.base)}</code>" if found.base else ""
    maps = "".join(figure(map) for map in heat_maps(found))
    head, rows = found.rows(full=True)
    parts = [
        "<h1>How the experts fit together</h1>",
        f'<p class="soft">{html.escape(", ".join(found.models))}{base}{after}; '
        f"{len(found.modules)} modules.</p>",
        f'<ul class="told">{"".join(f"<li>{html.escape(s)}</li>" for s in told(found))}</ul>',
        f'<div class="maps">{maps}</div>',
        "<h2>By layer</h2>",
        '<p class="soft">|name| is the length of an expert\'s change; cosine, sign conflict and overlap are '
        "means over all pairs of experts. The figures of every module are in diagnosis.json.</p>",
        plain_table(head, rows),
    ]
    return page("Diagnosis of a merge", parts)


def _title(key: tuple[str, int | None]) -> str:
    return key[0] if key[1] is None else f"{key[0]} layer {key[1]}"


def _rank(found: Diagnosis) -> str:
    return f"At rank {found.rank}" if found.rank else "At the largest expert's rank"


def _by_chance(found: Diagnosis) -> str:
    expected = found.whole.expected
    return "" if expected is None else f"; unrelated experts of these ranks: {expected:.2f}"


__all__: Sequence[str] = ("by_layer", "heat_maps", "html_page", "told")
