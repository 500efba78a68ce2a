"""Conversations, scores, corrections and groups of raters; question sets, users, keys and jobs."""

import sqlalchemy as sql
from alembic import op

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns with what older rows mean by them, and the new tables."""

    def text(name: str, length: int | None = None) -> sql.Column[str]:
        return sql.Column(
            name, sql.String(length) if length else sql.Text(), nullable=False, server_default=""
        )

    def flag(name: str, value: bool = False) -> sql.Column[bool]:
        return sql.Column(
            name, sql.Boolean, nullable=False, server_default=sql.true() if value else sql.false()
        )

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

    def key() -> sql.Column[int]:
        return sql.Column("id", sql.Integer, primary_key=True)

    def created() -> sql.Column[str]:
        return sql.Column("created", sql.String(32), nullable=False)

    def name() -> sql.Column[str]:
        return sql.Column("name", sql.String(200), nullable=False)

    op.create_table(
        "triptych_question_set", key(), created(), name(),
        sql.Column("version", sql.Integer, nullable=False),
        sql.Column("sha256", sql.String(64), nullable=False),
        sql.Column("questions", sql.JSON, nullable=False),
        sql.UniqueConstraint("name", "version"),
    )  # fmt: skip
    op.create_table(
        "triptych_user", key(), created(), name(),
        sql.Column("role", sql.String(40), nullable=False),
        text("password", 400), text("rater_group", 200), text("pseudonym", 64), flag("active", True),
        sql.UniqueConstraint("name"),
    )  # fmt: skip
    op.create_table(
        "triptych_api_key", key(), created(), name(),
        sql.Column("role", sql.String(40), nullable=False),
        sql.Column("sha256", sql.String(64), nullable=False),
        flag("active", True),
        sql.UniqueConstraint("sha256"),
    )  # fmt: skip
    op.create_table(
        "triptych_job", key(), created(),
        sql.Column("owner", sql.String(200), nullable=False),
        sql.Column("recipe", sql.String(200), nullable=False),
        sql.Column("config", sql.JSON, nullable=False),
        sql.Column("state", sql.String(20), nullable=False),
        text("folder"), text("message"),
        sql.Column("pid", sql.Integer),
        sql.Column("updated", sql.String(32), nullable=False),
    )  # fmt: skip
