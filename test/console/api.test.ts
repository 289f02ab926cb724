/** The API of the console, without a browser: what it says, and to whom. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, DateTime, Effect, Layer, Logger, type Scope, Stream } from "effect"
import { DurableStateStore, EventStore, OffsetStore, Origin, Projection, SpoolStore } from "effect-strata"
import type { Stores } from "effect-strata/postgres"
import { createHash } from "node:crypto"
import { request } from "node:http"
import * as History from "../../src/console/History.ts"
import { execute, freshRole } from "../postgres/harness.ts"
import { onServer, places, poolOf } from "./places.ts"
import { clientOf, type Place, serve, storesOf } from "./serving.ts"
import * as Shop from "./shop.ts"

/** A shop, and its console: one for all tests of a place. */
class Shown extends Context.Service<
  Shown,
  Place & {
    readonly stores: Context.Context<Stores>
    readonly url: string
    readonly client: Effect.Success<ReturnType<typeof clientOf>>
  }
>()("strata-test/console/Shown") {
  static readonly layer = (place: Effect.Effect<Place, never, Scope.Scope>) =>
    Layer.effect(
      Shown,
      Effect.gen(function* () {
        const where = yield* place
        const stores = yield* storesOf(where)
        yield* Effect.provide(Shop.open, stores)
        const url = yield* serve(where.pool, { postgres: where.options })
        return { ...where, stores, url, client: yield* clientOf(url) }
      })
    )
}

/** What a server answers, with headers that `fetch` does not send. */
const answerOf = (
  url: string,
  {
    body,
    headers = {},
    method = "GET"
  }: { readonly method?: string; readonly headers?: Record<string, string>; readonly body?: string } = {}
) =>
  Effect.callback<{
    readonly status: number
    readonly headers: Readonly<Record<string, unknown>>
    readonly text: string
  }>((resume) => {
    const sent = request(url, { method, headers }, (response) => {
      let text = ""
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk))
      response.on("end", () =>
        resume(Effect.succeed({ status: response.statusCode ?? 0, headers: response.headers, text }))
      )
    })
    sent.on("error", (error) => resume(Effect.die(error)))
    sent.end(body)
  })

const versionsOf = (events: ReadonlyArray<{ readonly version: bigint }>) => events.map(({ version }) => version)

