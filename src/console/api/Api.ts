/**
 * What the console's page asks of its server, as one API: a program can derive a client of it, and others read its
 * specification at `openapi.json`.
 */
import { HttpApi, OpenApi } from "effect/http-api"
import { ActionsApi } from "./ActionsApi.ts"
import { DoctorApi } from "./DoctorApi.ts"
import { LogApi } from "./LogApi.ts"
import { OverviewApi } from "./OverviewApi.ts"
import { ProjectionsApi } from "./ProjectionsApi.ts"
import { SpoolApi } from "./SpoolApi.ts"
import { StatesApi } from "./StatesApi.ts"

export class Api extends HttpApi.make("strata-console")
  .add(OverviewApi)
  .add(LogApi)
  .add(ProjectionsApi)
  .add(SpoolApi)
  .add(StatesApi)
  .add(DoctorApi)
  .add(ActionsApi)
  .annotateMerge(OpenApi.annotations({ title: "Strata console" })) {}
