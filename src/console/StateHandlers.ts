/** The states of entities, as the API has them. */
import { DateTime, Effect, Option, Schema } from "effect"
import { HttpApiBuilder } from "effect/http-api"
import { type DurableState, DurableStateStore } from "../DurableStateStore.ts"
import { fromText, toText } from "../internal/ExactJson.ts"
import { isTooDeep } from "../internal/JsonText.ts"
import { decodeRows } from "../postgres/database/DecodeRows.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { idPrefix } from "../Projection.ts"
import { Api } from "./api/Api.ts"
import { NotThere } from "./api/Fields.ts"
import { answered } from "./Failures.ts"
import { Settings, stored } from "./Settings.ts"

/** How many states a page has unless it is asked for others. */
const pageStates = 100

const Row = Schema.Struct({
  persistenceId: Schema.String,
  versionNumber: Schema.BigInt,
  manifest: Schema.String,
  timestamp: Schema.BigInt,
  shard: Schema.Int,
  size: Schema.Int
})

/** The column holds nanoseconds, as the Go originals have it. Other programs may have put something else there. */
const timeOf = (timestamp: bigint) => Option.getOrNull(DateTime.make(Number(timestamp / 1_000_000n)))

const viewOf = ({ manifest, persistenceId, shard, size, timestamp, versionNumber }: typeof Row.Type) => ({
  persistenceId,
  versionNumber,
  manifest,
  shard,
  writtenAt: timeOf(timestamp),
  size
})

/** The text of a state that is JSON, of as many levels as can be shown. */
const jsonOf = ({ payload }: DurableState): string | undefined => {
  try {
    const json = new TextDecoder("utf-8", { fatal: true }).decode(payload)
    return isTooDeep(json) ? undefined : toText(fromText(json))
  } catch {
    return undefined
  }
}

export const layer = HttpApiBuilder.group(
  Api,
  "states",
  Effect.fnUntraced(function* (handlers) {
    const settings = yield* Settings
    const { names, query, sql, tables } = yield* PostgresDatabase
    const { getLatestState } = yield* DurableStateStore
    const decode = decodeRows(Row, names.states, ["persistenceId"])

    /** A page along the primary key. What projections keep about themselves is no state of the application. */
    const page = (from: string, manifest: string | undefined, limit: number) => {
      const ofManifest = manifest === undefined ? sql.literal("") : sql`AND state_manifest::text = ${manifest}`
      return Effect.flatMap(
        query(sql`
          SELECT persistence_id::text AS "persistenceId", version_number AS "versionNumber", state_manifest::text AS manifest,
            timestamp, shard_number::float8 AS shard, octet_length(state_payload)::float8 AS size
          FROM ${tables.states}
          WHERE persistence_id::text >= ${from} AND NOT starts_with(persistence_id::text, ${idPrefix}::text) ${ofManifest}
          ORDER BY persistence_id LIMIT ${limit + 1}`),
        decode
      )
    }

    return handlers.handleAll({
      states: ({ query: { from = "", limit = pageStates, manifest } }) =>
        answered(
          Effect.map(page(from, manifest, limit), (rows) => ({
            states: rows.slice(0, limit).map(viewOf),
            next: rows[limit]?.persistenceId ?? null
          }))
        ),
      state: ({ query: { id } }) =>
        answered(
          Effect.gen(function* () {
            const found = yield* Effect.fromOption(
              yield* getLatestState(id),
              () => new NotThere({ message: `"${id}" has no state` })
            )
            const json = jsonOf(found)
            return {
              state: viewOf({ ...found, size: found.payload.length }),
              json: json === undefined ? null : stored(settings, json),
              base64: json === undefined ? stored(settings, Buffer.from(found.payload).toString("base64")) : null
            }
          })
        )
    })
  })
)
