/** The figures of the `DurableStateStore`, each beside the same statement on the bare driver. */
import { PgClient } from "@effect/sql-pg"
import { Effect } from "effect"
import { DurableStateStore } from "effect-strata"
import { fibers, type Figure } from "./harness.ts"

const manifest = "google.protobuf.Any"
const payload = Uint8Array.from({ length: 200 }, (_, index) => index)

const writes = (count: number) =>
  Effect.gen(function* () {
    const states = yield* DurableStateStore.DurableStateStore
    const sql = yield* PgClient.PgClient
    let version = 0n
    return {
      strata: fibers(count, (fiber) =>
        states.writeState({ persistenceId: `account-${count}-${fiber}`, versionNumber: version++, payload, manifest })
      ),
      other: fibers(
        count,
        (fiber) => sql`
          INSERT INTO states_store
            (persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number)
          VALUES (${`bare-${count}-${fiber}`}, ${version++}, ${payload}, ${manifest}, ${version}, ${0n})
          ON CONFLICT (persistence_id) DO UPDATE SET version_number = excluded.version_number,
            state_payload = excluded.state_payload, state_manifest = excluded.state_manifest,
            timestamp = excluded.timestamp, shard_number = excluded.shard_number`
      )
    }
  })

const reads = Effect.gen(function* () {
  const states = yield* DurableStateStore.DurableStateStore
  const sql = yield* PgClient.PgClient
  const id = (index: bigint) => `read-${index % 100n}`
  for (let index = 0n; index < 100n; index++) {
    yield* states.overwriteState({ persistenceId: id(index), versionNumber: 1n, payload, manifest })
  }
  return {
    strata: fibers(1, (_, index) => states.getLatestState(id(index))),
    other: fibers(
      1,
      (_, index) => sql`
        SELECT persistence_id, version_number, state_payload, state_manifest, timestamp, shard_number
        FROM states_store WHERE persistence_id = ${id(index)}`
    )
  }
})

const otherName = "bare driver"

export const figures: ReadonlyArray<Figure> = [
  {
    name: "state/write-1",
    operations: 6_000,
    quick: 300,
    otherName,
    unit: "writes/s",
    conditions: "1 fiber",
    sides: writes(1)
  },
  {
    name: "state/write-256",
    operations: 5_120,
    otherName,
    unit: "writes/s",
    conditions: "256 fibers",
    sides: writes(256)
  },
  { name: "state/read", operations: 6_000, quick: 300, otherName, unit: "reads/s", conditions: "1 fiber", sides: reads }
]
