"""Gatelodge: users and authentication for a company's internal systems, over gRPC.

Start reading at ``app.py``: it builds the whole service in one function.
"""
