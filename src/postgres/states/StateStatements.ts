/** The statements that write states. The functions of `resources/postgres` return what is stored where they write nothing. */
import type { OverwriteAndGet, Write } from "../../DurableState.ts"
import { qualify } from "../database/Identifier.ts"
import type { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { columns, replace, stored } from "./StateRow.ts"

/** Whether what is stored has to be older than what is written. */
export type Kind = "write" | "overwrite"

/** Makes the statements for the table of this database. */
export const make = ({ fixed, names, schema, sql, tables }: PostgresDatabase["Service"]) => {
  const writeFunction = sql.literal(qualify(schema, `${names.states}_write`))

  const insert = sql`INSERT INTO ${tables.states} (${sql.literal(stored)})`
  const orReplace = sql.literal(`ON CONFLICT (persistence_id) DO UPDATE SET ${replace}`)

  const overwriteOne = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: Write) => fixed`
    ${insert} VALUES (${persistenceId}, ${versionNumber}, ${payload}, ${manifest}, ${timestamp}, ${BigInt(shard)}) ${orReplace}`

  // The SELECT sees the table as it was before the INSERT.
  const overwriteAndGet = (both: OverwriteAndGet) => fixed`
    WITH written AS (
      ${insert} VALUES (
        ${both.persistenceId}, ${both.versionNumber}, ${both.payload}, ${both.manifest}, ${both.timestamp}, ${BigInt(both.shard)}
      ) ${orReplace}
    )
    SELECT ${sql.literal(columns)} FROM ${tables.states} WHERE persistence_id::text = ANY(${both.persistenceIds}::text[])`

  const writeOne = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: Write) => fixed`
    SELECT * FROM ${writeFunction}(
      ${persistenceId}::varchar, ${versionNumber}::bigint, ${payload}::bytea, ${manifest}::varchar, ${timestamp}::bigint,
      ${BigInt(shard)}::bigint
    )`

  // The function does not write the rows that another transaction has.
  const writeMany = (kind: Kind, states: ReadonlyArray<Write>, inserting: boolean) => sql`
    SELECT * FROM ${writeFunction}(
      ${states.map(({ persistenceId }) => persistenceId)}::text[],
      ${states.map(({ versionNumber }) => versionNumber)}::bigint[],
      ${states.map(({ payload }) => payload)}::bytea[],
      ${states.map(({ manifest }) => manifest)}::text[],
      ${states.map(({ timestamp }) => timestamp)}::bigint[],
      ${states.map(({ shard }) => BigInt(shard))}::bigint[],
      ${kind === "write"}::boolean, ${inserting}::boolean
    )`

  return { overwriteAndGet, overwriteOne, writeOne, writeMany }
}
