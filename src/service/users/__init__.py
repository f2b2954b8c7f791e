"""The people who have an account: values, the directory that keeps them, their SQL and their RPCs.

Knows nothing of passwords or tokens; ``auth`` builds on it.
"""
