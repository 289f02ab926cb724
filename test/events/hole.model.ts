/**
 * A small model of a log and of its readers, and a search through everything that can happen in it: transactions take the
 * lock, draw versions, commit, roll back or are prepared; servers crash and are replaced; a reader asks its questions in
 * between. All of it is plain data, so every order of steps is tried, not a random part of them.
 */
import * as Hole from "../../src/events/Hole.ts"

/** A set of versions, or of transactions: bit 0 is the first one. */
type Bits = number

const bit = (number: number): Bits => 1 << (number - 1)
const upTo = (version: number): Bits => (1 << version) - 1
const numbersIn = (bits: Bits): ReadonlyArray<number> => {
  const numbers: Array<number> = []
  for (let number = 1; number <= highestIn(bits); number++) if ((bits & bit(number)) !== 0) numbers.push(number)
  return numbers
}
const highestIn = (bits: Bits) => 32 - Math.clz32(bits)

// The log

interface Transaction {
  /** All but "new" and "ended" hold the lock. "visible": the transaction has committed, and is about to let the lock go. */
  readonly status: "new" | "open" | "prepared" | "visible" | "ended"
  readonly drawn: Bits
  readonly id: string
}

interface Log {
  readonly server: string
  /** The last version that was drawn. */
  readonly last: number
  readonly visible: Bits
  readonly transactions: ReadonlyArray<Transaction>
}

interface World extends Log {
  /** The log as the standby has it that replaces the server. */
  readonly standby: Log | undefined
  readonly crashes: number
}

/** What can happen in a model, and how often. */
export interface Limits {
  readonly transactions: number
  readonly versions: number
  /** How many versions one transaction draws at most. */
  readonly each?: number
  /** Whether a drawn version can be dead while its transaction goes on: a savepoint, a conflict. */
  readonly burns?: boolean
  readonly prepares?: boolean
  readonly crashes?: number
  readonly replaced?: boolean
}

const emptyWorld = ({ transactions }: Limits): World => ({
  server: "first",
  last: 0,
  visible: 0,
  transactions: Array.from({ length: transactions }, (_, index) => ({ status: "new", drawn: 0, id: `${index + 1}/7` })),
  standby: undefined,
  crashes: 0
})

const holds = ({ status }: Transaction) => status === "open" || status === "prepared" || status === "visible"

/** The transactions that hold the lock. */
const holding = ({ transactions }: Log): Bits =>
  transactions.reduce((bits, transaction, index) => (holds(transaction) ? bits | bit(index + 1) : bits), 0)

const mayCommit = ({ status }: Transaction) => status === "open" || status === "prepared"

/** The versions that may still become visible, those that are not drawn yet included. A transaction's own may be left out. */
const undecided = ({ last, transactions }: Log, own: Transaction | undefined): Bits =>
  transactions.reduce(
    (bits, transaction) => (transaction !== own && mayCommit(transaction) ? bits | transaction.drawn : bits),
    ~upTo(last)
  )

/** The log after a crash: open transactions are gone, prepared ones have another id. */
const recovered = (log: Log, server: string): Log => ({
  ...log,
  server,
  transactions: log.transactions.map((transaction, index) =>
    transaction.status === "prepared"
      ? { ...transaction, id: `-1/${700 + index}` }
      : holds(transaction)
        ? { ...transaction, status: "ended" }
        : transaction
  )
})

interface Happening {
  readonly label: string
  readonly world: World
  /** Whether connections to the server are lost: the tail starts again, and a read inside of a transaction ends. */
  readonly cuts: boolean
}

