/** How the arguments of an operation become a checked value before any I/O. */
import { Effect, type Schema, type SchemaIssue } from "effect"
import { type InvalidInput, invalidInput } from "../InvalidInput.ts"

/** A schema of arguments: it makes its value from plain input and needs no services. */
export interface Arguments extends Schema.Constraint {
  readonly makeEffect: (
    input: this["~type.make.in"],
    options?: Schema.MakeOptions
  ) => Effect.Effect<this["Type"], SchemaIssue.Issue>
}

const everything: Schema.MakeOptions = { parseOptions: { errors: "all" } }

/** Makes the value, or fails with every issue at once. */
export const check = <S extends Arguments>(
  schema: S,
  store: string,
  operation: string,
  input: S["~type.make.in"]
): Effect.Effect<S["Type"], InvalidInput> =>
  Effect.mapError(schema.makeEffect(input, everything), (issue) => invalidInput(store, operation, issue))
