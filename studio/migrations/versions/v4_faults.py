"""Reports of wrong answers, from the people who saw them."""

import sqlalchemy as sql
from alembic import op

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of reports."""

    def text(name: str, length: int | None = None) -> sql.Column[str]:
        return sql.Column(
            name, sql.String(length) if length else sql.Text(), nullable=False, server_default=""
        )

    comparison = sql.ForeignKey("triptych_comparison.id", ondelete="CASCADE")
    op.create_table(
        "triptych_fault",
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("created", sql.String(32), nullable=False),
        sql.Column("comparison", sql.Integer, comparison, nullable=False),
        sql.Column("variant", sql.String(400), nullable=False),
        text("wrong"),
        text("correction"),
        sql.Column("rater", sql.String(200), nullable=False),
        text("rater_group", 200),
        sql.UniqueConstraint("comparison", "variant", "rater"),
    )
