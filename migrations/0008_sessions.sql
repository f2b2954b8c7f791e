-- Logins that go on: one row each, found by its user, so that a distributed database can keep a user's rows together.
CREATE TABLE sessions (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    device_label text NOT NULL DEFAULT '',
    user_agent text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT '',
    last_source text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    last_use_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    revoke_time timestamptz,
    revoke_reason text NOT NULL DEFAULT '',
    generation integer NOT NULL DEFAULT 1,
    refresh_hash bytea NOT NULL,
    refresh_salt bytea,
    PRIMARY KEY (user_id, id),
    CONSTRAINT sessions_device_label_length CHECK (char_length(device_label) <= 100),
    CONSTRAINT sessions_user_agent_length CHECK (char_length(user_agent) <= 256),
    CONSTRAINT sessions_source_length CHECK (char_length(source) <= 64 AND char_length(last_source) <= 64),
    CONSTRAINT sessions_revoke_reason_length CHECK (char_length(revoke_reason) <= 32),
    CONSTRAINT sessions_generation_positive CHECK (generation > 0)
);

CREATE INDEX sessions_by_end ON sessions (least(expire_time, coalesce(revoke_time, 'infinity')));

COMMENT ON TABLE sessions IS 'Logins that go on, until they expire, lie idle for too long or are revoked.';
COMMENT ON COLUMN sessions.id IS 'UUIDv7, made by the service: the sid of its tokens.';
COMMENT ON COLUMN sessions.expire_time IS 'When it ends however much it is used.';
COMMENT ON COLUMN sessions.generation IS 'Counts the refresh tokens handed out, one after the other.';
COMMENT ON COLUMN sessions.refresh_hash IS 'SHA-256 of the refresh token that is good now.';
COMMENT ON COLUMN sessions.refresh_salt IS 'With the token before, and a key, gives the one that is good now; NULL: the first.';

-- gatelodge: allow add-constraint because no release has run yet, so the table is empty
ALTER TABLE users ADD COLUMN token_version bigint NOT NULL DEFAULT 1 CHECK (token_version > 0);
COMMENT ON COLUMN users.token_version IS 'Access tokens of an earlier version are dead, whatever their session.';

ALTER TABLE passwords ADD COLUMN must_change boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN passwords.must_change IS 'Set by an operator: whoever logs in with it must give a new one.';
