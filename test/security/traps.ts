/**
 * A schema full of traps: each operator and function that a statement of ours could call instead of a built-in one.
 *
 * **Details**
 *
 * Postgres looks for the best match of the argument types in every schema of the search path, also in those behind
 * `pg_catalog`. A built-in function of exactly these types is always found first. Where the built-in one takes other types
 * (`anyarray`, `text` for a `varchar`, `oid` for a `regclass`), a function of exactly these types in any schema of the path
 * is called instead, and runs as the caller. The traps are made for all types that occur, so they know nothing of our
 * statements but the names in them.
 */
import { Effect } from "effect"
import { readdirSync, readFileSync } from "node:fs"
import { withConnection } from "../support/connection.ts"

const root = new URL("../../", import.meta.url)

/** Each word of the sources that stands before a parenthesis: the names of functions are among them. */
const calledNames = () => {
  const files = ["src", "resources/postgres"].flatMap((folder) =>
    readdirSync(new URL(folder, root), { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(ts|sql)$/.test(name))
      .map((name) => readFileSync(new URL(`${folder}/${name}`, root), "utf8"))
  )
  return [...new Set(files.flatMap((text) => [...text.matchAll(/\b([a-z_]+) ?\(/g)].map(([, name = ""]) => name)))]
}

const types = `text varchar bpchar name "char" int2 int4 int8 oid regclass numeric float8 bool timestamptz interval jsonb xid
  bytea text[] int4[] int8[] bool[] varchar[] oid[] name[] int2vector timestamp date uuid`

/** Counts up a sequence, and leaves the number of the trap in another one, which no rollback undoes. */
const counts = (schema: string) =>
  `PERFORM pg_catalog.nextval('${schema}.caught'), pg_catalog.setval('${schema}.caught_last', %s);`

/** Makes the traps in `schema`. A trap that is called is counted, and fails with what was called, and by which statement. */
const statements = (schema: string, names: ReadonlyArray<string>) => [
  `CREATE SEQUENCE IF NOT EXISTS ${schema}.caught`,
  `CREATE SEQUENCE IF NOT EXISTS ${schema}.caught_last`,
  `GRANT ALL ON SEQUENCE ${schema}.caught, ${schema}.caught_last TO PUBLIC`,
  `CREATE TEMP TABLE of_type AS SELECT name::regtype::oid AS type FROM regexp_split_to_table('${types}', '\\s+') AS name`,
  `DO $do$
  DECLARE
    it RECORD;
    number BIGINT := 0;
    body TEXT := $body$ BEGIN
        ${counts(schema)}
        RAISE EXCEPTION 'captured: %s as %%, by %%', current_user, pg_catalog.current_query();
      END $body$;
  BEGIN
    -- A function for each pair of types and each result, and on it the operators that have no built-in one of exactly these.
    FOR it IN SELECT l.type::regtype AS l, r.type::regtype AS r, result FROM of_type l, of_type r,
      unnest(ARRAY['boolean', 'text', 'bigint', 'jsonb']) AS result
    LOOP
      number := number + 1;
      EXECUTE format('CREATE FUNCTION ${schema}.trap_%1$s(%2$s, %3$s) RETURNS %1$s LANGUAGE plpgsql AS %4$L',
        it.result, it.l, it.r, format(body, number, format('an operator of %s and %s', it.l, it.r)));
    END LOOP;
    FOR it IN SELECT l.type::regtype AS l, r.type::regtype AS r, sign, result FROM of_type l, of_type r, (VALUES
        ('=', 'boolean'), ('<>', 'boolean'), ('<', 'boolean'), ('>', 'boolean'), ('<=', 'boolean'), ('>=', 'boolean'),
        ('~', 'boolean'), ('!~', 'boolean'), ('~~', 'boolean'), ('!~~', 'boolean'), ('@>', 'boolean'), ('<@', 'boolean'),
        ('&&', 'boolean'), ('||', 'text'), ('+', 'bigint'), ('-', 'bigint'), ('*', 'bigint'), ('/', 'bigint'),
        ('->', 'jsonb'), ('->>', 'text')) AS signs (sign, result)
      WHERE NOT EXISTS (SELECT FROM pg_operator WHERE oprname = sign AND oprleft = l.type AND oprright = r.type)
    LOOP
      EXECUTE format('CREATE OPERATOR ${schema}.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = ${schema}.trap_%s)',
        it.sign, it.l, it.r, it.result);
    END LOOP;
  END $do$`,
  trapsOfFunctions(schema, "pg_catalog", names, 1_000_000)
]

/**
 * A trap for each function of these names, and each other list of types that the function would take as well. Their numbers
 * begin after `from`.
 */
const trapsOfFunctions = (schema: string, of: string, names: ReadonlyArray<string>, from: number) => `DO $do$
  DECLARE
    it RECORD;
    made TEXT;
    number BIGINT := ${from};
  BEGIN
    FOR it IN
      WITH RECURSIVE original AS (
        SELECT pg_proc.oid, proname, pronargs, proretset, prorettype,
          CASE WHEN provariadic = 2276 THEN extra ELSE 0 END AS extra,
          string_to_array(proargtypes::text, ' ')::oid[] AS types
        FROM pg_proc, generate_series(0, 3) AS extra
        WHERE pronamespace = '${of}'::regnamespace AND proname = ANY ('{${names.join()}}')
          AND prokind IN ('f', 'a', 'w') AND pronargs <= 8 AND (provariadic = 2276 OR extra = 0)
      ), accepted AS (
        SELECT castsource AS type, casttarget AS by FROM pg_cast JOIN of_type ON type = castsource WHERE castcontext = 'i'
        UNION SELECT type, pseudo FROM of_type JOIN pg_type ON pg_type.oid = type,
          unnest('{anyarray,anycompatiblearray}'::regtype[]) AS pseudo WHERE typcategory = 'A' AND typname LIKE '\\_%'
        UNION SELECT type, pseudo FROM of_type JOIN pg_type ON pg_type.oid = type,
          unnest('{2276,anyelement,anynonarray,anycompatible,anycompatiblenonarray}'::regtype[]) AS pseudo
          WHERE typcategory <> 'A'
        UNION SELECT pg_type.oid, pg_type.oid FROM pg_type WHERE typtype = 'b'
      ), varied AS (
        SELECT oid, proname, proretset, prorettype, types[1:pronargs - (extra > 0)::int]
            || array_fill(2276::oid, ARRAY[extra]) AS wanted, '{}'::oid[] AS chosen
        FROM original
        UNION ALL
        SELECT oid, proname, proretset, prorettype, wanted, chosen || accepted.type
        FROM varied JOIN accepted ON by = wanted[1 + cardinality(chosen)]
        WHERE cardinality(chosen) < cardinality(wanted)
          -- Of functions with many parameters, one parameter at a time is another one.
          AND (cardinality(wanted) <= 3 OR accepted.type = by OR chosen <@ wanted::oid[])
      )
      SELECT DISTINCT ON (proname, chosen) proname, chosen,
        CASE
          WHEN prorettype = ANY ('{anyarray,anycompatiblearray}'::regtype[]) THEN chosen[1]::regtype::text
          WHEN typtype = 'p' AND typname NOT IN ('record', 'void', 'trigger') THEN coalesce((
            SELECT typelem::regtype::text FROM pg_type WHERE pg_type.oid = chosen[1] AND typcategory = 'A'
          ), chosen[1]::regtype::text)
          WHEN typtype = 'p' AND typname <> 'void' THEN 'text'
          ELSE prorettype::regtype::text
        END AS result, proretset
      FROM varied JOIN pg_type ON pg_type.oid = prorettype
      WHERE cardinality(chosen) = cardinality(wanted) AND cardinality(chosen) > 0 AND NOT EXISTS (
        SELECT FROM pg_proc WHERE pg_proc.proname = varied.proname AND pronamespace IN ('pg_catalog'::regnamespace,
          '${of}'::regnamespace) AND string_to_array(proargtypes::text, ' ')::oid[] = chosen
      )
    LOOP
      made := format('%I(%s)', it.proname, (SELECT string_agg(format_type(type, NULL), ', ' ORDER BY place)
        FROM unnest(it.chosen) WITH ORDINALITY AS chosen (type, place)));
      number := number + 1;
      BEGIN
        EXECUTE format('CREATE OR REPLACE FUNCTION ${schema}.%s RETURNS %s %s LANGUAGE plpgsql AS %L',
          made, CASE WHEN it.proretset THEN 'SETOF' ELSE '' END, it.result, format($body$ BEGIN
            ${counts(schema)}
            RAISE EXCEPTION 'captured: %s as %%, by %%', current_user, pg_catalog.current_query();
          END $body$, number, made));
      EXCEPTION WHEN feature_not_supported OR invalid_function_definition OR undefined_object OR duplicate_function THEN
        NULL;
      END;
    END LOOP;
  END $do$`

const asRole = (url: string, role: string, statements: ReadonlyArray<string>) =>
  withConnection(url, (sql) =>
    Effect.forEach(
      ["SET search_path = pg_catalog", "SET check_function_bodies = off", `SET ROLE ${role}`, ...statements],
      (statement) => sql.unsafe(statement).unprepared,
      { discard: true }
    )
  )

/** The role makes traps in the schema, for all that is built in. It has to have the right to create there. */
export const layTraps = (url: string, role: string, schema: string) =>
  asRole(url, role, statements(schema, calledNames()))

/** The role makes traps beside our own functions, for what these take as well. */
export const layTrapsBeside = (url: string, role: string, schema: string, names: ReadonlyArray<string>) =>
  asRole(url, role, [
    `CREATE TEMP TABLE of_type AS SELECT name::regtype::oid AS type FROM regexp_split_to_table('${types}', '\\s+') AS name`,
    trapsOfFunctions(schema, schema, names, 2_000_000)
  ])

/** The trap that was called last, where somebody has caught the error that names it. */
export const lastCaught = (url: string, schema: string) =>
  withConnection(url, (sql) =>
    Effect.gen(function* () {
      const [number] = yield* sql.unsafe(`SELECT last_value FROM ${schema}.caught_last WHERE is_called`).values
      const [trap] = yield* sql.unsafe(
        `SELECT oid::regprocedure::text FROM pg_proc WHERE prosrc ~~ '%${schema}.caught_last'', ${number?.[0]});%'`
      ).values
      return String(trap?.[0])
    })
  )

/** How often a trap was called. */
export const caught = (url: string, schema: string) =>
  withConnection(url, (sql) =>
    Effect.map(
      sql.unsafe(`SELECT CASE WHEN is_called THEN last_value ELSE 0 END::text AS count FROM ${schema}.caught`).values,
      ([row]) => String(row?.[0])
    )
  )
