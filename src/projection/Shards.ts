/** Which shard an aggregate belongs to, and which runner a shard. */
import type { Runner } from "./Records.ts"

const encoder = new TextEncoder()

/** FNV-1a with 32 bits, of the UTF-8 bytes. */
export const fnv1a = (text: string): number => {
  let hash = 0x811c9dc5
  for (const byte of encoder.encode(text)) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}

/**
 * The shard of an aggregate: FNV-1a (32 bits) of the UTF-8 bytes of its id, modulo the number of shards. It never changes.
 *
 * ```ts
 * import { Projection } from "effect-strata"
 *
 * Projection.shardOf("user-123", 4)
 * ```
 */
export const shardOf = (aggregateId: string, shards: number): number => (shards === 1 ? 0 : fnv1a(aggregateId) % shards)

/** The id of the runner of each shard: every process that knows the same runners comes to the same result. */
export const runnersOfShards = (runners: ReadonlyArray<Runner>, shards: number): ReadonlyMap<number, string> => {
  const ids = runners.map(({ id }) => id).sort()
  return new Map(
    Array.from({ length: shards }, (_, shard) => shard).flatMap((shard) => {
      const id = ids[shard % ids.length]
      return id === undefined ? [] : [[shard, id] as const]
    })
  )
}
