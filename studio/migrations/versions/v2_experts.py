"""Conversations, scores, corrections and groups of raters."""

import sqlalchemy as sql
from alembic import op

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns with what older rows mean by them."""

    def text(name: str, length: int | None = None) -> sql.Column[str]:
        return sql.Column(
            name, sql.String(length) if length else sql.Text(), nullable=False, server_default=""
        )

    def flag(name: str) -> sql.Column[bool]:
        return sql.Column(name, sql.Boolean, nullable=False, server_default=sql.false())

    def json(name: str, empty: str) -> sql.Column[object]:
        return sql.Column(name, sql.JSON, nullable=False, server_default=empty)

    for column in (
        json("turns", "[]"), text("domain", 200), text("question_set", 64), text("question", 64),
        flag("blind"), text("asker", 200),
    ):  # fmt: skip
        op.add_column("triptych_comparison", column)
    for column in (
        json("scores", "{}"), text("correction"), text("rater_group", 200), flag("flagged"),
        sql.Column("seconds", sql.Float),
    ):  # fmt: skip
        op.add_column("triptych_vote", column)
