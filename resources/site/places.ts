/** Where the reference explains a name, so that pages can link to it wherever it stands as code. */
import type { Module } from "./declarations.ts"
import { anchorOf, pathOf } from "./pages.ts"

interface Place {
  readonly module: string
  readonly name: string
  readonly link: string
}

/** An operation of a service is called by the name of its module, too: `EventStore.append`. */
const placesIn = (module: Module): ReadonlyArray<Place> =>
  module.exports.flatMap(({ name, members }) => {
    const place = (name: string, anchor: string) => ({
      module: module.name,
      name,
      link: `/${pathOf(module)}.html#${anchor}`
    })
    return [place(name, anchorOf(name)), ...members.map((member) => place(member.name, anchorOf(name, member.name)))]
  })

/** A name that can be told from a word and from a name of another library. */
const isTelling = (name: string): boolean => /[a-z][A-Z]/.test(name)

/** The link of each name: with its module, and alone where only one module has it. */
export const places = (modules: ReadonlyArray<Module>): Readonly<Record<string, string>> => {
  const all = modules.flatMap(placesIn)
  const alone = [...Map.groupBy(all, ({ name }) => name)].flatMap(([name, [place, ...others]]) =>
    place !== undefined && others.length === 0 && isTelling(name) ? [[name, place.link] as const] : []
  )
  return Object.fromEntries([
    ...alone,
    ...all.map(({ module, name, link }) => [`${module}.${name}`, link] as const),
    ...modules.map((module) => [module.name, `/${pathOf(module)}.html`] as const)
  ])
}
