/**
 * How the value of a state becomes bytes with a manifest that says what they are, and back.
 *
 * `json` is here; `effect-strata/protobuf` has codecs of protobuf messages, as eGo stores them.
 *
 * ```ts
 * import { Schema } from "effect"
 * import { StateCodec } from "effect-strata"
 *
 * class AccountV1 extends Schema.Class<AccountV1>("Account")({ balance: Schema.Number }) {}
 *
 * class Account extends Schema.Class<Account>("Account.v2")({ cents: Schema.BigInt }) {}
 *
 * // Writes "Account.v2", and reads "Account" too.
 * export const codec = StateCodec.upcast(StateCodec.json(Account), {
 *   from: StateCodec.json(AccountV1),
 *   map: ({ balance }) => new Account({ cents: BigInt(Math.round(balance * 100)) })
 * })
 * ```
 */
import { Effect, Schema, SchemaAST } from "effect"
import { fromText, toText } from "./internal/ExactJson.ts"
import { plainObjects } from "./internal/PlainObject.ts"

/** A value as it is stored. */
export interface Encoded {
  readonly manifest: string
  readonly payload: Uint8Array
}

/**
 * The codec does not know this manifest, or the type that it stands for.
 *
 * **Remedy**
 *
 * Add the type to the codec, or a codec for it.
 */
export class UnknownManifest extends Schema.TaggedError<UnknownManifest>("effect-strata/StateCodec/UnknownManifest")(
  "UnknownManifest",
  { manifest: Schema.String }
) {
  override get message(): string {
    return `no codec for "${this.manifest}"`
  }
}

/**
 * The value, or the bytes, are not what the manifest says.
 *
 * **Remedy**
 *
 * Give the store the codec that has written the state, or one that reads what it wrote, too.
 */
export class CodecError extends Schema.TaggedError<CodecError>("effect-strata/StateCodec/CodecError")("CodecError", {
  manifest: Schema.String,
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** Turns values into what is stored, and back. `RD` and `RE` are the services that reading and writing need. */
export interface StateCodec<A, RD = never, RE = never> {
  readonly encode: (value: A) => Effect.Effect<Encoded, UnknownManifest | CodecError, RE>
  /** Fails with `UnknownManifest` for a manifest that the codec does not read, so that another codec can be tried. */
  readonly decode: (encoded: Encoded) => Effect.Effect<A, UnknownManifest | CodecError, RD>
}

/** Makes the error from what was thrown or failed while the value was encoded or the bytes were decoded. */
export const codecError = (manifest: string, cause: unknown): CodecError => {
  const message = cause instanceof Error ? cause.message : String(cause)
  // Not by a regular expression: one for the white space on both sides takes a second for 50 KB of spaces.
  const lines = message.split("\n").map((line) => line.trim())
  return new CodecError({ manifest, message: `no "${manifest}": ${lines.join(" ")}`, cause })
}

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })

/**
 * Stores values of any schema as JSON, with the schema's identifier as the manifest: that of a class, or the annotation
 * `identifier`.
 *
 * **Details**
 *
 * `Schema.toCodecJson` decides how values are written that JSON has no notation for: dates, big integers, bytes and
 * infinities as text, maps as pairs. A `Json.Int64` is a number with all of its digits. `manifest` takes the place of the
 * identifier. A codec without either fails at every value.
 *
 * **Gotchas**
 *
 * The manifest changes with the identifier of a class, not with its name. A field that is added needs a default for
 * decoding, or a new identifier and `upcast`.
 */
export const json = <A, E, RD, RE>(
  schema: Schema.Codec<A, E, RD, RE>,
  options: { readonly manifest?: string } = {}
): StateCodec<A, RD, RE> => {
  const manifest = options.manifest ?? SchemaAST.resolveIdentifier(schema.ast)
  if (manifest === undefined) {
    const anonymous = new CodecError({
      manifest: "",
      message: "the schema has no identifier: annotate it with one, or give the codec a manifest"
    })
    return { encode: () => Effect.fail(anonymous), decode: () => Effect.fail(anonymous) }
  }
  const Json = Schema.toCodecJson(schema)
  const encode = Schema.encodeEffect(Json)
  const decode = Schema.decodeUnknownEffect(Json)
  // Transformations may throw, and a value that nests too deep overflows the stack.
  const failing = <B, R>(effect: Effect.Effect<B, unknown, R>) =>
    Effect.mapError(Effect.catchDefect(effect, Effect.fail), (cause) => codecError(manifest, cause))
  return {
    encode: (value) =>
      failing(
        Effect.mapBoth(encode(value), {
          onSuccess: (json) => ({ manifest, payload: encoder.encode(toText(json)) }),
          onFailure: (error) => {
            const issues = plainObjects(error.issue, value)
            return issues.length === 0
              ? error
              : issues.map(({ field, message }) => (field === "" ? message : `${field}: ${message}`)).join("; ")
          }
        })
      ),
    decode: (encoded) =>
      encoded.manifest === manifest
        ? failing(Effect.suspend(() => decode(fromText(decoder.decode(encoded.payload)))))
        : Effect.fail(new UnknownManifest({ manifest: encoded.manifest }))
  }
}

/**
 * Also reads what an older codec has written, and makes today's value of it. It writes as the first codec does.
 *
 * **Details**
 *
 * The manifest decides which of the two codecs reads a state: the older codec gets what the first one does not know. Several
 * versions can be stacked in this way, and the older codec may be of another kind, such as protobuf.
 */
export const upcast = <A, RD, RE, B, RDB, REB>(
  codec: StateCodec<A, RD, RE>,
  older: { readonly from: StateCodec<B, RDB, REB>; readonly map: (value: B) => A }
): StateCodec<A, RD | RDB, RE> => ({
  encode: codec.encode,
  decode: (encoded) =>
    Effect.catchTag(codec.decode(encoded), "UnknownManifest", () =>
      Effect.flatMap(older.from.decode(encoded), (value) =>
        Effect.try({ try: () => older.map(value), catch: (cause) => codecError(encoded.manifest, cause) })
      )
    )
})
