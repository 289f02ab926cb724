/** Where the reference explains a name, so that guides can link to it wherever it stands as code. */
import type { Module } from "./declarations.ts"
import { anchorOf, pathOf } from "./pages.ts"

/** `EventStore.append` is the service's operation rather than an export of the module: it stands for both. */
const namesOf = (module: Module): ReadonlyArray<readonly [name: string, place: string]> =>
  module.exports.flatMap(({ name, members }) => {
    const place = (anchor: string) => `/${pathOf(module)}.html#${anchor}`
    return [
      [`${module.name}.${name}`, place(anchorOf(name))] as const,
      ...members.map((member) => [`${module.name}.${member.name}`, place(anchorOf(name, member.name))] as const)
    ]
  })

export const places = (modules: ReadonlyArray<Module>): Readonly<Record<string, string>> =>
  Object.fromEntries([
    ...modules.map((module) => [module.name, `/${pathOf(module)}.html`] as const),
    ...modules.flatMap(namesOf)
  ])
