/** The error for an argument that breaks the model. It names every field that is wrong. */
import { Schema, SchemaIssue } from "effect"

/** One thing that is wrong with an argument. `field` is the path to it, empty for the argument as a whole. */
export const Issue = Schema.Struct({ field: Schema.String, message: Schema.String })
export type Issue = typeof Issue.Type

/**
 * An argument breaks the model. Nothing was read or written, and calling again cannot help.
 *
 * **Remedy**
 *
 * Mend the caller: `issues` name every field.
 */
export class InvalidInput extends Schema.TaggedError<InvalidInput>("effect-strata/InvalidInput")("InvalidInput", {
  store: Schema.String,
  operation: Schema.String,
  issues: Schema.Array(Issue)
}) {
  /** What is wrong, without the operation: for those who have called something else, such as a route of an API. */
  get explanation(): string {
    return this.issues.map(({ field, message }) => (field === "" ? message : `${field}: ${message}`)).join("; ")
  }

  override get message(): string {
    return `${this.store}.${this.operation}: invalid input: ${this.explanation}`
  }
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** Makes the `InvalidInput` from the issue that a schema found. */
export const invalidInput = (store: string, operation: string, issue: SchemaIssue.Issue): InvalidInput =>
  new InvalidInput({
    store,
    operation,
    issues: format(issue).issues.map(({ message, path }) => ({ field: (path ?? []).map(String).join("."), message }))
  })
