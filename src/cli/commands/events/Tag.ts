/** `strata events tag`: tags for events that are in the log. */
import { Effect, Option, Result, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { tagAll } from "../../../events/Tagging.ts"
import { EventStore, type StoredEvent } from "../../../EventStore.ts"
import * as Parameters from "../../arguments/Parameters.ts"
import * as TagTemplate from "../../arguments/TagTemplate.ts"
import * as Database from "../../connection/Database.ts"
import { CommandFailed } from "../../terminal/CommandErrors.ts"
import { HostProcess } from "../../terminal/HostProcess.ts"
import * as Output from "../../terminal/Output.ts"
import { say } from "../../terminal/Printable.ts"
import * as Progress from "../../terminal/Progress.ts"

const flags = {
  eventTypes: Parameters.key("type").pipe(
    Flag.atLeast(0),
    Flag.withDescription("Only events of this type; give it again for others")
  ),
  templates: Parameters.tagTemplate("tag").pipe(
    Flag.atLeast(1),
    Flag.withDescription(
      "A tag, in which {course} stands for that field of the data, {address.city} for one in it, {@aggregateId} and " +
        "{@metadata.tenant} for those; a list gives a tag for each item; give it again for other tags"
    )
  ),
  from: Parameters.version("from").pipe(
    Flag.withDefault(1n),
    Flag.withDescription("Begin with this version: with the first event unless given")
  ),
  to: Parameters.version("to").pipe(
    Flag.optional,
    Flag.withDescription("End with this version: with the last event unless given")
  ),
  skipMissing: Parameters.toggle(
    "skip-missing",
    "Leave a tag out where the event lacks a field of it, instead of ending there"
  ),
  dryRun: Parameters.toggle("dry-run", "Change nothing: say how many events would get tags, and show the first of them")
}

type Flags = Command.Command.Config.Infer<typeof flags>

/** How many events a dry run shows. */
const maxShown = 5

/** The tags that the templates give an event. */
const tagsOf = Effect.fnUntraced(function* ({ skipMissing, templates }: Flags, event: StoredEvent) {
  const tags: Array<string> = []
  const failed = (because: string, remedy = "") =>
    new CommandFailed({ message: `event ${event.version} ("${event.eventType}"): ${because}${remedy}` })
  for (const template of templates) {
    const found = TagTemplate.tagsOf(template, event)
    if (Result.isFailure(found)) return yield* failed(found.failure)
    if (found.success.length === 0 && !skipMissing) {
      return yield* failed(`has no value for ${template.source}`, "; --skip-missing leaves the tag out")
    }
    tags.push(...found.success)
  }
  return tags
})

const tagEvents = Effect.fnUntraced(function* (input: Flags) {
  const { dryRun, eventTypes, from, to } = input
  const { stderr } = yield* HostProcess
  const store = yield* EventStore
  const latest = yield* store.latestVersion
  const upTo = Option.match(to, { onNone: () => latest, onSome: (to) => (to < latest ? to : latest) })
  const after = from === 0n ? 0n : from - 1n
  let last = after
  let [events, read, tags] = [0, 0, 0]
  const total = Math.max(0, Number(upTo - after))
  yield* Progress.during({ verb: "looked at", things: "versions", total }, ({ advance, say }) => {
    let shown = 0
    const shownTagsOf = (event: StoredEvent) =>
      Effect.tap(tagsOf(input, event), (tags) =>
        Effect.sync(() => {
          if (dryRun && tags.length > 0 && ++shown <= maxShown) say(`event ${event.version}: ${tags.join(", ")}`)
        })
      )
    const types = eventTypes.length === 0 ? undefined : eventTypes
    return Stream.runForEach(tagAll(store, types, shownTagsOf, { after, upTo, dryRun }), (step) => {
      const passed = Number(step.upTo.version - last)
      events += step.events
      read += step.read
      tags += step.tags
      last = step.upTo.version
      return advance(passed)
    })
  }).pipe(
    Effect.onError(() =>
      Effect.sync(() => {
        if (dryRun || read === 0) return
        say(stderr, `the events up to version ${last} have their tags; go on with --from ${last + 1n}`)
      })
    )
  )
  const verb = dryRun ? "would get" : "got"
  yield* Output.done(
    `${Output.count(events, "event")} ${verb} ${Output.count(tags, "tag")}; ${Output.count(read, "event")} looked at`,
    { events, tags, read, dryRun }
  )
})

export const tag = Command.make("tag", flags).pipe(
  Command.withDescription(
    "Gives events that are in the log tags, in batches. What has them already is left alone: run it again to go on"
  ),
  Command.withExamples([
    {
      command: "strata events tag --type StudentSubscribed --tag 'course:{course}' --tag 'student:{student}'",
      description: "By fields of the data"
    },
    {
      command: "strata events tag --tag 'order:{@aggregateId}' --from 1000 --to 2000 --dry-run",
      description: "What would become of a part of the log"
    }
  ]),
  Command.withHandler(tagEvents),
  Command.provide(Database.layer)
)
