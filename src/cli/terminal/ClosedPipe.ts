/**
 * Tells when the program that reads a pipe has closed it, and ends what only shows something.
 *
 * **Details**
 *
 * A write to such a pipe fails, and that ends a command that writes. A command that waits for something to write would wait
 * on, with its connection, after `head` has ended. The kernel tells it to `poll`, which Node has nowhere but in its WASI, and
 * there it works for pipes and sockets of Linux and macOS. Where it does not work (a file, Windows, a runtime other than
 * Node) nothing is told, and the next write is what ends the command.
 */
import { Context, Effect } from "effect"

/** How often the pipe is looked at. A look takes some microseconds. */
const lookInterval = "250 millis"

// Node has it, and the types of Node do not.
declare const WebAssembly: {
  readonly Memory: new (size: { readonly initial: number }) => { readonly buffer: ArrayBuffer }
}

// The layout of WASI's `poll_oneoff`: one subscription, one event, and their number, in a memory of their own.
const subscriptionAt = 0
const eventAt = 48
const countAt = 80
const writable = 2
const hangup = 1

/** Makes the look at a file descriptor: whether its reader is gone, or `undefined` where nobody can tell. */
const lookAt = (fd: number) => {
  // WASI warns on stderr that Node may change it: then no look works, and nothing else changes.
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    const { WASI } = process.getBuiltinModule("node:wasi")
    const wasi = new WASI({ version: "preview1", stdout: fd })
    const memory = new WebAssembly.Memory({ initial: 1 })
    wasi.initialize({ exports: { memory } })
    const poll: unknown = wasi.wasiImport["poll_oneoff"]
    const view = new DataView(memory.buffer)
    view.setUint8(subscriptionAt + 8, writable)
    view.setUint32(subscriptionAt + 16, 1, true)
    return (): boolean | undefined => {
      if (typeof poll !== "function" || poll(subscriptionAt, eventAt, 1, countAt) !== 0) return undefined
      return view.getUint16(eventAt + 8, true) !== 0 || (view.getUint16(eventAt + 24, true) & hangup) !== 0
    }
  } finally {
    process.emitWarning = emitWarning
  }
}

/** Ends once nobody can read any more what is written to the file descriptor. */
export const untilClosed = (fd: number): Effect.Effect<void> =>
  Effect.try(() => lookAt(fd)).pipe(
    Effect.flatMap((look) => {
      let isClosed: boolean | undefined = false
      return Effect.whileLoop({
        while: () => isClosed === false,
        body: () => Effect.sleep(lookInterval),
        step: () => {
          isClosed = look()
        }
      }).pipe(Effect.andThen(Effect.suspend(() => (isClosed === true ? Effect.void : Effect.never))))
    }),
    Effect.catch(() => Effect.never)
  )

/** Ends once nobody reads the output of the command any more; never, where nobody can tell. */
export const OutputUnread = Context.Reference<Effect.Effect<void>>("effect-strata/cli/OutputUnread", {
  defaultValue: () => Effect.never
})

/** Ends what only shows something once nobody looks any more. What changes something goes on to its end. */
export const whileRead = <E, R>(effect: Effect.Effect<void, E, R>): Effect.Effect<void, E, R> =>
  Effect.flatMap(OutputUnread, (unread) => Effect.raceFirst(effect, unread))
