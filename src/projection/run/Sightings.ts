/** What a process has seen of others: whose beat stands still, and for how long. It has no clock of its own. */

/** A process whose beat has stood still for so many beats, of its own or of the one that looks, has died. */
const mostSilentBeats = 3

/** What a process says of itself. */
interface Sign {
  readonly beat: number
  /** How often it beats, in milliseconds. */
  readonly every: number
}

interface Sighting {
  readonly beat: number
  readonly silentMillis: number
  /** For how long it may be silent. */
  readonly mostMillis: number
}

export const makeSightings = () => {
  let seen = new Map<string, Sighting>()
  let next = new Map<string, Sighting>()
  return {
    /** Notes what is there at a beat of this process, which beats as often as that. */
    see: (id: string, { beat, every }: Sign, ownEvery: number): void => {
      const last = seen.get(id)
      const silentMillis = last?.beat === beat ? last.silentMillis + ownEvery : 0
      next.set(id, { beat, silentMillis, mostMillis: mostSilentBeats * Math.max(every, ownEvery) })
    },
    /** Ends a beat: forgets all that were not seen at it. */
    finish: (): void => {
      seen = next
      next = new Map()
    },
    isAlive: (id: string, { beat }: Sign): boolean => {
      const last = seen.get(id)
      return last === undefined || last.beat !== beat || last.silentMillis < last.mostMillis
    }
  }
}
