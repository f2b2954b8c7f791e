"""Refuses migrations that would stop those who use the database, or break the release that runs beside the new one.

``python -m tools.migration_lint [folder]``; `make check` runs it. The rules, and how to write a migration that passes,
are in ``docs/upgrading.md``. It reads SQL with PostgreSQL's own parser (pglast); nothing of it is in what is shipped.
"""
