CREATE TABLE roles (
    name text COLLATE "C" PRIMARY KEY,
    description text NOT NULL DEFAULT '',
    permissions text[] NOT NULL DEFAULT '{}',
    built_in boolean NOT NULL DEFAULT false,
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT roles_name_form CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    CONSTRAINT roles_description_length CHECK (char_length(description) <= 500),
    CONSTRAINT roles_permissions_sane CHECK (cardinality(permissions) <= 256 AND array_position(permissions, NULL) IS NULL)
);

INSERT INTO roles (name, description, built_in) VALUES ('admin', 'Holds every permission.', true);

COMMENT ON TABLE roles IS 'What a role may do. Who holds it stands in users.roles.';
COMMENT ON COLUMN roles.version IS 'Grows by one with every change: the etag.';
