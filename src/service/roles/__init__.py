"""Roles: named sets of permissions, who holds them, and what that allows now.

Builds on the users, whose rows say who holds what, and on the events, which tell every process of a change. Its SQL and
rules know nothing of passwords, tokens and the transport.
"""
