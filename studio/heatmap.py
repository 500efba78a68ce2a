"""Heat maps: a table of numbers as a figure of a page that is light and dark, or as a picture.

    map = HeatMap(title="Cosine", rows=("a", "b"), columns=("a", "b"), values=((1.0, 0.2), (0.2, 1.0)))
    page("Diagnosis", [figure(map)])       # one self-contained HTML page
    picture([map])                         # PNG

Values above ``middle`` are petrol, values below it copper; both are strongest at ``reach`` from it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

#: Characters of a name that are shown on a page.
LABEL = 18
#: More columns than this are drawn without numbers.
NUMBERED = 14
#: A map that is wider than so many characters has a row of the page to itself.
WIDE = 58

STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5f6b7d;--paper:#fbfaf8;--card:#fff;--line:#e4e2dc;
--rest:#f1efea;--above:#12666b;--below:#b3501d;--strong:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e9edf3;--soft:#98a2b3;--paper:#14171c;--card:#1d2128;--line:#30353e;
--rest:#272c34;--above:#5cc4c8;--below:#f0955c;--strong:#101418}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0;padding:2.5rem 1rem}
main{max-width:66rem;margin:auto}h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{margin:2.6rem 0 .2rem;font-size:1.25rem}.soft,small{color:var(--soft)}p{margin:.3rem 0 .8rem}
.scroll{overflow-x:auto}.maps{display:flex;flex-wrap:wrap;gap:1rem;margin:1.4rem 0}
.maps figure{flex:1 1 24rem;min-width:0;margin:0}.maps figure.wide{flex-basis:100%}
figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.1rem;margin:1rem 0;
box-sizing:border-box}
figcaption{margin-bottom:.7rem}figcaption b{display:block}figcaption span{color:var(--soft);font-size:.9rem}
table{border-collapse:separate}table.map{border-spacing:3px}table.map.dense{border-spacing:1px}
.map th{font-weight:500;font-size:.85rem;white-space:nowrap;padding:0 .5rem 0 0;text-align:right}
.map thead th{padding:0 .2rem .2rem;text-align:center;color:var(--soft)}
.map th div{max-width:9rem;overflow:hidden;text-overflow:ellipsis;margin-left:auto}
.map thead th div{max-width:7rem;margin:auto}
.map td{min-width:3.2rem;height:2.1rem;padding:0 .3rem;text-align:center;border-radius:6px;font-size:.85rem;
font-variant-numeric:tabular-nums;--of:var(--above);
background:color-mix(in oklab,var(--of) var(--t,0%),var(--rest))}
.map td.n{--of:var(--below)}.map td.s{color:var(--strong)}.map td.x{background:none}
.map td small{display:block;font-size:.72rem;line-height:1.25;color:inherit;white-space:nowrap}
.map td:has(small){padding:.35rem .5rem;min-width:5rem}
.map.dense td{min-width:1.15rem;width:1.15rem;height:1.5rem;padding:0;border-radius:3px}
.map.dense thead th{font-size:.7rem;padding:0;min-width:1.15rem}
.legend{display:flex;align-items:center;gap:.6rem;margin-top:.8rem;font-size:.8rem;color:var(--soft)}
.legend i{width:11rem;height:.6rem;border-radius:4px;background:linear-gradient(90deg in oklab,var(--bar))}
table.plain{width:100%;border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
.plain :is(th,td){padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
.plain th{font-weight:600}.plain :is(th,td):first-child{text-align:left}
ul.told{padding-left:1.2rem;margin:.8rem 0}ul.told li{margin:.25rem 0}
code{font-family:ui-monospace,monospace;font-size:.9em}
"""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A table of numbers to look at; None where there is none.

    middle    the value without colour; ``reach`` how far from it a colour is full
    warm      True turns the colours round: copper above the middle, for what is unwelcome
    form      how a number is written
    note      a sentence on how to read it
    small     what stands under the numbers, where it is not empty: an interval, a p-value
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    note: str = ""
    middle: float = 0.0
    reach: float = 1.0
    warm: bool = False
    form: str = "{:z.2f}"
    small: Sequence[Sequence[str]] = ()

    def strength(self, value: float) -> float:
        """Return the colour of a value from -1 (full copper) over 0 (none) to 1 (full petrol)."""
        share = (value - self.middle) / self.reach if self.reach else 0.0
        return max(-1.0, min(1.0, -share if self.warm else share))

    @cached_property
    def numbered(self) -> bool:
        """Whether there is room for the numbers in the cells."""
        return len(self.columns) <= NUMBERED

    @cached_property
    def wide(self) -> bool:
        """Whether the map needs the whole width of a page."""
        label = min(max(map(len, self.rows), default=0), LABEL)
        under = max((len(text) for row in self.small for text in row), default=0)
        cells = sum(max(7, under + 2, min(len(name), LABEL - 4) + 1) for name in self.columns)
        return label + (cells if self.numbered else WIDE) > WIDE

    @property
    def legend(self) -> tuple[str, str, str]:
        """The least value, the colours from there on ("below rest above" or some of them), the greatest."""
        values = [value for row in self.values for value in row if value is not None]
        below = any(value < self.middle for value in values)
        above = any(value > self.middle for value in values) or not below
        low = self.middle - self.reach if below else self.middle
        high = self.middle + self.reach if above else self.middle
        names = ["above", "rest", "below"] if self.warm else ["below", "rest", "above"]
        used = names[0 if below else 1 : 3 if above else 2]
        return self.form.format(low), " ".join(used), self.form.format(high)


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a self-contained HTML page; ``parts`` are HTML already."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
        f"<main>{''.join(parts)}</main></html>\n"
    )


