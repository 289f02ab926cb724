/** Packs this package and installs it, as its users do. */
import { Schema } from "effect"
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { root, run } from "./run.ts"

const Versions = Schema.Record(Schema.String, Schema.String)

/** The parts of a `package.json` that matter here. */
export const Manifest = Schema.fromJsonString(
  Schema.Struct({
    name: Schema.String,
    files: Schema.Array(Schema.String),
    scripts: Versions,
    engines: Versions,
    exports: Schema.Record(Schema.String, Schema.Json),
    peerDependencies: Versions,
    devDependencies: Versions
  })
)

const Lock = Schema.fromJsonString(
  Schema.Struct({ lockfileVersion: Schema.Int, packages: Schema.Record(Schema.String, Schema.Json) })
)

/** The `package.json` of this repository. */
export const manifest = Schema.decodeSync(Manifest)(await readFile(join(root, "package.json"), "utf8"))

const isNotCopied = new Set([".git", ".strata", "coverage", "dist", "node_modules"])

/**
 * Makes the tarball that would be published, in `directory`, and returns its path.
 *
 * It is made from a copy that npm builds first, so the `dist` of the repository stays as it is. The copy lies inside the
 * repository to find its `node_modules`.
 */
export const pack = async (directory: string): Promise<string> => {
  await mkdir(join(root, ".strata"), { recursive: true })
  const copy = await mkdtemp(join(root, ".strata", "package-"))
  try {
    for (const entry of await readdir(root)) {
      if (!isNotCopied.has(entry)) await cp(join(root, entry), join(copy, entry), { recursive: true })
    }
    // What an earlier build has left behind is not published.
    await mkdir(join(copy, "dist"))
    await writeFile(join(copy, "dist", "stale.js"), "")
    await run("npm", ["pack", "--pack-destination", directory], { cwd: copy })
  } finally {
    await rm(copy, { recursive: true })
  }
  const [tarball, ...others] = (await readdir(directory)).filter((file) => file.endsWith(".tgz"))
  if (tarball === undefined || others.length > 0) throw new Error(`not one tarball in ${directory}`)
  return join(directory, tarball)
}

/**
 * Installs a tarball of this package, and some of the packages that this repository uses in the same versions, in an
 * empty directory outside the repository.
 *
 * With the lock file of the repository, and what npm has cached when it installed that, npm needs no network.
 */
export const install = async (directory: string, tarball: string, packages: ReadonlyArray<string>): Promise<void> => {
  const versions = packages.map((name) => [name, manifest.devDependencies[name]])
  const dependencies = { ...Object.fromEntries(versions), [manifest.name]: `file:${tarball}` }
  await writeFile(join(directory, "package.json"), JSON.stringify({ private: true, type: "module", dependencies }))

  const lock = Schema.decodeSync(Lock)(await readFile(join(root, "package-lock.json"), "utf8"))
  // npm would install an optional peer that is in the lock file.
  const without = Object.keys(manifest.peerDependencies).filter((name) => !packages.includes(name))
  const locked = Object.entries(lock.packages).filter(([path]) => !without.includes(path.replace("node_modules/", "")))
  await writeFile(
    join(directory, "package-lock.json"),
    JSON.stringify({ ...lock, packages: { ...Object.fromEntries(locked), "": {} } })
  )

  const flags = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
  await run("npm", ["install", ...flags], { cwd: directory })
}

/** A new directory outside the repository. */
export const temporaryDirectory = (): Promise<string> => mkdtemp(join(tmpdir(), "strata-test-"))
