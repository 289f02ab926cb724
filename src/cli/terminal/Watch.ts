/** Looks again and again, where `--watch` asks for it. */
import { Effect } from "effect"
import { Flag } from "effect/cli"
import * as Parameters from "../arguments/Parameters.ts"
import * as Output from "./Output.ts"

export const watchFlags = {
  watch: Flag.Boolean("watch").pipe(
    Flag.withDefault(false),
    Flag.withoutNegation,
    Flag.withDescription("Again and again, until Ctrl-C")
  ),
  interval: Parameters.duration("interval").pipe(
    Flag.withDefault(1000),
    Flag.withDescription("The time between two looks; 1s unless given")
  )
}

const clear = "\u001b[H\u001b[2J"

/** Shows once, or over and over: on a terminal each time on an empty screen. */
export const watched = <E, R>(
  { interval, watch }: { readonly watch: boolean; readonly interval: number },
  show: Effect.Effect<void, E, R>
) =>
  watch
    ? Output.isTerminal.pipe(
        Effect.flatMap((terminal) => (terminal ? Output.write(clear) : Effect.void)),
        Effect.andThen(show),
        Effect.andThen(Effect.sleep(interval)),
        Effect.forever
      )
    : show
