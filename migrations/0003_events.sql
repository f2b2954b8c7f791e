-- Who did what to whom. Appended to by every change, in its own transaction; never changed.
CREATE TABLE events (
    id uuid PRIMARY KEY,
    type text NOT NULL,
    subject uuid,
    actor uuid,
    request_id text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT '',
    payload jsonb NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT events_type_length CHECK (char_length(type) BETWEEN 1 AND 64),
    CONSTRAINT events_request_id_length CHECK (char_length(request_id) <= 64),
    CONSTRAINT events_source_length CHECK (char_length(source) <= 64),
    CONSTRAINT events_payload_sane CHECK (jsonb_typeof(payload) = 'object' AND pg_column_size(payload) <= 16384)
);

CREATE INDEX events_by_time ON events (create_time, id);
CREATE INDEX events_by_type ON events (type, create_time, id);
CREATE INDEX events_by_subject ON events (subject, create_time, id) WHERE subject IS NOT NULL;
CREATE INDEX events_by_actor ON events (actor, create_time, id) WHERE actor IS NOT NULL;

COMMENT ON TABLE events IS 'The audit record. No secrets, no addresses, no names: it stays when a user is erased.';
COMMENT ON COLUMN events.id IS 'UUIDv7, made by the service.';
COMMENT ON COLUMN events.subject IS 'The user it is about. No foreign key: the event outlives the user.';
COMMENT ON COLUMN events.actor IS 'The user who did it; NULL: nobody was logged in, or the service itself.';
COMMENT ON COLUMN events.source IS 'The address the call came from, without its port.';

-- The order of commits. A sequence drawn while a transaction runs is no such order: a smaller number can become visible
-- after a larger one. So the number is drawn at COMMIT, by a deferred trigger, under a lock that PostgreSQL gives back
-- only when the transaction is visible.
CREATE TABLE event_positions (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL
);

COMMENT ON TABLE event_positions IS 'Events in the order in which their transactions were committed.';

CREATE TABLE events_pruned (
    only_row boolean PRIMARY KEY DEFAULT true,
    through bigint NOT NULL DEFAULT 0,
    CONSTRAINT events_pruned_one_row CHECK (only_row)
);

INSERT INTO events_pruned DEFAULT VALUES;

COMMENT ON TABLE events_pruned IS 'Where the record begins: one row.';
COMMENT ON COLUMN events_pruned.through IS 'Positions up to this one may be gone; a cursor before it has missed events.';

CREATE FUNCTION give_event_its_position() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7310586018867966580); -- a number of this lock alone
    INSERT INTO event_positions (event_id) VALUES (NEW.id);
    PERFORM pg_notify('gatelodge_events', '');
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER events_get_positions AFTER INSERT ON events
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION give_event_its_position();

CREATE FUNCTION refuse_to_rewrite_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('gatelodge.pruning', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'events are appended only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER events_are_never_rewritten BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_events();
CREATE TRIGGER event_positions_are_never_rewritten BEFORE UPDATE OR DELETE OR TRUNCATE ON event_positions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_events();
