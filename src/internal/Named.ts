/** Errors by the name of the operation that the program has called. */
import { InvalidInput } from "../InvalidInput.ts"
import { StoreError } from "../StoreError.ts"

/**
 * The error of an operation that another one is made of, as an error of that one: its caller has called nothing else.
 * `fields` names the arguments of the caller by those that they became.
 */
export const named =
  (store: string, operation: string, fields: Readonly<Record<string, string>> = {}) =>
  <E>(error: E): E | InvalidInput | StoreError => {
    if (error instanceof StoreError) return new StoreError({ store, operation, reason: error.reason })
    if (!(error instanceof InvalidInput)) return error
    const issues = error.issues.map(({ field, message }) => {
      const inner = Object.keys(fields).find((name) => field === name || field.endsWith(`.${name}`))
      const outer = inner === undefined ? undefined : fields[inner]
      return { field: inner && outer ? field.slice(0, -inner.length) + outer : field, message }
    })
    return new InvalidInput({ store, operation, issues })
  }
