import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import { databases } from "./databases.ts"
import * as server from "./server.ts"

declare module "vitest" {
  export interface ProvidedContext {
    /** The DSNs of one database for each worker, all on the server that all test files of a run share. */
    postgresUrls: ReadonlyArray<string>
  }
}

/** Vitest's global set-up: one Postgres server for the whole run, and on it a database for each worker. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  const acquired = Effect.gen(function* () {
    const { description, url } = yield* server.acquire
    return { description, urls: yield* databases(url, project.vitest.config.maxWorkers) }
  }).pipe(
    Scope.provide(scope),
    Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void))
  )
  const { description, urls } = await Effect.runPromise(acquired)
  process.stdout.write(`Postgres for the tests: ${description}\n`)
  project.provide("postgresUrls", urls)
  return close
}
