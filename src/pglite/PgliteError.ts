import { Schema } from "effect"

/**
 * Why an embedded database could not be opened.
 *
 * **Details**
 *
 * - `"InUse"`: another process, or another layer of this one, has the directory open.
 * - `"Unusable"`: the directory cannot hold the database: it is a file, not readable and writable, holds something else,
 *   or a database that is damaged or was made by another major version of Postgres.
 * - `"Unavailable"`: PGlite itself is not there (`npm install @electric-sql/pglite`) or did not start.
 *
 * `dataDir` is the absolute path of the directory, absent for a database in memory.
 *
 * **Remedy**
 *
 * Do what `message` says, which names the directory.
 */
export class PgliteError extends Schema.TaggedError<PgliteError>("effect-strata/PgliteError")("PgliteError", {
  reason: Schema.Literals(["InUse", "Unusable", "Unavailable"]),
  dataDir: Schema.UndefinedOr(Schema.String),
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}
