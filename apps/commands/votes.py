"""Rank variants by people's votes, with intervals and agreement, or export votes as data to learn from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.ranking import Ranking
    from studio.results import Results

EXAMPLE = (
    "triptych votes\n"
    "triptych votes --by domain --json\n"
    "triptych votes --export preferences   (chosen and rejected answers with their media)"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("TRIPTYCH_DB", "sqlite:///runs/triptych.db"),
        help="where votes are kept (TRIPTYCH_DB, or sqlite:///runs/triptych.db)",
    )
    parser.add_argument("--by", choices=("domain", "group"), help="a ranking for each domain or rater group")
    parser.add_argument("--blind", action="store_true", help="count only verdicts given without names")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the votes as data into a new folder"
    )
    parser.add_argument(
        "--media", type=Path, metavar="DIR", help="the app's media (FILE.media of its SQLite)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(options: argparse.Namespace) -> int:
    """Print the ranking, or write the export."""
    from studio.errors import TriptychError
    from studio.ranking import judgements
    from studio.results import results
    from studio.store import Store, media_folder

    scheme, _, file = options.store.partition(":///")
    if scheme.startswith("sqlite") and not Path(file.partition("?")[0]).exists():
        raise TriptychError(f"there is no store {file}; triptych app makes one, and --store names another")
    with Store(options.store) as store:
        if options.export:
            from studio.votes import export_votes

            counts = export_votes(store, options.media or media_folder(options.store), options.export)
            told = (
                json.dumps(counts)
                if options.json
                else ", ".join(f"{n} {what}" for what, n in counts.items() if n)
            )
            print(told if options.json else f"{options.export}: {told}")
            return 0
        votes = store.votes()
        made = judgements(store.comparisons(), votes)
    flagged = len(votes) - len(made)
    made = [one for one in made if one.blind] if options.blind else made
    found = results(made, flagged=flagged)
    rankings = {None: {"all": found.ranking}, "domain": found.domains, "group": found.groups}[options.by]
    if options.json:
        print(json.dumps(_told(rankings, found, len(made)), indent=1))
        return 0
    from rich.console import Console

    console = Console()
    for name, ranking in rankings.items():
        console.print(_table(name, ranking) if ranking.standings else f"{name}: no votes yet")
    for line in _trust(found):
        console.print(line, highlight=False, markup=False)
    return 0


def _told(rankings: Mapping[str, Ranking], found: Results, votes: int) -> dict[str, Any]:
    from studio.results import told

    whole = {key: value for key, value in told(found).items() if key not in ("ranking", "domains", "groups")}
    parts = {name: dataclasses.asdict(ranking) for name, ranking in rankings.items()}
    return whole | {"votes": votes, "rankings": parts}


def _trust(found: Results) -> Iterator[str]:
    """Yield what is known about the raters, one sentence a line."""
    if found.agreement:
        alpha, low, high, questions = found.agreement
        told = f"{alpha:.2f}, {low:.2f} to {high:.2f}, {questions} questions"
        yield f"agreement of raters (Krippendorff's alpha): {told}"
    same, repeats = found.repeats
    if repeats:
        yield f"the same verdict when asked again: {same} of {repeats}"
    for one in found.stability:
        kept = f"the order stays in {one.order:.0%} and the first in {one.first:.0%} of refits"
        yield f"without {one.left_out} of the votes {kept}"
    for side in found.sides:
        if side.shown == 2:
            yield f"left answer won: {side.share:.0%}, {side.low:.0%} to {side.high:.0%} of {side.decided}"
    for rater in found.raters:
        if rater.doubt:
            yield f"rater {rater.rater} stands out: {rater.doubt}"
    if found.flagged:
        yield f"left out: {found.flagged} verdicts on answers that named a variant"


def _table(name: str, ranking: Ranking) -> Any:
    from rich.table import Table
    from rich.text import Text

    title = f"{name}: {ranking.votes} votes, Bradley-Terry in Elo, 95 % interval, sorted by its lower end"
    view = Table(title=title, title_justify="left")
    for column in ("variant", "score", "interval", "won", "tied", "lost", "enough votes?"):
        view.add_column(column, justify="left" if column == "variant" else "right")
    for one in ranking.standings:
        enough = "yes" if not one.more else f"about {one.more} more"
        figures = (
            f"{one.score:+.0f}",
            f"{one.low:+.0f} to {one.high:+.0f}",
            one.wins,
            one.ties,
            one.losses,
            enough,
        )
        view.add_row(Text(one.variant), *map(str, figures))
    return view
