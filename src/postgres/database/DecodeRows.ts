/** Rows are decoded by a schema, never cast: a row that does not fit is an error that names the row. */
import { Effect, Predicate, Result, Schema, SchemaTransformation } from "effect"
import { invalidInput } from "../../InvalidInput.ts"
import { CorruptRow } from "../../StoreError.ts"

/** A `BIGINT` that is a number here. It does not decode if it is no safe integer. */
export const NumberFromBigInt = Schema.BigInt.pipe(
  Schema.decodeTo(Schema.Int, SchemaTransformation.transform({ decode: Number, encode: BigInt }))
)

/** Decodes a row of a table. A row that does not fit the model fails as `CorruptRow`, which names its key columns. */
export const decodeRow = <Row extends Schema.ConstraintDecoder<unknown>>(
  schema: Row,
  table: string,
  key: ReadonlyArray<string>
) => {
  const decode = Schema.decodeUnknownResult(schema)
  const corrupt = (row: unknown, error: Schema.SchemaError) => {
    const columns = key.map((column) => (Predicate.hasProperty(row, column) ? String(row[column]) : "?"))
    const { issues } = invalidInput("", "", error.issue)
    const wrong = issues.map(({ field, message }) => `${field}: ${message}`).join(", ")
    return new CorruptRow({
      table,
      key: columns.join("/"),
      message: `row ${columns.join("/")} of ${table} does not fit the model (${wrong}); mend or delete it`
    })
  }
  return (row: unknown): Result.Result<Row["Type"], CorruptRow> =>
    Result.mapError(decode(row), (error) => corrupt(row, error))
}

/** Decodes the rows of a table, up to the first that does not fit the model. */
export const decodeRows = <Row extends Schema.ConstraintDecoder<unknown>>(
  schema: Row,
  table: string,
  key: ReadonlyArray<string>
) => {
  const decode = decodeRow(schema, table, key)
  return (rows: ReadonlyArray<unknown>): Effect.Effect<Array<Row["Type"]>, CorruptRow> =>
    Effect.suspend(() => {
      const decoded: Array<Row["Type"]> = []
      for (const row of rows) {
        const result = decode(row)
        if (Result.isFailure(result)) return Effect.fail(result.failure)
        decoded.push(result.success)
      }
      return Effect.succeed(decoded)
    })
}
