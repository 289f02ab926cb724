import { statSync } from "node:fs"
/**
 * Run in a process of its own: `loading.ts SPECIFIER` imports an entry point, and prints the bytes of the modules that
 * are loaded with it: those of this package, and all of them.
 */
import { registerHooks } from "node:module"
import process from "node:process"
import { fileURLToPath } from "node:url"

const own = new URL("../../dist/", import.meta.url).href
let [ours, all] = [0, 0]

registerHooks({
  load: (url, context, next) => {
    if (url.startsWith("file:")) {
      const { size } = statSync(fileURLToPath(url))
      all += size
      if (url.startsWith(own)) ours += size
    }
    return next(url, context)
  }
})

// Everything is loaded before the first module runs; Vitest refuses to run outside of its workers.
await import(process.argv[2] ?? "").catch((error: unknown) => {
  if (!String(error).includes("Vitest")) throw error
})
process.stdout.write(`${ours} ${all}`)
process.exit()
