-- Says what an append with this condition must not overtake: events that its decision would have wanted to know of. No row if
-- there is nothing. The append holds the locks of its condition when it calls this: resources/postgres/0066_events_append.sql.
--
-- The condition has what a decision has seen: the mark, a version up to which all events had come before the decision read,
-- and the versions above it that it has read. src/EventQuery.ts describes it.
\if :{?events}
\else
\set events events
\endif
\set events_missed :events _missed

SET strata.function TO :"events_missed";

-- next
SET check_function_bodies TO off;

-- next
CREATE OR REPLACE FUNCTION :"events_missed" (condition JSONB)
RETURNS TABLE (
    outcome TEXT,   -- overtaken, or replaced where the condition is from another log, or from before the log was set back
    key     TEXT,   -- the change as JSON, or the id of the event that is at the mark now
    version BIGINT  -- of the first event in the way, or the end of the log
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $body$
#variable_conflict use_column
DECLARE
    mark     CONSTANT BIGINT   := condition ->> 'mark';
    seen     CONSTANT BIGINT[] := condition ->> 'seen';
    items    CONSTANT JSONB    := condition -> 'items';
    -- The start of the server, the file of the sequence and the database tell one log from another, and one that was set back
    -- from what it was. The same text is made by src/postgres/events/Deciding.ts.
    here     CONSTANT TEXT     := extract(epoch FROM pg_postmaster_start_time())::text || ' '
        || coalesce(pg_relation_filenode(pg_get_serial_sequence(:'events', 'version')::regclass)::text, '') || ' '
        || current_database()::text;
    epoch    BIGINT;
    first    BIGINT;
    archived BIGINT := 0; -- the log is archived below this version
BEGIN
    -- The events of what is archived are in files, and their tags still in the table. The caller has locked the log.
    IF to_regclass(:'events_ids') IS NOT NULL THEN
        SELECT coalesce(max(archives.end_version), 0) INTO archived FROM :"events_archives" AS archives;
    END IF;

    -- The server was started again, or it is another one, or another log. The log is the one that the decision has read if
    -- the event at the mark is there, and as many matches up to the mark: an event can be lost though a later one is not.
    IF condition ->> 'server' <> here AND (
        NOT EXISTS (SELECT FROM :"events" AS event WHERE event.version = mark AND event.id::text = condition ->> 'markId')
        OR (condition ->> 'matches')::bigint <> (
            SELECT count(DISTINCT event.version)
            FROM :"events" AS event, jsonb_array_elements(items) AS item
            WHERE event.version <= mark AND coalesce(item -> 'types' ? event.event_type, true)
                AND NOT EXISTS (
                    SELECT FROM jsonb_array_elements_text(item -> 'tags') AS wanted (tag)
                    WHERE NOT EXISTS (
                        SELECT FROM :"events_tags" AS tagged WHERE tagged.tag = wanted.tag AND tagged.version = event.version
                        OFFSET 0
                    )
                )
        )
    ) THEN
        -- If the event at the mark is in the log, archived or not, nobody can tell here whether all matches below it are.
        IF archived > 0 THEN
            -- A plain log has no table of ids: this statement is only planned here.
            IF condition ->> 'markId' IS NULL OR EXISTS (
                SELECT FROM :"events_ids" AS known
                WHERE known.version = mark AND known.id = CASE
                    WHEN :'events.id' <> 'uuid' OR condition ->> 'markId' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                    THEN CAST(condition ->> 'markId' AS :"events.id")
                END
            ) THEN
                RETURN QUERY SELECT 'overtaken', '{"change": "archived"}', NULL::bigint;
                RETURN;
            END IF;
        END IF;
        RETURN QUERY
        SELECT 'replaced', (SELECT event.id::text FROM :"events" AS event WHERE event.version = mark),
            (SELECT coalesce(max(event.version), 0) FROM :"events" AS event);
        RETURN;
    END IF;

    -- One look is nearly always enough: whatever matches has the first tag of an item, if each of them has tags.
    SELECT coalesce((SELECT max(tagged.version) FROM :"events_tags" AS tagged WHERE tagged.tag = ''), 0), (
        SELECT tagged.version
        FROM jsonb_array_elements(items) AS item, :"events_tags" AS tagged
        WHERE tagged.tag = item -> 'tags' ->> 0 AND tagged.version > mark AND tagged.version <> ALL (seen)
            AND coalesce(item -> 'types' ? tagged.event_type, true) LIMIT 1
    )
    INTO epoch, first;

    -- Events got tags after they had been appended, since the decision read. Which of them match is not known.
    IF epoch <> (condition ->> 'epoch')::bigint THEN
        RETURN QUERY SELECT 'overtaken', '{"change": "tagged"}', NULL::bigint;
        RETURN;
    END IF;

    -- What the decision has seen in its own transaction, before a savepoint took it back.
    IF seen <> '{}' AND EXISTS (
        SELECT FROM unnest(seen) AS known (version)
        WHERE known.version >= archived
            AND NOT EXISTS (SELECT FROM :"events" AS event WHERE event.version = known.version OFFSET 0)
    ) THEN
        RETURN QUERY
        SELECT 'overtaken', '{"change": "withdrawn"}', min(known.version) FROM unnest(seen) AS known (version)
        WHERE known.version >= archived
            AND NOT EXISTS (SELECT FROM :"events" AS event WHERE event.version = known.version OFFSET 0);
        RETURN;
    END IF;

    IF first IS NULL AND NOT (condition ->> 'solitary')::boolean THEN
        RETURN;
    END IF;

    -- Which of the archived events above the mark match is not known here. The mark of the next decision is above them.
    IF archived > mark + 1 THEN
        RETURN QUERY SELECT 'overtaken', '{"change": "archived"}', NULL::bigint;
        RETURN;
    END IF;

    -- The first match above the mark that the decision has not seen. Each item is looked up by its first tag, or in the log.
    SELECT min(match.version) INTO first
    FROM jsonb_array_elements(items) AS item
    CROSS JOIN LATERAL (
        (
            SELECT tagged.version FROM :"events_tags" AS tagged
            WHERE tagged.tag = item -> 'tags' ->> 0 AND tagged.version > mark AND tagged.version <> ALL (seen)
                AND coalesce(item -> 'types' ? tagged.event_type, true)
                AND NOT EXISTS (
                    SELECT FROM jsonb_array_elements_text(item -> 'tags') AS wanted (tag)
                    WHERE NOT EXISTS (
                        SELECT FROM :"events_tags" AS other WHERE other.tag = wanted.tag AND other.version = tagged.version
                        OFFSET 0
                    )
                    OFFSET 0
                )
                AND (tagged.event_type IS NOT NULL OR NOT item ? 'types' OR EXISTS (
                    SELECT FROM :"events" AS event WHERE event.version = tagged.version AND item -> 'types' ? event.event_type
                    OFFSET 0
                ))
            ORDER BY tagged.version LIMIT 1
        )
        UNION ALL
        (
            SELECT event.version FROM :"events" AS event
            WHERE item -> 'tags' ->> 0 IS NULL AND event.version > mark AND event.version <> ALL (seen)
                AND coalesce(item -> 'types' ? event.event_type, true)
            ORDER BY event.version LIMIT 1
        )
    ) AS match;
    IF first IS NOT NULL THEN
        RETURN QUERY
        SELECT 'overtaken', jsonb_build_object('change', 'appended', 'eventType', event.event_type, 'tags', ARRAY(
            SELECT tagged.tag FROM :"events_tags" AS tagged WHERE tagged.version + 0 = first AND tagged.tag <> '' ORDER BY 1
        ))::text, first
        FROM :"events" AS event WHERE event.version = first;
    END IF;
END
$body$;

-- next
\ir complete_function.sql
