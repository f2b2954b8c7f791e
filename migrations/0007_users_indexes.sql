-- gatelodge: no-transaction
-- The indexes that lists of a million users stand on, built while others go on writing.

-- Orders: by time, and by address in the order of its bytes, whatever the collation of the database.
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_create_time_idx ON users (create_time, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_email_order_idx ON users (email_canonical COLLATE "C", id);

-- Filters. The prefix of an address uses users_email_order_idx, a range of times users_create_time_idx.
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_state_idx ON users (state, create_time, id) WHERE state <> 'active';
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_roles_idx ON users USING gin (roles);
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_text_idx ON users USING gin (lower(email_canonical || ' ' || display_name) gin_trgm_ops);

CREATE INDEX CONCURRENTLY IF NOT EXISTS users_purge_time_idx ON users (purge_time) WHERE purge_time IS NOT NULL;
