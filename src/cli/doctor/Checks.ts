/** What `strata doctor` looks at, in this order. */
import { Effect } from "effect"
import { StoreError } from "../../StoreError.ts"
import { type Check, type Finding, type Findings, problem, type Subjects } from "./Check.ts"
import * as ConnectionChecks from "./ConnectionChecks.ts"
import * as HealthChecks from "./HealthChecks.ts"
import * as IdentityChecks from "./IdentityChecks.ts"
import * as LogChecks from "./LogChecks.ts"
import * as SchemaChecks from "./SchemaChecks.ts"
import * as ServerChecks from "./ServerChecks.ts"
import * as TableChecks from "./TableChecks.ts"
import * as TransactionChecks from "./TransactionChecks.ts"
import * as TrustChecks from "./TrustChecks.ts"

const check = (name: string, findings: Findings): Check => ({ name, findings })

/** The server, and the way to it. */
export const serverChecks: ReadonlyArray<Check> = [
  check("server", ServerChecks.version),
  check("primary", ServerChecks.primary),
  check("durability", ServerChecks.durability),
  check("pooler", ConnectionChecks.pooler),
  check("listen", ServerChecks.onPrimary(ConnectionChecks.notifications)),
  check("prepared", TransactionChecks.prepared),
  check("transactions", TransactionChecks.longOpen),
  check("search path", TrustChecks.searchPath),
  check("owners", TrustChecks.owners),
  check("migrations", SchemaChecks.migrations)
]

/** Whether there are tables to look at. */
export const missingTables: Check = check("tables", SchemaChecks.missing)

/** What the tables are like, once there are tables. */
export const tableChecks: ReadonlyArray<Check> = [
  check("grants", SchemaChecks.grants),
  check("log", IdentityChecks.identity),
  check("sequence", LogChecks.sequence),
  check("triggers", LogChecks.triggers),
  check("replication", LogChecks.replication),
  check("locks", TransactionChecks.locks),
  check("tail", ServerChecks.onPrimary(TransactionChecks.holders)),
  check("tables", TableChecks.sizes),
  check("offsets", TableChecks.offsetsAhead),
  check("spool", TableChecks.strandedMessages),
  check("projections", HealthChecks.projections),
  check("processes", HealthChecks.processes),
  check("queues", HealthChecks.queues)
]

/** Runs a check. An error of the check itself is a problem, too: the role may not see what the check needs, for instance. */
export const run = ({ findings }: Check): Effect.Effect<ReadonlyArray<Finding>, never, Subjects> =>
  Effect.catch(findings, (error) => {
    const { message } = error instanceof StoreError ? error.reason : error
    return Effect.succeed([problem(`could not be checked: ${message}`, "see to that first")])
  })
