/** What `strata doctor` looks at, in this order. */
import { Effect } from "effect"
import { StoreError } from "../StoreError.ts"
import * as ArchiveChecks from "./ArchiveChecks.ts"
import { type Check, type Finding, type Findings, problem, type Subjects } from "./Check.ts"
import * as ConnectionChecks from "./ConnectionChecks.ts"
import * as HealthChecks from "./HealthChecks.ts"
import * as IdentityChecks from "./IdentityChecks.ts"
import { lockedTables as locked, TablesLocked, withoutWaiting } from "./LockedTables.ts"
import * as LogChecks from "./LogChecks.ts"
import * as PartitionChecks from "./PartitionChecks.ts"
import * as SchemaChecks from "./SchemaChecks.ts"
import * as ServerChecks from "./ServerChecks.ts"
import * as TableChecks from "./TableChecks.ts"
import * as TransactionChecks from "./TransactionChecks.ts"
import * as TrustChecks from "./TrustChecks.ts"

const check = (name: string, findings: Findings): Check => ({ name, findings })

/** A check that reads tables of ours: it does not wait for those who lock them. */
const ofTables = (name: string, findings: Findings): Check => check(name, withoutWaiting(findings))

/** The server, and the way to it. */
const serverChecks: ReadonlyArray<Check> = [
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
const missingTables: Check = check("tables", SchemaChecks.missing)

/** Whether they can be looked at. */
const lockedTables: Check = check("locked", locked)

/** What the tables are like, once there are tables. */
const tableChecks: ReadonlyArray<Check> = [
  ofTables("grants", SchemaChecks.grants),
  ofTables("log", IdentityChecks.identity),
  ofTables("sequence", LogChecks.sequence),
  ofTables("triggers", LogChecks.triggers),
  ofTables("layout", SchemaChecks.layout),
  ofTables("partitions", PartitionChecks.partitions),
  ofTables("archive", ArchiveChecks.archive),
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
const run = ({ findings }: Check): Effect.Effect<ReadonlyArray<Finding>, never, Subjects> =>
  Effect.catch(findings, (error) => {
    if (error instanceof TablesLocked) return Effect.succeed(error.locks)
    const { message } = error instanceof StoreError ? error.reason : error
    return Effect.succeed([problem(`could not be checked: ${message}`, "see to that first")])
  })

/** The names of all checks, in their order. */
export const names: ReadonlyArray<string> = [...serverChecks, missingTables, lockedTables, ...tableChecks].map(
  ({ name }) => name
)

/** Is told what a check has found. */
type Tell<E, R> = (check: string, findings: ReadonlyArray<Finding>) => Effect.Effect<unknown, E, R>

/**
 * Checks the server, and, if no table is missing or locked, the tables: otherwise their checks could only repeat which is
 * missing, or by whom it is locked. Tells what each check finds as soon as it is known, and returns it all in order.
 *
 * **Details**
 *
 * One check runs after the other, unless several are to run beside each other: then those of the tables do not wait for those of
 * the server, and a slow check for few others.
 */
export const examine = Effect.fnUntraced(function* <E, R>(
  tell: Tell<E, R>,
  options: { readonly beside?: boolean } = {}
) {
  const concurrency = options.beside === true ? 2 : 1
  const runAll = (checks: ReadonlyArray<Check>) =>
    Effect.map(
      Effect.forEach(checks, (check) => Effect.tap(run(check), (findings) => tell(check.name, findings)), {
        concurrency
      }),
      (findings) => findings.flat()
    )
  const ofTables = Effect.gen(function* () {
    const missing = yield* runAll([missingTables])
    const locked = missing.length === 0 ? yield* runAll([lockedTables]) : []
    const inTheWay = [...missing, ...locked]
    return inTheWay.length === 0 ? yield* runAll(tableChecks) : inTheWay
  })
  return (yield* Effect.all([runAll(serverChecks), ofTables], { concurrency })).flat()
})
