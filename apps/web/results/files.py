"""The results as files to take away: a table, everything, a picture, and the votes as data to learn from."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import zipfile
from pathlib import Path

from studio import chart_picture
from studio.chart import Chart, Line
from studio.files import atomic_write
from studio.ranking import Ranking
from studio.results import Results, csv_table, json_table
from studio.store import Store
from studio.votes import export_votes

KINDS = {"csv": "results.csv", "json": "results.json", "png": "results.png", "votes": "votes.zip"}


def write_file(kind: str, found: Results, store: Store, media: Path | None, folder: Path) -> Path:
    """Write one of `KINDS` into a new folder below ``folder`` and return its path.

    Raises:
        DataError: votes that teach nothing.
    """
    path = folder / secrets.token_hex(16) / KINDS[kind]
    path.parent.mkdir(parents=True)
    try:
        if kind == "votes":
            _pack(store, media, path)
        else:
            makers = {"csv": csv_table, "json": json_table, "png": _picture}
            atomic_write(path, makers[kind](found))
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise
    return path


def interval_chart(ranking: Ranking) -> Chart:
    """Return the scores with their intervals as a chart, in the order of the ranking."""
    lines = []
    for place, one in enumerate(ranking.standings, 1):
        name = f"{place} {one.variant}"
        colour = place - 1
        lines.append(Line(name=name, points=[(place, one.low), (place, one.high)], colour=colour))
        lines.append(Line(name=name, points=[(place, one.score)], dots=True, faint=True, colour=colour))
    return Chart(
        title="Scores with 95 % intervals",
        note=f"Bradley-Terry in Elo of {ranking.votes} votes, sorted by the lower end",
        x="place",
        y="Elo",
        lines=lines,
    )


def _picture(found: Results) -> bytes:
    return chart_picture.picture([interval_chart(found.ranking)])


def _pack(store: Store, media: Path | None, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="triptych-votes-") as place:
        out = Path(place) / "votes"
        export_votes(store, media, out)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(out.parent))
