/** `strata events append`: an event from flags, or many from JSON lines on stdin. */
import { Effect, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { EventStore, NewEvent, type StoredEvent } from "../../../EventStore.ts"
import { exactJson } from "../../../internal/ExactJson.ts"
import { SafeJson, SafeJsonObject } from "../../../internal/SafeJson.ts"
import { invalidInput } from "../../../InvalidInput.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as Database from "../../connection/Database.ts"
import { WrongUsage } from "../../terminal/CommandErrors.ts"
import { HostProcess } from "../../terminal/HostProcess.ts"
import * as Output from "../../terminal/Output.ts"
import { linesOf, stdin } from "../../transfer/Lines.ts"
import { listing } from "./EventView.ts"

const flags = {
  aggregateId: Parameters.key("aggregate").pipe(
    Flag.optional,
    Flag.withDescription("The aggregate of the event; without it, events are read from stdin")
  ),
  eventType: Parameters.key("type").pipe(Flag.optional, Flag.withDescription("The type of the event")),
  data: Parameters.json("data").pipe(
    Flag.withDefault(null),
    Flag.withDescription("The data of the event; null unless given")
  ),
  metadata: Parameters.jsonObject("metadata").pipe(Flag.optional, Flag.withDescription("The metadata of the event")),
  tags: Parameters.tag("tag").pipe(
    Flag.atLeast(0),
    Flag.withDescription("What the event is about, such as course:c1; give it again for other tags")
  ),
  id: Parameters.key("id").pipe(Flag.optional, Flag.withDescription("The id of the event; a UUIDv7 unless given")),
  expected: Parameters.version("expected", ["any", "none", "some"]).pipe(
    Flag.withDefault<"any">("any"),
    Flag.withDescription("What each aggregate must have before: no events, some, or a last event with this version")
  ),
  ignoreDuplicates: Parameters.toggle(
    "ignore-duplicates",
    "Accept an event that is stored already, with the same id and the same in all else"
  )
}

type Flags = Command.Command.Config.Infer<typeof flags>

const isFromStdin = ({ aggregateId, data, eventType, id, metadata, tags }: Flags) =>
  [aggregateId, eventType, id].every(Option.isNone) && Option.isNone(metadata) && data === null && tags.length === 0

const fromFlags = ({ aggregateId, data, eventType, id, metadata, tags }: Flags) =>
  Effect.gen(function* () {
    if (Option.isNone(aggregateId) || Option.isNone(eventType)) {
      return yield* new WrongUsage({ message: "--aggregate and --type belong together; give both of them" })
    }
    const event = {
      aggregateId: aggregateId.value,
      eventType: eventType.value,
      data,
      ...(Option.isNone(metadata) ? {} : { metadata: metadata.value }),
      ...(Option.isNone(id) ? {} : { id: id.value }),
      ...(tags.length === 0 ? {} : { tags })
    }
    return [event]
  })

const { id, aggregateId, eventType, tags } = NewEvent.fields

/** An event on a line of stdin. A line with other parts, as `read --json` writes it, is refused: they would be lost. */
const Line = exactJson("bigint").pipe(
  Schema.decodeTo(
    Schema.Struct({ id, aggregateId, eventType, data: SafeJson, metadata: Schema.optionalKey(SafeJsonObject), tags })
  )
)

const decodeLine = Schema.decodeUnknownEffect(Line, { onExcessProperty: "error", errors: "all" })

const fromStdin = linesOf(stdin).pipe(
  Stream.filter(({ text }) => text.trim() !== ""),
  Stream.mapEffect(({ number, text }) =>
    Effect.mapError(decodeLine(text), ({ issue }) => {
      const issues = invalidInput("", "", issue).issues.map(({ field, message }) => `${field} ${message}`.trim())
      return new WrongUsage({ message: `line ${number} of stdin is no event: ${issues.join("; ")}` })
    })
  ),
  Stream.runCollect
)

export const append = Command.make("append", flags).pipe(
  Command.withDescription(
    "Appends one event, or in one transaction those of JSON lines on stdin, and shows them as they are stored"
  ),
  Command.withExamples([
    {
      command: `strata events append --aggregate user-123 --type UserCreated --data '{"name":"John"}' --expected none`,
      description: "The first event of an aggregate"
    },
    {
      command: `echo '{"aggregateId":"user-123","eventType":"UserSeen","data":{}}' | strata events append`,
      description: "From JSON lines, in one transaction"
    }
  ]),
  Command.withHandler((input) =>
    Effect.gen(function* () {
      const { stdin } = yield* HostProcess
      if (isFromStdin(input) && stdin.isTTY === true) {
        return yield* new WrongUsage({ message: "no event; give --aggregate and --type, or JSON lines on stdin" })
      }
      const events = yield* isFromStdin(input) ? fromStdin : fromFlags(input)
      const stored: ReadonlyArray<StoredEvent> = yield* EventStore.use((store) =>
        store.append(events, { expected: input.expected, onDuplicate: input.ignoreDuplicates ? "ignore" : "fail" })
      )
      yield* Output.list(Stream.fromIterable(stored), listing)
    })
  ),
  Command.provide(Database.layer)
)