for (const [name, place] of places) {
  layer(Shown.layer(place), { excludeTestServices: true })(`the console's API on ${name}`, (it) => {
    it.effect("shows the log, a page after the other, from the newest event on", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        const all = yield* Effect.provide(
          EventStore.EventStore.use(({ read }) => Stream.runCollect(read({ direction: "backward" }))),
          stores
        )
        const seen: Array<bigint> = []
        let before: bigint | null | undefined
        while (before !== null) {
          const query: { readonly limit: number; readonly before?: bigint } =
            before === undefined ? { limit: 50 } : { limit: 50, before }
          const page = yield* client.log.events({ query })
          assert.isAtMost(page.events.length, 50)
          seen.push(...versionsOf(page.events))
          before = page.before
        }
        assert.deepStrictEqual(seen, versionsOf(all))
      })
    )

    it.effect("finds events by aggregate, type, tag and content, and shows each number whole", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const find = (query: Parameters<typeof client.log.events>[0]["query"]) =>
          Effect.map(client.log.events({ query }), ({ events }) => events)
        assert.deepStrictEqual(
          (yield* find({ aggregate: "order-7" })).map(({ eventType }) => eventType),
          ["OrderShipped", "OrderPaid", "OrderPlaced"]
        )
        assert.lengthOf(yield* find({ type: "OrderPlaced", tag: "week:2" }), 10)
        assert.lengthOf(yield* find({ data: '{"parcel":"P-7007"}' }), 1)
        const [imported] = yield* find({ type: "Imported" })
        assert.include(imported?.data ?? "", `"atNanos": 9223372036854775807`.replace(" ", ""))
      })
    )

    it.effect("shows an event with what it comes from and what came of it", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const { events } = yield* client.log.events({ query: { aggregate: "order-7" } })
        const [shipped, paid, placed] = events
        const detail = yield* client.log.event({ query: { version: paid?.version ?? 0n } })
        assert.strictEqual(detail.causedBy?.version, placed?.version)
        assert.deepStrictEqual(versionsOf(detail.caused), versionsOf(shipped === undefined ? [] : [shipped]))
        assert.deepStrictEqual(detail.tags, ["customer:carla", "week:1"])
        assert.strictEqual(detail.previous, placed?.version)
        assert.strictEqual(detail.next, shipped?.version)
        assert.strictEqual(detail.correlationId, placed?.id)
        const byId = yield* client.log.event({ query: { id: paid?.id ?? "" } })
        assert.strictEqual(byId.event.version, paid?.version)
        const absent = yield* Effect.flip(client.log.event({ query: { version: 1_000_000n } }))
        assert.strictEqual(absent._tag, "NotThere")
      })
    )

    it.effect("tells the history of an aggregate, with the states that an entity makes of it", () =>
      Effect.gen(function* () {
        const { client, options, pool } = yield* Shown
        const url = yield* serve(pool, { postgres: options, entities: [Shop.Order] })
        const { log } = yield* clientOf(url)
        const { known, steps } = yield* log.aggregate({ query: { id: "order-7" } })
        assert.deepStrictEqual(known, [{ name: "order", failure: null }])
        assert.deepStrictEqual(
          steps.map(({ event: { eventType }, states }) => [eventType, states.map(({ json }) => json)]),
          [
            ["OrderShipped", ['{"customer":"carla","paid":2020,"parcel":"P-7007"}']],
            ["OrderPaid", ['{"customer":"carla","paid":2020,"parcel":""}']],
            ["OrderPlaced", ['{"customer":"carla","paid":0,"parcel":""}']]
          ]
        )
        // An entity has nothing to say of events that it does not know.
        const other = yield* log.aggregate({ query: { id: "import-1" } })
        assert.deepStrictEqual([other.given, other.known, other.steps.length], [["order"], [], 1])
        const none = yield* client.log.aggregate({ query: { id: "order-7" } })
        assert.deepStrictEqual([none.given, none.known, none.steps.length], [[], [], 3])
        const hidden = yield* answerOf(
          `${yield* serve(pool, { postgres: options, entities: [Shop.Order], payloads: "hidden" })}api/aggregate?id=order-7`
        )
        assert.notInclude(hidden.text, "carla")
        assert.strictEqual(hidden.status, 200)
      })
    )

    it.effect("says what the log consists of, as the command does", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        const stats = yield* client.log.stats({ query: { top: 2 } })
        const { read } = Context.get(stores, EventStore.EventStore)
        const all = yield* Stream.runCollect(read({}))
        assert.deepInclude(stats, { isEstimate: false, events: all.length })
        assert.lengthOf(stats.byType, 2)
        assert.deepInclude(stats.byType[0], {
          name: "OrderPaid",
          events: all.filter(({ eventType }) => eventType === "OrderPaid").length
        })
        assert.strictEqual(
          stats.spans.reduce((sum, { events }) => sum + events, 0),
          all.length
        )
      })
    )

    it.effect("exports the log as lines of JSON with their checksum", () =>
      Effect.gen(function* () {
        const { stores, url } = yield* Shown
        const { text } = yield* answerOf(`${url}api/export?after=1`)
        const lines = text.trimEnd().split("\n")
        const { read } = Context.get(stores, EventStore.EventStore)
        const all = yield* Stream.runCollect(read({ after: 1n }))
        assert.deepStrictEqual(
          lines.slice(0, -1).map((line) => JSON.parse(line).id),
          all.map(({ id }) => id)
        )
        assert.include(text, String(Shop.large))
        const events = `${lines.slice(0, -1).join("\n")}\n`
        assert.deepStrictEqual(JSON.parse(lines.at(-1) ?? ""), {
          events: all.length,
          sha256: createHash("sha256").update(events).digest("hex")
        })
      })
    )

    it.effect("leads from a message to the event that has caused it, and from an event to a message", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        yield* Effect.gen(function* () {
          const { append, get } = yield* EventStore.EventStore
          const [placed] = yield* append({ aggregateId: "order-900", eventType: "Promised", data: null })
          const mail = new Shop.Mail({ to: "x@example.org", subject: "x", order: "order-900" })
          yield* Shop.Mails.enqueue(mail, { id: "caused-mail" }).pipe(
            Origin.causedBy(placed ?? (yield* Effect.die("nothing was appended")))
          )
          yield* Shop.Mails.hold("caused-mail", "only to be looked at")
          const message = yield* client.spool.message({ query: { queue: "mails", id: "caused-mail" } })
          assert.strictEqual(message.causedBy?.version, placed?.version)
          const [sent] = yield* append({
            aggregateId: "order-900",
            eventType: "Kept",
            data: null,
            metadata: { causationId: "caused-mail" }
          })
          const event = yield* client.log.event({ query: { version: sent?.version ?? 0n } })
          assert.deepStrictEqual(event.causedByMessage, { queue: "mails", id: "caused-mail" })
          assert.isNull(event.causedBy)
          yield* SpoolStore.SpoolStore.use(({ deleteMeta }) => deleteMeta({ queue: "mails", id: "caused-mail" }))
          const later = yield* client.log.event({ query: { id: (yield* get(sent?.id ?? "")).id } })
          assert.deepStrictEqual([later.causationId, later.causedByMessage], ["caused-mail", null])
        }).pipe(Effect.provide(stores))
      })
    )

    it.effect("lists the offsets of projections and of other programs", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        const { deleteOffsets, writeOffset } = Context.get(stores, OffsetStore.OffsetStore)
        yield* writeOffset({ projectionName: "of a Go service", shardNumber: 3, value: Shop.large })
        const all = yield* client.projections.offsets({ query: {} })
        assert.lengthOf(
          all.filter(({ projectionName }) => projectionName === "balances"),
          4
        )
        const [one] = yield* client.projections.offsets({ query: { projection: "of a Go service" } })
        assert.deepInclude(one, { projectionName: "of a Go service", shardNumber: 3, value: Shop.large })
        assert.isNotNull(one?.writtenAt)
        yield* deleteOffsets("of a Go service")
      })
    )

    it.effect("shows projections with their failures, and messages with their errors", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const all = yield* client.projections.projections()
        assert.deepStrictEqual(
          all.map(({ name, parked, shards, state }) => ({ name, parked, shards, state })),
          [
            { name: "balances", parked: 0, shards: 4, state: "running" },
            { name: "invoices", parked: 0, shards: 1, state: "failed" },
            { name: "mailing", parked: 12, shards: 1, state: "running" }
          ]
        )
        const mailing = yield* client.projections.projection({ query: { name: "mailing" } })
        assert.lengthOf(mailing.parked, 12)
        assert.match(mailing.parked[0]?.error ?? "", /no account for dora/)
        assert.isTrue(mailing.processes.some(({ isSilent, shards }) => !isSilent && shards.includes(0)))
        const absent = yield* Effect.flip(client.projections.projection({ query: { name: "nothing" } }))
        assert.strictEqual(absent._tag, "NotThere")

        const queues = yield* client.spool.queues()
        assert.deepStrictEqual(
          queues.map(({ bounce, deferred, hold, incoming, queue }) => ({ queue, incoming, deferred, hold, bounce })),
          [
            { queue: "mails", incoming: 0, deferred: 1, hold: 1, bounce: 2 },
            { queue: "webhooks", incoming: 24, deferred: 0, hold: 0, bounce: 0 }
          ]
        )
        const { messages } = yield* client.spool.messages({ query: { state: "bounce" } })
        assert.deepStrictEqual(messages.map(({ id }) => id).sort(), ["mail-3", "mail-7"])
        const message = yield* client.spool.message({ query: { queue: "mails", id: "mail-3" } })
        assert.match(message.message.lastError ?? "", /mailbox unavailable/)
        assert.include(message.payload ?? "", "customer-3@example.org")
      })
    )

    it.effect("says as it goes on what is new, and what is wrong", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        const moments = yield* client.overview.live()
        const first = yield* Stream.runHead(moments)
        const log = first.pipe(
          Effect.fromOption,
          Effect.map(({ log }) => log)
        )
        const before = (yield* log)?.latestVersion ?? 0n
        assert.deepStrictEqual(
          (yield* Effect.fromOption(first)).problems.map(({ problem }) => problem),
          ["ProjectionFailing", "AggregatesParked", "MessagesBounced"]
        )
        yield* Effect.provide(Shop.orders(101, 102), stores)
        const later = yield* client.overview.live()
        const moved = yield* later.pipe(
          Stream.filter(({ log }) => log !== null && log.latestVersion >= before + 5n),
          Stream.runHead
        )
        assert.isTrue(moved._tag === "Some")
      })
    )

    it.effect("keeps what it has seen also where nobody looks, and says since when", () =>
      Effect.gen(function* () {
        const { options, pool, stores } = yield* Shown
        const before = Date.now()
        const { overview } = yield* clientOf(yield* serve(pool, { postgres: options }))
        const seen = yield* Effect.repeat(overview.history(), { until: ({ samples }) => samples.length > 0 })
        assert.isAtLeast(seen.since.epochMilliseconds, before)
        const [sample] = seen.samples
        assert.deepStrictEqual(Object.keys(sample?.lags ?? {}), ["balances", "invoices", "mailing"])
        assert.strictEqual(sample?.waiting, 25)
        const { latestVersion } = Context.get(stores, EventStore.EventStore)
        assert.strictEqual(sample?.latestVersion, yield* latestVersion)
      })
    )

    it.effect("hides what the application has stored where it was told to", () =>
      Effect.gen(function* () {
        const { options, pool } = yield* Shown
        const url = yield* serve(pool, { payloads: "hidden", postgres: options })
        const client = yield* clientOf(url)
        const read = (path: string) => Effect.map(answerOf(`${url}${path}`), ({ text }) => text)
        const texts = yield* Effect.all([
          read("api/events?limit=500"),
          read("api/event?version=1"),
          read("api/projection?name=mailing"),
          read("api/projection?name=invoices"),
          read("api/messages?state=bounce"),
          read("api/message?queue=mails&id=mail-3"),
          read("api/doctor"),
          read("api/doctor/live"),
          read("api/stats")
        ])
        const all = texts.join("\n")
        for (const secret of [
          "A-1047",
          "P-7007",
          "no account for",
          "mailbox",
          "customer-3@",
          'onerror=\\"document.title=\'taken\'\\"\\"}'
        ]) {
          assert.notInclude(all, secret)
        }
        const moment = yield* Stream.runHead(yield* client.overview.live())
        assert.notInclude(
          JSON.stringify(moment, (_, value) => (typeof value === "bigint" ? String(value) : value)),
          "no account for"
        )
        const guess = yield* Effect.flip(client.log.events({ query: { data: '{"customer":"anna"}' } }))
        assert.strictEqual(guess._tag, "BadRequest")
        for (const path of [
          "api/export",
          "api/states?text=anna",
          "api/doctor?queries=shown",
          "api/doctor/live?queries=shown"
        ]) {
          assert.strictEqual((yield* answerOf(`${url}${path}`)).status, 400, path)
        }
        const writer = yield* clientOf(yield* serve(pool, { payloads: "hidden", allowWrites: true, postgres: options }))
        const guessed = yield* Effect.flip(
          writer.actions.requeue({ payload: { state: "bounce", error: "no error has this text" } })
        )
        assert.match(guessed.message, /hides errors/)
      })
    )

    it.effect("shows states with their values, in the order of their ids", () =>
      Effect.gen(function* () {
        const { client, stores } = yield* Shown
        const { writeState } = Context.get(stores, DurableStateStore.DurableStateStore)
        const write = (persistenceId: string, payload: string) =>
          writeState({
            persistenceId,
            versionNumber: 1n,
            manifest: "json",
            payload: new TextEncoder().encode(payload)
          })
        yield* write("account-1", `{"balance":${Shop.large}}`)
        yield* write("account-2", "\u0000no JSON")
        yield* write("account-3", "{}")
        const page = yield* client.states.states({ query: { from: "account-1", limit: 2 } })
        assert.deepStrictEqual(
          page.states.map(({ persistenceId }) => persistenceId),
          ["account-1", "account-2"]
        )
        assert.strictEqual(page.next, "account-3")
        const one = yield* client.states.state({ query: { id: "account-1" } })
        assert.strictEqual(one.json, `{"balance":${Shop.large}}`)
        const other = yield* client.states.state({ query: { id: "account-2" } })
        assert.deepStrictEqual([other.json, other.base64], [null, Buffer.from("\u0000no JSON").toString("base64")])
        const all = yield* client.states.states({ query: { limit: 500 } })
        assert.isFalse(all.states.some(({ persistenceId }) => persistenceId.startsWith("strata/projection/")))
      })
    )

    it.effect("checks what the doctor checks", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const findings = yield* client.doctor.doctor({ query: {} })
        assert.includeMembers(
          findings.map(({ check }) => check),
          ["server", "durability", "sequence", "projections", "queues"]
        )
        assert.isTrue(findings.every(({ level, remedy }) => (level === "ok") === (remedy === null)))
        const of = (found: typeof findings, check: string) =>
          found.filter((one) => one.check === check).map(({ level, says }) => `${level}: ${says}`)
        assert.include(of(findings, "queues").join(), "could not be delivered")
        assert.include(of(findings, "projections").join(), "no account for emil")
        const lenient = yield* client.doctor.doctor({ query: { maxBounced: 100, maxWaitingSeconds: 1e6 } })
        assert.match(of(lenient, "queues").join(), /^ok: \d queues with messages, within the limits$/)
        const strict = yield* client.doctor.doctor({ query: { maxSkipped: 0, maxLag: 0, queries: "shown" } })
        assert.match(of(strict, "projections").join(), /"invoices" is .* behind/)
      })
    )

    it.effect("tells what each check has found as soon as it is known", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const found = yield* Stream.runCollect(yield* client.doctor.checks({ query: {} }))
        const inOrder = found
          .toSorted((a, b) => a.place - b.place)
          .flatMap(({ findings }) => findings.map(({ check }) => check))
        const all = (yield* client.doctor.doctor({ query: {} })).map(({ check }) => check)
        assert.deepStrictEqual([...new Set(inOrder)], [...new Set(all)])
        assert.isAbove(found.length, 15)
        const { url } = yield* Shown
        const { headers, text } = yield* answerOf(`${url}api/doctor/live`)
        assert.match(String(headers["content-type"]), /text\/event-stream/)
        assert.include(text, "no account for emil")
      })
    )

    it.effect("says which processes run projections, and what each runs", () =>
      Effect.gen(function* () {
        const { client } = yield* Shown
        const all = yield* client.projections.processes()
        const own = all.find(({ pid }) => pid === process.pid)
        assert.deepInclude(own, { isSilent: false })
        assert.deepStrictEqual(
          own?.runs.filter(({ projection }) => projection === "balances"),
          [{ projection: "balances", shards: [0, 1, 2, 3] }]
        )
      })
    )

    it.effect("proves that the server keeps every event, and tells how far it is", () =>
      Effect.gen(function* () {
        const { options, pool } = yield* Shown
        const { actions, doctor } = yield* clientOf(yield* serve(pool, { postgres: options, allowWrites: true }))
        assert.strictEqual((yield* doctor.proof()).state, "none")
        yield* actions.prove({ payload: { seconds: 2 } })
        const second = yield* Effect.flip(actions.prove({ payload: { seconds: 2 } }))
        assert.match(second.message, /running already/)
        const look = Effect.delay(doctor.proof(), "20 millis")
        const until = (isReached: (proof: Effect.Success<typeof look>) => boolean) =>
          Effect.repeat(look, { until: isReached })
        const running = yield* until(({ delivered, state }) => delivered > 0 || state !== "running")
        assert.strictEqual(running.state, "running")
        const { failure, finding } = yield* until(({ state }) => state !== "running")
        assert.isNull(failure)
        assert.strictEqual(finding?.level, "ok")
        assert.match(finding?.says ?? "", /: 0 lost, 0 twice or out of order/)
      })
    )

    it.effect("changes messages and projections where it may, and logs who has done it", () =>
      Effect.gen(function* () {
        const { options, pool } = yield* Shown
        const said: Array<string> = []
        const logger = Logger.make(({ message }) => void said.push(String(message)))
        const url = yield* serve(pool, {
          postgres: options,
          allowWrites: true,
          who: () => Effect.succeed("anna")
        }).pipe(Effect.provide(Logger.layer([logger])))
        const { actions, projections, spool } = yield* clientOf(url)
        const message = { queue: "mails", id: "mail-7" }
        const stateNow = Effect.map(spool.message({ query: message }), ({ message }) => message.state)
        for (const [action, state] of [
          ["hold", "hold"],
          ["release", "incoming"],
          ["bounce", "bounce"],
          ["requeue", "incoming"],
          ["hold", "hold"]
        ] as const) {
          yield* actions.changeMessage({ payload: { ...message, action } })
          assert.strictEqual(yield* stateNow, state)
        }
        assert.strictEqual(
          (yield* actions.requeue({ payload: { queue: "mails", state: "hold", createdAfter: yield* DateTime.now } }))
            .message,
          "0 messages are incoming"
        )
        assert.strictEqual(
          (yield* actions.requeue({ payload: { queue: "mails", state: "hold", error: "MAILBOX" } })).message,
          "1 message is incoming"
        )
        const json = '{"to":"anna@example.org","order":9223372036854775807}'
        const edited = (updated: DateTime.Utc, text = json) =>
          actions.editPayload({ payload: { ...message, json: text, updated } })
        const updatedNow = Effect.map(spool.message({ query: message }), ({ message }) => message.updated)
        // A worker may have it, or have it next.
        assert.strictEqual((yield* Effect.flip(Effect.flatMap(updatedNow, edited)))._tag, "BadRequest")
        const before = yield* updatedNow
        yield* actions.changeMessage({ payload: { ...message, action: "hold" } })
        assert.strictEqual((yield* Effect.flip(edited(before)))._tag, "BadRequest")
        assert.strictEqual((yield* Effect.flip(edited(yield* updatedNow, "{")))._tag, "BadRequest")
        yield* edited(yield* updatedNow)
        const { message: now, payload } = yield* spool.message({ query: message })
        assert.deepStrictEqual(
          [JSON.parse(payload ?? "").to, payload?.includes("9223372036854775807"), now.state, now.attempts],
          ["anna@example.org", true, "incoming", 0]
        )
        yield* actions.changeMessage({ payload: { ...message, action: "delete" } })
        assert.strictEqual((yield* Effect.flip(stateNow))._tag, "NotThere")

        const pausedNow = Effect.map(projections.projection({ query: { name: "balances" } }), ({ paused }) => paused)
        yield* actions.changeProjection({ payload: { name: "balances", action: "pause" } })
        assert.isTrue(yield* pausedNow)
        yield* actions.changeProjection({ payload: { name: "balances", action: "resume" } })
        assert.isFalse(yield* pausedNow)
        yield* actions.changeProjection({ payload: { name: "balances", action: "reset", to: 3n } })
        const retried = yield* actions.changeProjection({
          payload: { name: "mailing", action: "retry", aggregates: ["order-3"] }
        })
        assert.match(retried.message, /^Of 1 parked aggregates of "mailing"/)
        const conflict = yield* Effect.flip(
          actions.changeMessage({ payload: { queue: "mails", id: "mail-3", action: "release" } })
        )
        assert.strictEqual(conflict._tag, "BadRequest")
        // Its caller has called this API, and none of the operations that it is made of.
        for (const change of [
          actions.changeMessage({ payload: { queue: "mails", id: "", action: "hold" } }),
          actions.changeProjection({ payload: { name: "", action: "pause" } }),
          actions.requeue({ payload: { queue: "a".repeat(256), state: "hold" } })
        ]) {
          const refused = yield* Effect.flip(change)
          assert.strictEqual(refused._tag, "BadRequest")
          assert.match(refused.message, /^(id|name|queue): /)
        }
        assert.include(said, 'console: anna: The message "mail-7" of queue "mails" is deleted')
        assert.include(said, 'console: anna: "balances" is paused')
        assert.include(
          said,
          'console: anna: The message "mail-7" of queue "mails" has another payload, and is incoming'
        )
        const accepted = yield* actions.changeProjection({ payload: { name: "invoices", action: "accept" } })
        assert.match(accepted.message, /there was nothing to accept/)
      })
    )
  })
}

