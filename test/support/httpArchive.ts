/**
 * Keeps the files of archived events where HTTP leads: what a user writes, as the guide to deploying has it, and such a place.
 */
import { Effect, Layer, Stream } from "effect"
import * as Postgres from "effect-strata/postgres"
import { createServer } from "node:http"

const { ArchiveError, EventArchive } = Postgres.EventArchive

/** Keeps the files below a URL that takes PUT, GET and DELETE, as stores of objects do. */
export const layerHttp = (base: string) => {
  const failed = (name: string, cause: unknown) =>
    new ArchiveError({ reason: "Failed", name, message: `${base}${name}: ${String(cause)}`, cause })
  const ask = (name: string, init: RequestInit = {}) =>
    Effect.tryPromise({
      try: (signal) => fetch(new URL(name, base), { ...init, signal }),
      catch: (cause) => failed(name, cause)
    }).pipe(
      Effect.filterOrFail(
        ({ ok }) => ok,
        ({ status }) =>
          status === 404
            ? new ArchiveError({ reason: "Missing", name, message: `${base}${name} is not there` })
            : failed(name, `status ${status}`)
      )
    )
  return Layer.succeed(EventArchive, {
    // A request with all of the bytes, so that none leaves a part of a file under the name.
    write: (name, bytes) =>
      Effect.flatMap(Stream.runCollect(bytes), (chunks) =>
        Effect.asVoid(ask(name, { method: "PUT", body: Buffer.concat(chunks) }))
      ),
    read: (name) =>
      Stream.unwrap(
        Effect.map(ask(name), ({ body }) =>
          body === null
            ? Stream.empty
            : Stream.fromReadableStream({ evaluate: () => body, onError: (cause) => failed(name, cause) })
        )
      ),
    remove: (name) =>
      Effect.catchIf(
        Effect.asVoid(ask(name, { method: "DELETE" })),
        ({ reason }) => reason === "Missing",
        () => Effect.void
      )
  })
}

/** A server that keeps files in memory, until the scope closes. */
export const serveFiles = Effect.acquireRelease(
  Effect.promise(async () => {
    const files = new Map<string, Buffer>()
    const server = createServer((request, response) => {
      const name = (request.url ?? "").slice(1)
      const chunks: Array<Buffer> = []
      request.on("data", (chunk: Buffer) => chunks.push(chunk))
      request.on("end", () => {
        const file = files.get(name)
        if (request.method === "PUT") files.set(name, Buffer.concat(chunks))
        if (request.method === "DELETE") files.delete(name)
        response.statusCode = request.method === "PUT" || file !== undefined ? 200 : 404
        response.end(request.method === "GET" ? file : undefined)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    return { files, server, url: `http://127.0.0.1:${port}/` }
  }),
  ({ server }) =>
    Effect.promise(
      () =>
        new Promise<void>((resolve) => {
          server.close(() => resolve())
          server.closeAllConnections()
        })
    )
)
