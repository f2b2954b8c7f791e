-- One key signs at a time, whatever its algorithm; and each knows when it came to its state.
-- gatelodge: allow drop-index because no release has run yet, so the table is empty
DROP INDEX signing_keys_one_active_per_algorithm;
-- gatelodge: allow create-index because no release has run yet, so the table is empty
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (state) WHERE state = 'active';
-- gatelodge: allow create-index because no release has run yet, so the table is empty
CREATE UNIQUE INDEX signing_keys_one_staged ON signing_keys (state) WHERE state = 'staged';

ALTER TABLE signing_keys
    ADD COLUMN activate_time timestamptz,
    ADD COLUMN retire_time timestamptz;
-- gatelodge: allow update because no release has run yet, so the table is empty
UPDATE signing_keys SET activate_time = create_time WHERE state = 'active';

-- What other keys are derived from, sealed under the master secret, so that the master secret can change.
CREATE TABLE root_secrets (
    name text PRIMARY KEY,
    sealed bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT root_secrets_name_length CHECK (char_length(name) BETWEEN 1 AND 64)
);

COMMENT ON TABLE root_secrets IS 'Secrets made by the service, encrypted by it; useless without its master secret.';