describe("who may call the console", () => {
  const empty = Effect.gen(function* () {
    const where = yield* onServer
    yield* storesOf(where)
    return where
  })

  it.live("is its own page and programs, and no page of another site", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* empty
        const url = yield* serve(pool, { postgres: options })
        const about = `${url}api/about`
        const statusOf = (headers: Record<string, string>, method = "GET") =>
          Effect.map(answerOf(about, { headers, method }), ({ status }) => status)
        assert.strictEqual(yield* statusOf({}), 200)
        assert.strictEqual(yield* statusOf({ "sec-fetch-site": "same-origin" }), 200)
        assert.strictEqual(yield* statusOf({ "sec-fetch-site": "cross-site" }), 403)
        assert.strictEqual(yield* statusOf({ "sec-fetch-site": "same-site", "sec-fetch-mode": "cors" }), 403)
        // A link from elsewhere to the page is no request of that site.
        const page = yield* answerOf(url, {
          headers: { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" }
        })
        assert.notStrictEqual(page.status, 403)
        assert.match(
          String(page.headers["content-security-policy"]),
          /default-src 'none'; script-src 'self'; style-src 'self'/
        )
        assert.strictEqual(page.headers["set-cookie"], undefined)
      })
    )
  )

  it.live("changes nothing for a form, a page of elsewhere, or where the console only reads", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* empty
        const path = "api/actions/projection"
        const body = JSON.stringify({ name: "nothing", action: "pause" })
        const json = { "content-type": "application/json" }
        const url = yield* serve(pool, { postgres: options, allowWrites: true })
        const statusOf = (headers: Record<string, string>) =>
          Effect.map(answerOf(`${url}${path}`, { method: "POST", headers, body }), ({ status }) => status)
        // It gets as far as the projection, which is not there.
        assert.strictEqual(yield* statusOf(json), 404)
        assert.strictEqual(yield* statusOf({ ...json, origin: url.replace(/\/$/, "") }), 404)
        assert.strictEqual(yield* statusOf({ ...json, origin: "https://evil.example.org" }), 403)
        assert.strictEqual(yield* statusOf({ ...json, origin: "null" }), 403)
        assert.strictEqual(yield* statusOf({ ...json, "sec-fetch-site": "same-site" }), 403)
        assert.strictEqual(yield* statusOf({ "content-type": "text/plain" }), 403)
        assert.strictEqual(yield* statusOf({}), 403)
        const reading = yield* clientOf(yield* serve(pool, { postgres: options }))
        const refused = yield* Effect.flip(
          reading.actions.changeProjection({ payload: { name: "nothing", action: "pause" } })
        )
        assert.match(refused.message, /--allow-writes/)
      })
    )
  )

  it.live("calls it by a host that was given", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* empty
        const url = yield* serve(pool, { postgres: options, hosts: ["console.example.org"] })
        const statusOf = (host: string) =>
          Effect.map(answerOf(`${url}api/about`, { headers: { host } }), ({ status }) => status)
        assert.strictEqual(yield* statusOf("console.example.org"), 200)
        assert.strictEqual(yield* statusOf("evil.example.org"), 403)
      })
    )
  )

  it.live("works under a path of the application's router, to which a slash is added", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options, pool } = yield* empty
        const url = yield* serve(pool, {
          postgres: options,
          path: "/admin/strata",
          who: () => Effect.succeed("anna")
        })
        const about = yield* answerOf(`${url}api/about`)
        assert.strictEqual(about.status, 200, about.text)
        assert.include(about.text, `"who":"anna"`)
        const bare = yield* answerOf(url.replace(/\/$/, ""))
        assert.strictEqual(bare.status, 302)
        assert.strictEqual(bare.headers["location"], "strata/")
        assert.strictEqual((yield* answerOf(`${url}openapi.json`)).status, 200)
      })
    )
  )

  it.live("is told what the role of the database may not see", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { options } = yield* empty
        const { role, url: database } = yield* freshRole()
        yield* execute([`GRANT USAGE ON SCHEMA ${options.schema} TO ${role}`])
        const client = yield* clientOf(yield* serve(poolOf(database), { postgres: options }))
        assert.strictEqual((yield* client.overview.about()).role, role)
        const denied = yield* Effect.flip(client.log.events({ query: {} }))
        assert.strictEqual(denied._tag, "NotAllowed")
        const moment = yield* Effect.flatMap(Stream.runHead(yield* client.overview.live()), Effect.fromOption)
        assert.isNotNull(moment.failure)
        const writer = yield* clientOf(yield* serve(poolOf(database), { postgres: options, allowWrites: true }))
        const { missing } = yield* writer.overview.about()
        const grants = (privileges: string, table: string) =>
          privileges.split(" ").map((privilege) => `GRANT ${privilege} ON ${options.schema}.${table} TO "${role}"`)
        assert.sameMembers([...missing.messages], grants("SELECT UPDATE DELETE", "strata_messages"))
        assert.sameMembers(
          [...missing.projections],
          ["offsets_store", "states_store"].flatMap((table) => grants("SELECT INSERT UPDATE DELETE", table))
        )
        assert.lengthOf(missing.proof, 1)
        yield* execute(missing.messages)
        assert.deepStrictEqual((yield* writer.overview.about()).missing.messages, [])
        yield* execute([`REVOKE ALL ON ${options.schema}.strata_messages FROM ${role}`])
        const change = yield* Effect.flip(
          writer.actions.changeMessage({ payload: { queue: "q", id: "m", action: "hold" } })
        )
        assert.strictEqual(change._tag, "NotAllowed")
      })
    )
  )
})

