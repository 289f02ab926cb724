/** What a console shows and allows. */
import { Context, Effect } from "effect"
import type { HttpServerRequest } from "effect/http"

export interface Settings {
  /** Whether the console may change anything. */
  readonly allowWrites: boolean
  /** Whether it shows what the application has stored: data of events, payloads, states, errors of handlers. */
  readonly showPayloads: boolean
  /** Who makes a request, for the log of changes: `undefined` where nobody knows. */
  readonly who: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<string | undefined>
  /** The hosts, each with its port, by which the console may be called. Any host where it is absent. */
  readonly hosts: ReadonlyArray<string> | undefined
}

/** Reads only, shows everything, and knows nobody. */
const defaults: Settings = {
  allowWrites: false,
  showPayloads: true,
  who: () => Effect.succeed(undefined),
  hosts: undefined
}

export const Settings = Context.Reference<Settings>("effect-strata/console/Settings", { defaultValue: () => defaults })

/** What the application has stored, if the console shows it. */
export const stored = <A>({ showPayloads }: Settings, value: A): A | null => (showPayloads ? value : null)
