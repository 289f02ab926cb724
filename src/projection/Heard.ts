/**
 * Whether processes live, as a process finds out that runs no projection: it looks at their beats again where their clocks
 * leave a doubt.
 *
 * **Details**
 *
 * A beat has the time of the process that says it. Where that is the time of some moments ago, the process lives. Where it is
 * long ago, or still to come, either the process has died or the clocks differ: then only its next beat tells, or that there is
 * none. What was heard is kept with the store, so that a process that looks again and again does not wait.
 */
import { Clock, Effect } from "effect"
import { DurableStateStore } from "../DurableStateStore.ts"
import { realMillis, realSleep } from "../internal/RealTime.ts"
import { type Beat, beatId, recordsAt } from "./Records.ts"

/** Where the clocks say that a process has been silent for so many of its beats, or is as far ahead, there is a doubt. */
const mostSilentBeats = 5

/** A process of which so many beats have not been heard has died, whatever the clocks say. */
const mostMissedBeats = 3

/** The longest time between two looks at a beat. */
const longestPauseMillis = 500

/** Where beats are rarer than that, so long a wait must do, and the clocks decide. */
const longestWaitMillis = 5_000

interface Heard {
  readonly beat: number
  /** When this beat was heard first. */
  readonly sinceMillis: number
  /** Whether the beats since the one that was heard before have filled the time. */
  readonly isSteady: boolean
}

const heardBy = new WeakMap<DurableStateStore["Service"], ReadonlyMap<string, Heard>>()

const isSilentByClock = (now: number, { at, every }: Beat) => now - at >= mostSilentBeats * every

const isDoubtful = (now: number, beat: Beat) =>
  isSilentByClock(now, beat) || beat.at - now >= mostSilentBeats * beat.every

/** What is known of a beat, with what was heard before it. */
const hear = (before: Heard | undefined, { beat, every }: Beat, millis: number): Heard => {
  if (before?.beat === beat) return before
  const isSteady = before !== undefined && millis - before.sinceMillis < (beat - before.beat + mostMissedBeats) * every
  return { beat, sinceMillis: millis, isSteady }
}

/** Whether it is silent, where that is known. */
const silenceOf = (heard: Heard, { every }: Beat, millis: number): boolean | undefined => {
  if (millis - heard.sinceMillis >= mostMissedBeats * every) return true
  return heard.isSteady ? false : undefined
}

const beatsOf = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  const { beat } = yield* recordsAt(ids.map(beatId))
  const all = yield* Effect.forEach(ids, (id) =>
    Effect.map(beat.read(beatId(id)), ({ value }) => ({ id, beat: value }))
  )
  // One that has just come has not said anything yet.
  return all.filter(({ beat }) => beat.beat > 0)
})

/**
 * What these processes have said last, and whether they are silent. Where `mayWait` is false it is told at once, if need be by
 * the clocks.
 */
export const hearAll = Effect.fnUntraced(function* (ids: ReadonlyArray<string>, mayWait: boolean) {
  const store = yield* DurableStateStore
  const begun = yield* realMillis
  while (true) {
    const beats = yield* beatsOf(ids)
    const millis = yield* realMillis
    const now = yield* Clock.currentTimeMillis
    const before = heardBy.get(store)
    const heard = beats.map(({ beat, id }) => ({ id, beat, heard: hear(before?.get(id), beat, millis) }))
    heardBy.set(store, new Map(heard.map(({ heard, id }) => [id, heard])))
    const all = heard.map(({ beat, heard, id }) => ({
      id,
      beat,
      isSilent: isDoubtful(now, beat) ? silenceOf(heard, beat, millis) : false
    }))
    const open = all.filter(({ isSilent }) => isSilent === undefined)
    if (!mayWait || open.length === 0 || millis - begun >= longestWaitMillis) {
      return all.map(({ beat, id, isSilent }) => ({ id, beat, isSilent: isSilent ?? isSilentByClock(now, beat) }))
    }
    const shortest = Math.min(...open.map(({ beat }) => beat.every))
    yield* realSleep(Math.min(shortest / 2, longestPauseMillis))
  }
})
