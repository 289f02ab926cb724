/** The public modules of the package, from declarations that are made for it. */
import { execFileSync } from "node:child_process"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { type EntryPoint, type Module, modules } from "./declarations.ts"

const entryPoints = async (root: string): Promise<ReadonlyArray<EntryPoint>> => {
  const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8"))
  return Object.keys(exports).flatMap((name) => {
    const types: unknown = exports[name].types
    const path = name.replace(/^\.\/?/, "")
    return typeof types === "string" ? [{ path, file: types.replace("./dist/", "") }] : []
  })
}

/** Writes the declarations into a directory, and reads them. */
export const publicModules = async (root: string, declarations: string): Promise<ReadonlyArray<Module>> => {
  const tsc = join(root, "node_modules/typescript/bin/tsc")
  execFileSync(process.execPath, [tsc, "-p", join(root, "src"), "--emitDeclarationOnly", "--outDir", declarations], {
    stdio: "inherit"
  })
  return modules({ declarations, sources: join(root, "src") }, await entryPoints(root))
}
