/** What sessions of random programs do with tags and conditions: they decide, tag afterwards, and repeat what has an id. */
import { Effect, Option, Schema, Stream } from "effect"
import { EventStore, Transactor } from "effect-strata"

const command = <Name extends string, Fields extends Schema.Struct.Fields>(name: Name, fields: Fields) =>
  Schema.Struct({ command: Schema.Literal(name), ...fields })

// Few tags, keys and aggregates, so that sessions meet.
const Tag = Schema.Literals(["a", "b"])
const Tags = Schema.Literals(["none", "a", "b", "ab"])
const Content = Schema.Literals([0, 1])

/** What a decision is about: the events with a tag, with both, with either, or those of a type, which no tag leads to. */
const About = Schema.Literals(["a", "b", "ab", "ba", "a or b", "type"])

const Ask = command("ask", { about: About })
// Upon what this session has asked last, whatever has come since. Where it has asked nothing, it asks now.
const Decide = command("decide", {
  tags: Tags,
  aggregate: Schema.Literals(["own", "own", "x"]),
  // `seen`: the version of the last event that this session has seen of the aggregate.
  expected: Schema.Literals(["any", "any", "any", "none", "some", "seen"])
})

// The event of a key: with `asked`, if nothing has come since this session has asked last.
const Repeat = command("repeat", {
  key: Schema.Literals(["k", "l"]),
  content: Content,
  tags: Tags,
  asked: Schema.Boolean,
  onDuplicate: Schema.Literals(["ignore", "fail"])
})

// An event that this session has seen, from the last one on.
const TagAfterwards = command("tag afterwards", {
  nth: Schema.Literals([0, 1, 2, 3]),
  tag: Tag,
  dryRun: Schema.Literals([false, false, true])
})

// What it has seen then is gone: the session asks between an append, or tags for an event, and the end of a savepoint.
const TakeBack = command("take back", { tags: Tags, isAfterwards: Schema.Boolean, about: About })

/** The commands of this file. */
export const commands = [
  command("tag", { tags: Tags, isNote: Schema.Boolean }),
  command("tag all", { tag: Tag }),
  TakeBack,
  Ask,
  Decide,
  Repeat,
  TagAfterwards
] as const

/** Those that a program of decisions has more often. */
export const often = [Ask, Ask, Decide, Decide, Decide, Repeat, TagAfterwards, TakeBack] as const

const Command = Schema.Union(commands)
type Command = typeof Command.Type

class TakenBack extends Schema.TaggedError<TakenBack>("strata-test/TakenBack")("TakenBack", {
  answer: Schema.String
}) {}

/** What the sessions of a program know together. */
export interface Shared {
  /** What the events are called: their versions are others on each backend. */
  readonly names: Map<bigint, string>
  /** How many transactions are open. */
  open: number
  /** The end of the log when the program began: programs before have left events there. */
  readonly begin: bigint
}

/** What there is to know when the program begins. */
export const begin = EventStore.EventStore.use(({ latestVersion }) =>
  Effect.map(latestVersion, (begin): Shared => ({ names: new Map(), open: 0, begin }))
)

const Named = Schema.Struct({ name: Schema.String })

/** What `tagAll` finds. The other events have a type that belongs to the program, so that decisions can be about all of them. */
class Noted extends Schema.TaggedClass<Noted>()("strata-test/Noted", Named.fields) {}

export const nameOf = ({ data }: EventStore.StoredEvent) => (Schema.is(Named)(data) ? data.name : String(data))

/** Queries by the names that programs have for them. */
export const itemsOf = (run: string, about: typeof About.Type): ReadonlyArray<EventStore.QueryItem> => {
  const [a, b] = [`${run} a`, `${run} b`]
  const eventTypes = [`${run} Tagged`]
  switch (about) {
    case "a":
      return [{ tags: [a] }]
    case "b":
      return [{ tags: [b] }]
    case "ab":
      return [{ tags: [a, b] }]
    case "ba":
      return [{ tags: [b, a], eventTypes }]
    case "a or b":
      return [{ tags: [a] }, { tags: [b], eventTypes }]
    case "type":
      return [{ eventTypes }]
  }
}

/** What was found, and which items it matches. */
export const describeRead = ({ events, items }: EventStore.ReadForDecision) =>
  events.map((event, index) => `${nameOf(event)} ${items[index]?.join("+")}`).join(", ")

