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
import { Settings, stored, whereShown } from "./Settings.ts"

/** How many states a page has unless it is asked for others. */
const pageStates = 100

/** How many states a statement looks through, where it has to look into each. */
const partStates = 5_000

interface Asked {
  readonly from?: string
  readonly manifest?: string
  readonly text?: string
  readonly limit?: number
}

const Row = Schema.Struct({
  persistenceId: Schema.String,
  versionNumber: Schema.BigInt,
  manifest: Schema.String,
  timestamp: Schema.BigInt,
  shard: Schema.Int,
  size: Schema.Int,
  /** The how manieth it is from where the page begins. */
  place: Schema.Int
})

/** The column holds nanoseconds, as the Go originals have it. Other programs may have put something else there. */
const timeOf = (timestamp: bigint) => Option.getOrNull(DateTime.make(Number(timestamp / 1_000_000n)))

const viewOf = ({
  manifest,
  persistenceId,
  shard,
  size,
  timestamp,
  versionNumber
}: Omit<typeof Row.Type, "place">) => ({
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

    /**
     * A page along the primary key, of the states that are in a part of the table. What projections keep about themselves is no
     * state of the application.
     */
    const page = Effect.fnUntraced(function* ({ from = "", limit = pageStates, manifest, text }: Asked) {
      const isFiltered = manifest !== undefined || text !== undefined
      const part = isFiltered ? partStates : limit
      const ofManifest = manifest === undefined ? sql.literal("") : sql`AND state_manifest::text = ${manifest}`
      const ofText =
        text === undefined
          ? sql.literal("")
          : sql`AND position(convert_to(${text}::text, 'UTF8'::name) IN state_payload) > 0`
      const rows = yield* query(sql`
        SELECT persistence_id::text AS "persistenceId", version_number AS "versionNumber", state_manifest::text AS manifest,
          timestamp, shard_number::float8 AS shard, octet_length(state_payload)::float8 AS size, place::float8 AS place
        FROM (
          SELECT *, row_number() OVER (ORDER BY persistence_id) AS place FROM ${tables.states}
          WHERE persistence_id::text >= ${from} AND NOT starts_with(persistence_id::text, ${idPrefix}::text)
          ORDER BY persistence_id LIMIT ${part + 1}
        ) AS part
        WHERE place > ${part} OR (true ${ofManifest} ${ofText})
        ORDER BY place LIMIT ${limit + 1}`)
      const found = yield* decode(rows)
      const shown = found.filter(({ place }) => place <= part).slice(0, limit)
      return { states: shown.map(viewOf), next: found[shown.length]?.persistenceId ?? null }
    })

    return handlers.handleAll({
      states: ({ query: asked }) =>
        answered(
          Effect.andThen(
            asked.text === undefined
              ? Effect.void
              : whereShown(settings, "this console hides states, so it does not look into them"),
            page(asked)
          )
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
