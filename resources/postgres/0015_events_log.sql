-- What names the log: one row beside the table of events, with an id that is copied and restored together with the events. So
-- it tells one log from another, and not the states of one. The other columns are what `strata doctor` has seen last, to say
-- what has changed since: they are null until it has run.
\if :{?events}
\else
\set events events
\endif
\set events_log :events _log

CREATE TABLE IF NOT EXISTS :"events_log"
(
    single            BOOLEAN PRIMARY KEY DEFAULT true CHECK (single),
    id                UUID NOT NULL DEFAULT gen_random_uuid(),
    system_identifier TEXT,
    timeline          INTEGER,
    version           BIGINT,
    event_id          TEXT,
    seen_at           TIMESTAMPTZ
);

-- next
INSERT INTO :"events_log" DEFAULT VALUES ON CONFLICT DO NOTHING;
