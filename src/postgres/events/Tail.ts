/**
 * The end of the log, read once for all subscribers of a layer: in order, and never past a version that may still come.
 *
 * **Details**
 *
 * It keeps the latest events for those who have read everything before them. Whoever is slower than that finds that it is
 * no longer `covered`, and reads the log itself: so a slow subscriber neither holds up the others nor makes anybody keep
 * more than the buffer. How holes are decided is told in `LockHolders`.
 */
import { Deferred, Duration, Effect, Fiber, Metric, Option, Predicate, RcRef } from "effect"
import type { Scope } from "effect"
import type { StoredEvent } from "../../EventStore.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { closed } from "../../internal/Operation.ts"
import { type Reason, Unavailable, Unexpected } from "../../StoreError.ts"
import { PostgresDatabase } from "../database/PostgresDatabase.ts"
import { type Ear, Wakeups } from "../wakeups/Wakeups.ts"
import { columns, eventDecoder } from "./EventRow.ts"
import * as LockHolders from "./LockHolders.ts"

/** How many events are read at a time: less if they are large, so that a page takes some megabytes at most. */
const smallestPage = 16
const largestPage = 512
const largePage = 4 * 1024 * 1024

/** What is kept for those who are a little behind. */
const keptEvents = 4096
const keptSize = 8 * 1024 * 1024

/** The waits between two looks at a hole, in milliseconds. */
const shortestWait = 1
const longestWait = 25

/**
 * Between two readings, in milliseconds: what comes in quick succession is read together. Where subscribers are so many that
 * a page keeps the process busy for longer, it is as long again: half of the time is for others.
 */
const pace = 4

/**
 * How long to wait for a wake-up before looking without one, in milliseconds. Only writers that wake nobody are found that
 * way (plain SQL, other programs); while they write, it looks more often.
 */
const shortestPoll = 20
const longestPoll = 1000

const heldSeconds = Metric.gauge("strata_events_held_seconds", {
  description: "For how long an open transaction has been holding up subscribers"
})

/** A row that somebody else wrote, and that is no event: those who may be meant read it themselves, and fail if they are. */
export interface CorruptEvent {
  readonly version: bigint
  readonly aggregateId: string
  readonly eventType: string
  readonly corrupt: true
}

export type Item = StoredEvent | CorruptEvent

interface Page {
  /** It holds every event above this version. */
  readonly after: bigint
  /** And up to this one. */
  readonly upTo: bigint
  readonly items: ReadonlyArray<Item>
  readonly size: number
}

/** A hole is waited for: it is decided when none of the holders holds the table's lock any more. */
interface Hole {
  /** The highest version that was visible before the holders were read. */
  readonly highest: bigint
  holders: ReadonlySet<string>
  wait: number
  readonly since: number
  reported: boolean
}

/** What the subscribers see of it. */
export interface Tail {
  /** Begins to read after this version, which is not beyond the end of the log, unless it has begun already. */
  readonly begin: (version: bigint) => void
  readonly isBegun: () => boolean
  /** Whether it still has every event after this version. */
  readonly covers: (version: bigint) => boolean
  /**
   * Waits until the log is certain beyond this version, and gives how far, and every event up to there, of which the first
   * may not be beyond that version. Gives nothing when it does not cover the version any more.
   */
  readonly next: (
    version: bigint
  ) => Effect.Effect<{ readonly items: ReadonlyArray<Item>; readonly upTo: bigint }, Reason>
  /**
   * Fails with `again` when the connection has been lost and there is a new one: other connections are likely to be dead as
   * well, and may not know it.
   */
  readonly lost: Effect.Effect<never, Reason>
  /** Ends it for all who have it. */
  readonly end: (reason: Reason) => void
}

/** Nothing that has to be waited out: there is a connection again. */
export const again = new Unavailable({ message: "the connection was lost; reading again from where it was" })

/** About how much memory they take. */
const sizeOf = (rows: ReadonlyArray<unknown>): number =>
  rows.reduce<number>((sum, row) => sum + 200 + textOf(row, "data").length, 0)

