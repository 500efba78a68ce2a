"""Accounts: who may use the app."""

import sqlalchemy as sql
from alembic import op

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of accounts."""

    def text(name: str, length: int) -> sql.Column[str]:
        return sql.Column(name, sql.String(length), nullable=False, server_default="")

    op.create_table(
        "triptych_account",
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("created", sql.String(32), nullable=False),
        sql.Column("name", sql.String(200), nullable=False),
        sql.Column("role", sql.String(20), nullable=False),
        text("rater_group", 200),
        text("password", 300),
        sql.Column("rater", sql.String(200), nullable=False),
        sql.UniqueConstraint("name"),
    )
