/** What `strata doctor` looks at, in this order. */
import { Effect } from "effect"
import { StoreError } from "../../StoreError.ts"
import { type Check, type Finding, type Findings, problem, type Subjects } from "./Check.ts"
import * as ConnectionChecks from "./ConnectionChecks.ts"
import * as HealthChecks from "./HealthChecks.ts"
import * as IdentityChecks from "./IdentityChecks.ts"
import { lockedTables as locked, TablesLocked, withoutWaiting } from "./LockedTables.ts"
import * as LogChecks from "./LogChecks.ts"
import * as SchemaChecks from "./SchemaChecks.ts"
import * as ServerChecks from "./ServerChecks.ts"
import * as TableChecks from "./TableChecks.ts"
import * as TransactionChecks from "./TransactionChecks.ts"
import * as TrustChecks from "./TrustChecks.ts"

const check = (name: string, findings: Findings): Check => ({ name, findings })

/** A check that reads tables of ours: it does not wait for those who lock them. */
const ofTables = (name: string, findings: Findings): Check => check(name, withoutWaiting(findings))

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
  ofTables("migrations", SchemaChecks.migrations)
]

/** Whether there are tables to look at. */
export const missingTables: Check = check("tables", SchemaChecks.missing)

/** Whether they can be looked at. */
export const lockedTables: Check = check("locked", locked)

/** What the tables are like, once there are tables. */
export const tableChecks: ReadonlyArray<Check> = [
  ofTables("grants", SchemaChecks.grants),
  ofTables("log", IdentityChecks.identity),
  ofTables("sequence", LogChecks.sequence),
  ofTables("triggers", LogChecks.triggers),
  ofTables("replication", LogChecks.replication),
  ofTables("locks", TransactionChecks.locks),
  ofTables("replay", ServerChecks.replay),
  ofTables("tail", ServerChecks.onPrimary(TransactionChecks.holders)),
  ofTables("tables", TableChecks.sizes),
  ofTables("offsets", TableChecks.offsetsAhead),
  ofTables("spool", TableChecks.strandedMessages),
  ofTables("projections", HealthChecks.projections),
  ofTables("processes", HealthChecks.processes),
  ofTables("queues", HealthChecks.queues)
]

/** Runs a check. An error of the check itself is a problem, too: the role may not see what the check needs, for instance. */
export const run = ({ findings }: Check): Effect.Effect<ReadonlyArray<Finding>, never, Subjects> =>
  Effect.catch(findings, (error) => {
    if (error instanceof TablesLocked) return Effect.succeed(error.locks)
    const { message } = error instanceof StoreError ? error.reason : error
    return Effect.succeed([problem(`could not be checked: ${message}`, "see to that first")])
  })
