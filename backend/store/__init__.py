"""The only truth: SQLAlchemy Core on SQLite or PostgreSQL; queries are grouped by noun."""

from backend.store.database import Store

__all__ = ["Store"]
