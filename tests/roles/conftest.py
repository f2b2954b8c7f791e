"""Databases of one's own."""

from tests.db.conftest import conn, db

__all__ = ["conn", "db"]
