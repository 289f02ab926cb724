/**
 * The console: all of a database's events, projections and messages in a browser, for the application's own `HttpRouter`.
 *
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Effect, Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import * as Console from "effect-strata/console"
 *
 * const Database = PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") })
 *
 * // Whoever may come here has passed the application's own authentication, which says who it is.
 * export const Routes = Console.layer({
 *   path: "/admin/strata",
 *   who: ({ headers }) => Effect.succeed(headers["x-user"])
 * }).pipe(Layer.provide(Database), Layer.provideMerge(HttpRouter.layer))
 * ```
 *
 * **Details**
 *
 * All pages share one poll of the database. Where nobody looks, there is a look every half minute, which the charts of the last
 * hour are made of. `strata console` serves the same on 127.0.0.1.
 *
 * **Gotchas**
 *
 * The console has no log-in: put it behind that of the application. It refuses requests that a page of another site makes.
 */
import type { PgClient } from "@effect/sql-pg"
import { Effect, type FileSystem, Layer, type Path } from "effect"
import type { Etag, HttpPlatform, HttpRouter, HttpServerRequest } from "effect/http"
import type { InvalidInput } from "../InvalidInput.ts"
import * as Postgres from "../postgres/index.ts"
import { routes } from "./Console.ts"
import type { GivenEntity } from "./Settings.ts"

export { Api } from "./api/Api.ts"
export type { GivenEntity, KnownEntity } from "./Settings.ts"

/** What the layer of the console takes. */
export interface Options {
  /** The path of the console in the router, such as `/admin/strata`: `/` unless given. */
  readonly path?: `/${string}`
  /** Whether the console may change things: it only reads unless given. The role of the client decides what is possible. */
  readonly allowWrites?: boolean
  /**
   * Whether the console shows what the application has stored: data of events, payloads of messages, states, errors of
   * handlers. `"shown"` unless given.
   */
  readonly payloads?: "shown" | "hidden"
  /** Who makes a request: the log of changes names them. */
  readonly who?: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<string | undefined>
  /**
   * The hosts by which the console may be called, each with its port as browsers send it, such as `admin.example.org` or
   * `127.0.0.1:8080`: by any host unless given. Give it where no log-in stands before the console.
   */
  readonly hosts?: ReadonlyArray<string>
  /**
   * The entities of the application, as `Entity.make` gives them: the history of an aggregate that one of them knows has the
   * state after each event. None unless given.
   */
  readonly entities?: ReadonlyArray<GivenEntity>
  /** Where the tables are, and the other options of the stores. */
  readonly postgres?: Postgres.Options
}

const nobody = () => Effect.succeed(undefined)

/** Adds the console to the application's router, on tables that are there, by the application's client. */
export const layer = ({
  allowWrites = false,
  entities = [],
  hosts,
  path = "/",
  payloads = "shown",
  postgres = {},
  who = nobody
}: Options = {}): Layer.Layer<
  never,
  InvalidInput,
  | PgClient.PgClient
  | HttpRouter.HttpRouter
  | Etag.Generator
  | FileSystem.FileSystem
  | HttpPlatform.HttpPlatform
  | Path.Path
> => {
  const options: Postgres.Options = { ...postgres, largeIntegers: "bigint" }
  return routes({ path, allowWrites, who, hosts, entities, showPayloads: payloads === "shown" }).pipe(
    Layer.provide(Layer.merge(Postgres.layerStorage(options), Postgres.PostgresDatabase.layer(options)))
  )
}
