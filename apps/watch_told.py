"""What a watch tells after each look: a table of how every variant stands, what got worse, what drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from studio.watch_history import Entry, History, standing

if TYPE_CHECKING:
    from rich.table import Table


def told(
    history: History, names: Sequence[str], wrong: Mapping[str, Sequence[str]], inputs: bool
) -> dict[str, Any]:
    """Return the state for JSON: verdicts and figures, what is wrong, and the newest ``inputs``."""
    return {
        "look": history.next_look - 1,
        "variants": {
            name: {"verdict": verdict, "figures": _figures(history, name)}
            for name, verdict in standing(history.entries).items()
            if name in names
        },
        "wrong": {name: list(sentences) for name, sentences in wrong.items()},
        "inputs": _inputs(history) if inputs else None,
    }


def show(history: History, names: Sequence[str], wrong: Mapping[str, Sequence[str]], inputs: bool) -> None:
    """Print the state."""
    from rich.console import Console

    console = Console()
    verdicts = {name: one for name, one in standing(history.entries).items() if name in names}
    if verdicts:
        console.print(_scores(history, verdicts))
    entry = _inputs(history) if inputs else None
    if entry is not None:
        console.print(_drift(entry))
        for note in entry["notes"]:
            console.print(note, highlight=False, markup=False)
    for name, sentences in wrong.items():
        for sentence in sentences:
            console.print(f"{name}: {sentence}", highlight=False, markup=False)
    if not verdicts and entry is None:
        console.print(f"nothing to look at yet; the history is in {history.folder}", highlight=False)


def _scores(history: History, verdicts: Mapping[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    known = {name: _figures(history, name) for name in verdicts}
    figures = list(dict.fromkeys(figure for own in known.values() for figure in own))
    view = Table(title=f"look {history.next_look - 1}, 95 % interval", title_justify="left")
    view.add_column("variant", no_wrap=True)
    for figure in figures:
        view.add_column(Text(figure), justify="right")
    view.add_column("now")
    for name, verdict in verdicts.items():
        cells = []
        for figure in figures:
            cell = known[name].get(figure)
            cells.append(
                Text(f"{cell['value']:.3f}\n{cell['low']:.3f}-{cell['high']:.3f}") if cell else Text("-")
            )
        view.add_row(Text(name), *cells, Text(verdict, "red" if verdict in ("regressed", "failed") else ""))
    return view


def _drift(entry: Entry) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{entry['inputs']} against {entry['reference']}"
    caption = f"p is adjusted for all features; drifted from {entry['level']:.2g} down"
    view = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in ("feature", "before", "now", "n", "distance", "p", ""):
        view.add_column(column, justify="left" if column in ("feature", "") else "right")
    for one in entry["findings"]:
        before, after = ("-" if one[k] is None else f"{one[k]:.3g}" for k in ("before", "after"))
        sizes, name = f"{one['n_reference']}, {one['n']}", f"{one['kind']}: {one['feature']}"
        cells = (
            name, before, after, sizes, f"{one['distance']:.2f}", f"{one['p']:.2g}"
        )  # fmt: skip
        view.add_row(*map(Text, cells), Text("drifted" if one["drifted"] else "", "red"))
    return view


def _figures(history: History, name: str) -> Mapping[str, Mapping[str, float]]:
    own = [e for e in history.entries if e["kind"] == "scores" and e["variant"] == name]
    found: Mapping[str, Mapping[str, float]] = own[-1]["figures"] if own else {}
    return found


def _inputs(history: History) -> Entry | None:
    found = [entry for entry in history.entries if entry["kind"] == "inputs"]
    return found[-1] if found else None
