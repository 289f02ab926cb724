import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import * as server from "./server.ts"

declare module "vitest" {
  export interface ProvidedContext {
    /** The DSN of the server that all test files of a run share. */
    postgresUrl: string
  }
}

/** Vitest's global set-up: one Postgres server for the whole run. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  const acquired = server.acquire.pipe(
    Scope.provide(scope),
    Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void))
  )
  const { description, url } = await Effect.runPromise(acquired)
  process.stdout.write(`Postgres for the tests: ${description}\n`)
  project.provide("postgresUrl", url)
  return close
}
