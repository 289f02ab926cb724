-- Claims messages of a queue: makes them active, with a lease. The function of RetrySpool's table does the same there, by
-- other indexes and another key.
--
-- As a function a claim is one round trip. Its settings make each statement a look-up in the indexes of 0016, whatever the
-- statistics say: without statistics the planner would sort the whole backlog, which takes 83 ms for 200,000 messages.
\if :{?messages}
\else
\set messages strata_messages
\endif
\set messages_claim :messages _claim

SET strata.function TO :"messages_claim";

-- next
SET check_function_bodies TO off;

-- next
CREATE OR REPLACE FUNCTION :"messages_claim" (
    of_queue     TEXT,
    wanted       INTEGER,
    reserved     INTEGER, -- how many of the wanted ones are for incoming messages, if there are so many
    new_owner    TEXT,
    lease        DOUBLE PRECISION, -- in milliseconds
    -- Where the incoming messages that wait probably begin. The claim looks before that place only if it finds too few from
    -- there on: the index keeps entries of messages claimed earlier for as long as any snapshot may need them.
    low_priority INTEGER,
    low_created  TIMESTAMPTZ
)
RETURNS SETOF :"messages"
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $body$
DECLARE
    at       CONSTANT TIMESTAMPTZ := clock_timestamp();
    level    INTEGER := -2147483648;
    due      TEXT[] := '{}';
    incoming TEXT[];
    waiting  INTEGER := 0;
BEGIN
    -- The lock of the UPDATE, before the first look into the table. The looks take weaker locks. A transaction that creates an
    -- index and then alters the table would come in between, and the two would wait for each other.
    LOCK TABLE :"messages" IN ROW EXCLUSIVE MODE;

    -- A comparison of rows begins at the right place of the index of what is ready, and the order by priority excludes the index
    -- of states. With priority = low_priority the planner took that one, and read the messages of all queues and priorities.
    --
    -- How many of the reserved places there are incoming messages for: the other places are for due messages.
    IF reserved > 0 THEN
        SELECT count(*) INTO waiting
        FROM (
            SELECT FROM :"messages" WHERE state = 0 AND queue = of_queue
                AND (priority, created) >= (low_priority, low_created) AND priority <= low_priority
            ORDER BY priority, created, id COLLATE "C" LIMIT reserved
        ) AS waiting;
    END IF;
    IF waiting < reserved THEN
        SELECT count(*) INTO reserved
        FROM (
            SELECT FROM :"messages" WHERE state = 0 AND queue = of_queue
            ORDER BY priority, created, id COLLATE "C" LIMIT reserved
        ) AS waiting;
    END IF;

    -- The due messages, from each priority that deferred messages have to the next one.
    WHILE cardinality(due) < wanted - reserved LOOP
        SELECT priority INTO level FROM :"messages"
        WHERE state = 2 AND queue = of_queue AND priority > level ORDER BY priority LIMIT 1;
        EXIT WHEN NOT FOUND;
        due := due || ARRAY(
            SELECT id FROM :"messages"
            WHERE state = 2 AND queue = of_queue AND priority = level AND next_retry <= at
            ORDER BY next_retry, id COLLATE "C" LIMIT wanted - reserved - cardinality(due) FOR UPDATE SKIP LOCKED
        );
    END LOOP;

    -- The incoming messages.
    wanted := wanted - cardinality(due);
    incoming := ARRAY(
        SELECT id FROM :"messages" WHERE state = 0 AND queue = of_queue AND priority < low_priority
        ORDER BY priority, created, id COLLATE "C" LIMIT wanted FOR UPDATE SKIP LOCKED
    );
    incoming := incoming || ARRAY(
        SELECT id FROM :"messages" WHERE state = 0 AND queue = of_queue
            AND (priority, created) >= (low_priority, low_created) AND priority <= low_priority
        ORDER BY priority, created, id COLLATE "C" LIMIT wanted - cardinality(incoming) FOR UPDATE SKIP LOCKED
    );
    -- Too few of them: some may have come in before the place where they probably begin. This statement looks at all, and
    -- finds those again that this claim has locked already.
    IF cardinality(incoming) < wanted THEN
        incoming := ARRAY(
            SELECT id FROM :"messages" WHERE state = 0 AND queue = of_queue
            ORDER BY priority, created, id COLLATE "C" LIMIT wanted FOR UPDATE SKIP LOCKED
        );
    END IF;

    RETURN QUERY
    UPDATE :"messages" SET
        state = 1, attempts = attempts + 1, updated = greatest(at, updated + interval '1 millisecond'),
        lease_owner = new_owner, lease_until = at + lease * interval '1 millisecond'
    WHERE queue = of_queue AND id = ANY (due || incoming) RETURNING *;
END
$body$;

-- next
\ir complete_function.sql
