import { assert, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { report, reportFile } from "./api.ts"

it("what the package exports is what test/package/api.txt says: npm run api writes it anew", () => {
  assert.strictEqual(report(), readFileSync(reportFile, "utf8"))
})
