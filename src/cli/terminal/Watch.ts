/** Shows something again and again, where `--watch` asks for it. */
import { Duration, Effect } from "effect"
import { Flag } from "effect/cli"
import * as Parameters from "../arguments/Parameters.ts"
import { whileRead } from "./ClosedPipe.ts"
import * as Output from "./Output.ts"

export const watchFlags = {
  watch: Parameters.toggle("watch", "Show it again and again, until Ctrl-C"),
  interval: Parameters.duration("interval").pipe(
    Flag.withDefault(Duration.seconds(1)),
    Flag.withDescription("The pause before it is shown again; 1s unless given")
  )
}

const clearScreen = "\u001b[H\u001b[2J"

/** Shows it once, or until the command is interrupted. On a terminal, it begins each time on an empty screen. */
export const watched = <E, R>(
  { interval, watch }: { readonly watch: boolean; readonly interval: Duration.Duration },
  show: Effect.Effect<void, E, R>
) =>
  watch
    ? Output.isTerminal.pipe(
        Effect.flatMap((terminal) => (terminal ? Output.write(clearScreen) : Effect.void)),
        Effect.andThen(show),
        Effect.andThen(Effect.sleep(interval)),
        Effect.forever,
        whileRead
      )
    : show
