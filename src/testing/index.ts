/**
 * The conformance suites, for Vitest: they test what every backend does. A backend of your own has to pass all of them.
 *
 * ```ts
 * import * as Memory from "effect-strata/memory"
 * import { OffsetStore } from "effect-strata/testing"
 *
 * OffsetStore.suite("memory", Memory.layer)
 * ```
 */
export * as Decision from "./Decision.ts"
export * as DurableStateStore from "./DurableStateStore.ts"
export * as Entity from "./Entity.ts"
export * as EventStore from "./EventStore.ts"
export * as OffsetStore from "./OffsetStore.ts"
export * as Projection from "./Projection.ts"
export * as Spool from "./Spool.ts"
export * as SpoolStore from "./SpoolStore.ts"
export * as Transactor from "./Transactor.ts"