/** The operations of a session. `seen` has the last version of each aggregate that the session has seen. */
export const operations = (run: string, id: number, shared: Shared, seen: Map<string, bigint>) => {
  let appended = 0
  let asked: EventStore.Condition | undefined
  /** The events that this session has seen. */
  const known: Array<EventStore.StoredEvent> = []

  const tagsOf = (tags: typeof Tags.Type) => (tags === "none" ? {} : { tags: [...tags].map((tag) => `${run} ${tag}`) })

  /** An event with an aggregate of its own, unless another one is given: then only tags make sessions wait. */
  const eventOf = (tags: typeof Tags.Type, aggregate = "own") => {
    const name = `${id}:${appended++}`
    const aggregateId = `${run} ${aggregate === "own" ? name : aggregate}`
    return { aggregateId, eventType: `${run} Tagged`, data: { name }, ...tagsOf(tags) }
  }

  const stored = (events: ReadonlyArray<EventStore.StoredEvent>) => {
    for (const event of events) {
      shared.names.set(event.version, nameOf(event))
      seen.set(event.aggregateId, event.version)
      known.push(event)
    }
    return events.map(nameOf).join(" ")
  }

  const ask = Effect.fnUntraced(function* (about: typeof About.Type) {
    const read = yield* EventStore.EventStore.use(({ readForDecision }) => readForDecision(itemsOf(run, about)))
    asked = read.condition
    known.push(...read.events)
    return describeRead(read)
  })

  const tagAfterwards = Effect.fnUntraced(function* ({ dryRun, nth, tag }: typeof TagAfterwards.Type) {
    const event = known.at(-1 - nth)
    if (event === undefined) return "nothing to tag"
    const events = yield* EventStore.EventStore
    const counts = yield* events.tag([{ ...event, tags: [`${run} ${tag}`] }], { dryRun })
    return `${nameOf(event)} ${counts.events} ${counts.tags}`
  })

  const takeBack = Effect.fnUntraced(function* ({ about, isAfterwards, tags }: typeof TakeBack.Type) {
    const events = yield* EventStore.EventStore
    yield* isAfterwards
      ? tagAfterwards({ command: "tag afterwards", nth: 0, tag: tags === "b" ? "b" : "a", dryRun: false })
      : Effect.map(events.append(eventOf(tags)), stored)
    return yield* new TakenBack({ answer: yield* ask(about) })
  })

  const operate = Effect.fnUntraced(function* (command: Command) {
    const events = yield* EventStore.EventStore
    switch (command.command) {
      case "tag":
        return stored(
          yield* events.append({
            ...eventOf(command.tags),
            ...(command.isNote ? { eventType: "strata-test/Noted" } : {})
          })
        )
      case "ask":
        return yield* ask(command.about)
      case "take back":
        return yield* Effect.catchTag(Transactor.withTransaction(takeBack(command)), "TakenBack", ({ answer }) =>
          Effect.succeed(answer)
        )
      case "decide": {
        asked ??= (yield* events.readForDecision(itemsOf(run, "a or b"))).condition
        const event = eventOf(command.tags, command.aggregate)
        const expected = command.expected === "seen" ? (seen.get(event.aggregateId) ?? 0n) : command.expected
        return stored(yield* events.append(event, { condition: asked, expected }))
      }
      case "repeat": {
        const { content, key, onDuplicate, tags } = command
        const event = {
          id: `${run} ${key}`,
          aggregateId: `${run} ${key}`,
          eventType: `${run} Tagged`,
          data: { name: `${key}${content}` },
          ...tagsOf(tags)
        }
        const condition = command.asked ? asked : undefined
        return stored(yield* events.append(event, { onDuplicate, ...(condition === undefined ? {} : { condition }) }))
      }
      case "tag afterwards":
        return yield* tagAfterwards(command)
      case "tag all": {
        // It goes up to the end of the log, and so waits for transactions that may still append.
        if (shared.open > 0) return "nothing to tag while a transaction is open"
        const view = yield* EventStore.typed({
          events: [Noted],
          tags: { "strata-test/Noted": () => [`${run} ${command.tag}`] }
        })
        const steps = yield* Stream.runCollect(view.tagAll({ after: shared.begin }))
        return steps.map(({ events, read, tags }) => `${read} ${events} ${tags}`).join()
      }
    }
  })

  const withoutRun = (value: string) => value.replaceAll(`${run} `, "")

  return (command: Command) =>
    operate(command).pipe(
      // Versions are others on each backend, so the event that is in the way has its name.
      Effect.catchTag("ConditionFailed", ({ change, eventType, tags, version }) => {
        const name = Option.flatMapNullishOr(version, (version) => shared.names.get(version))
        const parts = [change, ...Option.toArray(name), ...Option.toArray(eventType), ...tags]
        return Effect.succeed(`overtaken: ${parts.map(withoutRun).join(" ")}`)
      })
    )
}
