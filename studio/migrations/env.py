"""What alembic runs to migrate: on the connection, and in the transaction, that `studio.store` hands over."""

from alembic import context

from studio.tables import TABLES

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TABLES,
    version_table="triptych_alembic",
    render_as_batch=True,
)
context.run_migrations()
