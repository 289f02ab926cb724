/**
 * Rows by key, as of the last commit, and beside them the writes of each open transaction: a reader sees the newest write of
 * its own transaction, and no write of another one before the commit.
 */
/** One transaction, or one savepoint of it: writes are kept by level, so that a savepoint can be undone. */
export interface Level {
  readonly outer: Level | undefined
  /** The tables written at this level. */
  readonly written: Set<Merge>
}

/** What a level needs of a table at its end, for rows of any type. */
export interface Merge {
  /** Hands the level's writes to the level around it, or commits them if there is none. */
  readonly merge: (level: Level) => void
  /** Forgets the level's writes, as it is rolled back. */
  readonly drop: (level: Level) => void
}

/**
 * A row with its identity: an update keeps the identity, and a row inserted in the place of a deleted one gets another. A
 * transaction that waited for the deleted row does not find the new one: Postgres follows the updates of a row, not its key.
 */
export interface Entry<Row> {
  readonly identity: object
  readonly row: Row
}

/** An index of a table: finds the committed rows of a group. */
interface Index<Row> {
  readonly groupOf: (row: Row) => string
  readonly keys: Map<string, Set<string>>
}

/** Notes that the row of a key has become another one, or none. */
const moveBetween = <Row>(
  { groupOf, keys }: Index<Row>,
  key: string,
  before: Row | undefined,
  after: Row | undefined
) => {
  const from = before === undefined ? undefined : groupOf(before)
  const to = after === undefined ? undefined : groupOf(after)
  if (from === to) return
  if (from !== undefined) {
    const group = keys.get(from)
    group?.delete(key)
    if (group?.size === 0) keys.delete(from)
  }
  if (to === undefined) return
  const group = keys.get(to)
  if (group === undefined) keys.set(to, new Set([key]))
  else group.add(key)
}

export class Table<Row> implements Merge {
  readonly name: string
  /** How many transactions have committed a write to it. */
  commits = 0
  private readonly committed = new Map<string, Entry<Row>>()
  // `undefined` is a deletion.
  private readonly pending = new Map<Level, Map<string, Entry<Row> | undefined>>()

  private readonly index: Index<Row> | undefined

  /** A table whose rows are found by their group as well, if `groupOf` says of which group each is. */
  constructor(name: string, groupOf?: (row: Row) => string) {
    this.name = name
    this.index = groupOf === undefined ? undefined : { groupOf, keys: new Map() }
  }

  get(level: Level, key: string): Entry<Row> | undefined {
    for (let at: Level | undefined = level; at !== undefined; at = at.outer) {
      const writes = this.pending.get(at)
      if (writes?.has(key)) return writes.get(key)
    }
    return this.committed.get(key)
  }

  /** The row as of the last commit. */
  committedRow(key: string): Row | undefined {
    return this.committed.get(key)?.row
  }

  /** Whether the transaction or savepoint, or one around it, has written this row. */
  isWritten(level: Level, key: string): boolean {
    for (let at: Level | undefined = level; at !== undefined; at = at.outer) {
      if (this.pending.get(at)?.has(key)) return true
    }
    return false
  }

  /** Every visible row, or each of a group, in no particular order. */
  entries(level: Level, group?: string): Array<Entry<Row>> {
    const entries: Array<Entry<Row>> = []
    for (const key of this.keys(level, group)) {
      const entry = this.get(level, key)
      if (entry !== undefined && (group === undefined || this.index?.groupOf(entry.row) === group)) entries.push(entry)
    }
    return entries
  }

  /** The same with their keys. */
  keyedEntries(level: Level): Array<{ readonly key: string; readonly row: Row }> {
    const entries: Array<{ readonly key: string; readonly row: Row }> = []
    for (const key of this.keys(level)) {
      const entry = this.get(level, key)
      if (entry !== undefined) entries.push({ key, row: entry.row })
    }
    return entries
  }

  /** The key of every row that is visible, or of each of the group, and of some others. */
  private keys(level: Level, group?: string): Set<string> {
    const keys = new Set(group === undefined ? this.committed.keys() : this.index?.keys.get(group))
    for (let at: Level | undefined = level; at !== undefined; at = at.outer) {
      for (const key of this.pending.get(at)?.keys() ?? []) keys.add(key)
    }
    return keys
  }

  /** Writes a row, or deletes it with `undefined`. The writer holds the row's lock. */
  set(level: Level, key: string, row: Row | undefined): void {
    const identity = this.get(level, key)?.identity ?? {}
    this.put(level, key, row === undefined ? undefined : { identity, row })
  }

  merge(level: Level): void {
    if (level.outer === undefined) this.commits++
    for (const [key, entry] of this.pending.get(level) ?? []) {
      if (level.outer !== undefined) this.put(level.outer, key, entry)
      else this.commit(key, entry)
    }
    this.pending.delete(level)
  }

  private commit(key: string, entry: Entry<Row> | undefined): void {
    if (this.index !== undefined) moveBetween(this.index, key, this.committed.get(key)?.row, entry?.row)
    if (entry === undefined) this.committed.delete(key)
    else this.committed.set(key, entry)
  }

  drop(level: Level): void {
    this.pending.delete(level)
  }

  private put(level: Level, key: string, entry: Entry<Row> | undefined): void {
    let writes = this.pending.get(level)
    if (writes === undefined) {
      writes = new Map()
      this.pending.set(level, writes)
      level.written.add(this)
    }
    writes.set(key, entry)
  }
}
