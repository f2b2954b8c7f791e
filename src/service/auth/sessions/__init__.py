"""Sessions: logins that go on. Opening, refreshing, ending, showing and pruning them.

Owns the table ``sessions`` and ``users.token_version``. Locks are taken in one order everywhere: the user's row, then
sessions. Whoever opens or refreshes a session shares the user's row; whoever ends all of them has it alone: so neither
can outrun the other.
"""
