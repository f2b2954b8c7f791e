CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    email_canonical text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'active',
    roles text[] NOT NULL DEFAULT '{}',
    email_verified boolean NOT NULL DEFAULT false,
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    delete_time timestamptz,
    CONSTRAINT users_email_canonical_key UNIQUE (email_canonical),
    CONSTRAINT users_email_length CHECK (char_length(email) BETWEEN 3 AND 254),
    CONSTRAINT users_email_canonical_length CHECK (char_length(email_canonical) BETWEEN 3 AND 320),
    CONSTRAINT users_display_name_length CHECK (char_length(display_name) <= 200),
    CONSTRAINT users_state_known CHECK (state IN ('active', 'disabled')),
    CONSTRAINT users_roles_sane CHECK (cardinality(roles) <= 64 AND array_position(roles, NULL) IS NULL),
    CONSTRAINT users_version_positive CHECK (version > 0)
);

COMMENT ON TABLE users IS 'Who may come in. One row per person; deletion is soft (delete_time) until purged.';
COMMENT ON COLUMN users.id IS 'UUIDv7, made by the service.';
COMMENT ON COLUMN users.email IS 'As the user wrote it; shown, never compared.';
COMMENT ON COLUMN users.email_canonical IS 'The form compared: one address, one user.';
COMMENT ON COLUMN users.version IS 'Grows by one with every change: the etag.';
