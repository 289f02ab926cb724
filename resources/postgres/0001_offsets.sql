-- Projection offsets: one row per projection and shard. eGo's offset stores read and write the same table. A table that eGo
-- has created stays as it is.
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
