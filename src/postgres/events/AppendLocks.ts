/**
 * The keys of the advisory locks that an append takes.
 *
 * **Details**
 *
 * An append locks each of its aggregates, exclusively where it expects something of it, and each id that its caller has
 * chosen. Before these it locks the log, and the ids, each as a whole: shared, so that a program that needs all of them
 * can lock out every append with two locks. The key of a name is `hashtextextended(name, seed)`, and that of the whole is
 * that of the empty name; aggregates, ids and tags have seeds of their own. These are made of the number that
 * `resources/postgres/0061_events_key.sql` keeps, so that they stay when the table is divided into partitions. A tag that an
 * event gets is shared, and the first tag of each item of a condition is exclusive.
 *
 * `resources/postgres/0066_events_append.sql` has the same keys, for the appends that go through its function.
 */
import type { Statement } from "effect/sql"
import { qualify } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"

/** The function that gives the number of which the keys are made, qualified and quoted. */
export const keyFunctionOf = ({ names, schema }: Pick<PostgresDatabase["Service"], "names" | "schema">): string =>
  qualify(schema, `${names.events}_key`)

export interface AppendLocks {
  /** Whether the transaction can share the lock of the log now. */
  readonly tryShareLog: Statement.Fragment
  /** Whether the transaction can share the lock of an aggregate now. The column has the aggregate's id. */
  readonly tryShare: (column: string) => Statement.Fragment
  /** The key of the aggregate, or of the tag, in a column. */
  readonly keyOf: (column: string) => Statement.Fragment
  readonly keyOfTag: (column: string) => Statement.Fragment
  /**
   * Whether the transaction cannot share the lock of the column `key` now. A statement that shares several goes through them in
   * the order of the keys, as the function does, and ends at the first that it cannot have: the transaction may have to wait
   * for that one next, and must hold nothing then that other transactions take later.
   */
  readonly isBusy: Statement.Fragment
  /** The keys, in the column `key`, of the locks that keep out all appends. They are taken in this order. */
  readonly all: Statement.Fragment
  /** The key of the lock that keeps out all other taggings. Appends do not know it: no event has the empty tag. */
  readonly tagging: Statement.Fragment
  /** The key of the lock that keeps out all appends, but for their ids. */
  readonly log: Statement.Fragment
  /** The keys of the locks that an append shares of its tags, and that of the log, in the order in which it takes them. */
  readonly share: (tags: ReadonlyArray<string>) => Statement.Fragment
}

export const make = ({ names, schema, sql }: PostgresDatabase["Service"]): AppendLocks => {
  const number = `${keyFunctionOf({ names, schema })}()`
  const seed = `2 * ${number}`
  const tagSeed = `-1::bigint - ${number}`
  const keyBy = (seed: string) => (name: string) => `hashtextextended(${name}, ${seed})`
  const keyOf = keyBy(seed)
  const tryShare = (name: string) => sql.literal(`pg_try_advisory_xact_lock_shared(${keyOf(name)})`)
  return {
    tryShareLog: tryShare("''"),
    tryShare,
    keyOf: (name) => sql.literal(keyOf(name)),
    keyOfTag: (name) => sql.literal(keyBy(tagSeed)(name)),
    isBusy: sql.literal("NOT pg_try_advisory_xact_lock_shared(key)"),
    // In the order of the keys, as the function takes them.
    all: sql`
      SELECT hashtextextended('', ${sql.literal(seed)} + kind) AS key FROM generate_series(0, 1) AS kind ORDER BY key`,
    tagging: sql`SELECT hashtextextended('', ${sql.literal(tagSeed)}) AS key`,
    log: sql`SELECT hashtextextended('', ${sql.literal(seed)}) AS key`,
    share: (tags) => sql`
      SELECT key FROM (
        SELECT 0 AS level, hashtextextended('', ${sql.literal(seed)}) AS key
        UNION ALL
        SELECT 1, hashtextextended(tag, ${sql.literal(tagSeed)}) FROM pg_catalog.unnest(${tags}::text[]) AS tag
      ) AS keys ORDER BY level, key`
  }
}