describe("a projection whose log was replaced", () => {
  const ledger = Projection.make({ name: "ledger", handler: () => Effect.void })

  it.live("takes the log that is there once that is accepted, and is forgotten once it is removed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const where = yield* onServer
        const stores = yield* storesOf(where)
        const append = (count: number) =>
          EventStore.EventStore.use(({ append }) =>
            append(Array.from({ length: count }, () => ({ aggregateId: "a", eventType: "Noted", data: null })))
          )
        yield* Effect.provide(Effect.andThen(append(9), Shop.ranOnce(ledger)), stores)
        yield* execute([
          `TRUNCATE ${where.options.schema}.events, ${where.options.schema}.events_tags RESTART IDENTITY`
        ])
        yield* Effect.provide(append(4), stores)
        const { actions, projections } = yield* clientOf(
          yield* serve(where.pool, { postgres: where.options, allowWrites: true })
        )
        const change = (action: "accept" | "remove") =>
          Effect.map(actions.changeProjection({ payload: { name: "ledger", action } }), ({ message }) => message)
        assert.strictEqual(yield* change("accept"), '"ledger" goes on after version 4')
        assert.strictEqual(yield* change("accept"), '"ledger" has read this log: there was nothing to accept')
        const offsets = projections.offsets({ query: { projection: "ledger" } })
        assert.deepStrictEqual(
          (yield* offsets).map(({ value }) => value),
          [4n]
        )
        assert.strictEqual(yield* change("remove"), '"ledger" is removed')
        assert.deepStrictEqual(yield* offsets, [])
        assert.strictEqual((yield* Effect.flip(change("remove")))._tag, "NotThere")
        assert.strictEqual((yield* Effect.flip(change("accept")))._tag, "NotThere")
      })
    )
  )
})

