/** The routes of a console: its page, its API, and who may call them. */
import { Effect, Layer } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import * as Access from "./Access.ts"
import * as ActionHandlers from "./ActionHandlers.ts"
import { Api } from "./api/Api.ts"
import * as DoctorHandlers from "./DoctorHandlers.ts"
import { Live } from "./Live.ts"
import * as LogHandlers from "./LogHandlers.ts"
import * as OverviewHandlers from "./OverviewHandlers.ts"
import * as PageFiles from "./PageFiles.ts"
import * as ProjectionHandlers from "./ProjectionHandlers.ts"
import { ProofRun } from "./ProofRun.ts"
import { Settings } from "./Settings.ts"
import * as SpoolHandlers from "./SpoolHandlers.ts"
import * as StateHandlers from "./StateHandlers.ts"

const handlers = Layer.mergeAll(
  Layer.provide(
    Layer.mergeAll(OverviewHandlers.layer, ActionHandlers.layer, DoctorHandlers.layer),
    Layer.merge(Live.layer, ProofRun.layer)
  ),
  LogHandlers.layer,
  ProjectionHandlers.layer,
  SpoolHandlers.layer,
  StateHandlers.layer
)

/** The same router, which puts a path before each route. */
const routerAt = (path: string) =>
  Layer.effect(
    HttpRouter.HttpRouter,
    Effect.map(HttpRouter.HttpRouter, (router) => (path === "/" ? router : router.prefixed(path)))
  )

export interface Where extends Settings {
  /** The path of the console: `/` unless it is below one. */
  readonly path: string
}

/** Adds the routes of a console to a router. */
export const routes = ({ path, ...settings }: Where) =>
  Layer.mergeAll(
    HttpApiBuilder.layer(Api, { openapiPath: "/openapi.json" }).pipe(Layer.provide(handlers)),
    PageFiles.layer
  ).pipe(
    Layer.provide(Access.middleware.layer),
    Layer.provide(routerAt(path)),
    Layer.provide(Layer.succeed(Settings, settings))
  )
