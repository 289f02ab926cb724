/** What the tests of the spool share: stores on pools of their own, and RetrySpool's table. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted } from "effect"
import { SpoolStore, Transactor } from "effect-strata"
import * as Postgres from "effect-strata/postgres"
import { postgresUrl } from "../support/database.ts"
import { execute, freshSchema, type Settings } from "./harness.ts"

/** The spool on a pool of its own, in a schema of its own unless `options` name one. */
export const serveSpool = Effect.fnUntraced(function* ({
  client,
  layer = Postgres.layer,
  options,
  url = postgresUrl
}: Settings = {}) {
  const schema = options?.schema ?? (yield* freshSchema(url))
  const pool = PgClient.layer({ url: Redacted.make(url), maxConnections: 4, ...client })
  const context = yield* Layer.build(Layer.provideMerge(layer({ ...options, schema }), pool))
  return {
    schema,
    context,
    table: `${schema}.${options?.tables?.spool ?? "retryspool_messages"}`,
    /** The table of queues. */
    messages: `${schema}.${options?.tables?.messages ?? "strata_messages"}`,
    spool: Context.get(context, SpoolStore.SpoolStore),
    sql: Context.get(context, PgClient.PgClient),
    withTransaction: Context.get(context, Transactor.Transactor).withTransaction
  }
})

/** The table as RetrySpool creates it, older versions without the name of a policy, with messages of its own. */
export const retrySpool = (schema: string, withPolicy: boolean) =>
  execute([
    `CREATE SCHEMA ${schema}`,
    `CREATE TABLE ${schema}.retryspool_messages (
      id VARCHAR(255) PRIMARY KEY, state INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
      max_attempts INTEGER NOT NULL, next_retry TIMESTAMP WITH TIME ZONE NOT NULL,
      created TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(), updated TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
      last_error TEXT, size BIGINT NOT NULL DEFAULT 0, priority INTEGER NOT NULL DEFAULT 5, headers JSONB
      ${withPolicy ? ", retry_policy_name TEXT" : ""})`,
    `CREATE INDEX idx_retryspool_messages_state ON ${schema}.retryspool_messages(state)`,
    `CREATE INDEX idx_retryspool_messages_next_retry ON ${schema}.retryspool_messages(next_retry) WHERE state = 2`,
    `CREATE INDEX idx_retryspool_messages_priority ON ${schema}.retryspool_messages(priority, created)`,
    `CREATE INDEX idx_retryspool_messages_created ON ${schema}.retryspool_messages(created)`,
    `INSERT INTO ${schema}.retryspool_messages
       (id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers)
     VALUES
       ('go-new', 0, 0, 3, '0001-01-01 00:00:00+00', '2025-08-16 22:00:00.123456+00', '2025-08-16 22:00:00.123456+00', '', 42, 0, 'null'),
       ('go-due', 2, 1, 3, '2025-08-16 23:00:00+00', '2025-08-16 22:00:00+00', '2025-08-16 22:00:00+00', '550', 7, 5, '{"to": "anna"}'),
       ('go-active', 1, 1, 3, '2025-08-16 22:00:00+00', '2025-08-16 22:00:00+00', '2025-08-16 22:00:00+00', NULL, 7, 15, '{}')`
  ])
