-- Optional, by notify: "rows": the notifications of go-sync-kit, for programs that listen to its channels. Each inserted
-- row is notified twice, on "stream_" with its aggregate's id, and on "events_global".
--
-- Notifying is expensive: a transaction that notifies takes a lock of the whole instance for its commit (23k commits/s
-- became 6.4k). And an INSERT fails where the aggregate's id has more than 56 bytes, as no channel can have its name.
--
-- To undo it: DROP TRIGGER events_notify_trigger ON events.
\if :{?events}
\else
\set events events
\endif

-- Function and trigger have the names that go-sync-kit gives them: whichever program comes second replaces them, and no
-- listener is told twice. Listeners parse the payload, so it must be, byte for byte, what json_build_object makes of these
-- keys in this order.
CREATE OR REPLACE FUNCTION notify_event_inserted() RETURNS TRIGGER
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    PERFORM
        pg_notify('stream_' || NEW.aggregate_id, json_build_object('version', NEW.version, 'id', NEW.id,
            'aggregate_id', NEW.aggregate_id, 'event_type', NEW.event_type, 'created_at', NEW.created_at)::text),
        pg_notify('events_global', json_build_object('version', NEW.version, 'id', NEW.id,
            'aggregate_id', NEW.aggregate_id, 'event_type', NEW.event_type,
            'stream_name', 'stream_' || NEW.aggregate_id,
            'created_at', NEW.created_at)::text);
    RETURN NULL;
END
$body$;

-- next
CREATE OR REPLACE TRIGGER events_notify_trigger AFTER INSERT ON :"events"
    FOR EACH ROW EXECUTE FUNCTION notify_event_inserted();
