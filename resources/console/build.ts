/** Builds the page of the console: one script and one style sheet, with what they need of other packages in them. */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "vite"

const root = fileURLToPath(new URL("../../", import.meta.url))
const outDir = join(root, "dist/console/page")

/** The package that a file belongs to, if it is one of a package. */
const packageOf = (file: string): string | undefined => /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[0]

const outputs = await build({
  root: join(root, "src/console/page"),
  configFile: false,
  logLevel: "warn",
  // The console works under any path.
  base: "./",
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]", codeSplitting: false }
    }
  }
})

/** The directories of the packages whose code is in the script. */
const packages = new Set<string>()
for (const result of Array.isArray(outputs) ? outputs : [outputs]) {
  for (const part of "output" in result ? result.output : []) {
    if (part.type !== "chunk") continue
    for (const file of part.moduleIds) {
      const directory = packageOf(file)
      if (directory !== undefined) packages.add(directory)
    }
  }
}

/** Their licenses ask to stand beside copies of the code. */
const notices = await Promise.all(
  [...packages].sort().map(async (directory) => {
    const manifest: { readonly name: string; readonly version: string } = JSON.parse(
      await readFile(join(directory, "package.json"), "utf8")
    )
    return `${manifest.name} ${manifest.version}\n\n${await readFile(join(directory, "LICENSE"), "utf8")}`
  })
)
await writeFile(join(outDir, "licenses.txt"), notices.join(`\n${"-".repeat(79)}\n\n`))
