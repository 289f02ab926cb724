-- The latest state of each entity. eGo's durable state stores read and write the same table. A table that eGo has created
-- stays as it is. The file of the indexes adds the one that it may lack.
\if :{?states}
\else
\set states states_store
\endif

CREATE TABLE IF NOT EXISTS :"states"
(
    persistence_id VARCHAR(255) PRIMARY KEY,
    version_number BIGINT       NOT NULL,
    state_payload  BYTEA        NOT NULL,
    state_manifest VARCHAR(255) NOT NULL,
    timestamp      BIGINT       NOT NULL,
    shard_number   BIGINT       NOT NULL
);
