import type { Member } from "../Records.ts"
/**
 * Which process runs which shard: the rule. All shards of all projections are divided at once, so that as many projections
 * as processes, of one shard each, do not all run in one of them.
 *
 * **Details**
 *
 * - Each shard has one process, if any process offers its projection.
 * - No process could give a shard to another one, or to another one by way of others, and still have more than that one. So where
 *   all processes offer the same, no two differ by more than one shard.
 * - A shard moves only where that is needed for this. Where all processes offer the same, no other division moves fewer.
 * - Equal members give equal divisions, in whatever order they come.
 */
import { fnv1a } from "../Shards.ts"

/** A projection that a process offers: how many shards it has there, and which of them the process runs. */
interface Offered {
  readonly shards: number
  readonly own: Set<number>
}

/** A process, with the number of shards that it runs. */
interface Process {
  readonly id: string
  readonly offers: ReadonlyMap<string, Offered>
  load: number
}

const ownOf = ({ offers }: Process, name: string): number => offers.get(name)?.own.size ?? 0

const give = (process: Process, name: string, shard: number) => {
  process.offers.get(name)?.own.add(shard)
  process.load++
}

/** The processes as they are, without shards that are not there and without second owners of a shard. */
const processesOf = (members: ReadonlyArray<Member>): ReadonlyArray<Process> => {
  const owned = new Set<string>()
  const isFree = (name: string, shard: number) => {
    const key = `${shard} ${name}`
    const isNew = !owned.has(key)
    owned.add(key)
    return isNew
  }
  return members
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .map(({ id, offers }) => {
      const process: Process = {
        id,
        offers: new Map(offers.map(({ name, shards }) => [name, { shards, own: new Set() }])),
        load: 0
      }
      for (const { name, own, shards } of offers) {
        for (const shard of own) if (shard < shards && isFree(name, shard)) give(process, name, shard)
      }
      return process
    })
}

/** Gives each shard without a process to the one that has the fewest. */
const fill = (processes: ReadonlyArray<Process>) => {
  const counts = new Map<string, number>()
  for (const { offers } of processes) {
    for (const [name, { shards }] of offers) counts.set(name, Math.max(shards, counts.get(name) ?? 0))
  }
  for (const [name, count] of [...counts].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const owned = new Set(processes.flatMap(({ offers }) => [...(offers.get(name)?.own ?? [])]))
    for (let shard = 0; shard < count; shard++) {
      if (owned.has(shard)) continue
      const [process] = processes
        .filter(({ offers }) => shard < (offers.get(name)?.shards ?? 0))
        .toSorted(
          (a, b) =>
            a.load - b.load ||
            ownOf(a, name) - ownOf(b, name) ||
            // Else the first process would have the first shard of everything.
            fnv1a(`${a.id} ${name} ${shard}`) - fnv1a(`${b.id} ${name} ${shard}`)
        )
      if (process !== undefined) give(process, name, shard)
    }
  }
}

interface Unit {
  readonly name: string
  readonly shard: number
}

/** The shard that `from` can best give to `to`: of the projection of which it has the most more than `to`. */
const unitFor = (from: Process, to: Process): Unit | undefined => {
  let best: Unit | undefined
  let most = Number.NEGATIVE_INFINITY
  for (const [name, { own }] of from.offers) {
    const there = to.offers.get(name)
    if (there === undefined) continue
    const more = own.size - there.own.size
    if (more < most || (more === most && best !== undefined && best.name < name)) continue
    const shard = [...own].findLast((shard) => shard < there.shards)
    if (shard === undefined) continue
    best = { name, shard }
    most = more
  }
  return best
}

const canGive = (from: Process, to: Process): boolean => {
  for (const [name, { own, shards }] of from.offers) {
    const there = to.offers.get(name)
    if (there === undefined || own.size === 0) continue
    if (there.shards >= shards || [...own].some((shard) => shard < there.shards)) return true
  }
  return false
}

/** The shortest way on which a process can give a shard to one with at least two fewer: to the one with the fewest of these. */
const wayFrom = (start: Process, processes: ReadonlyArray<Process>): ReadonlyArray<Process> | undefined => {
  const before = new Map<Process, Process | undefined>([[start, undefined]])
  let last: Process | undefined
  // A Map is gone through in the order of its entries, those included that are added meanwhile.
  for (const from of before.keys()) {
    for (const to of processes) {
      if (before.has(to) || !canGive(from, to)) continue
      before.set(to, from)
      if (to.load <= start.load - 2 && (last === undefined || to.load < last.load)) last = to
    }
  }
  if (last === undefined) return undefined
  const way: Array<Process> = []
  for (let at: Process | undefined = last; at !== undefined; at = before.get(at)) way.unshift(at)
  return way
}

const moveAlong = (way: ReadonlyArray<Process>) => {
  way.slice(1).forEach((to, index) => {
    const from = way[index]
    const unit = from && unitFor(from, to)
    if (from === undefined || unit === undefined) return
    from.offers.get(unit.name)?.own.delete(unit.shard)
    from.load--
    give(to, unit.name, unit.shard)
  })
}

/** Moves shards, one at a time, from processes with many to those with few. */
const level = (processes: ReadonlyArray<Process>) => {
  const byLoad = () => processes.toSorted((a, b) => b.load - a.load)
  const nextWay = () => {
    for (const start of byLoad()) {
      const way = wayFrom(start, processes)
      if (way !== undefined) return way
    }
    return undefined
  }
  for (let way = nextWay(); way !== undefined; way = nextWay()) moveAlong(way)
}

/** Divides all shards anew. The members say which ones they have run so far: they keep these as far as the rule lets them. */
export const divide = (members: ReadonlyArray<Member>): ReadonlyArray<Member> => {
  const processes = processesOf(members)
  fill(processes)
  level(processes)
  return processes.map(({ id, offers }) => ({
    id,
    offers: [...offers]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, { own, shards }]) => ({ name, shards, own: [...own].sort((a, b) => a - b) }))
  }))
}
