"""The database room: the only one, with the features' ``statements.py``, that knows psycopg.

Rules receive a `Connection` and pass it on; they never import psycopg.
"""
