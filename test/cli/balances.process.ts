import { Effect } from "effect"
import { keepBalances } from "./balances.ts"

// What the tests run as a process of its own, to kill it: `balances.process.ts <url or directory> <schema>`.

const [, , database = "", schema = ""] = process.argv

await Effect.runPromise(keepBalances(database, schema))
