/** What a console shows and allows. */
import { Context, Effect, type Stream } from "effect"
import type { HttpServerRequest } from "effect/http"
import type { StoredEvent } from "../EventStore.ts"
import type { InvalidInput } from "../InvalidInput.ts"
import type { Stores } from "../postgres/index.ts"
import { BadRequest } from "./api/Fields.ts"

/** An entity of the application, as the console asks it. */
export interface KnownEntity {
  readonly name: string
  readonly history: (aggregateId: string) => Stream.Stream<
    {
      readonly event: Pick<StoredEvent, "version">
      readonly state: unknown
    },
    Error
  >
}

/** How an application gives one: `Entity.make` is such an effect. */
export type GivenEntity = Effect.Effect<KnownEntity, InvalidInput, Stores>

export interface Settings {
  /** Whether the console may change anything. */
  readonly allowWrites: boolean
  /** Whether it shows what the application has stored: data of events, payloads, states, errors of handlers. */
  readonly showPayloads: boolean
  /** Who makes a request, for the log of changes: `undefined` where nobody knows. */
  readonly who: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<string | undefined>
  /** The hosts, each with its port, by which the console may be called. Any host where it is absent. */
  readonly hosts: ReadonlyArray<string> | undefined
  /** What makes states of the events of an aggregate. */
  readonly entities: ReadonlyArray<GivenEntity>
}

/** Reads only, shows everything, and knows nobody. */
const defaults: Settings = {
  allowWrites: false,
  showPayloads: true,
  who: () => Effect.succeed(undefined),
  hosts: undefined,
  entities: []
}

export const Settings = Context.Reference<Settings>("effect-strata/console/Settings", { defaultValue: () => defaults })

/** What the application has stored, if the console shows it. */
export const stored = <A>({ showPayloads }: Settings, value: A): A | null => (showPayloads ? value : null)

/** Fails where the console hides what the application has stored: nobody can guess it from the answers. */
export const whereShown = ({ showPayloads }: Settings, message: string): Effect.Effect<void, BadRequest> =>
  showPayloads ? Effect.void : Effect.fail(new BadRequest({ message }))