function* happenings(world: World, limits: Limits, isBusy: (transaction: number) => boolean): Generator<Happening> {
  const { last, transactions, visible } = world
  // Transactions that have not begun are all alike.
  const first = transactions.findIndex(({ status }) => status === "new")
  for (const [index, transaction] of transactions.entries()) {
    if (isBusy(index)) continue
    const { drawn, status } = transaction
    const becomes = (label: string, change: Partial<Transaction>, log: Partial<Log> = {}): Happening => ({
      label: `${index + 1} ${label}`,
      world: { ...world, ...log, transactions: transactions.with(index, { ...transaction, ...change }) },
      cuts: false
    })
    const commits = () => becomes("commits", { status: "visible" }, { visible: visible | drawn })
    const rollsBack = () => becomes("rolls back", { status: "ended" })
    if (status === "new" && index === first) yield becomes("takes the lock", { status: "open" })
    if (status === "open") {
      if (last < limits.versions) {
        if (numbersIn(drawn).length < (limits.each ?? 2)) {
          yield becomes(`draws ${last + 1}`, { drawn: drawn | bit(last + 1) }, { last: last + 1 })
        }
        if (limits.burns === true) yield becomes(`burns ${last + 1}`, {}, { last: last + 1 })
      }
      if (limits.prepares === true) yield becomes("is prepared", { status: "prepared" })
      yield commits()
      yield rollsBack()
    }
    if (status === "prepared") {
      yield commits()
      yield rollsBack()
    }
    if (status === "visible") yield becomes("lets the lock go", { status: "ended" })
  }
  const { crashes, standby, ...log } = world
  if (crashes < (limits.crashes ?? 0)) {
    // Either the server starts only its processes again, and says that it has been running all the time; or the whole server
    // is started again.
    for (const server of [world.server, `${world.server} again`]) {
      yield {
        label: `the server crashes and is ${server}`,
        world: { ...recovered(log, server), standby, crashes: crashes + 1 },
        cuts: true
      }
    }
  }
  if (limits.replaced === true && world.server === "first") {
    if (standby === undefined)
      yield { label: "the standby stays behind", world: { ...world, standby: log }, cuts: false }
    else {
      // A transaction that begins after the standby has stayed behind begins there later, or on the other server.
      const after = recovered(standby, "second")
      yield { label: "the standby replaces the server", world: { ...after, standby: undefined, crashes }, cuts: true }
    }
  }
}

// The readers

/** The rule, or a rule that is nearly right. */
export interface Rule extends Pick<typeof Hole, "begin" | "seePage" | "seeHolders" | "remember"> {
  /** Reads the holders before the page, not after it. */
  readonly holdersFirst?: boolean
  /** Goes on where it was when its connection is lost. */
  readonly keepsOnLoss?: boolean
}

export interface Reader {
  readonly name: "tail" | "bounded"
  /** Undefined for a bounded reader that does not read. */
  readonly state: Hole.State | undefined
  /** Up to here it has delivered, or told of, every event. */
  readonly cursor: number
  /** The transactions that it may wait for: those that held the lock when it began to wait. */
  readonly mayWaitFor: Bits
  /** Of a bounded reader: the highest version when it began, the mark that it keeps, and the transaction that it reads in. */
  readonly bound: number | undefined
  readonly known: Hole.Mark | undefined
  readonly inside: number | undefined
  /** The holders that a rule which is nearly right has read too early. */
  readonly early: Hole.Holders | undefined
}

export const reader = (name: Reader["name"], rule: Rule): Reader => ({
  name,
  state: name === "tail" ? rule.begin(0n) : undefined,
  cursor: 0,
  mayWaitFor: 0,
  bound: undefined,
  known: undefined,
  inside: undefined,
  early: undefined
})

interface Step {
  readonly label: string
  readonly reader: Reader
  /** How far it has come, also if it has ended with this step. */
  readonly reached?: number
  /** What is wrong with it. */
  readonly wrong?: string | undefined
}

const ownOf = (world: World, { inside }: Reader) => (inside === undefined ? undefined : world.transactions[inside])

const ownBit = ({ inside }: Reader): Bits => (inside === undefined ? 0 : bit(inside + 1))

const visibleTo = (world: World, reader: Reader): Bits => world.visible | (ownOf(world, reader)?.drawn ?? 0)

const holdersOf = (world: World, { inside }: Reader): Hole.Holders => ({
  server: world.server,
  holders: new Set(
    world.transactions.flatMap((transaction, index) => (holds(transaction) && index !== inside ? [transaction.id] : []))
  )
})

/** What is wrong with a cursor that goes there, when these versions have been delivered on its way. */
const mistake = (world: World, reader: Reader, cursor: number, delivered: Bits): string | undefined => {
  if (cursor < reader.cursor) return `it goes back to ${cursor}`
  const way = upTo(cursor) & ~upTo(reader.cursor)
  const passed = undecided(world, ownOf(world, reader)) & way
  if (passed !== 0) return `version ${numbersIn(passed)[0]} is passed and may still come`
  const missed = visibleTo(world, reader) & way & ~delivered
  if (missed !== 0) return `version ${numbersIn(missed)[0]} is passed and was not delivered`
  return undefined
}

