/** A process with little memory follows a log of large events, while it catches up and at the tail. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Latch } from "effect"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { postgresUrl } from "../support/database.ts"
import { event, serveEvents } from "./events.harness.ts"
import { execute } from "./harness.ts"

const script = fileURLToPath(new URL("pageSize.process.ts", import.meta.url))
const heapMegabytes = 384

const small = 3000
const large = 300

/** A process that follows the log until it has so many events. */
const followInProcess = Effect.fnUntraced(function* (schema: string, count: number) {
  const ended = yield* Deferred.make<number | string | null>()
  const more = yield* Latch.make()
  const seen: Array<bigint> = []
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        [
          `--max-old-space-size=${heapMegabytes}`,
          "--conditions=@effect-strata/source",
          script,
          postgresUrl,
          schema,
          String(count)
        ],
        { stdio: ["ignore", "pipe", "pipe"] }
      )
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  child.once("close", (code, signal) => Deferred.doneUnsafe(ended, Effect.succeed(code ?? signal)))
  createInterface(child.stdout).on("line", (line) => {
    seen.push(BigInt(line))
    more.openUnsafe()
  })
  child.stderr.resume()
  return {
    seen,
    ended: Deferred.await(ended),
    until: (version: bigint) =>
      Effect.whileLoop({
        while: () => (seen.at(-1) ?? 0n) < version,
        body: () => Effect.andThen(more.close, more.await),
        step: () => {}
      })
  }
})

/** Events of a megabyte each, that are stored as some kilobytes or as they are. */
const insertLarge = (table: string, text: string) => `
  INSERT INTO ${table} (id, aggregate_id, event_type, data)
  SELECT gen_random_uuid()::text, 'a', 'Large', jsonb_build_object('text', ${text}) FROM generate_series(1, ${large}) AS n`

it.live.each([
  { how: "compressed", text: "repeat(n::text || ' ', 1000000 / (1 + length(n::text)))" },
  {
    how: "as they are",
    text: "(SELECT repeat(string_agg(md5(n || ' ' || k), ''), 8) FROM generate_series(1, 4096) AS k)"
  }
])("300 events of a megabyte do not fill 384 MB, while it catches up and at the tail: stored $how", ({ text }) =>
  Effect.gen(function* () {
    const { events, schema, table } = yield* serveEvents()
    // After many small events the pages of a reader are as long as they get.
    const smallEvents = Array.from({ length: small }, () => event("a"))
    yield* events.append(smallEvents)
    yield* execute([insertLarge(table, text)])
    yield* events.append(smallEvents)
    const count = 2 * (2 * small + large)
    const follower = yield* followInProcess(schema, count)
    yield* Effect.raceFirst(follower.until(BigInt(count / 2)), follower.ended)
    // It is at the tail now. What comes first makes the pages long again.
    yield* events.append(smallEvents)
    yield* Effect.raceFirst(follower.until(BigInt(count / 2 + small)), follower.ended)
    yield* execute([insertLarge(table, text)])
    yield* events.append(smallEvents)
    assert.strictEqual(yield* follower.ended, 0)
    assert.deepStrictEqual(
      follower.seen,
      Array.from({ length: count }, (_, index) => BigInt(index + 1))
    )
  })
)