const versionOf = (row: unknown): bigint =>
  Predicate.hasProperty(row, "version") && typeof row.version === "bigint" ? row.version : 0n

const textOf = (row: unknown, column: string): string =>
  Predicate.hasProperty(row, column) && typeof row[column] === "string" ? row[column] : ""

export const make = Effect.gen(function* () {
  const { names, settleTimeout, sql, tables } = yield* PostgresDatabase
  const { listen } = yield* Wakeups
  const { look, report } = yield* LockHolders.make
  const decode = eventDecoder(names.events)
  const selected = sql.literal(columns)

  /** Events, and in their place the rows that are none. */
  const itemsOf = (rows: ReadonlyArray<unknown>): ReadonlyArray<Item> => {
    const { corrupt, events } = decode(rows)
    if (corrupt === undefined) return events
    const row = rows[events.length]
    const item = {
      version: versionOf(row),
      aggregateId: textOf(row, "aggregateId"),
      eventType: textOf(row, "eventType"),
      corrupt: true as const
    }
    return [...events, item, ...itemsOf(rows.slice(events.length + 1))]
  }

  const start = (): Tail & { readonly run: Effect.Effect<never, Reason, Scope.Scope> } => {
    const pages: Array<Page> = []
    const kept = { events: 0, size: 0 }
    let head = 0n
    let failure: Reason | undefined
    let grown = Deferred.makeUnsafe<void>()
    let lost = Deferred.makeUnsafe<never, Reason>()
    const begun = Deferred.makeUnsafe<void>()

    const tellAll = () => {
      const waiting = grown
      grown = Deferred.makeUnsafe()
      Deferred.doneUnsafe(waiting, Effect.void)
    }

    /** Everything up to this version is final, and in these rows. */
    const publish = (rows: ReadonlyArray<unknown>, upTo: bigint) => {
      const page = { after: head, upTo, items: itemsOf(rows), size: sizeOf(rows) }
      head = upTo
      pages.push(page)
      kept.events += page.items.length
      kept.size += page.size
      for (let [first] = pages; first !== undefined && pages.length > 1; [first] = pages) {
        if (kept.events <= keptEvents && kept.size <= keptSize) break
        pages.shift()
        kept.events -= first.items.length
        kept.size -= first.size
      }
      tellAll()
    }

    const read = Effect.fnUntraced(function* ({ query, wait }: Ear): Effect.fn.Return<never, Reason> {
      // Whatever was known of holders is worth nothing on another connection: the server may be another one, too.
      let hole: Hole | undefined
      let limit = smallestPage
      let poll = longestPoll
      let woken = true
      while (true) {
        const readAt = yield* monotonicMillis
        if (hole !== undefined && hole.holders.size > 0) {
          hole.holders = LockHolders.remaining(hole.holders, (yield* look(query)).holders)
        }
        // After the look, never before it: what those who are gone have written is seen from now on.
        const rows = yield* query(
          sql`SELECT ${selected} FROM ${tables.events} WHERE version > ${head} ORDER BY version LIMIT ${limit}`
        )
        const last = versionOf(rows.at(-1))
        const isFull = rows.length === limit
        let certain = head
        if (hole !== undefined && hole.holders.size === 0) certain = isFull && last < hole.highest ? last : hole.highest
        let count = 0
        for (const row of rows) {
          const version = versionOf(row)
          if (version > certain + 1n) break
          if (version > certain) certain = version
          count++
        }
        if (hole !== undefined && certain >= hole.highest) {
          hole = undefined
          yield* Metric.update(heldSeconds, 0)
        }
        let busy = 0
        if (certain > head) {
          publish(count === rows.length ? rows : rows.slice(0, count), certain)
          const published = yield* monotonicMillis
          yield* Effect.yieldNow
          busy = (yield* monotonicMillis) - published
        }

        if (count < rows.length) {
          if (hole === undefined) {
            // Those who may still fill it: looked at only now that the page has been read.
            const { holders } = yield* look(query)
            hole = { highest: last, holders, wait: shortestWait, since: readAt, reported: false }
          } else if (hole.holders.size > 0) {
            const waited = readAt - hole.since
            yield* Metric.update(heldSeconds, waited / 1000)
            if (waited >= Duration.toMillis(settleTimeout) && !hole.reported) {
              yield* report(query, hole.holders, certain + 1n)
              hole.reported = true
            }
            yield* Effect.sleep(hole.wait)
            hole.wait = Math.min(hole.wait * 2, longestWait)
          }
          continue
        }

        if (sizeOf(rows) > largePage) limit = Math.max(smallestPage, limit >> 2)
        else if (isFull) limit = Math.min(largestPage, limit * 2)
        if (isFull) continue
        if (!woken) poll = rows.length > 0 ? shortestPoll : Math.min(poll * 2, longestPoll)
        const elapsed = (yield* monotonicMillis) - readAt
        const rest = Math.max(pace - elapsed, busy)
        if (rest > 0) yield* Effect.sleep(rest)
        woken = Option.isSome(yield* wait(poll))
      }
    })

    /** Nobody has come to the end of the log yet. Whether the connection lives matters to those who read there, too. */
    const untilBegun = ({ query }: Ear) =>
      Effect.whileLoop({
        while: () => !Deferred.isDoneUnsafe(begun),
        body: () => Effect.andThen(query(sql`SELECT 1`), Effect.timeoutOption(Deferred.await(begun), longestPoll)),
        step: () => {}
      })

    const end = (reason: Reason) => {
      failure = reason
      Deferred.doneUnsafe(lost, Effect.fail(reason))
      tellAll()
    }

    const reader = (ear: Ear) =>
      Effect.suspend(() => {
        if (ear.again) {
          const before = lost
          lost = Deferred.makeUnsafe()
          Deferred.doneUnsafe(before, Effect.fail(again))
        }
        return Effect.andThen(untilBegun(ear), read(ear))
      })

    return {
      run: listen("events", reader).pipe(
        // Whatever ends it ends those who wait for it.
        Effect.catchDefect((cause) => new Unexpected({ message: "the reader of the log has broken down", cause })),
        Effect.tapError((reason) => Effect.sync(() => end(reason)))
      ),
      end,
      begin: (version) => {
        if (Deferred.isDoneUnsafe(begun)) return
        head = version
        Deferred.doneUnsafe(begun, Effect.void)
      },
      isBegun: () => Deferred.isDoneUnsafe(begun),
      covers: (version) => Deferred.isDoneUnsafe(begun) && version >= (pages[0]?.after ?? head),
      lost: Effect.suspend(() => Deferred.await(lost)),
      next: (version) =>
        Effect.suspend(() => {
          const ready = () => failure !== undefined || head > version
          const news = Effect.suspend(() => Deferred.await(grown))
          return Effect.andThen(
            Effect.whileLoop({ while: () => !ready(), body: () => news, step: () => {} }),
            Effect.suspend(() => {
              if (failure !== undefined) return Effect.fail(failure)
              const first = pages.findLastIndex(({ after }) => after <= version)
              if (first === -1) return Effect.succeed({ items: [], upTo: version })
              return Effect.succeed({ items: pages.slice(first).flatMap(({ items }) => items), upTo: head })
            })
          )
        })
    }
  }

  // What subscribers share runs in the context of the layer, not in that of whoever comes first.
  const context = yield* Effect.context<never>()
  const tails: RcRef.RcRef<Tail> = yield* RcRef.make({
    acquire: Effect.acquireRelease(
      Effect.sync(() => {
        const tail = start()
        const run = Effect.tapError(Effect.scoped(tail.run), () => RcRef.invalidate(tails))
        return { tail, fiber: Effect.runForkWith(context)(run) }
      }),
      // There is somebody who still has it only where the scope of the layer ends.
      ({ fiber, tail }) =>
        Effect.andThen(
          Effect.sync(() => tail.end(closed("EventStore"))),
          Fiber.interrupt(fiber)
        )
    ).pipe(Effect.map(({ tail }) => tail))
  })

  /** The tail, which is read for as long as somebody has it. */
  return RcRef.get(tails)
})
