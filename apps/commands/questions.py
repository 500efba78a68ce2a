"""Make, list and show question sets: questions that experts work through in the app, blind, with progress."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.question_sets import QuestionSet

EXAMPLE = (
    "triptych questions make cloth --data textiles --count 40\n"
    "triptych questions make site --data rows.jsonl --domain site\n"
    "triptych questions list --store sqlite:///runs/triptych.db\n"
    "triptych questions show cloth"
)
ACTIONS = ("make", "list", "show")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("name", nargs="?", default="", help="the set's name; NAME@2 is its second version")
    parser.add_argument("--data", metavar="DATA", help="make: a data file, a folder or a shipped domain")
    parser.add_argument("--split", default="test", help="make: which file of a folder (%(default)s)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="make: draw so many questions")
    parser.add_argument("--seed", type=int, default=0, help="make: of the draw (%(default)s)")
    parser.add_argument("--domain", default="", help="make: the domain (the data's name if it is shipped)")
    parser.add_argument(
        "--sets", type=Path, default=Path("runs/questions"), metavar="DIR", help="all sets (%(default)s)"
    )
    parser.add_argument("--store", metavar="URL", help="list, show: count the verdicts that are kept there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Do what the action says."""
    from studio.errors import TriptychError

    if options.count < 0:
        raise TriptychError(f"--count {options.count} is no number of questions; allowed: 1 and more")
    if options.action != "list" and not options.name:
        raise TriptychError(f"questions {options.action} needs the set's name")
    if options.action == "make":
        return _make(options)
    from studio.question_sets import find_set, find_sets

    if options.action == "show":
        return _show(find_set(options.sets, options.name), options)
    sets = find_sets(options.sets)
    if options.name:
        sets = [one for one in sets if one.name == options.name.partition("@")[0]]
    return _list(sets, options)


def _make(options: argparse.Namespace) -> int:
    from studio.assets import find_data, shipped
    from studio.data import load_data
    from studio.data.jsonl import find_data as find_file
    from studio.errors import TriptychError
    from studio.question_sets import make_set

    if not options.data:
        raise TriptychError("questions make needs --data: a data file, a folder or a shipped domain")
    place = find_data(options.data)
    file = find_file(place, options.split)
    ships = options.data in shipped("data")
    made = make_set(
        options.name,
        load_data(file),
        options.sets,
        count=options.count,
        seed=options.seed,
        domain=options.domain or (options.data if ships else ""),
        source=f"{options.data}/{file.name}" if ships else file.name,
    )
    if options.json:
        print(json.dumps(_told(made), indent=1))
    else:
        print(f"{made.title}: {len(made.questions)} questions, {made.hash[:12]}, in {made.folder}")
    return 0


def _list(sets: list[QuestionSet], options: argparse.Namespace) -> int:
    counted = _counted(sets, options.store)
    if options.json:
        print(json.dumps([_told(one) | counted.get(one.hash, {}) for one in sets], indent=1))
        return 0
    if not sets:
        print(f"no question sets in {options.sets}; triptych questions make makes one")
        return 0
    from rich.console import Console
    from rich.table import Table

    view = Table()
    for column in (
        "set",
        "version",
        "questions",
        "made from",
        "hash",
        *(("verdicts", "raters") if counted else ()),
    ):
        view.add_column(column, justify="left" if column in ("set", "made from", "hash") else "right")
    for one in sets:
        found = counted.get(one.hash, {})
        cells = (one.name, one.version, len(one.questions), one.source, one.hash[:12], *found.values())
        view.add_row(*map(str, cells))
    Console().print(view)
    return 0


def _show(one: QuestionSet, options: argparse.Namespace) -> int:
    counted = _counted([one], options.store).get(one.hash, {})
    questions = [
        {
            "id": question.id,
            "domain": question.domain,
            "asked": question.sample.prompt[0].text,
            "media": [part.path.name for part in (*question.sample.images, *question.sample.sounds)],
            "expected": question.sample.answer,
        }
        for question in one.questions
    ]
    if options.json:
        print(json.dumps(_told(one) | counted | {"questions": questions}, indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told = "".join(f", {number} {what}" for what, number in counted.items())
    view = Table(title=f"{one.title}: {len(one.questions)} questions{told}, {one.hash}", title_justify="left")
    for column in ("id", "domain", "asked", "media", "expected"):
        view.add_column(column)
    for row in questions:
        cells = (row["id"][:10], row["domain"], row["asked"], " ".join(row["media"]), row["expected"])
        view.add_row(*map(Text, map(str, cells)))
    Console().print(view)
    return 0


def _told(one: QuestionSet) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": one.version,
        "hash": one.hash,
        "count": len(one.questions),
        "source": one.source,
        "made": one.made,
        "folder": str(one.folder),
    }


def _counted(sets: list[QuestionSet], url: str | None) -> dict[str, dict[str, int]]:
    """Return the verdicts and raters of each set by its hash; nothing without a store."""
    if not url:
        return {}
    from studio.errors import TriptychError
    from studio.store import Store

    scheme, _, file = url.partition(":///")
    if scheme.startswith("sqlite") and not Path(file.partition("?")[0]).exists():
        raise TriptychError(f"there is no store {file}; triptych app makes one, and --store names another")
    with Store(url) as store:
        votes = {one.hash: store.votes(question_set=one.hash) for one in sets}
    return {
        digest: {"verdicts": len(found), "raters": len({vote.rater for vote in found})}
        for digest, found in votes.items()
    }
