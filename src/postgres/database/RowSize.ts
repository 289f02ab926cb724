/**
 * Rows that other programs have written, and that are larger than the driver takes: it would close the connection, and the row
 * would end every statement that finds it. So the server holds such a text back, and sends its length instead, `#17000000`.
 * No JSON begins like that.
 */
import type { PgClient } from "@effect/sql-pg"
import { maxRowBytes } from "../../internal/Fields.ts"
import { CorruptRow } from "../../StoreError.ts"

/** How long the server's texts can be at all: no message is longer than that. */
export const longestTextBytes = 2 ** 30

/** What is left of a message for the other columns. */
const otherColumnsBytes = 16 * 1024

/** How many bytes a row can have, so that the driver takes it. */
export const longestRow = ({ config }: PgClient.PgClient): number =>
  Math.min(config.maxMessageSize ?? maxRowBytes, longestTextBytes)

/** How many bytes of JSON a row with a few other columns can have. */
export const longestBytes = (sql: PgClient.PgClient): number => longestRow(sql) - otherColumnsBytes

const heldBack = /^#(\d+)$/

/** How many bytes a text has that was held back; nothing if this is the text itself. */
export const heldBackBytes = (text: string): number | undefined =>
  text.startsWith("#") ? Number(heldBack.exec(text)?.[1] ?? 0) : undefined

/** The error of a row of which something was held back. */
export const tooLarge = (table: string, key: string, bytes: number): CorruptRow =>
  new CorruptRow({
    table,
    key,
    message:
      `row ${key} of ${table} is larger than the driver takes, with about ${bytes} bytes of JSON; ` +
      "raise maxMessageSize in the settings of the client, or delete it"
  })
