/**
 * States that are protobuf messages, as eGo stores them.
 *
 * ```ts
 * import { create } from "@bufbuild/protobuf"
 * import { type Duration, DurationSchema } from "@bufbuild/protobuf/wkt"
 * import { Effect } from "effect"
 * import { DurableStateStore } from "effect-strata"
 * import { protobuf } from "effect-strata/protobuf"
 *
 * // DurationSchema stands for a schema that protoc-gen-es has generated from your .proto file.
 * export const program = Effect.gen(function* () {
 *   const timers = yield* DurableStateStore.typed({
 *     codec: protobuf(DurationSchema),
 *     initial: () => create(DurationSchema)
 *   })
 *   yield* timers.modify("timer-1", ({ seconds }: Duration) => create(DurationSchema, { seconds: seconds + 60n }))
 * })
 * ```
 */
import {
  create,
  type DescMessage,
  fromBinary,
  isMessage,
  type Message,
  type MessageShape,
  type Registry,
  toBinary
} from "@bufbuild/protobuf"
import { AnySchema } from "@bufbuild/protobuf/wkt"
import { Effect } from "effect"
import { CodecError, codecError, type StateCodec, UnknownManifest } from "../StateCodec.ts"

/** How deep messages may nest: as deep as in Go. With the default of 100, messages could be written and not be read again. */
const recursionLimit = 10_000

const attempt = <A>(manifest: string, f: () => A): Effect.Effect<A, CodecError> =>
  Effect.try({ try: f, catch: (cause) => codecError(manifest, cause) })

const make = <Desc extends DescMessage>(
  find: (typeName: string) => Desc | undefined
): StateCodec<MessageShape<Desc>> => {
  const known = (typeName: string): Effect.Effect<Desc, UnknownManifest> =>
    Effect.suspend(() => {
      const desc = find(typeName)
      return desc === undefined ? Effect.fail(new UnknownManifest({ manifest: typeName })) : Effect.succeed(desc)
    })

  const read = (typeName: string, bytes: Uint8Array) =>
    Effect.flatMap(known(typeName), (desc) => attempt(typeName, () => fromBinary(desc, bytes, { recursionLimit })))

  return {
    encode: (message) =>
      Effect.gen(function* () {
        if (!isMessage(message)) {
          return yield* new CodecError({ manifest: AnySchema.typeName, message: "no message made by `create`" })
        }
        const { $typeName: typeName } = message
        const desc = yield* known(typeName)
        const value = yield* attempt(typeName, () => toBinary(desc, message))
        const any = create(AnySchema, { typeUrl: `type.googleapis.com/${typeName}`, value })
        return { manifest: AnySchema.typeName, payload: toBinary(AnySchema, any) }
      }),
    decode: ({ manifest, payload }) =>
      manifest !== AnySchema.typeName
        ? read(manifest, payload)
        : Effect.flatMap(
            attempt(manifest, () => fromBinary(AnySchema, payload)),
            ({ typeUrl, value }) =>
              typeUrl === ""
                ? Effect.fail(new CodecError({ manifest, message: "an Any without a type" }))
                : // Only the part after the last slash is the type's name. Protobuf leaves the part before it open.
                  read(typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value)
          )
  }
}

/**
 * Stores messages of a registry, or of the types that are given, with every message that they contain.
 *
 * **Details**
 *
 * The codec writes as eGo does: a `google.protobuf.Any` of the message, under the manifest `google.protobuf.Any`. It reads
 * that, and also a message by itself under its full name. A type that is not given is `UnknownManifest`. Fields that the
 * descriptors do not know are kept.
 */
export function protobuf(registry: Registry): StateCodec<Message>
export function protobuf<Types extends ReadonlyArray<DescMessage>>(
  ...types: Types
): StateCodec<MessageShape<Types[number]>>
export function protobuf(...sources: ReadonlyArray<Registry | DescMessage>): StateCodec<Message> {
  return make((typeName) => {
    for (const source of sources) {
      if (source.kind === "registry") return source.getMessage(typeName)
      if (source.typeName === typeName) return source
    }
    return undefined
  })
}
