/** JSON that a request gives as text, with all of its digits. */
import { Effect, type Result, Schema } from "effect"
import { exactJson } from "../internal/ExactJson.ts"
import { SafeJson, SafeJsonObject } from "../internal/SafeJson.ts"
import { BadRequest } from "./api/Fields.ts"

export const decodeJson = Schema.decodeUnknownResult(exactJson("bigint").pipe(Schema.decodeTo(SafeJson)))
export const decodeObject = Schema.decodeUnknownResult(exactJson("bigint").pipe(Schema.decodeTo(SafeJsonObject)))

export const jsonOf = <A, E>(name: string, text: string, decode: (text: string) => Result.Result<A, E>) =>
  Effect.mapError(
    Effect.fromResult(decode(text)),
    () => new BadRequest({ message: `${name} is not the JSON it has to be` })
  )
