CREATE TABLE jobs (
    name text PRIMARY KEY,
    every interval NOT NULL,
    next_run_time timestamptz NOT NULL,
    lease_expire_time timestamptz,
    holder text,
    last_run_time timestamptz,
    last_success_time timestamptz,
    last_error text,
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    CONSTRAINT jobs_every_positive CHECK (every > interval '0'),
    CONSTRAINT jobs_lease_whole CHECK ((holder IS NULL) = (lease_expire_time IS NULL))
);

COMMENT ON TABLE jobs IS 'Background jobs, one row each. Whoever has set holder runs it, until lease_expire_time.';
COMMENT ON COLUMN jobs.last_error IS 'The kind of the last failure, without values; NULL after a success.';
