/** Names of schemas, tables and channels: the one place where text becomes part of a statement. */
import { Schema } from "effect"

const bytes = new TextEncoder()

/** Postgres cuts a longer name off and says nothing, so two names could become one. */
const maxNameBytes = 63

/** A name that Postgres stores as it is, with this ending, too: not empty, no NUL, valid UTF-8, and not too long. */
export const nameBefore = (ending: string) =>
  Schema.String.check(
    Schema.makeFilter((name) =>
      name === ""
        ? "Expected a non-empty name"
        : name.includes("\0") || !name.isWellFormed()
          ? "Expected a name without NUL characters or lone surrogates"
          : bytes.encode(name + ending).length > maxNameBytes
            ? `Expected a name of at most ${maxNameBytes - ending.length} bytes`
            : undefined
    )
  )

export const Name = nameBefore("")

/** The name in double quotes, safe in any statement. */
export const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** The quoted name, in its schema if one is given, else wherever the search path finds it. */
export const qualify = (schema: string | undefined, name: string): string =>
  schema === undefined ? quote(name) : `${quote(schema)}.${quote(name)}`

/**
 * A text in which the server names columns or functions, without the quotes that `quote_all_identifiers` puts around each of
 * them.
 */
export const unquoted = (text: string): string => `pg_catalog.replace(${text}, '"'::text, ''::text)`

/** The qualified name as a literal, to be cast to `regclass`: `'"app"."events"'`. */
export const reference = (qualified: string): string => `'${qualified.replaceAll("'", "''")}'`