/** The transactions that a reader may wait for are known once it has asked for the holders for the first time. */
const waiting = (world: World, reader: Reader, state: Hole.State): Bits =>
  state.ask !== "wait" ? 0 : reader.state?.ask === "holders" ? holding(world) & ~ownBit(reader) : reader.mayWaitFor

/**
 * A reader that waits at a hole keeps its holders: with the holders of each later answer it would wait for as long as others
 * write.
 */
const isForgotten = (world: World, before: Hole.State, after: Hole.State): boolean =>
  before.ask === "wait" &&
  after.ask === "holders" &&
  before.server === world.server &&
  after.server === world.server &&
  after.after < before.highest

const runsOf = (versions: ReadonlyArray<number>) => Hole.runsOf(versions, BigInt)

/** The subscribers' tail: reads pages of so many events and delivers them. */
const tailPage = (rule: Rule, world: World, reader: Reader, limit: number): Step => {
  const { cursor, state } = reader
  if (state === undefined || state.ask === "holders") return { label: "", reader, wrong: "it asks for the wrong thing" }
  const versions = numbersIn(world.visible & ~upTo(cursor)).slice(0, limit)
  const runs = runsOf(versions)
  const next = rule.seePage(state, { server: world.server, runs, isFull: versions.length === limit })
  const to = Number(next.after)
  const delivered = versions.filter((version) => version <= to).reduce((bits, version) => bits | bit(version), 0)
  return {
    label: `reads ${versions.join(", ")} and delivers up to ${to}`,
    reader: { ...reader, state: next, cursor: to, mayWaitFor: waiting(world, reader, next) },
    reached: to,
    wrong: isForgotten(world, state, next)
      ? "it stalls: it forgets whom it waits for"
      : mistake(world, reader, to, delivered)
  }
}

/**
 * A bounded read: it asks for the highest version, and while it waits also for the versions without a hole, and is told up to
 * where it may read.
 */
const boundedPage = (rule: Rule, world: World, reader: Reader): Step => {
  const { state } = reader
  if (state === undefined || state.ask === "holders") return { label: "", reader, wrong: "it asks for the wrong thing" }
  const visible = visibleTo(world, reader) & upTo(reader.bound ?? world.last)
  const highest = highestIn(visible)
  const [first] = runsOf(numbersIn(visible & ~upTo(Number(state.after))))
  const prefix = state.ask === "wait" && first?.first === state.after + 1n ? [first] : []
  const runs = highest === 0 ? [] : [...prefix, { first: BigInt(highest), last: BigInt(highest) }]
  const next = rule.seePage(state, { server: world.server, runs, isFull: false })
  const known = rule.remember(reader.known, next, reader.inside !== undefined)
  const bound = reader.bound ?? highest
  const label = `sees ${highest}, without a hole up to ${prefix[0]?.last ?? "?"}`
  return tell(world, { ...reader, known, bound }, label, next, next.after, next.ask === "page")
}

const tell = (
  world: World,
  reader: Reader,
  label: string,
  state: Hole.State,
  version: bigint,
  isDone: boolean
): Step => {
  const cursor = Math.max(reader.cursor, Number(version))
  const told: Reader = { ...reader, state, cursor, mayWaitFor: waiting(world, reader, state) }
  const wrong = mistake(world, reader, cursor, visibleTo(world, reader))
  return { label: `${label}, and is told ${cursor}`, reached: cursor, reader: isDone ? ended(told) : told, wrong }
}

/** What is told inside of a transaction is of no use outside. */
const ended = (reader: Reader): Reader => ({
  ...reader,
  state: undefined,
  cursor: reader.inside === undefined ? reader.cursor : 0,
  mayWaitFor: 0,
  bound: undefined,
  inside: undefined
})

