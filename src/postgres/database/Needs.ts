/** Which privileges on which tables the stores need. */
import { qualify, quote } from "./Identifier.ts"
import type { Tables } from "./Options.ts"

/**
 * What a role is to do: `use` all stores, as an application does; `read` them, as most of the command does; or `import`
 * events, which takes the right to choose their times.
 */
export type Purpose = "use" | "read" | "import"

/**
 * The columns of an event that an append gives. Nobody but the owner needs to give the version: an event with a version that
 * the sequence has not drawn silences all subscribers. The time is the database's, except of imported events.
 */
export const appended = ["id", "aggregate_id", "event_type", "data", "metadata"]

export interface Need {
  /** A table, qualified and quoted. */
  readonly table: string
  readonly privileges: ReadonlyArray<string>
  /** The columns of `INSERT`. */
  readonly columns?: ReadonlyArray<string>
  /** A table, qualified and quoted, without which nobody needs this one. */
  readonly onlyWith?: string
}

/** Where the tables are, and what they are called. */
export interface Place {
  readonly names: typeof Tables.Type
  readonly schema: string | undefined
}

const withoutMigrations = ({ events, messages, offsets, spool, states }: typeof Tables.Type) => ({
  events,
  rows: [offsets, states, messages, spool]
})

export const needsOf = ({ names, schema }: Place, purpose: Purpose): ReadonlyArray<Need> => {
  const of = (name: string) => qualify(schema, name)
  const tables = withoutMigrations(names)
  const events = { table: of(tables.events), privileges: ["SELECT"] }
  const tags = {
    table: of(`${tables.events}_tags`),
    privileges: purpose === "read" ? ["SELECT"] : ["SELECT", "INSERT"]
  }
  // Only a log with partitions has ids in a table of their own, and only such a log is archived.
  const onlyWith = of(`${tables.events}_ids`)
  const beside = ["ids", "archives", "archived"].map((ending) => ({
    table: of(`${tables.events}_${ending}`),
    privileges: ["SELECT"],
    onlyWith
  }))
  if (purpose === "import") return [{ ...events, columns: [...appended, "created_at"] }, tags, ...beside]
  const privileges = purpose === "read" ? ["SELECT"] : ["SELECT", "INSERT", "UPDATE", "DELETE"]
  return [
    purpose === "read" ? events : { ...events, columns: appended },
    tags,
    ...beside,
    ...tables.rows.map((name) => ({ table: of(name), privileges }))
  ]
}

/** What a role needs beside that where it reads from standbys: the marks are published by their readers. */
export const markNeed = ({ names, schema }: Place, purpose: Purpose): Need => ({
  table: qualify(schema, `${names.events}_mark`),
  privileges: purpose === "use" ? ["SELECT", "INSERT", "UPDATE"] : ["SELECT"]
})

/** Of what the server says that the privilege is missing. */
const refused = /^permission denied for (schema|table|view|sequence|function) (.+)$/

/** The statement that lets an application do what the server has refused to its role, where it is known. */
export const grantFor = (message: string, place: Place, role: string | undefined): string | undefined => {
  const [, kind = "", name = ""] = refused.exec(message) ?? []
  const to = `TO ${role === undefined ? "the role of this connection" : quote(role)}`
  const object = qualify(place.schema, name)
  switch (kind) {
    case "schema":
      return `GRANT USAGE ON SCHEMA ${quote(name)} ${to}`
    case "sequence":
      return `GRANT USAGE ON SEQUENCE ${object} ${to}`
    case "function":
      return `GRANT EXECUTE ON FUNCTION ${object} ${to}`
    default: {
      const need = [...needsOf(place, "use"), markNeed(place, "use")].find(({ table }) => table === object)
      if (need === undefined) return kind === "" ? undefined : `GRANT SELECT ON ${object} ${to}`
      const inserts = need.columns === undefined ? [] : [`INSERT (${need.columns.join(", ")})`]
      return `GRANT ${[...need.privileges, ...inserts].join(", ")} ON ${object} ${to}`
    }
  }
}
