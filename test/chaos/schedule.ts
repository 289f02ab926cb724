/** When which fault comes: the same for the same seed, as long as it lasts. */
import { Effect, Random } from "effect"

export const kinds = [
  "kill a backend",
  "kill a process",
  "pause a process",
  "stop a host in a batch",
  "step a clock",
  "stop the server fast",
  "stop the server immediately",
  "kill the server",
  "promote a standby early",
  "promote a standby late",
  "set the log back",
  "stall the network",
  "cut the network",
  "silence the network",
  "let connections die",
  "refuse connections",
  "fill the server",
  "fill a pool",
  "lock a table",
  "start a Go service",
  "hold a transaction",
  "prepare a transaction"
] as const
export type Kind = (typeof kinds)[number]

export interface Fault {
  readonly kind: Kind
  /** Milliseconds from the start. */
  readonly at: number
  /** How long it lasts. */
  readonly millis: number
  /** From 0 to 1: whom it meets, or how it ends. */
  readonly pick: number
  /** From 0 to 1: how far it goes. */
  readonly extent: number
}

/** Every kind of fault comes once before any comes again, each time in another order. Faults may overlap. */
export const schedule = (seed: number, millis: number): Effect.Effect<ReadonlyArray<Fault>> =>
  Effect.gen(function* () {
    const faults: Array<Fault> = []
    let at = 1000
    while (true) {
      for (const kind of yield* Random.shuffle(kinds)) {
        const fault = {
          kind,
          at,
          millis: yield* Random.nextIntBetween(200, 4000),
          pick: yield* Random.next,
          extent: yield* Random.next
        }
        if (at > millis) return faults
        faults.push(fault)
        at += yield* Random.nextIntBetween(500, 4000)
      }
    }
  }).pipe(Random.withSeed(seed))

/**
 * The fault after all others. Before it, a fault that breaks connections would end, and so hide, a wait that a clock has
 * made too long.
 */
export const last = (at: number): Fault => ({ kind: "step a clock", at, millis: 3000, pick: 0, extent: 0 })
