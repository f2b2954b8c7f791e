"""A database, and a connection beside it."""

from tests.db.conftest import conn, db

__all__ = ["conn", "db"]
