"""What happened: the audit record and the stream of it.

Owns the events' types, table and RPCs. Every other feature's rules may write events; this one asks nothing of them.
"""
