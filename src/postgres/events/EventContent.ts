/** What of an event's metadata is compared with that of the stored event of its id: all but where the event comes from. */
import type { PgClient } from "@effect/sql-pg"
import type { Fragment } from "effect/sql/Statement"
import { originKeys } from "../../events/Origins.ts"

const withoutOrigin = `ARRAY[${originKeys.map((key) => `'${key}'`).join()}]::text[]`

/** That part of JSON. `resources/postgres/0066_events_append.sql` compares the same. */
export const contentOf = (sql: PgClient.PgClient, metadata: Fragment): Fragment => sql`
  coalesce(nullif(CASE pg_catalog.jsonb_typeof(${metadata}) WHEN 'object'::text
    THEN ${metadata} - ${sql.literal(withoutOrigin)} ELSE ${metadata} END, '{}'::jsonb), 'null'::jsonb)`
