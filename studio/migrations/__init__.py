"""Steps from one form of the store's tables to the next, applied by alembic when a store is opened."""
