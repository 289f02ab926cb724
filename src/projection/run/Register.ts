/**
 * What a process says of itself to the others, and hears of them: one for all projections that run in the process.
 *
 * **Details**
 *
 * The process says that it lives by counting up a number in a record of its own, its beat. A process that sees the beat of
 * another one stand still for three beats removes that process from the division: so no clock is compared with the clock of
 * another machine, and while the database is down no process is removed. The division is one record, which changes only when
 * something comes or goes: by compare-and-set, so all processes have the same.
 *
 * A look reads the division, the beats and the control records of all projections of this process. It comes with each beat, and
 * soon after a wake-up of the offsets. The statement that reads them writes the beat, too: so a process at rest does one
 * statement a beat, whatever it runs.
 *
 * The division only decides who does the work: for a moment two processes may run the same shard, or none does. The
 * compare-and-set of the offset protects the read model.
 */
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Latch,
  Option,
  type Scope,
  Semaphore,
  Stream,
  SubscriptionRef
} from "effect"
import { DurableStateStore, type State } from "../../DurableStateStore.ts"
import { hostAndPid, ProcessName } from "../../internal/Host.ts"
import { idGenerator } from "../../internal/Ids.ts"
import { monotonicMillis } from "../../internal/Monotonic.ts"
import { realSleep, withinRealTime } from "../../internal/RealTime.ts"
import { isTransient, transientDelays } from "../../internal/Transient.ts"
import type { InvalidInput } from "../../InvalidInput.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import type { StoreError } from "../../StoreError.ts"
import type { Settings } from "../Definition.ts"
import {
  Beat,
  beatId,
  type Control,
  controlId,
  Division,
  divisionId,
  type Member,
  records,
  recordsAt,
  type RecordsAt,
  recordsIn,
  runnersId
} from "../Records.ts"
import { divide } from "./Division.ts"
import { makeSightings } from "./Sightings.ts"

/** The real time from a wake-up to the look at what has changed: wake-ups that come together cost one look. */
const delayBeforeLook = Duration.millis(50)

/** How long a process that stops tries to remove itself. The others miss it soon enough anyway. */
const longestGoodbye = Duration.seconds(1)

/** How many projections of a process begin at a time: each takes a connection meanwhile. */
const mostBeginning = 2

type Failure = InvalidInput | StoreError

/** What a projection obeys in this process. */
export interface Assignment {
  readonly control: State<Control>
  readonly shards: ReadonlyArray<number>
}

/** A projection that takes part. */
export interface Membership {
  /** Emits the assignment once it is known, and whenever it has changed. */
  readonly assignments: Stream.Stream<Assignment>
  readonly assignment: Effect.Effect<Assignment | undefined>
  /** Looks at once, because another process seems to run one of these shards, or an order was given. */
  readonly refresh: Effect.Effect<void, Failure>
  /** Fails where no waiting mends what keeps this process from taking part. */
  readonly failed: Effect.Effect<never, Failure>
}

/** Which projection takes part, and which shards are its own where something else has placed them. */
export interface Joining {
  readonly settings: Pick<Settings, "name" | "shards" | "heartbeat">
  readonly placed?: SubscriptionRef.SubscriptionRef<ReadonlyArray<number>>
}

interface Entry extends Joining {
  readonly assignment: SubscriptionRef.SubscriptionRef<Assignment | undefined>
  readonly failed: Deferred.Deferred<never, Failure>
}

/** What a look has read: the records, those of these projections among them. */
interface Read {
  readonly found: RecordsAt
  readonly names: ReadonlyArray<string>
}

const isSame = (a: Assignment | undefined, b: Assignment) =>
  a?.control.versionNumber === b.control.versionNumber && a.shards.join() === b.shards.join()

const memberOf = (id: string, entries: Iterable<Entry>, before: Member | undefined): Member => ({
  id,
  offers: [...entries].flatMap(({ placed, settings: { name, shards } }) =>
    placed === undefined ? [{ name, shards, own: before?.offers.find((offer) => offer.name === name)?.own ?? [] }] : []
  )
})

