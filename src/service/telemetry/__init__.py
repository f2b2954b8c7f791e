"""What operators see: logs, traces, metrics and the ops port. Depends on no feature; no feature's fault may stop it.

Nothing here blocks the event loop, and nothing here raises into the code it watches.
"""
