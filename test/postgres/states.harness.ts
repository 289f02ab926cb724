/** What the tests of the state store share. */
import { Effect, Option } from "effect"
import { DurableStateStore } from "effect-strata"
import { connect } from "node:net"
import { postgresUrl } from "../support/database.ts"
import { freshSchema, serve, type Settings } from "./harness.ts"

/** The stores in a schema of their own. */
export const served = Effect.fnUntraced(function* (settings: Settings = {}) {
  const schema = settings.options?.schema ?? (yield* freshSchema())
  const stores = yield* serve({ ...settings, options: { ...settings.options, schema } })
  return { ...stores, schema, table: `${schema}.states_store` }
})

/** A state with a text for a payload. */
export const state = (persistenceId: string, versionNumber: bigint, text = "") =>
  new DurableStateStore.DurableState({
    persistenceId,
    versionNumber,
    payload: new TextEncoder().encode(text),
    manifest: "text"
  })

/** Version and text in short: `none` where there is no state. */
export const show = ({ states }: Pick<Effect.Success<ReturnType<typeof served>>, "states">, persistenceId: string) =>
  Effect.map(
    states.getLatestState(persistenceId),
    Option.match({
      onNone: () => "none",
      onSome: ({ payload, versionNumber }) => `${versionNumber}: ${new TextDecoder().decode(payload)}`
    })
  )

/** Connections of a pool, and how many requests it has sent on them, besides those in which a text stands. */
export const counted = (uncounted?: string) => {
  const { hostname, port } = new URL(postgresUrl)
  let requests = 0
  const stream = () => {
    const socket = connect(Number(port || 5432), hostname)
    const { write } = socket
    return Object.assign(socket, {
      write: (chunk: Uint8Array) => {
        if (uncounted === undefined || !Buffer.from(chunk).includes(uncounted)) requests++
        return write.call(socket, chunk)
      }
    })
  }
  return { stream, requests: () => requests }
}
