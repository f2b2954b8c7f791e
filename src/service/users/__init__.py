"""The people who have an account: values, the directory that keeps them, their SQL and their RPCs.

Its rules and SQL know nothing of passwords or tokens: ``auth`` builds on them. Only its servicer asks auth's rules, to
make accounts with passwords.
"""
