/** Errors by the name of the operation that the program has called. */
import { InvalidInput } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"

/** The field by the name that the caller knows, where the first or the last of its parts has another one. */
const outerOf = (field: string, fields: Readonly<Record<string, string>>): string => {
  for (const [inner, outer] of Object.entries(fields)) {
    if (field === inner) return outer
    if (field.startsWith(`${inner}.`)) return outer + field.slice(inner.length)
    if (field.endsWith(`.${inner}`)) return field.slice(0, -inner.length) + outer
  }
  return field
}

/**
 * The error of an operation that another one is made of, as an error of that one: its caller has called nothing else.
 * `fields` names the arguments of the caller by those that they became.
 */
export const named =
  (store: string, operation: string, fields: Readonly<Record<string, string>> = {}) =>
  <E>(error: E): E | InvalidInput | StoreError => {
    if (error instanceof StoreError) return new StoreError({ store, operation, reason: error.reason })
    if (!(error instanceof InvalidInput)) return error
    const issues = error.issues.map(({ field, message }) => ({ field: outerOf(field, fields), message }))
    return new InvalidInput({ store, operation, issues })
  }
