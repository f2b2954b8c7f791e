"""The database that some of these look into."""

from tests.db.conftest import conn, db

__all__ = ["conn", "db"]
