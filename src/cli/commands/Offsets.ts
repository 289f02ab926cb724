/** `strata offsets`: how far each shard of each projection has read. */
import { DateTime, Effect, Option, Stream } from "effect"
import { Argument, Command } from "effect/cli"
import type { Offset } from "../../OffsetStore.ts"
import { OffsetStore } from "../../OffsetStore.ts"
import { int64 } from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"

/** The time, or the number itself if it is no time: the Go originals and other programs may have put something else there. */
const timeOf = (timestamp: bigint): string =>
  Option.match(DateTime.make(Number(timestamp)), { onNone: () => String(timestamp), onSome: DateTime.formatIso })

const listing: Output.Listing<Offset> = {
  columns: [
    { title: "PROJECTION", show: ({ projectionName }) => projectionName },
    { title: "SHARD", show: ({ shardNumber }) => String(shardNumber), right: true },
    { title: "OFFSET", show: ({ value }) => String(value), right: true },
    { title: "WRITTEN AT", show: ({ timestamp }) => timeOf(timestamp) }
  ],
  toJson: ({ projectionName, shardNumber, timestamp, value }) => ({ projectionName, shardNumber, value, timestamp }),
  nothing: "no offsets",
  gather: true
}

const projection = Argument.String("projection").pipe(Argument.withDescription("The name of the projection"))
const shard = Argument.Int("shard").pipe(Argument.withDescription("The number of the shard"))
const value = int64("offset").pipe(Argument.withDescription("The offset"))

const list = Command.make("list", { projection: Argument.optional(projection) }).pipe(
  Command.withDescription("Lists every offset, or those of one projection"),
  Command.withExamples([{ command: "strata offsets list accounts", description: "Every shard of one projection" }]),
  Command.withHandler(({ projection }) =>
    OffsetStore.use((offsets) => Output.list(offsets.listOffsets(Option.getOrUndefined(projection)), listing))
  ),
  Command.provide(Database.layer)
)

const get = Command.make("get", { projection, shard: Argument.withDefault(shard, 0) }).pipe(
  Command.withDescription("Shows the offset of one shard, 0 unless given. Fails if the shard has none"),
  Command.withExamples([{ command: "strata offsets get accounts 3", description: "How far shard 3 has read" }]),
  Command.withHandler(({ projection, shard }) =>
    Effect.gen(function* () {
      const offsets = yield* OffsetStore
      const found = yield* offsets.getCurrentOffset({ projectionName: projection, shardNumber: shard })
      if (Option.isNone(found)) {
        return yield* new CommandFailed({ message: `shard ${shard} of the projection "${projection}" has no offset` })
      }
      yield* Output.list(Stream.succeed(found.value), listing)
    })
  ),
  Command.provide(Database.layer)
)

const set = Command.make("set", { projection, shard, value, yes }).pipe(
  Command.withDescription("Sets the offset of one shard, whatever it was. The projection goes on from there"),
  Command.withExamples([
    { command: "strata offsets set accounts 0 41 --yes", description: "Go on after version 41, without a question" }
  ]),
  Command.withHandler(({ projection, shard, value, yes }) =>
    Effect.gen(function* () {
      const { getCurrentOffset, writeOffset } = yield* OffsetStore
      const id = { projectionName: projection, shardNumber: shard }
      const before = yield* getCurrentOffset(id)
      const now = Option.match(before, {
        onNone: () => "which has none",
        onSome: ({ value }) => `which is at ${value}`
      })
      yield* confirm(`Set shard ${shard} of the projection "${projection}", ${now}, to ${value}?`, yes)
      yield* writeOffset({ ...id, value })
      yield* Output.done(`Shard ${shard} of the projection "${projection}" is at ${value}`, { ...id, value })
    })
  ),
  Command.provide(Database.layer)
)

const reset = Command.make("reset", { projection, value: Argument.withDefault(value, 0n), yes }).pipe(
  Command.withDescription("Sets every shard of a projection to one offset, 0 unless given"),
  Command.withExamples([
    { command: "strata offsets reset accounts", description: "Read the log from its start again" }
  ]),
  Command.withHandler(({ projection, value, yes }) =>
    Effect.gen(function* () {
      yield* confirm(`Set every shard of the projection "${projection}" to ${value}?`, yes)
      const shards = yield* OffsetStore.use(({ resetOffset }) => resetOffset(projection, value))
      yield* Output.done(`${Output.count(shards, "shard")} of the projection "${projection}" set to ${value}`, {
        projectionName: projection,
        value,
        shards
      })
    })
  ),
  Command.provide(Database.layer)
)

const remove = Command.make("delete", { projection, yes }).pipe(
  Command.withDescription("Deletes every offset of a projection"),
  Command.withExamples([{ command: "strata offsets delete accounts --yes", description: "Forget a projection" }]),
  Command.withHandler(({ projection, yes }) =>
    Effect.gen(function* () {
      yield* confirm(`Delete every offset of the projection "${projection}"?`, yes)
      const shards = yield* OffsetStore.use(({ deleteOffsets }) => deleteOffsets(projection))
      yield* Output.done(`${Output.count(shards, "offset")} of the projection "${projection}" deleted`, {
        projectionName: projection,
        shards
      })
    })
  ),
  Command.provide(Database.layer)
)

export const offsets = Command.make("offsets").pipe(
  Command.withDescription("How far projections have read"),
  Command.withExamples([{ command: "strata offsets list", description: "Every shard of every projection" }]),
  Command.withSubcommands([list, get, set, reset, remove])
)
