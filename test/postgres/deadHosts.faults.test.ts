/** With several hosts in a URL, a silent connection is asked about at the server that it leads to, and at no other one. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { type Backend, waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { standbyOf } from "../support/Replicas.ts"
import { session } from "./events.harness.ts"
import { query, shard, storeError, unique } from "./harness.ts"
import { configured, urlTo } from "./hosts.harness.ts"

it.live("the server of the connection is asked, though another host is the first that fits by now", () =>
  Effect.gen(function* () {
    const primary = yield* PostgresServer.make()
    const standby = yield* standbyOf(primary)
    const first = yield* Proxy.make({ host: "127.0.0.1", port: standby.port })
    const second = yield* Proxy.make({ host: "127.0.0.1", port: primary.port })
    yield* first.refuse(true)
    const name = yield* unique
    const hosts = [first, second].map(({ host, port }) => `${host}:${port}`)
    const stores = yield* configured({ DATABASE_URL: urlTo(primary.url, hosts, { application_name: name }) })
    // It only reads, so that one connection is enough, which nothing else uses.
    const { read } = shard(stores, name)
    yield* read
    yield* first.refuse(false)

    // The standby knows of no such backend, and would call the connection dead.
    const say = yield* session(primary.url)
    yield* say("BEGIN")
    yield* say("LOCK TABLE offsets_store IN ACCESS EXCLUSIVE MODE")
    const fiber = yield* Effect.forkChild(read)
    yield* query(
      `SELECT max(clock_timestamp() - query_start) > '8 seconds' FROM pg_stat_activity
       WHERE application_name = '${name}' AND wait_event_type = 'Lock'`,
      primary.url
    ).pipe(Effect.repeat({ schedule: Schedule.spaced("100 millis"), until: ([row]) => row?.[0] === true }))
    yield* say("COMMIT")
    yield* Fiber.join(fiber)

    yield* second.blackhole
    const { message } = yield* storeError(read)
    const [, ended] = /silently dead: its backend (\d+) \(now ended\)/.exec(message) ?? []
    assert.isDefined(ended, message)
    const hasEnded = (all: ReadonlyArray<Backend>) => !all.some(({ pid }) => pid === Number(ended))
    assert.isTrue(hasEnded(yield* waitForBackends(name, hasEnded, primary.url)))
  })
)
