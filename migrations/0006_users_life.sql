-- What an account goes through after it was made, and the indexes that lists of a million users stand on.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

ALTER TABLE users
    ADD COLUMN disable_reason text NOT NULL DEFAULT '' CHECK (char_length(disable_reason) <= 500),
    ADD COLUMN purge_time timestamptz,
    ADD CONSTRAINT users_purged_only_when_deleted CHECK (purge_time IS NULL OR delete_time IS NOT NULL);

COMMENT ON COLUMN users.disable_reason IS 'Why an operator disabled the account; for operators only.';
COMMENT ON COLUMN users.purge_time IS 'When a deleted account is removed for good, by a job.';

-- Orders: by time, and by address in the order of its bytes, whatever the collation of the database.
CREATE INDEX users_create_time_idx ON users (create_time, id);
CREATE INDEX users_email_order_idx ON users (email_canonical COLLATE "C", id);

-- Filters. The prefix of an address uses users_email_order_idx, a range of times users_create_time_idx.
CREATE INDEX users_state_idx ON users (state, create_time, id) WHERE state <> 'active';
CREATE INDEX users_roles_idx ON users USING gin (roles);
CREATE INDEX users_text_idx ON users USING gin (lower(email_canonical || ' ' || display_name) gin_trgm_ops);

CREATE INDEX users_purge_time_idx ON users (purge_time) WHERE purge_time IS NOT NULL;
