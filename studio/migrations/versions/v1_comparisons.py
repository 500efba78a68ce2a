"""Runs, comparisons, answers and votes: the tables of schema version 1."""

import sqlalchemy as sql
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, unless the store was written before there were migrations."""
    if sql.inspect(op.get_bind()).has_table("triptych_schema"):
        op.drop_table("triptych_schema")
        return

    def key() -> sql.Column[int]:
        return sql.Column("id", sql.Integer, primary_key=True)

    def created() -> sql.Column[str]:
        return sql.Column("created", sql.String(32), nullable=False)

    def comparison() -> sql.Column[int]:
        return sql.Column(
            "comparison",
            sql.Integer,
            sql.ForeignKey("triptych_comparison.id", ondelete="CASCADE"),
            nullable=False,
        )

    op.create_table(
        "triptych_run", key(), created(),
        sql.Column("folder", sql.Text, nullable=False),
        sql.Column("recipe", sql.String(200), nullable=False),
        sql.Column("config", sql.JSON, nullable=False),
        sql.Column("metrics", sql.JSON, nullable=False),
    )  # fmt: skip
    op.create_table(
        "triptych_comparison", key(), created(),
        sql.Column("prompt", sql.Text, nullable=False),
        sql.Column("media", sql.JSON, nullable=False),
        sql.Column("variants", sql.JSON, nullable=False),
        sql.Column("seed", sql.BigInteger, nullable=False),
        sql.Column("decoding", sql.JSON, nullable=False),
    )  # fmt: skip
    op.create_table(
        "triptych_answer", key(), created(), comparison(),
        sql.Column("variant", sql.String(400), nullable=False),
        sql.Column("text", sql.Text, nullable=False),
        sql.Column("latency_ms", sql.Float),
        sql.Column("tokens", sql.Integer),
        sql.UniqueConstraint("comparison", "variant"),
    )  # fmt: skip
    op.create_table(
        "triptych_vote", key(), created(), comparison(),
        sql.Column("choice", sql.String(400), nullable=False),
        sql.Column("reasons", sql.JSON, nullable=False),
        sql.Column("note", sql.Text, nullable=False),
        sql.Column("rater", sql.String(200), nullable=False),
        sql.UniqueConstraint("comparison", "rater"),
    )  # fmt: skip