def figure(map: HeatMap) -> str:
    """Return a heat map as an HTML figure: a table that reads aloud, with its legend."""
    head = "".join(_heading("col", name) for name in _thinned(map))
    rows = []
    for at, (name, values) in enumerate(zip(map.rows, map.values, strict=True)):
        under = map.small[at] if map.small else [""] * len(values)
        cells = [_cell(map, name, *each) for each in zip(map.columns, values, under, strict=True)]
        rows.append(f"<tr>{_heading('row', name)}{''.join(cells)}</tr>")
    kind = "map" if map.numbered else "map dense"
    low, colours, high = map.legend
    bar = ",".join(f"var(--{name})" for name in colours.split())
    wide = " class=wide" if map.wide else ""
    told = f"<b>{html.escape(map.title)}</b><span>{html.escape(map.note)}</span>"
    return (
        f"<figure{wide}><figcaption>{told}</figcaption>"
        f'<div class="scroll" tabindex="0"><table class="{kind}">'
        f'<thead><tr><td class="x"></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<div class="legend">{low}<i style="--bar:{bar}"></i>{high}</div></figure>'
    )


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of text as HTML; the first cell of a row names it."""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    table = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="plain">{table}</table></div>'


def _heading(scope: str, name: str) -> str:
    shown = html.escape(name)
    return f'<th scope="{scope}"><div title="{shown}">{shown}</div></th>'


def _cell(map: HeatMap, row: str, column: str, value: float | None, small: str) -> str:
    under = f"<small>{html.escape(small)}</small>" if small and map.numbered else ""
    if value is None:
        return f'<td class="x">{under}</td>'
    strength, shown = map.strength(value), map.form.format(value)
    marks = "n" * (strength < 0) + " s" * (abs(strength) > 0.6)
    kind = f' class="{marks.strip()}"' if marks else ""
    told = html.escape(f"{row} · {column}: {shown}{f', {small}' if small else ''}")
    inside = f"{shown}{under}" if map.numbered else ""
    return f'<td{kind} style="--t:{abs(strength):.0%}" title="{told}">{inside}</td>'


def _thinned(map: HeatMap) -> list[str]:
    """Return the column names, only some of them where there are many."""
    if map.numbered:
        return list(map.columns)
    step = 4 if len(map.columns) <= 48 else 8
    return [name if i % step == 0 else "" for i, name in enumerate(map.columns)]
