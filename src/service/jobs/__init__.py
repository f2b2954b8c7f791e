"""Background jobs: work that is due now and then, done once in the whole cluster, that survives a crash midway.

Owns the table ``jobs`` and its leases. Depends on ``db`` and ``telemetry``; on no feature: a job is a function that
``app.py`` hands in. What a job does must bear being done twice: a process that was stopped for longer than its lease
wakes up beside its successor.
"""

from service.jobs.runner import Job, JobMeter, Jobs

__all__ = ["Job", "JobMeter", "Jobs"]
