/** What commands read of a log of a million events. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { execute, query } from "../postgres/harness.ts"
import { scratchDatabase } from "../support/database.ts"
import { goSyncKitOf } from "../support/largeLogs.ts"
import { jsonLines, strata, succeeds } from "./harness.ts"

const eventCount = 1_000_000

/** The blocks of the table of events and its indexes that sessions which have ended have read, and those of the table. */
const blocksOf = Effect.fnUntraced(function* (url: string) {
  const others = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'`
  yield* Effect.repeat(query(others, url), { until: ({ length }) => length === 0 })
  const [row] = yield* query(
    `SELECT (heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::float8,
      (pg_relation_size('events') / current_setting('block_size')::int)::float8
     FROM pg_statio_user_tables WHERE relid = 'events'::regclass`,
    url
  )
  return { read: Number(row?.[0]), table: Number(row?.[1]) }
})

it.live(
  "status, doctor and events stats read a small part of a large log, unless they are to be exact",
  () =>
    Effect.gen(function* () {
      const url = yield* scratchDatabase()
      const options = { url }
      yield* goSyncKitOf(url, eventCount)
      yield* succeeds(["migrate", "--notify", "rows"], options)
      yield* execute(
        [
          "ALTER TABLE events SET (autovacuum_enabled = off)",
          `INSERT INTO events (id, aggregate_id, event_type, data, created_at)
           VALUES ('rare', '${"l".repeat(56)}', 'Rare', '{}', '2000-01-01T00:00:00Z')`,
          // Shards at many places of the log, each behind its end.
          `INSERT INTO offsets_store (projection_name, shard_number, current_offset, timestamp)
           SELECT 'p', n, n * 60000, 0 FROM generate_series(0, 15) AS n`,
          `INSERT INTO states_store (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
           SELECT 'state-' || n, 1, '', 'json', 0, 0 FROM generate_series(1, 20000) AS n`,
          "VACUUM ANALYZE"
        ],
        url
      )
      /** How many blocks a command reads for each block of the table. */
      const share = Effect.fnUntraced(function* (...args: ReadonlyArray<string>) {
        const before = yield* blocksOf(url)
        const ended = yield* strata(args, options)
        const { read, table } = yield* blocksOf(url)
        return { ...ended, share: (read - before.read) / table }
      })

      const status = yield* share("status")
      assert.match(status.stdout, /^states +about 20,000$/m)
      assert.isBelow(status.share, 0.02)
      const exactStatus = yield* share("status", "--exact")
      assert.match(exactStatus.stdout, /^states +20,000$/m)
      assert.match(exactStatus.stderr, /^looked at 20,000 of 20,000 states$/m)

      const doctor = yield* share("doctor")
      assert.match(
        doctor.stdout,
        /trigger events_notify_trigger .* among [\d,]+ of about 1,000,000 events: --exact looks at all/
      )
      assert.isBelow(doctor.share, 0.2)
      const exactDoctor = yield* share("doctor", "--exact")
      assert.notInclude(exactDoctor.stdout, "--exact")
      assert.match(exactDoctor.stderr, /^looked at [\d,]+ of 1,000,\d\d\d events$/m)
      assert.isAbove(exactDoctor.share, 0.9)
      yield* execute(
        [
          "ALTER TABLE events DISABLE TRIGGER ALL",
          `INSERT INTO events (id, aggregate_id, event_type) VALUES ('long', '${"l".repeat(57)}', 'Rare')`,
          "ALTER TABLE events ENABLE TRIGGER ALL"
        ],
        url
      )
      assert.match((yield* share("doctor", "--exact")).stdout, /there are aggregate ids of more than 56 bytes/)

      const stats = yield* share("events", "stats")
      assert.match(stats.stdout, /^events +about 1,000,000\naggregates +about 1,000\ntypes +about 3\n/)
      assert.match(stats.stdout, /^Deposited +about 990,000\n(.*\n)?Closed +about [\d,]+\nRare +2$/m)
      assert.isBelow(stats.share, 0.4)
      const [estimated] = jsonLines(
        (yield* share("events", "stats", "--json", "--created-after", "2001-01-01T00:00:00Z")).stdout
      )
      assert.deepInclude(estimated, { isEstimate: true, aggregates: null })

      const exact = yield* share("events", "stats", "--exact", "--top", "2")
      assert.match(exact.stdout, /^events +1000002\naggregates +1002\ntypes +3\n/)
      assert.match(exact.stdout, /^Deposited +990,000\nClosed +10,000$/m)
      assert.match(exact.stdout, /^account-0 +1,000\naccount-1 +1,000$/m)
      assert.match(exact.stderr, /^counted [\d,]+ of 1,0[\d,]+ events$/m)
      assert.isAbove(exact.share, 0.9)
      const since = ["--created-after", "2001-01-01T00:00:00Z"]
      const [counted] = jsonLines((yield* share("events", "stats", "--exact", "--json", ...since)).stdout)
      assert.deepInclude(counted, { isEstimate: false, events: eventCount + 1, aggregates: 1001, types: 3 })
    }).pipe(Effect.scoped),
  600_000
)
