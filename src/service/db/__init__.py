"""The database room: the pool, statements, transactions, migrations, the SQL proof, the embedded PostgreSQL.

Owns everything that knows psycopg. Features declare `Statement` and `Command` objects in their ``statements.py``, and
their rules receive a `Connection` they only pass on. Depends on ``call`` (deadlines) and ``errors``; on no feature.
"""

from service.db.idempotency import Answers
from service.db.lending import PoolOptions
from service.db.listening import Listener
from service.db.pool import Database, PoolStats
from service.db.statement import Command, Connection, Statement
from service.db.transactions import Isolation

__all__ = [
    "Answers",
    "Command",
    "Connection",
    "Database",
    "Isolation",
    "Listener",
    "PoolOptions",
    "PoolStats",
    "Statement",
]
