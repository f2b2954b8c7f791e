-- Attempts at passwords, counted before each is checked. Keys are keyed hashes: no address is kept.
CREATE TABLE password_attempts (
    key bytea PRIMARY KEY,
    attempts double precision NOT NULL,
    last_time timestamptz NOT NULL,
    CONSTRAINT password_attempts_key_length CHECK (octet_length(key) = 32),
    CONSTRAINT password_attempts_sane CHECK (attempts >= 0)
);

CREATE INDEX password_attempts_by_time ON password_attempts (last_time);

COMMENT ON TABLE password_attempts IS 'How many attempts an account, a source or a known device has open; they decay.';