const offersOf = (member: Member | undefined) =>
  member?.offers
    .map(({ name, shards }) => `${shards} ${name}`)
    .sort()
    .join("\n")

const make = Effect.gen(function* () {
  const states = yield* DurableStateStore
  const offsets = yield* OffsetStore
  const record = yield* records
  const id = yield* (yield* idGenerator).uuidV7()
  const processName = yield* ProcessName
  const since = yield* Clock.currentTimeMillis
  const entries = new Map<string, Entry>()
  const sightings = makeSightings()
  const due = yield* Latch.make()
  const inTurn = Semaphore.withPermit(yield* Semaphore.make(1))
  const beginning = Semaphore.withPermit(yield* Semaphore.make(mostBeginning))
  let known: ReadonlyArray<Member> = []
  let count = 0
  let told = ""

  const every = () =>
    [...entries.values()].reduce(
      (shortest, { settings }) => Math.min(shortest, Duration.toMillis(settings.heartbeat)),
      Number.POSITIVE_INFINITY
    )

  const runsNow = (): Beat["runs"] =>
    [...entries].flatMap(([name, { assignment }]) => {
      const shards = SubscriptionRef.getUnsafe(assignment)?.shards ?? []
      return shards.length === 0 ? [] : [{ name, shards }]
    })

  /** Says that this process lives, and what it runs. */
  const say = Effect.fnUntraced(function* <A, E>(write: (id: string, beat: Beat) => Effect.Effect<A, E>) {
    const runs = runsNow()
    const at = yield* Clock.currentTimeMillis
    count++
    const beat = new Beat({ beat: count, at, every: every(), since, name: processName, ...hostAndPid(), runs })
    const result = yield* write(beatId(id), beat)
    told = JSON.stringify(runs)
    return result
  })

  const sayAndRead = (ids: ReadonlyArray<string>) =>
    Effect.flatMap(
      say((id, beat) => record.beat.writeAndGet(id, BigInt(beat.beat), beat, ids)),
      recordsIn
    )

  /** What the members of the division, this process and those of earlier versions have written. */
  const read = Effect.fnUntraced(function* (isBeat: boolean) {
    const names = [...entries.keys()]
    const idsFor = (members: ReadonlyArray<Member>) => [
      divisionId,
      ...members.map((member) => beatId(member.id)),
      ...names.flatMap((name) => [controlId(name), runnersId(name)])
    ]
    // Nobody would delete the beat of a process that died before it took part.
    const isMember = known.some((member) => member.id === id)
    const found = yield* isBeat && isMember ? sayAndRead(idsFor(known)) : recordsAt(idsFor(known))
    const { members } = (yield* found.division.read(divisionId)).value
    const isKnown = members.every((member) => known.some((other) => other.id === member.id))
    known = members
    return { found: isKnown ? found : yield* recordsAt(idsFor(members)), names }
  })

  /** The projections that processes of an earlier version run: they take all of the shards of these. */
  const runElsewhere = Effect.fnUntraced(function* ({ found, names }: Read) {
    const taken = new Set<string>()
    for (const name of names) {
      const { runners } = (yield* found.runners.read(runnersId(name))).value
      if (runners.some((runner) => sightings.isAlive(runner.id, runner))) taken.add(name)
      else if (runners.length > 0) yield* states.deleteState(runnersId(name))
    }
    return taken
  })

  /** The division as it is to be: without processes that are silent, and with this one. */
  const nextOf = Effect.fnUntraced(function* (found: RecordsAt, members: ReadonlyArray<Member>) {
    const alive: Array<Member> = []
    for (const member of members) {
      if (member.id === id) continue
      const { value: beat } = yield* found.beat.read(beatId(member.id))
      if (sightings.isAlive(member.id, beat)) alive.push(member)
    }
    const before = members.find((member) => member.id === id)
    const own = memberOf(id, entries.values(), before)
    const isChanged =
      alive.length + (before === undefined ? 0 : 1) < members.length || offersOf(before) !== offersOf(own)
    return isChanged ? divide(entries.size === 0 ? alive : [...alive, own]) : undefined
  })

  const write = Effect.fnUntraced(function* (
    { versionNumber, value }: State<Division>,
    members: ReadonlyArray<Member>
  ) {
    yield* record.division.write({
      persistenceId: divisionId,
      versionNumber: versionNumber + 1n,
      value: new Division({ members })
    })
    const gone = value.members.filter((member) => !members.some((other) => other.id === member.id))
    yield* Effect.forEach(gone, (member) => states.deleteState(beatId(member.id)), { discard: true })
    known = members
  })

  const assign = Effect.fnUntraced(function* (read: Read, members: ReadonlyArray<Member>) {
    const own = members.find((member) => member.id === id)
    const taken = yield* runElsewhere(read)
    const { found, names } = read
    for (const name of names) {
      const entry = entries.get(name)
      if (entry === undefined) continue
      const { assignment, placed } = entry
      const control = yield* found.control.read(controlId(name))
      const divided = taken.has(name) ? [] : (own?.offers.find((offer) => offer.name === name)?.own ?? [])
      const next = { control, shards: placed === undefined ? divided : SubscriptionRef.getUnsafe(placed) }
      if (!isSame(SubscriptionRef.getUnsafe(assignment), next)) yield* SubscriptionRef.set(assignment, next)
    }
  })

  /** Looks at what there is, mends the division, and obeys it. A look that comes with a beat says it, and counts silence. */
  const look = Effect.fnUntraced(function* (isBeat: boolean) {
    const all = yield* read(isBeat)
    const { found, names } = all
    const division = yield* found.division.read(divisionId)
    if (isBeat) {
      for (const member of division.value.members) {
        sightings.see(member.id, (yield* found.beat.read(beatId(member.id))).value, every())
      }
      for (const name of names) {
        const { runners } = (yield* found.runners.read(runnersId(name))).value
        for (const runner of runners) sightings.see(runner.id, runner, every())
      }
      sightings.finish()
    }
    const next = yield* nextOf(found, division.value.members)
    if (next !== undefined) yield* write(division, next)
    yield* assign(all, next ?? division.value.members)
  })

  /** Where another process has changed the division meanwhile, it is looked at again. */
  const lookInTurn = (isBeat: boolean) =>
    inTurn(Effect.suspend(() => (entries.size === 0 ? Effect.void : look(isBeat)))).pipe(
      Effect.catchTag("StaleState", () => Effect.sync(() => void due.openUnsafe())),
      Effect.provideService(DurableStateStore, states)
    )

  const fail = (error: Failure) =>
    Effect.sync(() => {
      for (const { failed } of entries.values()) Deferred.doneUnsafe(failed, Effect.fail(error))
    })

  const round = (isBeat: boolean) =>
    Effect.gen(function* () {
      const before = count
      yield* lookInTurn(isBeat)
      const isSaid = count > before || !isBeat
      if (entries.size === 0 || (isSaid && told === JSON.stringify(runsNow()))) return
      yield* say((id, beat) => record.beat.write(id, BigInt(beat.beat), beat))
    }).pipe(
      // While the database cannot be reached the shards stay as they are: the next beat is soon enough.
      Effect.catchIf(isTransient, () => Effect.void),
      Effect.catch(fail)
    )

  const run = Effect.gen(function* () {
    let beatAt = Number.NEGATIVE_INFINITY
    let isBeat = true
    while (true) {
      const now = yield* monotonicMillis
      // Another projection may have come, which beats more often.
      beatAt = Math.min(isBeat ? Number.POSITIVE_INFINITY : beatAt, now + every())
      yield* round(isBeat)
      const rest = Math.max(0, beatAt - (yield* monotonicMillis))
      const woken = yield* Effect.timeoutOption(due.await, rest)
      // A timer may be a fraction of a millisecond early: the time of the beat has come all the same.
      isBeat = Option.isNone(woken)
      if (isBeat) continue
      yield* realSleep(delayBeforeLook)
      due.closeUnsafe()
      isBeat = (yield* monotonicMillis) >= beatAt
    }
  })

  const wakeUps = offsets.changes.pipe(
    Stream.runForEach(() => Effect.sync(() => due.openUnsafe())),
    Effect.retry({ schedule: transientDelays, while: isTransient }),
    Effect.catch(fail)
  )

  const leave = Effect.gen(function* () {
    const division = yield* record.division.read(divisionId)
    const others = division.value.members.filter((member) => member.id !== id)
    if (others.length < division.value.members.length) yield* write(division, divide(others))
    yield* states.deleteState(beatId(id))
  }).pipe(Effect.retry({ while: ({ _tag }) => _tag === "StaleState" }), inTurn, Effect.ignore)

  const join = Effect.fnUntraced(function* (joining: Joining): Effect.fn.Return<Membership, never, Scope.Scope> {
    const { placed, settings } = joining
    const entry: Entry = {
      ...joining,
      assignment: yield* SubscriptionRef.make<Assignment | undefined>(undefined),
      failed: Deferred.makeUnsafe()
    }
    const tell = Effect.sync(() => due.openUnsafe())
    yield* Effect.acquireRelease(
      Effect.andThen(
        Effect.sync(() => entries.set(settings.name, entry)),
        tell
      ),
      () =>
        Effect.andThen(
          Effect.sync(() => entries.delete(settings.name)),
          tell
        )
    )
    if (placed !== undefined) {
      const obey = (shards: ReadonlyArray<number>) =>
        Effect.andThen(
          SubscriptionRef.update(entry.assignment, (now) => now && { ...now, shards }),
          tell
        )
      yield* Effect.forkScoped(Stream.runForEach(SubscriptionRef.changes(placed), obey))
    }
    return {
      assignment: SubscriptionRef.get(entry.assignment),
      assignments: Stream.filter(SubscriptionRef.changes(entry.assignment), (now) => now !== undefined),
      refresh: lookInTurn(false),
      failed: Deferred.await(entry.failed)
    }
  })

  return { beginning, join, leave, run: Effect.all([run, wakeUps], { concurrency: 2, discard: true }) }
})

