/**
 * Durable stores for Effect, in layers: the contracts. Their implementations are in `effect-strata/memory`,
 * `effect-strata/postgres` and `effect-strata/pglite`, their conformance suites in `effect-strata/testing`.
 */
export * as Decision from "./Decision.ts"
export * as DurableStateStore from "./DurableStateStore.ts"
export * as Entity from "./Entity.ts"
export * as EventStore from "./EventStore.ts"
export * as Health from "./Health.ts"
export * as InvalidInput from "./InvalidInput.ts"
export * as Json from "./Json.ts"
export * as OffsetStore from "./OffsetStore.ts"
export * as Origin from "./Origin.ts"
export * as Projection from "./Projection.ts"
export * as Spool from "./Spool.ts"
export * as SpoolStore from "./SpoolStore.ts"
export * as StateCodec from "./StateCodec.ts"
export * as StoreError from "./StoreError.ts"
export * as Supervisor from "./Supervisor.ts"
export * as Transactor from "./Transactor.ts"
