"""The store's tables: migrations end where the program begins, old files go on, PostgreSQL does the same."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from studio.errors import TriptychError
from studio.store import Store
from studio.tables import TABLES

#: What the program before migrations wrote into a new file, and one row of each kind.
OLD = """
CREATE TABLE triptych_schema (id INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE triptych_run (id INTEGER NOT NULL, created VARCHAR(32) NOT NULL, folder TEXT NOT NULL,
  recipe VARCHAR(200) NOT NULL, config JSON NOT NULL, metrics JSON NOT NULL, PRIMARY KEY (id));
CREATE TABLE triptych_comparison (id INTEGER NOT NULL, created VARCHAR(32) NOT NULL, prompt TEXT NOT NULL,
  media JSON NOT NULL, variants JSON NOT NULL, seed BIGINT NOT NULL, decoding JSON NOT NULL,
  PRIMARY KEY (id));
CREATE TABLE triptych_answer (id INTEGER NOT NULL, created VARCHAR(32) NOT NULL, comparison INTEGER NOT NULL,
  variant VARCHAR(400) NOT NULL, text TEXT NOT NULL, latency_ms FLOAT, tokens INTEGER, PRIMARY KEY (id),
  UNIQUE (comparison, variant),
  FOREIGN KEY(comparison) REFERENCES triptych_comparison (id) ON DELETE CASCADE);
CREATE TABLE triptych_vote (id INTEGER NOT NULL, created VARCHAR(32) NOT NULL, comparison INTEGER NOT NULL,
  choice VARCHAR(400) NOT NULL, reasons JSON NOT NULL, note TEXT NOT NULL, rater VARCHAR(200) NOT NULL,
  PRIMARY KEY (id), UNIQUE (comparison, rater),
  FOREIGN KEY(comparison) REFERENCES triptych_comparison (id) ON DELETE CASCADE);
INSERT INTO triptych_schema VALUES (1, 1);
INSERT INTO triptych_comparison VALUES (1, '2026-01-01', 'old?', '[]', '["a", "b"]', 3, '{}');
INSERT INTO triptych_answer VALUES (1, '2026-01-01', 1, 'a', 'yes', 1.5, NULL);
INSERT INTO triptych_vote VALUES (1, '2026-01-01', 1, 'a', '["exact"]', 'fine', 'r');
"""


def differences(url: str) -> list[object]:
    engine = sql.create_engine(url)
    try:
        with engine.connect() as connection:
            options = {
                "compare_type": True,
                "include_object": lambda _, name, *rest: name != "triptych_alembic",
            }
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, TABLES))
    finally:
        engine.dispose()


def test_migrations_end_at_the_tables_that_the_program_knows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    Store(url).close()
    assert differences(url) == []


def test_a_store_from_before_migrations_goes_on_with_what_is_in_it(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "old.db")
    with file:
        file.executescript(OLD)
    file.close()
    url = f"sqlite:///{tmp_path / 'old.db'}"
    for _ in range(2):
        with Store(url) as store:
            (found,), (vote,) = store.comparisons(), store.votes()
    assert (found.prompt, found.answers[0].text, found.domain, found.turns) == ("old?", "yes", "", ())
    assert (vote.choice, vote.reasons, vote.scores, vote.flagged) == ("a", ("exact",), {}, False)
    with Store(url) as store:
        store.vote(store.add_comparison("new?", ["a", "b"], domain="x"), "tie", rater="r", correction="c")
        assert len(store.votes()) == 2
    assert differences(url) == []


def test_a_migration_that_fails_leaves_the_old_tables(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "old.db")
    with file:
        file.executescript(OLD)
        file.execute("ALTER TABLE triptych_vote ADD scores TEXT")  # in the way of the second migration
    file.close()
    with pytest.raises(TriptychError, match="scores"):
        Store(f"sqlite:///{tmp_path / 'old.db'}")
    file = sqlite3.connect(tmp_path / "old.db")
    assert file.execute("SELECT version FROM triptych_schema").fetchall() == [(1,)]
    assert "turns" not in [row[1] for row in file.execute("PRAGMA table_info(triptych_comparison)")]
    file.close()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real server on a free port, in a folder of its own, as a user that it accepts."""
    programs = Path(shutil.which("initdb") or "").resolve().parent
    if not shutil.which("initdb"):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            if os.environ.get("TRIPTYCH_CI"):
                pytest.fail("CI needs PostgreSQL: apt-get install postgresql")
            pytest.skip("PostgreSQL is not installed (initdb)")
        programs = found[-1].parent
    folder = tmp_path_factory.mktemp("postgres")
    owner: dict[str, object] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = {"user": "nobody", "group": "nogroup"}
        shutil.chown(folder, "nobody", "nogroup")
        for above in folder.parents:
            if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **owner,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "triptych", "--auth=trust", "--no-sync")
    listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    call("pg_ctl", "-D", data, "-w", "-o", listen, "-l", str(folder / "log"), "start")
    yield f"postgresql+psycopg://triptych@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-D", data, "-m", "immediate", "stop")


def test_postgresql_keeps_the_same(postgres: str) -> None:
    with ThreadPoolExecutor(6) as pool:  # six programs open the new database at once
        stores = list(pool.map(lambda _: Store(postgres), range(6)))

    def work(number: int) -> None:
        store = stores[number % 6]
        own = store.add_comparison(f"q{number}", ["a", "b"], media=["ab"], decoding={"t": 0.5}, blind=True)
        store.add_answer(own, "a", "ja \u2713", latency_ms=1.5)
        for choice in ("a", "b"):
            store.vote(own, choice, rater="r", scores={"safe": 1.0})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(30)))
    found, votes = stores[0].comparisons(), stores[0].votes()
    assert sorted(int(one.prompt[1:]) for one in found) == list(range(30))
    assert all(one.answers[0].text == "ja \u2713" and one.blind and one.media == ("ab",) for one in found)
    assert len(votes) == 30
    assert {vote.choice for vote in votes} == {"b"}
    with pytest.raises(TriptychError, match="there is no comparison 99"):
        stores[0].vote(99, "a", rater="r")
    for store in stores:
        store.close()
    assert differences(postgres) == []
