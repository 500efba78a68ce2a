"""What people asked, what the variants answered and how it was judged, kept in a database.

SQLite in a file by default (write-ahead log, foreign keys on); any SQLAlchemy URL instead. A `Store` may
be used from many threads and several processes: every call is one short transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy import exc

from studio.errors import TriptychError, unknown
from studio.kept import VERDICTS, Answer, Comparison, Fault, KeptRun, Vote
from studio.tables import ANSWER, COMPARISON, FAULT, RUN, VOTE

SCHEMA = "4"
"""The newest of the migrations in `studio.migrations`; older stores are brought to it when opened."""
_LOCK = 0x7269707479  # of PostgreSQL's advisory locks: two programs may open a new database at once

_MIGRATING = threading.Lock()  # alembic keeps its environment in a global
_MIGRATIONS = Path(__file__).parent / "migrations"

__all__ = ["SCHEMA", "VERDICTS", "Answer", "Comparison", "KeptRun", "Store", "Vote"]


class Store:
    """An open database of comparisons; close it, or use it in a ``with`` block."""

    def __init__(self, url: str = "sqlite:///triptych.db") -> None:
        """Open the database at ``url``, with its tables made if it has none of ours.

        Raises:
            TriptychError: if it cannot be opened or was written by another version.
        """
        try:
            parsed = sql.make_url(url)
            self.url = parsed.render_as_string(hide_password=True)
            if parsed.get_backend_name() == "sqlite":
                if parsed.database in (None, "", ":memory:"):
                    raise TriptychError(
                        f"store '{url}' would live in one thread's memory; allowed: sqlite:///FILE"
                    )
                Path(str(parsed.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._engine = sql.create_engine(parsed)
        except exc.ArgumentError:
            raise TriptychError(
                f"store '{url}' is not an SQLAlchemy URL; allowed: sqlite:///FILE, postgresql://..."
            ) from None
        except ModuleNotFoundError as error:
            raise TriptychError(
                f"store '{self.url}' needs the package '{error.name}', which is not installed"
            ) from None
        except OSError as error:
            raise TriptychError(f"store '{self.url}' cannot be opened ({error.strerror})") from None
        if parsed.get_backend_name() == "sqlite":
            sql.event.listen(self._engine, "connect", _set_up_sqlite)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def add_run(
        self, folder: Path | str, recipe: str, config: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> int:
        """Keep a finished run and return its number."""
        row = {"folder": str(folder), "recipe": recipe, "config": dict(config), "metrics": dict(metrics)}
        with self.begin() as connection:
            return _insert(connection, RUN, row)

    def add_comparison(
        self,
        prompt: str,
        variants: Sequence[str],
        *,
        media: Sequence[str] = (),
        seed: int = 0,
        decoding: Mapping[str, Any] | None = None,
        turns: Sequence[Mapping[str, Any]] = (),
        domain: str = "",
        question_set: str = "",
        question: str = "",
        blind: bool = False,
        asker: str = "",
    ) -> int:
        """Keep a question and return its number; what the fields mean says `studio.kept.Comparison`.

        Args:
            prompt: the text that was asked.
            variants: names of the variants in the order in which they were shown.
            media: SHA-256 hashes of the pictures and sounds.
            seed: of sampling and of the order.
            decoding: generation settings such as ``max_new_tokens`` and ``temperature``.

        Raises:
            TriptychError: if a variant is named twice or like one of `VERDICTS`.
        """
        if not variants or len(set(variants)) < len(variants):
            raise TriptychError(
                f"a comparison needs different variants, got: {', '.join(variants) or 'none'}"
            )
        if taken := set(variants) & set(VERDICTS):
            raise TriptychError(f"a variant cannot be named '{min(taken)}', which is a verdict")
        row = {
            "prompt": prompt,
            "media": list(media),
            "variants": list(variants),
            "seed": seed,
            "decoding": dict(decoding or {}),
            "turns": [dict(turn) for turn in turns],
            "domain": domain,
            "question_set": question_set,
            "question": question,
            "blind": blind,
            "asker": asker,
        }
        with self.begin() as connection:
            return _insert(connection, COMPARISON, row)

    def add_answer(
        self,
        comparison: int,
        variant: str,
        text: str,
        *,
        latency_ms: float | None = None,
        tokens: int | None = None,
    ) -> int:
        """Keep what ``variant`` answered and return the answer's number; a new answer replaces the old.

        Raises:
            TriptychError: if there is no such comparison or ``variant`` is not in it.
        """
        known = self.comparison(comparison).variants
        if variant not in known:
            raise TriptychError(f"comparison {comparison}: {unknown('variant', variant, known)}")
        row = {"text": text, "latency_ms": latency_ms, "tokens": tokens}
        return self._replace(ANSWER, {"comparison": comparison, "variant": variant}, row)

    def vote(
        self,
        comparison: int,
        choice: str,
        *,
        rater: str,
        reasons: Sequence[str] = (),
        note: str = "",
        scores: Mapping[str, float] | None = None,
        correction: str = "",
        rater_group: str = "",
        flagged: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Keep a rater's verdict and return its number; a later verdict of the same rater replaces it.

        Args:
            comparison: number of the comparison.
            choice: the best variant's name, or one of `VERDICTS`.
            rater: a pseudonym, never a name.
            reasons: short reasons that were ticked.
            note: free text.
            scores: points by criterion.
            correction: the answer that should have been given.
            rater_group: what kind of rater it is.
            flagged: whether an answer gave its variant away, so that the verdict does not count.
            seconds: how long the rater looked.

        Raises:
            TriptychError: if there is no such comparison, or no such choice in it.
        """
        known = (*self.comparison(comparison).variants, *VERDICTS)
        if choice not in known:
            raise TriptychError(f"comparison {comparison}: {unknown('choice', choice, known)}")
        row = {
            "choice": choice,
            "reasons": list(reasons),
            "note": note,
            "scores": dict(scores or {}),
            "correction": correction,
            "rater_group": rater_group,
            "flagged": flagged,
            "seconds": seconds,
        }
        return self._replace(VOTE, {"comparison": comparison, "rater": rater}, row)

    def report(
        self,
        comparison: int,
        variant: str,
        *,
        rater: str,
        wrong: str = "",
        correction: str = "",
        rater_group: str = "",
    ) -> int:
        """Keep a rater's report that an answer is wrong, and return its number; a later one replaces it.

        Raises:
            TriptychError: if there is no such comparison, or ``variant`` gave no answer in it.
        """
        known = [answer.variant for answer in self.comparison(comparison).answers]
        if variant not in known:
            raise TriptychError(f"comparison {comparison}: {unknown('answering variant', variant, known)}")
        row = {"wrong": wrong, "correction": correction, "rater_group": rater_group}
        return self._replace(FAULT, {"comparison": comparison, "variant": variant, "rater": rater}, row)

    def faults(self) -> list[Fault]:
        """Return all reports of wrong answers, oldest first."""
        with self.begin() as connection:
            return [Fault(**row) for row in _rows(connection, sql.select(FAULT).order_by(FAULT.c.id))]

    def runs(self) -> list[KeptRun]:
        """Return all runs, oldest first."""
        with self.begin() as connection:
            return [KeptRun(**row) for row in _rows(connection, sql.select(RUN).order_by(RUN.c.id))]

    def comparison(self, number: int) -> Comparison:
        """Return one comparison with its answers.

        Raises:
            TriptychError: if there is none with this number.
        """
        found = self._comparisons(COMPARISON.c.id == number)
        if not found:
            raise TriptychError(f"there is no comparison {number} in store '{self.url}'")
        return found[0]

    def comparisons(self, question_set: str = "") -> list[Comparison]:
        """Return all comparisons, or those of one question set, with their answers, oldest first."""
        return self._comparisons(COMPARISON.c.question_set == question_set if question_set else sql.true())

    def votes(self, comparison: int | None = None, question_set: str = "") -> list[Vote]:
        """Return all votes, or those on one comparison or one question set, oldest first."""
        query = sql.select(VOTE).order_by(VOTE.c.id)
        if comparison is not None:
            query = query.where(VOTE.c.comparison == comparison)
        if question_set:
            query = query.join(COMPARISON).where(COMPARISON.c.question_set == question_set)
        with self.begin() as connection:
            rows = _rows(connection, query)
        return [Vote(**row | {"reasons": tuple(row["reasons"])}) for row in rows]

    def state(self) -> tuple[Any, ...]:
        """Return what changes whenever an answer or a vote is kept: numbers, last keys and last times."""
        with self.begin() as connection:
            return tuple(
                found
                for table in (ANSWER, VOTE)
                for found in connection.execute(
                    sql.select(sql.func.count(), sql.func.max(table.c.id), sql.func.max(table.c.created))
                ).one()
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        """Return the open store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _comparisons(self, condition: sql.ColumnElement[bool]) -> list[Comparison]:
        chosen = sql.select(COMPARISON).where(condition).order_by(COMPARISON.c.id)
        theirs = sql.select(ANSWER).join(COMPARISON).where(condition).order_by(ANSWER.c.id)
        with self.begin() as connection:
            rows = _rows(connection, chosen)
            answers: dict[int, list[Answer]] = {row["id"]: [] for row in rows}
            for row in _rows(connection, theirs):
                if row["comparison"] in answers:  # another thread may have added one in between
                    answers[row["comparison"]].append(Answer(**row))
        return [
            Comparison(
                **row
                | {
                    "media": tuple(row["media"]),
                    "variants": tuple(row["variants"]),
                    "turns": tuple(row["turns"]),
                    "answers": tuple(answers[row["id"]]),
                }
            )
            for row in rows
        ]

    def _replace(self, table: sql.Table, key: Mapping[str, Any], row: Mapping[str, Any]) -> int:
        """Delete and insert in one transaction: writing first takes the lock before anything is read."""
        same = sql.and_(*(table.c[name] == value for name, value in key.items()))
        for last in (False, True):
            try:
                with self.begin() as connection:
                    connection.execute(sql.delete(table).where(same))
                    return _insert(connection, table, {**key, **row})
            except exc.IntegrityError:  # another process inserted between our two statements
                if last:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def begin(self) -> Iterator[sql.Connection]:
        """Give a connection for one transaction: it ends with the block, or is undone by an error in it.

        Raises:
            TriptychError: if the database refuses; a broken rule of a table stays `IntegrityError`.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except exc.IntegrityError:
            raise
        except exc.DBAPIError as error:
            raise TriptychError(f"store '{self.url}' failed: {' '.join(str(error.orig).split())}") from None

    def _prepare(self) -> None:
        """Bring the tables to `SCHEMA`: make them, or change those that an older program wrote."""
        with self.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes may open a new file at once
            elif connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            found = migration(connection)
            if found == SCHEMA:
                return
            if found is not None and found not in _known():
                raise TriptychError(
                    f"store '{self.url}' has schema version {found}, this program reads version {SCHEMA};"
                    " open it with the program that wrote it, or name another store"
                )
            from alembic import command
            from alembic.config import Config

            settings = Config()
            settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
            settings.attributes["connection"] = connection
            with _MIGRATING:
                command.upgrade(settings, SCHEMA)


def media_folder(url: str) -> Path | None:
    """Return where the app keeps media beside a store of SQLite: its file's name, ending in ``.media``."""
    scheme, _, file = url.partition(":///")
    whole = scheme.startswith("sqlite") and file
    return Path(file.partition("?")[0]).with_suffix(".media") if whole else None


def migration(connection: sql.Connection) -> str | None:
    """Return the version that a database's tables are at, or None if it has none of ours."""
    names = sql.inspect(connection)
    if names.has_table("triptych_alembic"):
        found = connection.execute(sql.text("SELECT version_num FROM triptych_alembic")).scalar()
        return None if found is None else str(found)
    if names.has_table("triptych_schema"):  # written before there were migrations
        found = connection.execute(sql.text("SELECT version FROM triptych_schema")).scalar()
        return None if found == 1 else str(found)
    return None


def _known() -> set[str]:
    return {path.name[1:].partition("_")[0] for path in (_MIGRATIONS / "versions").glob("v*_*.py")}


def _insert(connection: sql.Connection, table: sql.Table, row: Mapping[str, Any]) -> int:
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    result = connection.execute(sql.insert(table).values(created=created, **row))
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def _rows(connection: sql.Connection, query: sql.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _set_up_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for setting in ("busy_timeout = 20000", "foreign_keys = ON", "journal_mode = WAL"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()