describe("the last hour", () => {
  const sample = (millis: number) => ({
    at: DateTime.makeUnsafe(millis),
    latestVersion: BigInt(millis),
    waiting: 0,
    lags: {}
  })
  const timesOf = (times: ReadonlyArray<number>) =>
    times
      .reduce<ReturnType<typeof History.withSample>>(
        (samples, millis) => History.withSample(samples, sample(millis)),
        []
      )
      .map(({ at }) => at.epochMilliseconds)

  it("has the newest moment, and one of each five seconds before", () => {
    assert.deepStrictEqual(timesOf([0, 1000, 2000, 4000, 5000, 6000, 9000, 10_000, 11_000]), [0, 5000, 10_000, 11_000])
  })

  it("ends after an hour", () => {
    const times = Array.from({ length: 4000 }, (_, second) => second * 1000)
    const kept = timesOf(times)
    assert.isAtMost(kept.length, 722)
    assert.isAtLeast(kept[0] ?? 0, 399_000)
    assert.strictEqual(kept.at(-1), 3_999_000)
  })
})

describe("a long log", () => {
  it.live("is looked through a part at a time where no index serves the filter", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const where = yield* onServer
        yield* storesOf(where)
        yield* execute([
          `INSERT INTO ${where.options.schema}.events (id, aggregate_id, event_type, data, metadata)
           SELECT 'e' || n, 'a' || n % 100, CASE n WHEN 7 THEN 'Rare' ELSE 'Often' END,
             CASE n WHEN 7 THEN '{"rare":true}'::jsonb ELSE 'null' END, 'null' FROM generate_series(1, 60000) AS n`
        ])
        const client = yield* clientOf(yield* serve(where.pool, { postgres: where.options }))
        const byType = yield* client.log.events({ query: { type: "Rare" } })
        assert.deepStrictEqual([versionsOf(byType.events), byType.before], [[7n], null])
        const data = '{"rare":true}'
        const first = yield* client.log.events({ query: { data } })
        assert.deepStrictEqual(first.events, [])
        assert.strictEqual(first.lookedDownTo, 40_001n)
        const second = yield* client.log.events({ query: { data, before: first.before ?? 0n } })
        const third = yield* client.log.events({ query: { data, before: second.before ?? 0n } })
        assert.deepStrictEqual(versionsOf(third.events), [7n])
        assert.isNull(third.before)
      })
    )
  )
})

describe("the specification", () => {
  it.live("names each path", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const where = yield* onServer
        const url = yield* serve(where.pool, { postgres: where.options })
        const { text } = yield* answerOf(`${url}openapi.json`)
        const { paths }: { readonly paths: Readonly<Record<string, unknown>> } = JSON.parse(text)
        assert.includeMembers(Object.keys(paths), [
          "/api/about",
          "/api/live",
          "/api/events",
          "/api/event",
          "/api/messages"
        ])
      })
    )
  )
})
