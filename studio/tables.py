"""The tables of the store, as its newest migration leaves them; a test compares the two."""

from __future__ import annotations

import sqlalchemy as sql

TABLES = sql.MetaData()


def _text(name: str, length: int | None = None) -> sql.Column[str]:
    """Return a column of text that is empty unless said otherwise."""
    kind = sql.Text() if length is None else sql.String(length)
    return sql.Column(name, kind, nullable=False, server_default="")


def _json(name: str, empty: str = "{}") -> sql.Column[object]:
    return sql.Column(name, sql.JSON, nullable=False, server_default=empty)


def _flag(name: str) -> sql.Column[bool]:
    return sql.Column(name, sql.Boolean, nullable=False, server_default=sql.false())


def _key() -> sql.Column[int]:
    return sql.Column("id", sql.Integer, primary_key=True)


def _created() -> sql.Column[str]:
    return sql.Column("created", sql.String(32), nullable=False)


RUN = sql.Table(
    "triptych_run",
    TABLES,
    _key(),
    _created(),
    sql.Column("folder", sql.Text, nullable=False),
    sql.Column("recipe", sql.String(200), nullable=False),
    sql.Column("config", sql.JSON, nullable=False),
    sql.Column("metrics", sql.JSON, nullable=False),
)
COMPARISON = sql.Table(
    "triptych_comparison",
    TABLES,
    _key(),
    _created(),
    sql.Column("prompt", sql.Text, nullable=False),
    sql.Column("media", sql.JSON, nullable=False),
    sql.Column("variants", sql.JSON, nullable=False),
    sql.Column("seed", sql.BigInteger, nullable=False),
    sql.Column("decoding", sql.JSON, nullable=False),
    _json("turns", "[]"),
    _text("domain", 200),
    _text("question_set", 64),
    _text("question", 64),
    _flag("blind"),
    _text("asker", 200),
)
_OF_COMPARISON = "triptych_comparison.id"
ANSWER = sql.Table(
    "triptych_answer",
    TABLES,
    _key(),
    _created(),
    sql.Column("comparison", sql.ForeignKey(_OF_COMPARISON, ondelete="CASCADE"), nullable=False),
    sql.Column("variant", sql.String(400), nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("latency_ms", sql.Float),
    sql.Column("tokens", sql.Integer),
    sql.UniqueConstraint("comparison", "variant"),
)
VOTE = sql.Table(
    "triptych_vote",
    TABLES,
    _key(),
    _created(),
    sql.Column("comparison", sql.ForeignKey(_OF_COMPARISON, ondelete="CASCADE"), nullable=False),
    sql.Column("choice", sql.String(400), nullable=False),
    sql.Column("reasons", sql.JSON, nullable=False),
    sql.Column("note", sql.Text, nullable=False),
    sql.Column("rater", sql.String(200), nullable=False),
    _json("scores"),
    _text("correction"),
    _text("rater_group", 200),
    _flag("flagged"),
    sql.Column("seconds", sql.Float),
    sql.UniqueConstraint("comparison", "rater"),
)
FAULT = sql.Table(
    "triptych_fault",
    TABLES,
    _key(),
    _created(),
    sql.Column("comparison", sql.ForeignKey(_OF_COMPARISON, ondelete="CASCADE"), nullable=False),
    sql.Column("variant", sql.String(400), nullable=False),
    _text("wrong"),
    _text("correction"),
    sql.Column("rater", sql.String(200), nullable=False),
    _text("rater_group", 200),
    sql.UniqueConstraint("comparison", "variant", "rater"),
)
ACCOUNT = sql.Table(
    "triptych_account",
    TABLES,
    _key(),
    _created(),
    sql.Column("name", sql.String(200), nullable=False),
    sql.Column("role", sql.String(20), nullable=False),
    _text("rater_group", 200),
    _text("password", 300),
    sql.Column("rater", sql.String(200), nullable=False),
    sql.UniqueConstraint("name"),
)