const askHolders = (rule: Rule, world: World, reader: Reader): Step => {
  const { early, state } = reader
  if (state === undefined || state.ask === "page") return { label: "", reader, wrong: "it asks for the wrong thing" }
  const holders = early ?? holdersOf(world, reader)
  const next = rule.seeHolders(state, holders)
  const label = `sees the holders ${[...holders.holders].join(", ")}`
  if (reader.name === "bounded" && next.ask === "page" && next.mark !== undefined) {
    const known = rule.remember(reader.known, next, reader.inside !== undefined)
    return tell(world, { ...reader, known }, label, next, next.mark.version, true)
  }
  return {
    label,
    reader: { ...reader, state: next, early: undefined, mayWaitFor: waiting(world, reader, next) }
  }
}

const pageOf = (rule: Rule, world: World, reader: Reader, limit: number): Step =>
  reader.name === "tail" ? tailPage(rule, world, reader, limit) : boundedPage(rule, world, reader)

const pageLimits = [1, 2, 9]

function* steps(rule: Rule, world: World, reader: Reader): Generator<Step> {
  const { cursor, state } = reader
  if (state === undefined) {
    const inside = world.transactions.flatMap(({ status }, index) => (status === "open" ? [index] : []))
    for (const after of new Set([0, cursor])) {
      for (const transaction of [undefined, ...inside]) {
        yield {
          label: `begins after ${after}${transaction === undefined ? "" : `, inside ${transaction + 1}`}`,
          reader: {
            ...reader,
            state: rule.begin(BigInt(after), reader.known),
            cursor: after,
            inside: transaction
          }
        }
      }
    }
    return
  }
  if (rule.holdersFirst === true && state.ask === "page" && reader.early === undefined) {
    yield { label: "sees the holders too early", reader: { ...reader, early: holdersOf(world, reader) } }
    return
  }
  if (state.ask !== "page") yield askHolders(rule, world, reader)
  if (state.ask !== "holders") {
    for (const limit of reader.name === "tail" ? pageLimits : [9]) yield pageOf(rule, world, reader, limit)
  }
  // A timeout, or a loss.
  if (reader.name === "bounded") yield { label: "gives up", reader: ended(reader) }
  else yield { label: "loses its connection", reader: cutOff(rule, reader) }
}

const cutOff = (rule: Rule, reader: Reader): Reader => {
  if (reader.name === "bounded") return reader.inside === undefined ? reader : ended(reader)
  if (rule.keepsOnLoss === true) return reader
  return { ...reader, state: rule.begin(BigInt(reader.cursor)), mayWaitFor: 0, early: undefined }
}

// What must be true

/** Lets the reader ask, while nothing else happens, until it has come so far, or has asked far more often than it needs. */
const alone = (rule: Rule, world: World, start: Reader, wanted: number): Step => {
  let now = start
  let reached = start.cursor
  const labels: Array<string> = []
  for (let asked = 0; asked < 40 && reached < wanted && now.state !== undefined; asked++) {
    const { ask } = now.state
    const isEarly = rule.holdersFirst === true && ask === "page" && now.early === undefined
    const before = isEarly ? { ...now, early: holdersOf(world, now) } : now
    const step =
      ask === "holders" || (ask === "wait" && asked % 2 === 0)
        ? askHolders(rule, world, before)
        : pageOf(rule, world, before, 2)
    labels.push(step.label)
    now = step.reader
    reached = Math.max(reached, step.reached ?? 0)
    if (step.wrong !== undefined) return { ...step, label: labels.join("; ") }
  }
  return { label: labels.join("; "), reader: now, reached }
}

/** The version up to which a reader must come if nothing happens any more: nothing that may still come is in its way. */
const reachable = (world: World, reader: Reader, state: Hole.State): number => {
  const seen = state.ask === "page" ? world.last : Number(state.highest)
  const visible = visibleTo(world, reader)
  // A bounded read ends at the highest version that it saw first.
  const wanted = reader.name === "tail" ? visible : visible & upTo(Math.min(seen, reader.bound ?? world.last))
  let end = reader.cursor
  while ((wanted & bit(end + 1)) !== 0) end++
  const others = holding(world) & ~ownBit(reader)
  if (others === 0) return Math.max(end, highestIn(wanted))
  const isSameHole = state.ask === "wait" && state.server === world.server && !hasRecovered(world)
  return isSameHole && (reader.mayWaitFor & others) === 0 ? Math.max(end, highestIn(wanted & upTo(seen))) : end
}

