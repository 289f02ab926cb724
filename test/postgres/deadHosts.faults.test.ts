/** With several hosts in a URL, a silent connection is asked about at the server that it leads to, and at no other one. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { type Backend, waitForBackends } from "../support/database.ts"
import * as PostgresServer from "../support/PostgresServer.ts"
import * as Proxy from "../support/Proxy.ts"
import { standbyOf } from "../support/Replicas.ts"
import { event, session } from "./events.harness.ts"
import { query, storeError, unique } from "./harness.ts"
import { configured, urlTo } from "./hosts.harness.ts"

it.live("the server of the connection is asked, though another host is the first one by now", () =>
  Effect.gen(function* () {
    const primary = yield* PostgresServer.make()
    const standby = yield* standbyOf(primary)
    const first = yield* Proxy.make({ host: "127.0.0.1", port: standby.port })
    const second = yield* Proxy.make({ host: "127.0.0.1", port: primary.port })
    yield* first.refuse(true)
    const name = yield* unique
    const hosts = [first, second].map(({ host, port }) => `${host}:${port}`)
    const { events } = yield* configured({ DATABASE_URL: urlTo(primary.url, hosts, { application_name: name }) })
    yield* events.append(event("a"))
    yield* first.refuse(false)

    const say = yield* session(primary.url)
    yield* say("BEGIN")
    yield* say("LOCK TABLE events IN EXCLUSIVE MODE")
    const fiber = yield* Effect.forkChild(events.append(event("a")))
    yield* query(
      `SELECT max(clock_timestamp() - query_start) > '8 seconds' FROM pg_stat_activity
       WHERE application_name = '${name}' AND wait_event_type = 'Lock'`,
      primary.url
    ).pipe(Effect.repeat({ schedule: Schedule.spaced("100 millis"), until: ([row]) => row?.[0] === true }))
    yield* say("COMMIT")
    yield* Fiber.join(fiber)

    yield* second.blackhole
    const { message } = yield* storeError(events.append(event("a")))
    const [, ended] = /silently dead: its backend (\d+) \(now ended\)/.exec(message) ?? []
    assert.isDefined(ended, message)
    const hasEnded = (all: ReadonlyArray<Backend>) => !all.some(({ pid }) => pid === Number(ended))
    assert.isTrue(hasEnded(yield* waitForBackends(name, hasEnded, primary.url)))
  })
)
