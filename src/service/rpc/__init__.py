"""The gRPC edge: server, interceptors, status mapping, health and drain.

Owns everything between the socket and a servicer. Depends on the domain's errors, access rules and call;
no feature, no SQL and no settings are known here.
"""
