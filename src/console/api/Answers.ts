/** What each path of the API takes and gives as JSON, for programs that call it without a client. */
import type { Schema } from "effect"
import type { HttpApi, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import type { Api } from "./Api.ts"
import type { Found as FoundSchema } from "./DoctorApi.ts"
import type { Moment as MomentSchema } from "./OverviewApi.ts"

type Groups<A> = A extends HttpApi.HttpApi<infer _Id, infer G> ? G : never
type Endpoint = HttpApiGroup.Endpoints<Groups<typeof Api>>
type Reading = Extract<Endpoint, { readonly method: "GET" }>

/** The paths that are read at once: the others are streams. */
export type Path = Exclude<Reading["path"], "/api/export" | StreamPath>

/** The paths of streams. */
export type StreamPath = "/api/live" | "/api/doctor/live"

type At<P extends Path> = Extract<Reading, { readonly path: P }>

/** All schemas of the API encode to JSON by themselves, so what HTTP makes of them is what they encode to. */
type Encoded<S> =
  S extends Schema.toCodecJson<infer Own>
    ? Own["Encoded"]
    : S extends Schema.toCodecStringTree<infer Own>
      ? Own["Encoded"]
      : S extends Schema.Struct<infer Fields>
        ? { readonly [K in keyof Schema.Struct.Encoded<Fields>]: Schema.Struct.Encoded<Fields>[K] }
        : never

export type Answer<P extends Path> = Encoded<HttpApiEndpoint.Success<At<P>>>

/** The parameters of a path: texts, by their names. */
export type Query<P extends Path> = [HttpApiEndpoint.Query<At<P>>] extends [never]
  ? Readonly<Record<string, never>>
  : Encoded<HttpApiEndpoint.Query<At<P>>>

/** What comes of the stream at `/api/live`. */
export type Moment = typeof MomentSchema.Encoded

/** What comes of the stream at `/api/doctor/live`. */
export type Found = typeof FoundSchema.Encoded

type Writing = Extract<Endpoint, { readonly method: "POST" }>

/** The paths by which something is changed. */
export type ChangePath = Writing["path"]

/** What a change is asked with. */
export type Change<P extends ChangePath> = Encoded<HttpApiEndpoint.Payload<Extract<Writing, { readonly path: P }>>>