/** What a reader is not given although nothing is in its way. */
const stall = (rule: Rule, world: World, reader: Reader): string | undefined => {
  if (reader.state === undefined) return undefined
  const wanted = reachable(world, reader, reader.state)
  const { label, reached = 0, wrong } = alone(rule, world, reader, wanted)
  if (wrong !== undefined) return `${label}: ${wrong}`
  return reached < wanted ? `${label}: it stalls at ${reached}, and could have ${wanted}` : undefined
}

/** Whether there is a recovered transaction: no reader can tell it from one that held the lock when the wait began. */
const hasRecovered = ({ transactions }: Log) =>
  transactions.some(({ id, status }) => status !== "ended" && id.startsWith("-1/"))

/** Whether the standby has everything that the reader has been given, and can draw none of its versions again. */
const isAhead = (world: World, { cursor }: Reader): boolean => {
  const { standby } = world
  if (standby === undefined) return true
  const way = upTo(cursor)
  return (
    cursor <= standby.last &&
    (standby.visible & way) === (world.visible & way) &&
    (undecided(recovered(standby, ""), undefined) & way) === 0
  )
}

// The search

interface Place {
  readonly world: World
  readonly reader: Reader
  readonly label: string
  readonly before: Place | undefined
}

const keyOfLog = ({ last, server, transactions, visible }: Log): string =>
  transactions.reduce((key, { drawn, id, status }) => `${key} ${status} ${drawn} ${id}`, `${server} ${last} ${visible}`)

const keyOfMark = (mark: Hole.Mark | undefined) => (mark === undefined ? "" : `${mark.version}@${mark.server}`)

const keyOfState = (state: Hole.State | undefined): string => {
  if (state === undefined) return ""
  const { after, ask, mark } = state
  if (ask === "page") return `page ${after} ${keyOfMark(mark)}`
  const holders = ask === "wait" ? [...state.holders].toSorted().join(",") : ""
  return `${ask} ${after} ${keyOfMark(mark)} ${state.highest} ${state.server} ${holders}`
}

const keyOf = ({ reader, world }: Place): string =>
  [
    keyOfLog(world),
    world.crashes,
    world.standby === undefined ? "" : keyOfLog(world.standby),
    keyOfState(reader.state),
    reader.cursor,
    reader.mayWaitFor,
    reader.bound,
    keyOfMark(reader.known),
    reader.inside,
    reader.early === undefined ? "" : [...reader.early.holders].join(",") + reader.early.server
  ].join("|")

const story = (place: Place | undefined): ReadonlyArray<string> =>
  place === undefined ? [] : [...story(place.before), place.label]

export interface Search {
  /** How many places there are: what the world and the reader can be at the same time. */
  readonly places: number
  /** The first thing that went wrong, after what has led to it. */
  readonly wrong: string | undefined
}

/** Goes everywhere that steps of the world and of the reader lead to, in any order. */
export const search = (rule: Rule, start: Reader, limits: Limits): Search => {
  const first = { world: emptyWorld(limits), reader: start, label: "", before: undefined }
  const seen = new Set<string>([keyOf(first)])
  const places: Array<Place> = [first]
  const add = (place: Place) => {
    const key = keyOf(place)
    if (seen.has(key)) return
    seen.add(key)
    places.push(place)
  }
  // Places that take fewer steps come first, so the story of what goes wrong is as short as it can be.
  for (const place of places) {
    const { reader, world } = place
    const failed = (wrong: string): Search => ({ places: places.length, wrong: [...story(place), wrong].join("\n") })
    const stalled = stall(rule, world, reader)
    if (stalled !== undefined) return failed(stalled)
    for (const step of steps(rule, world, reader)) {
      if (step.wrong !== undefined) return failed(`${step.label}: ${step.wrong}`)
      add({ world, reader: step.reader, label: `reader: ${step.label}`, before: place })
    }
    for (const { cuts, label, world: next } of happenings(world, limits, (index) => index === reader.inside)) {
      const isReplaced = next.server === "second" && world.server === "first"
      if (isReplaced && !isAhead(world, reader)) continue
      add({ world: next, reader: cuts ? cutOff(rule, reader) : reader, label, before: place })
    }
  }
  return { places: places.length, wrong: undefined }
}
