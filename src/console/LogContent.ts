/** The log as a whole: what it consists of, and all of it as a file, as the command has both. */
import type { DateTime, Option } from "effect"
import { Effect, Stream } from "effect"
import { EventStore } from "../EventStore.ts"
import { PostgresDatabase } from "../postgres/database/PostgresDatabase.ts"
import { count } from "../postgres/events/Counting.ts"
import { estimate } from "../postgres/events/Estimating.ts"
import { Checksum, lineOf } from "../postgres/events/EventLines.ts"
import * as EventTable from "../postgres/events/EventTable.ts"
import * as Exporting from "../postgres/events/Exporting.ts"
import * as LogParts from "../postgres/events/LogParts.ts"

/** How many events there are. A small log is counted, and of a large one a part stands for the whole. */
export const stats = Effect.fnUntraced(function* (since: Option.Option<DateTime.Utc>, top: number) {
  const version = yield* EventStore.use(({ latestVersion }) => latestVersion)
  const extent = yield* LogParts.extent
  return yield* extent.blocks > LogParts.manyBlocks
    ? estimate(since, top, version, extent)
    : count(since, top, version, { advance: () => Effect.void })
})

/** The events above a version as lines of JSON, up to the last one that is settled, and the checksum of the lines. */
export const file = Effect.fnUntraced(function* (after: bigint) {
  yield* EventTable.checkAndWarn
  const database = yield* PostgresDatabase
  const checksum = new Checksum()
  const pages = yield* Exporting.settledPages(after)
  const lines = Stream.map(pages, (rows) => {
    const text = rows.map(lineOf).join("")
    checksum.add(text, rows.length)
    return text
  })
  return Stream.concat(
    lines,
    Stream.suspend(() => Stream.succeed(checksum.line))
  ).pipe(Stream.encodeText, Stream.provideService(PostgresDatabase, database))
})
