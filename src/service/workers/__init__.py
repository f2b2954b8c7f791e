"""Several processes on one port: a parent that serves no RPC, and the workers it starts, replaces and ends.

The parent (`parent`, `crew`, `member`) owns the port, the embedded PostgreSQL of development and the ops port, and
never imports gRPC. A worker (`worker`) is the whole service on a port it shares. They talk over a socket pair
(`channel`): when it ends, the other side is gone.
"""
