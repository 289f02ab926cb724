/** What the command has of the process that it runs in. */
import { Context } from "effect"
import type { Writable } from "node:stream"

/** A stream that the command writes to, and that may be a terminal. */
export interface Target extends Writable {
  readonly isTTY?: boolean | undefined
  /** The width of the terminal. */
  readonly columns?: number | undefined
}

/** A stream that the command reads, and that may be a terminal. */
export interface Source extends AsyncIterable<unknown> {
  readonly isTTY?: boolean | undefined
}

/**
 * The environment and the standard streams of the process.
 *
 * **Details**
 *
 * Nothing in the command reads `process` by itself, so that tests can run it without a process of its own. Only a question
 * on a terminal is asked, and answered, on the streams of the real process.
 */
export class HostProcess extends Context.Service<
  HostProcess,
  {
    readonly env: Readonly<Record<string, string | undefined>>
    readonly stdin: Source
    readonly stdout: Target
    readonly stderr: Target
  }
>()("effect-strata/cli/HostProcess") {}
