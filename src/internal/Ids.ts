/** The ids that the stores give: UUIDv7, so that ids of the same time are side by side in an index. */
import { Effect, Option } from "effect"
import { SecureRandom } from "effect/crypto"
import { Hex } from "effect/encoding"

/** Random bytes of the platform, drawn 4,096 at a time: a call for a few bytes costs as much. */
const platformRandom = () => {
  const draw = (size: number) => globalThis.crypto.getRandomValues(new Uint8Array(size))
  let drawn = new Uint8Array(0)
  return (size: number): Uint8Array => {
    if (size > 4096) return draw(size)
    if (size > drawn.length) drawn = draw(4096)
    const bytes = drawn.subarray(0, size)
    drawn = drawn.subarray(size)
    return bytes
  }
}

const platform = SecureRandom.make(platformRandom())

/** The generator of ids: the `SecureRandom` that is provided, else one on the platform's own random bytes. */
export const idGenerator: Effect.Effect<SecureRandom.SecureRandom["Service"]> = Effect.map(
  Effect.serviceOption(SecureRandom.SecureRandom),
  Option.getOrElse(() => platform)
)

/** The ids of things that may have one, in their order: each without one gets a new one. */
export const idsOf = (
  random: SecureRandom.SecureRandom["Service"],
  things: ReadonlyArray<{ readonly id?: string | undefined }>
): Effect.Effect<ReadonlyArray<string>> =>
  things.length === 1 && things[0]?.id === undefined
    ? Effect.map(random.uuidV7(), (id) => [id])
    : Effect.forEach(things, ({ id }) => (id === undefined ? random.uuidV7() : Effect.succeed(id)))

/** A UUID (version 8) that follows from the parts: the same parts always give the same id, and other parts another one. */
export const derivedId = (parts: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.map(
    // As JSON, so that no part can run into the next one.
    Effect.promise(() => globalThis.crypto.subtle.digest("SHA-256", new TextEncoder().encode(JSON.stringify(parts)))),
    (digest) => {
      const bytes = new Uint8Array(digest, 0, 16)
      bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80
      bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
      return Hex.encode(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")
    }
  )

/** Whether an id is the text of a UUID as Postgres writes it: any other text of the same UUID is another id. */
export const isUuid = (id: string): boolean => /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)
