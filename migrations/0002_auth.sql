CREATE TABLE passwords (
    user_id uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    hash text NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT passwords_hash_length CHECK (char_length(hash) BETWEEN 1 AND 1024)
);

COMMENT ON TABLE passwords IS 'Argon2 hashes, apart from users so that reading a user never reads a hash.';

CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    algorithm text NOT NULL,
    state text NOT NULL,
    public_jwk jsonb NOT NULL,
    private_key bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT signing_keys_kid_length CHECK (char_length(kid) BETWEEN 1 AND 128),
    CONSTRAINT signing_keys_state_known CHECK (state IN ('active', 'staged', 'retired'))
);

CREATE UNIQUE INDEX signing_keys_one_active_per_algorithm ON signing_keys (algorithm) WHERE state = 'active';

COMMENT ON TABLE signing_keys IS 'Keys that sign access tokens: staged (published), active (signs), retired (verifies).';
COMMENT ON COLUMN signing_keys.private_key IS 'Encrypted by the service; useless without its master key.';
