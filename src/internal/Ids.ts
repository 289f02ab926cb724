/** The ids that the stores give: UUIDv7, so that ids of the same time are side by side in an index. */
import { Effect, Option } from "effect"
import { SecureRandom } from "effect/crypto"

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
