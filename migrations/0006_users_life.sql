-- What an account goes through after it was made.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- gatelodge: allow add-constraint because no release has run yet, so the table is empty
ALTER TABLE users
    ADD COLUMN disable_reason text NOT NULL DEFAULT '' CHECK (char_length(disable_reason) <= 500),
    ADD COLUMN purge_time timestamptz,
    ADD CONSTRAINT users_purged_only_when_deleted CHECK (purge_time IS NULL OR delete_time IS NOT NULL);

COMMENT ON COLUMN users.disable_reason IS 'Why an operator disabled the account; for operators only.';
COMMENT ON COLUMN users.purge_time IS 'When a deleted account is removed for good, by a job.';
