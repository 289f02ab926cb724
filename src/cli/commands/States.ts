/** `strata states`: the latest state of each entity. */
import { DateTime, Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { readFile } from "node:fs/promises"
import { type DurableState, DurableStateStore } from "../../DurableStateStore.ts"
import { fromText, withDigits } from "../../internal/ExactJson.ts"
import { isTooDeep } from "../../internal/JsonText.ts"
import { idPrefix } from "../../Projection.ts"
import * as Parameters from "../arguments/Parameters.ts"
import * as Database from "../connection/Database.ts"
import { CommandFailed } from "../terminal/CommandErrors.ts"
import { confirm, yes } from "../terminal/Confirm.ts"
import * as Output from "../terminal/Output.ts"
import { fileError } from "../transfer/Lines.ts"

/** The column holds nanoseconds, as the Go originals have it. A number that is no such time is shown as it is. */
const timeOf = (timestamp: bigint): string =>
  Option.match(DateTime.make(Number(timestamp / 1_000_000n)), {
    onNone: () => String(timestamp),
    onSome: DateTime.formatIso
  })

const partsOf = ({ manifest, payload, persistenceId, shard, timestamp, versionNumber }: DurableState) => ({
  persistenceId,
  versionNumber,
  manifest,
  shard,
  timestamp,
  size: payload.length
})

const listing: Output.Listing<DurableState> = {
  columns: [
    { title: "ID", show: ({ persistenceId }) => persistenceId },
    { title: "VERSION", show: ({ versionNumber }) => String(versionNumber), right: true },
    { title: "SHARD", show: ({ shard }) => String(shard), right: true },
    { title: "BYTES", show: ({ payload }) => payload.length.toLocaleString("en-US"), right: true },
    { title: "WRITTEN AT", show: ({ timestamp }) => timeOf(timestamp) },
    { title: "MANIFEST", show: ({ manifest }) => manifest }
  ],
  toJson: partsOf,
  nothing: "no states"
}

const listFlags = {
  shard: Flag.Int("shard").pipe(
    Flag.optional,
    Flag.withMetavar("N"),
    Flag.withDescription("Only the entities of this shard")
  ),
  all: Parameters.toggle("all", "Also what projections keep about themselves, as states of their own"),
  manifest: Flag.String("manifest").pipe(
    Flag.optional,
    Flag.withMetavar("TEXT"),
    Flag.withDescription("Only the states with this manifest")
  )
}

const list = Command.make("list", listFlags).pipe(
  Command.withDescription("Lists the entities and their versions, without the states themselves"),
  Command.withExamples([{ command: "strata states list --shard 3", description: "Every entity of one shard" }]),
  Command.withHandler(({ all, manifest, shard }) =>
    DurableStateStore.use((states) =>
      Output.list(
        states
          .listStates({
            ...(Option.isNone(shard) ? {} : { shard: shard.value }),
            ...(Option.isNone(manifest) ? {} : { manifest: manifest.value })
          })
          .pipe(Stream.filter(({ persistenceId }) => all || !persistenceId.startsWith(idPrefix))),
        listing
      )
    )
  ),
  Command.provide(Database.layer)
)

const id = Argument.String("id").pipe(Argument.withDescription("The persistence id of the entity"))

/** The packages that decode protobuf, which the command loads only for `--descriptors`. */
const protobufPackages = Effect.tryPromise({
  try: async () => ({
    registry: await import("@bufbuild/protobuf"),
    wkt: await import("@bufbuild/protobuf/wkt"),
    codec: await import("../../protobuf/index.ts")
  }),
  catch: (cause) =>
    new CommandFailed({ message: "protobuf is not installed; run: npm install @bufbuild/protobuf", cause })
})

/** Decodes the states whose types are in a file of descriptors, as `protoc --descriptor_set_out` writes it. */
const protobufOf = Effect.fnUntraced(function* (path: string) {
  const attempt = <A>(f: () => A) =>
    Effect.try({
      try: f,
      catch: (cause) =>
        new CommandFailed({ message: `${path} holds no descriptors: protoc --include_imports makes them`, cause })
    })
  const { codec, registry, wkt } = yield* protobufPackages
  const bytes = yield* Effect.tryPromise({ try: () => readFile(path), catch: (cause) => fileError(path, cause) })
  const types = yield* attempt(() =>
    registry.createFileRegistry(registry.fromBinary(wkt.FileDescriptorSetSchema, bytes))
  )
  const { decode } = codec.protobuf(types)
  return (state: DurableState) =>
    Effect.flatMap(decode(state), (message) => {
      const desc = types.getMessage(message.$typeName)
      return desc === undefined
        ? Effect.succeed(undefined)
        : attempt(() => ({
            "@type": message.$typeName,
            value: registry.toJson(desc, message, { registry: types, useProtoFieldName: true })
          }))
    })
})

/** The value of a state that is JSON, of as many levels as can be shown; otherwise nothing. */
const jsonOf = ({ payload }: DurableState): unknown => {
  try {
    const json = new TextDecoder("utf-8", { fatal: true }).decode(payload)
    return isTooDeep(json) ? undefined : withDigits(fromText(json))
  } catch {
    return undefined
  }
}

const descriptors = Flag.String("descriptors").pipe(
  Flag.optional,
  Flag.withMetavar("FILE"),
  Flag.withDescription("The types of protobuf states: what protoc --include_imports --descriptor_set_out=FILE writes")
)

const show = Command.make("show", { id, descriptors }).pipe(
  Command.withDescription(
    "Shows the state of one entity: its value if it is JSON or protobuf of known types, and otherwise its bytes"
  ),
  Command.withExamples([
    { command: "strata states show account-42", description: "A state that is JSON" },
    { command: "strata states show account-42 --descriptors types.binpb", description: "A state that eGo has written" }
  ]),
  Command.withHandler(({ descriptors, id }) =>
    Effect.gen(function* () {
      const protobuf = Option.isNone(descriptors) ? undefined : yield* protobufOf(descriptors.value)
      const found = yield* DurableStateStore.use(({ getLatestState }) => getLatestState(id))
      if (Option.isNone(found)) return yield* new CommandFailed({ message: `"${id}" has no state` })
      const state = found.value
      const value = protobuf === undefined ? jsonOf(state) : yield* protobuf(state)
      yield* Output.record({
        ...partsOf(state),
        writtenAt: timeOf(state.timestamp),
        ...(value === undefined ? { base64: Buffer.from(state.payload).toString("base64") } : { value })
      })
    })
  ),
  Command.provide(Database.layer)
)

const remove = Command.make("delete", { id, yes }).pipe(
  Command.withDescription("Deletes the state of one entity. Fails if the entity has none"),
  Command.withExamples([{ command: "strata states delete account-42 --yes", description: "Without a question" }]),
  Command.withHandler(({ id, yes }) =>
    Effect.gen(function* () {
      yield* confirm(`Delete the state of "${id}", and forget its version?`, yes)
      const deleted = yield* DurableStateStore.use(({ deleteState }) => deleteState(id))
      if (!deleted) return yield* new CommandFailed({ message: `"${id}" has no state` })
      yield* Output.done(`The state of "${id}" is deleted`, { persistenceId: id })
    })
  ),
  Command.provide(Database.layer)
)

export const states = Command.make("states").pipe(
  Command.withDescription("The latest state of each entity"),
  Command.withExamples([{ command: "strata states list", description: "Every entity" }]),
  Command.withSubcommands([list, show, remove])
)
