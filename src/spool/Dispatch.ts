/**
 * Hands leased messages to their handlers: as many at a time as the worker's concurrency allows, in the order in which they
 * were claimed.
 *
 * **Details**
 *
 * A message waits, then it is handled, then its outcome is settled. Its lease can be lost in each of these steps: while it
 * waits, it is dropped; while it is handled, its handler is interrupted, and the end of the handler decides nothing; once
 * its outcome is known, settling it finds the loss. A handler that is interrupted for any other reason, at the end of the
 * worker, releases its message.
 */
import { Effect, Exit, type Fiber, Latch } from "effect"
import { leaseOf, type Outcome, type SpoolMessage } from "../SpoolStore.ts"
import { forget, type Lease, type Leased, type LeasedMessages, warnOfLoss } from "./Leased.ts"
import type { Settlements } from "./Settlements.ts"

export interface Limits {
  readonly queue: string
  /** How many messages are handled at a time. */
  readonly concurrency: number
  /** How many more are claimed ahead. */
  readonly buffer: number
}

/** Begins to handle a message. The result of the fiber is what becomes of the message: nothing if it is settled already. */
export type Start = (message: SpoolMessage, lease: Lease) => Fiber.Fiber<Outcome | undefined>

export class Dispatch {
  /** Open while there is room for another claim. */
  readonly room: Latch.Latch = Latch.makeUnsafe(true)
  /** Open while nothing is being handled. */
  readonly quiet: Latch.Latch = Latch.makeUnsafe(true)
  private readonly limits: Limits
  private readonly messages: LeasedMessages
  private readonly settlements: Settlements
  private readonly start: Start
  private readonly waiting: Array<Leased> = []
  private running = 0
  private isBeginning = false
  private isStopping = false

  constructor(limits: Limits, messages: LeasedMessages, settlements: Settlements, start: Start) {
    this.limits = limits
    this.messages = messages
    this.settlements = settlements
    this.start = start
  }

  /** How many messages may be claimed now. */
  get capacity(): number {
    return this.limits.concurrency + this.limits.buffer - this.running - this.waiting.length
  }

  /** Takes in messages that were just claimed, and begins to handle those that there is room for. */
  add(messages: ReadonlyArray<SpoolMessage>, owner: string): void {
    for (const message of messages) {
      // The worker had lost its lease without knowing it, and has claimed the message again.
      const former = this.messages.get(message.id)
      if (former !== undefined) this.drop(former)
      const lease = leaseOf(message, owner)
      const leased: Leased = { lease, message, fiber: undefined, outcome: undefined, isLost: false }
      this.messages.set(message.id, leased)
      this.waiting.push(leased)
    }
    this.begin()
  }

  /** Stops handling messages whose leases are lost. Where the outcome is known already, settling it will tell of the loss. */
  giveUp(lost: ReadonlyArray<Pick<Lease, "id" | "owner">>, why?: string): Effect.Effect<void> {
    return Effect.suspend(() => {
      const dropped: Array<Leased> = []
      for (const { id, owner } of lost) {
        const leased = this.messages.get(id)
        if (leased === undefined || leased.lease.owner !== owner || leased.outcome !== undefined) continue
        this.drop(leased)
        dropped.push(leased)
      }
      this.begin()
      return Effect.forEach(dropped, ({ lease }) => warnOfLoss(this.limits.queue)(lease, why), { discard: true })
    })
  }

  /** From now on no handler begins. */
  stop(): void {
    this.isStopping = true
  }

  /** Gives back what no handler has begun with. */
  releaseWaiting(): void {
    for (const leased of this.waiting.splice(0)) this.release(leased)
  }

  /** Interrupts every handler. Their messages are released. */
  interruptAll(): void {
    for (const { fiber } of this.messages.values()) fiber?.interruptUnsafe()
  }

  private begin(): void {
    // The end of a handler that ends at once comes back here: the loop below goes on with the next message.
    if (this.isBeginning) return
    this.isBeginning = true
    for (let leased = this.next(); leased !== undefined; leased = this.next()) {
      this.running++
      this.quiet.closeUnsafe()
      const one = leased
      const fiber = this.start(one.message, one.lease)
      one.fiber = fiber
      // An observer sees every end: a fiber that is interrupted before its first step runs nothing that it has been given.
      fiber.addObserver((exit) => this.end(one, exit))
    }
    this.isBeginning = false
    if (this.hasRoom) this.room.openUnsafe()
    else this.room.closeUnsafe()
  }

  private next(): Leased | undefined {
    return this.isStopping || this.running === this.limits.concurrency ? undefined : this.waiting.shift()
  }

  /** Half of the buffer is claimed at a time: a claim is cheap because it brings many messages. */
  private get hasRoom(): boolean {
    return this.waiting.length <= this.limits.buffer / 2 && this.capacity > 0
  }

  private end(leased: Leased, exit: Exit.Exit<Outcome | undefined>): void {
    this.running--
    if (leased.isLost) forget(this.messages, leased)
    // Nothing interrupts a handler but the loss of its lease and the end of the worker.
    else if (Exit.isFailure(exit)) this.release(leased)
    else if (exit.value === undefined) forget(this.messages, leased)
    else this.settlements.add(leased, exit.value)
    this.begin()
    // The latch opens last, because the end of the worker waits for it, and goes on at once.
    if (this.running === 0) this.quiet.openUnsafe()
  }

  private release(leased: Leased): void {
    this.settlements.add(leased, { outcome: "released", ...leased.lease })
  }

  /** Leaves the message to the worker that has it now. */
  private drop(leased: Leased): void {
    leased.isLost = true
    const place = this.waiting.indexOf(leased)
    if (place !== -1) this.waiting.splice(place, 1)
    this.settlements.withdraw(leased)
    forget(this.messages, leased)
    leased.fiber?.interruptUnsafe()
  }
}
