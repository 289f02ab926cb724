import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "effect-strata/postgres"

/** The tables beside the stores': what handlers write, and what happens to leases, by the server's clock. */
const statements = (schema: string) => [
  `CREATE TABLE ${schema}.sums (id text PRIMARY KEY, sum bigint NOT NULL, count bigint NOT NULL)`,
  `CREATE TABLE ${schema}.handled (id text NOT NULL)`,
  `CREATE TABLE ${schema}.unrelated (id text NOT NULL)`,
  `CREATE TABLE ${schema}.transitions (
    place bigserial, id text, "from" int, "to" int, early boolean, attempts int, "attemptsBefore" int, kept boolean,
    began float8 DEFAULT extract(epoch FROM statement_timestamp()) * 1000,
    at float8 DEFAULT extract(epoch FROM clock_timestamp()) * 1000)`,
  `CREATE FUNCTION ${schema}.note_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO ${schema}.transitions (id, "from", "to", early, attempts, "attemptsBefore", kept)
      VALUES (NEW.id, OLD.state, NEW.state, coalesce(OLD.lease_until > clock_timestamp(), false), NEW.attempts, OLD.attempts,
        coalesce(NEW.lease_owner = OLD.lease_owner, false));
      RETURN NULL;
    END $$`,
  `CREATE TRIGGER note_transition AFTER UPDATE ON ${schema}.strata_messages FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.lease_owner IS DISTINCT FROM NEW.lease_owner OR OLD.lease_until IS DISTINCT FROM NEW.lease_until)
    EXECUTE FUNCTION ${schema}.note_transition()`
]

/** Makes all tables. */
export const migrate = (url: string, schema: string) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    for (const statement of statements(schema)) yield* sql.unsafe(statement).unprepared
  }).pipe(Effect.provide(Layer.provideMerge(Postgres.layer({ schema }), PgClient.layer({ url: Redacted.make(url) }))))
