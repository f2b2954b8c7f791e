CREATE TABLE idempotency_keys (
    caller text NOT NULL,
    request_id uuid NOT NULL,
    method text NOT NULL,
    fingerprint bytea NOT NULL,
    response bytea NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, request_id),
    CONSTRAINT idempotency_keys_fingerprint_length CHECK (octet_length(fingerprint) = 32)
);

CREATE INDEX idempotency_keys_create_time ON idempotency_keys (create_time);

COMMENT ON TABLE idempotency_keys IS 'Answers of mutations, written with the change, replayed to repeats for 24 hours. May hold personal data.';
COMMENT ON COLUMN idempotency_keys.caller IS 'The principal; "anonymous:" and the fingerprint where nobody is logged in.';
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'HMAC-SHA256 of method and request, under a key of the master secret: requests hold passwords.';
COMMENT ON COLUMN idempotency_keys.response IS 'The serialised answer. Empty only until the change is committed, or where the answer is empty.';
