"""Proving who one is: passwords, tokens, the keys that sign them, and the use cases around them.

Builds on the users feature's values and directory.
"""
