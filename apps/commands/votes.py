"""Rank variants by people's votes, with intervals and agreement, or export votes as data to learn from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.ranking import Judgement, Ranking

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
    from studio.ranking import judgements, rank, ranked_by
    from studio.raters import agreement, consistency
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
        made = judgements(store.comparisons(), store.votes())
    keys = {"domain": lambda one: one.domain, "group": lambda one: one.group}
    rankings = ranked_by(made, keys[options.by]) if options.by else {"all": rank(made)}
    alpha = agreement(made)
    if options.json:
        print(json.dumps(_told(rankings, made, alpha, consistency(made)), indent=1))
        return 0
    from rich.console import Console

    console = Console()
    for name, ranking in rankings.items():
        console.print(_table(name, ranking) if ranking.standings else f"{name}: no votes yet")
    if alpha:
        console.print(
            f"agreement of raters (Krippendorff's alpha): {alpha[0]:.2f}, {alpha[1]:.2f} to {alpha[2]:.2f}, "
            f"{alpha[3]} questions",
            highlight=False,
        )
    return 0


def _told(
    rankings: dict[str, Ranking], made: list[Judgement], alpha: Any, repeats: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    names = ("alpha", "low", "high", "questions")
    return {
        "votes": len(made),
        "rankings": {name: dataclasses.asdict(ranking) for name, ranking in rankings.items()},
        "agreement": dict(zip(names, alpha, strict=True)) if alpha else None,
        "consistency": {rater: {"same": same, "repeats": n} for rater, (same, n) in repeats.items()},
    }


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