/** The register of a process. */
export interface Register {
  /** Runs what a projection does to begin: few at a time. */
  readonly beginning: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Takes part with a projection, until the scope is closed. */
  readonly join: (joining: Joining) => Effect.Effect<Membership, never, Scope.Scope>
}

interface Running extends Effect.Success<typeof make> {
  readonly fiber: Fiber.Fiber<unknown>
  users: number
}

/** The registers of this process, by the store of the offsets. */
const registers = new WeakMap<OffsetStore["Service"], Running>()

/** The register of this process, which takes part in the division until the scope of its last user is closed. */
export const open: Effect.Effect<Register, never, DurableStateStore | OffsetStore | Scope.Scope> =
  Effect.acquireRelease(
    Effect.gen(function* () {
      const offsets = yield* OffsetStore
      const made = yield* make
      let running = registers.get(offsets)
      if (running === undefined) {
        // A look is nothing that the application does: it has no place in a trace.
        running = { ...made, fiber: yield* Effect.forkDetach(Effect.withTracerEnabled(made.run, false)), users: 0 }
        registers.set(offsets, running)
      }
      running.users++
      return { offsets, running }
    }),
    ({ offsets, running }) =>
      Effect.suspend(() => {
        running.users--
        if (running.users > 0) return Effect.void
        registers.delete(offsets)
        const goodbye = Effect.andThen(Fiber.interrupt(running.fiber), running.leave)
        return withinRealTime(goodbye, longestGoodbye, () => Effect.void)
      })
  ).pipe(Effect.map(({ running }) => running))
