-- Projection offsets: one row per projection and shard. eGo's offset stores read and write the same table; one that eGo
-- has created is left as it is.
--
-- By hand: psql -f 0001_offsets.sql, with -c 'SET search_path TO app' before it for a schema, and -v offsets=NAME for
-- another table name.
\if :{?offsets}
\else
\set offsets offsets_store
\endif

CREATE TABLE IF NOT EXISTS :"offsets"
(
    projection_name VARCHAR(255) NOT NULL,
    shard_number    BIGINT       NOT NULL,
    current_offset  BIGINT       NOT NULL,
    timestamp       BIGINT       NOT NULL,
    PRIMARY KEY (projection_name, shard_number)
);
